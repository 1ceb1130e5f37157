"""The structures that the command line names: files, patterns, directories, standard input."""

from __future__ import annotations

import glob
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from symkern.data import DataError, files
from symkern.data.ase_files import read as read_with_ase

STDIN = "-"


@dataclass(frozen=True)
class Frame:
    """One structure: the file it is from, as named; its number in it; the structure as ase.Atoms."""

    file: str
    number: int
    atoms: Any

    @property
    def name(self) -> str:
        return f"{self.file}, frame {self.number}"


def expand(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Files of all names, each once, and what is wrong with the others. A directory stands for the files in it of known
    kinds; patterns are expanded if the shell has not done it."""
    found: list[str] = []
    wrong: list[str] = []
    for name in names:
        if name == STDIN or Path(name).is_file():
            found.append(name)
        elif Path(name).is_dir():
            try:
                found += map(str, files.find(name))
            except DataError as error:
                wrong.append(str(error))
        elif glob.has_magic(name):
            matched = sorted(path for path in glob.glob(name, recursive=True) if Path(path).is_file())
            found += matched
            wrong += [] if matched else [f"{name}: no file matches this pattern"]
        else:
            wrong.append(f"{name}: no such file or directory")
    return list(dict.fromkeys(found)), wrong


def read(name: str, index: str = ":", format: str | None = None) -> list[Frame]:
    """The frames of one file, checked.

    Args:
        name: the file, or "-" for standard input.
        index: which frames, as ASE writes it: "-1", "0", ":", "::10".
        format: ASE's name of the format, where the file's name or content does not tell; XYZ for standard input.

    Raises:
        DataError: no such file, not readable, no structure in it, or none with such an index.
    """
    from ase import Atoms
    from ase.utils import string2index

    atoms: list[Any]
    if name == STDIN or format is not None:
        atoms = _read_as(name, format or "extxyz")
    elif name.endswith(".npz"):
        held = files.read(name)
        atoms = [
            Atoms(
                held.numbers[a:b],
                held.positions[a:b],
                cell=None if held.cell is None else held.cell[k],
                pbc=False if held.pbc is None else held.pbc[k],
            )
            for k, (a, b) in enumerate(zip(held.ptr[:-1], held.ptr[1:], strict=True))
        ]
    else:
        atoms = read_with_ase(files.existing(name))
    chosen: Any = string2index(index)
    numbers = range(len(atoms))
    try:
        picked = numbers[chosen] if isinstance(chosen, slice) else [numbers[chosen]]
    except IndexError:
        raise DataError(f"{name}: there is no frame {index}, it has {len(atoms)}") from None
    if not picked:
        raise DataError(f"{name}: --index {index} selects none of its {len(atoms)} frames")
    return [Frame(name, k, atoms[k]) for k in picked]


def problem(frame: Frame) -> str | None:
    """Why a structure has no symmetry that could be computed."""
    if not np.isfinite(frame.atoms.get_positions()).all():
        return "positions that are not finite"
    if (frame.atoms.get_atomic_numbers() < 1).any():
        return "atoms of an unknown element"
    return None


def _read_as(name: str, format: str) -> list[Any]:
    import ase.io

    try:
        if name == STDIN:
            return list(ase.io.read(io.StringIO(sys.stdin.read()), ":", format=format))
        return list(ase.io.read(files.existing(name).absolute(), ":", format=format, do_not_split_by_at_sign=True))
    except (ModuleNotFoundError, DataError):
        raise
    except Exception as error:  # each of ASE's readers fails in its own way
        reason = " ".join(str(error).split()) or "no reason given"
        raise DataError(f"{name}: ASE cannot read it as {format} ({type(error).__name__}: {reason})") from error
