"""Angles between edges, with defined gradients where atoms are collinear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from symkern import _library as _library
from symkern._autograd import differentiable, fake, gradient_of
from symkern._reference import by_reference, compute
from symkern.ops.edge_order import sender_order
from symkern.ops.triplets import Triplets


def edge_angles(vec: Tensor, tri: Triplets) -> Tensor:
    """The bond angle at atom j of every triplet k->j->i, between r_i - r_j and r_k - r_j, from 0 to pi.

    atan2(|a x b|, a . b), which is exact near 0 and pi, where acos is not. Where the atoms are collinear to 8 ulp, or a
    vector is zero, the gradient of every order is zero, and the angle at a zero vector is 0. (The gradient has no limit
    there: its length stays 1 / |a|, its direction is undetermined.)

    PyG's DimeNetPlusPlus and the original code use pi minus this angle, the change of direction along k->j->i.

    Args:
        vec: (E, 3) vectors r_j - r_i of the edges j->i as `edge_vectors` makes them, float32 or float64.
        tri: triplets of the same graph.

    Returns:
        (T,) radians; padding is zero. Differentiable to any order; gradients are summed in a fixed order.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
    """
    if by_reference():
        return compute(reference, vec, tri)
    recording = torch.is_grad_enabled() and vec.requires_grad
    order, start = tri._by_kj if recording else (None, None)
    angles: Tensor = torch.ops.symkern.edge_angles.default(vec, tri.index, tri.ptr, order, start)
    return angles


def reference(vec: Tensor, tri: Triplets) -> Tensor:
    """The same in torch operations, differentiable to any order."""
    return _angles(vec, tri.index, tri.ptr)


def _angles(vec: Tensor, index: Tensor, ptr: Tensor) -> Tensor:
    real = torch.arange(index.shape[1], device=vec.device) < ptr[-1]
    index = torch.where(real, index, 0)
    if not vec.shape[0]:
        return vec.new_zeros(index.shape[1]) + vec.sum()
    a, b = -vec[index[1]], vec[index[0]]
    normal, cosine = torch.linalg.cross(a, b), (a * b).sum(-1)
    square, size = normal.square().sum(-1), (a.square().sum(-1) * b.square().sum(-1)).detach()
    noise = (2e-15 if vec.dtype == torch.float64 else 1e-6) ** 2
    plain = real & (square.detach() > noise * size)
    constant = torch.where(real, torch.atan2(square.sqrt(), cosine + 0), 0).detach()
    sine = torch.where(plain, square, 1).sqrt()
    return torch.where(plain, torch.atan2(sine, torch.where(plain, cosine, 1)), constant)


def adjoint_of_gradient(
    formula: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor, directions: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Gradients in `grad` and `inputs` of the gradient of `formula` along `directions`: a double backward by autograd.

    The last rung of a ladder differentiates this once more.
    """
    with torch.enable_grad():
        g, *points = (t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for t in (grad, *inputs))
        first = torch.autograd.grad(formula(*points), points, g, create_graph=True, materialize_grads=True)
        used = [(y, h) for y, h in zip(first, directions, strict=True) if y.requires_grad]
        ends, along = [y for y, _ in used], [h for _, h in used]
        return torch.autograd.grad(ends, (g, *points), along, create_graph=True, materialize_grads=True)


@fake("edge_angles")
def _(vec: Tensor, index: Tensor, ptr: Tensor, kj_order: Tensor | None, kj_ptr: Tensor | None) -> Tensor:
    return vec.new_empty(index.shape[1])


@fake("edge_angles_backward")
def _(grad: Tensor, vec: Tensor, index: Tensor, ptr: Tensor, kj_order: Tensor, kj_ptr: Tensor) -> Tensor:
    return vec.new_empty(vec.shape)


@fake("edge_angles_double_backward")
def _(
    direction: Tensor, grad: Tensor, vec: Tensor, index: Tensor, ptr: Tensor, kj_order: Tensor, kj_ptr: Tensor
) -> tuple[Tensor, Tensor]:
    return vec.new_empty(index.shape[1]), vec.new_empty(vec.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    vec, index, ptr, order, start = ctx.saved_tensors
    if order is None:
        order, start = sender_order(index, ptr)
    return torch.ops.symkern.edge_angles_backward.default(grad, vec, index, ptr, order, start), None, None, None, None


def _double_backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.symkern.edge_angles_double_backward.default(direction, *ctx.saved_tensors)
    return (*grads, None, None, None, None)


def _triple_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    direction, grad, vec, index, ptr, _, _ = ctx.saved_tensors

    def formula(*points: Tensor) -> tuple[Tensor, ...]:
        direction, grad, vec = points
        return adjoint_of_gradient(lambda v: _angles(v, index, ptr), (vec,), grad, (direction,))

    return (*gradient_of(formula, (direction, grad, vec), grads), None, None, None, None)


differentiable("edge_angles", _backward, _save)
differentiable("edge_angles_backward", _double_backward, _save)
differentiable("edge_angles_double_backward", _triple_backward, _save)
