"""The training engine: exact resumption, several processes, checkpoints that are refused."""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_toys import (
    FULL,
    IDLE,
    PARALLEL,
    Signalled,
    ToyModel,
    ToySource,
    assert_same,
    fit,
    log_of,
    run_case,
    toy_model,
    without_times,
)

from symkern import training

# ---- resumption


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[ToyModel, Any, Path]:
    folder = tmp_path_factory.mktemp("run")
    model = toy_model(dropout=0.3)
    result = fit(model, out=folder)
    rates = [record["learning_rate"] for record in result.history]
    assert rates[0] > rates[3]  # the schedule has met a plateau, so that its state matters
    assert result.best_epoch < 3  # and so does what is kept of the best epoch
    return model, result, folder


def assert_resumes(out: Path, uninterrupted: tuple[ToyModel, Any, Path]) -> None:
    expected, result, folder = uninterrupted
    again = fit(model := toy_model(dropout=0.3), out=out, resume=True)
    assert_same(expected, model.state_dict())
    assert without_times(again.history) == without_times(result.history)
    assert (again.best, again.best_epoch) == (result.best, result.best_epoch)
    assert log_of(out) == log_of(folder)
    for name in ("best.pt", "settings.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    ours, theirs = (torch.load(f / "last.pt", weights_only=True) for f in (out, folder))
    for part in ("model", "optimizer", "ema", "schedule", "random", "best"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)


# 5 updates and 2 validation batches per epoch; the first call of the validation source is the check at the start
@pytest.mark.parametrize("call", [1, 2, 5, 6, 13, 20])
def test_interrupted_in_an_epoch_and_resumed(
    call: int, tmp_path: Path, uninterrupted: tuple[ToyModel, Any, Path]
) -> None:
    with pytest.raises(KeyboardInterrupt, match="enough"):
        fit(toy_model(dropout=0.3), ToySource(fail_at=call, error=KeyboardInterrupt("enough")), out=tmp_path)
    assert len(log_of(tmp_path)) == (call - 1) // 5
    assert_resumes(tmp_path, uninterrupted)


def test_interrupted_between_epochs_in_validation_and_after_the_end(
    tmp_path: Path, uninterrupted: tuple[ToyModel, Any, Path]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(toy_model(dropout=0.3), ToySource(error=KeyboardInterrupt(), fail_epoch=1), out=tmp_path)
    for resume, call in ((1, 3), (2, 2)):  # the second and the first batch of a validation
        with pytest.raises(SystemExit):
            fit(
                toy_model(dropout=0.3),
                out=tmp_path,
                resume=True,
                valid=ToySource(7, seed=3, fail_at=call, error=SystemExit(resume)),
            )
    (tmp_path / "log.jsonl").write_text("lines of a run that got further than its checkpoint\n")
    assert_resumes(tmp_path, uninterrupted)
    assert_resumes(tmp_path, uninterrupted)  # nothing is left to do


def test_crash_leaves_the_last_regular_checkpoint(tmp_path: Path, uninterrupted: tuple[ToyModel, Any, Path]) -> None:
    with pytest.raises(ZeroDivisionError):
        fit(toy_model(dropout=0.3), ToySource(fail_at=5, error=ZeroDivisionError()), out=tmp_path)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["state"]["step"] == 3  # checkpoint_every
    assert_resumes(tmp_path, uninterrupted)


def test_ctrl_c_takes_effect_after_the_update(tmp_path: Path, uninterrupted: tuple[ToyModel, Any, Path]) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(toy_model(dropout=0.3), Signalled(23, at=4), out=tmp_path)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["state"]["step"] == 4
    assert signal.getsignal(signal.SIGINT) is handler

    class Impatient(ToySource):
        def collate(self, index: Tensor) -> Any:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("the second Ctrl-C acts at once")

    with pytest.raises(KeyboardInterrupt):
        fit(toy_model(dropout=0.3), Impatient(), out=tmp_path, resume=True)
    assert_resumes(tmp_path, uninterrupted)


def test_a_torn_update_is_not_saved(
    tmp_path: Path, uninterrupted: tuple[ToyModel, Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        calls = iter(range(100))
        whole = training.EMA.update

        def torn(self: training.EMA) -> None:
            if next(calls) == 4:
                raise KeyboardInterrupt
            whole(self)

        patch.setattr(training.EMA, "update", torn)
        with pytest.raises(KeyboardInterrupt):
            fit(toy_model(dropout=0.3), out=tmp_path)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["state"]["step"] == 3
    assert_resumes(tmp_path, uninterrupted)


def test_epochs_may_grow(tmp_path: Path, uninterrupted: tuple[ToyModel, Any, Path]) -> None:
    fit(toy_model(dropout=0.3), settings=dataclasses.replace(FULL, epochs=2), out=tmp_path)
    again = fit(model := toy_model(dropout=0.3), out=tmp_path, resume=True)
    assert_same(uninterrupted[0], model.state_dict())
    assert without_times(again.history) == without_times(uninterrupted[1].history)
    with pytest.raises(training.CheckpointError, match="epochs was 4, now 3: it may only grow"):
        fit(toy_model(), settings=dataclasses.replace(FULL, epochs=3), out=tmp_path, resume=True)


def test_sigterm_leaves_a_checkpoint(tmp_path: Path) -> None:
    worker = Path(__file__).with_name("training_toys.py")
    process = subprocess.Popen([sys.executable, worker, "endless", tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("epoch 1/100000  rate 0.03  train ")
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM
    state = torch.load(tmp_path / "last.pt", weights_only=True)["state"]
    assert len(log_of(tmp_path)) == state["epoch"] == len(state["history"]) >= 1


def test_random_state_outside_is_left_alone() -> None:
    model = toy_model(dropout=0.3)
    before = torch.get_rng_state()
    fit(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp64", "fp32", "bf16", "fp16"])
def test_on_cuda(precision: str, tmp_path: Path) -> None:
    """Resumed exactly, which takes its random numbers, and in fp64 with the weights of the CPU."""
    settings = dataclasses.replace(FULL, precision=precision)
    expected = fit(model := toy_model(dropout=0.3), settings=settings, device="cuda")
    stopped = ToySource(fail_at=8, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        fit(toy_model(dropout=0.3), stopped, settings=settings, device="cuda", out=tmp_path)
    again = fit(other := toy_model(dropout=0.3), settings=settings, device="cuda", out=tmp_path, resume=True)
    torch.testing.assert_close(other.state_dict(), model.state_dict())  # index_add sums in any order on CUDA
    assert len(again.history) == len(expected.history)
    if precision == "fp64":
        fit(model := toy_model(), settings=settings, device="cuda")
        fit(other := toy_model(), settings=settings)
        torch.testing.assert_close(model.cpu().state_dict(), other.state_dict(), rtol=0, atol=1e-9)


# ---- several processes


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("parallel")
    worker = Path(__file__).with_name("training_toys.py")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = subprocess.run(
        [*torchrun, worker, "parallel", out],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found: dict[str, Any] = torch.load(out / "found.pt", weights_only=True)
    return found


@pytest.mark.parametrize("case", ["ragged", "idle", "resumed"])
def test_two_processes_give_the_result_of_one(case: str, two_processes: dict[str, Any]) -> None:
    settings, count = (IDLE, 5) if case == "idle" else (PARALLEL, 23)
    model, result = run_case(settings, count)
    found = two_processes[case]
    assert_same(model, found["weights"], 1e-10)
    for theirs, ours in zip(found["history"], result.history, strict=True):
        for part in ("train", "valid"):
            assert theirs[part] == pytest.approx(ours[part], abs=1e-10, rel=0)
        for part in ("learning_rate", "gradient_norm"):
            assert theirs[part] == pytest.approx(ours[part], abs=1e-10)


# ---- checkpoints that are refused


@pytest.fixture
def finished(tmp_path: Path, uninterrupted: tuple[ToyModel, Any, Path]) -> Path:
    for name in ("last.pt", "best.pt"):
        (tmp_path / name).write_bytes((uninterrupted[2] / name).read_bytes())
    return tmp_path


class Malicious:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def test_damaged_checkpoints_are_refused(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = finished / "last.pt"
    whole = path.read_bytes()
    own = torch.load(path, weights_only=True)
    weight = own["model"]["first.weight"].numpy().tobytes()
    place = whole.index(weight)
    damaged = {
        "truncated": [whole[:n] for n in (0, 1, 100, len(whole) // 2, len(whole) - 1)],
        "corrupted": [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]],
        "no file of this kind": [b"no zip file" * 100, pickle.dumps(Malicious())],
    }
    for reason, contents in damaged.items():
        for content in contents:
            path.write_bytes(content)
            with pytest.raises(training.CheckpointError, match=f"last.pt: .*{reason}"):
                fit(toy_model(), out=finished, resume=True)
    monkeypatch.chdir(finished)
    foreign = {
        "nothing of it was used": {**own, "extra": Malicious()},
        "no checkpoint of a symkern": {"weights": torch.zeros(3)},
        "has version 7": {**own, "version": 7},
        "incomplete: KeyError: 'optimizer'": {k: v for k, v in own.items() if k != "optimizer"},
        "incomplete": {**own, "state": {**own["state"], "more": 1}},
    }
    for reason, value in foreign.items():
        torch.save(value, path)
        with pytest.raises(training.CheckpointError, match=reason):
            fit(toy_model(), out=finished, resume=True)
    assert not (finished / "executed").exists()


def test_another_run_is_refused(finished: Path) -> None:
    def refused(reason: str, model: nn.Module | None = None, **options: Any) -> None:
        with pytest.raises(training.CheckpointError, match=reason):
            fit(model or toy_model(dropout=0.3), out=finished, resume=True, **options)

    changed = dataclasses.replace(FULL, learning_rate=0.5, ema=None)
    refused("of another run: learning_rate was 0.4, now 0.5; ema was 0.8, now None", settings=changed)
    refused("train_structures was 23, now 22", train=ToySource(22))
    refused("valid_structures was 7, now 8", valid=ToySource(8))
    refused("objective was .*0.3.*, now ", task=training.EnergyForces(1.0, 2.0))
    refused("another model than ToyModel: .*first.weight has shape .8, 3., expected .9, 3.", model=ToyModel(hidden=9))
    with pytest.raises(FileExistsError, match="resume it with resume=True"):
        fit(toy_model(), out=finished)
    with pytest.raises(ValueError, match="out is None"):
        fit(toy_model(), resume=True)


def test_a_schedule_that_ended_is_not_prolonged(tmp_path: Path) -> None:
    settings = training.Settings(1, schedule="cosine")
    fit(toy_model(), settings=settings, out=tmp_path)
    with pytest.raises(training.CheckpointError, match="only a run with decay_epochs can be prolonged"):
        fit(toy_model(), settings=dataclasses.replace(settings, epochs=2), out=tmp_path, resume=True)


def test_weights_that_do_not_fit_are_refused(finished: Path) -> None:
    model = toy_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(training.CheckpointError, match="no such file"):
        training.load_weights(model, finished / "none.pt")
    with pytest.raises(training.CheckpointError, match="the weights to use are in"):
        training.load_weights(model, finished / "last.pt")
    wrong = {"first.weight": torch.zeros(2, 3), "third": torch.zeros(1)}
    torch.save(wrong, finished / "wrong.pt")
    reason = r"missing .*second.weight.*; unexpected third; first.weight has shape \(2, 3\), expected \(8, 3\)"
    with pytest.raises(training.CheckpointError, match=reason):
        training.load_weights(model, finished / "wrong.pt")
    torch.save([1, 2], finished / "wrong.pt")
    with pytest.raises(training.CheckpointError, match="no weights"):
        training.load_weights(model, finished / "wrong.pt")
    assert_same(model, before)
    training.load_weights(model, finished / "best.pt")
    assert not torch.equal(model.first.weight, before["first.weight"])
