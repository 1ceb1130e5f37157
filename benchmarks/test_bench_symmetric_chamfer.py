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
from .symmetric_ops import ATOMS, OPERATIONS, least_work, synthetic
from .test_bench_edges import PARTS

STRUCTURES = 128
TARGET = 20.0  # times slower than symkern, on one thread, forward


@PARTS
@pytest.mark.parametrize("direction", ["x_to_y", "both"])
def test_symmetric_chamfer(direction, backward, threads, compare):
    torch.set_num_threads(threads)
    sym = synthetic(STRUCTURES)
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
    work = least_work(sym, both=direction == "both")
    compare(_op(f"symmetric_chamfer {direction}", backward), _NAME, made, threads, work)


@PARTS
def test_symmetric_mse(backward, threads, compare):
    torch.set_num_threads(threads)
    sym = synthetic(STRUCTURES)
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
