"""Radial bases times a cutoff function, differentiable in distances and parameters."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from symkern import _library as _library
from symkern._autograd import differentiable, fake, gradient_of
from symkern._reference import by_reference, compute

_KINDS = ("gaussian", "bessel", "expnorm")
_ENVELOPES = ("cosine", "polynomial", "none")
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_DECAY = 5.0  # expnorm: exp(-5 d / cutoff)


def radial_basis(
    d: Tensor,
    cutoff: float,
    num_basis: int,
    *,
    kind: str = "gaussian",
    envelope: str = "cosine",
    centers: Tensor | None = None,
    gamma: Tensor | float | None = None,
    frequencies: Tensor | None = None,
    exponent: int = 6,
) -> Tensor:
    """Distances expanded in K = `num_basis` functions, each times an envelope that ends at the cutoff: u(d) b_k(d).

    - "gaussian": b_k(d) = exp(-gamma (d - centers_k)^2). Default centers are linspace(0, cutoff, K) in Å, and
      gamma = 0.5 / spacing^2 in Å^-2, with the spacing of the default centers (the cutoff if K = 1).
    - "bessel": b_k(d) = sqrt(2 / cutoff) sin(frequencies_k d) / d, which at d = 0 is sqrt(2 / cutoff) frequencies_k.
      Default frequencies are k pi / cutoff for k = 1 .. K, in Å^-1.
    - "expnorm": b_k(d) = exp(-gamma (t - centers_k)^2) with t = exp(-5 d / cutoff). `centers` are in units of t (mu in
      the papers) and `gamma` is their beta; by default linspace(exp(-5), 1, K) and (2 (1 - exp(-5)) / K)^-2.

    The envelope u is 0 from the cutoff on, except for "none", which is 1 everywhere. With x = d / cutoff:

    - "cosine": (1 + cos(pi x)) / 2;
    - "polynomial": 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2) with p = `exponent`.

    Differentiable to any order in `d` and in parameters that are tensors. fp16 and bf16 are computed in fp32 and
    rounded once. Sums run in a fixed order, so gradients are deterministic. In fp32, values below e^-87 become 0.

    Sources: gaussian: Schütt et al. (SchNet), J. Chem. Phys. 148, 241722 (2018). cosine: Behler, J. Chem. Phys. 134,
    074106 (2011). bessel and polynomial: Gasteiger et al. (DimeNet), ICLR 2020; its envelope is u(d) / d, and PyG's
    `exponent` is p - 1. expnorm: Unke and Meuwly (PhysNet), J. Chem. Theory Comput. 15, 3678 (2019), and Thölke and De
    Fabritiis (TorchMD-NET), ICLR 2022.

    Args:
        d: (...,) distances in Å, not negative; float32, float64, float16 or bfloat16.
        cutoff: Å.
        num_basis: K.
        kind: "gaussian", "bessel" or "expnorm".
        envelope: "cosine", "polynomial" or "none".
        centers: (K,), for gaussian and expnorm. Parameters have the dtype of `d`; for fp16 and bf16 also float32.
        gamma: a number or a tensor () or (K,), for gaussian and expnorm.
        frequencies: (K,), for bessel.
        exponent: p of the polynomial envelope, 1 to 1000.

    Returns:
        (..., K) in the dtype of `d`.

    Raises:
        ValueError: `d` negative or not finite, on the CPU (on CUDA its row becomes NaN: an error would have to wait for
            the device); a cutoff that is not positive and finite; `num_basis` or `exponent` out of range; an unknown
            kind or envelope; a parameter of another shape, dtype or device, or one that the kind does not use.
    """
    settings = _check(d, cutoff, num_basis, kind, envelope, exponent)
    p, q = _parameters(d, cutoff, num_basis, kind, centers, gamma, frequencies)
    if by_reference():
        return compute(_formula, d.to(p.dtype), p, q, *settings).to(d.dtype)
    flat = d if d.dim() == 1 else d.reshape(-1)
    out: Tensor = torch.ops.symkern.radial_basis.default(flat.to(p.dtype), p, q, *settings)
    return (out if d.dim() == 1 else out.reshape(*d.shape, num_basis)).to(d.dtype)


def reference(
    d: Tensor,
    cutoff: float,
    num_basis: int,
    *,
    kind: str = "gaussian",
    envelope: str = "cosine",
    centers: Tensor | None = None,
    gamma: Tensor | float | None = None,
    frequencies: Tensor | None = None,
    exponent: int = 6,
) -> Tensor:
    """The same in torch operations, differentiable to any order."""
    settings = _check(d, cutoff, num_basis, kind, envelope, exponent)
    p, q = _parameters(d, cutoff, num_basis, kind, centers, gamma, frequencies)
    return _formula(d.to(p.dtype), p, q, *settings).to(d.dtype)


def _check(
    d: Tensor, cutoff: float, num_basis: int, kind: str, envelope: str, exponent: int
) -> tuple[float, int, int, int]:
    if d.dtype not in _DTYPES:
        raise ValueError(f"d must be float32, float64, float16 or bfloat16, got {_name(d.dtype)}")
    if not 0 < cutoff < math.inf:
        raise ValueError(f"cutoff must be positive and finite, got {cutoff}")
    if num_basis < 1:
        raise ValueError(f"num_basis must be at least 1, got {num_basis}")
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(_KINDS)}, got {kind!r}")
    if envelope not in _ENVELOPES:
        raise ValueError(f"envelope must be one of {', '.join(_ENVELOPES)}, got {envelope!r}")
    if not 1 <= exponent <= 1000:
        raise ValueError(f"exponent must be in 1 .. 1000, got {exponent}")
    return float(cutoff), _KINDS.index(kind), _ENVELOPES.index(envelope), exponent


def _parameters(
    d: Tensor,
    cutoff: float,
    num_basis: int,
    kind: str,
    centers: Tensor | None,
    gamma: Tensor | float | None,
    frequencies: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Both (K,) in the dtype to compute in: centers and gamma, or frequencies and None."""
    unused = {"frequencies": frequencies} if kind != "bessel" else {"centers": centers, "gamma": gamma}
    for name, value in unused.items():
        if value is not None:
            raise ValueError(
                f"{name} must be None for kind {kind!r}, which does not use it, got {type(value).__name__}"
            )
    if kind == "bessel":
        step = math.pi / cutoff
        return _given(d, num_basis, "frequencies", frequencies, (step, step * num_basis)), None
    if kind == "gaussian":
        spacing = cutoff / max(num_basis - 1, 1)
        ends, width = (0.0, cutoff), 0.5 / spacing**2
    else:
        ends = (math.exp(-_DECAY), 1.0)
        width = (2 / num_basis * (1 - ends[0])) ** -2
    if isinstance(gamma, Tensor):
        wide = gamma.expand(num_basis) if gamma.dim() == 0 else gamma
    else:
        number = width if gamma is None else float(gamma)
        if not math.isfinite(number):
            raise ValueError(f"gamma must be finite, got {gamma}")
        wide = torch.full((num_basis,), number, dtype=_work(d), device=d.device)
    p = _given(d, num_basis, "centers", centers, ends)
    return p, _given(d, num_basis, "gamma", wide, ends)


