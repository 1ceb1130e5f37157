"""spherical_basis, forward and with the gradient of the distances, beside the layer of PyG's DimeNet."""

from __future__ import annotations

from dataclasses import replace

import torch

import symkern as sk

from . import systems
from .basis_ops import CUTOFF, EXPONENT, RADIAL, SPHERICAL, pyg_layer, spherical_work
from .edge_ops import entries
from .peers import OURS
from .test_bench_edges import PARTS

TARGET = 5.0  # times slower than symkern, on one thread


@PARTS
def test_spherical_basis(backward, threads, compare):
    torch.set_num_threads(threads)
    system = systems.molecules(64)
    nb = system.edges()
    tri = sk.triplets(nb)
    vec = sk.edge_vectors(system.positions, nb)
    d, angle, kj = sk.safe_norm(vec), sk.edge_angles(vec, tri), tri.kj.contiguous()
    d = d.clamp(min=2.5)  # below, PyG's formulas lose digits in fp32, and the results would not be the same
    layer = pyg_layer()
    calls = {
        OURS: lambda d: sk.spherical_basis(d, angle, tri, CUTOFF, SPHERICAL, RADIAL, exponent=EXPONENT),
        "eager, PyG's formulas": lambda d: layer(d, angle, kj),
    }
    made = entries(calls, d, backward)
    if threads == 1:
        made = [replace(entry, target=TARGET if entry.who != OURS else None) for entry in made]
    op = f"spherical_basis, {'forward + gradient' if backward else 'forward'}"
    name = f"{tri.num_triplets:,} triplets of {system.name}, {SPHERICAL} x {RADIAL}"
    compare(op, name, made, threads, spherical_work(tri, backward))
