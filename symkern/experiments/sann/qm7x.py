"""QM7-X: Hirshfeld dipole vectors of small molecules, from the published files or from the stand-in that is shipped.

Published: Hoja et al., "QM7-X, a comprehensive dataset of quantum-mechanical properties spanning the chemical space of
small organic molecules", Scientific Data 8, 43 (2021). HDF5 files 1000.hdf5 .. 8000.hdf5 with groups
molecule / structure; structures are named Geom-m<molecule>-i<isomer>-c<conformer>-opt (relaxed) or -<number>
(displaced). Read here: ``atNUM`` (N,), ``atXYZ`` (N, 3) Å, ``hVDIP`` (N, 3) atomic dipole moments, e bohr.
`symkern fetch qm7x` gets them.

Shipped: ``data/qm7x_stand_in.npz``, made by ``scripts/make_qm7x_stand_in.py``, which says how. Not QM7-X: other
molecules, geometries and basis; the same property, units and names.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import symkern as sk
from symkern.data import DataError, Dataset
from symkern.data.selection import parts
from symkern.stabilizer import Stabilizers

STAND_IN = Path(__file__).parents[1] / "data" / "qm7x_stand_in.npz"
VECTORS = "hVDIP"
KEYS = ("atNUM", "atXYZ", VECTORS)
SUFFIXES = (".hdf5", ".h5")
MAX_HEAVY = 5
POSITION_TOLERANCE = 0.2  # Å, the paper's
VECTOR_TOLERANCE = 0.01  # e bohr
HYDROGEN = 1
SPLIT = (0.6, 0.2, 0.2)
_CHUNK = 4096  # structures whose symmetry is found at once


# ---- files -----------------------------------------------------------------------------------------------------------


def files(data: Path | str | None = None) -> list[Path]:
    """The HDF5 files at `data` (a file or a folder) or at SYMKERN_DATA; where there are none, none.

    Raises:
        DataError: no such path, or a file of another kind.
    """
    given = data or os.environ.get("SYMKERN_DATA")
    if not given:
        return []
    path = Path(given)
    if path.is_dir():
        return sorted(found for suffix in SUFFIXES for found in path.glob(f"*{suffix}"))
    if not path.is_file():
        raise DataError(f"{path}: no such file or directory")
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: must be a file of QM7-X, {' or '.join(SUFFIXES)}; without data the stand-in is used")
    return [path]


def about_stand_in() -> dict[str, str]:
    """How the set that is shipped was made."""
    with np.load(STAND_IN) as archive:
        return {key.removeprefix("about_"): str(archive[key]) for key in archive.files if key.startswith("about_")}


def stand_in() -> Dataset:
    """The set that is shipped: property "hVDIP" (N, 3) of atoms, e bohr; of structures "molecule" and "relaxed"."""
    with np.load(STAND_IN) as archive:
        return Dataset(
            z=torch.from_numpy(archive["z"].astype(np.int64)),
            pos=torch.from_numpy(archive["pos"]),
            ptr=torch.from_numpy(archive["ptr"]),
            names=tuple(archive["id"].tolist()),
            per_structure={
                "molecule": torch.from_numpy(archive["molecule"].astype(np.int64)),
                "relaxed": torch.from_numpy(archive["temperature"] == 0),
            },
            per_atom={VECTORS: torch.from_numpy(archive[VECTORS])},
        )


def read_hdf5(paths: Sequence[Path | str], *, max_heavy: int = MAX_HEAVY) -> Dataset:
    """Structures with at most `max_heavy` atoms other than hydrogen, in the order of the files and their groups.

    Properties as those of `stand_in`.

    Raises:
        DataError: no HDF5 file, another layout, or no such structure; the message names file and group.
        ModuleNotFoundError: h5py is not installed.
    """
    import h5py

    numbers, positions, vectors, names, molecules = [], [], [], [], []
    for path in map(Path, paths):
        try:
            with h5py.File(path, "r") as file:
                for molecule, name, arrays in _structures(path, file, max_heavy):
                    z, x, v = arrays
                    numbers.append(z)
                    positions.append(x)
                    vectors.append(v)
                    names.append(name)
                    molecules.append(molecule)
        except OSError as error:
            raise DataError(f"{path}: not a readable HDF5 file ({error})") from error
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{', '.join(map(str, paths))}: structures must be there once, but {twice[0]} is repeated")
    if not numbers:
        raise DataError(f"{', '.join(map(str, paths))}: no structures of at most {max_heavy} heavy atoms")
    return Dataset(
        z=torch.from_numpy(np.concatenate(numbers)),
        pos=torch.from_numpy(np.concatenate(positions)),
        ptr=torch.tensor(np.cumsum([0, *map(len, numbers)])),
        names=tuple(names),
        per_structure={
            "molecule": torch.tensor(molecules),
            "relaxed": torch.tensor([name.endswith("-opt") for name in names]),
        },
        per_atom={VECTORS: torch.from_numpy(np.concatenate(vectors))},
    )


def _structures(path: Path, file: Any, max_heavy: int) -> Iterator[tuple[int, str, tuple[Any, Any, Any]]]:
    for molecule, structures in file.items():
        if not molecule.isdecimal() or not hasattr(structures, "items"):
            raise DataError(f"{path}: {molecule} must be the group of a molecule, named by its number")
        for name, group in structures.items():
            where = f"{path}: {molecule}/{name}"
            missing = [key for key in KEYS if not hasattr(group, "keys") or key not in group]
            if missing:
                raise DataError(f"{where} has no {', '.join(missing)}; expected {', '.join(KEYS)}")
            numbers = np.asarray(group["atNUM"])
            z = numbers.astype(np.int64)
            if (z != HYDROGEN).sum() > max_heavy:
                break  # and so have the other structures of this molecule
            x, v = (np.asarray(group[key], dtype=np.float64) for key in KEYS[1:])
            if z.ndim != 1 or x.shape != (len(z), 3) or v.shape != x.shape:
                raise DataError(
                    f"{where}: atNUM must be (N,), atXYZ and hVDIP (N, 3), found {z.shape}, {x.shape}, {v.shape}"
                )
            if (z != numbers).any() or (z < 1).any():
                raise DataError(f"{where}: atNUM must hold atomic numbers, found {numbers.tolist()}")
            if not (np.isfinite(x).all() and np.isfinite(v).all()):
                raise DataError(f"{where}: atXYZ and hVDIP must be finite")
            yield int(molecule), name, (z, x, v)


# ---- symmetry --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Residuals:
    """How far the operations that positions have within a tolerance miss the positions, and how far the vectors.

    Attributes:
        symmetric: (B,) bool, whether there are operations other than the identity.
        positions: (B,) Å, the largest |R_g (x_i - c) - (x_p(i) - c)| of all operations and atoms; 0 for the identity.
        vectors: (B,) e bohr, the largest |R_g v_i - v_p(i)|.

    Linear molecules can be turned about their axis by any angle: for them both are not less than the largest part of
    any x_i - c or v_i that is perpendicular to it.
    """

    symmetric: Tensor
    positions: Tensor
    vectors: Tensor


def residuals(data: Dataset, tolerance: float) -> Residuals:
    """For structures with a property "hVDIP", at a tolerance in Å.

    Raises:
        ValueError: what `symkern.stabilizers` raises.
    """
    begins = range(0, data.num_structures, _CHUNK)
    found = [_residuals(data.subset(slice(begin, begin + _CHUNK)), tolerance) for begin in begins]
    return Residuals(*(torch.cat([getattr(r, f.name) for r in found]) for f in fields(Residuals)))


def _residuals(data: Dataset, tolerance: float) -> Residuals:
    sym = sk.stabilizers(data.pos, data.z, ptr=data.ptr, tolerance=tolerance)
    v = data.per_atom[VECTORS].to(data.pos.dtype)
    operation, atom = _rows(sym)
    moved = (sym.operations[operation] @ v[atom].unsqueeze(-1)).squeeze(-1)
    missed = (moved - v[sym.permutations]).norm(dim=1)
    linear, axis = sym.rank[sym.batch] == 1, sym.axis[sym.batch].to(v.dtype)

    def largest(of_operations: Tensor, owner: Tensor, vectors: Tensor) -> Tensor:
        beside = (vectors - (vectors * axis).sum(1, keepdim=True) * axis).norm(dim=1) * linear
        found = v.new_zeros(len(sym)).scatter_reduce(0, owner, of_operations, "amax")
        return found.scatter_reduce(0, sym.batch, beside, "amax")

    centered = data.pos - sym.centroid[sym.batch]
    return Residuals(
        sym.order != 1,
        largest(sym.residuals.to(v.dtype), sym.op_batch, centered),
        largest(missed, sym.op_batch[operation], v),
    )


def _rows(sym: Stabilizers) -> tuple[Tensor, Tensor]:
    """Operation and atom of each entry of ``sym.permutations``."""
    counts = sym.perm_ptr.diff()
    operation = torch.repeat_interleave(torch.arange(len(counts)), counts)
    atom = torch.arange(len(operation)) - sym.perm_ptr[operation] + sym.ptr[sym.op_batch[operation]]
    return operation, atom


def broken(data: Dataset, tolerance: float = POSITION_TOLERANCE, vector_tolerance: float = VECTOR_TOLERANCE) -> Tensor:
    """(B,) bool: structures whose vectors have fewer symmetries than their positions.

    That is, some operation that maps the positions to themselves within `tolerance` (Å) misses a vector by more than
    `vector_tolerance` (e bohr). The paper names the first, 0.2 Å, and not the second.
    """
    return residuals(data, tolerance).vectors > vector_tolerance


def select(data: Dataset, tolerance: float = POSITION_TOLERANCE, vector_tolerance: float = VECTOR_TOLERANCE) -> Tensor:
    """(K,) int64, ascending: the broken structures, and all other structures of their molecules.

    Source: SANN, appendix C.2.
    """
    molecule = data.per_structure["molecule"]
    chosen = torch.isin(molecule, molecule[broken(data, tolerance, vector_tolerance)])
    return chosen.nonzero().squeeze(1)


# ---- splits ----------------------------------------------------------------------------------------------------------


def split(data: Dataset, seed: int, by: str = "structure") -> list[Tensor]:
    """Indices (60, 20 and 20 %) of training, validation and test structures.

    Args:
        by: "structure", as in the paper: structures of one molecule end up in several parts. "molecule": they stay
            together, and the shares are those of molecules.

    Raises:
        ValueError: another `by`.
    """
    if by == "structure":
        return parts(data.num_structures, SPLIT, seed)
    if by != "molecule":
        raise ValueError(f"by must be 'structure' or 'molecule', got {by!r}")
    molecule = data.per_structure["molecule"]
    names = molecule.unique()
    chosen = [torch.isin(molecule, names[part]) for part in parts(len(names), SPLIT, seed)]
    return [mask.nonzero().squeeze(1) for mask in chosen]
