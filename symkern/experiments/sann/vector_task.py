"""Vectors wanted at the atoms of a few molecules: what Tables 1, 2 and 7 of the paper on symmetry breaking train on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from symkern.data.augment import turn
from symkern.experiments.sann.turning import rotations
from symkern.experiments.sann.vector_metrics import measure
from symkern.ops.stabilizers import stabilizers
from symkern.ops.symmetric_action import Kind
from symkern.stabilizer import Stabilizers


@dataclass(frozen=True, eq=False)
class VectorTask:
    """B molecules with N atoms, trained on, validated with and tested on alike.

    Attributes:
        z: (N,) int64.
        pos: (N, 3) Å.
        ptr: (B + 1,) int64 starts of the molecules.
        target: (N, 3), in the dtype of `pos`.
        sym: stabilizers of the positions.
        kind: "vector": the model's vectors are to be the targets; "point": positions plus vectors are, in Å.
    """

    z: Tensor
    pos: Tensor
    ptr: Tensor
    target: Tensor
    sym: Stabilizers
    kind: Kind

    @property
    def batch(self) -> Tensor:
        """(N,) int64 molecule of each atom."""
        return torch.repeat_interleave(self.ptr.diff(), output_size=len(self.z))

    def output(self, vectors: Tensor) -> Tensor:
        """What is compared with the targets, from the vectors (N, 3) of a model."""
        return self.pos + vectors if self.kind == "point" else vectors

    def loss(self, vectors: Tensor, metric: str) -> Tensor:
        """Mean over molecules of one metric of `vector_metrics`."""
        return measure(metric, self.output(vectors), self.target, self.sym, self.kind).mean()

    def turned(self, seed: int) -> VectorTask:
        """The same molecules, each turned about its centroid at random, and their targets along."""
        turns = rotations(len(self.ptr) - 1, seed)[self.batch]
        center = self.sym.centroid.to(self.pos)[self.batch]
        origin = center if self.kind == "point" else 0.0

        def moved(x: Tensor, about: Tensor | float) -> Tensor:
            return turn(x - about, turns, rank=1) + about

        pos = moved(self.pos, center)
        sym = stabilizers(pos, self.z, ptr=self.ptr, tolerance=self.sym.tolerance)
        return replace(self, pos=pos, target=moved(self.target, origin), sym=sym)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> VectorTask:
        moved = {name: getattr(self, name).to(device) for name in ("z", "pos", "ptr", "target", "sym")}
        for name in ("pos", "target"):
            moved[name] = moved[name].to(dtype)
        return replace(self, **moved)
