"""Losses that take the minimum over operations, beside the same from all pairs in torch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import symkern as sk

from .contest import Work
from .edge_ops import entries
from .peers import OURS
from .test_bench_edges import PARTS

STRUCTURES, ATOMS, OPERATIONS = 128, 18, 24
TARGET = 20.0  # times slower than symkern, on one thread, forward


def synthetic(seed: int = 0) -> sk.Stabilizers:
    """Random orthogonal matrices and permutations: the work does not depend on whether they are a group."""
    random = torch.Generator().manual_seed(seed)
    count, atoms = STRUCTURES * OPERATIONS, STRUCTURES * ATOMS
    matrices, _ = torch.linalg.qr(torch.randn(count, 3, 3, generator=random, dtype=torch.float64))
    places = torch.rand(count, ATOMS, generator=random).argsort(1)
    first = torch.arange(count).div(OPERATIONS, rounding_mode="floor") * ATOMS
    each, zero = torch.ones(STRUCTURES, dtype=torch.int64), torch.zeros(STRUCTURES)
    return sk.Stabilizers(
        operations=matrices.float(),
        op_ptr=torch.arange(STRUCTURES + 1) * OPERATIONS,
        permutations=(places + first.unsqueeze(1)).flatten(),
        perm_ptr=torch.arange(count + 1) * ATOMS,
        residuals=torch.zeros(count),
        centroid=torch.zeros(STRUCTURES, 3),
        orbits=torch.arange(atoms),
        order=OPERATIONS * each,
        group=each,
        rank=3 * each,
        axis=torch.zeros(STRUCTURES, 3),
        closed=each.bool(),
        margin=zero,
        ambiguous=each < 0,
        ptr=torch.arange(STRUCTURES + 1) * ATOMS,
        positions=torch.zeros(atoms, 3),
        numbers=torch.ones(atoms, dtype=torch.int64),
        tolerance=0.01,
        policy="closed",
    )


@PARTS
@pytest.mark.parametrize("direction", ["x_to_y", "both"])
def test_symmetric_chamfer(direction, backward, threads, compare):
    torch.set_num_threads(threads)
    sym = synthetic()
    pred, target = torch.randn(2, STRUCTURES * ATOMS, 3, generator=torch.Generator().manual_seed(1))
    images = _images(sym, target)

    def all_pairs(made: Tensor, x: Tensor) -> Tensor:
        square = torch.cdist(x.reshape(STRUCTURES, 1, ATOMS, 3), made).square()
        losses = square.amin(-1).sum(-1)
        return (losses if direction == "x_to_y" else losses + square.amin(-2).sum(-1)).amin(1)

    calls = {
        OURS: lambda x: sk.symmetric_chamfer(x, target, sym, direction)[0],
        "eager, cdist, images made before": lambda x: all_pairs(images, x),
        "eager, cdist": lambda x: all_pairs(_images(sym, target), x),
    }
    made = entries(calls, pred, backward)
    if threads == 1 and not backward and direction == "x_to_y":
        made[1] = replace(made[1], target=TARGET)
    pairs = STRUCTURES * OPERATIONS * ATOMS**2 * (1 + (direction == "both"))
    work = Work(24 * len(pred) + 36 * sym.num_operations, 8 * pairs, 12 * len(pred))
    compare(_op(f"symmetric_chamfer {direction}", backward), _NAME, made, threads, work)


@PARTS
def test_symmetric_mse(backward, threads, compare):
    torch.set_num_threads(threads)
    sym = synthetic()
    pred, target = torch.randn(2, STRUCTURES * ATOMS, 3, generator=torch.Generator().manual_seed(1))
    images = _images(sym, target)
    partners = sym.permutations.reshape(STRUCTURES, OPERATIONS, ATOMS)
    calls = {
        OURS: lambda x: sk.symmetric_mse(x, target, sym)[0],
        "eager, images made before": lambda x: (x[partners] - images).square().sum((-2, -1)).amin(1),
    }
    work = Work(24 * len(pred) + 36 * sym.num_operations + sym.permutations.nbytes, 24 * partners.numel(), len(pred))
    compare(_op("symmetric_mse", backward), _NAME, entries(calls, pred, backward), threads, work)


_NAME = f"{STRUCTURES} x {ATOMS} atoms, {OPERATIONS} operations"


def _images(sym: sk.Stabilizers, target: Tensor) -> Tensor:
    matrices = sym.operations.reshape(STRUCTURES, OPERATIONS, 3, 3)
    return torch.einsum("bgij,bnj->bgni", matrices, target.reshape(STRUCTURES, ATOMS, 3))


def _op(name: str, backward: bool) -> str:
    return f"{name}, forward + gradient" if backward else f"{name}, forward"
