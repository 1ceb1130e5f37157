"""Lengths of vectors, with a defined gradient where the length is zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from symkern import _library as _library
from symkern._autograd import differentiable, fake, gradient_of
from symkern._check import check_reverse_mode, check_tensor
from symkern._reference import by_reference, compute


def safe_norm(vec: Tensor) -> Tensor:
    """Euclidean norm over the last axis; zero gradient (of any order) at zero.

    ``torch.linalg.norm`` has NaN second derivatives at zero, which self loops and coincident atoms hit.

    Args:
        vec: (..., D) float32 or float64.

    Returns:
        (...) norms in the unit of `vec`.

    Raises:
        TypeError: `vec` is not a tensor.
        RuntimeError: forward-mode differentiation.
        ValueError: `vec` is not a float32 or float64 tensor with at least one axis.
    """
    check_tensor("vec", vec)
    check_reverse_mode("safe_norm", vec)
    if by_reference() and vec.dim():
        return compute(reference, vec)
    if vec.dim() == 2:
        norm: Tensor = torch.ops.symkern.safe_norm.default(vec)
        return norm
    if vec.dim() == 0:
        raise ValueError(f"vec must have shape (..., D), got {tuple(vec.shape)}")
    flat: Tensor = torch.ops.symkern.safe_norm.default(vec.reshape(vec.shape[:-1].numel(), vec.shape[-1]))
    return flat.reshape(vec.shape[:-1])


def reference(vec: Tensor) -> Tensor:
    """The same in torch operations, differentiable to any order."""
    square = vec.square().sum(-1)
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1).sqrt(), 0)


def _unit(vec: Tensor) -> tuple[Tensor, Tensor]:
    """v / |v| and 1 / |v|, both zero at zero."""
    d = reference(vec).unsqueeze(-1)
    positive = d > 0
    inverse = torch.where(positive, 1 / torch.where(positive, d, 1), 0)
    return vec * inverse, inverse


def _double_backward_reference(direction: Tensor, grad: Tensor, vec: Tensor) -> tuple[Tensor, Tensor]:
    unit, inverse = _unit(vec)
    along = (direction * unit).sum(-1, keepdim=True)
    return along.squeeze(-1), grad.unsqueeze(-1) * inverse * (direction - along * unit)


@fake("safe_norm")
def _(vec: Tensor) -> Tensor:
    return vec.new_empty(vec.shape[0])


@fake("safe_norm_backward")
def _(grad: Tensor, vec: Tensor) -> Tensor:
    return torch.empty_like(vec, memory_format=torch.contiguous_format)


@fake("safe_norm_double_backward")
def _(direction: Tensor, grad: Tensor, vec: Tensor) -> tuple[Tensor, Tensor]:
    return vec.new_empty(vec.shape[0]), torch.empty_like(vec, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> Tensor:
    (vec,) = ctx.saved_tensors
    return torch.ops.symkern.safe_norm_backward.default(grad, vec)  # type: ignore[no-any-return]


def _double_backward(ctx: Any, direction: Tensor) -> tuple[Tensor, Tensor]:
    grad, vec = ctx.saved_tensors
    return torch.ops.symkern.safe_norm_double_backward.default(direction, grad, vec)  # type: ignore[no-any-return]


def _triple_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    return gradient_of(_double_backward_reference, ctx.saved_tensors, grads)


differentiable("safe_norm", _backward, _save)
differentiable("safe_norm_backward", _double_backward, _save)
differentiable("safe_norm_double_backward", _triple_backward, _save)
