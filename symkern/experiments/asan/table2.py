"""Table 2 of the ASAN paper: without its symmetry layer, without augmentation, with twice as many angles.

For each reading of its pooling, with Table 1's data, folds and training; the baseline without augmentation is beside
it, since the paper says that it suffers most. Changes are those of the same fold of the same reading of ASAN: weights,
order and rotations are the same, so that only what is named differs. Errors are of the test molecules as they lie in
QM9, and ("turned") of 64 random orientations of each.

What to expect: uniformly turned copies x Q have the same distribution as x Q R, so the expected loss of an augmented
network does not depend on the rotation R that the symmetry layer learns, in any reading, and the layer can change
nothing but the noise of training. With pooling "gram" the features themselves do not depend on R.
``settings["gradient"]`` holds what the loss of a network says about the angles: its gradient for molecules as stored,
and its mean over random orientations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import torch

from symkern import Normalized
from symkern.data.augment import random_rotations
from symkern.experiments import cells, plots, record
from symkern.experiments.asan import models, qm9, table1
from symkern.experiments.asan.models import EV, NETWORKS
from symkern.experiments.asan.table1 import SECTIONS, TASKS, folds
from symkern.experiments.cells import Cell
from symkern.nn.basic import check_positive
from symkern.training.order import derived_seed

NAME = "asan-table2"
SOURCE = "Table 2 of the paper"
READINGS = ("outer", "gram", "moment")
FULL = "ASAN"  # "ASAN (Baseline)" in the paper
# the paper's MAE, its change against ASAN, and what differs
ABLATIONS: dict[str, tuple[float, float | None, dict[str, Any]]] = {
    FULL: (0.0460, None, {}),
    "No Symmetry Layer": (0.0485, 0.0025, {"num_angles": 0}),
    "No Augmentation": (0.0492, 0.0032, {"augment": False}),
    "d = 10 Parameters": (0.0462, 0.0002, {"num_angles": 10}),
}
ROTATIONS = 256  # of the mean gradient


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
    """Train and judge every ablation on both splits; write ``out/asan-table2.json`` and a plot. Arguments as Table 1's.

    Raises:
        FileNotFoundError: the data are not there.
    """
    seeds = 1 if seeds is None else seeds
    check_positive(seeds=seeds)
    source = qm9.source(data)
    kinds = [(reading, ablation) for reading in READINGS for ablation in ABLATIONS]
    kinds += [("CoordinateMLP", ablation) for ablation in (FULL, "No Augmentation")]
    todo = {
        (split, network, ablation): [
            _cell(network, ablation, split, fold, seed, source, quick=quick, device=device)
            for seed in range(seeds)
            for fold in folds(quick)
        ]
        for split in qm9.SPLITS
        for network, ablation in kinds
    }
    gradients = {r: Cell(f"gradient/{r}", angle_gradient, {"pooling": r, "data": source}) for r in READINGS}
    # what is left as it is is a row of Table 1, too: its cells are shared
    shared = [cell for (_, _, ablation), group in todo.items() if ablation == FULL for cell in group]
    own = [cell for (_, _, ablation), group in todo.items() if ablation != FULL for cell in group]
    suffix = "-quick" if quick else ""
    options: dict[str, Any] = {"workers": workers, "progress": progress, "label": NAME}
    of_table1 = cells.run(shared, out / "cells" / f"{table1.NAME}{suffix}", **options)
    results = cells.run([*gradients.values(), *own], out / "cells" / f"{NAME}{suffix}", **options)
    found = {**of_table1, **results}
    grouped = {kind: [found[cell.key] for cell in group] for kind, group in todo.items()}
    gradient = {reading: results[cell.key] for reading, cell in gradients.items()}
    rows = [row for kind in grouped for row in _rows(*kind, grouped, full=not quick)]
    settings = {
        **models.settings(0, 6 if quick else models.EPOCHS).to_dict(),
        "seed": "derived from seed and fold",
        "seeds": seeds,
        "folds": len(folds(quick)),
        "rotations": models.ROTATIONS,
        "gradient": gradient,
        "notes": (__doc__ or "").strip().splitlines(),
        "findings": findings(grouped, gradient),
        "threads": 1,
    }
    commits = cells.commits(of_table1) + cells.commits(results)
    content = record.write(out / f"{NAME}.json", NAME, commits, settings, rows)
    columns = [f"{task}/{column}" for task in TASKS.values() for column in ("mae_ha", "change_ha", "mae_turned_ha")]
    plots.bars(out / f"{NAME}.png", content["rows"], columns=columns, title="ASAN, Table 2: ablations")
    return content


def angle_gradient(pooling: str, data: str | None) -> dict[str, Any]:
    """Norms of the loss's gradient in the angles, fp64, of an untrained network at random angles.

    Returns:
        "as_stored": of all training molecules as they lie in QM9; "turned": of 256 random orientations of the set, the
        root mean square; "mean_turned": of their mean, which for independent gradients of mean 0 would be "turned"
        / 16; "weights": in the first layer's weights, as stored, for comparison.
    """
    train, _ = qm9.split(data, "leak-free")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed("asan gradient"))
        module = Normalized.fit(NETWORKS[pooling].make(5), train, qm9.TARGET).double().eval()
        network = module.model
        torch.nn.init.normal_(network.rotation.theta)  # type: ignore[union-attr, arg-type]
    theta, weight = network.rotation.theta, network.regressor[0].weight  # type: ignore[union-attr, index]
    batch = train.loader(None, dtype=torch.float64, targets=[qm9.TARGET]).collate(torch.arange(len(train)))

    def gradients(turn: torch.Tensor) -> tuple[torch.Tensor, ...]:
        predicted = module(batch.z, batch.pos @ turn, batch.batch).flatten() / module.std
        loss = (predicted - batch.targets[qm9.TARGET] / module.std).square().mean()
        return torch.autograd.grad(loss, [theta, weight])

    turns = torch.from_numpy(
        random_rotations(ROTATIONS, np.random.default_rng(derived_seed("asan gradient rotations")))
    )
    as_stored = gradients(torch.eye(3, dtype=torch.float64))
    turned = torch.stack([gradients(turn)[0] for turn in turns])
    return {
        "as_stored": float(as_stored[0].norm()),
        "turned": float(turned.square().sum(1).mean().sqrt()),
        "mean_turned": float(turned.mean(0).norm()),
        "weights": float(as_stored[1].norm()),
    }


def _cell(
    network: str, ablation: str, split: str, fold: int, seed: int, data: str | None, *, quick: bool, device: str
) -> Cell:
    """The cell of Table 1, changed."""
    plain = table1.cell(network, split, fold, seed, data, quick=quick, device=device)
    if ablation == FULL:
        return plain
    key = f"{split}/{network}/{ablation}/{seed}-{fold}"
    return Cell(key, plain.function, {**plain.arguments, **ABLATIONS[ablation][2]})


_Grouped = Mapping[tuple[str, str, str], Sequence[Mapping[str, Any]]]


def named(network: str, ablation: str) -> str:
    """The paper's name, with the reading of the pooling unless that is the main one."""
    if network == "CoordinateMLP":
        return "Baseline" if ablation == FULL else f"Baseline, {ablation}"
    return ablation if network == "outer" else f"{ablation} ({network})"


