"""chamfer: a batch of small molecules beside all pairs in torch, and large clouds beside SciPy's k-d tree."""

from __future__ import annotations

import pytest
import torch

from .chamfer_ops import ATOMS, CLOUDS, MOLECULES, POINTS, large_entries, large_work, small_entries, small_work

# these have to be this many times slower
DENSE, TREE = 5.0, 6.0


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "gradient"])
def test_molecules(backward, threads, compare):
    torch.set_num_threads(threads)
    target = DENSE if threads == 1 and not backward else None
    op = f"chamfer, {'forward + gradient' if backward else 'forward'}"
    entries = small_entries(backward, target)
    compare(op, f"{MOLECULES} molecules, {ATOMS} x {ATOMS}", entries, threads, small_work(backward))


@pytest.mark.parametrize("kind", CLOUDS)
def test_large_clouds(kind, threads, compare):
    torch.set_num_threads(threads)
    entries = large_entries(kind, threads, TREE)
    compare("chamfer, forward", f"{POINTS:,} x {POINTS:,} points, {kind}", entries, threads, large_work(), most=20)
