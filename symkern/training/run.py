"""A run: its parts, its state, its epochs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from symkern import __version__
from symkern.training import state
from symkern.training.clock import PHASES, Clock
from symkern.training.evaluation import check_finite, mean_terms
from symkern.training.interfaces import Source, Task
from symkern.training.interrupts import Interrupts, Stopped
from symkern.training.loader import batches
from symkern.training.log import RunFiles
from symkern.training.objective import Objective, Totals
from symkern.training.order import derived_seed, epoch_order, split
from symkern.training.parallel import Group
from symkern.training.precision import Precision
from symkern.training.progress import Progress
from symkern.training.schedule import Schedule
from symkern.training.settings import Settings
from symkern.training.updater import Updater


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of a run.

    Attributes:
        best_epoch: from 1; the epoch whose weights the model has now.
        best: terms of its validation (of its training, without validation structures).
        test: terms of the test structures with these weights, or None.
        history: one record per epoch, as in log.jsonl.
        stopped: "epochs" (all were done) or "patience" (no improvement).
        seconds: time in all epochs, over all resumptions.
        shares: fraction of it for each phase: collate (waiting for batches), forward, update (backward and optimizer),
            validation, other.
        skipped_steps: updates that fp16 skipped.
    """

    best_epoch: int
    best: dict[str, float]
    test: dict[str, float] | None
    history: list[dict[str, Any]]
    stopped: str
    seconds: float
    shares: dict[str, float]
    skipped_steps: int


