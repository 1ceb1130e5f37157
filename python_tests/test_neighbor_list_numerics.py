"""Where neighbor lists tend to break: rounding at the cutoff, magnitudes, switches between algorithms, instruction
sets, threads, padding, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import peers
import pytest
import torch
from scipy.spatial import cKDTree
from test_neighbor_list import check, each_dtype, tensor

import symkern as sk


def by_tree(positions: Any, cutoff: float) -> peers.Rows:
    """All pairs without periodicity, for thousands of atoms."""
    r = np.asarray(positions, dtype=np.float64)
    pairs = cKDTree(r).query_pairs(cutoff * 1.001, output_type="ndarray")
    d = np.linalg.norm(r[pairs[:, 0]] - r[pairs[:, 1]], axis=1)
    assert np.abs(d / cutoff - 1).min(initial=1) > 1e-9
    i, j = pairs[d < cutoff].T
    return peers.rows(np.concatenate([i, j]), np.concatenate([j, i]), np.zeros((2 * len(i), 3)))


@pytest.fixture
def threads() -> Any:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# ---- rounding --------------------------------------------------------------------------------------------------------


def test_cutoff_is_exclusive() -> None:
    r = torch.tensor([[0.0, 0, 0], [3, 0, 0], [0, 4, 0]])
    assert sk.neighbor_list(r, 3.0).num_edges == 0
    assert sk.neighbor_list(r, 5.0).num_edges == 4
    assert sk.neighbor_list(r, float(np.nextafter(5.0, 6.0))).num_edges == 6
    cell = 4 * torch.eye(3)
    assert sk.neighbor_list(r[:1], 4.0, cell=cell).num_edges == 0
    assert sk.neighbor_list(r[:1], float(np.nextafter(4.0, 5.0)), cell=cell).num_edges == 6


@pytest.mark.parametrize("layout", ["molecule", "large", "periodic"])
def test_pairs_within_rounding_of_the_cutoff_are_decided_in_fp64(layout: str) -> None:
    """Distances from 2^-40 to 2^-18 (relative) on both sides of the cutoff, far below what fp32 can tell."""
    random = np.random.default_rng(5)
    pairs, cutoff = (1200 if layout == "large" else 400), 2.75
    direction = random.normal(size=(pairs, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    nearly = cutoff * (1 + random.choice([-1, 1], pairs) * 2.0 ** random.integers(-40, -18, pairs))
    place = 20.0 * np.stack(np.unravel_index(np.arange(pairs), (11, 11, 11)), 1) + random.uniform(0, 1, (pairs, 3))
    r64 = np.concatenate([place, place + direction * nearly[:, None]])
    cell, options = 221 * np.eye(3), {}
    for dtype in (torch.float32, torch.float64):
        r = tensor(r64, dtype)
        if layout == "periodic":
            options = {"cell": tensor(cell, dtype)}
        exact = r.double().numpy()
        # in extended precision, so that the answer is beyond doubt
        d = np.linalg.norm((exact[pairs:] - exact[:pairs]).astype(np.longdouble), axis=1)
        near = np.flatnonzero(d < cutoff)
        assert np.abs(d / cutoff - 1).min() > 1e-15
        assert 0.3 * pairs < len(near) < 0.7 * pairs
        expected = peers.rows(np.r_[near, near + pairs], np.r_[near + pairs, near], np.zeros((2 * len(near), 3)))
        check(sk.neighbor_list(r, cutoff, **options), expected)


@each_dtype
def test_far_from_the_origin(dtype: torch.dtype) -> None:
    """A million Å away fp32 positions are 1/16 Å apart; the list is exact for the positions as given."""
    random = np.random.default_rng(6)
    for atoms in (60, 2000):
        r = tensor(1e6 + 7 * (atoms / 60) ** (1 / 3) * random.uniform(size=(atoms, 3)), dtype)
        cutoff = 1.9871
        check(sk.neighbor_list(r, cutoff), by_tree(r, cutoff))
    r, cell = r[:9], tensor([[6.5, 0, 0], [1.5, 6, 0], [0.25, 0.5, 5]], dtype)
    expected, gap = peers.brute_force(r, 3.3337, cell, True)
    assert gap > 1e-7
    check(sk.neighbor_list(r, 3.3337, cell=cell), expected)


@each_dtype
@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1e6, 1e15])
def test_length_scales(scale: float, dtype: torch.dtype) -> None:
    """Nothing depends on the unit of length."""
    random = np.random.default_rng(7)
    factor = 2.0 ** np.round(np.log2(scale))  # exact
    for atoms, periodic in ((50, False), (1700, False), (50, True)):
        r = random.uniform(0, 4 * (atoms / 50) ** (1 / 3), (atoms, 3)).astype(np.float32)
        cell = np.diag([4.0, 5.0, 4.5]) + 0.25 * np.eye(3)[[1, 2, 0]]
        options = {"cell": tensor(cell, dtype)} if periodic else {}
        scaled = {"cell": tensor(factor * cell, dtype)} if periodic else {}
        expected = peers.ours(sk.neighbor_list(tensor(r, dtype), 1.75, **options))
        assert len(expected) > 100
        check(sk.neighbor_list(tensor(factor * r.astype(np.float64), dtype), 1.75 * factor, **scaled), expected)


@each_dtype
def test_atoms_immensely_far_apart(dtype: torch.dtype) -> None:
    r = tensor([[0.0, 0, 0], [1, 0, 0], [1e30, 0, 0], [1e30, 0, 0], [-1e30, 1e30, 5], [0, 1.5, 0]], dtype)
    pairs = [(0, 1), (1, 0), (0, 5), (5, 0), (1, 5), (5, 1), (2, 3), (3, 2)]
    expected = peers.rows([i for i, _ in pairs], [j for _, j in pairs], np.zeros((len(pairs), 3)))
    check(sk.neighbor_list(r, 2.0), expected)
    # the same through the cell list
    crowd = torch.cat([r, 50 + 3 * torch.arange(1600, dtype=dtype)[:, None].expand(-1, 3)])
    check(sk.neighbor_list(crowd, 2.0), expected)


@pytest.mark.parametrize("size", [30, 3000])
def test_as_skewed_as_a_basis_can_be(size: int) -> None:
    """Another basis of the same lattice has the same pairs, and shifts counted in the other basis."""
    random = np.random.default_rng(8)
    # multiples of 1/8, and integers: every product is exact
    cell = np.round(8 * (5 * np.eye(3) + random.uniform(-1, 1, (3, 3)))) / 8
    r = tensor(np.round(8 * random.uniform(-1, 2, (6, 3)) @ cell) / 8, torch.float64)
    straight = peers.ours(sk.neighbor_list(r, 6.2, cell=tensor(cell, torch.float64)))
    for seed in range(5):
        random = np.random.default_rng(seed)
        basis = np.eye(3)
        for _ in range(3):
            k, other = random.permutation(3)[:2]
            basis[k] += random.integers(-size, size) * basis[other]
        inverse = np.round(np.linalg.inv(basis))
        assert np.array_equal(basis @ inverse, np.eye(3))
        skewed = straight.copy()
        skewed[:, 2:] = straight[:, 2:] @ inverse.astype(np.int64)
        expected = peers.rows(skewed[:, 0], skewed[:, 1], skewed[:, 2:])
        check(sk.neighbor_list(r, 6.2, cell=tensor(basis @ cell, torch.float64)), expected)


# ---- algorithms ------------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("atoms", [1, 2, 63, 64, 65, 128, 1535, 1536, 1537, 1540, 4095, 4096, 4097])
def test_switches_between_algorithms(atoms: int, dtype: torch.dtype, threads: Any) -> None:
    """Bit masks end at 1536 atoms, threads share one structure from 4096: the list must not notice."""
    r = tensor(np.random.default_rng(atoms).uniform(0, (atoms / 0.1) ** (1 / 3), (atoms, 3)), dtype)
    expected = by_tree(r, 2.7182)
    for count in (1, 2, 3):
        threads(count)
        check(sk.neighbor_list(r, 2.7182), expected)
        check(sk.neighbor_list(r, 2.7182, full=False), peers.half(expected))
    loops = peers.with_self_loops(expected, atoms)
    check(sk.neighbor_list(r, 2.7182, self_loops=True), loops)


def test_both_algorithms_in_one_batch(threads: Any) -> None:
    """Structures on both sides of each switch, in one call, for any number of threads."""
    random, sizes = np.random.default_rng(9), [5, 1600, 0, 4200, 3, 1500, 4096, 1]
    parts = [tensor(random.uniform(0, (n / 0.05) ** (1 / 3) + 1, (n, 3)), torch.float32) for n in sizes]
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    tables = [by_tree(r, 2.1) if len(r) else peers.rows([], [], []) for r in parts]
    expected = np.concatenate([peers.offset(t, int(first)) for t, first in zip(tables, ptr, strict=False)])
    for count in (1, 2, 3):
        threads(count)
        check(sk.neighbor_list(torch.cat(parts), 2.1, ptr=ptr), expected)


def test_everything_in_one_place() -> None:
    for atoms in (70, 1601):
        nb = sk.neighbor_list(torch.ones((atoms, 3)), 0.5)
        assert nb.num_edges == atoms * (atoms - 1)
        assert torch.equal(nb.row_ptr, (atoms - 1) * torch.arange(atoms + 1))


FINGERPRINT = """
import hashlib, json, numpy as np
from symkern import host
random, digest = np.random.default_rng(0), hashlib.sha256()
for atoms in (3, 20, 64, 65, 333, 1536, 1700, 6000):
    r = random.uniform(0, (atoms / 0.1) ** (1 / 3), (atoms, 3))
    cell = np.diag(r.max(0)) + random.uniform(-0.5, 0.5, (3, 3))
    half = {"cell": cell, "pbc": [True, False, True], "full": False}
    for options in ({}, {"cell": cell}, half, {"self_loops": True}):
        nb = host.neighbor_list(r, 3.3, **options)
        for array in (nb.edge_index, nb.shifts, nb.row_ptr):
            digest.update(np.ascontiguousarray(array))
