"""What a run shows while it goes: a bar on a terminal, a line per epoch elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

_INTERVAL = 0.1  # seconds between two looks of the bar: a step may take less than drawing one


class Progress:
    """Shows nothing; the others override what they show."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def step(self, done: int, epoch: int, loss: float) -> None:
        """`done` updates of the run are finished, the last in epoch `epoch` (from 1) with this loss."""

    def epoch(self, record: dict[str, Any], best: bool) -> None:
        """An epoch is finished; `best`: it is the best so far."""


class Lines(Progress):
    """One line per epoch."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    def epoch(self, record: dict[str, Any], best: bool) -> None:
        print(summary(record, self._epochs, best), flush=True)


class Bar(Progress):
    """A bar of rich over all updates of the run: epoch, loss, rate, time left.

    Raises:
        ImportError: rich is not installed.
    """

    def __init__(self, epochs: int, steps_per_epoch: int, done: int) -> None:
        try:
            from rich import progress
        except ImportError as error:
            raise ImportError("the progress bar needs rich: pip install 'symkern[train]'") from error
        self._epochs, self._steps_per_epoch, self._first = epochs, steps_per_epoch, done
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[state]}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
        )
        self._valid = ""
        self._began = self._shown = time.monotonic()
        self._task = self._bar.add_task("starting", total=epochs * steps_per_epoch, completed=done, state="")

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def step(self, done: int, epoch: int, loss: float) -> None:
        now = time.monotonic()
        if now - self._shown < _INTERVAL and done < self._epochs * self._steps_per_epoch:
            return
        self._shown = now
        rate = (done - self._first) / max(now - self._began, 1e-9)
        step = done - (epoch - 1) * self._steps_per_epoch
        self._bar.update(
            self._task,
            completed=done,
            description=f"epoch {epoch}/{self._epochs} step {step}/{self._steps_per_epoch}",
            state=f"loss {loss:.4g}{self._valid}  {rate:.3g} steps/s",
        )

    def epoch(self, record: dict[str, Any], best: bool) -> None:
        if record["valid"] is not None:
            self._valid = f"  valid {record['valid']['loss']:.4g}" + (" (best)" if best else "")


def make_progress(show: bool, epochs: int, steps_per_epoch: int, done: int) -> Progress:
    """Nothing, a bar if standard output is a terminal, or lines; lines also where rich is missing, saying so."""
    if not show:
        return Progress()
    if sys.stdout.isatty():
        try:
            return Bar(epochs, steps_per_epoch, done)
        except ImportError as error:
            print(f"{error}; until then there is a line per epoch")
    return Lines(epochs)


def summary(record: dict[str, Any], epochs: int, best: bool) -> str:
    """An epoch in one line."""
    valid = "" if record["valid"] is None else f"  valid {record['valid']['loss']:.6g}{' *' if best else ''}"
    return (
        f"epoch {record['epoch']}/{epochs}  rate {record['learning_rate']:.3g}  train {record['train']['loss']:.6g}"
        f"{valid}  {record['seconds']:.1f} s, collate {100 * record['shares']['collate']:.0f} %"
    )
