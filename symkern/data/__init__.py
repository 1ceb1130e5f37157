"""Structures and labelled data from files, and batches of them for training.

`Structures`, `find`, `read` and `load` need NumPy only; `Dataset`, `Loader` and `Batch` load torch on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from symkern.data.files import find, load, read
from symkern.data.structures import DataError, Structures

_LAZY = {
    "AugmentedLoader": "symkern.data.augment",
    "Batch": "symkern.data.batch",
    "Dataset": "symkern.data.dataset",
    "Loader": "symkern.data.loader",
}

__all__ = ["AugmentedLoader", "Batch", "DataError", "Dataset", "Loader", "Structures", "find", "load", "read"]

if TYPE_CHECKING:
    from symkern.data.augment import AugmentedLoader as AugmentedLoader
    from symkern.data.batch import Batch as Batch
    from symkern.data.dataset import Dataset as Dataset
    from symkern.data.loader import Loader as Loader


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'symkern.data' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
