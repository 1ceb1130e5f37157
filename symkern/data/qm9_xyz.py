"""QM9 as published: a text for each molecule, and a list of those that changed when they were relaxed.

Ramakrishnan et al., Scientific Data 1, 140022 (2014). A text has
    the number of atoms
    ``gdb``, the number of the molecule, and 15 properties, see `PROPERTIES`
    for each atom its element, its position in Å and its charge
    frequencies, SMILES and InChI, which are not read
Small numbers may be written as Mathematica does: ``1.5*^-6``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from symkern.data.structures import DataError

# as in the files: GHz, D, bohr^3, Ha, bohr^2, Ha, cal/mol/K
PROPERTIES = (
    *("A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve"),
    *("u0", "u298", "h298", "g298", "cv"),
)
MOLECULES, UNCHARACTERIZED = 133_885, 3_054
_NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}


class Molecule(NamedTuple):
    """One text: its number, atomic numbers, positions and `PROPERTIES`."""

    identity: int
    z: NDArray[np.int8]
    pos: NDArray[np.float32]
    properties: NDArray[np.float64]


def parse(text: str, where: str) -> Molecule:
    """One molecule; `where` names it in messages.

    Raises:
        DataError: the text has another format.
    """
    lines = text.replace("*^", "e").splitlines()
    try:
        count = int(lines[0])
        tag, identity, *properties = lines[1].split()
        atoms = [line.split() for line in lines[2 : 2 + count]]
        found = Molecule(
            int(identity),
            np.array([_NUMBERS[atom[0]] for atom in atoms], dtype=np.int8),
            np.array([[float(x) for x in atom[1:4]] for atom in atoms], dtype=np.float32),
            np.array([float(value) for value in properties]),
        )
        whole = len(atoms) == count > 0 and all(len(atom) == 5 for atom in atoms)
        if tag != "gdb" or len(properties) != len(PROPERTIES) or not whole:
            raise ValueError(f"{tag!r}, {len(properties)} properties, {len(atoms)} of {count} atoms")
    except (IndexError, KeyError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{where}: expected a molecule in the format of QM9 ({reason})") from error
    return found


def uncharacterized(text: str) -> set[int]:
    """The numbers in the list: first words of its lines, but for head and foot."""
    first = (line.split(maxsplit=1)[0] for line in text.splitlines() if line.strip())
    return {int(word) for word in first if word.isdecimal()}


def arrays(molecules: Iterable[Molecule]) -> dict[str, NDArray[Any]]:
    """What an archive of molecules holds, in the order of their numbers, see `symkern.data.archive`.

    Raises:
        DataError: no molecules, or two of one number.
    """
    found = sorted(molecules, key=lambda molecule: molecule.identity)
    if not found:
        raise DataError("expected molecules of QM9, found none")
    identities = np.array([molecule.identity for molecule in found], dtype=np.int32)
    twice = identities[1:][np.diff(identities) == 0]
    if len(twice):
        raise DataError(f"molecule {twice[0]} of QM9 is there twice")
    properties = np.array([molecule.properties for molecule in found])
    return {
        "z": np.concatenate([molecule.z for molecule in found]),
        "pos": np.concatenate([molecule.pos for molecule in found]),
        "ptr": np.cumsum([0, *(len(molecule.z) for molecule in found)], dtype=np.int64),
        "gdb_id": identities,
        **{name: properties[:, k].copy() for k, name in enumerate(PROPERTIES)},
    }
