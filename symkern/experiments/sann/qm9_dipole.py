"""Dipole vectors of QM9 molecules: a task on real data in which nothing breaks symmetry.

9,000 molecules of QM9 with RI-MP2/def2-TZVP dipoles in the frame of the geometry (``qm9_mp2_dipole_9k.npz``). A dipole
vector turns with its molecule and has all its symmetries: equivariant models have the right bias, and those that can
break symmetry should lose nothing. No published figures: the table is ours.

A random part of the molecules, by seed, of 2,200 so that the table takes minutes, is divided into training, validation
and test set; trained with the squared error of the vector, labels divided by their root mean square. Errors are means
over test molecules of |d - d_ref| in Debye: "error", "error-turned" after each test molecule was turned at random, and
"spread", by how much predictions then differ from the turned ones: 0 for an equivariant model, and for SANN but in
symmetric molecules, of which QM9 has few.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from symkern.data import DataError, Dataset, archive, find
from symkern.experiments import cells, plots, record
from symkern.experiments.sann import batched_training, vector_models
from symkern.experiments.sann.batched_training import Batch, Recipe
from symkern.experiments.sann.turning import turned
from symkern.nn.basic import check_positive

NAME = "qm9-dipole"
FILE = "qm9_mp2_dipole_9k.npz"
LABEL = "dipole"
DEBYE = 2.541746473  # in one e bohr
MODELS: dict[str, dict[str, Any]] = {
    "SchNet": {"layers": 3, "hidden": 64},
    "EGNN": {"layers": 3, "hidden": 64},
    "PaiNN": {"layers": 3, "hidden": 64},
    "EGNN+MLP": {"layers": 3, "hidden": 64},
    "SANN": {"layers": 2, "hidden": 64},
}
MEAN = "mean of the training set"
SEEDS = 2
SIZES = (1000, 200, 1000)  # training, validation, test
RECIPE = Recipe(epochs=40, batch_size=32, lr=1e-3)
QUICK_SIZES, QUICK_EPOCHS = (200, 50, 200), 4


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
    """Train all models, test them, and write ``out/qm9-dipole.json`` and a plot.

    Args:
        data: ``qm9_mp2_dipole_9k.npz`` or a folder that holds it; SYMKERN_DATA by default.
        quick: 200 molecules, 4 epochs, one seed.
        seeds: how many runs of each model; a seed chooses molecules, weights and order.

    Raises:
        FileNotFoundError: the data set is not there.
        DataError: it is damaged.
        ValueError: it has too few molecules.
        CellError: runs that failed; the others are kept.
    """
    number = seeds if seeds is not None else 1 if quick else SEEDS
    check_positive(seeds=number)
    file = _file(data)
    recipe = replace(RECIPE, epochs=QUICK_EPOCHS) if quick else RECIPE
    sizes = QUICK_SIZES if quick else SIZES
    load(str(file))
    shared = {"file": str(file), "digest": cells.digest(file), "sizes": list(sizes)}
    plan = [
        cells.Cell(
            f"{model}/{seed}",
            train,
            {**shared, "model": model, "size": size, "seed": seed, "recipe": asdict(recipe), "device": device},
        )
        for model, size in MODELS.items()
        for seed in range(number)
    ]
    folder = out / "cells" / (NAME + "-quick" * quick)
    results = cells.run(plan, folder, workers=workers, progress=progress, label=NAME)
    full = not quick and number >= SEEDS
    rows = []
    for model in MODELS:
        found = [results[cell.key] for cell in plan if cell.arguments["model"] == model]
        notes = {
            "unit": "D",
            "best_epoch": [result["best_epoch"] for result in found],
            "parameters": found[0]["parameters"],
        }
        for name in ("error", "error-turned", "spread"):
            rows.append(record.Row(model, f"dipole/{name}", None, [r[name] for r in found], full, notes))
    errors = [mean_error(file, sizes, seed) for seed in range(number)]
    rows.append(record.Row(MEAN, "dipole/error", None, errors, full, {"unit": "D"}))
    settings = {
        "data": FILE,
        "available": load(str(file)).num_structures,
        "sizes": dict(zip(("train", "valid", "test"), sizes, strict=True)),
        "seeds": number,
        "recipe": {**asdict(recipe), "optimizer": "Adam", "schedule": "half a cosine, to 0"},
        "models": MODELS,
        "notes": (__doc__ or "").strip().splitlines(),
        "findings": findings(rows),
    }
    content = record.write(out / f"{NAME}.json", NAME, cells.commits(results), settings, rows)
    plots.bars(out / f"{NAME}.png", content["rows"], title="Dipole vectors of QM9 molecules")
    return content


def findings(rows: Sequence[record.Row]) -> list[str]:
    """Sentences."""
    errors = {row.model: fmean(row.runs) for row in rows if row.column == "dipole/error"}
    after = {row.model: fmean(row.runs) for row in rows if row.column == "dipole/error-turned"}
    listed = ", ".join(f"{model} {value:.3f}" for model, value in sorted(errors.items(), key=lambda item: item[1]))
    worse = [f"{m} {errors[m]:.3f} to {after[m]:.3f}" for m in after if after[m] > 1.05 * errors[m]]
    return [
        f"Mean error of dipole vectors in D: {listed}.",
        "Errors that grow by more than 5 % when the test molecules are turned: " + (", ".join(worse) or "none") + ".",
    ]


# ---- data ------------------------------------------------------------------------------------------------------------


def _file(data: Path | str | None) -> Path:
    for path in find(data):
        if path.name == FILE:
            return path
    where = data or os.environ.get("SYMKERN_DATA")
    raise FileNotFoundError(f"{FILE} not found" + (f" in {where}" if where else ": give --data or SYMKERN_DATA"))


@lru_cache(maxsize=1)
def load(file: str) -> Dataset:
    """Its molecules, with the property "dipole" (B, 3) in Debye; DataError for a file that is damaged."""
    arrays = archive.ragged(Path(file), ["gdb_id", "dipole_mp2"])
    dipole, count = arrays["dipole_mp2"].astype(np.float64), len(arrays["ptr"]) - 1
    if dipole.shape != (count, 3) or not np.isfinite(dipole).all():
        raise DataError(f"{file}: dipole_mp2 must be finite, of shape ({count}, 3), found {dipole.shape}")
    return Dataset(
        z=torch.from_numpy(arrays["z"].astype(np.int64)),
        pos=torch.from_numpy(arrays["pos"].astype(np.float64)),
        ptr=torch.from_numpy(arrays["ptr"]),
        names=tuple(map(str, arrays["gdb_id"].tolist())),
        per_structure={LABEL: DEBYE * torch.from_numpy(dipole)},
    )


def parts(data: Dataset, sizes: Sequence[int], seed: int) -> list[Dataset]:
    """Training, validation and test set; the rest is left out.

    Raises:
        ValueError: there are not so many molecules.
    """
    return data.split([*sizes, "rest"], seed)[:3]


def mean_error(file: Path | str, sizes: Sequence[int], seed: int) -> float:
    """Error of predicting the mean dipole vector of the training set."""
    train, _, test = parts(load(str(file)), sizes, seed)
    return float((test.per_structure[LABEL] - train.per_structure[LABEL].mean(0)).norm(dim=1).mean())


# ---- cells -----------------------------------------------------------------------------------------------------------


def train(
    file: str,
    digest: str,
    sizes: Sequence[int],
    model: str,
    size: Mapping[str, Any],
    seed: int,
    recipe: Mapping[str, Any],
    device: str,
) -> dict[str, Any]:
    """One cell: errors in Debye, and what `fit` returns."""
    how = Recipe(**recipe)
    data = parts(load(file), sizes, seed)
    scale = float(data[0].per_structure[LABEL].square().mean().sqrt())
    module = vector_models.make(model, per="molecule", seed=seed, **size).to(device)

    def batches(part: Dataset, order: int | None = None) -> list[Batch]:
        scaled = replace(part, per_structure={LABEL: part.per_structure[LABEL] / scale})
        return batched_training.batches(module, scaled, LABEL, how.batch_size, seed=order)

    def predicted(members: Sequence[Batch]) -> Tensor:
        module.eval()
        return scale * torch.cat([module(batch.prepared).detach().double().cpu() for batch in members])

    fitted = batched_training.fit(module, batches(data[0], seed), batches(data[1]), _squared, how, seed)
    other, turns = turned(data[2], seed)
    plain, after = predicted(batches(data[2])), predicted(batches(other))
    expected = (turns @ plain.unsqueeze(-1)).squeeze(-1)
    return {
        **fitted,
        "error": _distance(plain, data[2].per_structure[LABEL]),
        "error-turned": _distance(after, other.per_structure[LABEL]),
        "spread": _distance(after, expected),
    }


def _squared(pred: Tensor, batch: Batch) -> Tensor:
    return (pred - batch.target).square().sum(1)


def _distance(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm(dim=1).mean())
