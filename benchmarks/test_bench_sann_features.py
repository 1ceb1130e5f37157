"""sann_edge_features, forward and with the gradient of the positions, beside the same formulas in torch."""

from __future__ import annotations

import torch

from . import systems
from .edge_ops import entries
from .sann_ops import RADIAL, SPHERICAL, contestants, features_work
from .test_bench_edges import PARTS


@PARTS
def test_sann_edge_features(backward, threads, compare):
    torch.set_num_threads(threads)
    system = systems.molecules(64)
    nb = system.edges()
    made = entries(contestants(system, nb), system.positions, backward)
    op = f"sann_edge_features, {'forward + gradient' if backward else 'forward'}"
    name = f"{nb.num_edges:,} edges of {system.name}, {SPHERICAL} x {RADIAL}"
    compare(op, name, made, threads, features_work(nb, backward))
