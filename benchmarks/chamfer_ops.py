"""Contestants for chamfer: all pairs in torch, and SciPy's k-d tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from scipy.spatial import cKDTree
from torch import Tensor

import symkern as sk

from .contest import Work
from .peers import OURS, Entry

MOLECULES, ATOMS, POINTS = 128, 18, 100_000
CLOUDS = ("uniform", "normal", "sphere", "clustered")


def molecules(seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(MOLECULES, ATOMS, 3, generator=random) for _ in range(2))  # type: ignore[return-value]


def cloud(kind: str, seed: int) -> Tensor:
    """(POINTS, 3) float32; clusters are 10^5 times smaller than the distances between them."""
    random = torch.Generator().manual_seed(seed)
    if kind == "uniform":
        return torch.rand(POINTS, 3, generator=random)
    points = torch.randn(POINTS, 3, generator=random)
    if kind == "sphere":
        return points / points.norm(dim=1, keepdim=True)
    if kind == "clustered":
        centers = torch.rand(100, 3, generator=torch.Generator().manual_seed(99))
        return centers[torch.randint(100, (POINTS,), generator=random)] + 1e-5 * points
    return points


def dense(x: Tensor, y: Tensor) -> Tensor:
    """As users write it."""
    return torch.cdist(x, y).square().amin(-1).sum(-1)


def ragged(x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    ptr = torch.arange(len(x) + 1) * x.shape[1]
    targets = y.flatten(0, 1)
    return lambda points: sk.chamfer(points, targets, x_ptr=ptr, y_ptr=ptr)


def small_entries(backward: bool, target: float | None) -> list[Entry]:
    x, y = molecules()
    weight = torch.ones(MOLECULES)
    # each in its layout: one row per atom, or one block per molecule
    forms = {
        (OURS, "op"): (ragged(x, y), x.flatten(0, 1)),
        ("torch eager", "cdist"): (lambda points: dense(points, y), x),
    }

    def timed(forward: Callable[[Tensor], Tensor], points: Tensor) -> Callable[[], Any]:
        leaf = points.clone().requires_grad_(backward)
        if backward:
            return lambda: torch.autograd.grad(forward(leaf), leaf, weight)[0]
        return lambda: forward(leaf)

    made = [
        Entry(who, form, timed(forward, points), target=None if who == OURS else target)
        for (who, form), (forward, points) in forms.items()
    ]
    torch.testing.assert_close(made[1].call().reshape_as(made[0].call()), made[0].call(), rtol=1e-3, atol=1e-4)
    return made


def large_entries(kind: str, threads: int, target: float) -> list[Entry]:
    x, y = cloud(kind, 0), cloud(kind, 1)
    points, targets = x.double().numpy(), y.double().numpy()
    made = [
        Entry(OURS, "op", lambda: sk.chamfer(x, y)),
        Entry(
            "scipy",
            "cKDTree, build + query",
            lambda: (cKDTree(targets).query(points, workers=threads)[0] ** 2).sum(),
            "float64",
            target=target,
        ),
    ]
    torch.testing.assert_close(made[0].call().double(), torch.tensor([made[1].call()]), rtol=1e-6, atol=0)
    return made


def small_work(backward: bool) -> Work:
    # coordinates in; with the gradient also those of x out. 8 operations for each pair
    points = MOLECULES * ATOMS
    return Work(24 * points + (12 * points if backward else 4 * MOLECULES), 8 * ATOMS * points, 8 * points)


def large_work() -> Work:
    # an oracle would compare each point with its nearest alone
    return Work(24 * POINTS, 8 * POINTS, 8 * POINTS)
