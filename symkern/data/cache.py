"""Graphs kept on disk between runs."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from symkern import _files
from symkern.data.graphs import Graphs

# raised whenever the stored form or what neighbor_list returns changes
_VERSION = 1


def cached_path(folder: Path, pos: Tensor, cutoff: float, ptr: Tensor, cell: Tensor | None, pbc: Tensor | None) -> Path:
    """The file for exactly these structures: its name holds their hash, so it cannot be out of date."""
    given = [x for x in (pos, ptr, cell, pbc) if x is not None]
    return folder / f"graphs-{digest(given, f'{_VERSION} {float(cutoff)!r}')}.pt"


def load(path: Path) -> Graphs | None:
    """The graphs in `path`; None if there is no such file, and with a warning if it is damaged. Runs no code."""
    if not path.is_file():
        return None
    try:
        stored = _files.read(path)
        parts = [stored[name] for name in ("degrees", "edge_ptr", "relative", "shifts")]
        if stored["digest"] != digest([x for x in parts if x is not None], ""):
            raise ValueError("its contents have changed")
        arrays: list[Any] = [None if x is None else x.numpy() for x in parts]
        return Graphs(*arrays)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        warnings.warn(f"{path}: damaged, built anew ({type(error).__name__}: {reason})", UserWarning, stacklevel=5)
        return None


def store(path: Path, graphs: Graphs) -> None:
    """Whole or not at all; the folder is made if need be."""
    parts = {
        name: None if value is None else torch.from_numpy(np.ascontiguousarray(value))
        for name, value in vars(graphs).items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    _files.write(path, {**parts, "digest": digest([x for x in parts.values() if x is not None], "")})


def digest(tensors: Iterable[Tensor], text: str) -> str:
    state = hashlib.blake2b(text.encode(), digest_size=16)
    for tensor in tensors:
        state.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.contiguous().numpy().data)
    return state.hexdigest()
