"""Random molecules, cells and rotations for samples. Everything is drawn on the CPU in fp64 from a seed."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_rotation(random: torch.Generator) -> Tensor:
    """A uniformly distributed proper rotation, (3, 3) float64."""
    q, r = torch.linalg.qr(torch.randn((3, 3), generator=random, dtype=torch.float64))
    q = q * torch.sign(torch.diagonal(r))
    rotation: Tensor = q * torch.sign(torch.linalg.det(q))
    return rotation


def random_box(atoms: int, random: torch.Generator, density: float = 0.1) -> tuple[Tensor, Tensor]:
    """`atoms` uniform in a cubic box of `density` atoms per Å^3 (water and proteins have 0.1): positions and cell."""
    edge = (max(atoms, 1) / density) ** (1 / 3)
    positions = edge * torch.rand((atoms, 3), generator=random, dtype=torch.float64)
    return positions, edge * torch.eye(3, dtype=torch.float64)


def random_cell(random: torch.Generator, edge: float = 4.0, skew: float = 0.3) -> Tensor:
    """A triclinic cell, right- or left-handed."""
    cell = torch.eye(3, dtype=torch.float64) + skew * torch.randn((3, 3), generator=random, dtype=torch.float64)
    while float(torch.linalg.det(cell).abs()) < 0.2:
        cell = cell + 0.5 * torch.eye(3, dtype=torch.float64)
    return edge * cell


def shuffle_within(ptr: Tensor, random: torch.Generator) -> Tensor:
    """A permutation of all atoms that keeps each in its structure."""
    parts = [torch.randperm(end - begin, generator=random) + begin for begin, end in pairwise(ptr.tolist())]
    return torch.cat([ptr.new_zeros(0).cpu(), *parts]).to(ptr.device)
