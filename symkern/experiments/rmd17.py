"""Forces of ethanol from 950 frames of the revised MD17 set, with SchNet and EGNN.

Data: Christensen and von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020), official split 1. Of its 1,000
training frames 50 are held out for validation; errors are of its 1,000 test frames.

Published figures for these models on this set: results of the kgcnn package (Reiser, Eberhard, Friederich, Software
Impacts 9, 100095 (2021)), github.com/aimat-lab/gcnn_keras, training/results/README.md, table "MD17RevisedDataset":
mean absolute error of force components over the five official splits, with all 1,000 frames trained on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from symkern import training
from symkern.data import Dataset, find
from symkern.experiments import record
from symkern.models import EGNN, SchNet
from symkern.nn.basic import check_positive
from symkern.training.recipe import train_potential

# kcal/mol/Å, mean over five splits; the spreads are 0.0115 and 0.0365
PUBLISHED = {"SchNet": 0.4270, "EGNN": 0.5360}
SOURCE = "github.com/aimat-lab/gcnn_keras, training/results/README.md, MD17RevisedDataset, ethanol, kgcnn 2.2.2"

CUTOFF = 5.0
MODELS: dict[str, Callable[[], nn.Module]] = {
    "SchNet": lambda: SchNet(1, 64, 64, 6, 25, CUTOFF),
    "EGNN": lambda: EGNN(1, 64, 4, cutoff=CUTOFF, num_basis=16, kind="bessel", attention=True, tanh=True),
}
SETTINGS = training.Settings(
    epochs=1000,
    batch_size=10,
    eval_batch_size=100,
    learning_rate=1e-3,
    weight_decay=0.0,
    amsgrad=True,
    schedule="cosine",
    min_learning_rate=1e-6,
    warmup_steps=500,
    clip=100.0,
    ema=0.999,
    monitor="forces_mae",
    validate_every=5,
)
TASK = training.EnergyForces(energy_weight=0.01, forces_weight=1.0, loss="mae")


def run(
    data: Path | str | None,
    out: Path,
    *,
    quick: bool = False,
    seeds: int | None = None,
    device: str = "cpu",
    workers: int = 1,
    progress: bool = True,
    models: tuple[str, ...] = tuple(MODELS),
) -> dict[str, Any]:
    """Train each model, test it, and write ``out/rmd17-ethanol.json``; interrupted runs continue where they were.

    Args:
        data: ``rmd17_ethanol.npz``, as `symkern fetch rmd17` writes it, or a folder that holds it; SYMKERN_DATA by
            default.
        quick: 3 epochs instead of 1,000.
        seeds: how many runs of each model, 1 by default (an hour each); a seed chooses validation frames, weights and
            order.
        workers: accepted as by every experiment; runs follow each other, each with all threads of torch.

    Raises:
        FileNotFoundError: the data set is not there.
        DataError, CheckpointError: files that cannot be read.
    """
    seeds = 1 if seeds is None else seeds
    check_positive(seeds=seeds, workers=workers)
    frames = {split: Dataset.read(_file(data), split=split, energy_unit="kcal/mol") for split in ("train", "test")}
    settings = replace(SETTINGS, epochs=3) if quick else SETTINGS
    rows, commits = [], []
    suffix = "-quick" if quick else ""
    for name in models:
        results = [
            _train(name, frames, replace(settings, seed=seed), out / f"{name}-{seed}{suffix}", device, progress)
            for seed in range(seeds)
        ]
        commits += [record.started_at(out / f"{name}-{seed}{suffix}") for seed in range(seeds)]
        for term in ("forces_mae", "energy_mae"):
            paper = PUBLISHED[name] if term == "forces_mae" else None
            runs = [result.test[term] for result in results if result.test is not None]
            notes = {
                "unit": "kcal/mol/Å" if term == "forces_mae" else "kcal/mol",
                "source": SOURCE if paper is not None else None,
                "parameters": sum(p.numel() for p in MODELS[name]().parameters()),
                "best_epoch": [result.best_epoch for result in results],
                "seconds": [round(result.seconds) for result in results],
                "shares": results[0].shares,
            }
            rows.append(record.Row(name, f"ethanol/{term}", paper, runs, not quick, notes))
    described = {
        **settings.to_dict(),
        "energy_weight": TASK.energy_weight,
        "forces_weight": TASK.forces_weight,
        "loss": TASK.loss,
        "models": {name: dict(MODELS[name]().config) for name in models},  # type: ignore[arg-type]
        "train": 950,
        "valid": 50,
        "test": len(frames["test"]),
        "threads": torch.get_num_threads(),
        "notes": (__doc__ or "").strip().splitlines(),
    }
    return record.write(out / "rmd17-ethanol.json", "rmd17-ethanol", commits, described, rows)


def _train(
    name: str, frames: dict[str, Dataset], settings: training.Settings, out: Path, device: str, progress: bool
) -> training.Result:
    record.start(out)
    _, result = train_potential(
        MODELS[name],
        frames["train"],
        settings,
        TASK,
        out=out,
        sizes=(950, "rest"),
        test=frames["test"],
        resume=True,
        device=device,
        progress=progress,
    )
    return result


def _file(data: Path | str | None) -> Path:
    for path in find(data):
        if path.name == "rmd17_ethanol.npz":
            return path
    where = data or os.environ.get("SYMKERN_DATA") or "nowhere: give --data or SYMKERN_DATA"
    raise FileNotFoundError(f"rmd17_ethanol.npz not found in {where}; symkern fetch rmd17 gets it")
