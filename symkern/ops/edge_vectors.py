"""Vectors along edges, differentiable in positions and cell."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from symkern import _library as _library
from symkern._autograd import differentiable, fake
from symkern._check import check_reverse_mode, check_tensor
from symkern._reference import by_reference, compute
from symkern.neighbors import Neighbors, check_neighbors
from symkern.ops.edge_order import sender_order


def edge_vectors(positions: Tensor, nb: Neighbors, cell: Tensor | None = None) -> Tensor:
    """v_e = r_j - r_i + shift_e @ cell for every edge (sender j, receiver i); ASE's D with i the receiver.

    Linear in `positions` and `cell`, hence differentiable to any order. Sums run in a fixed order: gradients are
    deterministic.

    Args:
        positions: (N, 3) float32 or float64, Å.
        nb: graph of these atoms, see `neighbor_list`.
        cell: (3, 3) or (B, 3, 3), Å, dtype of `positions`; needed where shifts are not zero.

    Returns:
        (E, 3) Å; padding edges are zero.

    Raises:
        TypeError: `positions` is not a tensor, or `nb` not a graph.
        RuntimeError: forward-mode differentiation.
        ValueError: shapes, dtypes or devices that do not fit; a graph with shifts but no `cell`.
    """
    check_tensor("positions", positions)
    check_neighbors(nb)
    check_reverse_mode("edge_vectors", positions, cell)
    if cell is None and nb.cell_shifts is not None:
        raise ValueError("cell must be given: the graph was built with a cell, and its edges have shifts")
    if by_reference():
        return compute(reference, positions, nb, cell)
    needs_grad = torch.is_grad_enabled() and (positions.requires_grad or (cell is not None and cell.requires_grad))
    order, start = nb._by_sender if needs_grad and positions.requires_grad else (None, None)
    batch = nb.batch if cell is not None and cell.dim() == 3 else None
    shifts = None if cell is None else nb.shifts
    result: Tensor = torch.ops.symkern.edge_vectors.default(
        positions, cell, nb.edge_index, shifts, nb.row_ptr, nb.ptr, batch, order, start
    )
    return result


def reference(positions: Tensor, nb: Neighbors, cell: Tensor | None = None) -> Tensor:
    """The same by indexing, in torch operations."""
    sender, receiver = nb.edge_index
    vectors = positions[sender] - positions[receiver]
    if cell is not None:
        rows = cell if cell.dim() == 2 else cell[nb.batch[receiver]]
        vectors = vectors + (nb.shifts.to(cell).unsqueeze(1) @ rows).squeeze(1)
    return vectors


@fake("edge_vectors")
def _(
    positions: Tensor | None,
    cell: Tensor | None,
    edge_index: Tensor,
    shifts: Tensor | None,
    row_ptr: Tensor,
    ptr: Tensor,
    batch: Tensor | None,
    sender_order: Tensor | None,
    sender_ptr: Tensor | None,
) -> Tensor:
    like = positions if positions is not None else cell
    assert like is not None
    return like.new_empty((edge_index.shape[1], 3))


@fake("edge_vectors_backward")
def _(
    grad: Tensor,
    edge_index: Tensor,
    shifts: Tensor | None,
    row_ptr: Tensor,
    ptr: Tensor,
    batch: Tensor | None,
    sender_order: Tensor | None,
    sender_ptr: Tensor | None,
    need_positions: bool,
    need_cell: bool,
    cell_per_structure: bool,
) -> tuple[Tensor, Tensor]:
    cells = (ptr.shape[0] - 1 if cell_per_structure else 1) if need_cell else 0
    return grad.new_empty((row_ptr.shape[0] - 1 if need_positions else 0, 3)), grad.new_empty((cells, 3, 3))


# The graph arguments that both ops share, in the order of the schema.
_GRAPH = slice(2, 9)


def _setup_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    cell = inputs[1]
    ctx.per_structure = cell is not None and cell.dim() == 3
    ctx.save_for_backward(*inputs[_GRAPH])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    edge_index, shifts, row_ptr, ptr, batch, order, start = ctx.saved_tensors
    need_positions, need_cell = ctx.needs_input_grad[:2]
    if need_positions and order is None:
        order, start = sender_order(edge_index, row_ptr)
    positions, cell = torch.ops.symkern.edge_vectors_backward.default(
        grad, edge_index, shifts, row_ptr, ptr, batch, order, start, need_positions, need_cell, ctx.per_structure
    )
    if not ctx.per_structure and need_cell:
        cell = cell[0]
    return (positions if need_positions else None, cell if need_cell else None, *[None] * 7)


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.need_positions, ctx.need_cell, ctx.per_structure = inputs[8:]
    ctx.save_for_backward(*inputs[1:8])


def _double_backward(ctx: Any, positions: Tensor | None, cell: Tensor | None) -> tuple[Tensor | None, ...]:
    # the adjoint of the adjoint is the op itself
    if not ctx.need_cell:
        cell = None
    elif cell is not None and not ctx.per_structure:
        cell = cell[0]
    if not ctx.need_positions:
        positions = None
    grad = None
    if positions is not None or cell is not None:
        grad = torch.ops.symkern.edge_vectors.default(positions, cell, *ctx.saved_tensors)
    return (grad, *[None] * 10)


differentiable("edge_vectors", _backward, _setup_forward)
differentiable("edge_vectors_backward", _double_backward, _setup_backward)
