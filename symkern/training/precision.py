"""Number formats: which one the model computes in, and what has to be converted for it."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """One of "fp32", "fp64", "bf16", "fp16" on a device.

    bf16 and fp16 are `torch.autocast`: weights, optimizer and symkern's ops stay fp32. fp16 also scales the loss, so
    that small gradients do not vanish. Forces are a gradient inside the model and are not scaled: prefer bf16.

    Attributes:
        scaler: of the loss, for fp16; it skips updates whose gradient overflows.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self._device = name, device
        self._dtype = torch.float64 if name == "fp64" else torch.float32
        self.scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None

    def convert_model(self, model: nn.Module) -> None:
        """fp64: convert the model in place. Otherwise its parameters must be fp32; buffers stay as they are.

        Raises:
            ValueError: a parameter that is not fp32.
        """
        if self.name == "fp64":
            model.double()
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point() and parameter.dtype != self._dtype:
                raise ValueError(
                    f"precision {self.name!r} needs a model with fp32 parameters, but {name} is {parameter.dtype}: "
                    "call model.float(), or choose precision='fp64'"
                )

    def convert_batch(self, batch: Any) -> Any:
        """A dataclass with its floating-point tensors (positions, cell) in the model's dtype. Targets stay."""
        if not dataclasses.is_dataclass(batch) or isinstance(batch, type):
            return batch
        tensors = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch) if f.init}
        changed = {
            name: value.to(self._dtype)
            for name, value in tensors.items()
            if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != self._dtype
        }
        return dataclasses.replace(batch, **changed) if changed else batch

    def autocast(self) -> AbstractContextManager[Any]:
        if self.name not in _AUTOCAST:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=_AUTOCAST[self.name])
