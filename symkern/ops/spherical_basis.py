"""Distances and angles of triplets in spherical Bessel functions times Legendre polynomials, as in DimeNet."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from symkern import _library as _library
from symkern._autograd import differentiable, fake, gradient_of
from symkern._reference import by_reference, compute
from symkern.ops.edge_angles import adjoint_of_gradient
from symkern.ops.edge_order import sender_order
from symkern.ops.triplets import Triplets


def spherical_basis(
    d: Tensor,
    angle: Tensor,
    tri: Triplets,
    cutoff: float,
    num_spherical: int,
    num_radial: int,
    *,
    exponent: int = 6,
) -> Tensor:
    """Spherical basis of every triplet k->j->i from the length of k->j and the angle.

    Column l N + n, for l < L = `num_spherical` and n < N = `num_radial`, is

        u(x) / x  c_ln j_l(z_ln x)  Y_l0(angle)    with x = d_kj / cutoff,

    where z_ln is the n-th positive root of the spherical Bessel function j_l, c_ln = sqrt(2) / |j_(l+1)(z_ln)|,
    Y_l0 = sqrt((2 l + 1) / 4 pi) P_l(cos(angle)), and u is the polynomial envelope of `radial_basis`. From the cutoff
    on all is zero. At zero distance, where l = 0 has no limit, the basis and its derivatives are zero.

    Source: Gasteiger et al. (DimeNet), ICLR 2020, and its code, which divides by x and leaves out the paper's constant
    cutoff^(-3/2); equal to ``SphericalBasisLayer`` of PyG with ``envelope_exponent = exponent - 1``. Mind the angle
    there: see `edge_angles`.

    Differentiable to any order in `d` and `angle`; gradients are summed in a fixed order.

    Args:
        d: (E,) lengths of the edges in Å, not negative; float32 or float64.
        angle: (T,) radians, dtype of `d`.
        tri: triplets of the same graph.
        cutoff: Å.
        num_spherical: L.
        num_radial: N.
        exponent: p of the envelope, 1 to 1000.

    Returns:
        (T, L N) in the dtype of `d`; padding is zero.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit; a cutoff that is not positive and finite; sizes or an
            `exponent` out of range; on the CPU also `d` negative or not finite, or `angle` not finite (on CUDA their
            rows become NaN: an error would have to wait for the device).
    """
    if not 0 < cutoff < math.inf:
        raise ValueError(f"cutoff must be positive and finite, got {cutoff}")
    for name, value in (("num_spherical", num_spherical), ("num_radial", num_radial)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if d.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"d must be float32 or float64, got {str(d.dtype).removeprefix('torch.')}")
    if by_reference():
        return compute(reference, d, angle, tri, cutoff, num_spherical, num_radial, exponent=exponent)
    table, recurrence = _constants(num_spherical, num_radial, d.dtype, d.device)
    recording = torch.is_grad_enabled() and (d.requires_grad or angle.requires_grad)
    order, start = tri._by_kj if recording else (None, None)
    out: Tensor = torch.ops.symkern.spherical_basis.default(
        d, angle, tri.index, tri.ptr, order, start, table, recurrence, float(cutoff), num_radial, exponent
    )
    return out


# ---- constants -------------------------------------------------------------------------------------------------------


def bessel_values(y: Tensor, top: int) -> Tensor:
    """Spherical Bessel functions j_0 .. j_top of y >= 0, (..., top + 1); no gradient.

    Each order from the stable side: upwards where y is larger than the order, otherwise from the order below by the
    ratio j_l / j_(l-1), which is a continued fraction.
    """
    ratio, ratios = torch.zeros_like(y), {}
    for order in range(top + 40, 0, -1):
        ratio = 1 / ((2 * order + 1) / y - ratio)
        ratios[order] = ratio
    safe = torch.where(y > 0, y, 1)
    found = [torch.where(y > 0, torch.sin(safe) / safe, 1)]
    for order in range(1, top + 1):
        below = torch.cos(y) / safe if order == 1 else found[-2]  # j_(-1) = cos y / y
        up = (2 * order - 1) / safe * found[-1] - below
        found.append(torch.where(y > order, up, found[-1] * ratios[order]))
    return torch.stack(found, -1)


def bessel_roots(num_spherical: int, num_radial: int) -> Tensor:
    """(L, N) float64: the first N positive roots of j_0 .. j_(L-1), by bisection between those of the order below."""
    roots = math.pi * torch.arange(1, num_radial + num_spherical, dtype=torch.float64)
    rows = [roots[:num_radial]]
    for order in range(1, num_spherical):
        low, high = roots[:-1].clone(), roots[1:].clone()
        sign = torch.sign(bessel_values(low, order)[:, order])
        for _ in range(60):
            middle = (low + high) / 2
            left = torch.sign(bessel_values(middle, order)[:, order]) == sign
            low, high = torch.where(left, middle, low), torch.where(left, high, middle)
        roots = (low + high) / 2
        rows.append(roots[:num_radial])
    return torch.stack(rows)


def _norms(roots: Tensor) -> Tensor:
    """c_ln = sqrt(2) / |j_(l+1)(z_ln)|, (L, N)."""
    orders = roots.shape[0]
    values = bessel_values(roots, orders)
    following = torch.arange(1, orders + 1).reshape(-1, 1, 1).expand(*roots.shape, 1)
    return math.sqrt(2) / values.gather(-1, following).squeeze(-1).abs()


def _slopes(values: Tensor) -> Tensor:
    """j_l' = (l j_(l-1) - (l + 1) j_(l+1)) / (2 l + 1) for all orders but the last: nothing cancels at small y."""
    order = torch.arange(values.shape[-1] - 1, device=values.device, dtype=values.dtype)
    below = torch.nn.functional.pad(values[..., :-2], (1, 0))
    return (order * below - (order + 1) * values[..., 1:]) / (2 * order + 1)


