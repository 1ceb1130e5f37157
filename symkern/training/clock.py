"""Where the time of an epoch goes."""

from __future__ import annotations

import time

# "other" is the engine itself and its files. On CUDA the host waits for the device in "update".
PHASES = ("collate", "forward", "update", "validation", "other")


class Clock:
    """Seconds of each phase; every moment between creation and the last `lap` belongs to one.

    Args:
        seconds: spent before, as when an epoch is continued.
    """

    def __init__(self, seconds: dict[str, float] | None = None) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0) if seconds is None else dict(seconds)
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """The time since the last call was spent on `phase`."""
        now = time.perf_counter()
        self.seconds[phase] += now - self._last
        self._last = now

    def total(self) -> float:
        return sum(self.seconds.values())

    def shares(self) -> dict[str, float]:
        """Fraction of the total for each phase."""
        total = self.total()
        return {phase: seconds / total if total else 0.0 for phase, seconds in self.seconds.items()}