def defaults(cutoff: float, num_basis: int, kind: str) -> dict[str, Tensor]:
    """The parameters that `radial_basis` takes where none are given, (K,) float64: where learning starts."""
    p, q = _parameters(torch.zeros(0, dtype=torch.float64), cutoff, num_basis, kind, None, None, None)
    return {"frequencies": p} if q is None else {"centers": p, "gamma": q}


def _given(d: Tensor, num_basis: int, name: str, value: Tensor | None, ends: tuple[float, float]) -> Tensor:
    """The parameter, or `num_basis` numbers from end to end, rounded once."""
    work = _work(d)
    if value is None:
        return torch.linspace(*ends, num_basis, dtype=torch.float64, device=d.device).to(work)
    if value.shape != (num_basis,):
        raise ValueError(f"{name} must have shape (K,) with K = num_basis = {num_basis}, got {tuple(value.shape)}")
    if value.dtype not in (work, d.dtype):
        raise ValueError(f"{name} must be {_name(d.dtype)}, got {_name(value.dtype)}")
    if value.device != d.device:
        raise ValueError(f"{name} must be on the device of d ({d.device}), got {value.device}")
    return value.to(work)


def _work(d: Tensor) -> torch.dtype:
    return torch.float64 if d.dtype == torch.float64 else torch.float32


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---- the formula in torch --------------------------------------------------------------------------------------------


def _formula(d: Tensor, p: Tensor, q: Tensor | None, cutoff: float, kind: int, envelope: int, exponent: int) -> Tensor:
    x = d.unsqueeze(-1)
    if q is None:
        basis = math.sqrt(2 / cutoff) * p * _sinc(p * x)
    else:
        t = x if _KINDS[kind] == "gaussian" else torch.exp(-_DECAY / cutoff * x)
        basis = torch.exp(-q * (t - p).square())
    return basis if _ENVELOPES[envelope] == "none" else basis * _envelope(x, cutoff, envelope, exponent)


