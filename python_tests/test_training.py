"""The training engine: its numbers against plain torch, its results and files."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_toys import (
    TASK,
    ToyModel,
    ToySource,
    assert_same,
    fit,
    toy_model,
    without_times,
)

from symkern import training
from symkern.training.flat import FlatParameters
from symkern.training.loader import batches
from symkern.training.order import epoch_order
from symkern.training.schedule import Schedule

# ---- against plain torch


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_weights_are_those_of_a_plain_loop(name: str) -> None:
    source, epochs, size = ToySource(12), 3, 4
    settings = training.Settings(
        epochs, size, optimizer=name, learning_rate=0.01, weight_decay=0.1, clip=0.7, precision="fp64", seed=4
    )
    result = fit(model := toy_model(), source, settings, valid=None)
    plain = toy_model().double()
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    optimizer = kind([p for p in plain.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)
    plain.unused.grad = torch.zeros_like(plain.unused)  # weights the loss does not see decay all the same
    for epoch in range(epochs):
        for index in epoch_order(12, 4, epoch).split(size):
            batch = source.collate(index)
            pos = batch.pos.clone().requires_grad_()
            energy = plain(batch.z, pos, batch.batch).flatten()
            forces = -torch.autograd.grad(energy.sum(), pos, create_graph=True)[0]
            error = (energy - batch.targets["energy"]) / batch.ptr.diff()
            loss = 0.3 * error.square().mean() + (forces - batch.targets["forces"]).square().mean()
            optimizer.zero_grad(set_to_none=False)
            loss.backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 0.7)
            optimizer.step()
    assert result.history[-1]["step"] == 9
    assert not torch.equal(plain.unused, torch.ones(3))
    assert_same(plain, model.state_dict(), 1e-7)  # clip_grad_norm_ divides by norm + 1e-6


def test_schedules_are_those_of_torch() -> None:
    def rates(**options: Any) -> list[float]:
        schedule = Schedule(training.Settings(10, learning_rate=0.5, **options), steps_per_epoch=1)
        return [schedule.rate(step) for step in range(12)]

    def torch_rates(kind: Any, **options: Any) -> list[float]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
        schedule, found = kind(optimizer, **options), []
        for _ in range(12):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    schedules = torch.optim.lr_scheduler
    cosine = torch_rates(schedules.CosineAnnealingLR, T_max=10, eta_min=0.1)
    assert rates(schedule="cosine", min_learning_rate=0.1)[:11] == pytest.approx(cosine[:11])
    assert rates(schedule="cosine", min_learning_rate=0.1)[11] == 0.1
    linear = torch_rates(schedules.LinearLR, start_factor=1.0, end_factor=0.0, total_iters=5)
    assert rates(schedule="linear", decay_epochs=5) == pytest.approx(linear)
    exponential = torch_rates(schedules.ExponentialLR, gamma=0.9)
    assert rates(schedule="exponential", exponential_factor=0.9) == pytest.approx(exponential)
    warm = rates(schedule="exponential", exponential_factor=0.9, warmup_steps=4)
    assert warm == pytest.approx([0.125, 0.25, 0.375, 0.5, *exponential[:8]])
    assert rates(schedule="exponential", exponential_factor=0.5, min_learning_rate=0.2)[3:] == [0.2] * 9
    assert rates() == [0.5] * 12


def test_plateau_is_that_of_torch() -> None:
    settings = training.Settings(10, learning_rate=0.5, schedule="plateau", plateau_factor=0.3, plateau_patience=2)
    schedule = Schedule(settings, steps_per_epoch=1)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.3, patience=2, threshold=0)
    values = [3.0, 2.0, 2.0, 2.5, 1.9, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0]
    for value in values:
        schedule.observe(value)
        reference.step(value)
        assert schedule.rate(100) == pytest.approx(optimizer.param_groups[0]["lr"])
    assert schedule.rate(100) == pytest.approx(0.5 * 0.3**3)


def test_average_of_the_weights_is_what_is_validated_and_kept(tmp_path: Path) -> None:
    settings = training.Settings(1, 6, learning_rate=0.1, ema=0.3, precision="fp64")
    weights: list[Tensor] = []

    class Watching(ToySource):
        def collate(self, index: Tensor) -> Any:
            weights.append(model.first.weight.detach().clone())
            return super().collate(index)

    model = toy_model().double()
    valid = ToySource(7, seed=3)
    result = fit(model, Watching(23), settings, valid=valid, out=tmp_path)
    last = torch.load(tmp_path / "last.pt", weights_only=True)["model"]["first.weight"]
    average = weights[0]
    for n, value in enumerate([*weights[1:], last], start=1):
        decay = min(0.3, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * value
    torch.testing.assert_close(model.first.weight.detach(), average)
    assert not torch.equal(last, average)
    again = training.evaluate(model, TASK, valid, precision="fp64")
    assert again == pytest.approx(result.best)
    fresh = toy_model().double()
    training.load_weights(fresh, tmp_path / "best.pt")
    assert_same(fresh, model.state_dict())


def test_flat_parameters_are_views_and_are_released() -> None:
    model = toy_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flat = FlatParameters(model)
    assert_same(model, before)
    model.first.weight.grad = None
    flat.zero_grad()
    model(torch.ones(4), torch.randn(4, 3), torch.zeros(4, dtype=torch.int64)).sum().backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert flat.norm() == pytest.approx(float(nn.utils.get_total_norm(grads)))
    with torch.no_grad():
        flat.vector.mul_(2)
    assert torch.equal(model.first.weight, 2 * before["first.weight"])
    assert all(p.data_ptr() % 64 == 0 for p in model.parameters() if p.requires_grad)
    flat.release()
    assert model.first.weight.untyped_storage().nbytes() == model.first.weight.nbytes
    model.first.double()
    with pytest.raises(ValueError, match="one dtype and device"):
        FlatParameters(model)
    with pytest.raises(ValueError, match="no parameter"):
        FlatParameters(nn.Identity())


# ---- order


def test_order_depends_on_seed_and_epoch_alone() -> None:
    first, second = ToySource(), ToySource()
    fit(toy_model(), first, training.Settings(2, 5), valid=None)
    torch.rand(17)
    fit(toy_model(), second, training.Settings(3, 4), valid=None)
    assert first.epochs == [0, 1]
    flat = [[i for batch in source.indices for i in batch][-n * 23 :] for source, n in ((first, 2), (second, 3))]
    assert flat[0] == flat[1][:46]
    assert sorted(flat[0][:23]) == list(range(23))
    assert flat[0][:23] != flat[0][23:]
    assert not torch.equal(epoch_order(23, 0, 1), epoch_order(23, 1, 0))


def test_incomplete_batches_can_be_dropped() -> None:
    result = fit(toy_model(), source := ToySource(), training.Settings(1, 5, drop_last=True), valid=None)
    assert [len(i) for i in source.indices[1:]] == [5] * 4
    assert result.history[0]["step"] == 4
    with pytest.raises(ValueError, match="drop_last leaves nothing"):
        fit(toy_model(), ToySource(3), training.Settings(1, 5, drop_last=True))


# ---- results and files


def test_early_stopping_keeps_the_best_weights(tmp_path: Path) -> None:
    settings = training.Settings(50, 5, learning_rate=0.5, patience=3, monitor="energy_mae", eval_batch_size=2)
    valid, test = ToySource(7, seed=3), ToySource(6, seed=8)
    result = fit(model := toy_model(), settings=settings, valid=valid, test=test, out=tmp_path)
    values = [record["valid"]["energy_mae"] for record in result.history]
    assert result.stopped == "patience"
    assert result.best_epoch == 1 + values.index(min(values)) == len(values) - 3
    assert result.best["energy_mae"] == min(values)
    assert training.evaluate(model, TASK, valid) == pytest.approx(result.best, rel=1e-5)
    assert training.evaluate(model, TASK, test) == pytest.approx(result.test, rel=1e-5)
    saved = json.loads((tmp_path / "result.json").read_text())
    assert saved["best_epoch"] == result.best_epoch
    assert saved["test"] == result.test
    assert saved["epochs"] == len(values)
    assert sum(saved["shares"].values()) == pytest.approx(1)
    assert {"collate", "forward", "update"} <= set(saved["shares"])
    assert json.loads((tmp_path / "settings.json").read_text())["settings"]["patience"] == 3
    longer = dataclasses.replace(settings, epochs=60)
    again = fit(toy_model(), settings=longer, valid=valid, out=tmp_path, resume=True)
    assert len(again.history) == len(values)  # it had stopped for good


def test_validation_now_and_then() -> None:
    result = fit(toy_model(), settings=training.Settings(5, validate_every=2))
    assert [record["valid"] is None for record in result.history] == [True, False, True, False, False]
    for options in ({"patience": 2}, {"schedule": "plateau"}):
        with pytest.raises(ValueError, match="need validation structures"):
            fit(toy_model(), settings=training.Settings(5, **options), valid=None)


@pytest.mark.parametrize("part", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_run(part: str, tmp_path: Path) -> None:
    class Breaking(ToyModel):
        def forward(self, z: Tensor, pos: Tensor, batch: Tensor, **rest: Any) -> Tensor:
            energy = super().forward(z, pos, batch, **rest)
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls < 7:
                return energy
            if part == "loss":
                return energy * math.inf
            return energy + (self.second.bias - self.second.bias.detach()).abs().sqrt()  # slope at 0

    torch.manual_seed(1)
    model = Breaking()
    task = training.EnergyForces(forces_weight=0)
    settings = training.Settings(9, 5, checkpoint_every=1)
    with pytest.raises(training.NonFiniteError, match=f"epoch 2, step 1: the {part}|its {part} is not") as caught:
        training.fit(model, task, ToySource(), None, settings, out=tmp_path, progress=False)
    assert caught.value.index == epoch_order(23, 0, 1)[:5].tolist()
    assert ", ".join(map(str, caught.value.index)) in str(caught.value)
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    assert last["state"]["epoch"] == 1
    assert_same(model, last["model"])  # nothing was updated


def test_output(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def output(progress: bool = True) -> str:
        training.fit(toy_model(), TASK, ToySource(), ToySource(3), training.Settings(3), progress=progress)
        return capsys.readouterr().out

    assert output(progress=False) == ""
    lines = output().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("epoch 1/3  rate 0.001  train ")
    assert " %" in lines[0]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    bar = output()
    assert "epoch 3/3 step 1/1" in bar
    assert "loss" in bar
    assert "steps/s" in bar
    monkeypatch.setitem(sys.modules, "rich", None)
    lines = output().splitlines()
    assert lines[0].startswith("the progress bar needs rich: pip install 'symkern[train]'")
    assert len(lines) == 4


@pytest.mark.parametrize("ahead", [False, True])
def test_batches_come_in_order_and_errors_in_their_place(ahead: bool) -> None:
    source = ToySource(9, fail_at=3, error=KeyboardInterrupt("in collate"))
    indices = [torch.tensor([3, 1]), torch.tensor([], dtype=torch.int64), torch.tensor([2]), torch.tensor([5])]
    loaded = batches(source, indices, lambda batch: batch.ptr.tolist(), ahead=ahead)
    sizes = [len(p) for p in source.positions]
    assert next(loaded) == [0, sizes[3], sizes[3] + sizes[1]]
    assert next(loaded) is None
    if ahead:
        deadline = time.monotonic() + 5
        while source.calls < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert source.calls == 2  # collated before it was asked for
    assert next(loaded) == [0, sizes[2]]
    with pytest.raises(KeyboardInterrupt, match="in collate"):
        next(loaded)
    assert list(batches(source, [], lambda batch: batch, ahead=ahead)) == []


# ---- precision


def test_precisions() -> None:
    settings = training.Settings(6, 5, learning_rate=0.02)
    losses = {}
    for name in ("fp64", "fp32", "bf16", "fp16"):
        result = fit(model := toy_model(), settings=dataclasses.replace(settings, precision=name))
        losses[name] = result.history[-1]["train"]["loss"]
        assert model.first.weight.dtype == (torch.float64 if name == "fp64" else torch.float32)
        assert (result.skipped_steps > 0) == (name == "fp16")  # the scale starts too high, by design
    assert losses["fp32"] == pytest.approx(losses["fp64"], rel=1e-5)
    assert losses["bf16"] == pytest.approx(losses["fp64"], rel=0.05)
    assert losses["bf16"] != pytest.approx(losses["fp64"], rel=1e-6)
    assert losses["fp16"] < 1.5 * losses["fp64"]
    with pytest.raises(ValueError, match=r"frozen is torch.float64: call model.float\(\)"):
        fit(toy_model().double())


def test_scaled_run_is_resumed_exactly(tmp_path: Path) -> None:
    settings = training.Settings(3, 5, precision="fp16")
    expected = fit(model := toy_model(), settings=settings)
    with pytest.raises(KeyboardInterrupt):
        fit(toy_model(), ToySource(fail_at=9, error=KeyboardInterrupt()), settings=settings, out=tmp_path)
    again = fit(other := toy_model(), settings=settings, out=tmp_path, resume=True)
    assert without_times(again.history) == without_times(expected.history)
    assert_same(model, other.state_dict())
