"""What is read from a file: molecules, crystals, frames, as NumPy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class DataError(ValueError):
    """A file that cannot be used; the message names it and says why."""


@dataclass(frozen=True, eq=False)
class Structures:
    """One or many molecules, crystals or frames, as `symkern.neighbor_list` takes them.

    Attributes:
        source: name of the file, without its suffix.
        numbers: (N,) int64 atomic numbers.
        positions: (N, 3) float64, Å.
        ptr: (B + 1,) int64; structure b owns the atoms ptr[b] .. ptr[b + 1].
        cell: (B, 3, 3) float64, rows are lattice vectors, Å; None where nothing is periodic.
        pbc: (B, 3) bool; None exactly where `cell` is.
        names: B names.
    """

    source: str
    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    ptr: NDArray[np.int64]
    cell: NDArray[np.float64] | None
    pbc: NDArray[np.bool_] | None
    names: tuple[str, ...]

    @property
    def num_structures(self) -> int:
        return len(self.ptr) - 1

    @property
    def num_atoms(self) -> int:
        return len(self.positions)


def check(path: Path, found: Structures) -> None:
    """DataError naming `path` unless the values make sense."""
    atoms, ptr = found.num_atoms, found.ptr
    if len(ptr) < 2 or ptr[0] != 0 or ptr[-1] != atoms or (np.diff(ptr) < 0).any():
        raise DataError(f"{path}: ptr must rise from 0 to the number of atoms {atoms}, found {ptr[:8].tolist()} ...")
    if not np.isfinite(found.positions).all():
        raise DataError(
            f"{path}: positions of {int((~np.isfinite(found.positions)).any(1).sum())} atoms are not finite"
        )
    if (found.numbers < 0).any():
        raise DataError(f"{path}: atomic numbers must not be negative, found {int(found.numbers.min())}")
    if found.cell is None or found.pbc is None:
        return
    if not np.isfinite(found.cell).all():
        raise DataError(f"{path}: cell is not finite")
    for name, cell, pbc in zip(found.names, found.cell, found.pbc, strict=True):
        vectors = cell[pbc]
        if np.linalg.matrix_rank(vectors) < len(vectors):
            raise DataError(f"{path}: {name}: the lattice vectors along periodic directions are linearly dependent")