def _piecewise(roots: Tensor, degree: int) -> Tensor:
    """c_ln j_l(z_ln x) for x in [0, 1] as polynomials of t in [-1, 1] on intervals in which z_ln x grows by at most 1.

    (intervals, degree + 1, columns): the highest power first, columns filled up with zeros to a multiple of 16.
    """
    intervals = math.ceil(float(roots.max()))
    middles = (torch.arange(intervals, dtype=torch.float64)[:, None] + 0.5) / intervals
    columns = []
    for order, (root, norm) in enumerate(zip(roots, _norms(roots), strict=True)):
        # Taylor series at the middle of each interval
        values, step = bessel_values(middles * root, order + degree + 1), norm
        powers = [step * values[..., order]]
        for k in range(1, degree + 1):
            values, step = _slopes(values), step * root / (2 * intervals * k)
            powers.append(step * values[..., order])
        columns.append(torch.stack(powers[::-1], 1))
    table = torch.cat(columns, -1)
    return torch.nn.functional.pad(table, (0, -table.shape[-1] % 16))


def _legendre(num_spherical: int) -> Tensor:
    """(L, 2): p_l and q_l of Y_(l+1) = p_l cos(angle) Y_l - q_l Y_(l-1)."""
    order = torch.arange(num_spherical, dtype=torch.float64)
    first = torch.sqrt((2 * order + 1) * (2 * order + 3)) / (order + 1)
    second = order / (order + 1) * torch.sqrt((2 * order + 3) / (2 * order - 1).clamp(min=1))
    return torch.stack([first, second], 1)


