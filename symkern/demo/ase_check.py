"""Neighbor lists against ASE: complete sets of (receiver, sender, shift), exactly.

Small inputs are compared in full. Of large ones a part is, and it is said which: some whole structures of a batch, or
of one huge structure the complete neighbor sets of a few hundred atoms.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import ase.neighborlist
import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

import symkern as sk
from symkern.data import Structures
from symkern.demo.results import Timing

T = TypeVar("T")
# rows (receiver, sender, S1, S2, S3)
Edges = NDArray[np.int64]
ase_neighbor_list: Any = ase.neighborlist.neighbor_list

# ASE's memory and time grow to about 4 GB and 6 s at this many atoms and 6 Å
ASE_ATOMS = 40_000
# receivers of a structure beyond that
CUT_ATOMS = 300
# both sides round the distance of a pair; where this decides, either answer is right
ROUNDING = 1e-10


def measure(structures: Structures, cutoff: float, repeats: int = 5) -> tuple[Timing, sk.Neighbors]:
    """Time neighbor_list (median after a warm-up) on all of the input, and compare it with ASE on all or a part."""
    build = builder(structures, cutoff)
    threads = torch.get_num_threads()
    seconds = median_time(build, repeats)
    torch.set_num_threads(1)
    try:
        one_thread = median_time(build, repeats)
    finally:
        torch.set_num_threads(threads)
    nb = build()
    found = compare(structures, nb, cutoff)
    timing = Timing(
        structures.source,
        structures.num_structures,
        structures.num_atoms,
        nb.num_edges,
        cutoff,
        seconds,
        one_thread,
        found.compared,
        found.ase_atoms,
        found.ase_seconds,
        found.at_cutoff,
        found.identical,
    )
    return timing, nb


def builder(structures: Structures, cutoff: float) -> Callable[[], sk.Neighbors]:
    """A call of neighbor_list with its input already in tensors."""
    positions, ptr = torch.from_numpy(structures.positions), torch.from_numpy(structures.ptr)
    cell = None if structures.cell is None else torch.from_numpy(structures.cell)
    pbc = None if structures.pbc is None else torch.from_numpy(structures.pbc)
    return lambda: sk.neighbor_list(positions, cutoff, ptr=ptr, cell=cell, pbc=pbc)


def median_time(call: Callable[[], object], repeats: int) -> float:
    """Seconds of one call, after one that does not count."""
    call()
    return statistics.median(timed(call)[1] for _ in range(repeats))


def timed(call: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


@dataclass
class Comparison:
    """As in `Timing`."""

    compared: int = 0
    ase_atoms: int = 0
    ase_seconds: float = 0.0
    at_cutoff: int = 0
    identical: bool = True


def compare(structures: Structures, nb: sk.Neighbors, cutoff: float, limit: int = ASE_ATOMS) -> Comparison:
    """Compare with ASE, giving it not many more than `limit` atoms in all."""
    edges, shifts, row_ptr = nb.edge_index.numpy(), nb.shifts.numpy(), nb.row_ptr.numpy()
    stride = -(-structures.num_atoms // limit) if structures.num_structures > 1 else 1
    found = Comparison()
    for b in range(0, structures.num_structures, stride):
        first, last = structures.ptr[b], structures.ptr[b + 1]
        if first == last:
            continue
        atoms = _atoms(structures, b)
        mine = slice(row_ptr[first], row_ptr[last])
        sender, receiver = edges[:, mine] - first
        ours = np.column_stack([receiver, sender, shifts[mine]])
        if len(atoms) <= limit:
            count = given = len(atoms)
            (i, j, s), seconds = timed(lambda atoms=atoms: ase_neighbor_list("ijS", atoms, cutoff))  # type: ignore[misc]
            theirs = np.column_stack([i, j, s])
        else:
            receivers = np.argsort(np.linalg.norm(atoms.positions - atoms.positions.mean(0), axis=1))[:CUT_ATOMS]
            ours, count = ours[np.isin(receiver, receivers)], len(receivers)
            theirs, given, seconds = ase_of_receivers(atoms, receivers, cutoff)
        equal, left_out = same_edges(ours, theirs, atoms, cutoff)
        found.compared += count
        found.ase_atoms += given
        found.ase_seconds += seconds
        found.at_cutoff += left_out
        found.identical = found.identical and equal
    return found


def same_edges(ours: Edges, theirs: Edges, atoms: Any, cutoff: float) -> tuple[bool, int]:
    """Whether two edge sets agree, ours also being sorted and free of duplicates; and how many pairs were left out."""
    shift = int(max(np.abs(ours[:, 2:]).max(initial=0), np.abs(theirs[:, 2:]).max(initial=0)))
    bases = (len(atoms), *[2 * shift + 1] * 3)

    def keys(rows: Edges) -> NDArray[np.int64]:
        """Rows as single numbers in lexicographic order."""
        code = rows[:, 0].astype(np.int64)
        for column, base in enumerate(bases, start=1):
            code = code * base + rows[:, column] + (shift if column > 1 else 0)
        return code

    ours_keys, theirs_keys = keys(ours), np.sort(keys(theirs))
    if np.array_equal(ours_keys, theirs_keys):
        return True, 0
    if (np.diff(ours_keys) <= 0).any() or (np.diff(theirs_keys) == 0).any():
        return False, 0
    differing = np.setxor1d(ours_keys, theirs_keys, assume_unique=True)
    rows = np.concatenate([ours[np.isin(ours_keys, differing)], theirs[np.isin(keys(theirs), differing)]])
    vectors = atoms.positions[rows[:, 1]] - atoms.positions[rows[:, 0]] + rows[:, 2:] @ np.asarray(atoms.get_cell())
    on_cutoff = np.abs(np.linalg.norm(vectors, axis=1) - cutoff) < ROUNDING * cutoff
    return bool(on_cutoff.all()), len(rows)


def ase_of_receivers(atoms: Any, receivers: NDArray[np.int64], cutoff: float) -> tuple[Edges, int, float]:
    """ASE's complete neighbor sets of a few atoms, from a finite cluster with every image that can reach them.

    Returns the rows (i, j, S1, S2, S3), the size of the cluster, and ASE's time for it.
    """
    positions, cell, pbc = atoms.get_positions(), atoms.get_cell().complete().array, atoms.get_pbc()
    center = positions[receivers].mean(0)
    reach = np.linalg.norm(positions[receivers] - center, axis=1).max() + cutoff + 1e-6
    inverse = np.linalg.inv(cell)
    # fractional half-widths of the sphere, against where the atoms lie
    width, middle, fraction = reach * np.linalg.norm(inverse, axis=0), center @ inverse, positions @ inverse
    low = np.where(pbc, np.floor(middle - width - fraction.max(0)), 0).astype(int)
    high = np.where(pbc, np.ceil(middle + width - fraction.min(0)), 0).astype(int)
    indices, images = [], []
    for shift in np.ndindex(*(high - low + 1)):
        s = np.array(shift) + low
        near = np.flatnonzero(np.linalg.norm(positions + s @ cell - center, axis=1) <= reach)
        indices.append(near)
        images.append(np.tile(s, (len(near), 1)))
    index, image = np.concatenate(indices), np.concatenate(images)
    r = positions[index] + image @ cell
    # not periodic, but ASE sorts atoms into bins by the cell
    cluster = Atoms(positions=r - r.min(0), cell=np.ptp(r, axis=0) + 1)
    (i, j), seconds = timed(lambda: ase_neighbor_list("ij", cluster, cutoff))
    wanted = np.isin(index[i], receivers) & (image[i] == 0).all(1)
    i, j = i[wanted], j[wanted]
    return np.column_stack([index[i], index[j], image[j]]), len(index), seconds


def _atoms(structures: Structures, b: int) -> Any:
    mine = slice(structures.ptr[b], structures.ptr[b + 1])
    if structures.cell is None or structures.pbc is None:
        return Atoms(positions=structures.positions[mine])
    return Atoms(positions=structures.positions[mine], cell=structures.cell[b], pbc=structures.pbc[b])
