"""Hirshfeld dipole vectors of small molecules: Table 3 of the paper on symmetry breaking and SANN.

Structures of QM7-X whose vectors have a lower symmetry than the positions, and all others of the same molecules
(`symkern.experiments.sann.qm7x`). The published files are used where `data` has them, elsewhere the stand-in that is
shipped: then the paper's figures stand beside those of another data set, and only their order can be compared.

What the paper does not say, and what is done here:
- how far a vector may miss its image: 0.01 e bohr. The positions' tolerance is the paper's 0.2 Å; "broken structures"
  has the count for others. A closed-shell density has every symmetry of its nuclei, so that with exact positions there
  is nothing to find: what is broken is the position, by up to 0.2 Å.
- which structures of a molecule count: QM7-X has 100 displaced copies of each relaxed one, so that 225 or 255
  structures can only be relaxed ones; of the published files these are taken, of the stand-in all.
- the unit of errors, the loss, and whether the Chamfer distance is a sum: (e bohr)², sum over atoms, mean over
  structures; trained with the Chamfer distance from prediction to label ("cd", the paper's), or with `symmetric_mse`
  ("matched"). The former has minima that are no dipoles; errors both ways and matched are beside it.
- what may be known of a molecule: "structure" splits, as in the paper, leave displaced copies of one molecule, in one
  orientation, in training and test set; in "molecule" splits it is in one of them. "cd-turned" is the error after
  test structures have been turned at random: that of an equivariant model does not change.
- at which tolerance symmetry is known to SANN and to the losses: the 0.2 Å of the selection; a second row of SANN has
  frames at 0.01 Å, in which most displaced structures have no symmetry.
- labels are divided by their root mean square in the training set; errors are not.

Without `full` the models are smaller and trained for fewer epochs: status "reduced".
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

import symkern as sk
from symkern.data import Dataset
from symkern.experiments import cells, plots, record
from symkern.experiments.sann import batched_training, broken_structures, qm7x, vector_models
from symkern.experiments.sann.batched_training import Batch, Recipe
from symkern.experiments.sann.qm7x import VECTORS
from symkern.experiments.sann.turning import turned
from symkern.experiments.sann.vector_metrics import METRICS, means, measure
from symkern.nn.basic import check_positive

NAME = "sann-table3"
SOURCE = "Table 3 of Learning Molecular Symmetry Breaking via Symmetry-Adapted Neural Networks, QM7-X"
# mean and spread of the Chamfer distance over ten splits
PUBLISHED = {
    "SchNet": (0.0170, 0.0078),
    "SchNet+MLP": (0.749, 0.454),
    "EGNN": (0.0538, 0.0149),
    "EGNN+MLP": (0.0027, 0.0007),
    "SANN": (0.0012, 0.00003),
}
# what is trained -> the model, and settings for it; frames and classes of SANN are by default those at 0.2 Å
EXACT_FRAMES = "SANN, frames at 0.01 Å"
TRAINED: dict[str, tuple[str, dict[str, Any]]] = {
    "SchNet": ("SchNet", {}),
    "SchNet+MLP": ("SchNet+MLP", {}),
    "EGNN": ("EGNN", {}),
    "EGNN+MLP": ("EGNN+MLP", {}),
    "SANN": ("SANN", {"tolerance": qm7x.POSITION_TOLERANCE}),
    EXACT_FRAMES: ("SANN", {"tolerance": 0.01}),
}
ZERO = "zero vectors"
SPLITS = 10
UNIT = "(e bohr)²"
LOSSES = ("cd", "matched")
SECTIONS = {"structure": "split by structure, as in the paper", "molecule": "split by molecule"}

FULL = Recipe()
FULL_SIZES = {"SchNet": {"layers": 6, "hidden": 128}, "EGNN": {"layers": 7, "hidden": 128}, "SANN": {"layers": 2}}
REDUCED = Recipe(epochs=100, batch_size=32, lr=1e-3)
REDUCED_SIZES = {"SchNet": {"layers": 3, "hidden": 64}, "EGNN": {"layers": 4, "hidden": 64}, "SANN": {"layers": 2}}
REDUCED_SPLITS = 3
QUICK = ("EGNN", "SANN")


def run(
    data: Path | str | None,
    out: Path,
    *,
    quick: bool = False,
    seeds: int | None = None,
    device: str = "cpu",
    workers: int = 1,
    progress: bool = True,
    full: bool = False,
) -> dict[str, Any]:
    """Train all models on splits of the selected structures; write ``out/sann-table3.json`` and two plots.

    Args:
        data: file or folder; its ``*.hdf5`` are taken to be QM7-X. SYMKERN_DATA by default; the stand-in where there
            are none.
        quick: one split, 5 epochs, EGNN and SANN.
        seeds: how many splits: 10 with `full`, else 3. The seed of a split is that of weights and batches too.
        full: the recipe of the paper, which is that of EGNN for QM9: 1000 epochs, 7 layers, 128 features. Ten hours or
            more of one core.

    Raises:
        DataError: an HDF5 file that cannot be read.
        CellError: runs that failed; the others are kept.
    """
    number = seeds if seeds is not None else 1 if quick else SPLITS if full else REDUCED_SPLITS
    check_positive(seeds=number)
    files = qm7x.files(data)
    origin = "QM7-X" if files else "stand-in"
    everything = qm7x.read_hdf5(files) if files else qm7x.stand_in()
    chosen = select(everything, published=bool(files))
    recipe = FULL if full else replace(REDUCED, epochs=5) if quick else REDUCED
    plan = [
        Trial(model, by, loss, split)
        for by in SECTIONS
        for loss in LOSSES
        for model in (QUICK if quick else TRAINED)
        for split in range(number)
    ]
    sizes = FULL_SIZES if full else REDUCED_SIZES
    data_of = {"files": [str(path) for path in files], "digest": digest(chosen)}
    todo = [trial.cell(data_of, sizes, recipe, device) for trial in plan]
    folder = out / "cells" / (NAME + "-quick" * quick)
    results = cells.run(todo, folder, workers=workers, progress=progress, label=NAME)
    complete = full and not quick and number >= SPLITS and bool(files)
    counts = broken_structures.count(everything)
    found = {trial: results[cell.key] for trial, cell in zip(plan, todo, strict=True)}
    rows = (
        _rows(found, complete)
        + _zero_rows(chosen, number, complete)
        + broken_structures.rows(counts, published=bool(files))
    )
    settings = {
        "data": origin,
        "about": {"files": [path.name for path in files]} if files else qm7x.about_stand_in(),
        "structures": everything.num_structures,
        "selected": chosen.num_structures,
        "selected_broken": int(qm7x.broken(chosen).sum()),
        "molecules": len(chosen.per_structure["molecule"].unique()),
        "ids": list(chosen.names),
        "position_tolerance": qm7x.POSITION_TOLERANCE,
        "vector_tolerance": qm7x.VECTOR_TOLERANCE,
        "splits": number,
        "shares": qm7x.SPLIT,
        "recipe": {**asdict(recipe), "optimizer": "Adam", "schedule": "half a cosine, to 0"},
        "models": sizes,
        "broken": counts,
        "paper_counts": broken_structures.COUNTED,
        "source": SOURCE,
        "notes": (__doc__ or "").strip().splitlines(),
        "findings": [
            _origin(chosen, published=bool(files)),
            *broken_structures.findings(everything, counts),
            *compared(rows),
        ],
    }
    content = record.write(out / f"{NAME}.json", NAME, cells.commits(results), settings, rows)
    shown = [row for row in content["rows"] if row["column"].endswith(("/cd", "/matched", "/cd-reverse"))]
    plots.bars(out / f"{NAME}.png", shown, title=f"{SOURCE}; ours: {origin}")
    broken_structures.plot(out / f"{NAME}-broken.png", everything, counts)
    return content


# ---- data ------------------------------------------------------------------------------------------------------------


def select(everything: Dataset, *, published: bool) -> Dataset:
    """What is trained and tested with: see the module."""
    if published:
        everything = everything.subset(everything.per_structure["relaxed"])
    return everything.subset(qm7x.select(everything))


def digest(data: Dataset) -> str:
    """What tells data sets apart, so that results of one are not taken over for another."""
    parts = (data.z, data.pos, data.ptr, data.per_atom[VECTORS], data.per_structure["molecule"])
    return f"{zlib.crc32(b''.join(part.numpy().tobytes() for part in parts)):08x}"


@lru_cache(maxsize=1)
def _selected(files: tuple[str, ...], wanted: str) -> Dataset:
    found = select(qm7x.read_hdf5(files) if files else qm7x.stand_in(), published=bool(files))
    if digest(found) != wanted:
        raise ValueError(f"files must hold what they held when the run began, got {digest(found)}, not {wanted}")
    return found


# ---- cells -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """One model, trained with one loss on one split."""

    model: str
    by: str
    loss: str
    split: int

    def cell(
        self, data: Mapping[str, Any], sizes: Mapping[str, Mapping[str, int]], recipe: Recipe, device: str
    ) -> cells.Cell:
        _, settings = TRAINED[self.model]
        size = next(dict(size) for name, size in sizes.items() if self.model.startswith(name)) | settings
        arguments = {**data, **asdict(self), "size": size, "recipe": asdict(recipe), "device": device}
        return cells.Cell(f"{self.by}/{self.loss}/{self.model}/{self.split}", train, arguments)


def train(
    files: Sequence[str],
    digest: str,
    model: str,
    by: str,
    loss: str,
    split: int,
    size: Mapping[str, Any],
    recipe: Mapping[str, Any],
    device: str,
) -> dict[str, Any]:
    """One cell: "metrics" of the test structures, "turned" those after they were turned, and what `fit` returns."""
    data, how = _selected(tuple(files), digest), Recipe(**recipe)
    parts = [data.subset(index) for index in qm7x.split(data, split, by)]
    scale = float(parts[0].per_atom[VECTORS].square().mean().sqrt())
    module = vector_models.make(TRAINED[model][0], per="atom", seed=split, **size).to(device)

    def batches(part: Dataset, seed: int | None = None) -> list[Batch]:
        scaled = replace(part, per_atom={VECTORS: part.per_atom[VECTORS] / scale})
        tolerance = qm7x.POSITION_TOLERANCE
        return batched_training.batches(module, scaled, VECTORS, how.batch_size, tolerance=tolerance, seed=seed)

    def error(metric: str) -> batched_training.Loss:
        return lambda pred, batch: measure(metric, pred, batch.target, batch.symmetry)

    members = batches(parts[0], split), batches(parts[1])
    fitted = batched_training.fit(module, *members, error(loss), how, split)
    result: dict[str, Any] = {**fitted, "sizes": [part.num_structures for part in parts]}
    for name, part in (("metrics", parts[2]), ("turned", turned(parts[2], split)[0])):
        tested = batches(part)
        result[name] = {m: scale**2 * batched_training.mean(module, tested, error(m)) for m in METRICS}
    return result


# ---- rows ------------------------------------------------------------------------------------------------------------


def _origin(chosen: Dataset, *, published: bool) -> str:
    structures = f"{chosen.num_structures} structures of {len(chosen.per_structure['molecule'].unique())} molecules"
    if published:
        return f"Data: {structures} of QM7-X."
    return f"Data: {structures} of a stand-in of our own, not of QM7-X: only the order of models can be compared."


def compared(rows: Sequence[record.Row]) -> list[str]:
    """Sentences: how models stand beside vectors of zero."""
    mean = {(row.model, row.column): fmean(row.runs) for row in rows}

    def of(column: str) -> dict[str, float]:
        return {model: mean[model, column] for model in TRAINED if (model, column) in mean}

    lines = []
    for by, section in SECTIONS.items():
        zero = {metric: mean[ZERO, f"{by}-cd/{metric}"] for metric in ("cd", "matched")}
        astray = of(f"{by}-cd/matched")
        worse = sum(error > zero["matched"] for error in astray.values())
        lines.append(
            f"{section}: vectors of zero have a Chamfer distance of {zero['cd']:.2g} and a matched error of "
            f"{zero['matched']:.2g}. Models trained with the Chamfer distance have {_listed(of(f'{by}-cd/cd'))}; "
            f"in the matched error {worse} of {len(astray)} are worse than zeros ({_listed(astray)}). Trained with "
            f"symmetric_mse, matched error: {_listed(of(f'{by}-matched/matched'))}."
        )
    return lines


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.2g}" for name, value in sorted(values.items(), key=lambda item: item[1]))


# ---- rows ------------------------------------------------------------------------------------------------------------


def _rows(found: Mapping[Trial, Mapping[str, Any]], full: bool) -> list[record.Row]:
    """One for each model, kind of split, loss and metric."""
    rows = []
    for model, by, loss in dict.fromkeys((trial.model, trial.by, trial.loss) for trial in found):
        results = [
            result for trial, result in found.items() if (trial.model, trial.by, trial.loss) == (model, by, loss)
        ]
        notes = {
            "section": SECTIONS[by],
            "unit": UNIT,
            "best_epoch": [result["best_epoch"] for result in results],
            "parameters": results[0]["parameters"],
            "sizes": [result["sizes"] for result in results],
        }
        for metric in METRICS:
            quoted = (by, loss, metric) == ("structure", "cd", "cd") and model in PUBLISHED
            paper, spread = PUBLISHED[model] if quoted else (None, None)
            values = [result["metrics"][metric] for result in results]
            extra = {"paper_std": spread, "source": SOURCE} if quoted else {}
            rows.append(record.Row(model, f"{by}-{loss}/{metric}", paper, values, full, {**notes, **extra}))
        values = [result["turned"][loss] for result in results]
        rows.append(record.Row(model, f"{by}-{loss}/{loss}-turned", None, values, full, notes))
    return rows


def _zero_rows(data: Dataset, splits: int, full: bool) -> list[record.Row]:
    """Errors of vectors of zero on the test structures."""
    rows = []
    for by, section in SECTIONS.items():
        errors = []
        for split in range(splits):
            part = data.subset(qm7x.split(data, split, by)[2])
            sym = sk.stabilizers(part.pos, part.z, ptr=part.ptr, tolerance=qm7x.POSITION_TOLERANCE)
            label = part.per_atom[VECTORS]
            errors.append(means(torch.zeros_like(label), label, sym))
        for loss in LOSSES:
            for metric in METRICS:
                values = [error[metric] for error in errors]
                notes = {"section": section, "unit": UNIT}
                rows.append(record.Row(ZERO, f"{by}-{loss}/{metric}", None, values, full, notes))
    return rows
