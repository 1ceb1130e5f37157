"""Work for losses under symmetry, on any device."""

from __future__ import annotations

import torch

import symkern as sk

from .contest import Work

ATOMS, OPERATIONS = 18, 24


def synthetic(structures: int, seed: int = 0) -> sk.Stabilizers:
    """Random orthogonal matrices and permutations: the work does not depend on whether they are a group."""
    random = torch.Generator().manual_seed(seed)
    count, atoms = structures * OPERATIONS, structures * ATOMS
    matrices, _ = torch.linalg.qr(torch.randn(count, 3, 3, generator=random, dtype=torch.float64))
    places = torch.rand(count, ATOMS, generator=random).argsort(1)
    first = torch.arange(count).div(OPERATIONS, rounding_mode="floor") * ATOMS
    each, zero = torch.ones(structures, dtype=torch.int64), torch.zeros(structures)
    return sk.Stabilizers(
        operations=matrices.float().contiguous(),  # qr gives them column by column
        op_ptr=torch.arange(structures + 1) * OPERATIONS,
        permutations=(places + first.unsqueeze(1)).flatten(),
        perm_ptr=torch.arange(count + 1) * ATOMS,
        residuals=torch.zeros(count),
        centroid=torch.zeros(structures, 3),
        orbits=torch.arange(atoms),
        order=OPERATIONS * each,
        group=each,
        rank=3 * each,
        axis=torch.zeros(structures, 3),
        closed=each.bool(),
        margin=zero,
        ambiguous=each < 0,
        ptr=torch.arange(structures + 1) * ATOMS,
        positions=torch.zeros(atoms, 3),
        numbers=torch.ones(atoms, dtype=torch.int64),
        tolerance=0.01,
        policy="closed",
    )


def least_work(sym: sk.Stabilizers, both: bool = False) -> Work:
    """Predictions, targets and matrices in, a gradient out; all pairs of atoms for each operation."""
    pairs = sym.num_operations * ATOMS**2 * (1 + both)
    return Work(24 * len(sym.positions) + 36 * sym.num_operations, 8 * pairs, 12 * len(sym.positions))
