"""Training of one model on a `VectorTask`: a fixed number of AdamW steps, or until it stops learning.

All molecules of a task are one batch, and an epoch one step. The same molecules serve for training, validation and
test, as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from symkern.experiments.sann.vector_metrics import METRICS, means
from symkern.experiments.sann.vector_models import Prepared, VectorModel
from symkern.experiments.sann.vector_task import VectorTask
from symkern.models.vector_outputs import Noisy
from symkern.nn.basic import check_positive

DRAWS = 16  # of the noise of a "+Noise" model, for its test
TURNED = 1_000_003  # seed of the rotations after training; those of water before it have the seed of the run


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        loss: a key of `vector_metrics.METRICS`.
        steps: at most.
        lr: the largest learning rate; falls to 0 along half a cosine over `steps`.
        weight_decay: of AdamW, which has 0.01 as its own.
        below: end when the loss is below this, in squared units.
        patience: end when the least loss has not become smaller by a thousandth for so many steps.
    """

    loss: str
    steps: int
    lr: float
    weight_decay: float = 0.01
    below: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, lr=self.lr)
        if self.loss not in METRICS:
            raise ValueError(f"loss must be one of {', '.join(METRICS)}, got {self.loss!r}")

    def rate(self, step: int) -> float:
        """Learning rate of update number `step`, the first being 0."""
        return self.lr * (1 + math.cos(math.pi * step / self.steps)) / 2


def fit(module: VectorModel, task: VectorTask, recipe: Recipe) -> dict[str, Any]:
    """Train `module` (of `vector_models.make`) in place, and keep the weights with the least loss.

    Args:
        task: in the dtype and on the device of the module.

    Returns:
        "metrics": the mean over molecules of every metric, and over `DRAWS` of noise where the model has noise;
        "turned": the same for the same molecules, turned at random after training; "quiet": for models with noise,
        "metrics" without it; "best_step": after how many updates the loss was least; "steps": updates in all;
        "ended": "steps", "below" or "patience"; "parameters": how many the module has.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    prepared = module.prepare(task.z, task.pos, task.batch, task.ptr)
    weights = [p for p in module.parameters() if p.requires_grad]
    best = [torch.empty_like(p) for p in weights]
    optimizer = torch.optim.AdamW(weights, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    module.train()
    least, best_step, ended = math.inf, 0, "steps"
    level, improved = math.inf, 0  # the last that was a thousandth below the one before: small steps add up
    for step in range(recipe.steps + 1):
        loss = task.loss(module(prepared), recipe.loss)
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(f"loss must be finite, got {value} at step {step}")
        if value < 0.999 * level:
            level, improved = value, step
        if value < least:
            least, best_step = value, step
            _copy(weights, best)
        if recipe.below is not None and value < recipe.below:
            ended = "below"
            break
        if recipe.patience is not None and step - improved >= recipe.patience:
            ended = "patience"
            break
        if step < recipe.steps:
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    _copy(best, weights)
    count = sum(p.numel() for p in weights)
    result = {"best_step": best_step, "steps": step, "ended": ended, "parameters": count}
    noisy = [part for part in module.modules() if isinstance(part, Noisy)]
    draws = DRAWS if noisy else 1
    turned = task.turned(TURNED)
    result["metrics"] = _test(module, prepared, task, draws)
    result["turned"] = _test(module, module.prepare(turned.z, turned.pos, turned.batch, turned.ptr), turned, draws)
    if noisy:
        levels = [part.sd for part in noisy]
        for part in noisy:
            part.sd = 0.0
        result["quiet"] = _test(module, prepared, task, 1)
        for part, sd in zip(noisy, levels, strict=True):
            part.sd = sd
    return result


def _test(module: VectorModel, prepared: Prepared, task: VectorTask, draws: int) -> dict[str, float]:
    tests = [means(task.output(module(prepared)), task.target, task.sym, task.kind) for _ in range(draws)]
    return {name: fmean(test[name] for test in tests) for name in METRICS}


@torch.no_grad()
def _copy(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    torch._foreach_copy_(list(target), list(source))
