"""sann_edge_features, forward and with the gradient of the positions, beside the same formulas in torch."""

from __future__ import annotations

import torch

import symkern as sk

from . import systems
from .edge_ops import entries
from .peers import OURS
from .sann_ops import CUTOFF, RADIAL, SPHERICAL, eager_features, features_work
from .test_bench_edges import PARTS


@PARTS
def test_sann_edge_features(backward, threads, compare):
    torch.set_num_threads(threads)
    system = systems.molecules(64)
    nb = system.edges()
    references = sk.reference_neighbors(system.positions, nb)
    assert (references >= 0).all()

    def ours(r):
        features = sk.sann_edge_features(r, nb, CUTOFF, SPHERICAL, RADIAL, references=references)
        return torch.cat(features, 1)

    made = entries({OURS: ours, "eager, same formulas": eager_features(nb, references)}, system.positions, backward)
    op = f"sann_edge_features, {'forward + gradient' if backward else 'forward'}"
    name = f"{nb.num_edges:,} edges of {system.name}, {SPHERICAL} x {RADIAL}"
    compare(op, name, made, threads, features_work(nb, backward))
