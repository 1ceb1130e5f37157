"""Structures from files: NumPy archives (``.npz``) and everything ASE reads. Nothing is downloaded.

Archives hold ``z`` (atomic numbers) and ``pos`` (Å), and by kind
    one system      z (N,), pos (N, 3)                optional cell (3, 3), pbc (3,)
    ragged set      z (N,), pos (N, 3), ptr (B + 1,)  optional cell (B, 3, 3), pbc (B, 3), name (B,)
    trajectories    z (n,), <any>_pos (frames, n, 3)  the frames of all such arrays become one set
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# what a directory is searched for; a file named directly is tried whatever its name is
_ASE_SUFFIXES = {".xyz", ".extxyz", ".cif", ".pdb", ".gro", ".vasp", ".traj", ".mol", ".sdf", ".json"}
_ASE_NAMES = ("POSCAR", "CONTCAR")


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


def find(path: Path | str | None = None) -> list[Path]:
    """The files to read at `path` (a file or a directory), or at SYMKERN_DATA; none if neither is given.

    Raises:
        DataError: no such path, or a directory without any file of a known kind.
    """
    path = path or os.environ.get("SYMKERN_DATA")
    if not path:
        return []
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or directory")
    files = sorted(file for file in path.iterdir() if file.is_file() and _is_known(file))
    if not files:
        known = " ".join([".npz", *sorted(_ASE_SUFFIXES), *_ASE_NAMES])
        raise DataError(f"{path}: holds no file of a known kind ({known})")
    return files


def read(path: Path | str) -> Structures:
    """The structures of one file, checked.

    Raises:
        DataError: the file is missing, damaged, of a foreign layout, or holds values that make no sense.
        ModuleNotFoundError: the file needs ASE, which is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    found = _from_archive(path) if path.suffix == ".npz" else _from_ase(path)
    _check(path, found)
    return found


def load(path: Path | str | None = None) -> list[Structures]:
    """Everything at `path` or SYMKERN_DATA; raises as `find` and `read` do."""
    return [read(file) for file in find(path)]


def _is_known(file: Path) -> bool:
    return file.suffix in {".npz", *_ASE_SUFFIXES} or file.name.startswith(_ASE_NAMES)


def _from_archive(path: Path) -> Structures:
    try:
        # pickled objects could run code: never
        opened = np.load(path, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: a bare array, expected an .npz archive")
        with opened as archive:
            keys = set(archive.keys())
            frames = sorted(key for key in keys if key.endswith("_pos"))
            wanted = {"z", "pos"} if "pos" in keys else {"z", *frames}
            if "z" not in keys or wanted == {"z"}:
                raise DataError(f"{path}: foreign layout: expected arrays z and pos, found {_listed(keys)}")
            optional = {"ptr", "cell", "pbc", "name"} & keys
            arrays = {key: np.asarray(archive[key]) for key in wanted | optional}
    except DataError:
        raise
    except Exception as error:  # numpy, zipfile, zlib and tokenize raise a dozen kinds for damaged archives
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: not a readable .npz archive ({type(error).__name__}: {reason})") from error
    return _assemble(path, arrays, frames if "pos" not in keys else [])


def _assemble(path: Path, arrays: dict[str, NDArray[Any]], frames: list[str]) -> Structures:
    z = _typed(path, arrays, "z", "iu", (None,)).astype(np.int64)
    if frames:
        stacks = [_typed(path, arrays, key, "f", (None, len(z), 3)) for key in frames]
        names = [
            f"{key.removesuffix('_pos')} {k}"
            for key, stack in zip(frames, stacks, strict=True)
            for k in range(len(stack))
        ]
        positions = np.concatenate(stacks).reshape(-1, 3)
        ptr = np.arange(len(names) + 1, dtype=np.int64) * len(z)
        return Structures(
            path.stem, np.tile(z, len(names)), positions.astype(np.float64), ptr, None, None, tuple(names)
        )

    positions = _typed(path, arrays, "pos", "f", (len(z), 3)).astype(np.float64)
    ragged = "ptr" in arrays
    ptr = _typed(path, arrays, "ptr", "iu", (None,)).astype(np.int64) if ragged else np.array([0, len(z)])
    count = len(ptr) - 1
    cell = pbc = None
    if "cell" in arrays:
        cell = (
            _typed(path, arrays, "cell", "f", (count, 3, 3) if ragged else (3, 3)).astype(np.float64).reshape(-1, 3, 3)
        )
        pbc = np.ones((count, 3), dtype=np.bool_)
        if "pbc" in arrays:
            pbc = _typed(path, arrays, "pbc", "b", (count, 3) if ragged else (3,)).reshape(-1, 3)
        if not pbc.any():
            cell = pbc = None
    names = [str(name) for name in _typed(path, arrays, "name", "US", (count,))] if ragged and "name" in arrays else []
    if not names:
        names = [f"{path.stem} {b}" for b in range(count)] if ragged else [path.stem]
    return Structures(path.stem, z, positions, ptr, cell, pbc, tuple(names))


def _typed(
    path: Path, arrays: dict[str, NDArray[Any]], key: str, kinds: str, shape: tuple[int | None, ...]
) -> NDArray[Any]:
    """The array `key`, if its dtype is of one of `kinds` and its shape fits (None fits any length)."""
    array = arrays[key]
    fits = array.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
    if array.dtype.kind not in kinds or not fits:
        kind = {"iu": "integers", "f": "floats", "b": "bool", "US": "strings"}[kinds]
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise DataError(f"{path}: expected {key} to be {kind} of shape ({wanted}), found {array.dtype} {array.shape}")
    return array


def _from_ase(path: Path) -> Structures:
    import ase.io

    try:
        frames: Any = ase.io.read(path.absolute(), ":")
    except ModuleNotFoundError:
        raise
    except Exception as error:  # each of ASE's readers fails in its own way
        reason = " ".join(str(error).split()) or "no reason given"
        raise DataError(f"{path}: ASE cannot read it ({type(error).__name__}: {reason})") from error
    if not frames:
        raise DataError(f"{path}: ASE found no structure in it")
    ptr = np.cumsum([0, *(len(atoms) for atoms in frames)])
    pbc = np.array([atoms.get_pbc() for atoms in frames], dtype=np.bool_)
    cell = np.array([np.asarray(atoms.get_cell()) for atoms in frames], dtype=np.float64) if pbc.any() else None
    formulas = [atoms.get_chemical_formula() for atoms in frames]
    return Structures(
        path.stem,
        np.concatenate([atoms.get_atomic_numbers() for atoms in frames]).astype(np.int64),
        np.concatenate([atoms.get_positions() for atoms in frames]).astype(np.float64),
        ptr.astype(np.int64),
        cell,
        pbc if cell is not None else None,
        tuple(f"{formula} {k}" for k, formula in enumerate(formulas)) if len(formulas) > 1 else (path.stem,),
    )


def _check(path: Path, found: Structures) -> None:
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


def _listed(keys: set[str]) -> str:
    return ", ".join(sorted(keys)[:12]) or "nothing"
