"""Canonical frames in NumPy, from the definition: every frame that two atoms span is a candidate."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from symkern.ops.stabilizers import stabilizers
from symkern.stabilizer import Stabilizers

_Array = NDArray[np.float64]

_SHORT = 0.2937
_WAVES = np.array([[0.612, 0.927, 1.283], [1.171, -0.533, 0.829], [-0.447, 1.309, 0.691], [0.953, 0.761, -1.127]])


def reference(
    positions: Tensor,
    numbers: Tensor,
    *,
    batch: Tensor | None = None,
    ptr: Tensor | None = None,
    tolerance: float = 0.01,
    proper: bool = False,
    sym: Stabilizers | None = None,
) -> Tensor:
    """`symkern.canonical_frames` in fp64. Where the positions are exactly symmetric it may return another of the
    equivalent frames."""
    if sym is None:
        sym = stabilizers(positions, numbers, batch=batch, ptr=ptr, tolerance=tolerance)
    window = 1e-9 if positions.dtype == torch.float64 else 2e-5
    frames = [np.zeros((0, 3, 3))]
    for b, (begin, end) in enumerate(pairwise(sym.ptr.tolist())):
        x = positions[begin:end].detach().double().cpu().numpy()
        first, last = sym.op_ptr[b : b + 2].tolist()
        images = (
            sym.permutations[sym.perm_ptr[first] : sym.perm_ptr[last]].cpu().numpy().reshape(last - first, len(x))
            - begin
        )
        frame = np.eye(3)
        if sym.rank[b] > 0:
            x = x - x.mean(0)
            dets = np.linalg.det(sym.operations[first:last].double().cpu().numpy())
            z = numbers[begin:end].cpu().numpy().astype(np.float64)
            orbits = sym.orbits[begin:end].cpu().numpy() - begin
            make = _linear if sym.rank[b] == 1 else _general
            frame = make(x, z, images, dets, orbits, proper, window)
        frames.append(frame[None])
    return torch.from_numpy(np.concatenate(frames)).to(positions)


def symmetrized(x: _Array, images: NDArray[np.int64], dets: _Array) -> _Array:
    """Centred positions, averaged over the group until they have its symmetry."""
    for _ in range(8):
        mean = np.zeros_like(x)
        for p, det in zip(images, dets, strict=True):
            u, _, v = np.linalg.svd(x[p].T @ x)
            rotation = u @ np.diag([1, 1, np.sign(det) * np.linalg.det(u) * np.linalg.det(v)]) @ v
            mean += x[p] @ rotation
        x = mean / len(images)
    return x


def _best(candidates: list, values: _Array, window: float) -> list:  # type: ignore[type-arg]
    return [c for c, v in zip(candidates, values, strict=True) if v >= np.max(values) - window]


def _smoothest(frames: list[_Array], y: _Array, z: _Array, window: float) -> list[_Array]:
    for m, k in enumerate(_WAVES):
        values = [(np.sqrt(z) * np.cos(y @ f @ k + m)).sum() / np.sqrt(z.sum()) for f in frames]
        frames = _best(frames, np.array(values), window)
    return frames


def _frame(first: _Array, second: _Array, hand: int) -> _Array:
    z = first / np.linalg.norm(first)
    x = second - (second @ z) * z
    x /= np.linalg.norm(x)
    return np.stack([x, hand * np.cross(z, x), z], 1)


def _general(
    x: _Array,
    z: _Array,
    images: NDArray[np.int64],
    dets: _Array,
    orbits: NDArray[np.int64],
    proper: bool,
    window: float,
) -> _Array:
    y = symmetrized(x, images, dets)
    radius = np.linalg.norm(y, axis=1)
    scale = np.linalg.norm(x, axis=1).max()
    distance = np.linalg.norm(y[:, None] - y, axis=-1).mean(1)
    size = np.bincount(orbits, minlength=len(x))[orbits]
    height = np.linalg.norm(np.cross(y[:, None], y), axis=-1) / np.where(radius > 0, radius, 1)[:, None]
    kept = np.einsum("gi,gj->ij", images == np.arange(len(x)), images == np.arange(len(x)), dtype=int)

    firsts = np.flatnonzero(radius >= _SHORT * scale).tolist()
    for key, tie in ((-size, 0.5), (z, 0.5), (radius, window * scale), (distance, window * scale)):
        firsts = _best(firsts, key[firsts], tie)
    pairs = [(i, j) for i in firsts for j in range(len(x)) if height[i, j] >= _SHORT * height[i].max()]
    for table, tie in (
        (kept, 0.5),
        (np.broadcast_to(z, kept.shape), 0.5),
        (height, window * scale),
        (np.broadcast_to(radius, kept.shape), window * scale),
    ):
        pairs = _best(pairs, np.array([table[pair] for pair in pairs]), tie)
    frames = [_frame(y[i], y[j], hand) for i, j in pairs for hand in ((1,) if proper else (1, -1))]
    return _smoothest(_smoothest(frames, y, z, window), x, z, window)[0]


def _linear(
    x: _Array,
    z: _Array,
    images: NDArray[np.int64],
    dets: _Array,
    orbits: NDArray[np.int64],
    proper: bool,
    window: float,
) -> _Array:
    axis = np.linalg.svd(x)[2][0]
    along = x @ axis
    for p in images:
        if p[along.argmax()] != along.argmax() and along[p] @ along < 0:
            along = (along - along[p]) / 2
    scale = np.linalg.norm(x, axis=1).max()
    y = np.outer(along, axis)
    off = x - np.outer(x @ axis, axis)
    far = np.linalg.norm(off, axis=1)
    any_way = np.eye(3)[np.abs(axis).argmin()]
    ends = _smoothest([_frame(sign * axis, any_way, 1) for sign in (1, -1)], y, z, window)
    if far.max() <= window * scale:
        return ends[0]
    seconds = _best(list(range(len(x))), far, window * scale)
    turns = product(ends, seconds, (1,) if proper else (1, -1))
    return _smoothest([_frame(end[:, 2], off[j], hand) for end, j, hand in turns], x, z, window)[0]
