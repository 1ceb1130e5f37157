"""How a run is trained: everything that decides its result, apart from model, task and data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

OPTIMIZERS = ("adamw", "adam")
SCHEDULES = ("constant", "cosine", "linear", "exponential", "plateau")
PRECISIONS = ("fp32", "fp64", "bf16", "fp16")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of `symkern.training.fit`. A run may be resumed only with the settings it was started with.

    Args:
        epochs: passes over the training structures. The one setting that may grow on resuming.
        batch_size: structures per update, over all processes.
        eval_batch_size: structures per batch in validation and test; `batch_size` by default.
        drop_last: leave out an incomplete last batch of an epoch.
        optimizer: "adamw" (weight decay apart from the gradient) or "adam" (weight decay as an L2 term).
        learning_rate, weight_decay, betas, eps, amsgrad: of the optimizer.
        schedule: learning rate after warm-up, see `symkern.training.Schedule`.
        warmup_steps: updates over which the rate rises linearly from 0.
        min_learning_rate: floor of the schedule.
        decay_epochs: where "cosine" and "linear" reach the floor; `epochs` by default. Needed if `epochs` is to grow.
        exponential_factor: of the rate per epoch, for "exponential" (applied in every step).
        plateau_factor, plateau_patience: "plateau" multiplies the rate by the factor once more than that many
            validations in a row have not improved `monitor`.
        clip: largest 2-norm of the whole gradient; None does not clip.
        ema: decay of the moving average of the weights (from `symkern.training.EMA`); None keeps none.
        patience: stop once that many validations in a row have not improved `monitor`; None never stops early.
        monitor: term of the validation that decides what is best: "loss" or a name the task gives. Smaller is better.
        precision: "fp32", "fp64" (model and batches are converted), "bf16" or "fp16" (autocast; the weights stay fp32).
        seed: of the order of structures and of random numbers drawn in the model.
        validate_every: epochs from one validation to the next; the last epoch is always validated.
        checkpoint_every: updates from one checkpoint to the next, besides the one at the end of each epoch.

    Raises:
        TypeError, ValueError: a setting of the wrong type or out of range, or two that contradict each other.
    """

    epochs: int
    batch_size: int = 32
    eval_batch_size: int | None = None
    drop_last: bool = False
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    amsgrad: bool = False
    schedule: str = "constant"
    warmup_steps: int = 0
    min_learning_rate: float = 0.0
    decay_epochs: int | None = None
    exponential_factor: float = 0.98
    plateau_factor: float = 0.5
    plateau_patience: int = 10
    clip: float | None = None
    ema: float | None = None
    patience: int | None = None
    monitor: str = "loss"
    precision: str = "fp32"
    seed: int = 0
    validate_every: int = 1
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None and field.default is None:
                continue
            kind, accepts, expected = _RULES[field.name]
            if not _has_type(value, kind):
                raise TypeError(f"{field.name} must be {expected}, got {value!r}")
            if not accepts(value):
                raise ValueError(f"{field.name} must be {expected}, got {value!r}")
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate must not exceed learning_rate = {self.learning_rate}, got {self.min_learning_rate}"
            )
        if self.decay_epochs is not None and self.schedule not in ("cosine", "linear"):
            raise ValueError(f"decay_epochs is for the schedules 'cosine' and 'linear', got {self.schedule!r}")

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values; ``Settings(**settings.to_dict())`` gives them back."""
        return dataclasses.asdict(self)


def _has_type(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


_Rule = tuple[type, Callable[[Any], bool], str]


def _at_least(least: int) -> _Rule:
    return int, lambda value: value >= least, f"an integer of at least {least}"


def _one_of(names: tuple[str, ...]) -> _Rule:
    return str, lambda value: value in names, "one of " + ", ".join(map(repr, names))


_POSITIVE: _Rule = (float, lambda value: 0 < value < math.inf, "a positive finite number")
_NOT_NEGATIVE: _Rule = (float, lambda value: 0 <= value < math.inf, "a finite number that is not negative")
_FRACTION: _Rule = (float, lambda value: 0 < value < 1, "a number between 0 and 1")
_FACTOR: _Rule = (float, lambda value: 0 < value <= 1, "a number above 0 and at most 1")
_FLAG: _Rule = (bool, lambda value: True, "True or False")

_RULES: dict[str, _Rule] = {
    "epochs": _at_least(1),
    "batch_size": _at_least(1),
    "eval_batch_size": _at_least(1),
    "drop_last": _FLAG,
    "optimizer": _one_of(OPTIMIZERS),
    "learning_rate": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "betas": (
        tuple,
        lambda value: len(value) == 2 and all(_has_type(b, float) and 0 <= b < 1 for b in value),
        "a tuple of two numbers, from 0 to below 1",
    ),
    "eps": _POSITIVE,
    "amsgrad": _FLAG,
    "schedule": _one_of(SCHEDULES),
    "warmup_steps": _at_least(0),
    "min_learning_rate": _NOT_NEGATIVE,
    "decay_epochs": _at_least(1),
    "exponential_factor": _FACTOR,
    "plateau_factor": _FRACTION,
    "plateau_patience": _at_least(0),
    "clip": _POSITIVE,
    "ema": _FRACTION,
    "patience": _at_least(1),
    "monitor": (str, lambda value: value != "", "the name of a term"),
    "precision": _one_of(PRECISIONS),
    "seed": (int, lambda value: True, "an integer"),
    "validate_every": _at_least(1),
    "checkpoint_every": _at_least(1),
}
