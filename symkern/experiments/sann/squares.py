"""Two identical squares, one to become a tall and one a wide rectangle: the task of Table 1.

The paper gives a picture, no numbers, but says that the undeformed square is 0.250 away. Both rectangles below agree:

- "main": half-sides (1/2 + d, 1/2 - d) with d = sqrt(2)/8. Then 0.250 is also the least Chamfer distance that any one
  answer for both squares can have.
- "stretch": half-sides (3/4, 1/2), only one side becomes longer. One answer can then come down to 0.125.
"""

from __future__ import annotations

import math

import torch

from symkern.experiments.sann.vector_task import VectorTask
from symkern.ops.stabilizers import stabilizers

_D = math.sqrt(2) / 8
HALF_SIDES = {"main": (0.5 + _D, 0.5 - _D), "stretch": (0.75, 0.5)}
ELEMENT = 6  # any: the paper's squares are graphs


def squares(variant: str = "main", dtype: torch.dtype = torch.float64) -> VectorTask:
    """Squares of side 1 Å in the plane xy, corner by corner; targets are corners of rectangles.

    Raises:
        ValueError: an unknown variant.
    """
    if variant not in HALF_SIDES:
        raise ValueError(f"variant must be one of {', '.join(HALF_SIDES)}, got {variant!r}")
    corners = torch.tensor([[1.0, 1, 0], [-1, 1, 0], [-1, -1, 0], [1, -1, 0]], dtype=torch.float64)
    wide, narrow = HALF_SIDES[variant]
    sides = torch.tensor([[wide, narrow, 0], [narrow, wide, 0]], dtype=torch.float64)
    pos = (0.5 * corners).repeat(2, 1)
    z, ptr = torch.full((8,), ELEMENT), torch.tensor([0, 4, 8])
    target = (corners * sides[:, None]).flatten(0, 1)
    return VectorTask(z, pos, ptr, target, stabilizers(pos, z, ptr=ptr), "point").to(dtype=dtype)
