"""Graphs and bases for the Cases of ops over filters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from symkern.neighbors import Neighbors
from symkern.ops.edge_vectors import edge_vectors
from symkern.ops.neighbor_list import neighbor_list
from symkern.ops.safe_norm import safe_norm
from symkern.testing.case import Inputs
from symkern.testing.geometry import random_box, random_cell, shuffle_within

CUTOFF = 4.0

# Vectors of the edges and their graph.
GraphBuilder = Callable[[torch.Generator], tuple[Tensor, Neighbors]]


def boxes(*sizes: int, density: float = 0.05, full: bool = True, spare: int | None = None) -> GraphBuilder:
    """Structures of these sizes; `spare` adds padding edges."""

    def make(random: torch.Generator) -> tuple[Tensor, Neighbors]:
        parts = [random_box(n, random, density)[0] for n in sizes]
        positions = torch.cat([torch.zeros((0, 3), dtype=torch.float64), *parts])
        ptr = torch.tensor([0, *sizes]).cumsum(0)
        nb = neighbor_list(positions, CUTOFF, ptr=ptr, full=full)
        if spare is not None:
            nb = neighbor_list(positions, CUTOFF, ptr=ptr, full=full, max_edges=nb.num_edges + spare)
        return edge_vectors(positions, nb), nb

    return make


def line(atoms: int) -> GraphBuilder:
    """Atoms in a row, each bonded to the next."""

    def make(random: torch.Generator) -> tuple[Tensor, Neighbors]:
        positions = torch.zeros((atoms, 3), dtype=torch.float64)
        positions[:, 0] = 2.7 * torch.arange(atoms)
        positions += 0.1 * torch.randn((atoms, 3), generator=random, dtype=torch.float64)
        nb = neighbor_list(positions, CUTOFF)
        return edge_vectors(positions, nb), nb

    return make


def isolated(atoms: int) -> GraphBuilder:
    """A molecule, and as many atoms out of reach before, between and after its own."""

    def make(random: torch.Generator) -> tuple[Tensor, Neighbors]:
        near = random_box(atoms, random)[0]
        far = 100 * torch.arange(1, atoms + 1, dtype=torch.float64)[:, None].expand(atoms, 3)
        positions = torch.stack([far, near], 1).flatten(0, 1)
        nb = neighbor_list(positions, CUTOFF)
        return edge_vectors(positions, nb), nb

    return make


def asymmetric(atoms: int) -> GraphBuilder:
    """Some edges have a reverse, some have none."""

    def make(random: torch.Generator) -> tuple[Tensor, Neighbors]:
        positions = random_box(atoms, random)[0]
        every = neighbor_list(positions, CUTOFF)
        kept = torch.rand(every.num_edges, generator=random) < 0.6
        nb = Neighbors.from_edge_index(every.edge_index[:, kept], atoms)
        return edge_vectors(positions, nb), nb

    return make


def images(atoms: int) -> GraphBuilder:
    """A cell smaller than the cutoff: several edges join the same two atoms, and atoms meet their own images."""

    def make(random: torch.Generator) -> tuple[Tensor, Neighbors]:
        cell = random_cell(random, 3.0, 0.1)
        positions = torch.rand((atoms, 3), generator=random, dtype=torch.float64) @ cell
        nb = neighbor_list(positions, CUTOFF, cell=cell)
        return edge_vectors(positions, nb, cell), nb

    return make


def molecules(count: int, atoms: int) -> GraphBuilder:
    """Molecules whose atoms all see each other: count * atoms * (atoms - 1) edges."""

    def make(random: torch.Generator) -> tuple[Tensor, Neighbors]:
        positions = 2.2 * torch.rand((count * atoms, 3), generator=random, dtype=torch.float64)
        nb = neighbor_list(positions, CUTOFF, ptr=torch.arange(0, count * atoms + 1, atoms))
        return edge_vectors(positions, nb), nb

    return make


def lengths(vectors: Tensor, nb: Neighbors, random: torch.Generator, *, uneven: bool) -> Tensor:
    """(E,); `uneven`: half of the edges get another length than their reverse, and one a length past the cutoff."""
    d = safe_norm(vectors)
    if uneven:
        other = torch.rand(len(d), generator=random, dtype=torch.float64)
        d = torch.where(other < 0.5, d + 0.3 * other, d)
        d[:1] = 1.5 * CUTOFF
    return d


def basis(random: torch.Generator, count: int, kind: str, learn: bool) -> Inputs:
    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=random, dtype=torch.float64)

    if not learn:
        return {"kind": kind}
    if kind == "bessel":
        return {"kind": kind, "frequencies": uniform(0.1, 4)}
    end, width = (CUTOFF, 2.0) if kind == "gaussian" else (1.0, 10.0)
    return {"kind": kind, "centers": uniform(0, end), "gamma": uniform(0.3, width)}


def placed(inputs: Inputs, dtype: torch.dtype, device: torch.device | str) -> Inputs:
    return {name: x.to(dtype).to(device) if isinstance(x, Tensor) else x for name, x in inputs.items()}


# ---- changes that an op must follow ----------------------------------------------------------------------------------


def permuted(nb: Neighbors, random: torch.Generator) -> tuple[Tensor, Tensor, Neighbors]:
    """The order of the atoms, that of the edges, and the graph of the atoms in that order. Padding stays the last."""
    order = shuffle_within(nb.ptr, random)
    place = torch.argsort(order)
    real = int(nb.row_ptr[-1])
    shifts = None if nb.cell_shifts is None else nb.cell_shifts[:real]
    moved = Neighbors.from_edge_index(place[nb.edge_index[:, :real]], nb.num_nodes, shifts, nb.ptr)
    assert moved.order is not None
    spare = torch.arange(real, nb.num_edges, device=place.device)
    if len(spare):
        index = torch.cat([moved.edge_index, nb.edge_index[:, real:]], 1)
        padded = Neighbors(index, moved.row_ptr, nb.ptr, None, None, nb.cutoff, nb.full)
        return order, torch.cat([moved.order, spare]), padded
    moved.full = nb.full
    return order, moved.order, moved


def twice(nb: Neighbors) -> Neighbors:
    """Two copies side by side, as a batch."""
    index = torch.cat([nb.edge_index, nb.edge_index + nb.num_nodes], 1)
    shifts = None if nb.cell_shifts is None else torch.cat([nb.cell_shifts, nb.cell_shifts])
    row_ptr = torch.cat([nb.row_ptr, nb.row_ptr[1:] + nb.num_edges])
    ptr = torch.cat([nb.ptr, nb.ptr[1:] + nb.num_nodes])
    return Neighbors(index, row_ptr, ptr, shifts, None, nb.cutoff, nb.full)


def wrong_sender(nb: Neighbors) -> Neighbors:
    """An edge from an atom that does not exist."""
    index = nb.edge_index.clone()
    index[0, 1] = nb.num_nodes
    return Neighbors(index, nb.row_ptr, nb.ptr, nb.cell_shifts, None, nb.cutoff, nb.full)
