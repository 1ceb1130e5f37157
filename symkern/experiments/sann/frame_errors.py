"""How well a frame normalises a molecule: the distance between its canonical form and those of its turned copies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import symkern as sk
from symkern.experiments.sann.asun import asun_frame
from symkern.experiments.sann.pca import pca_frame
from symkern.ops.canonical_frames import canonicalize

_Array = NDArray[np.float64]
_Numbers = NDArray[np.int64]

TOLERANCE = 0.01  # Å
MODELS = ("PCA", "PCA sign-fixed", "ASUN", "ASUN+")
KINDS = ("so3", "o3", "permuted")


@dataclass
class Molecule:
    positions: _Array
    numbers: _Numbers
    identity: int  # of its random copies, whatever else is run


@dataclass
class Scores:
    """One entry per molecule."""

    emd: dict[str, list[float]] = field(default_factory=lambda: {k: [] for k in (*KINDS, "typed")})
    failed: list[bool] = field(default_factory=list)

    def extend(self, other: Scores) -> None:
        """Those of further molecules."""
        for kind, values in other.emd.items():
            self.emd[kind] += values
        self.failed += other.failed


def emd(x: _Array, y: _Array, types: tuple[_Numbers, _Numbers] | None = None) -> _Array:
    """Mean distance of atoms under the best assignment, (C,); with `types` only atoms of one type are assigned.

    Args:
        x: (N, 3), compared with each of y: (C, N, 3).
        types: those of x, (N,), and of y, (C, N): the same in another order.
    """
    copies, atoms = y.shape[:2]
    ptr = torch.arange(copies + 1) * atoms
    kinds: tuple[Tensor | None, Tensor | None] = None, None
    if types is not None:
        kinds = torch.from_numpy(types[0]).repeat(copies), torch.from_numpy(types[1]).flatten()
    points = torch.from_numpy(x).repeat(copies, 1), torch.from_numpy(y).reshape(-1, 3)
    found: _Array = sk.emd(*points, x_ptr=ptr, y_ptr=ptr, x_type=kinds[0], y_type=kinds[1]).numpy()
    return found


@dataclass
class Copies:
    """A molecule, and its copies of each kind: positions (1 + C, N, 3), numbers (1 + C, N)."""

    positions: _Array
    numbers: _Numbers

    @property
    def centered(self) -> _Array:
        middle: _Array = self.positions.mean(1, keepdims=True)
        return self.positions - middle


def copies_of(molecule: Molecule, count: int, seed: int, kinds: Sequence[str] = KINDS) -> Copies:
    """The molecule, then `count` copies of each kind: turned and moved ("so3"); every second one reflected too ("o3");
    turned, moved, and its atoms reordered ("permuted")."""
    positions, numbers = [molecule.positions[None]], [molecule.numbers[None]]
    for kind in kinds:
        random = np.random.default_rng([seed, molecule.identity, KINDS.index(kind)])
        q, r = np.linalg.qr(random.normal(size=(count, 3, 3)))
        q = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None]
        det = np.linalg.det(q)
        if kind == "o3":
            det = det * np.where(np.arange(count) % 2, -1, 1)
        x = molecule.positions @ (q * det[:, None, None]) + 3 * random.normal(size=(count, 1, 3))
        order = np.tile(np.arange(x.shape[1]), (count, 1))
        if kind == "permuted":
            order = random.permuted(order, axis=1)
        positions.append(np.take_along_axis(x, order[..., None], 1))
        numbers.append(molecule.numbers[order])
    return Copies(np.concatenate(positions), np.concatenate(numbers))


# What makes canonical forms, (1 + C, N, 3) for each entry; NaN where it breaks down.
Forms = Callable[[Sequence[Copies]], list[_Array]]


def canonical_forms(groups: Sequence[Copies], device: str = "cpu") -> list[_Array]:
    """By `symkern.canonicalize`, all at once."""
    sizes = [size for g in groups for size in [g.numbers.shape[1]] * len(g.numbers)]
    result = canonicalize(
        torch.from_numpy(np.concatenate([g.positions.reshape(-1, 3) for g in groups])).to(device),
        torch.from_numpy(np.concatenate([g.numbers.reshape(-1) for g in groups])).to(device),
        ptr=torch.tensor([0, *np.cumsum(sizes)], device=device),
        tolerance=TOLERANCE,
    )
    parts = result.positions.cpu().split([g.numbers.size for g in groups])
    return [part.numpy().reshape(g.positions.shape) for part, g in zip(parts, groups, strict=True)]


def _pca_forms(*, fix_signs: bool) -> Forms:
    return lambda groups: [g.centered @ pca_frame(g.positions, fix_signs=fix_signs) for g in groups]


def _asun_forms(groups: Sequence[Copies]) -> list[_Array]:
    def form(x: _Array, numbers: _Numbers) -> _Array:
        try:
            centered: _Array = x - x.mean(0)
            return centered @ asun_frame(x, numbers.tolist(), TOLERANCE)
        except Exception:  # whatever breaks down is a failure, and counted
            return np.full_like(x, np.nan)

    return [np.stack([form(x, z) for x, z in zip(g.positions, g.numbers, strict=True)]) for g in groups]


def score(
    members: Sequence[Molecule],
    copies: int,
    seed: int = 0,
    device: str = "cpu",
    *,
    slow: Collection[int] | None = None,
) -> dict[str, Scores]:
    """EMD of every model for every molecule.

    With `slow`, ASUN tries only the molecules whose identity is in it, and has NaN for the others.
    """
    forms: dict[str, Forms] = {
        "PCA": _pca_forms(fix_signs=False),
        "PCA sign-fixed": _pca_forms(fix_signs=True),
        "ASUN": _asun_forms,
        "ASUN+": lambda groups: canonical_forms(groups, device),
    }
    scores = {model: Scores() for model in forms}
    groups = [copies_of(m, copies, seed) for m in members]
    for model, make in forms.items():
        tried = [slow is None or model != "ASUN" or m.identity in slow for m in members]
        chosen = [g for g, t in zip(groups, tried, strict=True) if t]
        found = iter(make(chosen) if chosen else [])
        for group, t in zip(groups, tried, strict=True):
            _judge(scores[model], group, next(found) if t else None, copies)
    return scores


def _judge(scores: Scores, group: Copies, forms: _Array | None, copies: int) -> None:
    if forms is None:
        scores.failed.append(False)
        for values in scores.emd.values():
            values.append(float("nan"))
        return
    broken: NDArray[np.bool_] = np.isnan(forms.sum(axis=(1, 2)))
    scores.failed.append(bool(broken.any()))
    forms = np.where(broken[:, None, None], group.centered, forms)
    for k, kind in enumerate(KINDS):
        others = slice(1 + k * copies, 1 + (k + 1) * copies)
        scores.emd[kind].append(float(emd(forms[0], forms[others]).mean()))
    typed = emd(forms[0], forms[1 : 1 + copies], (group.numbers[0], group.numbers[1 : 1 + copies]))
    scores.emd["typed"].append(float(typed.mean()))


def ranks_of(members: Sequence[Molecule], *, centered: bool = True) -> NDArray[np.int64]:
    """How many singular values of the positions exceed the tolerance."""
    rank = [
        np.linalg.matrix_rank(m.positions - m.positions.mean(0) * centered, tol=TOLERANCE) if len(m.positions) else 0
        for m in members
    ]
    return np.array(rank, dtype=np.int64)