def _envelope(d: Tensor, cutoff: float, envelope: int, exponent: int) -> Tensor:
    inside = d < cutoff
    x = torch.where(inside, d, 0) / cutoff
    if _ENVELOPES[envelope] == "cosine":
        u = 0.5 * (torch.cos(math.pi * x) + 1)
    else:
        # (1 - x)^3 times the first terms of the series of (1 - x)^-3: does not cancel near the cutoff
        u = torch.zeros_like(x)
        for j in range(exponent, 0, -1):
            u = u * x + j * (j + 1) / 2
        u = u * ((cutoff - d) / cutoff) ** 3
    return torch.where(inside, u, 0)


def _sinc(x: Tensor) -> Tensor:
    """sin(x) / x, by its series for |x| < 1, so that derivatives of any order hold at 0."""
    square = x.square()
    near = square < 1
    small = torch.where(near, square, 0)
    series = torch.ones_like(x)
    for k in range(10, 0, -1):
        series = 1 - small * series / (2 * k * (2 * k + 1))
    away = torch.where(near, 1, x)
    return torch.where(near, series, torch.sin(away) / away)


def _double_backward_reference(
    directions: tuple[Tensor | None, ...], grad: Tensor, d: Tensor, p: Tensor, q: Tensor | None, *settings: Any
) -> tuple[Tensor, ...]:
    """By differentiating the formula twice: whoever differentiates this gets every order."""
    points = [d, p] if q is None else [d, p, q]
    first = torch.autograd.grad(_formula(d, p, q, *settings), points, grad, create_graph=True)
    chosen = [(f, h) for f, h in zip(first, directions, strict=False) if h is not None]
    return torch.autograd.grad(
        [f for f, _ in chosen],
        [grad, *points],
        [h for _, h in chosen],
        create_graph=True,
        materialize_grads=True,
    )


# ---- tracing and gradients -------------------------------------------------------------------------------------------


@fake("radial_basis")
def _(d: Tensor, p: Tensor, q: Tensor | None, *settings: Any) -> Tensor:
    return d.new_empty((d.shape[0], p.shape[0]))


def _sizes(d: Tensor, p: Tensor, need_d: bool, need_p: bool, need_q: bool) -> tuple[Tensor, Tensor, Tensor]:
    def room(size: Any, needed: bool) -> Tensor:
        return d.new_empty(size if needed else 0)

    return room(d.shape[0], need_d), room(p.shape[0], need_p), room(p.shape[0], need_q)


@fake("radial_basis_backward")
def _(grad: Tensor, d: Tensor, p: Tensor, q: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    return _sizes(d, p, rest[4], rest[5], rest[6] and q is not None)


@fake("radial_basis_double_backward")
def _(
    along_d: Tensor | None,
    along_p: Tensor | None,
    along_q: Tensor | None,
    grad: Tensor,
    d: Tensor,
    p: Tensor,
    q: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, ...]:
    value = d.new_empty((d.shape[0] if rest[4] else 0, p.shape[0]))
    return value, *_sizes(d, p, rest[5], rest[6], rest[7] and q is not None)


def _setup_forward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.settings = inputs[3:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad[:3]
    found = torch.ops.symkern.radial_basis_backward.default(grad, *ctx.saved_tensors, *ctx.settings, *needs)
    return (*_wanted(found, needs), *[None] * 4)


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.settings, ctx.made = inputs[4:8], inputs[8:]


def _double_backward(ctx: Any, *directions: Tensor | None) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad[:4]
    found = torch.ops.symkern.radial_basis_double_backward.default(
        *_wanted(directions, ctx.made), *ctx.saved_tensors, *ctx.settings, *needs
    )
    return (*_wanted(found, needs), *[None] * 7)


def _setup_double_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:7])
    ctx.settings, ctx.made = inputs[7:11], inputs[11:]


def _triple_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    given = [i for i, t in enumerate(saved) if t is not None]

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        inputs: list[Any] = [None] * 7
        for i, t in zip(given, tensors, strict=True):
            inputs[i] = t
        made = _double_backward_reference(tuple(inputs[:3]), *inputs[3:], *ctx.settings)
        return made if len(made) == 4 else (*made, made[-1].new_zeros(0))

    found: list[Tensor | None] = [None] * 7
    for i, g in zip(given, gradient_of(run, [saved[i] for i in given], _wanted(grads, ctx.made)), strict=True):
        found[i] = g
    return (*found, *[None] * 8)


def _wanted(tensors: Any, needs: Any) -> tuple[Tensor | None, ...]:
    return tuple(t if need else None for t, need in zip(tensors, needs, strict=True))


differentiable("radial_basis", _backward, _setup_forward)
differentiable("radial_basis_backward", _double_backward, _setup_backward)
differentiable("radial_basis_double_backward", _triple_backward, _setup_double_backward)
