"""radial_basis, forward and with the gradient of the distances, beside torch as users write it and compiled."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import symkern as sk

from .contest import Work
from .edge_ops import entries
from .peers import OURS
from .test_bench_edges import PARTS, compiled  # noqa: F401  (a fixture)

EDGES, BASIS, CUTOFF = 200_000, 50, 5.0
# eager and compiled code has to be this many times slower, on one thread
TARGETS = {"eager": 10.0, "compile": 2.0}


def _eager(kind: str):
    """Models keep their parameters as buffers, so these are made beforehand."""
    centers = torch.linspace(0, CUTOFF, BASIS)
    coefficient = -0.5 / float(centers[1] - centers[0]) ** 2
    frequencies = torch.arange(1, BASIS + 1) * math.pi / CUTOFF
    mu = torch.linspace(math.exp(-5), 1, BASIS)
    beta = (2 / BASIS * (1 - math.exp(-5))) ** -2

    def forward(d: Tensor) -> Tensor:
        x = d.unsqueeze(-1)
        envelope = 0.5 * (torch.cos(x * (math.pi / CUTOFF)) + 1) * (x < CUTOFF).float()
        if kind == "gaussian":
            return torch.exp(coefficient * (x - centers) ** 2) * envelope
        if kind == "bessel":
            return math.sqrt(2 / CUTOFF) * torch.sin(frequencies * x) / x * envelope
        return torch.exp(-beta * (torch.exp(-5 / CUTOFF * x) - mu) ** 2) * envelope

    return forward


@PARTS
@pytest.mark.parametrize("kind", ["gaussian", "bessel", "expnorm"])
def test_radial_basis(kind, backward, threads, compiled, compare):  # noqa: F811
    torch.set_num_threads(threads)
    d = 0.1 + (CUTOFF - 0.1) * torch.rand(EDGES, generator=torch.Generator().manual_seed(0))
    eager = _eager(kind)
    calls = {OURS: lambda d: sk.radial_basis(d, CUTOFF, BASIS, kind=kind), "eager, as written": eager}
    if compiled:
        calls["compile, as written"] = torch.compile(eager, fullgraph=True, dynamic=False)
    made = entries(calls, d, backward)
    if threads == 1 and kind == "gaussian":  # what was promised
        made = [replace(entry, target=TARGETS.get(entry.who.removeprefix("torch "))) for entry in made]
    op = f"radial_basis {kind}, {'forward + gradient' if backward else 'forward'}"
    compare(op, f"{EDGES:,} distances x {BASIS}", made, threads, _work(backward))


def _work(backward: bool) -> Work:
    # distances in, values out; with the gradient also the values' gradient in and the distances' out
    values = EDGES * BASIS
    if backward:
        return Work(4 * (2 * values + 2 * EDGES), 36 * values, 4 * values)
    return Work(4 * (values + EDGES), 14 * values, 4 * values)
