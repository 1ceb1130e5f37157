"""What every model does first: check its inputs and make sure there is a graph."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from symkern._check import check_tensor
from symkern.neighbors import Neighbors, check_neighbors
from symkern.ops.neighbor_list import neighbor_list


def graph_of(
    z: Tensor,
    pos: Tensor,
    batch: Tensor | None,
    cell: Tensor | None,
    pbc: Tensor | None,
    nb: Neighbors | None,
    cutoff: float,
    largest_z: int,
    dtype: torch.dtype,
) -> Neighbors:
    """`nb`, checked against the other arguments, or the neighbor list of the positions.

    Values of CUDA tensors are checked without waiting for the device: the error then surfaces at a later call.

    Raises:
        TypeError: an argument is not a tensor, or `nb` not a graph.
        ValueError: shapes or dtypes that do not fit; an atomic number outside 1 .. `largest_z`; a graph of other
            structures than `batch`, without the shifts of a cell, or known to be of a smaller cutoff, half or with
            self loops; and what `neighbor_list` raises.
    """
    check_atoms(z, pos, batch, largest_z, dtype)
    if nb is None:
        return neighbor_list(pos.detach(), cutoff, batch=batch, cell=None if cell is None else cell.detach(), pbc=pbc)
    check_neighbors(nb)
    if nb.num_nodes != len(z):
        raise ValueError(f"nb must be a graph of the {len(z)} atoms of z, got one of {nb.num_nodes}")
    if nb.cutoff is not None and nb.cutoff < cutoff < math.inf:
        raise ValueError(f"nb must be complete for the model's cutoff of {cutoff:g} Å, got a list for {nb.cutoff:g} Å")
    if not nb.full or nb.self_loops:
        raise ValueError("nb must hold each pair in both directions and no self loops: full=True, self_loops=False")
    if cell is not None and nb.cell_shifts is None:
        raise ValueError("nb must have the shifts of the edges where cell is given: it was built without a cell")
    if batch is not None:
        if batch.shape != z.shape:
            raise ValueError(f"batch must have shape (N,) with N = {len(z)} as z, got {tuple(batch.shape)}")
        _require(
            lambda: (nb.batch == batch).all(),
            batch,
            lambda: "nb must have the structures of batch, but its ptr says otherwise (from_edge_index: give batch=)",
        )
    elif nb.num_structures != 1:
        raise ValueError(f"batch must be given, nb.batch: nb holds {nb.num_structures} structures")
    return nb


def check_atoms(z: Tensor, pos: Tensor, batch: Tensor | None, largest_z: int, dtype: torch.dtype) -> None:
    """Raise TypeError or ValueError unless these are atoms that a model takes; see `graph_of`."""
    check_tensor("z", z)
    check_tensor("pos", pos)
    check_tensor("batch", batch, optional=True)
    if z.dtype != torch.int64 or z.dim() != 1:
        raise ValueError(f"z must be int64 of shape (N,), got {z.dtype} of shape {tuple(z.shape)}")
    if pos.shape != (len(z), 3):
        raise ValueError(f"pos must have shape (N, 3) with N = {len(z)} as z, got {tuple(pos.shape)}")
    if pos.dtype != dtype:
        raise ValueError(f"pos must be {dtype}, as the parameters are, got {pos.dtype}")
    _require(
        lambda: ((z >= 1) & (z <= largest_z)).all(),
        z,
        lambda: f"z must lie in 1 .. {largest_z}, the model's embedding, got {int(z.min())} .. {int(z.max())}",
    )


def complete_graph(z: Tensor, batch: Tensor | None, cell: Tensor | None = None, pbc: Tensor | None = None) -> Neighbors:
    """Every ordered pair of different atoms of each structure."""
    check_tensor("z", z)
    periodic = cell is not None and (pbc is None or bool(torch.as_tensor(pbc).any()))
    if periodic:
        raise ValueError("cutoff=None joins all atoms of a structure and knows no periodic images: give it a cutoff")
    # checks batch, and tells the structures apart
    atoms = Neighbors.from_edge_index(z.new_empty((2, 0), dtype=torch.int64), len(z), batch=batch)
    others = (atoms.ptr.diff() - 1)[atoms.batch]
    row_ptr = torch.cat([others.new_zeros(1), others.cumsum(0)])
    receivers = torch.repeat_interleave(torch.arange(len(z), device=z.device), others)
    senders = atoms.ptr[atoms.batch[receivers]] + torch.arange(len(receivers), device=z.device) - row_ptr[receivers]
    senders = senders + (senders >= receivers).to(senders.dtype)  # no atom sends to itself
    shifts = None if cell is None else senders.new_zeros((len(senders), 3), dtype=torch.int32)
    return Neighbors(torch.stack([senders, receivers]), row_ptr, atoms.ptr, shifts)


def _require(condition: object, values: Tensor, message: object) -> None:
    """Raise ValueError unless `condition` holds; on CUDA without waiting for the device."""
    if torch.compiler.is_compiling() or not values.numel():
        return
    holds = condition()  # type: ignore[operator]
    if values.is_cuda:
        torch._assert_async(
            holds, "symkern: z outside the model's embedding, nb of another batch, or a molecule of too many atoms"
        )
    elif not bool(holds):
        raise ValueError(message())  # type: ignore[operator]


def known_elements(elements: Sequence[int] | None, largest_z: int) -> Tensor:
    """(largest_z + 1,) bool: whether a model accepts each atomic number; None stands for all.

    Raises:
        ValueError: numbers that are not different or not in 1 .. `largest_z`, or none at all.
    """
    known = torch.zeros(largest_z + 1, dtype=torch.bool)
    numbers = list(range(1, largest_z + 1)) if elements is None else [int(number) for number in elements]
    if not numbers or not all(1 <= number <= largest_z for number in numbers) or len(set(numbers)) != len(numbers):
        raise ValueError(f"elements must be different atomic numbers in 1 .. {largest_z}, got {numbers}")
    known[numbers] = True
    return known
