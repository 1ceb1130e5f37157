"""Features of edges for directional networks: spherical Bessel functions times spherical harmonics."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from symkern import _library as _library
from symkern._autograd import differentiable, fake, gradient_of
from symkern._check import check_reverse_mode, check_tensor
from symkern._reference import by_reference, compute
from symkern.ops.edge_angles import adjoint_of_gradient
from symkern.ops.spherical_basis import _bessel, _legendre, _norms, bessel_roots, bessel_values

MAX_SPHERICAL, MAX_RADIAL = 8, 8


def spherical_features(
    local: Tensor, tau: Tensor, cutoff: float, num_spherical: int, num_radial: int
) -> tuple[Tensor, Tensor]:
    """The two kinds of features that ComENet gives to edges, from `local_coordinates`.

    With d, theta and phi the spherical coordinates of the local vector (`local_angles`), l < L = `num_spherical`,
    n < R = `num_radial`, column (l^2 + l + m) R + n of the first and column l R + n of the second are

        c_ln j_l(z_ln d / cutoff) Y_lm(theta, phi),        c_ln j_l(z_ln d / cutoff) Y_l0(tau)

    where z_ln is the n-th positive root of the spherical Bessel function j_l, c_ln = sqrt(2 / cutoff^3) /
    |j_(l+1)(z_ln)|, and Y_lm are the real orthonormal spherical harmonics without Condon-Shortley phase: cos(m phi) for
    m > 0, sin(|m| phi) for m < 0. There is no envelope: beyond the cutoff the formula goes on.

    The first kind is smooth everywhere, at d = 0 and at the poles too. The second is not where d = 0: it is the limit
    there, which for l > 0 is zero, with zero gradient.

    Source: Wang et al. (ComENet), NeurIPS 2022, section 3; constants as in Gasteiger et al. (DimeNet), ICLR 2020,
    eq. 7. The code of both leaves out cutoff^(-3/2).

    Args:
        local: (E, 3) local vectors in Å, float32 or float64.
        tau: (E,) radians, dtype of `local`.
        cutoff: Å.
        num_spherical: L, 1 to 8.
        num_radial: R, 1 to 8.

    Returns:
        (E, L^2 R) and (E, L R) in the dtype of `local`, in Å^(-3/2). Differentiable to any order.

    Raises:
        TypeError: `local` or `tau` is not a tensor.
        RuntimeError: forward-mode differentiation.
        ValueError: shapes, dtypes or devices that do not fit; sizes out of range; a cutoff that is not positive and
            finite.
    """
    check_tensor("local", local)
    check_tensor("tau", tau)
    check_reverse_mode("spherical_features", local, tau)
    if not 0 < cutoff < math.inf:
        raise ValueError(f"cutoff must be positive and finite, got {cutoff}")
    for name, value, most in (("num_spherical", num_spherical, MAX_SPHERICAL), ("num_radial", num_radial, MAX_RADIAL)):
        if not 1 <= value <= most:
            raise ValueError(f"{name} must be in 1 .. {most}, got {value}")
    if by_reference():
        return compute(reference, local, tau, cutoff, num_spherical, num_radial)
    result: tuple[Tensor, Tensor] = torch.ops.symkern.spherical_features.default(
        local, tau, *_constants(float(cutoff), num_spherical, num_radial, local.dtype, local.device), float(cutoff)
    )
    return result


def _harmonic_factors(num_spherical: int) -> Tensor:
    """(L, L) by l and m >= 0: sqrt((2 l + 1) / 4 pi (l - m)! / (l + m)!), times sqrt(2) for m > 0."""
    factors = torch.zeros((num_spherical, num_spherical), dtype=torch.float64)
    for order in range(num_spherical):
        for m in range(order + 1):
            ratio = math.factorial(order - m) / math.factorial(order + m)
            factors[order, m] = math.sqrt((2 if m else 1) * (2 * order + 1) / (4 * math.pi) * ratio)
    return factors


def _piecewise(roots: Tensor, norms: Tensor, degree: int) -> Tensor:
    """norms g_l(z_ln^2 x^2), g_l(y^2) = j_l(y) / y^l, for x in [0, 1] as polynomials of t in [-1, 1].

    In x^2, on intervals that are equal in x and in which z_ln x grows by at most 1: the derivatives there are known,
    g_l' = -g_(l+1) / 2. (intervals, degree + 1, L R): the highest power first, columns filled up to a multiple of 8.
    """
    intervals = math.ceil(float(roots.max()))
    cell = torch.arange(intervals, dtype=torch.float64)[:, None]
    middle, half = ((cell + 0.5) ** 2 + 0.25) / intervals**2, (cell + 0.5) / intervals**2
    columns = []
    for order, (root, norm) in enumerate(zip(roots, norms, strict=True)):
        y = middle.sqrt() * root
        values, step = bessel_values(y, order + degree), norm / y**order
        powers = [step * values[..., order]]
        for k in range(1, degree + 1):
            step = step * (-0.5 / k) * half * root**2 / y
            powers.append(step * values[..., order + k])
        columns.append(torch.stack(powers[::-1], 1))
    table = torch.cat(columns, -1)
    return torch.nn.functional.pad(table, (0, -table.shape[-1] % 8))


@lru_cache(maxsize=64)
def _tabulated(
    cutoff: float, num_spherical: int, num_radial: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with torch.no_grad():
        roots = bessel_roots(num_spherical, num_radial)
        wave = roots / cutoff
        norms = _norms(roots) * cutoff**-1.5 * wave ** torch.arange(num_spherical, dtype=torch.float64)[:, None]
        # more than rounding needs, because two derivatives cost digits
        table = _piecewise(roots, norms, 16 if dtype == torch.float64 else 9)
        constants = torch.stack([wave, norms]), table, _harmonic_factors(num_spherical), _legendre(num_spherical)
        radial, table, harmonic, legendre = (t.to(device) for t in constants)
        return radial, table, harmonic, legendre


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _constants(
    cutoff: float, num_spherical: int, num_radial: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Wave numbers and norms of radial functions, their table, norms of harmonics, recurrence of Legendre polynomials.

    All fp64, in which the op computes whatever `dtype` is; that decides how exact the table has to be.
    """
    return _tabulated(cutoff, num_spherical, num_radial, dtype, device)


