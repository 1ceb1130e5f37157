"""How many structures have vectors of lower symmetry than their positions, by the tolerance of both.

A closed-shell density has every symmetry of its nuclei. A structure whose Hirshfeld vectors seem to break the symmetry
of the positions is thus one whose positions break it, by less than the tolerance they were compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from symkern.data import Dataset
from symkern.experiments import record
from symkern.experiments.sann import qm7x

COUNTED = (225, 255)  # structures of the paper's selection, by its section 6.3 and by its appendix C.2
SECTION = "broken structures"
TOLERANCES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2)  # Å
VECTOR_TOLERANCES = (0.003, 0.01, 0.03)  # e bohr
_MOVED = 0.01  # Å: from here on a structure counts as displaced


def count(data: Dataset) -> list[dict[str, Any]]:
    """For each tolerance of positions: structures with symmetry, those whose vectors have less, by their tolerance."""
    counts = []
    for tolerance in TOLERANCES:
        found = qm7x.residuals(data, tolerance)
        counts.append(
            {
                "tolerance": tolerance,
                "symmetric": int(found.symmetric.sum()),
                "broken": {str(t): int((found.vectors > t).sum()) for t in VECTOR_TOLERANCES},
                "selected": len(qm7x.select(data, tolerance)),
            }
        )
    return counts


def rows(counts: Sequence[Mapping[str, Any]], *, published: bool) -> list[record.Row]:
    """Of the results of `count`; the paper's figure is that of QM7-X, the published set: only there status "full"."""
    found = []
    for entry in counts:
        column = f"tolerance {entry['tolerance']:g} Å/structures"
        paper = COUNTED[0] if published and entry["tolerance"] == qm7x.POSITION_TOLERANCE else None
        found.append(record.Row("symmetric", column, None, [entry["symmetric"]], published, {"section": SECTION}))
        for tolerance, count in entry["broken"].items():
            model = f"vectors miss by more than {tolerance} e bohr"
            found.append(record.Row(model, column, None, [count], published, {"section": SECTION}))
        notes = {"section": SECTION}
        found.append(record.Row("selected, with their molecules", column, paper, [entry["selected"]], published, notes))
    return found


def findings(data: Dataset, counts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences about the results of `count`."""
    by_tolerance = {entry["tolerance"]: entry["broken"][str(qm7x.VECTOR_TOLERANCE)] for entry in counts}
    exact = qm7x.residuals(data.subset(data.per_structure["relaxed"]), TOLERANCES[0])
    found = qm7x.residuals(data, qm7x.POSITION_TOLERANCE)
    moved = found.positions > _MOVED
    lines = [
        f"Structures, of {data.num_structures}, whose vectors have a lower symmetry than their positions (by more than "
        f"{qm7x.VECTOR_TOLERANCE:g} e bohr), by the tolerance of positions in Å: "
        + ", ".join(f"{count} at {tolerance:g}" for tolerance, count in by_tolerance.items())
        + ".",
    ]
    if exact.symmetric.any():
        lines.append(
            f"{int(exact.symmetric.sum())} relaxed structures are symmetric to {float(exact.positions.max()):.0e} Å; "
            f"their vectors are so to {float(exact.vectors.max()):.0e} e bohr: nothing is broken where the input is "
            "symmetric."
        )
    if moved.any():
        ends = torch.tensor([0.05, 0.95], dtype=found.vectors.dtype)
        low, high = (found.vectors[moved] / found.positions[moved]).quantile(ends).tolist()
        lines.append(
            f"What is broken at {qm7x.POSITION_TOLERANCE:g} Å is the symmetry of the positions: vectors miss their "
            f"images by {low:.2g} to {high:.2g} e bohr for each Å by which positions do (90 % of structures)."
        )
    return lines


def plot(path: Path, data: Dataset, counts: Sequence[Mapping[str, Any]]) -> None:
    """Left, counts by the tolerance of positions; right, by how much vectors and positions miss their images."""
    from matplotlib.figure import Figure

    from symkern._figures import BLUE, GREY, INK, ORANGE, RED, png, styled

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = (styled(axes) for axes in figure.subplots(1, 2))
    x = [entry["tolerance"] for entry in counts]
    left.plot(x, [entry["symmetric"] for entry in counts], "o-", color=INK, ms=4, label="positions have symmetry")
    for tolerance, color in zip(VECTOR_TOLERANCES, (ORANGE, BLUE, RED), strict=True):
        y = [entry["broken"][str(tolerance)] for entry in counts]
        left.plot(x, y, "o-", color=color, ms=4, label=f"vectors miss it by more than {tolerance:g} e bohr")
    left.set(xscale="log", xlabel="tolerance of positions, Å", ylabel=f"structures, of {data.num_structures}")
    left.set_ylim(0)
    left.legend(fontsize=7.5)
    found = qm7x.residuals(data, qm7x.POSITION_TOLERANCE)
    relaxed = data.per_structure["relaxed"]
    for mask, color, label in ((relaxed, ORANGE, "relaxed"), (~relaxed, BLUE, "displaced")):
        mask = mask & found.symmetric
        missed = found.positions[mask].clamp(min=1e-8), found.vectors[mask].clamp(min=1e-8)
        right.plot(*missed, "o", color=color, ms=3, alpha=0.6, label=label)
    right.axhline(qm7x.VECTOR_TOLERANCE, color=GREY, lw=1, label="counted as broken above")
    xlabel = f"positions miss their images by, Å (operations at {qm7x.POSITION_TOLERANCE:g} Å)"
    right.set(xscale="log", yscale="log", xlabel=xlabel, ylabel="vectors miss theirs by, e bohr")
    right.legend(fontsize=7.5)
    path.write_bytes(png(figure))
