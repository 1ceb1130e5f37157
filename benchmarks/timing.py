"""Times several callables in turn, so that a disturbance of the machine hits all of them alike."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

# below this the clock's own cost shows, so short calls are repeated within one sample
SHORTEST_SAMPLE = 2e-4
# from here on the first call tells well enough how long the next will take
LONG_CALL = 1.0


class Race:
    """Rounds in which every callable runs once: A B C, B C A, C A B, ...

    The order rotates, because who runs after whom decides what is left in the caches. A sample is the mean over
    `inner` calls in a row; dropping the result belongs to the call, as it does in a training loop.

    Attributes:
        samples: seconds per call, one list per callable, in the order of rounds.
        inner: calls per sample.
    """

    def __init__(self, calls: Mapping[str, Callable[[], Any]], clock: Callable[[], float] = time.perf_counter) -> None:
        self.calls = dict(calls)
        self.clock = clock
        self.samples: dict[str, list[float]] = {name: [] for name in calls}
        self.inner = dict.fromkeys(calls, 1)

    def calibrate(self, shortest: float = SHORTEST_SAMPLE) -> float:
        """Warm up, choose `inner`, and return the seconds one round will take."""
        total = 0.0
        for name, call in self.calls.items():
            seconds = self._sample(call, 1)  # compiles, loads, grows caches
            if seconds < LONG_CALL:
                seconds = self._sample(call, 1)
            if seconds < shortest:
                seconds = self._sample(call, 16)  # a first guess from one short call is too coarse
            self.inner[name] = max(1, math.ceil(shortest / max(seconds, 1e-9)))
            total += seconds * self.inner[name]
        return total

    def round(self) -> None:
        names = list(self.calls)
        first = len(self.samples[names[0]]) % len(names)
        collecting = gc.isenabled()
        gc.disable()
        try:
            for name in names[first:] + names[:first]:
                self.samples[name].append(self._sample(self.calls[name], self.inner[name]))
        finally:
            if collecting:
                gc.enable()

    def _sample(self, call: Callable[[], Any], inner: int) -> float:
        start = self.clock()
        for _ in range(inner):
            call()
        return (self.clock() - start) / inner


def rounds_within(budget: float, per_round: float, least: int = 5, most: int = 100) -> int:
    """How many rounds fit into `budget` seconds."""
    return min(most, max(least, int(budget / max(per_round, 1e-9))))


def median_and_iqr(samples: list[float]) -> tuple[float, float]:
    """Median and interquartile range."""
    if len(samples) == 1:
        return samples[0], 0.0
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return middle, high - low
