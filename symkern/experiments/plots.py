"""The plot of a table: published figures beside ours, every run a dot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from symkern.experiments import record

_DECADES = 2  # from here on an axis is logarithmic
_IN_LINE = 3


def bars(
    path: Path,
    rows: Sequence[record.Row | Mapping[str, Any]],
    *,
    columns: Sequence[str] | None = None,
    title: str = "",
) -> None:
    """Write a PNG with a panel for each section and column: models downwards, the published figure pale above ours.

    Bars have the color of their mark. Axes are logarithmic where figures span two decades or more; means that are
    zero or not finite are written out.

    Args:
        rows: of `record.write`, as they are or from the JSON file.
        columns: which to show, in this order; by default all.

    Raises:
        ValueError: nothing to show.
        ImportError: matplotlib is not installed.
        OSError: `path` cannot be written to.
    """
    from matplotlib.figure import Figure

    from symkern._figures import png, styled

    plain = [row.as_json() if isinstance(row, record.Row) else row for row in rows]
    order = list(dict.fromkeys(row["column"] for row in plain)) if columns is None else list(columns)
    sections = list(dict.fromkeys(row.get("section") for row in plain))
    lines: list[list[list[Mapping[str, Any]]]] = []
    for section in sections:
        of_section = [row for row in plain if row.get("section") == section]
        panels = [[row for row in of_section if row["column"] == column] for column in order]
        panels = [panel for panel in panels if panel]
        lines += [panels[k : k + _IN_LINE] for k in range(0, len(panels), _IN_LINE)]
    if not lines:
        raise ValueError(f"columns must have rows, got {', '.join(order) or 'none'}")

    across = max(map(len, lines))
    heights = [0.9 + 0.36 * max(map(len, line)) for line in lines]
    figure = Figure(figsize=(4.2 * across, sum(heights) + 0.5), layout="constrained")
    grid = figure.add_gridspec(len(lines), across, height_ratios=heights)
    for k, line in enumerate(lines):
        for j, panel in enumerate(line):
            axes = styled(figure.add_subplot(grid[k, j]))
            _panel(axes, panel)
            section = panel[0].get("section")
            axes.set_title(f"{section or ''}\n{record.heading(panel[0])}".strip(), fontsize=9)
    figure.suptitle(f"{title}\n{_legend(plain)}".strip(), fontsize=9.5)
    path.write_bytes(png(figure))


def _legend(rows: Sequence[Mapping[str, Any]]) -> str:
    parts = ["pale: published · full: ours"] if any(row["paper"] is not None for row in rows) else ["bars: means"]
    parts += ["dots: runs"]
    if any(row.get(key) for row in rows for key in ("mark", "paper_mark")):
        parts.append("green, red: the paper's marks")
    if any(row["status"] == "reduced" for row in rows):
        parts.append("reduced protocol")
    return " · ".join(parts)


def _panel(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    from symkern._figures import INK

    shown = [v for row in rows for v in (row["paper"], row["mean"], *row["runs"]) if v is not None]
    positive = [v for v in shown if v > 0]
    logarithmic = min(shown, default=0) >= 0 and bool(positive) and max(positive) >= 10**_DECADES * min(positive)
    floor = 10 ** math.floor(math.log10(min(positive)) - 0.3) if logarithmic else 0.0
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(floor, 3 * max(positive))

    def bar(y: float, value: float | None, mark: str | None, strength: float) -> None:
        if value is None or (logarithmic and value <= 0):
            text = record.value(value)
            where = axes.get_yaxis_transform()  # x from 0 to 1 across the panel
            axes.text(0.02, y, text, transform=where, fontsize=7, va="center", color=INK)
        else:
            axes.barh(y, value - floor, 0.36, left=floor, color=_color(mark), alpha=strength, lw=0)

    for k, row in enumerate(rows):
        if row["paper"] is not None:
            bar(k - 0.2, row["paper"], row.get("paper_mark"), 0.35)
        bar(k + 0.2, row["mean"], row.get("mark"), 0.9)
        runs = [max(run, floor) if logarithmic else run for run in row["runs"] if run is not None]
        axes.plot(runs, [k + 0.2] * len(runs), "o", color=INK, ms=3.4, mew=0.4, mec="white", alpha=0.8, clip_on=False)
    axes.set_yticks(range(len(rows)), list(map(record.full_name, rows)))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def _color(mark: str | None) -> str:
    from symkern import _figures

    return {"green": _figures.GREEN, "red": _figures.RED, None: _figures.BLUE}[mark]