# ---- reference -------------------------------------------------------------------------------------------------------


def reference(local: Tensor, tau: Tensor, cutoff: float, num_spherical: int, num_radial: int) -> tuple[Tensor, Tensor]:
    """The same in torch operations from the Bessel functions themselves, differentiable to any order."""
    radial, _, harmonic, _ = _tabulated(float(cutoff), num_spherical, num_radial, local.dtype, local.device)
    return _formula(local, tau, radial, harmonic)


def _formula(local: Tensor, tau: Tensor, radial: Tensor, harmonic: Tensor) -> tuple[Tensor, Tensor]:
    count = radial.shape[1]
    wave, norms = radial.to(local)
    square = local.square().sum(-1)
    away = square > 0
    d = torch.where(away, torch.where(away, square, 1).sqrt(), 0)
    w = square[:, None, None] * wave.square()
    far = w > 0.25
    y = torch.where(far, d[:, None, None] * wave, 1)
    values = _bessel(y, count - 1)  # (E, L, R, orders)
    cosine = torch.cos(tau)
    polynomials = [torch.ones_like(cosine), cosine]
    for order in range(2, count):
        polynomials.append(((2 * order - 1) * cosine * polynomials[-1] - (order - 1) * polynomials[-2]) / order)
    first, second = [], []
    for order in range(count):
        # j_l(y) / y^l, by its series where y is small
        term = torch.ones_like(w[:, order]) / math.prod(range(1, 2 * order + 2, 2))
        series = term
        for k in range(1, 10):
            term = term * w[:, order] * (-0.5 / (k * (2 * order + 2 * k + 1)))
            series = series + term
        waves = norms[order] * torch.where(far[:, order], values[:, order, :, order] / y[:, order] ** order, series)
        first.append(waves[:, None, :] * _solid_harmonics(order, local, square, harmonic)[:, :, None])
        power = square ** (order // 2) * (d if order % 2 else 1)
        turned = power * polynomials[order] * harmonic[order, 0].to(local)
        second.append(waves * turned[:, None])
    return torch.cat(first, 1).flatten(1), torch.cat(second, 1)


def _solid_harmonics(order: int, local: Tensor, square: Tensor, factors: Tensor) -> Tensor:
    """r^l Y_lm for m = -l .. l, from the explicit polynomials in z of the derivatives of Legendre's."""
    x, y, z = local.unbind(-1)
    cosines, sines = [torch.ones_like(x)], [torch.zeros_like(x)]
    for _ in range(order):
        cosines, sines = [*cosines, x * cosines[-1] - y * sines[-1]], [*sines, x * sines[-1] + y * cosines[-1]]
    columns: dict[int, Tensor] = {}
    for m in range(order + 1):
        # d^m P_l / dz^m with P_l = 2^-l sum_k (-1)^k binom(l, k) binom(2 l - 2 k, l) z^(l - 2 k) r^(2 k)
        polynomial = torch.zeros_like(z)
        for k in range((order - m) // 2 + 1):
            power = order - 2 * k
            weight = (-1) ** k * math.comb(order, k) * math.comb(2 * order - 2 * k, order) * math.perm(power, m)
            polynomial = polynomial + weight / 2**order * z ** (power - m) * square**k
        scaled = factors[order, m].to(local) * polynomial
        columns[m] = scaled * cosines[m]
        if m:
            columns[-m] = scaled * sines[m]
    return torch.stack([columns[m] for m in range(-order, order + 1)], 1)


# ---- torch -----------------------------------------------------------------------------------------------------------


def _like(local: Tensor, radial: Tensor) -> tuple[Tensor, Tensor]:
    edges, (_, spherical, count) = local.shape[0], radial.shape
    return local.new_empty((edges, spherical**2 * count)), local.new_empty((edges, spherical * count))


@fake("spherical_features")
def _(local: Tensor, tau: Tensor, radial: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _like(local, radial)


@fake("spherical_features_backward")
def _(grad_first: Tensor, grad_second: Tensor, local: Tensor, tau: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return local.new_empty(local.shape), local.new_empty(tau.shape)


@fake("spherical_features_double_backward")
def _(
    towards_local: Tensor,
    towards_tau: Tensor,
    grad_first: Tensor,
    grad_second: Tensor,
    local: Tensor,
    tau: Tensor,
    radial: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (*_like(local, radial), local.new_empty(local.shape), local.new_empty(tau.shape))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.cutoff = inputs[-1]
    ctx.save_for_backward(*inputs[:-1])


def _backward(ctx: Any, grad_first: Tensor, grad_second: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.symkern.spherical_features_backward.default(
        grad_first, grad_second, *ctx.saved_tensors, ctx.cutoff
    )
    return (*grads, *[None] * 5)


def _double_backward(ctx: Any, towards_local: Tensor, towards_tau: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.symkern.spherical_features_double_backward.default(
        towards_local, towards_tau, *ctx.saved_tensors, ctx.cutoff
    )
    return (*grads, *[None] * 5)


def _triple_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    towards_local, towards_tau, first, second, local, tau, radial, _, harmonic, _ = ctx.saved_tensors
    split = first.shape[1]

    def joined(local: Tensor, tau: Tensor) -> Tensor:
        return torch.cat(_formula(local, tau, radial, harmonic), 1)

    def formula(h: Tensor, h_tau: Tensor, grad: Tensor, local: Tensor, tau: Tensor) -> tuple[Tensor, ...]:
        by_grad, *rest = adjoint_of_gradient(joined, (local, tau), grad, (h, h_tau))
        return (by_grad[:, :split], by_grad[:, split:], *rest)

    inputs = (towards_local, towards_tau, torch.cat([first, second], 1), local, tau)
    by_h, by_h_tau, by_grad, by_local, by_tau = gradient_of(formula, inputs, grads)
    by_first, by_second = (None, None) if by_grad is None else (by_grad[:, :split], by_grad[:, split:])
    return (by_h, by_h_tau, by_first, by_second, by_local, by_tau, *[None] * 5)


differentiable("spherical_features", _backward, _save)
differentiable("spherical_features_backward", _double_backward, _save)
differentiable("spherical_features_double_backward", _triple_backward, _save)
