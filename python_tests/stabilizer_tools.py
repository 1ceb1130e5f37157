"""One molecule's stabilizer as NumPy arrays, and answers to the same question that share no code with it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from math import factorial, prod
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

import symkern as sk

Array = NDArray[np.float64]
Key = tuple[tuple[int, ...], int]


@dataclass(frozen=True)
class Found:
    """What `symkern.stabilizers` says about one molecule; `keys` are the operations as (permutation, det)."""

    label: str
    order: int
    rank: int
    operations: Array
    permutations: NDArray[np.int64]
    residuals: Array
    orbits: NDArray[np.int64]
    centered: Array
    closed: bool
    ambiguous: bool
    margin: float
    axis: Array

    @property
    def keys(self) -> list[Key]:
        dets = np.sign(np.linalg.det(self.operations)).astype(int)
        return [(tuple(p), int(d)) for p, d in zip(self.permutations.tolist(), dets, strict=True)]


def find(positions: ArrayLike, numbers: ArrayLike, dtype: torch.dtype = torch.float64, **options: Any) -> Found:
    return find_all([(positions, numbers)], dtype, **options)[0]


def find_all(molecules: list[Any], dtype: torch.dtype = torch.float64, **options: Any) -> list[Found]:
    """One call for several (positions, numbers)."""
    sizes = [len(numbers) for _, numbers in molecules]
    positions = torch.tensor(np.concatenate([r for r, _ in molecules]), dtype=dtype).reshape(-1, 3)
    numbers = torch.tensor(np.concatenate([z for _, z in molecules]), dtype=torch.int64)
    ptr = torch.tensor([0, *np.cumsum(sizes).tolist()])
    return separate(sk.stabilizers(positions, numbers, ptr=ptr, **options))


def separate(sym: sk.Stabilizers) -> list[Found]:
    sym = sym.to("cpu")
    made = []
    for b, label in enumerate(sym.labels):
        begin, end = sym.ptr[b : b + 2].tolist()
        first, last = sym.op_ptr[b : b + 2].tolist()
        entries = sym.permutations[int(sym.perm_ptr[first]) : int(sym.perm_ptr[last])]
        made.append(
            Found(
                label,
                int(sym.order[b]),
                int(sym.rank[b]),
                sym.operations[first:last].double().numpy(),
                entries.reshape(last - first, end - begin).numpy() - begin,
                sym.residuals[first:last].double().numpy(),
                sym.orbits[begin:end].numpy() - begin,
                (sym.positions[begin:end].double() - sym.centroid[b].double()).numpy(),
                bool(sym.closed[b]),
                bool(sym.ambiguous[b]),
                float(sym.margin[b]),
                sym.axis[b].double().numpy(),
            )
        )
    return made


def kabsch(x: Array, permutation: ArrayLike, det: int) -> tuple[Array, float]:
    """The best matrix of that determinant from x to x[permutation], by SciPy, and the largest distance left."""
    target = x[np.asarray(permutation)]
    matrix = det * Rotation.align_vectors(target, det * x)[0].as_matrix()
    return matrix, float(np.linalg.norm(x @ matrix.T - target, axis=1).max(initial=0))


def number_of_permutations(numbers: ArrayLike) -> int:
    return prod(factorial(n) for n in np.unique(numbers, return_counts=True)[1].tolist())


def by_definition(positions: ArrayLike, numbers: ArrayLike) -> dict[Key, float]:
    """Residual of every pair (permutation that keeps species, det): the definition, without any search."""
    x, z = np.asarray(positions, dtype=np.float64), np.asarray(numbers)
    x = x - x.mean(0)
    groups = [np.flatnonzero(z == element) for element in np.unique(z)]
    permutations = np.empty((number_of_permutations(z), len(z)), dtype=np.int64)
    for row, images in enumerate(itertools.product(*(itertools.permutations(g.tolist()) for g in groups))):
        for members, image in zip(groups, images, strict=True):
            permutations[row, members] = image
    u, _, v = np.linalg.svd(np.einsum("kni,nj->kij", x[permutations], x))
    residuals = {}
    for det in (1, -1):
        flip = np.repeat(np.eye(3)[None], len(u), 0)
        flip[:, 2, 2] = det * np.sign(np.linalg.det(u) * np.linalg.det(v))
        left = np.einsum("kij,nj->kni", u @ flip @ v, x) - x[permutations]
        largest = np.linalg.norm(left, axis=-1).max(1)
        residuals |= {(tuple(p), det): r for p, r in zip(permutations.tolist(), largest.tolist(), strict=True)}
    return residuals


def images(matrix: Array, points: Array, slack: float) -> bool:
    """Whether a matrix maps a set of points to itself."""
    distance = np.linalg.norm((points @ matrix.T)[:, None] - points, axis=-1)
    return bool((distance.min(1) < slack).all() and len(set(distance.argmin(1).tolist())) == len(points))


def isometries(x: Array, first: NDArray[np.int64], second: NDArray[np.int64], slack: float) -> list[Array]:
    """All matrices that map some atom of `first` into `first` and some atom of `second` into `second`.

    The two atoms must not lie on one line with the origin, where the other image pairs come from.
    """

    def frame(a: Array, b: Array) -> Array:
        e = a / np.linalg.norm(a)
        f = b - (b @ e) * e
        f /= np.linalg.norm(f)
        return np.stack([e, f, np.cross(e, f)], 1)

    def angle_free(a: Array, b: Array) -> Array:
        return np.array([a @ a, b @ b, a @ b])

    a = x[first[0]]
    b = x[max(second, key=lambda k: float(np.linalg.norm(np.cross(a, x[k]))))]
    found = []
    for i, j in itertools.product(first, second):
        if np.abs(angle_free(x[i], x[j]) - angle_free(a, b)).max() < 6 * slack * np.linalg.norm(x, axis=1).max():
            for det in (1, -1):
                found.append(frame(x[i], x[j]) @ np.diag([1, 1, det]) @ frame(a, b).T)
    return found
