"""Structures in random orientations, with their vectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from symkern.data import Dataset
from symkern.data.augment import random_rotations, turn


def rotations(count: int, seed: int) -> Tensor:
    """(count, 3, 3) float64, uniform over SO(3)."""
    return torch.from_numpy(random_rotations(count, np.random.default_rng(seed)))


def turned(data: Dataset, seed: int) -> tuple[Dataset, Tensor]:
    """`data` with each structure turned about the origin, and the rotations (B, 3, 3).

    Properties of shape (B, 3) or (N, 3) are taken to be vectors, and turned along.
    """
    turns = rotations(data.num_structures, seed)
    of_atom = torch.repeat_interleave(turns, data.ptr.diff(), 0)

    def along(x: Tensor, by: Tensor) -> Tensor:
        vectors = x.dim() == 2 and x.shape[1] == 3 and x.is_floating_point()
        return turn(x, by, rank=1) if vectors else x

    changed = replace(
        data,
        pos=along(data.pos, of_atom),
        per_structure={name: along(x, turns) for name, x in data.per_structure.items()},
        per_atom={name: along(x, of_atom) for name, x in data.per_atom.items()},
    )
    return changed, turns
