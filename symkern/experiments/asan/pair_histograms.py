"""Histograms of interatomic distances by pair of elements: fixed features for kernel methods."""

from __future__ import annotations

import torch
from torch import Tensor

from symkern.models._dense import padded

ELEMENTS = (1, 6, 7, 8)


def pair_histograms(
    z: Tensor, pos: Tensor, ptr: Tensor, *, bins: int = 48, largest: float = 7.0, width: float = 0.1
) -> Tensor:
    """(B, pairs * bins + elements): for each pair of elements, Gaussians of all distances, and counts of the elements.

    Invariant under O(3), translations and the order of atoms.

    Args:
        z: (N,) int64, H, C, N or O.
        pos: (N, 3) Å.
        ptr: (B + 1,) int64.
        bins, largest, width: Gaussians of standard deviation `width` Å at `bins` places from 0.5 to `largest` Å, none
            beyond.

    Raises:
        ValueError: another element.
    """
    kinds = torch.full((int(z.max()) + 1 if len(z) else 1,), -1)
    for k, number in enumerate(ELEMENTS):
        if number < len(kinds):
            kinds[number] = k
    kind = kinds[z]
    if bool((kind < 0).any()):
        raise ValueError(f"z must hold the elements {ELEMENTS} only, got {sorted(set(z[kind < 0].tolist()))}")
    molecules = len(ptr) - 1
    batch = torch.repeat_interleave(torch.arange(molecules), ptr.diff())
    size = int(ptr.diff().max()) if molecules else 0
    i, j = torch.triu_indices(size, size, 1)
    dense, of = padded(pos, ptr, batch, size), padded(kind + 1, ptr, batch, size) - 1  # -1 where there is no atom
    first, second = torch.minimum(of[:, i], of[:, j]), torch.maximum(of[:, i], of[:, j])
    there = first >= 0
    count = len(ELEMENTS)
    pair = torch.where(there, first * count + second, 0)
    distances = (dense[:, i] - dense[:, j]).norm(dim=2)
    centers = torch.linspace(0.5, largest, bins, dtype=pos.dtype)
    bumps = torch.exp(-((distances[..., None] - centers) ** 2) / (2 * width**2)) * there[..., None]
    place = pair + count * count * torch.arange(molecules)[:, None]
    sums = pos.new_zeros(molecules * count * count, bins).index_add(0, place.flatten(), bumps.flatten(0, 1))
    used = [a * count + b for a in range(count) for b in range(a, count)]
    histograms = sums.reshape(molecules, count * count, bins)[:, used].flatten(1)
    counts = torch.stack([(of == k).sum(1) for k in range(count)], 1).to(pos.dtype)
    return torch.cat([histograms, counts], 1)
