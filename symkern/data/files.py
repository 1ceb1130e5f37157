"""Structures from files: NumPy archives (``.npz``) and everything ASE reads. Nothing is downloaded."""

from __future__ import annotations

import os
from pathlib import Path

from symkern.data import archive, ase_files
from symkern.data.structures import DataError, Structures, check

# what a directory is searched for; a file named directly is tried whatever its name is
_ASE_SUFFIXES = {".xyz", ".extxyz", ".cif", ".pdb", ".gro", ".vasp", ".traj", ".mol", ".sdf", ".json", ".db"}
_ASE_NAMES = ("POSCAR", "CONTCAR")


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
    path = existing(path)
    if path.suffix == ".npz":
        found = archive.structures(path, archive.read(path, archive.geometry))
    else:
        found = ase_files.structures(path.stem, ase_files.read(path))
    check(path, found)
    return found


def load(path: Path | str | None = None) -> list[Structures]:
    """Everything at `path` or SYMKERN_DATA; raises as `find` and `read` do."""
    return [read(file) for file in find(path)]


def existing(path: Path | str) -> Path:
    """`path` as a Path; DataError if there is no such file."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return path


def _is_known(file: Path) -> bool:
    return file.suffix in {".npz", *_ASE_SUFFIXES} or file.name.startswith(_ASE_NAMES)