@lru_cache(maxsize=64)
def _tabulated(num_spherical: int, num_radial: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        # far more than rounding needs, because two derivatives cost digits
        degree = 15 if dtype == torch.float64 else 10
        table = _piecewise(bessel_roots(num_spherical, num_radial), degree)
        return table.to(device, dtype), _legendre(num_spherical).to(device, dtype)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _constants(num_spherical: int, num_radial: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Table of the radial functions and recurrence of the Legendre polynomials."""
    return _tabulated(num_spherical, num_radial, dtype, device)


# ---- reference -------------------------------------------------------------------------------------------------------


def _bessel(y: Tensor, top: int) -> Tensor:
    values: Tensor = _Bessel.apply(y, top)  # type: ignore[no-untyped-call]
    return values


class _Bessel(torch.autograd.Function):
    """`bessel_values` with its derivatives, to any order."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, top: int) -> Tensor:
        ctx.save_for_backward(y)
        ctx.top = top
        return bessel_values(y, top)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return (grad * _slopes(_bessel(y, ctx.top + 1))).sum(-1), None


def reference(
    d: Tensor,
    angle: Tensor,
    tri: Triplets,
    cutoff: float,
    num_spherical: int,
    num_radial: int,
    *,
    exponent: int = 6,
) -> Tensor:
    """The same in torch operations from the Bessel functions themselves, differentiable to any order."""
    return _formula(d, angle, tri.index, tri.ptr, cutoff, num_spherical, num_radial, exponent)


def _formula(
    d: Tensor,
    angle: Tensor,
    index: Tensor,
    ptr: Tensor,
    cutoff: float,
    num_spherical: int,
    num_radial: int,
    exponent: int,
) -> Tensor:
    roots = bessel_roots(num_spherical, num_radial)
    norms, roots = _norms(roots).to(d), roots.to(d)
    x = d / cutoff
    inside = (x < 1) & (x >= 1e-9)
    x = torch.where(inside, x, 0.5)
    p, y = exponent, 1 - x
    # y^3 times the first p terms of (1 - x)^-3: DimeNet's 1 - (p+1)(p+2)/2 x^p + ... without its cancellation near 1
    series = sum(0.5 * (j + 1) * (j + 2) * x**j for j in range(p))
    envelope = torch.where(inside, y**3 * series / x, 0)
    values = _bessel(x[:, None, None] * roots, num_spherical - 1)  # (E, L, N, orders)
    radial = envelope[:, None, None] * norms * values.diagonal(dim1=1, dim2=3).transpose(1, 2)
    cosine = torch.cos(angle)
    legendre = [torch.ones_like(cosine), cosine]
    for order in range(2, num_spherical):
        legendre.append(((2 * order - 1) * cosine * legendre[-1] - (order - 1) * legendre[-2]) / order)
    scale = torch.sqrt((2 * torch.arange(num_spherical, dtype=torch.float64) + 1) / (4 * math.pi)).to(d)
    harmonics = torch.stack(legendre[:num_spherical], -1) * scale
    if not d.shape[0]:
        return (harmonics[:, :, None] * 0 * norms).flatten(1) + d.sum()
    real = torch.arange(index.shape[1], device=d.device) < ptr[-1]
    rows = radial[torch.where(real, index[0], 0)] * harmonics[:, :, None]
    return torch.where(real[:, None], rows.flatten(1), 0)


# ---- torch -----------------------------------------------------------------------------------------------------------


@fake("spherical_basis")
def _(d: Tensor, angle: Tensor, *rest: Any) -> Tensor:
    recurrence, num_radial = rest[5], rest[7]
    return d.new_empty((angle.shape[0], recurrence.shape[0] * num_radial))


@fake("spherical_basis_backward")
def _(grad: Tensor, d: Tensor, angle: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    need_d, need_angle = rest[-2:]
    return d.new_empty(d.shape[0] if need_d else 0), d.new_empty(angle.shape[0] if need_angle else 0)


@fake("spherical_basis_double_backward")
def _(
    towards_d: Tensor | None, towards_angle: Tensor | None, grad: Tensor, d: Tensor, angle: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return grad.new_empty(grad.shape), d.new_empty(d.shape), d.new_empty(angle.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensors = inputs[:-3]
    ctx.settings = inputs[-3:]  # cutoff, num_radial, exponent
    ctx.save_for_backward(*tensors)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _save(ctx, inputs[:-2], output)
    ctx.made = inputs[-2:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    d, angle, index, ptr, order, start, *constants = ctx.saved_tensors
    if order is None:
        order, start = sender_order(index, ptr)
    needs = ctx.needs_input_grad[:2]
    grads = torch.ops.symkern.spherical_basis_backward.default(
        grad, d, angle, index, ptr, order, start, *constants, *ctx.settings, *needs
    )
    return (*_wanted(grads, needs), *[None] * 9)


def _double_backward(ctx: Any, *towards: Tensor | None) -> tuple[Tensor | None, ...]:
    grads = torch.ops.symkern.spherical_basis_double_backward.default(
        *_wanted(towards, ctx.made), *ctx.saved_tensors, *ctx.settings
    )
    return (*grads, *[None] * 11)


def _wanted(tensors: Any, needs: Any) -> tuple[Tensor | None, ...]:
    return tuple(t if need else None for t, need in zip(tensors, needs, strict=True))


def _triple_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    towards_d, towards_angle, grad, d, angle, index, ptr, _, _, _, recurrence = ctx.saved_tensors
    cutoff, num_radial, exponent = ctx.settings
    directions = [h if h is not None else torch.zeros_like(x) for h, x in ((towards_d, d), (towards_angle, angle))]

    def basis(d: Tensor, angle: Tensor) -> Tensor:
        return _formula(d, angle, index, ptr, cutoff, recurrence.shape[0], num_radial, exponent)

    def second(h_d: Tensor, h_angle: Tensor, g: Tensor, d: Tensor, angle: Tensor) -> tuple[Tensor, ...]:
        return adjoint_of_gradient(basis, (d, angle), g, (h_d, h_angle))

    found = gradient_of(second, (*directions, grad, d, angle), grads)
    known = [g if h is not None else None for g, h in zip(found, (towards_d, towards_angle), strict=False)]
    return (*known, *found[2:], *[None] * 9)


differentiable("spherical_basis", _backward, _save)
differentiable("spherical_basis_backward", _double_backward, _save_backward)
differentiable("spherical_basis_double_backward", _triple_backward, _save)
