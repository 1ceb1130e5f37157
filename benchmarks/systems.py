"""The systems that are timed. Positions are float32; peers that compute in float64 get the same numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import symkern as sk

DENSITY = 0.1  # atoms per cubic Å, as in water


@dataclass(frozen=True)
class System:
    name: str
    positions: Tensor
    cutoff: float
    ptr: Tensor
    cell: Tensor | None = None

    @property
    def atoms(self) -> int:
        return len(self.positions)

    def edges(self, dtype: torch.dtype = torch.float32) -> sk.Neighbors:
        cell = None if self.cell is None else self.cell.to(dtype)
        ptr = None if len(self.ptr) == 2 else self.ptr
        return sk.neighbor_list(self.positions.to(dtype), self.cutoff, ptr=ptr, cell=cell)

    def to(self, device: torch.device) -> System:
        cell = None if self.cell is None else self.cell.to(device)
        return System(self.name, self.positions.to(device), self.cutoff, self.ptr.to(device), cell)


def liquid(atoms: int, cutoff: float = 6.0, seed: int = 0) -> System:
    """A periodic cube of water's density. Atoms are in random order, hence neighbors in space are far in memory."""
    edge = (atoms / DENSITY) ** (1 / 3)
    positions = torch.rand(atoms, 3, generator=torch.Generator().manual_seed(seed)) * edge
    name = f"{atoms:,} atoms, periodic, {cutoff:g} Å"
    return System(name, positions, cutoff, torch.tensor([0, atoms]), torch.eye(3) * edge)


def periodic_batch(structures: int, atoms: int, cutoff: float = 5.0, seed: int = 0) -> System:
    """Small periodic boxes of water's density, each with its own cell, smaller than twice the cutoff."""
    edge = (atoms / DENSITY) ** (1 / 3)
    positions = torch.rand(structures * atoms, 3, generator=torch.Generator().manual_seed(seed)) * edge
    cells = (torch.eye(3) * edge).repeat(structures, 1, 1)
    starts = torch.arange(0, structures * atoms + 1, atoms)
    return System(f"{structures:,} x {atoms} atoms, periodic, {cutoff:g} Å", positions, cutoff, starts, cells)


def molecules(count: int, atoms: int = 18, cutoff: float = 5.0, seed: int = 0) -> System:
    """Molecules grown atom by atom: each new atom 1.1-1.5 Å from an earlier one and at least 0.95 Å from all others."""
    rng = torch.Generator().manual_seed(seed)
    positions = torch.zeros(count, atoms, 3)
    for k in range(1, atoms):
        open_ones = torch.arange(count)
        while len(open_ones):
            parent = positions[open_ones, torch.randint(k, (len(open_ones),), generator=rng)]
            direction = torch.nn.functional.normalize(torch.randn(len(open_ones), 3, generator=rng), dim=1)
            place = parent + direction * (1.1 + 0.4 * torch.rand(len(open_ones), 1, generator=rng))
            positions[open_ones, k] = place
            nearest = (positions[open_ones, :k] - place[:, None]).norm(dim=-1).amin(1)
            open_ones = open_ones[nearest < 0.95]
    starts = torch.arange(0, count * atoms + 1, atoms)
    return System(f"{count:,} x {atoms} atoms, {cutoff:g} Å", positions.reshape(-1, 3), cutoff, starts)