@dataclasses.dataclass
class State:
    """How far a run is; plain values only."""

    epoch: int = 0  # finished epochs, validation included
    step: int = 0  # updates of the epoch under way
    sums: dict[str, float] = dataclasses.field(default_factory=dict)  # totals of the epoch under way
    counts: dict[str, float] = dataclasses.field(default_factory=dict)
    norms: float = 0.0  # sum of gradient norms of the epoch under way
    skipped: int = 0
    seconds: dict[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    best_value: float = math.inf
    best_epoch: int = 0
    waited: int = 0  # validations since the best one
    stopped: bool = False
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


class Run:
    """The parts of a run, and its state."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        train: Source,
        valid: Source | None,
        settings: Settings,
        folder: Path | None,
        group: Group,
        interrupts: Interrupts,
    ) -> None:
        self._model, self._task, self._train, self._valid, self._settings = model, task, train, valid, settings
        self._folder, self._group, self._interrupts = folder, group, interrupts
        self._files = RunFiles(folder if group.main else None)
        precision = Precision(settings.precision, group.device)
        model.to(group.device)
        precision.convert_model(model)
        self._objective = Objective(model, task, train if valid is None else valid, group, precision)
        _check_monitor(settings, self._objective)
        self.updater = Updater(model, settings, group, precision)
        self.steps_per_epoch = len(split(torch.arange(len(train)), settings.batch_size, drop_last=settings.drop_last))
        self._schedule = Schedule(settings, self.steps_per_epoch)
        self._state = State()
        self._best: dict[str, Tensor] = {}
        self._random: list[Tensor] = []
        self._consistent = False

    @property
    def done(self) -> int:
        """Updates so far."""
        return self._state.epoch * self.steps_per_epoch + self._state.step

    def start(self, resume: bool) -> None:
        """From last.pt if there is one, else from the beginning."""
        path = None if self._folder is None else self._folder / "last.pt"
        torch.manual_seed(derived_seed("model", self._settings.seed, self._group.rank))
        self._mark()
        if path is not None and resume and path.exists():
            self._load(path)
        self._group.wait()  # nobody writes before all have read
        if self._folder is not None and self._group.main:
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._best:
                state.write(self._folder / "best.pt", self._best)
        about = {"symkern": __version__, "torch": torch.__version__, **self._facts()}
        self._files.start({"settings": self._settings.to_dict(), "run": about}, self._state.history)

    def train(self, progress: Progress) -> None:
        """All epochs that remain. When interrupted, the run is saved as it was after its last update."""
        try:
            with progress:
                while self._state.epoch < self._settings.epochs and not self._state.stopped:
                    self._epoch(progress)
        except (Stopped, KeyboardInterrupt, SystemExit) as error:
            # an exception of one process alone finds the others elsewhere: they cannot save together
            if self._consistent and (isinstance(error, Stopped) or self._group.size == 1):
                self._save()
            raise

    def finish(self, test: Source | None) -> Result:
        """Best weights into the model, test, result.json."""
        self._model.load_state_dict(self._best)
        self._model.eval()
        terms = None if test is None else self._terms_of(test, "test")
        history = self._state.history
        seconds = sum(record["seconds"] for record in history)
        spent = {name: sum(r["seconds"] * r["shares"][name] for r in history) for name in PHASES}
        best = history[self._state.best_epoch - 1]
        result = Result(
            best_epoch=self._state.best_epoch,
            best=best["train"] if best["valid"] is None else best["valid"],
            test=terms,
            history=history,
            stopped="patience" if self._state.stopped else "epochs",
            seconds=seconds,
            shares={name: value / seconds if seconds else 0.0 for name, value in spent.items()},
            skipped_steps=sum(record["skipped_steps"] for record in history),
        )
        self._files.result({k: v for k, v in vars(result).items() if k != "history"} | {"epochs": len(history)})
        return result

    def _epoch(self, progress: Progress) -> None:
        now, settings = self._state, self._settings
        clock = Clock(now.seconds)
        if not now.sums:
            zero = Totals.zero(self._objective.names)
            now.sums, now.counts = zero.sums, zero.counts
        self._model.train()
        for index, batch in self._batches_left():
            clock.lap("collate")
            rate = self._schedule.rate(self.done)
            asked = self._interrupts.requested is not None
            found, stop, norm = self.updater.gradient(self._objective, batch, asked, clock)
            means = found.means(self._objective.weights)
            scaled = settings.precision == "fp16"
            where = f"epoch {now.epoch + 1}, step {now.step + 1}"
            check_finite(means, 0.0 if scaled else norm, where, index)
            self._consistent = False
            if self.updater.update(rate, norm):
                now.norms += norm
            else:
                now.skipped += 1
            totals = Totals(now.sums, now.counts) + found
            now.sums, now.counts = totals.sums, totals.counts
            now.step += 1
            clock.lap("update")
            now.seconds = clock.seconds
            self._mark()
            progress.step(self.done, now.epoch + 1, means["loss"])
            if stop:
                raise Stopped
            if settings.checkpoint_every is not None and self.done % settings.checkpoint_every == 0:
                self._save()
            clock.lap("other")
        valid = self._validate()
        clock.lap("validation")
        best = self._finish_epoch(valid, clock)
        progress.epoch(now.history[-1], best)

    def _batches_left(self) -> Iterator[tuple[Tensor, Any]]:
        """(structures of the whole batch, this process's share as a batch) for each update left in the epoch."""
        now, settings = self._state, self._settings
        set_epoch = getattr(self._train, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(now.epoch)
        order = epoch_order(len(self._train), settings.seed, now.epoch)
        pieces = split(order, settings.batch_size, drop_last=settings.drop_last)[now.step :]
        shares = [self._group.share(piece) for piece in pieces]
        ahead = self._group.device.type == "cuda"
        return zip(pieces, batches(self._train, shares, self._objective.prepare, ahead=ahead), strict=True)

    def _validate(self) -> dict[str, float] | None:
        """Terms of the validation structures, or None in an epoch without validation."""
        epoch, settings = self._state.epoch + 1, self._settings
        if self._valid is None or (epoch % settings.validate_every and epoch != settings.epochs):
            return None
        with self.updater.ema.applied() if self.updater.ema else nullcontext():
            return self._terms_of(self._valid, f"validation of epoch {epoch}")

    def _terms_of(self, source: Source, what: str) -> dict[str, float]:
        size = self._settings.eval_batch_size or self._settings.batch_size
        return mean_terms(self._model, self._objective, source, size, self._group, self._interrupts, what)

    def _finish_epoch(self, valid: dict[str, float] | None, clock: Clock) -> bool:
        """Record, early stopping, files; whether the epoch is the best so far."""
        now = self._state
        self._consistent = False
        rate = self._schedule.rate(self.done - 1)
        best = self._judge(valid)
        if best:
            with self.updater.ema.applied() if self.updater.ema else nullcontext():
                self._best = state.weights_of(self._model)
        now.epoch += 1
        updates = self.steps_per_epoch - now.skipped
        record = {
            "epoch": now.epoch,
            "step": self.done - now.step,
            "learning_rate": rate,
            "train": Totals(now.sums, now.counts).means(self._objective.weights),
            "valid": valid,
            "gradient_norm": now.norms / max(updates, 1),
            "skipped_steps": now.skipped,
            "seconds": clock.total(),
            "shares": clock.shares(),
        }
        now.history.append(record)
        now.step, now.norms, now.skipped = 0, 0.0, 0
        now.sums, now.counts, now.seconds = {}, {}, dict.fromkeys(PHASES, 0.0)
        self._mark()
        if best and self._folder is not None and self._group.main:
            state.write(self._folder / "best.pt", self._best)
        self._save()
        self._files.epoch(record)
        return best

    def _judge(self, valid: dict[str, float] | None) -> bool:
        """Early stopping and schedule see the validation; whether it is the best so far."""
        now, settings = self._state, self._settings
        if valid is None:
            best = self._valid is None
        else:
            if settings.monitor not in valid:
                raise ValueError(f"monitor: the validation has no items of the term {settings.monitor!r}")
            value = valid[settings.monitor]
            best = value < now.best_value
            if (now.epoch + 1) % settings.validate_every == 0:  # not the extra one at the end: a run may be prolonged
                self._schedule.observe(value)
                now.waited = 0 if best else now.waited + 1
                now.stopped = settings.patience is not None and now.waited >= settings.patience
            now.best_value = min(value, now.best_value)
        if best:
            now.best_epoch = now.epoch + 1
        return best

    def _facts(self) -> dict[str, Any]:
        """What must be equal on resuming, besides the settings."""
        return {
            "objective": self._objective.weights,
            "model": _described(self._model),
            "task": repr(self._task) if dataclasses.is_dataclass(self._task) else type(self._task).__name__,
            "train_data": getattr(self._train, "fingerprint", ""),
            "valid_data": getattr(self._valid, "fingerprint", ""),
            "train_structures": len(self._train),
            "valid_structures": 0 if self._valid is None else len(self._valid),
            "processes": self._group.size,
            "device": self._group.device.type,
        }

    def _mark(self) -> None:
        """The state is one to save, now and until the next update: with the random numbers drawn up to here."""
        self._consistent = True
        self._random = [torch.get_rng_state()]
        if self._group.device.type == "cuda":
            self._random.append(torch.cuda.get_rng_state(self._group.device))

    def _save(self) -> None:
        if self._folder is None:
            return
        content: dict[str, Any] = {
            "settings": self._settings.to_dict(),
            "run": self._facts(),
            "model": self._model.state_dict(),
            "best": self._best,
            "schedule": self._schedule.state_dict(),
            "state": dataclasses.asdict(self._state),
            "random": [self._group.gather(numbers) for numbers in self._random],
            **self.updater.state_dict(),
        }
        if self._group.main:
            state.write_run(self._folder / "last.pt", content)
        self._group.wait()  # nobody leaves before it is there

    def _load(self, path: Path) -> None:
        content = state.read_run(path)
        try:
            state.check_same_run(path, content, self._settings, self._facts())
            state.check_weights(self._model, content["model"], path)
            self._model.load_state_dict(content["model"])
            self.updater.load_state_dict(content)
            self._schedule.load_state_dict(content["schedule"])
            self._state = State(**content["state"])
            self._best = content["best"]
            if self._best:
                state.check_weights(self._model, self._best, path)
            random = [numbers[self._group.rank] for numbers in content["random"]]
            torch.set_rng_state(random[0])
            if self._group.device.type == "cuda":
                torch.cuda.set_rng_state(random[1], self._group.device)
        except (KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
            raise state.CheckpointError(f"{path}: incomplete: {type(error).__name__}: {error}") from error
        self._mark()


def _described(model: nn.Module) -> str:
    """Class and settings, as far as known; rounded, as fitted numbers differ in their last digits between machines."""
    return f"{type(model).__name__} {_rounded(getattr(model, 'config', ''))}".strip()


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _check_monitor(settings: Settings, objective: Objective) -> None:
    if settings.monitor != "loss" and settings.monitor not in objective.names:
        raise ValueError(
            f"monitor must be 'loss' or a term of the task, {list(objective.names)}, got {settings.monitor!r}"
        )
