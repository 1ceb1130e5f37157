"""Structures through ASE: every format of `ase.io`, and ASE databases with their key-value pairs and data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from symkern.data.structures import DataError, Structures

_SQLITE = b"SQLite format 3\0"


def read(path: Path) -> list[Any]:
    """The frames of a file as ase.Atoms, at least one. Rows of a database keep their pairs and data in `info`.

    Raises:
        DataError: ASE cannot read the file, or finds no structure in it.
        ModuleNotFoundError: ASE is not installed.
    """
    import ase.io

    frames: Any
    try:
        if path.suffix in (".db", ".json"):
            frames = _rows(path)
        else:
            # "@" in a file's name is no index
            frames = ase.io.read(path.absolute(), ":", do_not_split_by_at_sign=True)
    except (ModuleNotFoundError, DataError):
        raise
    except Exception as error:  # each of ASE's readers fails in its own way
        reason = " ".join(str(error).split()) or "no reason given"
        raise DataError(f"{path}: ASE cannot read it ({type(error).__name__}: {reason})") from error
    if not frames:
        raise DataError(f"{path}: ASE found no structure in it")
    return list(frames)


def _rows(path: Path) -> list[Any]:
    import ase.db

    kind = path.suffix.removeprefix(".")
    with open(path, "rb") as file:
        if kind == "db" and file.read(len(_SQLITE)) != _SQLITE:  # ASE would turn an empty file into a database
            raise DataError(f"{path}: ASE cannot read it (not an SQLite database)")
    # the metadata stay unread: units that another program noted there are for the user to state
    connect: Any = ase.db.connect
    return [row.toatoms(add_additional_information=True) for row in connect(path.absolute(), type=kind).select()]


def structures(source: str, frames: Sequence[Any]) -> Structures:
    """The geometry of ase.Atoms; the cell is None where no frame is periodic. Names are info["name"], or formulas."""
    pbc = np.array([atoms.get_pbc() for atoms in frames], dtype=np.bool_).reshape(-1, 3)
    cell = np.array([np.asarray(atoms.get_cell()) for atoms in frames], dtype=np.float64) if pbc.any() else None
    names = [str(atoms.info.get("name", f"{atoms.get_chemical_formula()} {k}")) for k, atoms in enumerate(frames)]
    return Structures(
        source,
        np.concatenate([np.zeros(0, np.int64), *(atoms.get_atomic_numbers() for atoms in frames)]).astype(np.int64),
        np.concatenate([np.zeros((0, 3)), *(atoms.get_positions() for atoms in frames)]).astype(np.float64),
        np.cumsum([0, *(len(atoms) for atoms in frames)]).astype(np.int64),
        cell,
        pbc if cell is not None else None,
        (source,) if len(frames) == 1 and "name" not in frames[0].info else tuple(names),
    )
