"""What a model is trained on in one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from symkern.neighbors import Neighbors


@dataclass(frozen=True, eq=False, repr=False)
class Batch:
    """B structures with N atoms, as models take them: ``model(b.z, b.pos, b.batch, cell=b.cell, pbc=b.pbc, nb=b.nb)``.

    Attributes:
        z: (N,) int64 atomic numbers.
        pos: (N, 3) Å.
        batch: (N,) int64 structure of each atom, sorted.
        ptr: (B + 1,) int64; structure b owns the atoms ptr[b] .. ptr[b + 1].
        cell: (B, 3, 3), rows are lattice vectors, Å, or None where nothing is periodic.
        pbc: (B, 3) bool, or None.
        nb: the graph, or None.
        targets: properties (B, ...) of structures and (N, ...) of atoms, such as "energy" (B,) float64, "forces" (N, 3)
            and "stress" (B, 3, 3).
        index: (B,) int64 which structures of the dataset these are.
        energy_unit: of the targets, as in the dataset.
    """

    z: Tensor
    pos: Tensor
    batch: Tensor
    ptr: Tensor
    cell: Tensor | None = None
    pbc: Tensor | None = None
    nb: Neighbors | None = None
    targets: dict[str, Tensor] = field(default_factory=dict)
    index: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    energy_unit: str | None = None

    @property
    def num_structures(self) -> int:
        return self.ptr.shape[0] - 1

    @property
    def num_atoms(self) -> int:
        return self.z.shape[0]

    def __repr__(self) -> str:
        graph = "no graph" if self.nb is None else f"{self.nb.num_edges} edges"
        targets = ", ".join(self.targets) or "no targets"
        return f"Batch({self.num_structures} structures, {self.num_atoms} atoms, {graph}, {targets}, {self.pos.device})"

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """A copy on `device`. From pinned memory with `non_blocking`, it overlaps with what the device computes."""
        return self._map(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory, as ``DataLoader(pin_memory=True)`` asks for; needs CUDA."""
        return self._map(lambda x: x.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[int, Tensor] = {}

        def once(x: Tensor) -> Tensor:  # the graph shares tensors with the batch and with itself
            if id(x) not in changed:
                changed[id(x)] = change(x)
            return changed[id(x)]

        def maybe(x: Tensor | None) -> Tensor | None:
            return None if x is None else once(x)

        return Batch(
            once(self.z),
            once(self.pos),
            once(self.batch),
            once(self.ptr),
            maybe(self.cell),
            maybe(self.pbc),
            None if self.nb is None else self.nb._map(once),
            {name: once(value) for name, value in self.targets.items()},
            once(self.index),
            self.energy_unit,
        )
