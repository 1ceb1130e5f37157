"""The labels of NumPy archives, see `symkern.data.archive` for their layouts.

Next to the geometry an archive holds properties under any name. Their leading dimensions tell what they belong to:
    one system      per structure (...), per atom (N, ...)
    ragged set      per structure (B, ...), per atom (N, ...)
    trajectories    <split>_<name>: per structure (frames, ...), per atom (frames, n, ...)
String arrays ``per_structure`` and ``per_atom`` may list names where the shapes leave it open, and ``energy_unit`` says
the unit of energy, forces and stress.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symkern.data.archive import Arrays, geometry, read, splits, structures
from symkern.data.labels import Labels, Request, ambiguous, is_numeric
from symkern.data.structures import DataError, Structures

NOTES = ("energy_unit", "per_structure", "per_atom")


def read_labelled(path: Path, split: str | None, request: Request) -> tuple[Structures, Labels, str | None]:
    """Geometry, labels and unit of energy (None: not stated) of one archive.

    Raises:
        DataError: as `symkern.data.archive`, or no such split, or one is needed.
        ValueError: labels that are ambiguous or missing.
    """
    arrays = read(path, lambda path, keys: _of_split(path, keys, split))
    unit, request = _notes(arrays, request)
    needed = geometry(path, set(arrays))
    found = structures(path, {key: arrays[key] for key in needed})
    prefix = "".join(f"{name}_" for name in splits(arrays))
    labels = Labels()
    place = _placing(arrays, found, prefix)
    for key in sorted(set(arrays) - needed):
        name, array = key.removeprefix(prefix), arrays[key]
        target = request.target(name)
        if target is None:
            labels.left_out[name] = f"{getattr(request, name)} takes its place"
        elif prefix and not key.startswith(prefix):
            labels.left_out[key] = f"belongs to no split, which {prefix}{key} would"
        elif not is_numeric(array):
            labels.left_out[name] = f"not numbers: {array.dtype}"
        else:
            placed = place(name, array, request.kind(name))
            if isinstance(placed, str):
                labels.left_out[name] = placed
            else:
                labels.add(target, *placed)
    labels.check(request)
    return found, labels, unit


def _of_split(path: Path, keys: set[str], split: str | None) -> set[str]:
    """The names of one split's arrays and of those that belong to none."""
    geometry(path, keys)
    found = splits(keys)
    if not found:
        if split is not None:
            raise DataError(f"{path}: there are no splits in it, expected split=None, got {split!r}")
        return keys
    if split is None and len(found) > 1:
        raise DataError(f"{path}: holds {len(found)} splits, pass split= one of: {', '.join(found)}")
    split = found[0] if split is None else split
    if split not in found:
        raise DataError(f"{path}: no split {split!r}; found: {', '.join(found)}")

    def owner(key: str) -> str | None:  # the longest, as "a" and "a_b" may both be splits
        return max((name for name in found if key.startswith(f"{name}_")), key=len, default=None)

    return {key for key in keys if owner(key) in (None, split)}


def _notes(arrays: Arrays, request: Request) -> tuple[str | None, Request]:
    """Takes the arrays about the others out of `arrays`."""
    notes = {}
    for key in NOTES:
        array = arrays.pop(key, np.zeros(0, dtype="U1"))
        if array.dtype.kind not in "US" or (key == "energy_unit" and array.size > 1):
            raise ValueError(f"{key} must be {'one string' if key == 'energy_unit' else 'strings'}, got {array.dtype}")
        notes[key] = [str(text) for text in array.astype("U").reshape(-1)]
    stated = set(request.per_structure) | set(request.per_atom)
    return next(iter(notes["energy_unit"]), None), replace(
        request,
        per_structure=[*request.per_structure, *(name for name in notes["per_structure"] if name not in stated)],
        per_atom=[*request.per_atom, *(name for name in notes["per_atom"] if name not in stated)],
    )


_Placed = tuple[str, NDArray[Any]] | str


def _placing(arrays: Arrays, found: Structures, prefix: str) -> Callable[[str, NDArray[Any], str | None], _Placed]:
    """How arrays of this layout are told apart: (kind, array with leading dimension B or N), or why it is neither."""
    atoms, count = found.num_atoms, found.num_structures
    if prefix:
        each = atoms // max(count, 1)
        lead: tuple[tuple[int, ...], tuple[int, ...]] = ((count,), (count, each))
    else:
        lead = ((count,) if "ptr" in arrays else (), (atoms,))
    per_structure, per_atom = lead

    def place(name: str, array: NDArray[Any], kind: str | None) -> _Placed:
        fits = {
            "structure": array.shape[: len(per_structure)] == per_structure,
            "atom": array.shape[: len(per_atom)] == per_atom,
        }
        if kind is None and all(fits.values()):
            if not prefix and per_structure:
                raise ambiguous(name, f"has shape {array.shape} and there are as many atoms as structures")
            # the leading numbers agree with the atoms; only three of them may be components of a vector instead
            if array.shape[len(per_structure) :] in ((3,), (3, 3)):
                raise ambiguous(name, f"has shape {array.shape} and there are three atoms")
            kind = "atom"
        kind = kind or next((kind for kind, fit in fits.items() if fit), None)
        if kind is None or not fits[kind]:
            wanted = " or ".join(str(shape) for shape in ([*lead] if kind is None else [lead[kind == "atom"]]))
            return f"shape {array.shape}, expected one that begins with {wanted}"
        own = lead[kind == "atom"]
        return kind, array.reshape(atoms if kind == "atom" else count, *array.shape[len(own) :])

    return place
