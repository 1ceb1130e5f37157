"""What ASAN does with coordinates before it pools them: a learned rotation, or learned factors of spherical angles."""

from __future__ import annotations

import math
from functools import reduce

import torch
from torch import Tensor, nn

from symkern.nn.basic import check_positive
from symkern.ops.safe_norm import safe_norm

# generators of rotations in the planes xy, xz, yz: antisymmetric (3, 3)
_PLANES = ((0, 1), (0, 2), (1, 2))


class LearnedRotation(nn.Module):
    """R(theta) of ASAN, 3.2: a product of Givens rotations by pi tanh(theta_k), in the planes xy, xz, yz, xy, ...

    The angles start at 0, where R is the identity; without any it stays that. For rows: x R.

    Trained on uniformly rotated copies it can learn nothing: x Q R has the same distribution as x Q for any R, so that
    the expected loss does not depend on theta.

    Args:
        num_angles: d; 0 for no rotation.

    Raises:
        ValueError: a negative number.
    """

    generators: Tensor

    def __init__(self, num_angles: int = 5) -> None:
        super().__init__()
        if num_angles < 0:
            raise ValueError(f"num_angles must not be negative, got {num_angles}")
        self.theta = nn.Parameter(torch.zeros(num_angles))
        generators = torch.zeros(num_angles, 3, 3)
        for k in range(num_angles):
            i, j = _PLANES[k % 3]
            generators[k, i, j], generators[k, j, i] = -1.0, 1.0
        self.register_buffer("generators", generators, persistent=False)

    def forward(self) -> Tensor:
        """(3, 3), in SO(3) to rounding."""
        angles = (math.pi * torch.tanh(self.theta))[:, None, None]
        identity = torch.eye(3, dtype=self.theta.dtype, device=self.theta.device)
        # the exponential of an angle times a generator, in closed form (Rodrigues)
        squares = self.generators @ self.generators
        turns = identity + angles.sin() * self.generators + (1 - angles.cos()) * squares
        return reduce(torch.matmul, turns, identity)


class ScaledAngles(nn.Module):
    """What the code published with ASAN learns in place of a rotation: factors of polar and azimuthal angle.

    A point (r, polar, azimuthal) becomes, for each factor s, the point (r, s polar, s azimuthal): no rotation, since
    distances between points change unless s is 1. Where an angle is not defined, at the origin and on the z axis, it
    counts as 0 and has gradient 0. The azimuth jumps at the half-plane y = 0, x < 0: so does the result.

    Args:
        num_scales: how many factors; they start evenly spaced from 1/2 to 3/2.
    """

    def __init__(self, num_scales: int = 5) -> None:
        super().__init__()
        check_positive(num_scales=num_scales)
        self.scales = nn.Parameter(torch.linspace(0.5, 1.5, num_scales))

    def forward(self, pos: Tensor) -> Tensor:
        """(N, num_scales, 3) for positions (N, 3)."""
        x, y, z = pos.unbind(1)
        polar = _angle(safe_norm(pos[:, :2]), z)[:, None] * self.scales
        azimuth = _angle(y, x)[:, None] * self.scales
        across = polar.sin()
        directions = torch.stack([across * azimuth.cos(), across * azimuth.sin(), polar.cos()], 2)
        return safe_norm(pos)[:, None, None] * directions


def _angle(y: Tensor, x: Tensor) -> Tensor:
    """atan2(y, x); 0 with gradient 0 where both are 0."""
    nowhere = (x == 0) & (y == 0)
    return torch.where(nowhere, 0.0, torch.atan2(y, torch.where(nowhere, 1.0, x)))
