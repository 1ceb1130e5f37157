"""Structures in random orientations, with their vectors."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from symkern.data import Dataset


def rotations(count: int, seed: int) -> Tensor:
    """(count, 3, 3) float64, uniform over SO(3)."""
    random = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(count, 3, 3, generator=random, dtype=torch.float64))
    q = q * r.diagonal(dim1=1, dim2=2).sign().unsqueeze(1)
    proper: Tensor = q * torch.linalg.det(q)[:, None, None]
    return proper


def turned(data: Dataset, seed: int) -> tuple[Dataset, Tensor]:
    """`data` with each structure turned about the origin, and the rotations (B, 3, 3).

    Properties of shape (B, 3) or (N, 3) are taken to be vectors, and turned along.
    """
    turns = rotations(data.num_structures, seed)
    of_atom = torch.repeat_interleave(turns, data.ptr.diff(), 0)

    def turn(x: Tensor, by: Tensor) -> Tensor:
        vectors = x.dim() == 2 and x.shape[1] == 3 and x.is_floating_point()
        return (by.to(x.dtype) @ x.unsqueeze(-1)).squeeze(-1) if vectors else x

    changed = replace(
        data,
        pos=turn(data.pos, of_atom),
        per_structure={name: turn(x, turns) for name, x in data.per_structure.items()},
        per_atom={name: turn(x, of_atom) for name, x in data.per_atom.items()},
    )
    return changed, turns