print(json.dumps({**host.build_info(), "digest": digest.hexdigest()}))
"""


def test_instruction_sets_agree_bit_for_bit() -> None:
    found = {}
    for isa in ("baseline", "avx2", "avx512"):
        environment = {**os.environ, "SYMKERN_ISA": isa}
        output = subprocess.run([sys.executable, "-c", FINGERPRINT], env=environment, check=True, capture_output=True)
        found[isa] = json.loads(output.stdout)
    levels = ["baseline", "avx2", "avx512"]
    best = levels.index(found["baseline"]["isa_detected"])
    for isa, info in found.items():
        # a level the processor lacks falls back to the best it has
        assert info["isa"] == levels[min(best, levels.index(isa))]
    assert len({info["digest"] for info in found.values()}) == 1


# ---- results of fixed size -------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("periodic", [False, True])
def test_max_edges(periodic: bool, dtype: torch.dtype) -> None:
    r = tensor(np.random.default_rng(10).uniform(0, 5, (12, 3)), dtype)
    options = {"cell": 5 * torch.eye(3, dtype=dtype)} if periodic else {}
    exact = sk.neighbor_list(r, 2.3, **options)
    found = exact.num_edges
    for room in (found, found + 1, found + 1000):
        nb = sk.neighbor_list(r, 2.3, max_edges=room, **options)
        assert nb.edge_index.shape == (2, room)
        assert nb.shifts.shape == (room, 3)
        assert int(nb.row_ptr[-1]) == found
        check(nb, peers.ours(exact))
        assert not nb.edge_index[:, found:].any()
        assert not nb.shifts[found:].any()
    for room in (found - 1, 0):
        with pytest.raises(ValueError, match=f"max_edges is too small: {found} edges found, room for {room}"):
            sk.neighbor_list(r, 2.3, max_edges=room, **options)


@each_dtype
def test_nothing(dtype: torch.dtype) -> None:
    """No atoms, no structures, structures without atoms, one atom."""
    none = torch.zeros((0, 3), dtype=dtype)
    cell = 4 * torch.eye(3, dtype=dtype)
    long = torch.int64
    for options, structures in (
        ({}, 1),
        ({"cell": cell}, 1),
        ({"batch": torch.zeros(0, dtype=long)}, 0),
        ({"ptr": torch.zeros(1, dtype=long)}, 0),
        ({"ptr": torch.zeros(4, dtype=long), "cell": cell.expand(3, 3, 3)}, 3),
    ):
        nb = sk.neighbor_list(none, 3.0, **options)
        assert nb.edge_index.shape == (2, 0)
        assert nb.edge_index.dtype == long
        assert nb.shifts.shape == (0, 3)
        assert nb.shifts.dtype == torch.int32
        assert nb.row_ptr.tolist() == [0]
        assert nb.num_structures == structures
        assert sk.neighbor_list(none, 3.0, max_edges=5, **options).edge_index.shape == (2, 5)
    one = torch.ones((1, 3), dtype=dtype)
    assert sk.neighbor_list(one, 3.0).num_edges == 0
    assert sk.neighbor_list(one, 3.0, self_loops=True).num_edges == 1
    assert sk.neighbor_list(one, 4.1, cell=cell).num_edges == 6
    assert sk.neighbor_list(one, 4.1, cell=cell, full=False).num_edges == 3


def test_cutoff_far_larger_than_the_cell() -> None:
    """Thousands of images of one atom: as many as lattice points in the sphere."""
    nb = sk.neighbor_list(torch.zeros((1, 3)), 10.01, cell=torch.eye(3))
    grid = np.stack(np.meshgrid(*[np.arange(-11, 12)] * 3), -1).reshape(-1, 3)
    inside = ((grid**2).sum(1) < 10.01**2) & grid.any(1)
    check(nb, peers.rows(np.zeros(inside.sum()), np.zeros(inside.sum()), grid[inside]))
    with pytest.raises(ValueError, match="cutoff is too large for the cell of structure 0"):
        sk.neighbor_list(torch.zeros((1, 3)), 5000.0, cell=torch.eye(3))


# ---- memory ----------------------------------------------------------------------------------------------------------

MEMORY = """
import json, resource, sys, numpy as np
from symkern import host
atoms, spacing = int(sys.argv[1]), float(sys.argv[2])
r = np.random.default_rng(0).uniform(0, spacing * atoms ** (1 / 3), (atoms, 3))
host.neighbor_list(r[:100], 5.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
nb = host.neighbor_list(r, 5.0, cell=spacing * atoms ** (1 / 3) * np.eye(3))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps([unit * (after - before), sum(a.nbytes for a in (nb.edge_index, nb.shifts, nb.row_ptr))]))
"""


@pytest.mark.parametrize(("atoms", "spacing"), [(150_000, 2.15), (100_000, 500.0)], ids=["dense", "sparse"])
def test_memory_is_proportional_to_the_output(atoms: int, spacing: float) -> None:
    """Neither to the volume (a gas in an immense box) nor to the square of the number of atoms."""
    command = [sys.executable, "-c", MEMORY, str(atoms), str(spacing)]
    used, output = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    # three times the output, and 500 bytes per atom for the grid
    assert used < 3 * output + 500 * atoms + (64 << 20)


@pytest.mark.parametrize("far", [1e4, 1e8])
def test_one_atom_far_away_costs_little(far: float) -> None:
    """It must neither coarsen the grid nor the fp32 filter for all others: then every pair would be tested in fp64."""
    r = torch.rand(20000, 3, generator=torch.Generator().manual_seed(0)) * 60
    alone = sk.neighbor_list(r[:-1], 3.0)
    r[-1] = far
    with_outlier = sk.neighbor_list(r, 3.0)
    assert torch.equal(with_outlier.edge_index, alone.edge_index)


@pytest.mark.parametrize(
    ("cell", "match"),
    [
        ([[1e-100, 0, 0], [0, 1, 0], [0, 0, 1]], "too many periodic images|singular"),
        ([[1, 0, 0], [6e4, 1, 0], [0, 6e4, 1]], "too skewed"),
        ([[1e-3, 0, 0], [0, 1e-3, 0], [0, 0, 1e-3]], "too many periodic images"),
    ],
)
def test_cells_beyond_32_bits_are_refused(cell: list[list[float]], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sk.neighbor_list(torch.zeros(1, 3, dtype=torch.float64), 3.0, cell=torch.tensor(cell, dtype=torch.float64))
