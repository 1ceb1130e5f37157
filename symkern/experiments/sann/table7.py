"""Tensor-valued and vector-valued PaiNN on the vibrations of water: Table 7 of the paper on symmetry breaking and SANN.

Tensor-valued: PaiNN's gated equivariant output. Vector-valued: the gradient of one invariant with respect to the
positions. Tasks, protocol, metrics and what the paper leaves open are those of `symkern.experiments.sann.table2`, with
which the runs of the tensor-valued models are shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from symkern.experiments import record
from symkern.experiments.sann import table2, vector_table
from symkern.experiments.sann.table2 import TABLE, published
from symkern.experiments.sann.vector_table import find
from symkern.experiments.sann.water_modes import MODES

SOURCE = "Table 7 of Learning Molecular Symmetry Breaking via Symmetry-Adapted Neural Networks"
# mean and spread of SBCD over ten folds: symmetric, bending, asymmetric
PUBLISHED = {
    "PaiNN": table2.PUBLISHED["PaiNN"],
    "PaiNN+Noise": table2.PUBLISHED["PaiNN+Noise"],
    "PaiNN+MLP": table2.PUBLISHED["PaiNN+MLP"],
    "PaiNN (vector)": ((3.470, 1.300), (7.381, 0.000), (11.19, 14.51)),
    "PaiNN (vector)+Noise": ((6.782, 0.920), (9.017, 5.855), (22.13, 16.86)),
    "PaiNN (vector)+MLP": ((6.240, 2.260), (10.28, 4.690), (4.826, 1.170)),
}


def run(
    data: Path | str | None,
    out: Path,
    *,
    quick: bool = False,
    seeds: int | None = None,
    device: str = "cpu",
    workers: int = 1,
    progress: bool = True,
) -> dict[str, Any]:
    """Train the variants on the three modes; write ``out/sann-table7.json`` and a plot.

    Args:
        data: not used: the task is made here.
        quick, seeds, workers: see `vector_table.run`.

    Returns:
        What the JSON file holds.

    Raises:
        CellError: runs that failed; the others are kept.
    """
    table = replace(
        TABLE,
        name="sann-table7",
        models=tuple(PUBLISHED),
        published=published(PUBLISHED),
        source=SOURCE,
        claimed=(),
        findings=findings,
        notes=__doc__ or "",
        folder=TABLE.name,
    )
    return vector_table.run(table, out, quick=quick, seeds=seeds, device=device, workers=workers, progress=progress)


def findings(rows: Sequence[record.Row]) -> list[str]:
    """Sentences on what the paper's figures and ours mean."""
    lines = []
    for model in ("PaiNN", "PaiNN (vector)"):
        found = [find(rows, model, f"{mode}-converged/matched") for mode in MODES]
        figures = [f"{mode} {max(row.runs):.2g}" for mode, row in zip(MODES, found, strict=True) if row is not None]
        if figures:
            lines.append(f"{model} trained to convergence, largest matched error of any seed: {', '.join(figures)}.")
    lines.append(
        "Both outputs are equivariant, so neither can give the asymmetric mode: what sets tensor and vector apart is "
        "not whether symmetry can be broken."
    )
    return [*lines, table2.gradients(rows), *vector_table.compared(rows)]
