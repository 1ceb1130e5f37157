"""Table 3 of the ASAN paper: how long training takes, relative to the baseline.

One epoch on the leak-free training set, batches of 64, one thread: everything from turning the molecules to the
update ("training/relative"), and without the making of batches ("training/relative-step"). Models take turns, so that
a machine that slows down slows all of them; a round gives one figure of each, and the reported runs are rounds.
The paper's "equivariant model" is not named; EGNN stands for it, with 3 layers of 32 features on the complete graph,
which has N (N - 1) edges: O(N²), not the O(N³) of the table. The baseline, the invariant network and ASAN with pooling
"outer" or "gram" fill every molecule up to 15 atoms, so that their cost does not depend on N. Times are those of one
machine.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from symkern import Normalized, training
from symkern.data import Dataset
from symkern.experiments import cells, plots, record
from symkern.experiments.asan import qm9
from symkern.experiments.asan.models import NETWORKS, settings
from symkern.experiments.cells import Cell
from symkern.nn.basic import check_positive
from symkern.training.order import epoch_order, split

NAME = "asan-table3"
SOURCE = "Table 3 of the paper"
# relative training time and complexity
PUBLISHED = {
    "CoordinateMLP": (1.0, "O(N)"),
    "InvariantMLP": (1.5, "O(N²)"),
    "outer": (1.2, "O(N²)"),
    "EGNN": (3.0, "O(N³)"),
}
TITLES = {"EGNN": "Equivariant Model"}
ROUNDS = 9
SHARES = {"relative": "epoch", "relative-step": "steps"}


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
    """Time an epoch of every network; write ``out/asan-table3.json`` and a plot.

    Args:
        data: archives of QM9 or their folder, see `symkern.experiments.asan.qm9`; SYMKERN_DATA by default.
        quick: 2 rounds instead of 9.
        seeds: how many rounds.
        workers: as every experiment has; times are taken in one process, one after the other.

    Raises:
        FileNotFoundError: the data are not there.
    """
    rounds = (2 if quick else ROUNDS) if seeds is None else seeds
    check_positive(seeds=rounds, workers=workers)
    source = qm9.source(data)
    name = f"{NAME}-quick" if quick else NAME
    cell = Cell("times", times, {"data": source, "rounds": rounds, "device": device})
    results = cells.run([cell], out / "cells" / name, workers=1, progress=progress, label=NAME)
    found = results[cell.key]
    full = not quick and rounds >= ROUNDS
    rows = [row for model in NETWORKS for row in _rows(model, found, full=full)]
    described = {
        "batch_size": settings(0).batch_size,
        "rounds": rounds,
        "threads": 1,
        "device": found["device"],
        "notes": (__doc__ or "").strip().splitlines(),
        "findings": findings(found),
    }
    content = record.write(out / f"{NAME}.json", NAME, cells.commits(results), described, rows)
    plots.bars(
        out / f"{NAME}.png",
        content["rows"],
        columns=["training/relative", "training/relative-step"],
        title="ASAN, Table 3: training time",
    )
    return content


def times(data: str | None, rounds: int, device: str) -> dict[str, Any]:
    """Seconds of each round, {model: {"epoch": [...], "steps": [...]}}, and numbers of parameters."""
    train, _ = qm9.split(data, "leak-free")
    trainers = {model: _Trainer(model, train, device) for model in NETWORKS}
    for trainer in trainers.values():
        trainer.epoch(0)  # warm
    seconds: dict[str, dict[str, list[float]]] = {model: {"epoch": [], "steps": []} for model in NETWORKS}
    for number in range(1, rounds + 1):
        for model, trainer in trainers.items():
            epoch, steps = trainer.epoch(number)
            seconds[model]["epoch"].append(epoch)
            seconds[model]["steps"].append(steps)
    parameters = {model: sum(p.numel() for p in trainer.module.parameters()) for model, trainer in trainers.items()}
    kind = torch.cuda.get_device_name() if torch.device(device).type == "cuda" else "cpu"
    return {
        "seconds": seconds,
        "parameters": parameters,
        "device": kind,
        "updates": len(train) // settings(0).batch_size,
    }


class _Trainer:
    """A network with its optimizer: bare steps, without the records of a training run."""

    def __init__(self, model: str, train: Dataset, device: str) -> None:
        network = NETWORKS[model]
        torch.manual_seed(0)
        self.module = Normalized.fit(network.make(5), train, qm9.TARGET).to(device).train()
        self.source = train.loader(network.cutoff, targets=[qm9.TARGET]).augmented()
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=settings(0).learning_rate)
        self.task = training.Property(qm9.TARGET)
        self.device = torch.device(device)

    def epoch(self, number: int) -> tuple[float, float]:
        """Seconds of one epoch, and of its updates alone."""
        steps = 0.0
        begin = self._now()
        self.source.set_epoch(number)
        order = epoch_order(len(self.source), 0, number)
        for index in split(order, settings(0).batch_size, drop_last=True):
            batch = self.source.collate(index).to(self.device)
            before = self._now()
            total, count = self.task(self.module, batch)[f"{qm9.TARGET}_mse"]
            self.optimizer.zero_grad()
            (total / count).backward()
            self.optimizer.step()
            steps += self._now() - before
        return self._now() - begin, steps

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _rows(model: str, found: Mapping[str, Any], *, full: bool) -> list[record.Row]:
    paper, complexity = PUBLISHED.get(model, (None, None))
    title = TITLES.get(model, NETWORKS[model].title)
    notes: dict[str, Any] = {
        "construction": "EGNN" if model == "EGNN" else NETWORKS[model].construction,
        "parameters": found["parameters"][model],
    }
    published = {"source": SOURCE, "paper_complexity": complexity} if paper is not None else {}
    rows = []
    for column, share in SHARES.items():
        relative = _relative(model, share, found)
        more = {**published, "median": median(relative)}
        rows.append(record.Row(title, f"training/{column}", paper, relative, full, {**notes, **more}))
    per_update = [1e3 * s / found["updates"] for s in found["seconds"][model]["steps"]]
    rows.append(record.Row(title, "training/step", None, per_update, full, {**notes, "unit": "ms"}))
    return rows


def _relative(model: str, share: str, found: Mapping[str, Any]) -> list[float]:
    """Times of a round, relative to those of the baseline in the same round."""
    own, base = (found["seconds"][m][share] for m in (model, "CoordinateMLP"))
    return [mine / other for mine, other in zip(own, base, strict=True)]


def findings(found: Mapping[str, Any]) -> list[str]:
    """What the figures say about the paper's, in sentences."""

    def relative(model: str, share: str) -> float:
        return fmean(_relative(model, share, found))

    return [
        "Time of an epoch relative to the baseline, mean of the rounds (of its updates alone): "
        + ", ".join(
            f"{TITLES.get(m, NETWORKS[m].title)} {relative(m, 'epoch'):.2f} ({relative(m, 'steps'):.2f})"
            + (f", paper {PUBLISHED[m][0]:.1f}" if m in PUBLISHED else "")
            for m in NETWORKS
        )
        + ".",
        "The paper's own three networks fill every molecule up to 15 atoms: their work does not depend on N. That of "
        "EGNN grows as N², the edges of the complete graph.",
    ]
