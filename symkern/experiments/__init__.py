"""Published results, rerun: one module per experiment, one command for all, ``symkern reproduce NAME``."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

# name of the experiment -> the module whose run() does it
NAMES = {
    "rmd17-ethanol": "symkern.experiments.rmd17",
    "sann-table4": "symkern.experiments.sann_table4",
}


def load(name: str) -> Callable[..., Any]:
    """The function that runs the experiment `name`.

    Raises:
        ValueError: no such experiment.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    run: Callable[..., Any] = import_module(NAMES[name]).run
    return run
