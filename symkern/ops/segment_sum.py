"""Sums and means over contiguous segments of rows, such as the edges of each atom or the atoms of each structure."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from symkern import _library as _library
from symkern._autograd import differentiable, fake
from symkern._reference import by_reference, compute


def segment_sum(values: Tensor, row_ptr: Tensor) -> Tensor:
    """out[n] = sum of values[row_ptr[n]] .. values[row_ptr[n + 1] - 1]; zero for empty segments.

    Linear, hence differentiable to any order. Sums run in a fixed order and in fp64, so results are the same bits for
    any number of threads, and gradients are deterministic.

    Args:
        values: (E, ...) float32, float64, float16 or bfloat16; the latter two are summed as float32. Rows from
            row_ptr[-1] on are padding: they contribute nothing and get zero gradient.
        row_ptr: (N + 1,) int64, rising from 0 to at most E, such as `Neighbors.row_ptr` or `Neighbors.ptr`.

    Returns:
        (N, ...) in the dtype of `values`.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit; on the CPU also a `row_ptr` that does not rise from 0 to
            at most E (on CUDA, where a check would have to wait for the device, segments end at E).
    """
    return _segments(values, row_ptr, False)


def segment_mean(values: Tensor, row_ptr: Tensor) -> Tensor:
    """The mean over each segment in place of the sum; zero for empty segments. See `segment_sum`."""
    return _segments(values, row_ptr, True)


def _segments(values: Tensor, row_ptr: Tensor, mean: bool) -> Tensor:
    if values.dim() < 1:
        raise ValueError(f"values must have shape (E, ...), got {tuple(values.shape)}")
    tail = values.shape[1:]
    rows = values.reshape(values.shape[0], tail.numel())
    wide = rows.float() if values.dtype in (torch.float16, torch.bfloat16) else rows
    if by_reference():
        flat = compute(reference_mean if mean else reference, wide, row_ptr)
    else:
        flat = torch.ops.symkern.segment_sum.default(wide, row_ptr, mean)
    return flat.reshape(flat.shape[0], *tail).to(values.dtype)


def reference(values: Tensor, row_ptr: Tensor) -> Tensor:
    """segment_sum in torch operations."""
    counts = row_ptr.diff()
    real = values[: int(row_ptr[-1])]
    owner = torch.repeat_interleave(torch.arange(len(counts), device=values.device), counts)
    return values.new_zeros((len(counts), *values.shape[1:])).index_add(0, owner, real)


def reference_mean(values: Tensor, row_ptr: Tensor) -> Tensor:
    """segment_mean in torch operations."""
    counts = row_ptr.diff().clamp(min=1).to(values.dtype)
    return reference(values, row_ptr) / counts.reshape(-1, *[1] * (values.dim() - 1))


@fake("segment_sum")
def _(values: Tensor, row_ptr: Tensor, mean: bool) -> Tensor:
    return values.new_empty((row_ptr.shape[0] - 1, values.shape[1]))


@fake("segment_expand")
def _(values: Tensor, row_ptr: Tensor, num_rows: int, mean: bool) -> Tensor:
    return values.new_empty((num_rows, values.shape[1]))


def _save_sum(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, row_ptr, ctx.mean = inputs
    ctx.num_rows = values.shape[0]
    ctx.save_for_backward(row_ptr)


def _expand(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (row_ptr,) = ctx.saved_tensors
    return torch.ops.symkern.segment_expand.default(grad, row_ptr, ctx.num_rows, ctx.mean), None, None


def _save_expand(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, row_ptr, _, ctx.mean = inputs
    ctx.save_for_backward(row_ptr)


def _sum(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (row_ptr,) = ctx.saved_tensors
    return torch.ops.symkern.segment_sum.default(grad, row_ptr, ctx.mean), None, None, None


differentiable("segment_sum", _expand, _save_sum)
differentiable("segment_expand", _sum, _save_expand)
