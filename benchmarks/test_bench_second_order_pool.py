"""second_order_pool, forward and with the gradient of the rotation, beside the same in torch."""

from __future__ import annotations

import pytest
import torch

from . import pool_ops
from .edge_ops import entries
from .test_bench_edges import PARTS

STRUCTURES = 128


@PARTS
@pytest.mark.parametrize("mode", pool_ops.MODES)
def test_second_order_pool(mode, backward, threads, compare):
    torch.set_num_threads(threads)
    made = entries(pool_ops.contestants(mode, STRUCTURES), pool_ops.rotation_of(), backward)
    op = f"{pool_ops.name(mode)}, {'forward + gradient' if backward else 'forward'}"
    work = pool_ops.pool_work(mode, STRUCTURES, backward)
    compare(op, f"{STRUCTURES} x {pool_ops.ATOMS} atoms", made, threads, work)
