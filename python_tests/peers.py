"""Neighbor lists of ASE, vesin and plain NumPy in one form: rows (receiver, sender, shift x, y, z), sorted."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import vesin
from ase import Atoms
from ase.neighborlist import neighbor_list as ase_list
from numpy.typing import NDArray

Rows = NDArray[np.int64]
NO_CELL = np.zeros((3, 3))


def rows(receiver: Any, sender: Any, shift: Any) -> Rows:
    table = np.column_stack([np.asarray(receiver), np.asarray(sender), np.asarray(shift).reshape(-1, 3)]).astype(
        np.int64
    )
    return table[np.lexsort(table.T[::-1])]


def ours(nb: Any) -> Rows:
    """From `Neighbors` or `HostNeighbors`, without padding and in the order given, which must be sorted already."""
    end = int(nb.row_ptr[-1])
    sender, receiver = np.asarray(nb.edge_index)[:, :end]
    return np.column_stack([receiver, sender, np.asarray(nb.shifts)[:end]]).astype(np.int64)


def by_ase(positions: Any, cutoff: float, cell: Any = NO_CELL, pbc: Any = False, margin: float = 1e-7) -> Rows:
    """ASE's list, where i is the receiver. Distances within `margin` of the cutoff would decide nothing: refused."""
    atoms = Atoms(positions=np.asarray(positions, dtype=np.float64), cell=cell, pbc=pbc)
    i, j, s, d = ase_list("ijSd", atoms, cutoff * (1 + margin))
    assert not len(d) or np.abs(d / cutoff - 1).min() > margin, "a distance is too close to the cutoff to compare"
    near = d < cutoff
    return rows(i[near], j[near], s[near])


def within_reach_of_ase(cell: Any, cutoff: float) -> bool:
    """ASE takes gigabytes and minutes for skewed cells, and wants a cell in all directions."""
    if abs(np.linalg.det(cell)) < 1e-3:
        return False
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    return bool(np.prod(2 * cutoff / heights + 1) < 3000)


def by_vesin(positions: Any, cutoff: float, cell: Any = NO_CELL, pbc: Any = False) -> Rows:
    search = vesin.NeighborList(cutoff=cutoff, full_list=True, n_threads=1)
    i, j, s = search.compute(np.asarray(positions, dtype=np.float64), np.asarray(cell, dtype=np.float64), pbc, "ijS")
    return rows(i, j, s)


def brute_force(
    positions: Any, cutoff: float, cell: Any = NO_CELL, pbc: Any = False, limit: int = 4_000_000
) -> tuple[Rows, float] | None:
    """All pairs of all images in fp64, and how close |d / cutoff - 1| comes to zero. None: more work than `limit`."""
    r, cell = np.asarray(positions, dtype=np.float64), np.asarray(cell, dtype=np.float64)
    flags = np.broadcast_to(pbc, 3)
    n, used = len(r), cell[flags]
    if n == 0:
        return rows([], [], []), np.inf
    inverse = np.linalg.pinv(used) if len(used) else np.zeros((3, 0))
    wrap = np.zeros((n, 3), dtype=np.int64)
    wrap[:, flags] = np.floor(r @ inverse)
    # wrapped atoms differ by less than one cell
    reach = np.zeros(3, dtype=np.int64)
    reach[flags] = np.ceil(cutoff * np.linalg.norm(inverse, axis=0)) + 1
    if n * n * np.prod(2.0 * reach + 1) > limit:
        return None
    images = np.array(list(itertools.product(*(range(-k, k + 1) for k in reach))))
    shifts = images[None, None] + wrap[:, None, None] - wrap[None, :, None]  # (receiver, sender, image)
    d = np.linalg.norm((r[None, :] - r[:, None])[:, :, None] + shifts @ np.where(flags[:, None], cell, 0), axis=-1)
    same = (np.arange(n)[:, None, None] == np.arange(n)[None, :, None]) & (shifts == 0).all(-1)
    d[same] = np.inf
    i, j, k = np.nonzero(d < cutoff)
    return rows(i, j, shifts[i, j, k]), float(np.abs(d / cutoff - 1).min())


def half(full: Rows) -> Rows:
    """The half list that belongs to a full one."""
    i, j, s = full[:, 0], full[:, 1], full[:, 2:]
    sign = np.where(s[:, 0] != 0, s[:, 0], np.where(s[:, 1] != 0, s[:, 1], s[:, 2]))
    return full[(j > i) | ((j == i) & (sign > 0))]


def with_self_loops(table: Rows, atoms: int) -> Rows:
    loops = np.zeros((atoms, 5), dtype=np.int64)
    loops[:, 0] = loops[:, 1] = np.arange(atoms)
    both = np.concatenate([table, loops])
    return rows(both[:, 0], both[:, 1], both[:, 2:])


def offset(table: Rows, first: int) -> Rows:
    """The same edges between atoms that start at `first`."""
    return table + np.array([first, first, 0, 0, 0])
