"""Batches that are rotated, reflected and jittered anew in each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from symkern.data.batch import Batch
from symkern.data.loader import Loader
from symkern.ops.neighbor_list import neighbor_list

_VECTORS = {"forces", "dipole"}
_MATRICES = {"stress", "polarizability", "dielectric_tensor"}
_ROTATION, _NOISE = 0, 1  # streams of random numbers, so that either can be switched off without changing the other


class AugmentedLoader:
    """Batches of a `Loader` with every structure turned at random, and its atoms displaced at random.

    Positions, cells and the targets that turn with them are multiplied by the same uniformly distributed matrix of
    SO(3) or O(3). It depends on seed, epoch and structure only: not on the batch, the order or the number of processes.
    Noise changes distances, so batches with noise get a new graph; targets stay those of the undisplaced structure.
    A turned batch keeps its graph: pairs within the rounding of positions of the cutoff are not decided again.

    Args:
        loader: where batches come from.
        rotation: "so3" for rotations, "o3" for rotations and reflections, None for neither.
        noise: Å, standard deviation of the Gaussian added to each coordinate.
        vectors: targets (..., 3) that turn as R v; by default "forces" and "dipole", where they are there.
        matrices: targets (..., 3, 3) that turn as R m R^T; by default "stress", "polarizability", "dielectric_tensor".
        invariant: targets whose last dimension is 3 by chance. Every target with that dimension must be named in
            one of the three.
        seed: not negative.

    Raises:
        ValueError: an argument out of range, a name that is not a target, or a target that could turn but is not named.
    """

    def __init__(
        self,
        loader: Loader,
        *,
        rotation: str | None = "so3",
        noise: float = 0.0,
        vectors: Sequence[str] | None = None,
        matrices: Sequence[str] | None = None,
        invariant: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        if rotation not in ("so3", "o3", None):
            raise ValueError(f'rotation must be "so3", "o3" or None, got {rotation!r}')
        if not (0 <= noise < float("inf")):
            raise ValueError(f"noise must be finite and not negative, got {noise}")
        self.loader, self.rotation, self.noise, self.seed = loader, rotation, float(noise), seed
        tails = loader.tails
        self.vectors = _named("vectors", vectors, {n for n in _VECTORS if tails.get(n, ())[-1:] == (3,)})
        self.matrices = _named("matrices", matrices, {n for n in _MATRICES if tails.get(n, ())[-2:] == (3, 3)})
        _check_tails(tails, self.vectors, self.matrices, _named("invariant", invariant, set()), rotation is not None)
        self.set_epoch(0)

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def fingerprint(self) -> str:
        """As `Loader.fingerprint`."""
        kinds = [sorted(names) for names in (self.vectors, self.matrices)]
        return f"{self.loader.fingerprint} {self.rotation} {self.noise} {self.seed} {kinds}"

    def set_epoch(self, epoch: int) -> None:
        """Draws the rotations and displacements of all structures for this epoch."""
        self._turns = self._moves = None
        if self.rotation is not None:
            drawn = random_rotations(len(self), self._random(epoch, _ROTATION), reflect=self.rotation == "o3")
            self._turns = torch.from_numpy(drawn)
        if self.noise > 0:
            shape = (self.loader.dataset.num_atoms, 3)
            drawn = self._random(epoch, _NOISE).standard_normal(shape) * self.noise
            self._moves = torch.from_numpy(drawn).to(self.loader.dtype)

    def _random(self, epoch: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch, stream])

    def collate(self, index: Tensor | Sequence[int]) -> Batch:
        """As `Loader.collate`."""
        batch = self.loader.collate(index) if self._moves is None else self.loader.collate(index, graph=False)
        if self._moves is not None:
            starts = self.loader.dataset.ptr[batch.index] - batch.ptr[:-1]
            rows = torch.arange(batch.num_atoms) + starts[batch.batch]
            batch = replace(batch, pos=batch.pos + self._moves[rows])
        if self._turns is not None:
            batch = self._turned(batch, self._turns[batch.index])
        if self._moves is not None and self.loader.cutoff is not None:
            nb = neighbor_list(batch.pos, self.loader.cutoff, ptr=batch.ptr, cell=batch.cell, pbc=batch.pbc)
            batch = replace(batch, nb=nb)
        return batch

    def _turned(self, batch: Batch, turns: Tensor) -> Batch:
        of_atoms = turns[batch.batch]
        targets = dict(batch.targets)
        for name in {*self.vectors, *self.matrices}:
            rows = of_atoms if name in self.loader.dataset.per_atom else turns
            targets[name] = turn(targets[name], rows, rank=1 if name in self.vectors else 2)
        cell = None if batch.cell is None else turn(batch.cell, turns, rank=1)
        return replace(batch, pos=turn(batch.pos, of_atoms, rank=1), cell=cell, targets=targets)


def random_rotations(count: int, random: np.random.Generator, *, reflect: bool = False) -> NDArray[np.float64]:
    """(count, 3, 3) orthogonal matrices, uniform in SO(3), or in O(3) with `reflect`.

    From unit quaternions uniform on the sphere: Shoemake, Graphics Gems III (1992), 124.
    """
    quaternions = random.standard_normal((count, 4))
    w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    matrices: NDArray[np.float64] = np.moveaxis(np.array(rows), 2, 0)
    signs = random.choice([-1.0, 1.0], size=count) if reflect else np.ones(count)
    return matrices * signs[:, None, None]


def turn(values: Tensor, turns: Tensor, *, rank: int) -> Tensor:
    """R v for each vector (n, ..., 3) of row n, or R m R^T for each matrix (n, ..., 3, 3), with R (n, 3, 3)."""
    kind = values.dtype if values.is_floating_point() else turns.dtype
    transposed = turns.mT.to(kind)
    if rank == 1:
        rows = values.to(kind).reshape(len(values), values.shape[1:-1].numel(), 3) @ transposed
        return rows.reshape(values.shape)
    transposed = transposed.reshape(len(turns), *[1] * (values.dim() - 3), 3, 3)
    return transposed.mT @ values.to(kind) @ transposed


def _named(argument: str, names: Sequence[str] | None, default: set[str]) -> set[str]:
    if isinstance(names, str):
        raise TypeError(f"{argument} must be a sequence of names, got the string {names!r}")
    return default if names is None else set(names)


def _check_tails(
    tails: dict[str, tuple[int, ...]], vectors: set[str], matrices: set[str], invariant: set[str], turning: bool
) -> None:
    for argument, names, tail in (
        ("vectors", vectors, (3,)),
        ("matrices", matrices, (3, 3)),
        ("invariant", invariant, ()),
    ):
        for name in sorted(names):
            if name not in tails:
                raise ValueError(f"{argument} names {name!r}; the loader's targets: {', '.join(tails) or 'none'}")
            if tail and tails[name][-len(tail) :] != tail:
                raise ValueError(f"{argument} names {name!r}, but each value of it has shape {tails[name]}")
    if vectors & matrices:
        raise ValueError(f"vectors and matrices both name {', '.join(sorted(vectors & matrices))}")
    open_ones = sorted(n for n, tail in tails.items() if tail[-1:] == (3,) and n not in vectors | matrices | invariant)
    if turning and open_ones:
        raise ValueError(f"say how these targets turn, in vectors, matrices or invariant: {', '.join(open_ones)}")
