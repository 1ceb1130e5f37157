"""The QM9 sample of the ASAN tables: HOMO-LUMO gaps (Ha) of small molecules, in a clean split and in one that leaks.

The paper takes "a 1,000-molecule subset" and splits it 800 : 200. The data published with it, after its filter for at
most 15 atoms, are 683 to train and 197 to test on, and the 197 are the first of the 683. Here the sample is the
first 1,000 molecules of at most 15 atoms in our copy of QM9, which has no fluorine and about a third of all molecules:

- "leak-free": 800 of them, chosen at random, to train on, the other 200 to test on;
- "leaky": the first 683 to train on, of which the first 197 are the test set, as published.

Which molecules these are is stored in ``data/asan_qm9.json``, by their number in QM9 (the N of dsgdb9nsd_N), so that
they are the same ones in all of QM9, as `symkern fetch qm9` writes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from symkern.data import Dataset, archive, find

STORED = Path(__file__).parents[1] / "data" / "asan_qm9.json"
SPLITS = ("leak-free", "leaky")
TARGET = "gap"
WHOLE = "qm9.npz"
MAX_ATOMS = 15
_SAMPLE, _TRAIN, _LEAKY_TRAIN, _LEAKY_TEST = 1000, 800, 683, 197
_KEYS = ("z", "pos", "ptr", "gdb_id", TARGET)


def stored() -> dict[str, dict[str, list[int]]]:
    """Numbers in QM9 by split, and by "train" and "test"."""
    found: dict[str, dict[str, list[int]]] = json.loads(STORED.read_text(encoding="utf-8"))
    return found


def derive(identities: Sequence[int], atoms: Sequence[int]) -> dict[str, dict[str, list[int]]]:
    """What `stored` holds, from the numbers in QM9 and numbers of atoms of all molecules at hand."""
    small = sorted(i for i, n in zip(identities, atoms, strict=True) if n <= MAX_ATOMS)[:_SAMPLE]
    order = np.random.default_rng(0).permutation(len(small))
    train, test = ([small[k] for k in sorted(part)] for part in (order[:_TRAIN], order[_TRAIN:]))
    return {
        "leak-free": {"train": train, "test": test},
        "leaky": {"train": small[:_LEAKY_TRAIN], "test": small[:_LEAKY_TEST]},
    }


def split(data: str | None, name: str) -> tuple[Dataset, Dataset]:
    """Training and test molecules, with the property "gap" in Ha, in the order of `stored`.

    Args:
        data: an archive of QM9 or a folder with ``qm9*.npz``; SYMKERN_DATA by default.
        name: one of `SPLITS`.

    Raises:
        FileNotFoundError: none of the files is QM9, or molecules are missing.
    """
    parts = stored()[name]
    whole, row = _sample(data)
    train, test = (whole.subset([row[i] for i in parts[part]]) for part in ("train", "test"))
    return train, test


def source(data: Path | str | None) -> str | None:
    """Where the data are, as it stands among the arguments of cells.

    Raises:
        FileNotFoundError: they are not there, as in `split`.
        DataError: an archive is damaged.
    """
    given = data or os.environ.get("SYMKERN_DATA")
    where = None if given is None else str(given)
    _sample(where)
    return where


@lru_cache(maxsize=2)
def _sample(data: str | None) -> tuple[Dataset, dict[int, int]]:
    """The molecules of all splits, and where each is."""
    wanted = sorted({i for parts in stored().values() for part in parts.values() for i in part})
    molecules: dict[int, tuple[Any, Any, float]] = {}
    for arrays in _archives(data):
        z, pos, ptr, identities, gap = arrays
        for k in np.flatnonzero(np.isin(identities, wanted)):
            atoms = slice(ptr[k], ptr[k + 1])
            molecules[int(identities[k])] = z[atoms].astype(np.int64), pos[atoms].astype(np.float64), float(gap[k])
    missing = [i for i in wanted if i not in molecules]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(wanted)} molecules of QM9 that {STORED.name} lists are not in {_where(data)}: "
            f"dsgdb9nsd_{missing[0]:06d} is the first; symkern fetch qm9 gets {WHOLE}, which has them"
        )
    z, pos, gap = zip(*(molecules[i] for i in wanted), strict=True)
    whole = Dataset(
        torch.from_numpy(np.concatenate(z)),
        torch.from_numpy(np.concatenate(pos)),
        torch.tensor([0, *np.cumsum([len(x) for x in z])]),
        names=[f"dsgdb9nsd_{i:06d}" for i in wanted],
        per_structure={TARGET: torch.tensor(gap, dtype=torch.float64)},
    )
    return whole, {i: k for k, i in enumerate(wanted)}


def _archives(data: str | None) -> list[list[Any]]:
    """The arrays of each archive of QM9; only of that of all molecules if it is there."""
    found = []
    for path in sorted(find(data), key=lambda path: path.name != WHOLE):
        if path.suffix == ".npz" and path.name.startswith("qm9"):
            arrays = archive.read(path, lambda _, keys: keys & set(_KEYS))
            if len(arrays) == len(_KEYS):
                found.append([arrays[key] for key in _KEYS])
                if path.name == WHOLE:
                    break
    if not found:
        raise FileNotFoundError(
            f"no archive qm9*.npz with {', '.join(_KEYS)} found in {_where(data)}; symkern fetch qm9 gets one"
        )
    return found


def _where(data: str | None) -> str:
    return str(data or os.environ.get("SYMKERN_DATA") or "nowhere: give --data or SYMKERN_DATA")
