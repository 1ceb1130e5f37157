"""Features of the atoms at the ends of edges, with gradients summed in a fixed order.

On the CPU plain indexing does that, and faster. On CUDA its gradient adds with atomics: in another order, hence to
other bits, at every run; there the sums are those of the segments that the graph knows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from symkern._reference import by_reference
from symkern.neighbors import Neighbors
from symkern.ops.segment_sum import segment_sum


def gather_senders(h: Tensor, nb: Neighbors) -> Tensor:
    """h_j for every edge j -> i: (N, F) to (E, F). Padding edges get some row; nothing may flow back through them."""
    if _plain(h):
        return h.index_select(0, nb.senders)  # without finding the order of the senders
    return gather(h, nb.senders, nb.sender_order, nb.sender_ptr)


def gather_receivers(h: Tensor, nb: Neighbors) -> Tensor:
    """h_i for every edge j -> i: (N, F) to (E, F). As `gather_senders`."""
    return h.index_select(0, nb.receivers) if _plain(h) else _expand(h, nb.row_ptr, nb.num_edges)


def gather_segments(h: Tensor, ptr: Tensor, rows: int) -> Tensor:
    """h_b for each of the `rows` of segment b, ptr[b] .. ptr[b + 1]: (B, F) to (rows, F)."""
    if _plain(h):
        return torch.repeat_interleave(h, ptr.diff(), dim=0, output_size=rows)
    return _expand(h, ptr, rows)


def _plain(h: Tensor) -> bool:
    return not h.is_cuda or not h.requires_grad or by_reference()


def _expand(h: Tensor, ptr: Tensor, rows: int) -> Tensor:
    out: Tensor = torch.ops.symkern.segment_expand.default(h, ptr, rows, False)
    return out


def gather(h: Tensor, index: Tensor, order: Tensor, ptr: Tensor) -> Tensor:
    """h[index], where ``index[order]`` is sorted and the value n stands at ``ptr[n] .. ptr[n + 1]`` of it."""
    if _plain(h):
        return h.index_select(0, index)
    out: Tensor = _Gather.apply(h, index, order, ptr)  # type: ignore[no-untyped-call]
    return out


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, index: Tensor, order: Tensor, ptr: Tensor) -> Tensor:
        ctx.save_for_backward(index, order, ptr)
        return h.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _Scatter.apply(grad, *ctx.saved_tensors), None, None, None  # type: ignore[no-untyped-call]


class _Scatter(torch.autograd.Function):
    """The transpose of `_Gather`: sums of the rows of equal index."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, order: Tensor, ptr: Tensor) -> Tensor:
        ctx.save_for_backward(index, order, ptr)
        return segment_sum(rows.index_select(0, order), ptr)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _Gather.apply(grad, *ctx.saved_tensors), None, None, None  # type: ignore[no-untyped-call]
