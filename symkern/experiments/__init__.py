"""Published results, rerun: one module per experiment, one command for all, ``symkern reproduce NAME``.

Every module has the same function,

    run(data, out, *, quick=False, seeds=None, device="cpu", workers=1, progress=True) -> dict

`data`: file or folder of the data, SYMKERN_DATA by default; `out`: folder for ``NAME.json``, its plots ``NAME*.png``
and what a later run resumes from; `quick`: about a minute, status "reduced"; `seeds`: runs of each model, the paper's
number by default; `workers`: processes. It returns what the JSON file holds, and raises FileNotFoundError where data
are missing.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

# name of the experiment -> the module whose run() does it
NAMES = {
    "asan-table1": "symkern.experiments.asan.table1",
    "asan-table2": "symkern.experiments.asan.table2",
    "asan-table3": "symkern.experiments.asan.table3",
    "sann-table1": "symkern.experiments.sann.table1",
    "sann-table2": "symkern.experiments.sann.table2",
    "sann-table3": "symkern.experiments.sann.table3",
    "sann-table4": "symkern.experiments.sann.table4",
    "sann-table7": "symkern.experiments.sann.table7",
    "qm9-dipole": "symkern.experiments.sann.qm9_dipole",
    "rmd17-ethanol": "symkern.experiments.rmd17",
}

# headings in the report
TITLES = {
    "asan-table1": "ASAN, Table 1: HOMO-LUMO gap, five folds",
    "asan-table2": "ASAN, Table 2: ablations",
    "asan-table3": "ASAN, Table 3: training time",
    "sann-table1": "SANN, Table 1: squares to rectangles",
    "sann-table2": "SANN, Table 2: normal modes of water",
    "sann-table3": "SANN, Table 3: Hirshfeld dipole vectors",
    "sann-table4": "SANN, Table 4: canonical frames",
    "sann-table7": "SANN, Table 7: vector and tensor outputs of PaiNN",
    "qm9-dipole": "Dipole vectors of QM9 molecules",
    "rmd17-ethanol": "Forces of ethanol, revised MD17",
}
# what `all` runs: rmd17-ethanol takes hours and is of neither paper
ALL = tuple(name for name in NAMES if name != "rmd17-ethanol")


def load(name: str) -> Callable[..., Any]:
    """The function that runs the experiment `name`.

    Raises:
        ValueError: no such experiment.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    run: Callable[..., Any] = import_module(NAMES[name]).run
    return run
