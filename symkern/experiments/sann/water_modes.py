"""The three vibrations of water as displacement vectors at its atoms: the task of Tables 2 and 7."""

from __future__ import annotations

import math

import torch

from symkern.experiments.sann.turning import rotations
from symkern.experiments.sann.vector_task import VectorTask
from symkern.ops.stabilizers import stabilizers

BOND = 0.9575  # Å
ANGLE = 104.5  # degrees
# displacements of O, H at +x, H at -x, with z from O towards the middle of the two H; scaled to norm 1 below
MODES = {
    "symmetric": ((0, 0, -0.0503), (0.582, 0, 0.399), (-0.582, 0, 0.399)),
    "bending": ((0, 0, -0.0705), (-0.430, 0, 0.559), (0.430, 0, 0.559)),
    "asymmetric": ((0.0703, 0, 0), (-0.5577, 0, -0.4318), (-0.5577, 0, 0.4318)),
}


def water_modes(mode: str, seed: int = 0, molecules: int = 2, dtype: torch.dtype = torch.float64) -> VectorTask:
    """Water molecules with centroids at the origin, turned at random, and their displacements, turned along.

    The displacements of a molecule have norm 1 and no unit.

    Args:
        mode: "symmetric", "bending" or "asymmetric".
        seed: of the rotations, uniform in SO(3).

    Raises:
        ValueError: an unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    half = math.radians(ANGLE) / 2
    x, z = BOND * math.sin(half), BOND * math.cos(half)
    shape = torch.tensor([[0, 0, 0], [x, 0, z], [-x, 0, z]], dtype=torch.float64)
    arrows = torch.tensor(MODES[mode], dtype=torch.float64)
    turns = rotations(molecules, seed)
    pos = ((shape - shape.mean(0)) @ turns.mT).flatten(0, 1)
    target = (arrows / arrows.norm() @ turns.mT).flatten(0, 1)
    numbers, ptr = torch.tensor([8, 1, 1]).repeat(molecules), 3 * torch.arange(molecules + 1)
    return VectorTask(numbers, pos, ptr, target, stabilizers(pos, numbers, ptr=ptr), "vector").to(dtype=dtype)
