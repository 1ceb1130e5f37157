"""Learning rate of each update."""

from __future__ import annotations

import math
from typing import Any

from symkern.training.settings import Settings


class Schedule:
    """The learning rate in closed form, so that it depends on the number of the update and on nothing before it.

    With t the updates since warm-up as a fraction of the decay (of `decay_epochs`, else of all epochs) and r the range
    from `min_learning_rate` to `learning_rate`:

    - "constant": `learning_rate`
    - "cosine": min + r (1 + cos(pi t)) / 2, and min after t = 1 (Loshchilov and Hutter, arXiv:1608.03983, one period)
    - "linear": min + r (1 - t), and min after t = 1
    - "exponential": `learning_rate` * `exponential_factor` ^ (epochs since warm-up, as a fraction), at least min
    - "plateau": `learning_rate` * `plateau_factor` ^ (number of plateaus met), at least min

    During warm-up, update number s of w (counting from 1) has s / w of `learning_rate`.
    """

    def __init__(self, settings: Settings, steps_per_epoch: int) -> None:
        self._settings, self._steps_per_epoch = settings, steps_per_epoch
        self._decay_steps = (settings.decay_epochs or settings.epochs) * steps_per_epoch - settings.warmup_steps
        self._best, self._waited, self._reductions = math.inf, 0, 0

    def rate(self, step: int) -> float:
        """Learning rate of update number `step`, the first being 0."""
        s = self._settings
        since = step - s.warmup_steps
        if since < 0:
            return s.learning_rate * (step + 1) / s.warmup_steps
        span = s.learning_rate - s.min_learning_rate
        t = min(since / self._decay_steps, 1.0) if self._decay_steps > 0 else 1.0
        if s.schedule == "cosine":
            return s.min_learning_rate + span * (1 + math.cos(math.pi * t)) / 2
        if s.schedule == "linear":
            return s.min_learning_rate + span * (1 - t)
        factor = 1.0
        if s.schedule == "exponential":
            factor = s.exponential_factor ** (since / self._steps_per_epoch)
        elif s.schedule == "plateau":
            factor = s.plateau_factor**self._reductions
        return max(s.learning_rate * factor, s.min_learning_rate)

    def observe(self, value: float) -> None:
        """Take in the monitored value of a validation; only "plateau" looks at it."""
        if value < self._best:
            self._best, self._waited = value, 0
            return
        self._waited += 1
        if self._waited > self._settings.plateau_patience:
            self._waited, self._reductions = 0, self._reductions + 1

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "waited": self._waited, "reductions": self._reductions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best, self._waited, self._reductions = state["best"], state["waited"], state["reductions"]
