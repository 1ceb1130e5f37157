"""The small parts that every model is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from symkern.ops._fused import shifted_softplus


class ShiftedSoftplus(nn.Module):
    """ln(e^x / 2 + 1 / 2): a softplus that is 0 at 0 (Schütt et al., J. Chem. Phys. 148, 241722 (2018))."""

    def forward(self, x: Tensor) -> Tensor:
        return shifted_softplus(x)


def mlp(sizes: Sequence[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Linear maps of the given widths, the activation between them and not behind the last.

    Raises:
        ValueError: fewer than two sizes.
    """
    if len(sizes) < 2:
        raise ValueError(f"sizes must hold at least an input and an output width, got {list(sizes)}")
    layers: list[nn.Module] = []
    for inner, outer in pairwise(sizes):
        layers += [nn.Linear(inner, outer), activation()]
    return nn.Sequential(*layers[:-1])


def check_positive(**numbers: float) -> None:
    """Raise ValueError for each named number that is not positive and finite."""
    for name, value in numbers.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_features(name: str, value: Tensor, *shape: int) -> None:
    """Raise unless `value` is a float tensor of this shape."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value)}")
    if value.shape != shape or not value.is_floating_point():
        raise ValueError(f"{name} must be floats of shape {shape}, got {value.dtype} of shape {tuple(value.shape)}")


def check_dtype(dtype: torch.dtype, **tensors: Tensor) -> None:
    """Raise ValueError for each named tensor of another dtype than a layer's parameters; autocast mixes them."""
    for name, value in tensors.items():
        if value.dtype != dtype and not torch.is_autocast_enabled(value.device.type):
            raise ValueError(f"{name} must be {dtype}, as the parameters are, got {value.dtype}")


@torch.no_grad()
def xavier(linear: nn.Linear) -> nn.Linear:
    """Xavier-uniform weights and zero bias, in place: how SchNet starts."""
    nn.init.xavier_uniform_(linear.weight)
    if linear.bias is not None:
        linear.bias.zero_()
    return linear