def _rows(split: str, network: str, ablation: str, grouped: _Grouped, *, full: bool) -> list[record.Row]:
    found, whole = grouped[split, network, ablation], grouped[split, network, FULL]
    mae, change = ABLATIONS[ablation][:2] if network in READINGS else (None, None)
    columns: dict[str, tuple[list[float], float | None, str]] = {
        "mae_ha": ([one["mae"] for one in found], mae, "Ha"),
        "mae_ev": ([EV * one["mae"] for one in found], None if mae is None else EV * mae, "eV"),
        "mae_turned_ha": ([one["mae_turned"] for one in found], None, "Ha"),
        "valid_mse": ([one["valid_mse"] for one in found], None, "Ha²"),
    }
    if ablation != FULL:
        for column, key in (("change_ha", "mae"), ("change_turned_ha", "mae_turned")):
            runs = [one[key] - other[key] for one, other in zip(found, whole, strict=True)]
            columns[column] = runs, change if key == "mae" else None, "Ha"
    rows = []
    for column, (runs, paper, unit) in columns.items():
        notes: dict[str, Any] = {
            "unit": unit,
            "section": SECTIONS[split],
            "parameters": found[0]["parameters"],
            "best_epoch": [one["best_epoch"] for one in found],
            "stopped_epoch": [one["stopped_epoch"] for one in found],
        }
        if paper is not None:
            notes |= {"source": SOURCE, "paper_unit": "Hartree, printed as eV"}
        rows.append(record.Row(named(network, ablation), f"{TASKS[split]}/{column}", paper, runs, full, notes))
    return rows


def findings(grouped: _Grouped, gradient: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What the figures say about the paper's, in sentences."""

    def change(network: str, ablation: str, key: str = "mae") -> str:
        """Mean and spread over folds of the change against the same network in full."""
        pairs = zip(grouped["leak-free", network, ablation], grouped["leak-free", network, FULL], strict=True)
        changes = [one[key] - other[key] for one, other in pairs]
        return f"{fmean(changes):+.4f}" + (f" ± {pstdev(changes):.4f}" if len(changes) > 1 else "")

    lines = [
        f"{ablation} (paper: {ABLATIONS[ablation][1]:+.4f}) changes the error on the leak-free split by, in Ha: "
        + ", ".join(f"{change(reading, ablation)} ({reading})" for reading in READINGS)
        + "."
        for ablation in ABLATIONS
        if ablation != FULL
    ]
    lines += [
        "No Augmentation, tested on molecules in random orientations: "
        + ", ".join(
            f"{change(network, 'No Augmentation', 'mae_turned')} ({network})"
            for network in (*READINGS, "CoordinateMLP")
        )
        + ".",
        "Gradient of the loss in the angles, as molecules are stored / its mean over "
        f"{ROTATIONS} random orientations (for comparison, in the weights behind it): "
        + ", ".join(
            f"{reading} {g['as_stored']:.1e} / {g['mean_turned']:.1e} ({g['weights']:.1e})"
            for reading, g in gradient.items()
        )
        + ". Under uniform augmentation the expected gradient is 0 in every reading, and with pooling gram it is 0 for "
        "every molecule: the symmetry layer cannot be what an improvement comes from.",
        "The 225 features of pooling outer are products with a coordinate of the first two atoms: the first 225 "
        "entries of the upper triangle reach no further.",
    ]
    return lines
