"""The two graphs of SANN, within and across classes of equivalent atoms, and the features of their edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from symkern import _library as _library
from symkern._check import check_instance, check_tensor
from symkern._reference import by_reference
from symkern.canonical import Canonical
from symkern.neighbors import Neighbors
from symkern.ops.edge_vectors import edge_vectors
from symkern.ops.local_coordinates import local_coordinates
from symkern.ops.neighbor_list import neighbor_list
from symkern.ops.reference_neighbors import check_graph, reference_neighbors, reference_representatives
from symkern.ops.spherical_features import spherical_features


@dataclass(eq=False, repr=False)
class SannGraphs:
    """Classes of equivalent atoms and the graphs within and across them, made by `sann_graphs`.

    O classes of N atoms in B molecules; the classes of one molecule are contiguous, in the order of their rank.

    Attributes:
        within: graph of the atoms: each is joined to all atoms of its class, itself included.
        across: graph of the classes, through their representatives: each is joined to all classes of its molecule, in
            molecules without symmetry to those within `cutoff`; itself included. Molecule b owns the classes
            across.ptr[b] .. across.ptr[b + 1].
        representatives: (O,) int64 atom of each class.
        class_of: (N,) int64 class of each atom.
        members: (N,) int64 atoms class by class, ascending; class c has members[member_ptr[c]] .. [member_ptr[c + 1]].
        member_ptr: (O + 1,) int64.
        within_references: (N, 2) int64 `reference_neighbors` of the graph `within`.
        across_references: (O, 2) int64 those of `across`, of its representatives.
        cutoff: Å, of the graph across the atoms of molecules without symmetry.
        tie: Å up to which distances and coordinates counted as equal.
    """

    within: Neighbors
    across: Neighbors
    representatives: Tensor
    class_of: Tensor
    members: Tensor
    member_ptr: Tensor
    within_references: Tensor
    across_references: Tensor
    cutoff: float
    tie: float

    @property
    def num_classes(self) -> int:
        return self.representatives.shape[0]

    def to(self, device: torch.device | str) -> SannGraphs:
        """A copy on `device`."""

        def moved(value: Tensor | Neighbors | float) -> Tensor | Neighbors | float:
            return value if isinstance(value, float) else value.to(device)

        return self._map(moved)

    def _map(self, change: Callable[[Tensor | Neighbors | float], Tensor | Neighbors | float]) -> SannGraphs:
        return SannGraphs(*(change(getattr(self, f.name)) for f in fields(self)))  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return (
            f"SannGraphs({self.class_of.shape[0]} atoms, {self.num_classes} classes, "
            f"{self.across.num_structures} molecules, {self.within.num_edges} + {self.across.num_edges} edges)"
        )


def sann_graphs(canonical: Canonical, cutoff: float = 8.0) -> SannGraphs:
    """The graphs that SANN passes messages on.

    The representative of the class of best rank is the atom with the smallest canonical coordinates; that of each
    following class is its atom nearest to the representatives chosen before. Ties, which are the rule, are decided by
    canonical coordinates as in `reference_neighbors`, never by the order of the atoms: distances and coordinates count
    as equal up to twice the tolerance of the stabilizers.

    Source: SANN, section 5 and appendix B "Graph Construction"; the graph of molecules without symmetry (C1), where
    every atom is a class of its own, is a radius graph with 8 Å there.

    Args:
        canonical: molecules in their canonical frames, see `canonicalize`.
        cutoff: Å, of the graph of molecules without symmetry.

    Returns:
        The graphs, on the device of the molecules. No gradient flows through them.

    Raises:
        TypeError: `canonical` is not Canonical.
        ValueError: a cutoff that is not positive and finite.
    """
    if not 0 < cutoff < math.inf:
        raise ValueError(f"cutoff must be positive and finite, got {cutoff}")
    check_instance("canonical", canonical, Canonical, "symkern.canonicalize")
    sym, positions = canonical.sym, canonical.positions.detach()
    tie = 2 * float(sym.tolerance)
    atoms = torch.arange(positions.shape[0], device=positions.device)
    batch = sym.batch
    # one atom of each orbit, by molecule, rank and, where ranks are shared, its orbit's smallest coordinates
    (first,) = (sym.orbits == atoms).nonzero(as_tuple=True)
    corner = positions.new_full(positions.shape, math.inf)
    corner = corner.scatter_reduce(0, sym.orbits[:, None].expand(-1, 3), positions, "amin")
    corner = (corner / tie).round() if tie > 0 else corner
    for key in (*corner.flip(1).unbind(1), canonical.orbit_rank, batch):
        first = first[torch.argsort(key[first], stable=True)]
    place = torch.empty_like(atoms)
    place[first] = atoms[: first.shape[0]]
    class_of = place[sym.orbits]
    ptr = _starts(torch.bincount(batch[first], minlength=sym.num_structures))
    members = torch.argsort(class_of, stable=True)
    member_ptr = _starts(torch.bincount(class_of, minlength=first.shape[0]))
    choose = reference_representatives if by_reference() else torch.ops.symkern.class_representatives.default
    representatives: Tensor = choose(positions, members, member_ptr, ptr, tie)

    within = _graph(*_joined(class_of, members, member_ptr), sym.ptr)
    across = _across(positions[representatives], ptr, sym.order != 1, cutoff)
    return SannGraphs(
        within,
        across,
        representatives,
        class_of,
        members,
        member_ptr,
        reference_neighbors(positions, within, tie=tie),
        reference_neighbors(positions[representatives], across, tie=tie),
        float(cutoff),
        tie,
    )


def sann_edge_features(
    positions: Tensor,
    nb: Neighbors,
    cutoff: float,
    num_spherical: int,
    num_radial: int,
    *,
    references: Tensor | None = None,
    tie: float = 0.02,
) -> tuple[Tensor, Tensor]:
    """Geometric features of the edges of a SANN graph, after ComENet.

    `edge_vectors`, `local_coordinates` and `spherical_features`, one after another; see there for what they are and
    what happens where atoms are collinear, coincident or few. Self loops have distance 0, angles 0, and no gradient.

    Source: SANN, appendix B "Geometric feature construction"; Wang et al. (ComENet), NeurIPS 2022.

    Args:
        positions: (N, 3) Å in the canonical frame: of the atoms for `SannGraphs.within`, of the representatives for
            `SannGraphs.across`.
        nb: graph of these.
        cutoff: Å, length scale of the radial functions; they have no envelope.
        num_spherical: L, 1 to 8.
        num_radial: R, 1 to 8.
        references: (N, 2) `reference_neighbors` of the graph, such as `SannGraphs.within_references`; found here if
            they are not given.
        tie: Å, see `reference_neighbors`.

    Returns:
        (E, L^2 R) features of distance, polar angle and azimuth, and (E, L R) of distance and dihedral angle.
        Differentiable in `positions` to any order.

    Raises:
        TypeError: `positions` is not a tensor, or `nb` not a graph.
        ValueError: shapes, dtypes or devices that do not fit; sizes or a cutoff out of range; a graph with a cell.
    """
    check_graph(nb)
    check_tensor("positions", positions)
    check_tensor("references", references, optional=True)
    if references is None:
        references = reference_neighbors(positions, nb, tie=tie)
    local, tau = local_coordinates(edge_vectors(positions, nb), nb, references)
    return spherical_features(local, tau, cutoff, num_spherical, num_radial)


def _starts(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _joined(group_of: Tensor, members: Tensor, group_ptr: Tensor) -> tuple[Tensor, Tensor]:
    """Edges from all members of a node's group to the node, sorted by (receiver, sender), and their row_ptr."""
    row_ptr = _starts(group_ptr.diff()[group_of])
    edges = int(row_ptr[-1])
    nodes = torch.arange(group_of.shape[0], device=group_of.device)
    receivers = torch.repeat_interleave(nodes, row_ptr.diff(), output_size=edges)
    offset = torch.arange(edges, device=group_of.device) - row_ptr[receivers]
    return torch.stack([members[group_ptr[group_of[receivers]] + offset], receivers]), row_ptr


