"""Orders of the edges of a graph: by sender, and the edge that runs the other way."""

from __future__ import annotations

import torch
from torch import Tensor

from symkern import _library as _library
from symkern._autograd import fake
from symkern._reference import by_reference


def sender_order(edge_index: Tensor, row_ptr: Tensor) -> tuple[Tensor, Tensor]:
    """(E,) the edges in order of their sender, stable, padding last; (N + 1,) where those of each sender begin."""
    if by_reference():
        return reference(edge_index, row_ptr)
    result: tuple[Tensor, Tensor] = torch.ops.symkern.sender_order.default(edge_index, row_ptr)
    return result


def reverse_edges(edge_index: Tensor, shifts: Tensor | None, row_ptr: Tensor, order: Tensor, ptr: Tensor) -> Tensor:
    """(E,) index of the edge from receiver to sender with the opposite shift, -1 where there is none.

    `order` and `ptr` are what `sender_order` returns.
    """
    if by_reference():
        return reference_reverse(edge_index, shifts, row_ptr)
    result: Tensor = torch.ops.symkern.reverse_edges.default(edge_index, shifts, row_ptr, order, ptr)
    return result


def reference(edge_index: Tensor, row_ptr: Tensor) -> tuple[Tensor, Tensor]:
    """`sender_order` in torch operations."""
    atoms = row_ptr.shape[0] - 1
    real = torch.arange(edge_index.shape[1], device=row_ptr.device) < row_ptr[-1]
    senders, order = torch.where(real, edge_index[0], atoms).sort(stable=True)
    return order, torch.searchsorted(senders, torch.arange(atoms + 1, device=row_ptr.device))


def reference_reverse(edge_index: Tensor, shifts: Tensor | None, row_ptr: Tensor) -> Tensor:
    """`reverse_edges` in Python; of edges that are repeated, the k-th from the end goes with the k-th."""
    real = int(row_ptr[-1])
    rows: list[list[int]] = edge_index.T[:real].tolist()
    offsets: list[list[int]] = [[0, 0, 0]] * real if shifts is None else shifts[:real].tolist()
    found: dict[tuple[int, ...], list[int]] = {}
    for e, ((sender, receiver), shift) in enumerate(zip(rows, offsets, strict=True)):
        found.setdefault((receiver, sender, *(-s for s in shift)), []).append(e)
    partners = []
    for (sender, receiver), shift in zip(rows, offsets, strict=True):
        left = found.get((sender, receiver, *shift))
        partners.append(left.pop() if left else -1)
    return edge_index.new_tensor(partners + [-1] * (edge_index.shape[1] - real))


@fake("sender_order")
def _(edge_index: Tensor, row_ptr: Tensor) -> tuple[Tensor, Tensor]:
    return edge_index.new_empty(edge_index.shape[1]), torch.empty_like(row_ptr)


@fake("reverse_edges")
def _(edge_index: Tensor, shifts: Tensor | None, row_ptr: Tensor, sender_order: Tensor, sender_ptr: Tensor) -> Tensor:
    return edge_index.new_empty(edge_index.shape[1])
