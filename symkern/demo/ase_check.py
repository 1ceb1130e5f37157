"""Neighbor lists against ASE: complete sets of (receiver, sender, shift), exactly.

Small inputs are compared in full. Of large ones a part is, and it is said which: some whole structures of a batch, or of
one huge structure the complete neighbor sets of a few hundred atoms.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list as ase_neighbor_list
from numpy.typing import NDArray

import symkern as sk
from symkern.data import Structures
from symkern.demo.results import Timing

T = TypeVar("T")

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
    ase_atoms, ase_seconds, at_cutoff, identical = compare(structures, nb, cutoff)
    timing = Timing(
        structures.source,
        structures.num_structures,
        structures.num_atoms,
        nb.num_edges,
        cutoff,
        seconds,
        one_thread,
        ase_atoms,
        ase_seconds,
        at_cutoff,
        identical,
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


def compare(
    structures: Structures, nb: sk.Neighbors, cutoff: float, limit: int = ASE_ATOMS
) -> tuple[int, float, int, bool]:
    """Atoms compared, ASE's time for them, pairs left out because they lie on the cutoff, and whether all others agree."""
    edges, shifts, row_ptr = nb.edge_index.numpy(), nb.shifts.numpy(), nb.row_ptr.numpy()
    stride = -(-structures.num_atoms // limit) if structures.num_structures > 1 else 1
    atoms_done, seconds, at_cutoff, identical = 0, 0.0, 0, True
    for b in range(0, structures.num_structures, stride):
        first, last = structures.ptr[b], structures.ptr[b + 1]
        if first == last:
            continue
        atoms = _atoms(structures, b)
        whole = len(atoms) <= limit
        if whole:
            receivers = np.arange(len(atoms))
            (i, j, s), spent = timed(lambda atoms=atoms: ase_neighbor_list("ijS", atoms, cutoff))
        else:
            receivers = np.sort(np.argsort(np.linalg.norm(atoms.positions - atoms.positions[0], axis=1))[:CUT_ATOMS])
            (i, j, s), spent = ase_of_receivers(atoms, receivers, cutoff)
        mine = slice(row_ptr[first], row_ptr[last])
        sender, receiver = edges[:, mine] - first
        chosen = slice(None) if whole else np.isin(receiver, receivers)
        ours = np.column_stack([receiver, sender, shifts[mine]])[chosen]
        equal, left_out = same_edges(ours, np.column_stack([i, j, s]), atoms, cutoff)
        atoms_done, seconds, at_cutoff = atoms_done + len(receivers), seconds + spent, at_cutoff + left_out
        identical = identical and equal
    return atoms_done, seconds, at_cutoff, identical


def same_edges(ours: NDArray[np.int64], theirs: NDArray[np.int64], atoms: Atoms, cutoff: float) -> tuple[bool, int]:
    """Whether two sets of rows (i, j, S1, S2, S3) agree, ours being sorted and without duplicates; and pairs left out."""
    shift = int(max(np.abs(ours[:, 2:]).max(initial=0), np.abs(theirs[:, 2:]).max(initial=0)))
    bases = (len(atoms), *[2 * shift + 1] * 3)

    def keys(rows: NDArray[np.int64]) -> NDArray[np.int64]:
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


def ase_of_receivers(
    atoms: Atoms, receivers: NDArray[np.int64], cutoff: float
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]], float]:
    """ASE's complete neighbor sets of a few atoms: a finite cluster with every image that can reach them."""
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
    cluster = Atoms(positions=positions[index] + image @ cell)
    (i, j), seconds = timed(lambda: ase_neighbor_list("ij", cluster, cutoff))
    wanted = np.isin(index[i], receivers) & (image[i] == 0).all(1)
    i, j = i[wanted], j[wanted]
    return (index[i], index[j], image[j]), seconds


def _atoms(structures: Structures, b: int) -> Atoms:
    mine = slice(structures.ptr[b], structures.ptr[b + 1])
    if structures.cell is None or structures.pbc is None:
        return Atoms(positions=structures.positions[mine])
    return Atoms(positions=structures.positions[mine], cell=structures.cell[b], pbc=structures.pbc[b])
