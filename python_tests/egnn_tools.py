"""What the tests of EGNN share."""

from __future__ import annotations

from typing import Any

import ase.build
import numpy as np
import torch
from torch import Tensor, nn

DOUBLE = torch.float64


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def lively(module: nn.Module) -> Any:
    """fp64 with weights that move the coordinates; the initial ones hardly do."""
    torch.manual_seed(5)
    for name, p in module.double().named_parameters():
        if name.endswith("weight") and p.dim() == 2 and "embedding" not in name:
            nn.init.normal_(p, std=p.shape[1] ** -0.5)
    return module


def rotation(determinant: int) -> Tensor:
    q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(9)))
    return q * torch.det(q) * determinant  # det(-q) = -det(q) in three dimensions


def molecules(*names: str) -> dict[str, Tensor]:
    found = [ase.build.molecule(name) for name in names]
    z = torch.tensor(np.concatenate([atoms.numbers for atoms in found]), dtype=torch.int64)
    pos = torch.tensor(np.concatenate([atoms.positions for atoms in found]))
    pos = pos + 0.05 * torch.randn(pos.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    return {"z": z, "pos": pos, "batch": torch.repeat_interleave(torch.tensor([len(atoms) for atoms in found]))}
