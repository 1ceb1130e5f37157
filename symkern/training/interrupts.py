"""SIGINT and SIGTERM, kept until the state is one that can be saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Stopped(Exception):  # noqa: N818  (no error: unwinds a run that was asked to stop)
    """Raised between two updates after a signal; `fit` then lets the signal take its course."""


class Interrupts:
    """Context in which SIGINT (Ctrl-C) and SIGTERM only set `requested`. A second SIGINT acts at once.

    Ignored signals stay ignored. Outside the main thread, where Python allows no handlers, nothing changes.

    Args:
        insist: whether a second SIGINT acts at once. Under torchrun Ctrl-C reaches a process twice: then it must not.
    """

    def __init__(self, *, insist: bool) -> None:
        self.requested: int | None = None
        self._insist = insist
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                old = signal.getsignal(number)
                if old not in (signal.SIG_IGN, None):
                    self._old[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None and self._insist and number == signal.SIGINT:
            self._restore()
            signal.raise_signal(number)
        self.requested = number

    def _restore(self) -> None:
        while self._old:
            signal.signal(*self._old.popitem())

    def __exit__(self, *error: object) -> None:
        """Put the handlers back; after `Stopped`, or a run that ended before it could stop, act on the signal."""
        self._restore()
        stopped = isinstance(error[1], Stopped)
        if self.requested is not None and (stopped or error[1] is None):
            signal.raise_signal(self.requested)  # KeyboardInterrupt, or the end of the process
        if stopped:
            raise KeyboardInterrupt("training stopped by a signal")  # one that another process got
