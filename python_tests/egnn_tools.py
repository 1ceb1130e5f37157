"""What the tests of EGNN share."""

from __future__ import annotations

from typing import Any

import ase.build
import numpy as np
import torch
from torch import Tensor, nn

import symkern as sk
from symkern.nn import EGNNLayer

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


class EagerLayer(nn.Module):
    """The layer of the paper (eq. 3 to 6) as it is usually written: rows of features per edge, one concatenation."""

    def __init__(self, layer: EGNNLayer) -> None:
        super().__init__()
        self.edge_mlp, self.node_mlp, self.coord_mlp = layer.edge_mlp, layer.node_mlp, layer.coord_mlp

    def forward(self, h: Tensor, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        j, i = edge_index
        difference = x[i] - x[j]
        square = difference.square().sum(1, keepdim=True)
        m = self.edge_mlp(torch.cat([h[i], h[j], square], 1))
        x = x + torch.zeros_like(x).index_add(0, i, difference * self.coord_mlp(m))
        total = torch.zeros_like(h).index_add(0, i, m)
        return h + self.node_mlp(torch.cat([h, total], 1)), x


def complete(structures: int, atoms: int) -> sk.Neighbors:
    """All pairs of every structure."""
    index = torch.cartesian_prod(torch.arange(atoms), torch.arange(atoms)).T
    index = index[:, index[0] != index[1]]
    start = (atoms * torch.arange(structures)).repeat_interleave(index.shape[1])
    ptr = atoms * torch.arange(structures + 1)
    return sk.Neighbors.from_edge_index(index.repeat(1, structures) + start, structures * atoms, ptr=ptr)


def force_step(layer: nn.Module, h: Tensor, x: Tensor, graph: Any) -> list[Tensor]:
    """A step of training on an energy and its forces: both, and the gradients of all parameters."""
    x = x.detach().requires_grad_()
    out, moved = layer(h, x, graph)
    energy = out.square().mean() + moved.square().mean()
    (force,) = torch.autograd.grad(energy, x, create_graph=True)
    (force.square().mean() + energy).backward()
    grads = [p.grad for p in layer.parameters() if p.grad is not None]
    for p in layer.parameters():
        p.grad = None
    return [energy.detach(), force.detach(), *grads]
