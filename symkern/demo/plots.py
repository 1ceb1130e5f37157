"""Figures of the report, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from symkern._figures import BLUE, GREEN, GREY, INK, ORANGE, png, styled
from symkern.demo.results import Timing

_COLORS = (BLUE, ORANGE, GREEN, "#9333ea", "#be123c", "#475569")


def timing_bars(timings: Sequence[Timing], threads: int) -> bytes:
    """Atoms per second of each system, symkern and ASE."""
    figure = Figure(figsize=(9, 0.9 + 0.62 * len(timings)))
    axes = styled(figure.add_subplot())
    at = np.arange(len(timings))[::-1]
    bars = [(f"symkern, {threads} threads", BLUE, [t.rate for t in timings])] if threads > 1 else []
    bars += [
        ("symkern, 1 thread", "#93b7dc", [t.rate_one_thread for t in timings]),
        ("ASE, 1 thread", GREY, [t.ase_rate for t in timings]),
    ]
    height = 0.8 / len(bars)
    for k, (label, color, rates) in enumerate(bars):
        axes.barh(at + 0.4 - (k + 0.5) * height, rates, height * 0.92, color=color, label=label)
        if k in (0, len(bars) - 1):
            for y, rate in zip(at + 0.4 - (k + 0.5) * height, rates, strict=True):
                axes.annotate(
                    _short(rate), (rate, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7.5
                )
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(10 ** np.floor(np.log10(low)), 1.6 * high)  # bars begin at a power of ten
    axes.set_yticks(at, [f"{t.system}, {t.cutoff:g} Å" for t in timings])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("atoms per second (more is better, logarithmic)")
    axes.set_ylim(-0.6, len(timings) - 0.4)
    axes.legend(loc="lower right", ncols=3, frameon=False, fontsize=8.5, bbox_to_anchor=(1, 1))
    return png(figure)


def radial_distribution(
    curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], xlabel: str, faint: str = ""
) -> bytes:
    """g(r) curves by label; the one named `faint` is drawn in the background."""
    figure = Figure(figsize=(7, 3.4))
    axes = styled(figure.add_subplot())
    colors = iter(_COLORS)
    for label, (r, g) in curves.items():
        if label == faint:
            axes.fill_between(r, g, color=GREY, alpha=0.35, lw=0, label=label)
        else:
            axes.plot(r, g, color=next(colors), lw=1.6, label=label)
    shown = max((g.max() for label, (_, g) in curves.items() if label != faint), default=1.0)
    axes.set_ylim(0, 1.2 * shown)
    axes.axhline(1, color=INK, lw=0.6, ls=":")
    axes.set_xlabel(xlabel)
    axes.set_ylabel("g(r)")
    axes.set_xlim(0, max(r[-1] for r, _ in curves.values()))
    axes.legend(frameon=False, fontsize=8.5)
    return png(figure)


def neighbor_counts(counts: Mapping[str, NDArray[np.int64]], cutoff: float) -> bytes:
    """Histograms of the number of neighbors of an atom."""
    figure = Figure(figsize=(7, 3.0))
    axes = styled(figure.add_subplot())
    low, high = min(c.min() for c in counts.values()), max(c.max() for c in counts.values())
    edges = np.arange(low, high + 2) - 0.5
    for (label, values), color in zip(counts.items(), _COLORS, strict=False):
        axes.hist(values, bins=edges.tolist(), color=color, alpha=0.75, label=f"{label}: mean {values.mean():.1f}")
    axes.set_xlabel(f"neighbors within {cutoff:g} Å")
    axes.set_ylabel("atoms")
    axes.legend(frameon=False, fontsize=8.5)
    return png(figure)


def energies(
    total: NDArray[np.float64], kinetic: NDArray[np.float64], builds: Sequence[int], free: int, dt: float
) -> bytes:
    """Energy along a trajectory, in meV per particle, with the steps at which the neighbor list was built."""
    figure = Figure(figsize=(7, 3.4))
    axes = styled(figure.add_subplot())
    at = np.arange(1, len(total) + 1) * dt / 1000
    for label, values, color in (
        ("kinetic", kinetic, ORANGE),
        ("potential", total - kinetic, GREY),
        ("total", total, BLUE),
    ):
        axes.plot(at, values * 1000, color=color, lw=1.6, label=label)
    axes.axvspan(at[-free], at[-1], color=BLUE, alpha=0.07, lw=0)
    axes.annotate(
        "constant energy",
        (at[-free], 0.5),
        xycoords=("data", "axes fraction"),
        xytext=(4, -20),
        textcoords="offset points",
        fontsize=8,
        color=BLUE,
    )
    bottom = axes.get_ylim()[0]
    axes.plot(at[list(builds)], np.full(len(builds), bottom), "|", color=INK, ms=9, label="list built", clip_on=False)
    axes.set_ylim(bottom)
    axes.set_xlabel("time / ps")
    axes.set_ylabel("energy / meV per particle")
    axes.legend(frameon=False, fontsize=8.5, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.16))
    return png(figure)


def derivatives(pairs: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> bytes:
    """Derivatives by backward against finite differences, and their differences; each quantity by its own maximum."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = (styled(axes) for axes in figure.subplots(1, 2))
    left.axline((0, 0), slope=1, color=INK, lw=0.6)
    for k, ((label, (exact, finite)), color) in enumerate(zip(pairs.items(), _COLORS, strict=False)):
        scale = np.abs(finite).max()
        left.plot(finite / scale, exact / scale, "o", color=color, ms=3.5, mew=0, alpha=0.7, label=label, zorder=9 - k)
        error = np.maximum(np.abs(exact - finite) / scale, 1e-16)
        jitter = k + np.linspace(-0.25, 0.25, len(error))
        right.plot(error, jitter, "o", color=color, ms=3, mew=0, alpha=0.6)
    left.set_xlabel("finite difference / largest")
    left.set_ylabel("symkern / largest")
    left.legend(frameon=False, fontsize=8.5)
    right.set_xscale("log")
    right.set_yticks(range(len(pairs)), list(pairs))
    right.invert_yaxis()
    right.set_xlabel("|difference| / largest")
    return png(figure)


def _short(rate: float) -> str:
    return f"{rate / 1e6:.2g} M" if rate >= 1e6 else f"{rate / 1e3:.3g} k"
