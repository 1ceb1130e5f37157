"""What Tables 1, 2 and 7 of the paper on symmetry breaking have in common: many models, few molecules, two protocols.

"paper": the paper's, with its losses; the settings of a model are those of its grid that have the least loss. The paper
does not say how it searched: here every point of a grid is run with the first `SEARCH_SEEDS` seeds and the best one
with all. Validation and test set being the training set, the choice is made by the very figure that is reported.

"converged": `symmetric_mse` until it no longer falls, which shows what a model can do rather than how far it comes. One
setting for each network, no grid, and `CONVERGED_SEEDS` seeds for all models but those of which something is claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from symkern.experiments import cells, plots, record
from symkern.experiments.sann import vector_models
from symkern.experiments.sann.squares import squares
from symkern.experiments.sann.vector_floors import equivariant_floor
from symkern.experiments.sann.vector_metrics import means
from symkern.experiments.sann.vector_task import VectorTask
from symkern.experiments.sann.vector_training import DRAWS, Recipe, fit
from symkern.experiments.sann.water_modes import water_modes
from symkern.nn.basic import check_positive

SEEDS = 10
SEARCH_SEEDS = 2
CONVERGED_SEEDS = 5
PAPER = Recipe("sbcd", steps=100, lr=1e-4)
CONVERGED = Recipe("matched", steps=5000, lr=1e-3, patience=300)
# where no grid is searched: a point within it, or as large for networks that have none
SETTINGS: dict[str, dict[str, Any]] = {
    "SchNet": {"layers": 3, "hidden": 64},
    "DimeNet": {"layers": 2, "hidden": 64},
    "EGNN": {"layers": 3, "hidden": 64},
    "PaiNN": {"layers": 3, "hidden": 64},
    "SANN": {"layers": 2, "num_spherical": 3, "num_radial": 3},
}
NOISE = 0.01  # Å, the middle of the grid
QUICK_STEPS = 1000
QUICK_MODELS = ("EGNN", "PaiNN (vector)")  # trained to convergence in quick runs too

# name of a column -> (test, metric) of the result of a run, by the loss that was trained with
COLUMNS = {
    "cd": {
        "cd": ("metrics", "cd"),
        "cd-reverse": ("metrics", "cd-reverse"),
        "cd-matched": ("metrics", "matched"),
    },
    "sbcd": {
        "sbcd": ("metrics", "sbcd"),
        "sbcd-reverse": ("metrics", "sbcd-reverse"),
        "matched": ("metrics", "matched"),
        "matched-turned": ("turned", "matched"),
    },
    "matched": {
        "matched": ("metrics", "matched"),
        "sbcd": ("metrics", "sbcd"),
        "sbcd-reverse": ("metrics", "sbcd-reverse"),
        "matched-turned": ("turned", "matched"),
    },
}
SECTIONS = {"paper": "paper's protocol", "converged": "converged (symmetric_mse)"}
BOUNDS = "bounds, not trained"
EQUIVARIANT, GRADIENT = "best equivariant output", "best gradient of an invariant"

Mark = Callable[[Sequence[float]], "str | None"]


@dataclass(frozen=True)
class Table:
    """One table of the paper.

    Attributes:
        name: of the experiment.
        tasks: prefix of columns -> {"squares": variant} or {"water": mode}.
        models: of `vector_models.MODELS`.
        losses: of the paper's protocol.
        published: (model, column) -> mean and spread; the spread may be None.
        source: where `published` is from.
        mark: the paper's highlighting by its rule, from all runs.
        paper_mark: the same as far as mean and spread tell.
        below: in squared units, where training to convergence ends: further down than any goal.
        claimed: models that are trained to convergence with all seeds.
        searched: search grids for the paper's protocol; else `SETTINGS` are used.
        findings: sentences about finished rows.
        extra: rows besides those of models and bounds.
        notes: what the paper leaves open.
        folder: of cells; tables that share runs share it. By default `name`.
    """

    name: str
    tasks: Mapping[str, Mapping[str, str]]
    models: Sequence[str]
    losses: Sequence[str]
    published: Mapping[tuple[str, str], tuple[float, float | None]]
    source: str
    mark: Mark
    paper_mark: Callable[[float, float | None], str | None]
    below: float
    claimed: Sequence[str]
    findings: Callable[[Sequence[record.Row]], list[str]]
    extra: Callable[[], list[record.Row]]
    notes: str
    searched: bool = True
    folder: str = ""


@dataclass(frozen=True)
class Runs:
    """All runs of one model on one task with one loss.

    Attributes:
        task: a key of `Table.tasks`.
        protocol: "paper" or "converged".
        grid: settings to choose from.
    """

    task: str
    model: str
    protocol: str
    recipe: Recipe
    seeds: int
    grid: Sequence[Mapping[str, Any]]

    @property
    def prefix(self) -> str:
        return self.task if self.protocol == "paper" else f"{self.task}-{self.protocol}"


@dataclass(frozen=True)
class Trained:
    """What `Runs` gave, one result per seed, with the settings that were chosen."""

    runs: Runs
    settings: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]]


def run(
    table: Table,
    out: Path,
    *,
    quick: bool = False,
    seeds: int | None = None,
    device: str = "cpu",
    workers: int = 1,
    progress: bool = True,
) -> dict[str, Any]:
    """Train what the table needs; write ``out/NAME.json`` and ``out/NAME.png``.

    Args:
        quick: one seed, no grids, fewer models and steps in training to convergence.
        seeds: runs of each model, 10 by default.

    Returns:
        What the JSON file holds.

    Raises:
        CellError: runs that failed; the others are kept.
    """
    number = (1 if quick else SEEDS) if seeds is None else seeds
    check_positive(seeds=number)
    plan = plan_of(table, quick=quick, seeds=number)
    folder = out / "cells" / ((table.folder or table.name) + ("-quick" if quick else ""))
    trained, commits = _train_all(plan, table, folder, device, workers, progress)
    full = not quick and number >= SEEDS
    rows = [row for part in trained for row in _rows(part, table, full)]
    rows += _bounds(table) + table.extra()
    settings = {
        "seeds": number,
        "source": table.source,
        "notes": table.notes.strip().splitlines(),
        "protocols": {SECTIONS[runs.protocol]: _described(runs.recipe) for runs in plan},
        "grids": "all points, then the best; see settings of rows" if table.searched and not quick else "not searched",
        "search_seeds": SEARCH_SEEDS,
        "converged_seeds": CONVERGED_SEEDS,
        "noise_draws": DRAWS,
        "batch": "all molecules: one step per epoch",
        "weights": "those with the least loss; train = validation = test",
        "metrics": "sums over atoms, mean over molecules",
        "dtype": "float32, errors in float64",
        "findings": table.findings(rows),
    }
    content = record.write(out / f"{table.name}.json", table.name, commits, settings, rows)
    shown = [f"{task}/{loss}" for loss in table.losses for task in table.tasks]
    shown += [f"{task}-converged/matched" for task in table.tasks]
    trained_rows = [row for row in content["rows"] if row["section"] != BOUNDS]
    plots.bars(out / f"{table.name}.png", trained_rows, columns=shown, title=table.source)
    return content


def plan_of(table: Table, *, quick: bool, seeds: int) -> list[Runs]:
    """What is trained."""
    plan = []
    for task in table.tasks:
        for model in table.models:
            one = _setting(model)
            grid = vector_models.grid(model) if table.searched and not quick else [one]
            plan += [Runs(task, model, "paper", replace(PAPER, loss=loss), seeds, grid) for loss in table.losses]
            recipe = replace(CONVERGED, below=table.below)
            if not quick:
                number = seeds if model in table.claimed else min(CONVERGED_SEEDS, seeds)
                plan.append(Runs(task, model, "converged", recipe, number, [one]))
            elif model in (*table.claimed, *QUICK_MODELS):
                plan.append(Runs(task, model, "converged", replace(recipe, steps=QUICK_STEPS), 1, [one]))
    return plan


def _setting(model: str) -> dict[str, Any]:
    noise = {"noise": NOISE} if "+Noise" in model else {}
    return next({**settings, **noise} for network, settings in SETTINGS.items() if model.startswith(network))


# ---- cells -----------------------------------------------------------------------------------------------------------


def make_task(task: Mapping[str, str], seed: int) -> VectorTask:
    """The molecules of a task; only the rotations of water depend on the seed."""
    ((name, what),) = task.items()
    return squares(what) if name == "squares" else water_modes(what, seed)


def train(
    task: Mapping[str, str], model: str, settings: Mapping[str, Any], recipe: Mapping[str, Any], seed: int, device: str
) -> dict[str, Any]:
    """One cell: a model trained and tested on one task."""
    module = vector_models.make(model, per="atom", seed=seed, **settings).to(device)
    molecules = make_task(task, seed).to(device, next(module.parameters()).dtype)
    return fit(module, molecules, Recipe(**recipe))


def _train_all(
    plan: Sequence[Runs], table: Table, folder: Path, device: str, workers: int, progress: bool
) -> tuple[list[Trained], list[str]]:
    """Search the grids, then train with every seed; results in the order of `plan`, and their commits."""
    commits: set[str] = set()

    def cell(runs: Runs, settings: Mapping[str, Any], seed: int) -> cells.Cell:
        arguments = {
            "task": dict(table.tasks[runs.task]),
            "model": runs.model,
            "settings": dict(settings),
            "recipe": asdict(runs.recipe),
            "seed": seed,
            "device": device,
        }
        point = ",".join(f"{name}={value}" for name, value in sorted(settings.items())) or "default"
        return cells.Cell(f"{runs.prefix}/{runs.model}/{runs.recipe.loss}/{point}/{seed}", train, arguments)

    def finish(todo: Iterable[cells.Cell], what: str) -> Mapping[str, dict[str, Any]]:
        found = cells.run(list(todo), folder, workers=workers, progress=progress, label=f"{table.name}, {what}")
        commits.update(cells.commits(found))
        return found

    def tried(runs: Runs) -> range:
        return range(min(SEARCH_SEEDS, runs.seeds))

    searched = [runs for runs in plan if len(runs.grid) > 1]
    found = finish((cell(runs, point, s) for runs in searched for point in runs.grid for s in tried(runs)), "grids")
    chosen = []
    for runs in plan:
        errors = [
            fmean(found[cell(runs, point, s).key]["metrics"][runs.recipe.loss] for s in tried(runs))
            for point in (runs.grid if runs in searched else ())
        ]
        chosen.append(runs.grid[errors.index(min(errors))] if errors else runs.grid[0])
    pairs = list(zip(plan, chosen, strict=True))
    found = finish((cell(runs, point, s) for runs, point in pairs for s in range(runs.seeds)), "all seeds")
    results = [
        Trained(runs, point, [found[cell(runs, point, s).key] for s in range(runs.seeds)]) for runs, point in pairs
    ]
    return results, sorted(commits)


# ---- rows ------------------------------------------------------------------------------------------------------------


def _rows(trained: Trained, table: Table, full: bool) -> list[record.Row]:
    """One row for each metric."""
    runs, results = trained.runs, trained.results
    rows = []
    for name, (test, metric) in COLUMNS[runs.recipe.loss].items():
        column = f"{runs.prefix}/{name}"
        paper, spread = table.published.get((runs.model, column), (None, None))
        values = [result[test][metric] for result in results]
        notes = {
            "section": SECTIONS[runs.protocol],
            "paper_std": spread,
            "mark": table.mark(values),
            "paper_mark": None if paper is None else table.paper_mark(paper, spread),
            "minimum": min(values),
            "maximum": max(values),
            "settings": dict(trained.settings),
            "parameters": results[0]["parameters"],
            "best_epoch": [result["best_step"] for result in results],
            "epochs": [result["steps"] for result in results],
        }
        if test == "metrics" and "quiet" in results[0]:
            notes["without_noise"] = [result["quiet"][metric] for result in results]
        rows.append(record.Row(runs.model, column, paper, values, full, notes))
    return rows


def bound(table_mark: Mark, model: str, column: str, values: Sequence[float]) -> record.Row:
    """A row of what is computed without any model."""
    return record.Row(model, column, None, values, True, {"section": BOUNDS, "mark": table_mark(values)})


def _bounds(table: Table) -> list[record.Row]:
    rows = []
    for prefix, task in table.tasks.items():
        molecules = make_task(task, 0)
        zero = molecules.output(torch.zeros_like(molecules.pos))
        errors = means(zero, molecules.target, molecules.sym, molecules.kind)
        names = {
            name: metric for loss in table.losses for name, (test, metric) in COLUMNS[loss].items() if test == "metrics"
        }
        rows += [bound(table.mark, "zero vectors", f"{prefix}/{n}", [errors[m]]) for n, m in names.items()]
        for metric in ("sbcd", "sbcd-reverse", "matched"):
            for model, gradient in ((EQUIVARIANT, False), (GRADIENT, True)):
                floor = equivariant_floor(molecules, metric, gradient=gradient)
                rows.append(bound(table.mark, model, f"{prefix}/{metric}", [floor]))
    return rows


def find(rows: Iterable[record.Row], model: str, column: str) -> record.Row | None:
    """The row of a model, if there is one."""
    return next((row for row in rows if (row.model, row.column) == (model, column)), None)


def _described(recipe: Recipe) -> dict[str, Any]:
    moved = sum(map(recipe.rate, range(recipe.steps)))
    return {**asdict(recipe), "optimizer": "AdamW", "schedule": "half a cosine, to 0", "sum_of_rates": round(moved, 6)}


def turned(rows: Iterable[record.Row], goal: float) -> list[str]:
    """Which models reach a goal on all tasks, and which still do where molecules are turned after training."""
    reached: dict[str, dict[str, bool]] = {"matched": {}, "matched-turned": {}}
    for row in rows:
        prefix, _, name = row.column.partition("/")
        if prefix.endswith("-converged") and name in reached:
            reached[name][row.model] = reached[name].get(row.model, True) and max(row.runs) < goal
    done = [model for model, well in reached["matched"].items() if well]
    kept = [model for model in done if reached["matched-turned"][model]]
    if not reached["matched"]:
        return []
    return [
        f"Of the {len(reached['matched'])} models trained to convergence, these have a matched error below {goal:g} in "
        f"every task and seed: "
        f"{', '.join(done) or 'none'}. Of these, those that also have it on the same molecules turned at random after "
        f"training: {', '.join(kept) or 'none'}."
    ]


def compared(rows: Iterable[record.Row]) -> list[str]:
    """Where our marks are not the paper's."""
    shown = [row for row in rows if row.paper is not None]
    if not shown:
        return []
    others: dict[str, list[str]] = {}
    for row in shown:
        theirs, ours = (row.notes[name] or "unmarked" for name in ("paper_mark", "mark"))
        if theirs != ours:
            others.setdefault(f"{theirs} in the paper, {ours} here", []).append(f"{row.model} ({row.column})")
    same = len(shown) - sum(map(len, others.values()))
    lists = [f"{change}: {', '.join(places)}" for change, places in others.items()]
    return ["; ".join([f"{same} of {len(shown)} marks are the paper's", *lists]) + "."]
