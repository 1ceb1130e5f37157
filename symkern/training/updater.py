"""One update of the weights: gradient, clipping, optimizer, average."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from symkern.training.clock import Clock
from symkern.training.ema import EMA
from symkern.training.flat import FlatParameters
from symkern.training.objective import Objective, Totals
from symkern.training.parallel import Group
from symkern.training.precision import Precision
from symkern.training.settings import Settings

_OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


class Updater:
    """Weights, optimizer and moving average of a run; all processes hold the same.

    Attributes:
        flat: the weights.
        ema: their moving average, or None.
    """

    def __init__(self, model: nn.Module, settings: Settings, group: Group, precision: Precision) -> None:
        self._clip, self._group, self._scaler = settings.clip, group, precision.scaler
        self.flat = FlatParameters(model)
        group.copy_from_main_(self.flat.vector.detach())
        for tensor in (*(p.detach() for p in model.parameters() if not p.requires_grad), *model.buffers()):
            group.copy_from_main_(tensor)
        self.ema = None if settings.ema is None else EMA(self.flat, settings.ema)
        self._optimizer = _OPTIMIZERS[settings.optimizer](
            [self.flat.vector],
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            amsgrad=settings.amsgrad,
            fused=True,  # one pass over the vector, each element by itself: deterministic
        )

    def gradient(self, objective: Objective, batch: Any | None, stop: bool, clock: Clock) -> tuple[Totals, bool, float]:
        """Gradient of the whole batch's loss, from this process's share of it.

        Returns:
            totals of the batch, whether any process was asked to stop, and the norm of the gradient.
        """
        self.flat.zero_grad()
        loss, packed = objective(batch, stop=stop)
        clock.lap("forward")
        if batch is not None:
            self.flat.backward(loss if self._scaler is None else self._scaler.scale(loss))
        self._group.sum_(self.flat.grad)
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer)
        # the one synchronisation of a step: nothing is updated before loss and gradient are known to be finite
        *values, norm = torch.cat([packed, self.flat.norm().double().view(1)]).tolist()
        return *objective.read(values), norm

    def update(self, rate: float, norm: float) -> bool:
        """Change the weights with the learning rate `rate`; False if fp16 overflowed, so that they stay."""
        if self._clip is not None and self._clip < norm < math.inf:
            self.flat.grad.mul_(self._clip / norm)
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = rate
        if self._scaler is None:
            self._optimizer.step()
        else:
            scale = self._scaler.get_scale()
            self._scaler.step(self._optimizer)
            self._scaler.update()
            if self._scaler.get_scale() < scale:
                return False
        if self.ema is not None:
            self.ema.update()
        return True

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self._optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "scaler": None if self._scaler is None else self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        if self._scaler is not None:
            self._scaler.load_state_dict(state["scaler"])
