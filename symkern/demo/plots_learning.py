"""Figures of what the demo learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from symkern._figures import BLUE, GREEN, GREY, INK, ORANGE, png, styled

if TYPE_CHECKING:
    from symkern.demo.force_field import Learned
    from symkern.demo.modes import Mode

_ATOMS = {8: ("O", "#be123c", 420), 1: ("H", "#64748b", 200)}


def normal_modes(modes: Sequence[Mode], numbers: Sequence[int], positions: np.ndarray) -> bytes:
    """Each mode with its learned displacements, and the error of learning it."""
    figure = Figure(figsize=(9.4, 5.6), layout="constrained")
    grid = figure.add_gridspec(2, len(modes), height_ratios=(1, 1.3))
    for column, mode in enumerate(modes):
        axes = figure.add_subplot(grid[0, column])
        axes.set_aspect("equal")
        axes.set_axis_off()
        axes.set_xlim(-1.5, 1.5)
        axes.set_ylim(-1.2, 0.3)
        for number, at, true, found in zip(numbers, positions, mode.target, mode.predicted, strict=True):
            name, color, size = _ATOMS[number]
            axes.scatter(at[0], at[2], s=size, color=color, zorder=2)
            axes.annotate(name, (at[0], at[2]), color="white", ha="center", va="center", fontsize=9, zorder=5)
            for shift, style in ((true, GREY), (found, BLUE)):
                if float(shift.norm()) > 0.02:
                    axes.annotate(
                        "",
                        (at[0] + float(shift[0]), at[2] + float(shift[2])),
                        (at[0], at[2]),
                        arrowprops={"arrowstyle": "-|>", "color": style, "lw": 5 if style == GREY else 1.8},
                        zorder=3 if style == GREY else 4,
                    )
        axes.set_title(mode.name, fontsize=10.5, color=INK)
    axes = styled(figure.add_subplot(grid[1, :]))
    for mode, color in zip(modes, (BLUE, GREEN, ORANGE), strict=False):
        axes.plot(
            np.arange(1, len(mode.errors) + 1), np.maximum(mode.errors, 1e-16), color=color, lw=1.7, label=mode.name
        )
    axes.axhline(1.0, color=INK, lw=0.9, ls="--")
    axes.annotate(
        "no equivariant function can be below, for the asymmetric stretch",
        (0.99, 1.0),
        xycoords=("axes fraction", "data"),
        xytext=(0, 5),
        textcoords="offset points",
        ha="right",
        fontsize=8.5,
        color=INK,
    )
    axes.set_yscale("log")
    axes.set_ylim(top=80)
    axes.set_xlabel("training step")
    axes.set_ylabel("squared error (of a mode of norm 1)")
    axes.legend(frameon=False, fontsize=8.5, loc="lower left")
    return png(figure)


def force_field(learned: Learned, step_fs: float) -> bytes:
    """Errors along training, forces on unseen frames, energy along dynamics."""
    figure = Figure(figsize=(9.4, 3.4), layout="constrained")
    left, middle, right = (styled(axes) for axes in figure.subplots(1, 3))
    for (part, errors), color in zip(learned.history.items(), (GREY, BLUE), strict=True):
        left.plot(np.arange(1, len(errors) + 1), errors, color=color, lw=1.7, label=part)
    left.axhline(learned.zero_mae, color=INK, lw=0.8, ls=":", label="predicting zero")
    left.set_yscale("log")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter(NullFormatter())
    left.set_xlabel("epoch")
    left.set_ylabel("force error / eV/Å (mean absolute)")
    left.legend(frameon=False, fontsize=8.5)

    true, found = learned.forces
    limit = float(np.abs(true).max()) * 1.05
    middle.axline((0, 0), slope=1, color=INK, lw=0.7)
    middle.plot(true, found, "o", color=BLUE, ms=1.8, mew=0, alpha=0.35)
    middle.set_xlim(-limit, limit)
    middle.set_ylim(-limit, limit)
    middle.set_aspect("equal")
    middle.set_xlabel("reference force / eV/Å")
    middle.set_ylabel("learned force / eV/Å")

    at = np.arange(len(learned.total)) * step_fs
    potential = learned.total - learned.kinetic
    for label, values, color in (
        ("kinetic", learned.kinetic - learned.kinetic[0], ORANGE),
        ("potential", potential - potential[0], GREY),
        ("total", learned.total - learned.total[0], BLUE),
    ):
        right.plot(at, values * 1000, color=color, lw=1.5, label=label)
    right.set_xlabel("time / fs")
    right.set_ylabel("energy, from the start / meV per atom")
    right.legend(frameon=False, fontsize=8.5)
    return png(figure)