def _across(positions: Tensor, ptr: Tensor, symmetric: Tensor, cutoff: float) -> Neighbors:
    """All pairs of representatives in symmetric molecules, those within the cutoff in others."""
    nodes = torch.arange(positions.shape[0], device=ptr.device)
    molecule = torch.repeat_interleave(
        torch.arange(symmetric.shape[0], device=ptr.device), ptr.diff(), output_size=len(nodes)
    )
    if bool(symmetric.all()):
        return _graph(*_joined(molecule, nodes, ptr), ptr)
    # the radius graph of all, where the rows of symmetric molecules are replaced
    near = neighbor_list(positions, cutoff, ptr=ptr, self_loops=True)
    replaced = symmetric[molecule]
    kept = nodes[replaced]
    full, _ = _joined(molecule[kept], kept, _starts(torch.where(symmetric, ptr.diff(), 0)))
    counts = torch.where(replaced, ptr.diff()[molecule], near.row_ptr.diff())
    row_ptr = _starts(counts)
    receivers = torch.repeat_interleave(nodes, counts, output_size=int(row_ptr[-1]))
    of_full = replaced[receivers]
    senders = torch.empty_like(receivers)
    senders[of_full] = full[0]
    senders[~of_full] = near.senders[~replaced[near.receivers]]
    return _graph(torch.stack([senders, receivers]), row_ptr, ptr)


def _graph(edge_index: Tensor, row_ptr: Tensor, ptr: Tensor) -> Neighbors:
    return Neighbors(edge_index, row_ptr, ptr, self_loops=True)
