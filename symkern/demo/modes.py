"""EGNN learns the normal modes of water: two of them, and why not the third."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from symkern.models import EGNN

# H2O at 0.9575 Å and 104.5 degrees: the C2 axis along z, atoms in the plane xz; rows O, H, H
_HALF = math.radians(104.5) / 2
_H = (0.9575 * math.sin(_HALF), -0.9575 * math.cos(_HALF))
NUMBERS = torch.tensor([8, 1, 1])
POSITIONS = torch.tensor([[0.0, 0, 0], [_H[0], 0, _H[1]], [-_H[0], 0, _H[1]]], dtype=torch.float64)

# displacements of the three modes, the hydrogen at +x first
_MODES = {
    "symmetric stretch": [[0.0, 0, 0.0503], [0.582, 0, -0.399], [-0.582, 0, -0.399]],
    "bending": [[0.0, 0, 0.0705], [-0.430, 0, -0.559], [0.430, 0, -0.559]],
    "asymmetric stretch": [[-0.0703, 0, 0], [0.5577, 0, -0.4318], [0.5577, 0, 0.4318]],
}
NAMES = tuple(_MODES)
# the half turn about the axis: exchanges the hydrogens. (The mirror planes give the same two images of a mode.)
_TURN = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
_SWAP = [0, 2, 1]


@dataclass(frozen=True)
class Mode:
    """What came of learning one mode.

    Attributes:
        target, predicted: (3, 3) displacements; the target has norm 1.
        errors: squared error at every step, the smaller one of those against the mode and against its image under the
            molecule's half turn.
        floor: the least error of any equivariant function: the squared norm of the part of the mode that changes under
            the half turn.
    """

    name: str
    target: Tensor
    predicted: Tensor
    errors: list[float]
    floor: float


def learn(name: str, steps: int, tick: Callable[[], None], seed: int = 0) -> Mode:
    """Train an EGNN to predict the mode `name` from the molecule, in a random orientation at every step."""
    torch.manual_seed(seed)
    target = torch.tensor(_MODES[name], dtype=torch.float64)
    target = target / target.norm()
    image = (target @ _TURN)[_SWAP]
    model = EGNN(1, hidden=32, num_layers=2, cutoff=None).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    errors = []
    for _ in range(steps):
        rotation = _random_rotation()
        loss = _error(displacements(model, POSITIONS @ rotation.T), target @ rotation.T, image @ rotation.T)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        errors.append(float(loss.detach()))
        tick()
    with torch.no_grad():
        predicted = displacements(model, POSITIONS).detach()
    return Mode(name, target, predicted, errors, float((target - image).square().sum()) / 4)


def displacements(model: EGNN, positions: Tensor) -> Tensor:
    """How far the network moves each atom."""
    return model.encode(NUMBERS, positions)[1] - positions


def _error(found: Tensor, target: Tensor, image: Tensor) -> Tensor:
    return torch.minimum((found - target).square().sum(), (found - image).square().sum())


def _random_rotation() -> Tensor:
    rotation, triangle = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    rotation = rotation * triangle.diagonal().sign()
    proper: Tensor = rotation * torch.det(rotation)
    return proper
