"""The two neighbors of each node that span its local frame, where ties are the rule."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from symkern import _library as _library
from symkern._autograd import fake
from symkern._check import check_tensor
from symkern._reference import by_reference
from symkern.neighbors import Neighbors, check_neighbors


def reference_neighbors(positions: Tensor, nb: Neighbors, *, tie: float = 0.02) -> Tensor:
    """The edges from the nearest and the second nearest neighbor of each node, for `local_coordinates`.

    Atoms that symmetry exchanges are equally far from many others, so ties are the rule. They are decided by
    coordinates, never by the order of the atoms: among the neighbors within `tie` of the smallest distance those within
    `tie` of their smallest x, of these y, then z. In the coordinates of a canonical frame the choice is thus the same
    for every copy of a molecule.

    The second reference is the nearest neighbor off the line through the node and its first one (by more than `tie`),
    without which there would be no frame. Neighbors in one place with the node (within `tie`) are no references, nor is
    the node itself. Where there are not two references, as in classes of fewer than three atoms and in linear
    molecules, the node has none (-1), and the frame of the coordinates takes their place.

    Args:
        positions: (N, 3) Å in the canonical frame of each molecule, float32 or float64; no gradient flows.
        nb: graph of these atoms, without a cell.
        tie: Å up to which distances and coordinates count as equal: twice the tolerance of `stabilizers`, as each atom
            may be off its place by that tolerance.

    Returns:
        (N, 2) int64 edges of `nb` that node i receives from its references, both -1 where there are none.

    Raises:
        TypeError: `positions` is not a tensor, or `nb` not a graph.
        ValueError: shapes, dtypes or devices that do not fit; a graph with a cell; `tie` negative or not finite.

    Source: Wang et al. (ComENet), NeurIPS 2022, section 3, for the nearest neighbors.
    """
    check_graph(nb)
    check_tensor("positions", positions)
    if not 0 <= tie < math.inf:
        raise ValueError(f"tie must be finite and not negative, got {tie}")
    if by_reference():
        return reference(positions.detach(), nb, tie=tie)
    found: Tensor = torch.ops.symkern.reference_neighbors.default(
        positions.detach(), nb.edge_index, nb.row_ptr, float(tie)
    )
    return found


def check_graph(nb: Neighbors) -> None:
    """Local frames are those of molecules: neighbors are atoms, not images of atoms."""
    check_neighbors(nb)
    if nb.cell_shifts is not None:
        raise ValueError("nb must be a graph without a cell: local frames are those of molecules")


def reference(positions: Tensor, nb: Neighbors, *, tie: float = 0.02) -> Tensor:
    """The same, one node after another."""
    rows = []
    for i, (begin, end) in enumerate(zip(nb.row_ptr[:-1].tolist(), nb.row_ptr[1:].tolist(), strict=True)):
        edges = [e for e in range(begin, end) if int(nb.senders[e]) != i]
        places = positions[nb.senders[edges]].double().reshape(-1, 3)
        vectors = places - positions[i].double()
        lengths = vectors.norm(dim=-1)
        keys = torch.cat([lengths[:, None], places], 1)
        first = _choose(keys, lengths > tie, tie)
        if first is not None:
            axis = vectors[first] / lengths[first]
            second = _choose(keys, (lengths > tie) & (torch.linalg.cross(axis[None], vectors).norm(dim=-1) > tie), tie)
            if second is not None:
                rows.append([edges[first], edges[second]])
                continue
        rows.append([-1, -1])
    return torch.tensor(rows, dtype=torch.int64, device=positions.device).reshape(-1, 2)


def reference_representatives(positions: Tensor, members: Tensor, class_ptr: Tensor, ptr: Tensor, tie: float) -> Tensor:
    """One atom of each class, for `sann_graphs`; ties as in `reference_neighbors`.

    Of a molecule's first class the one with the smallest coordinates, of each other the nearest to those chosen before.
    """
    found: list[int] = []
    for first, last in pairwise(ptr.tolist()):
        chosen: list[int] = []
        for c in range(first, last):
            atoms = members[int(class_ptr[c]) : int(class_ptr[c + 1])]
            places = positions[atoms].double()
            apart = places[:, None] - positions[chosen].double() if chosen else places.new_zeros((len(atoms), 1, 3))
            keys = torch.cat([apart.norm(dim=-1).amin(1, keepdim=True), places], 1)
            best = _choose(keys, torch.ones(len(atoms), dtype=torch.bool, device=keys.device), tie)
            if best is None:
                raise ValueError("class_ptr must describe classes that are not empty")
            chosen.append(int(atoms[best]))
        found += chosen
    return members.new_tensor(found)


def _choose(keys: Tensor, allowed: Tensor, tie: float) -> int | None:
    if not allowed.any():
        return None
    for column in keys.T:
        allowed = allowed & (column <= column[allowed].min() + tie)
    left = allowed.nonzero().squeeze(1).tolist()
    best: int = min(left, key=lambda k: keys[k, 1:].tolist())
    return best


@fake("reference_neighbors")
def _(positions: Tensor, edge_index: Tensor, row_ptr: Tensor, tie: float) -> Tensor:
    return row_ptr.new_empty((row_ptr.shape[0] - 1, 2))


@fake("class_representatives")
def _(positions: Tensor, members: Tensor, class_ptr: Tensor, ptr: Tensor, tie: float) -> Tensor:
    return class_ptr.new_empty(class_ptr.shape[0] - 1)
