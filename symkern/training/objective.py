"""The terms of a task, their totals over all processes, and the loss made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from symkern.training.interfaces import Source, Task, Term
from symkern.training.parallel import Group
from symkern.training.precision import Precision


class NonFiniteError(RuntimeError):
    """The loss or its gradient is infinite or not a number.

    Attributes:
        index: the structures of the batch, over all processes.
    """

    def __init__(self, message: str, index: Tensor) -> None:
        self.index: list[int] = index.tolist()
        shown = ", ".join(map(str, self.index[:32])) + (", ..." if len(self.index) > 32 else "")
        super().__init__(f"{message}; structures of the batch: {shown}")


@dataclass(frozen=True)
class Totals:
    """Sums and counts of every term, over one batch or many, and over all processes."""

    sums: dict[str, float]
    counts: dict[str, float]

    @classmethod
    def zero(cls, names: Sequence[str]) -> Totals:
        return cls(dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0))

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            {name: value + other.sums[name] for name, value in self.sums.items()},
            {name: value + other.counts[name] for name, value in self.counts.items()},
        )

    def means(self, weights: Mapping[str, float]) -> dict[str, float]:
        """ "loss" and the mean of each term that has items."""
        means = {name: value / self.counts[name] for name, value in self.sums.items() if self.counts[name]}
        return {"loss": sum(weight * means.get(name, 0.0) for name, weight in weights.items()), **means}


class Objective:
    """A task on a model, for batches of which each process has a share.

    Args:
        source: its first structure is evaluated at once, to learn the names of the terms (a process whose share of a
            batch is empty could not know them) and to find errors before hours have passed.

    Attributes:
        weights: of the terms that make up the loss.
        names: of all terms.

    Raises:
        TypeError, ValueError: the task does not give terms as `symkern.training.Task` says.
    """

    def __init__(self, model: nn.Module, task: Task, source: Source, group: Group, precision: Precision) -> None:
        self._model, self._task, self._group, self._precision = model, task, group, precision
        self.weights = _checked_weights(task)
        training = model.training
        model.eval()
        with torch.no_grad():
            first = self.prepare(source.collate(torch.zeros(1, dtype=torch.int64)))
            terms = self._terms(first)
        model.train(training)
        self.names = tuple(terms)
        missing = [name for name in self.weights if name not in terms]
        if missing:
            raise ValueError(f"the task's objective names {missing}, but its terms are {list(terms)}")
        weights = [self.weights.get(name, 0.0) for name in self.names]
        self._weights = torch.tensor(weights, dtype=torch.float64, device=group.device)

    def prepare(self, batch: Any) -> Any:
        """The batch in the run's precision, and for CUDA in page-locked memory if it can be."""
        batch = self._precision.convert_batch(batch)
        return batch.pin_memory() if self._group.device.type == "cuda" and hasattr(batch, "pin_memory") else batch

    def __call__(self, batch: Any | None, *, stop: bool = False) -> tuple[Tensor, Tensor]:
        """Loss of this process's share (None: empty), normalised by the counts of all, and totals for `read`.

        Summed over processes, the gradients of these losses are the gradient of the loss of the whole batch. `stop`
        tells all processes that this one was asked to stop.
        """
        device, count = self._group.device, len(self.names)
        if batch is None:
            live, counts = torch.zeros(count, dtype=torch.float64, device=device), [0] * count
        else:
            terms = self._terms(batch)
            if tuple(terms) != self.names:
                raise ValueError(f"the task gave the terms {list(terms)}, and {list(self.names)} before")
            # what is only logged must not cost a backward pass
            live = torch.stack([(s if n in self.weights else s.detach()).double() for n, (s, _) in terms.items()])
            counts = [items for _, items in terms.values()]
        rest = torch.tensor([*counts, stop], dtype=torch.float64).to(device, non_blocking=True)
        packed = torch.cat([live.detach(), rest])
        self._group.sum_(packed)
        return torch.dot(live, self._weights / packed[count:-1].clamp(min=1)), packed

    def read(self, packed: list[float]) -> tuple[Totals, bool]:
        """Totals, and whether any process was asked to stop."""
        count = len(self.names)
        sums = dict(zip(self.names, packed[:count], strict=True))
        return Totals(sums, dict(zip(self.names, packed[count:-1], strict=True))), packed[-1] > 0

    def _terms(self, batch: Any) -> dict[str, Term]:
        """Of a batch that `prepare` gave."""
        pinned = {"non_blocking": True} if hasattr(batch, "pin_memory") else {}
        batch = batch.to(self._group.device, **pinned)
        with self._precision.autocast():
            terms = self._task(self._model, batch)
        if not isinstance(terms, dict) or not terms:
            raise TypeError(f"a task must return a dict of terms, got {type(terms).__name__} {terms!r}")
        for name, term in terms.items():
            if not (isinstance(term, tuple) and len(term) == 2 and isinstance(term[0], Tensor) and term[0].dim() == 0):
                raise TypeError(f"term {name!r} must be (sum, count) with a tensor without dimensions, got {term!r}")
        return terms


def _checked_weights(task: Task) -> dict[str, float]:
    weights = dict(task.objective)
    if not weights:
        raise ValueError("the task's objective is empty: there is nothing to train")
    for name, weight in weights.items():
        if not math.isfinite(weight):
            raise ValueError(f"weight of {name!r} in the task's objective must be finite, got {weight}")
    return weights
