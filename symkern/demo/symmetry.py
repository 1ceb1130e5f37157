"""Symmetry in the demo: operations of many molecules, canonical forms, and a loss that knows about them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

import symkern as sk
from symkern.demo import systems
from symkern.demo.ase_check import timed
from symkern.demo.results import Check, Plot, Section
from symkern.pointgroup.png import png
from symkern.pointgroup.scene import scene

TOLERANCE = 0.01  # Å
# the asymmetric stretching of water about the axis of H1 and H2, as SANN's Table 2 uses it: unit norm
STRETCH = [[0.0703, 0, 0], [-0.5577, 0, -0.4318], [-0.5577, 0, 0.4318]]
WATER = [[0, 0, -0.0503], [0.582, 0, 0.399], [-0.582, 0, 0.399]]


def symmetry(tick: Callable[[], None]) -> Section:
    """The G2 set and turned, shuffled copies of it."""
    g2 = systems.g2_molecules()
    positions, numbers = torch.from_numpy(g2.positions), torch.from_numpy(g2.numbers)
    ptr = torch.from_numpy(g2.ptr)
    find = partial(sk.stabilizers, positions, numbers, ptr=ptr, tolerance=TOLERANCE)
    sym = find()
    seconds = statistics.median(timed(find)[1] for _ in range(9))
    tick()
    checks = [_holds(sym)]
    order, copies = _copies(positions, ptr)
    again = sk.stabilizers(copies, numbers[order], ptr=ptr, tolerance=TOLERANCE)
    same = again.labels == sym.labels and bool((again.order == sym.order).all())
    checks.append(Check("turned, mirrored and shuffled copies", same, f"{len(sym.labels)} point groups are the same"))
    forms = [sk.canonicalize(r, z, ptr=ptr).positions for r, z in ((positions, numbers), (copies, numbers[order]))]
    worst = float(sk.emd(forms[0], forms[1], x_ptr=ptr, y_ptr=ptr).max())
    checks.append(Check("canonical forms of the copies", worst < 1e-5, f"farthest {worst:.0e} Å (mean over atoms)"))
    tick()
    checks.append(_symmetric_loss())
    groups = ", ".join(f"{label} {count}" for label, count in Counter(sym.labels).most_common(8))
    rings = {"benzene": "C6H6", "staggered ethane": "C2H6"}
    plots = [
        Plot(f"symmetry_{molecule}", f"Axes and mirror planes of {name}.", png(scene(sym, g2.names.index(molecule))))
        for name, molecule in rings.items()
    ]
    tick()
    return Section(
        "Symmetry: every operation of every molecule",
        "stabilizers finds all rotations, reflections and rotoreflections of the G2 molecules in one call; "
        "canonicalize brings equal molecules to one form; symmetric_mse takes the minimum over a molecule's own "
        "operations, which lets a network predict an outcome with less symmetry than its input.",
        checks,
        plots=plots,
        figures={
            "operations": f"{sym.num_operations:,}",
            "time per molecule": f"{seconds / sym.num_structures * 1e6:.1f} µs",
            "most frequent groups": groups,
        },
    )


def _holds(sym: sk.Stabilizers) -> Check:
    """Apply each operation in NumPy."""
    x, p = sym.positions.numpy(), sym.permutations.numpy()
    worst = 0.0
    for g, b in enumerate(sym.op_batch.tolist()):
        first, end = int(sym.ptr[b]), int(sym.ptr[b + 1])
        images = p[int(sym.perm_ptr[g]) : int(sym.perm_ptr[g + 1])]
        c = x[first:end].mean(0)
        moved = (x[first:end] - c) @ sym.operations[g].numpy().T - (x[images] - c)
        worst = max(worst, float(np.linalg.norm(moved, axis=1).max()))
    return Check("operations map atoms onto atoms", worst <= TOLERANCE, f"farthest {worst:.1g} Å, {TOLERANCE} allowed")


def _copies(positions: Tensor, ptr: Tensor) -> tuple[Tensor, Tensor]:
    """Order of the atoms and positions of copies."""
    random = torch.Generator().manual_seed(0)
    order, copies = [], []
    for first, end in zip(ptr[:-1].tolist(), ptr[1:].tolist(), strict=True):
        shuffled = first + torch.randperm(end - first, generator=random)
        turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=random, dtype=torch.float64))
        order.append(shuffled)
        copies.append(positions[shuffled] @ turn.T + torch.randn(3, generator=random, dtype=torch.float64))
    return torch.cat(order), torch.cat(copies)


def _symmetric_loss() -> Check:
    """An arrow pattern and its mirror image are one outcome; zero, the best an equivariant network can do, is not."""
    water, stretch = torch.tensor(WATER, dtype=torch.float64), torch.tensor(STRETCH, dtype=torch.float64)
    stretch = stretch / stretch.norm()
    sym = sk.stabilizers(water, torch.tensor([8, 1, 1]))
    image = torch.empty_like(stretch)
    image[sym.permutations[3:6]] = stretch @ sym.operations[1].T
    plain = float((image - stretch).square().sum())
    shown = [float(sk.symmetric_mse(p, stretch, sym)[0]) for p in (image, torch.zeros_like(stretch))]
    detail = f"mirror image {shown[0]:.0e} (without symmetry {plain:.1f}), no motion {shown[1]:.2f}"
    return Check("asymmetric stretching of water", shown[0] < 1e-9 < plain and abs(shown[1] - 1) < 1e-6, detail)
