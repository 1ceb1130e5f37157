"""Contestants for second_order_pool as functions of the rotation, which is what ASAN trains. On any device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import symkern as sk

from .contest import Work
from .peers import OURS

ATOMS, CHANNELS = 15, 32
MODES = ("outer", "gram", "moment")  # the last with weights of CHANNELS channels


def molecules(structures: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Positions (B, n, 3), weights (B, n, C) and ptr."""
    random = torch.Generator().manual_seed(0)
    positions = torch.randn(structures, ATOMS, 3, generator=random).to(device)
    weights = torch.rand(structures, ATOMS, CHANNELS, generator=random).to(device)
    return positions, weights, torch.arange(0, structures * ATOMS + 1, ATOMS, device=device)


def contestants(
    mode: str, structures: int, device: torch.device | str = "cpu"
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Eager code gets molecules of 15 atoms each as a dense block, so it has nothing to pad."""
    positions, weights, ptr = molecules(structures, device)
    x, w = positions.flatten(0, 1), weights.flatten(0, 1) if mode == "moment" else None
    row, column = torch.triu_indices(3 * ATOMS, 3 * ATOMS, device=device)[:, :225]
    place = 3 * ATOMS * row + column

    def outer(rotation: Tensor) -> Tensor:
        u = (positions @ rotation).flatten(1)
        return (u.unsqueeze(2) * u.unsqueeze(1)).flatten(1)[:, place]

    def factors(rotation: Tensor) -> Tensor:
        u = (positions @ rotation).flatten(1)
        return u.index_select(1, row) * u.index_select(1, column)

    def gram(rotation: Tensor) -> Tensor:
        y = positions @ rotation
        return (y @ y.mT).flatten(1)

    def moment(rotation: Tensor) -> Tensor:
        y = positions @ rotation
        return (weights.mT @ (y.unsqueeze(3) * y.unsqueeze(2)).flatten(2)).flatten(1)

    eager = {
        "outer": {"eager, whole outer product": outer, "eager, index_select": factors},
        "gram": {"eager, bmm": gram},
        "moment": {"eager, bmm": moment},
    }
    calls = {OURS: lambda rotation: sk.second_order_pool(x, rotation, ptr, mode, weights=w)} | eager[mode]
    # as in training, where the rotation is computed from parameters, it is no leaf
    return {who: lambda leaf, call=call: call(leaf.clone()) for who, call in calls.items()}


def rotation_of(device: torch.device | str = "cpu") -> Tensor:
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))
    return q.contiguous().to(device)


def pool_work(mode: str, structures: int, backward: bool) -> Work:
    """Positions and weights in, features out; with the gradient those of the features in as well."""
    width = 9 * CHANNELS if mode == "moment" else 225
    inputs = 4 * structures * ATOMS * (3 + (CHANNELS if mode == "moment" else 0))
    features = 4 * structures * width
    each = {"outer": 1, "gram": 5, "moment": 2 * ATOMS}[mode]
    flops = structures * (15 * ATOMS + each * width)
    return Work(inputs + (2 if backward else 1) * features, (3 if backward else 1) * flops, features)


def name(mode: str) -> str:
    return f"second_order_pool {mode}" + (f" x {CHANNELS}" if mode == "moment" else "")
