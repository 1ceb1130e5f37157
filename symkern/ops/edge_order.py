"""Orders of the edges of a graph: by sender, and the edge that runs the other way."""

from __future__ import annotations

import torch
from torch import Tensor

from symkern import _library as _library
from symkern._autograd import fake


def sender_order(edge_index: Tensor, row_ptr: Tensor) -> tuple[Tensor, Tensor]:
    """(E,) the edges in order of their sender, stable, padding last; (N + 1,) where those of each sender begin."""
    result: tuple[Tensor, Tensor] = torch.ops.symkern.sender_order.default(edge_index, row_ptr)
    return result


def reverse_edges(edge_index: Tensor, shifts: Tensor | None, row_ptr: Tensor, order: Tensor, ptr: Tensor) -> Tensor:
    """(E,) index of the edge from receiver to sender with the opposite shift, -1 where there is none.

    `order` and `ptr` are what `sender_order` returns.
    """
    result: Tensor = torch.ops.symkern.reverse_edges.default(edge_index, shifts, row_ptr, order, ptr)
    return result


@fake("sender_order")
def _(edge_index: Tensor, row_ptr: Tensor) -> tuple[Tensor, Tensor]:
    return edge_index.new_empty(edge_index.shape[1]), torch.empty_like(row_ptr)


@fake("reverse_edges")
def _(edge_index: Tensor, shifts: Tensor | None, row_ptr: Tensor, sender_order: Tensor, sender_ptr: Tensor) -> Tensor:
    return edge_index.new_empty(edge_index.shape[1])
