"""From contestants to rows: the part that the tests and the isolated processes share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import machine
from .peers import OURS, Entry
from .report import Row
from .systems import System
from .timing import Race, median_and_iqr


@dataclass(frozen=True)
class Work:
    """The fewest bytes (each input read once, each output written once) and operations that an op needs.

    `block` is the size of its largest output, which decides what pages it gets.
    """

    bytes: float
    flops: float
    block: float


def neighbor_work(system: System, nb: Any) -> Work:
    edges, atoms = nb.num_edges, system.atoms
    shifts = 12 if system.cell is not None else 0
    # one distance of 8 operations for each pair found: what an oracle would need that knows where to look
    return Work(12 * atoms + (16 + shifts) * edges + 8 * (atoms + 1), 8 * edges, 16 * edges)


def rates(threads: int, quick: bool = False) -> tuple[float, float]:
    """Copy and matmul rate at this moment on `threads` threads, which stay set."""
    torch.set_num_threads(threads)
    repeats = 3 if quick else 7
    return machine.copy_rate(repeats), machine.matmul_rate(repeats)


def calls(entries: Sequence[Entry]) -> dict[str, Callable[[], Any]]:
    """The contestants for a Race, by name."""
    named = {entry.name: entry.call for entry in entries}
    assert len(named) == len(entries), f"two contestants have one name: {[entry.name for entry in entries]}"
    return named


def rows(
    entries: Sequence[Entry],
    race: Race,
    op: str,
    system: str,
    threads: int,
    work: Work,
    measured: tuple[float, float],
    note: str = "",
    isa: str | None = None,
) -> list[Row]:
    """One row per contestant; the first is symkern, to which ratios and targets refer.

    `isa` is given for a GPU, where everyone runs on the same and pages are the driver's business.
    """
    made = []
    base: float | None = None
    for entry in entries:
        median, iqr = median_and_iqr(race.samples[entry.name])
        unit, scale = ("µs", 1e6) if median < 1e-3 else ("ms", 1e3)
        ratio = None if base is None else median / base
        base = base or median
        fresh = entry.output == "fresh"
        target, kind, reached = None, None, None
        if entry.target is not None:
            target, kind, reached = entry.target, "at_least", ratio
        elif entry.limit is not None:
            target, kind, reached = entry.limit * scale, "at_most", median * scale
        made.append(
            Row(
                op,
                system,
                entry.who,
                entry.form,
                threads,
                isa or (machine.isa() if entry.who == OURS else "-"),
                entry.dtype,
                entry.output,
                machine.pages(entry.who == OURS, int(work.block)) if fresh and isa is None else "-",
                unit,
                median * scale,
                iqr * scale,
                len(race.samples[entry.name]),
                race.inner[entry.name],
                ratio=ratio,
                bytes=float(work.bytes) or None,  # none where there is hardly anything to do
                flops=float(work.flops) or None,
                copy_gbs=measured[0],
                matmul_gflops=measured[1],
                target=target,
                target_kind=kind,
                reached=reached,
                note=note,
            )
        )
    return made


def tensor_bytes(*tensors: Tensor | None) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)
