"""Verlet lists: complete at every step, rebuilt when they must be and only then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peers
import pytest
import torch

import symkern as sk

CUTOFF, SKIN = 2.5, 0.6


def start(atoms: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Generator]:
    random = torch.Generator().manual_seed(seed)
    positions = 7 * torch.rand((atoms, 3), generator=random, dtype=torch.float64)
    cell = 7 * torch.eye(3, dtype=torch.float64) + 0.5 * torch.rand((3, 3), generator=random, dtype=torch.float64)
    return positions, cell, random


def edges(nb: sk.Neighbors) -> set[tuple[int, ...]]:
    return {tuple(row) for row in peers.ours(nb).tolist()}


SETTINGS: dict[str, Callable[[torch.Tensor], dict[str, Any]]] = {
    "molecule": lambda cell: {},
    "periodic": lambda cell: {"cell": cell},
    "slab": lambda cell: {"cell": cell, "pbc": (True, True, False)},
    "batch": lambda cell: {"cell": torch.stack([cell, 1.1 * cell]), "batch": torch.tensor([0] * 15 + [1] * 25)},
    "half": lambda cell: {"cell": cell, "full": False},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_random_walk(setting: str) -> None:
    """Complete for the cutoff at every step, exact where asked, and rebuilt less often than not."""
    positions, cell, random = start()
    options = SETTINGS[setting](cell)
    lazy, exact = sk.VerletList(CUTOFF, SKIN), sk.VerletList(CUTOFF, SKIN, exact=True)
    for _ in range(40):
        fresh = sk.neighbor_list(positions, CUTOFF, **options)
        assert edges(lazy(positions, **options)) >= edges(fresh)
        filtered = exact(positions, **options)
        assert torch.equal(filtered.edge_index, fresh.edge_index)
        assert torch.equal(filtered.shifts, fresh.shifts)
        assert torch.equal(filtered.row_ptr, fresh.row_ptr)
        assert torch.equal(filtered.ptr, fresh.ptr)
        assert (filtered.cell_shifts is None) == (fresh.cell_shifts is None)
        positions = positions + 0.05 * torch.randn(positions.shape, generator=random, dtype=torch.float64)
    assert 2 <= lazy.builds <= 25
    assert lazy.builds == exact.builds


def test_the_list_is_that_of_cutoff_and_skin() -> None:
    positions, cell, _ = start()
    lst = sk.VerletList(CUTOFF, SKIN)
    assert edges(lst(positions, cell=cell)) == edges(sk.neighbor_list(positions, CUTOFF + SKIN, cell=cell))


def test_reused_until_an_atom_has_moved_half_the_skin() -> None:
    positions, cell, _ = start()
    lst = sk.VerletList(CUTOFF, SKIN)
    first = lst(positions, cell=cell)
    moved = positions.clone()
    moved[7, 1] += 0.499 * SKIN
    assert lst(moved, cell=cell) is first
    assert lst(positions, cell=cell.clone()) is first  # equal values, another tensor
    moved[7, 1] += 0.002 * SKIN
    assert lst(moved, cell=cell) is not first
    assert lst.builds == 2
    # from here the displacement counts from the new positions
    assert lst(moved, cell=cell) is lst(moved, cell=cell)
    lst(positions, cell=cell)
    assert lst.builds == 3


def test_rounding_of_displacements_loses_no_pair() -> None:
    """Two fp32 atoms that move by half the skin and 1e-8 towards each other, from just outside the list."""
    x = ("-0x1.1b1ddp-2", "0x1.dc9c46p+1", "0x1.e4e232p-2", "0x1.7c9c46p+1")
    a, b, a_moved, b_moved = map(float.fromhex, x)
    lst = sk.VerletList(2.5, 1.5)
    assert lst(torch.tensor([[a, 0, 0], [b, 0, 0]])).num_edges == 0
    moved = torch.tensor([[a_moved, 0, 0], [b_moved, 0, 0]])
    assert sk.neighbor_list(moved, 2.5).num_edges == 2
    assert lst(moved).num_edges == 2


@pytest.mark.parametrize("trigger", ["atoms", "cell", "pbc", "batch", "full", "dtype", "setting appears"])
def test_rebuilt_when_anything_else_changes(trigger: str) -> None:
    positions, cell, _ = start()
    options = {"cell": cell, "pbc": (True, True, True), "batch": torch.zeros(40, dtype=torch.int64), "full": True}
    lst = sk.VerletList(CUTOFF, SKIN)
    lst(positions, **options)
    lst(positions, **options)
    assert lst.builds == 1
    if trigger == "atoms":
        positions, options["batch"] = positions[:-1], options["batch"][:-1]
    elif trigger == "cell":
        options["cell"] = cell * 1.001
    elif trigger == "pbc":
        options["pbc"] = (True, True, False)
    elif trigger == "batch":
        options["batch"] = torch.tensor([0] * 20 + [1] * 20)
    elif trigger == "full":
        options["full"] = False
    elif trigger == "dtype":
        positions, options["cell"] = positions.float(), cell.float()
    else:
        options["self_loops"] = True
    got = lst(positions, **options)
    assert lst.builds == 2
    assert edges(got) == edges(sk.neighbor_list(positions, CUTOFF + SKIN, **options))


@pytest.mark.parametrize("trigger", ["cell", "batch", "positions"])
def test_rebuilt_when_a_tensor_is_changed_in_place(trigger: str) -> None:
    positions, cell, _ = start()
    batch = torch.zeros(40, dtype=torch.int64)
    lst = sk.VerletList(CUTOFF, SKIN)
    lst(positions, cell=cell, batch=batch)
    if trigger == "cell":
        cell *= 1.01
    elif trigger == "batch":
        batch[20:] = 1
    else:
        positions += 1
    got = lst(positions, cell=cell, batch=batch)
    assert lst.builds == 2
    assert edges(got) == edges(sk.neighbor_list(positions, CUTOFF + SKIN, cell=cell, batch=batch))


def test_padding_and_exactness() -> None:
    """With room to spare, an exact list equals a fresh one."""
    positions, cell, random = start()
    room = sk.neighbor_list(positions, CUTOFF + SKIN, cell=cell).num_edges + 200
    lst = sk.VerletList(CUTOFF, SKIN, exact=True)
    for _ in range(5):
        nb = lst(positions, cell=cell, max_edges=room)
        assert edges(nb) == edges(sk.neighbor_list(positions, CUTOFF, cell=cell))
        positions = positions + 0.02 * torch.randn(positions.shape, generator=random, dtype=torch.float64)


def test_gradients_flow_through_a_reused_list() -> None:
    positions, cell, _ = start()
    lst = sk.VerletList(CUTOFF, SKIN)
    for step in range(2):
        r = (positions + 0.01 * step).requires_grad_()
        d = sk.safe_norm(sk.edge_vectors(r, lst(r, cell=cell), cell))
        (grad,) = torch.autograd.grad(torch.relu(1 - d / CUTOFF).square().sum(), r)
        assert grad.abs().max() > 0
    assert lst.builds == 1


def test_not_a_number_and_nothing() -> None:
    positions, _, _ = start()
    lst = sk.VerletList(CUTOFF, SKIN)
    lst(positions)
    positions[3, 0] = float("nan")
    with pytest.raises(ValueError, match="positions must be finite, but atom 3"):
        lst(positions)
    empty = torch.zeros((0, 3))
    lst = sk.VerletList(CUTOFF, 0.0)
    assert lst(empty).num_edges == lst(empty).num_edges == 0


@pytest.mark.parametrize(("cutoff", "skin"), [(0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (float("inf"), 1.0)])
def test_bad_cutoff(cutoff: float, skin: float) -> None:
    with pytest.raises(ValueError, match="cutoff must be positive and finite, got"):
        sk.VerletList(cutoff, skin)


@pytest.mark.parametrize("skin", [-0.1, float("nan"), float("inf")])
def test_bad_skin(skin: float) -> None:
    with pytest.raises(ValueError, match="skin must be finite and not negative, got"):
        sk.VerletList(3.0, skin)


def test_a_list_of_flags_may_change() -> None:
    r, cell, pbc = torch.rand(5, 3) * 3, torch.eye(3) * 3, [True, True, True]
    verlet = sk.VerletList(2.0, 0.5)
    verlet(r, cell=cell, pbc=pbc)
    pbc[2] = False
    assert torch.equal(
        verlet(r, cell=cell, pbc=pbc).edge_index, sk.neighbor_list(r, 2.5, cell=cell, pbc=pbc).edge_index
    )
    assert verlet.builds == 2


def test_a_failed_build_leaves_nothing_behind() -> None:
    r = torch.rand(6, 3)
    verlet = sk.VerletList(0.3, 0.1)
    verlet(r * 100, max_edges=4)  # far apart: no edge
    for _ in range(2):
        with pytest.raises(ValueError, match="max_edges is too small"):
            verlet(r * 0.01, max_edges=4)
