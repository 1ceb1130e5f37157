"""radial_basis, forward and with the gradient of the distances, beside torch as users write it and compiled."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import symkern as sk

from .basis_ops import BASIS, RADIAL_CUTOFF, eager_radial, radial_work
from .edge_ops import entries
from .peers import OURS
from .test_bench_edges import PARTS, compiled  # noqa: F401  (a fixture)

EDGES = 200_000
# eager and compiled code has to be this many times slower, on one thread
TARGETS = {"eager": 10.0, "compile": 2.0}


@PARTS
@pytest.mark.parametrize("kind", ["gaussian", "bessel", "expnorm"])
def test_radial_basis(kind, backward, threads, compiled, compare):  # noqa: F811
    torch.set_num_threads(threads)
    d = 0.1 + (RADIAL_CUTOFF - 0.1) * torch.rand(EDGES, generator=torch.Generator().manual_seed(0))
    eager = eager_radial(kind)
    calls = {OURS: lambda d: sk.radial_basis(d, RADIAL_CUTOFF, BASIS, kind=kind), "eager, as written": eager}
    if compiled:
        calls["compile, as written"] = torch.compile(eager, fullgraph=True, dynamic=False)
    made = entries(calls, d, backward)
    if threads == 1 and kind == "gaussian":  # what was promised
        made = [replace(entry, target=TARGETS.get(entry.who.removeprefix("torch "))) for entry in made]
    op = f"radial_basis {kind}, {'forward + gradient' if backward else 'forward'}"
    compare(op, f"{EDGES:,} distances x {BASIS}", made, threads, radial_work(EDGES, backward))
