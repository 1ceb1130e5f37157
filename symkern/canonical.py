"""Molecules in their canonical frames."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from symkern.stabilizer import Stabilizers

KINDS = ("vector", "pseudovector", "point")


def rotated(x: Tensor, frames: Tensor) -> Tensor:
    """(N, ..., 3) vectors times (N, 3, 3); in their dtype under autocast too, unlike a product of matrices."""
    frames = frames.reshape(-1, *[1] * (x.dim() - 2), 3, 3)
    out: Tensor = (x.unsqueeze(-1) * frames).sum(-2)
    return out


@dataclass(eq=False, repr=False)
class Canonical:
    """B molecules with N atoms in their canonical frames, made by `symkern.canonicalize`.

    Attributes:
        frames: (B, 3, 3) orthogonal, columns are the axes of the frame; without gradient.
        positions: (N, 3) canonical positions, (x - centroid) @ F, Å. Differentiable in the positions with the frame
            held fixed.
        gap: (B,) Å, the smallest difference that decided which frame it is; see `symkern.canonical_frames`.
        orbit_rank: (N,) int64 place of each atom's orbit in its molecule; atoms of the best-ranked orbit have 0. Orbits
            share a place only where nothing tells them apart.
        sym: the stabilizers that it was made from.
    """

    frames: Tensor
    positions: Tensor
    gap: Tensor
    orbit_rank: Tensor
    sym: Stabilizers

    def apply(self, x: Tensor, kind: str = "vector") -> Tensor:
        """Into the canonical frame; differentiable in `x`, to any order.

        Args:
            x: (N, ..., 3), one or several vectors of each atom, in the dtype of the positions.
            kind: "vector": x @ F; "pseudovector" (angular momenta, torques): det(F) x @ F; "point" (positions):
                (x - centroid) @ F.

        Raises:
            ValueError: `x` has another shape, or no such kind.
        """
        self._check(x, kind)
        if kind == "point":
            x = x - self._centers(x)
        return rotated(x, self._frames(x, kind))

    def restore(self, x: Tensor, kind: str = "vector") -> Tensor:
        """Out of the canonical frame: the inverse of `apply`."""
        self._check(x, kind)
        x = rotated(x, self._frames(x, kind).mT)
        return x + self._centers(x) if kind == "point" else x

    def to(self, device: torch.device | str) -> Canonical:
        """A copy on `device`."""
        return Canonical(*(getattr(self, f.name).to(device) for f in fields(self)))

    def _check(self, x: Tensor, kind: str) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        atoms = self.orbit_rank.shape[0]
        if x.dim() < 2 or x.shape[0] != atoms or x.shape[-1] != 3:
            raise ValueError(f"x must have shape (N, ..., 3) with N = {atoms}, got {tuple(x.shape)}")

    def _frames(self, x: Tensor, kind: str) -> Tensor:
        frames = self.frames
        if kind == "pseudovector":
            frames = frames * torch.linalg.det(frames)[:, None, None].sign()
        return frames.to(x.dtype)[self.sym.batch]

    def _centers(self, x: Tensor) -> Tensor:
        centers = self.sym.centroid.to(x.dtype)[self.sym.batch]
        return centers.reshape(-1, *[1] * (x.dim() - 2), 3)

    def __repr__(self) -> str:
        return f"Canonical({self.frames.shape[0]} molecules, {self.orbit_rank.shape[0]} atoms)"
