"""NumPy archives of structures.

They hold ``z`` (atomic numbers) and ``pos`` (Å), and by kind
    one system      z (N,), pos (N, 3)                  optional cell (3, 3), pbc (3,)
    ragged set      z (N,), pos (N, 3), ptr (B + 1,)    optional cell (B, 3, 3), pbc (B, 3), name (B,)
    trajectories    z (n,), <split>_pos (frames, n, 3)  optional cell (3, 3), pbc (3,) for all frames, or
                                                        <split>_cell (frames, 3, 3), <split>_pbc (frames, 3)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symkern.data.structures import DataError, Structures, check

Arrays = dict[str, NDArray[Any]]
_OPTIONAL = {"ptr", "cell", "pbc", "name"}


def read(path: Path, choose: Callable[[Path, set[str]], Iterable[str]]) -> Arrays:
    """The arrays of an archive whose names ``choose(path, names)`` returns; pickled objects are not read.

    Raises:
        DataError: not a readable archive, or what `choose` raises.
    """
    try:
        # pickled objects could run code: never
        opened = np.load(path, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: a bare array, expected an .npz archive")
        with opened as archive:
            return {key: _array(archive, key) for key in choose(path, set(archive.keys()))}
    except DataError:
        raise
    except Exception as error:  # numpy, zipfile, zlib and tokenize raise a dozen kinds for damaged archives
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: not a readable .npz archive ({type(error).__name__}: {reason})") from error


def ragged(path: Path, names: Iterable[str] = ()) -> Arrays:
    """``z``, ``pos``, ``ptr`` and further arrays of a ragged set, checked.

    Raises:
        DataError: not a readable archive, one of them missing, or values that make no sense.
    """
    wanted = {"z", "pos", "ptr", *names}

    def choose(path: Path, keys: set[str]) -> set[str]:
        if wanted - keys:
            raise DataError(f"{path}: has no {listed(wanted - keys)}; expected {listed(wanted)}")
        return wanted

    arrays = read(path, choose)
    check(path, structures(path, arrays))
    return arrays


def _array(archive: Any, key: str) -> NDArray[Any]:
    """One array; an empty one in place of pickled objects, which are not read."""
    try:
        return np.asarray(archive[key])
    except ValueError as error:
        if "Object arrays" in str(error):
            return np.empty(0, dtype=object)
        raise


def splits(keys: Iterable[str]) -> list[str]:
    """The names of the trajectories among these arrays; none where ``pos`` is there."""
    keys = set(keys)
    return [] if "pos" in keys else sorted(key.removesuffix("_pos") for key in keys if key.endswith("_pos"))


def geometry(path: Path, keys: set[str]) -> set[str]:
    """Which arrays `structures` needs; DataError if they are not there."""
    found = splits(keys)
    if "z" not in keys or not ("pos" in keys or found):
        raise DataError(f"{path}: foreign layout: expected arrays z and pos, found {listed(keys)}")
    own = {f"{split}_{what}" for split in found for what in ("pos", "cell", "pbc")}
    return keys & {"z", "pos", *_OPTIONAL, *own}


def structures(path: Path, arrays: Arrays) -> Structures:
    """The structures that `arrays` describe; DataError for wrong types and shapes."""
    z = _typed(path, arrays, "z", "iu", (None,)).astype(np.int64)
    found = splits(arrays)
    return _trajectories(path, arrays, z, found) if found else _set(path, arrays, z)


def _set(path: Path, arrays: Arrays, z: NDArray[np.int64]) -> Structures:
    positions = _typed(path, arrays, "pos", "f", (len(z), 3)).astype(np.float64)
    ragged = "ptr" in arrays
    ptr = _typed(path, arrays, "ptr", "iu", (None,)).astype(np.int64) if ragged else np.array([0, len(z)])
    count = len(ptr) - 1
    cell, pbc = _periodicity(path, arrays, "", count if ragged else None, count)
    if pbc is not None and not pbc.any():
        cell = pbc = None
    names = [str(name) for name in _typed(path, arrays, "name", "US", (count,))] if ragged and "name" in arrays else []
    if not names:
        names = [f"{path.stem} {b}" for b in range(count)] if ragged else [path.stem]
    return Structures(path.stem, z, positions, ptr, cell, pbc, tuple(names))


def _trajectories(path: Path, arrays: Arrays, z: NDArray[np.int64], found: list[str]) -> Structures:
    stacks, names, cells, flags = [], [], [], []
    for split in found:
        stack = _typed(path, arrays, f"{split}_pos", "f", (None, len(z), 3))
        own = f"{split}_cell" in arrays
        cell, pbc = _periodicity(path, arrays, f"{split}_" if own else "", len(stack) if own else None, len(stack))
        stacks.append(stack)
        names += [f"{split} {k}" for k in range(len(stack))]
        cells.append(np.zeros((len(stack), 3, 3)) if cell is None else cell)
        flags.append(np.zeros((len(stack), 3), dtype=np.bool_) if pbc is None else pbc)
    pbc = np.concatenate(flags)
    return Structures(
        path.stem,
        np.tile(z, len(names)),
        np.concatenate(stacks).reshape(-1, 3).astype(np.float64),
        np.arange(len(names) + 1, dtype=np.int64) * len(z),
        np.concatenate(cells) if pbc.any() else None,
        pbc if pbc.any() else None,
        tuple(names),
    )


def _periodicity(
    path: Path, arrays: Arrays, prefix: str, count: int | None, repeat: int
) -> tuple[NDArray[np.float64] | None, NDArray[np.bool_] | None]:
    """Cells and pbc of `count` structures, or of one (None) that stands for `repeat`; None without a cell."""
    if f"{prefix}cell" not in arrays:
        return None, None
    leading = () if count is None else (count,)
    cell = _typed(path, arrays, f"{prefix}cell", "f", (*leading, 3, 3)).astype(np.float64)
    pbc = np.ones((*leading, 3), dtype=np.bool_)
    if f"{prefix}pbc" in arrays:
        pbc = _typed(path, arrays, f"{prefix}pbc", "b", (*leading, 3))
    return np.array(np.broadcast_to(cell, (repeat, 3, 3))), np.array(np.broadcast_to(pbc, (repeat, 3)))


def _typed(path: Path, arrays: Arrays, key: str, kinds: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
    """The array `key`, if its dtype is of one of `kinds` and its shape fits (None fits any length)."""
    array = arrays[key]
    if array.dtype == object:
        raise DataError(f"{path}: {key} holds pickled objects, which are never read")
    fits = array.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
    if array.dtype.kind not in kinds or not fits:
        kind = {"iu": "integers", "f": "floats", "b": "bool", "US": "strings"}[kinds]
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise DataError(f"{path}: expected {key} to be {kind} of shape ({wanted}), found {array.dtype} {array.shape}")
    return array


def listed(names: Iterable[str]) -> str:
    """The first dozen names, for messages."""
    names = sorted(names)
    return ", ".join(names[:12]) + (" ..." if len(names) > 12 else "") or "nothing"
