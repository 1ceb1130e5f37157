"""The training engine: settings, tasks, folds, and a real model."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_toys import (
    FULL,
    TASK,
    ToyModel,
    ToySource,
    fit,
    toy_model,
    without_times,
)

from symkern import training

# ---- settings


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"epochs": 0}, "epochs must be an integer of at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must be an integer"),
        ({"batch_size": True}, "batch_size must be an integer"),
        ({"batch_size": None}, "batch_size must be an integer"),
        ({"optimizer": "sgd"}, "optimizer must be one of 'adamw', 'adam', got 'sgd'"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive"),
        ({"learning_rate": math.nan}, "learning_rate must be a positive"),
        ({"betas": (0.9, 1.0)}, "betas must be a tuple of two numbers"),
        ({"schedule": "step"}, "schedule must be one of"),
        ({"ema": 1.0}, "ema must be a number between 0 and 1"),
        ({"clip": -1}, "clip must be a positive"),
        ({"precision": "int8"}, "precision must be one of"),
        ({"drop_last": 1}, "drop_last must be True or False"),
        ({"monitor": ""}, "monitor must be the name"),
        ({"min_learning_rate": 1.0}, "must not exceed learning_rate = 0.001"),
        ({"decay_epochs": 3}, "decay_epochs is for the schedules"),
    ],
)
def test_bad_settings(options: dict[str, Any], reason: str) -> None:
    with pytest.raises((TypeError, ValueError), match=reason):
        training.Settings(**{"epochs": 1, **options})


def test_validation_is_in_eval_mode_and_leaves_the_mode() -> None:
    model = toy_model(dropout=0.5).double().train()
    first, second = (training.evaluate(model, TASK, ToySource(), precision="fp64", batch_size=n) for n in (3, 23))
    assert first == pytest.approx(second, rel=1e-12)
    assert model.training


def test_settings_are_plain_and_complete() -> None:
    assert training.Settings(**FULL.to_dict()) == FULL
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.epochs = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="monitor must be 'loss' or a term of the task"):
        fit(toy_model(), settings=training.Settings(1, monitor="energy_mea"))
    with pytest.raises(ValueError, match="valid has no structures"):
        fit(toy_model(), valid=ToySource(0))


# ---- tasks


def test_a_task_that_gives_no_terms_is_explained() -> None:
    class Own:
        def __init__(self, terms: Any, objective: dict[str, float]) -> None:
            self.terms, self.objective = terms, objective

        def __call__(self, model: nn.Module, batch: Any) -> Any:
            return self.terms

    one = torch.zeros(())
    for terms, objective, reason in (
        ({"a": (one, 1)}, {}, "objective is empty"),
        ({"a": (one, 1)}, {"b": 1.0}, r"names \['b'\], but its terms are \['a'\]"),
        ({"a": (one, 1)}, {"a": math.nan}, "must be finite"),
        ({"a": one}, {"a": 1.0}, r"term 'a' must be \(sum, count\)"),
        ({"a": (torch.zeros(2), 2)}, {"a": 1.0}, "without dimensions"),
        (one, {"a": 1.0}, "must return a dict"),
    ):
        with pytest.raises((TypeError, ValueError), match=reason):
            fit(toy_model(), task=Own(terms, objective))


def test_terms_that_are_only_logged_cost_no_backward_pass() -> None:
    def forbidden(grad: Tensor) -> None:
        raise AssertionError("differentiated")

    class Logged(training.Property):
        def __call__(self, model: nn.Module, batch: Any) -> Any:
            terms = super().__call__(model, batch)
            value, count = terms["size_mae"]
            if value.requires_grad:
                value.register_hook(forbidden)
            return {**terms, "size_mae": (value, count)}

    fit(toy_model(), task=Logged("size"), settings=training.Settings(1))
    with pytest.raises(AssertionError, match="differentiated"):
        fit(toy_model(), task=Logged("size", "mae"), settings=training.Settings(1))


def test_energies_and_forces() -> None:
    batch = ToySource().collate(torch.tensor([2, 5, 11]))
    model = toy_model().double()
    with torch.no_grad():
        terms = TASK(model, batch)
    pos = batch.pos.clone().requires_grad_()
    energy = model(batch.z, pos, batch.batch).flatten()
    forces = -torch.autograd.grad(energy.sum(), pos)[0]
    per_atom = (energy.detach() - batch.targets["energy"]) / batch.ptr.diff()
    error = forces - batch.targets["forces"]
    expected = {
        "energy_mse": (per_atom**2).sum(),
        "energy_mae": per_atom.abs().sum(),
        "forces_mse": (error**2).sum(),
        "forces_mae": error.abs().sum(),
    }
    assert {name: float(value) for name, (value, _) in terms.items()} == pytest.approx(
        {name: float(value) for name, value in expected.items()}
    )
    assert [count for _, count in terms.values()] == [3, 3, 3 * len(pos), 3 * len(pos)]
    whole = training.EnergyForces(forces_weight=0)(model, batch)
    assert list(whole) == ["energy_mse", "energy_mae"]
    assert float(whole["energy_mae"][0].detach()) == pytest.approx(float((per_atom * batch.ptr.diff()).abs().sum()))
    for missing in ("energy", "forces"):
        targets = {name: value for name, value in batch.targets.items() if name != missing}
        with pytest.raises(ValueError, match=f"EnergyForces needs the target '{missing}', but the batch has"):
            TASK(model, dataclasses.replace(batch, targets=targets))
    with pytest.raises(ValueError, match=r"target 'forces' must have the shape .* \(3, 3\)|got \(3, 3\)"):
        TASK(model, dataclasses.replace(batch, targets={**batch.targets, "forces": torch.zeros(3, 3)}))
    absolute = training.EnergyForces(0.5, 2.0, loss="mae")
    assert absolute.objective == {"energy_mae": 0.5, "forces_mae": 2.0}
    assert absolute(model, batch)["forces_mae"][0].requires_grad
    with pytest.raises(ValueError, match="loss must be 'mse' or 'mae', got 'l1'"):
        training.EnergyForces(loss="l1")
    for weights in ((0, 0, 0), (-1, 1, 0), (math.inf, 1, 0)):
        with pytest.raises(ValueError, match="weights must be finite"):
            training.EnergyForces(*weights)


def test_properties() -> None:
    batch = ToySource().collate(torch.tensor([2, 5, 11]))
    model = toy_model().double()
    error = (model(batch.z, batch.pos, batch.batch).flatten() - batch.targets["size"]).detach()
    references = {
        "mse": nn.MSELoss(reduction="sum"),
        "mae": nn.L1Loss(reduction="sum"),
        "huber": nn.HuberLoss("sum", 2.5),
    }
    for loss, reference in references.items():
        task = training.Property("size", loss, delta=2.5)
        (name,) = task.objective
        found = task(model, batch)
        assert name == f"size_{loss}"
        assert float(found[name][0].detach()) == pytest.approx(float(reference(error, torch.zeros_like(error))))
        assert float(found["size_mae"][0].detach()) == pytest.approx(float(error.abs().sum()))
        assert found[name][1] == 3
    vectors = training.Property("forces")(lambda z, pos, batch, **rest: pos, batch)
    expected = (batch.pos - batch.targets["forces"]).square().sum()
    assert float(vectors["forces_mse"][0]) == pytest.approx(float(expected))
    result = fit(toy_model(), task=training.Property("size", "huber"), settings=training.Settings(5, learning_rate=0.1))
    assert result.history[-1]["train"]["loss"] < result.history[0]["train"]["loss"]
    with pytest.raises(ValueError, match="loss must be one of"):
        training.Property("size", "l2")
    with pytest.raises(ValueError, match="delta must be positive"):
        training.Property("size", delta=0)
    with pytest.raises(ValueError, match="needs the target 'gap'"):
        training.Property("gap")(model, batch)


# ---- folds


@pytest.mark.parametrize(("n", "k"), [(10, 2), (23, 5), (7, 7)])
def test_folds_are_disjoint_and_complete(n: int, k: int) -> None:
    folds = training.k_folds(n, k, seed=1)
    assert torch.cat([valid for _, valid in folds]).sort().values.tolist() == list(range(n))
    for train, valid in folds:
        assert torch.cat([train, valid]).sort().values.tolist() == list(range(n))
        assert len(valid) in (n // k, n // k + 1)
    same, other = (training.k_folds(n, k, seed=s) for s in (1, 2))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(folds, same, strict=True))
    assert any(not torch.equal(a[1], b[1]) for a, b in zip(folds, other, strict=True))


def test_groups_stay_together() -> None:
    groups = [f"molecule {i % 6}" for i in range(40)] + ["alone"] * 3
    for train, valid in training.k_folds(43, 4, groups=groups):
        assert not {groups[i] for i in train} & {groups[i] for i in valid}
        assert 6 <= len(valid) <= 14
    assert len(training.k_folds(6, 2, groups=torch.tensor([4, 4, 4, 9, 9, 4]))[0][1]) in (2, 4)
    for options, reason in (
        ({"k": 1}, "k must lie in 2 .. n = 6"),
        ({"k": 7}, "k must lie in"),
        ({"k": 3, "groups": [1, 2]}, "one label for each of the 6 structures, got 2"),
        ({"k": 3, "groups": [1, 1, 1, 2, 2, 2]}, "at least as many groups, got 2"),
    ):
        with pytest.raises(ValueError, match=reason):
            training.k_folds(6, **options)


def test_cross_validation(tmp_path: Path) -> None:
    class Part(ToySource):
        def __init__(self, index: Tensor) -> None:
            super().__init__(12)
            self.positions = [self.positions[i] for i in index.tolist()]

    settings = training.Settings(2, 4)
    made: list[Tensor] = []

    def make_model(train: Tensor) -> ToyModel:
        assert len(train) == 8
        made.append((model := ToyModel()).first.weight.detach().clone())
        return model

    def run(**options: Any) -> list[training.Result]:
        return training.cross_validate(make_model, TASK, Part, 12, 3, settings, out=tmp_path, progress=False, **options)

    results = run()
    assert [len(r.history) for r in results] == [2, 2, 2]
    assert not torch.equal(made[0], made[1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fold_0", "fold_1", "fold_2"]
    again = run(resume=True)
    assert torch.equal(made[0], made[3])
    assert [without_times(r.history) for r in again] == [without_times(r.history) for r in results]


# ---- a real model


def test_schnet_with_stress() -> None:
    from symkern.models import SchNet

    @dataclasses.dataclass(frozen=True, eq=False)
    class Crystals:
        z: Tensor
        pos: Tensor
        batch: Tensor
        ptr: Tensor
        cell: Tensor
        targets: dict[str, Tensor]
        pbc: Tensor
        nb: None = None

        def to(self, device: Any) -> Crystals:
            return self

    class Source:
        def __len__(self) -> int:
            return 6

        def collate(self, index: Tensor) -> Crystals:
            parts, cells = [], []
            for i in index.tolist():
                generator = torch.Generator().manual_seed(i)
                parts.append(2.5 * torch.rand(2 + i % 3, 3, generator=generator, dtype=torch.float64))
                cells.append(2.5 * torch.eye(3, dtype=torch.float64))
            ptr = torch.tensor([0, *map(len, parts)]).cumsum(0)
            pos, size = torch.cat(parts), len(parts)
            targets = {
                "energy": ptr.diff().double(),
                "forces": torch.zeros_like(pos),
                "stress": torch.zeros(size, 3, 3, dtype=torch.float64),
            }
            batch = torch.repeat_interleave(torch.arange(size), ptr.diff())
            pbc = torch.ones(size, 3, dtype=torch.bool)
            return Crystals(torch.ones(len(pos), dtype=torch.int64), pos, batch, ptr, torch.stack(cells), targets, pbc)

    torch.manual_seed(0)
    model = SchNet(hidden=16, num_filters=16, num_interactions=2, num_basis=8, cutoff=3.0)
    settings = training.Settings(15, 4, learning_rate=0.02, clip=10.0)
    task = training.EnergyForces(1.0, 1.0, 1.0)
    result = training.fit(model, task, Source(), Source(), settings, progress=False)
    assert set(result.best) == {"loss", *(f"{n}_{e}" for n in ("energy", "forces", "stress") for e in ("mse", "mae"))}
    assert result.best["loss"] < 0.3 * result.history[0]["train"]["loss"]
