"""Moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from symkern.training.flat import FlatParameters


class EMA:
    """Exponential moving average.

    After update n, average += (1 - d) (weights - average) with d = min(decay, (1 + n) / (10 + n)).

    The smaller d of the first updates lets the average leave the initial weights soon. Buffers are not averaged.
    """

    def __init__(self, flat: FlatParameters, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._weights = flat.vector.detach()
        self._average = self._weights.clone()

    def update(self) -> None:
        """Take in the weights as they are now."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self._average.lerp_(self._weights, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside, and its own again afterwards."""
        own = self._weights.clone()
        self._weights.copy_(self._average)
        try:
            yield
        finally:
            self._weights.copy_(own)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self._average, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self._average.copy_(state["average"])
        self.updates = state["updates"]
