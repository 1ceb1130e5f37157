"""Pairs and shifts against ASE, vesin and brute force: molecules, every lattice type, any cell, real systems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.collections import g2
from ase.lattice import all_variants
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import symkern as sk

DTYPES = [pytest.param(torch.float32, id="fp32"), pytest.param(torch.float64, id="fp64")]
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def check(nb: Any, expected: peers.Rows) -> None:
    """Same edges in the same order, and row_ptr that fits them."""
    got = peers.ours(nb)
    assert got.shape == expected.shape, f"{len(got)} edges, expected {len(expected)}"
    np.testing.assert_array_equal(got, expected)
    counts = np.bincount(expected[:, 0], minlength=nb.row_ptr.shape[0] - 1)
    np.testing.assert_array_equal(np.asarray(nb.row_ptr), np.concatenate([[0], counts.cumsum()]))


def tensor(values: Any, dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=dtype)


# ---- molecules -------------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("cutoff", [1.3, 2.9, 5.1])
def test_g2_molecules(cutoff: float, dtype: torch.dtype) -> None:
    """162 molecules one by one and as a batch, against ASE and vesin."""
    positions = [tensor(g2[name].positions, dtype) for name in g2.names]
    ptr = torch.tensor([0, *map(len, positions)]).cumsum(0)
    expected = []
    for r, first in zip(positions, ptr.tolist(), strict=False):
        table = peers.by_ase(r, cutoff)
        np.testing.assert_array_equal(table, peers.by_vesin(r, cutoff))
        check(sk.neighbor_list(r, cutoff), table)
        expected.append(peers.offset(table, first))
    batch = torch.repeat_interleave(torch.arange(len(positions)), ptr.diff())
    for given_as in ({"ptr": ptr}, {"batch": batch}):
        nb = sk.neighbor_list(torch.cat(positions), cutoff, **given_as)
        check(nb, np.concatenate(expected))
        assert torch.equal(nb.ptr, ptr)
        assert torch.equal(nb.batch, batch)
        assert nb.cell_shifts is None


@each_dtype
def test_molecule_in_a_box(dtype: torch.dtype) -> None:
    """One molecule in cells smaller and larger than itself, wrapped or not, all eight choices of pbc."""
    atoms = molecule("CH3CH2OH")
    for edge in (1.7, 4.0, 11.0):
        cell = np.diag([edge, 1.1 * edge, 0.9 * edge])
        r, rows = tensor(atoms.positions, dtype), tensor(cell, dtype)
        for flags in np.ndindex(2, 2, 2):
            pbc = tuple(bool(f) for f in flags)
            check(sk.neighbor_list(r, 3.03, cell=rows, pbc=pbc), peers.by_ase(r, 3.03, rows, pbc))


# ---- lattices --------------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("lattice", list(all_variants()), ids=lambda lattice: lattice.variant)
def test_bravais_lattices(lattice: Any, dtype: torch.dtype) -> None:
    """Every Bravais lattice type (29 variants, also two- and one-dimensional), three atoms, cells small and large."""
    random = np.random.default_rng(1)
    pbc = np.arange(3) < lattice.ndim
    shape = lattice.tocell().complete()
    cell = tensor(3 * shape / np.linalg.norm(shape[0]), dtype).double().numpy()
    r = tensor(random.uniform(-0.3, 1.3, (3, 3)) @ cell, dtype)
    for cutoff in (1.21, 3.37, 7.13):
        nb = sk.neighbor_list(r, cutoff, cell=tensor(cell, dtype), pbc=torch.tensor(pbc))
        expected = peers.by_ase(r, cutoff, cell, pbc)
        check(nb, expected)
        np.testing.assert_array_equal(expected, peers.by_vesin(r, cutoff, cell, pbc))


def test_perfect_crystals() -> None:
    """Shells of exactly equal distances: counts known from crystallography, and ASE."""
    nearest = {"fcc": (0.72, 12), "bcc": (0.88, 8), "sc": (1.01, 6), "diamond": (0.44, 4)}
    for structure, (reach, neighbors) in nearest.items():
        atoms = bulk("Cu", structure, a=4.0)
        nb = sk.neighbor_list(tensor(atoms.positions, torch.float64), 4 * reach, cell=tensor(atoms.cell, torch.float64))
        assert nb.num_edges == neighbors * len(atoms)
        check(nb, peers.by_ase(atoms.positions, 4 * reach, atoms.cell, True))


# ---- any cell --------------------------------------------------------------------------------------------------------


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    """fp32 numbers, so that both precisions see the same system."""
    return st.integers(0, 10_000).map(lambda k: float(np.float32(low + (high - low) * k / 10_000)))


@st.composite
def cells(draw: st.DrawFn) -> np.ndarray:
    edges = np.diag([draw(numbers(0.2, 9.0)) for _ in range(3)])
    cell = edges + np.array([[draw(numbers(-2, 2)) for _ in range(3)] for _ in range(3)]) * draw(
        st.sampled_from([0, 0, 1])
    )
    for _ in range(draw(st.integers(0, 3))):
        # a skewed basis of the same lattice: as skewed as it gets
        k, other = draw(st.permutations(range(3)))[:2]
        cell[k] += draw(st.integers(-25, 25)) * cell[other]
    if draw(st.booleans()):
        cell = cell[[1, 0, 2]]  # left-handed
    return cell.astype(np.float32).astype(np.float64)


@st.composite
def systems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, tuple[bool, ...], float]:
    cell = draw(cells())
    pbc = tuple(draw(st.booleans()) for _ in range(3))
    count = draw(st.integers(0, 7))
    fractions = np.array([[draw(numbers(-0.5, 1.5)) for _ in range(3)] for _ in range(count)]).reshape(-1, 3)
    if count and draw(st.booleans()):
        fractions[0] += draw(st.integers(-300, 300))  # far outside the cell
    positions = np.clip(fractions @ cell, -3000, 3000)
    if count > 1 and draw(st.booleans()):
        positions[1] = positions[0]  # coincident
    return positions.astype(np.float32).astype(np.float64), cell, pbc, draw(numbers(0.4, 4.0))


@settings(max_examples=250)
@given(systems())
def test_generated_systems(system: tuple[np.ndarray, np.ndarray, tuple[bool, ...], float]) -> None:
    """Tiny, skewed, left-handed cells, mixed flags, atoms far outside or on top of each other."""
    positions, cell, pbc, cutoff = system
    used = cell[list(pbc)]
    if len(used):
        # nearly flat cells would leave the comparison, not the result, to rounding
        assume(np.linalg.svd(used, compute_uv=False)[-1] > 0.05)
    found = peers.brute_force(positions, cutoff, cell, pbc)
    assume(found is not None)
    expected, gap = found
    assume(gap > 1e-6)
    for dtype in (torch.float32, torch.float64):
        r, h, flags = tensor(positions, dtype), tensor(cell, dtype), torch.tensor(pbc)
        check(sk.neighbor_list(r, cutoff, cell=h, pbc=flags), expected)
        check(sk.neighbor_list(r, cutoff, cell=h, pbc=flags, full=False), peers.half(expected))
        loops = peers.with_self_loops(expected, len(r))
        check(sk.neighbor_list(r, cutoff, cell=h, pbc=flags, self_loops=True), loops)
        loops = peers.with_self_loops(peers.half(expected), len(r))
        check(sk.neighbor_list(r, cutoff, cell=h, pbc=flags, self_loops=True, full=False), loops)
    if peers.within_reach_of_ase(cell, cutoff):
        np.testing.assert_array_equal(expected, peers.by_ase(positions, cutoff, cell, pbc))


@settings(max_examples=60)
@given(st.lists(systems(), min_size=1, max_size=4), numbers(0.5, 2.5), st.booleans())
def test_generated_batches(structures: list[Any], cutoff: float, full: bool) -> None:
    """A batch holds what its structures hold, each with its own cell and flags; some have no atoms."""
    for _, cell, _, _ in structures:
        assume(abs(np.linalg.det(cell)) > 0.02 and np.linalg.svd(cell, compute_uv=False)[-1] > 1e-3)
    dtype = torch.float64
    ptr = torch.tensor([0, *(len(r) for r, _, _, _ in structures)]).cumsum(0)
    expected = []
    for (r, cell, pbc, _), first in zip(structures, ptr.tolist(), strict=False):
        nb = sk.neighbor_list(tensor(r, dtype), cutoff, cell=tensor(cell, dtype), pbc=pbc, full=full)
        expected.append(peers.offset(peers.ours(nb), first))
    nb = sk.neighbor_list(
        tensor(np.concatenate([r for r, _, _, _ in structures]), dtype),
        cutoff,
        ptr=ptr,
        cell=tensor([cell for _, cell, _, _ in structures], dtype),
        pbc=torch.tensor([pbc for _, _, pbc, _ in structures]),
        full=full,
    )
    check(nb, np.concatenate(expected))


# ---- ways to describe the same thing


def test_equivalent_descriptions() -> None:
    random = np.random.default_rng(2)
    r = tensor(random.uniform(0, 5, (9, 3)), torch.float64)
    cell = tensor([[5.0, 0, 0], [1.2, 4.5, 0], [0.3, -0.7, 6.0]], torch.float64)
    ptr, batch = torch.tensor([0, 4, 4, 9]), torch.tensor([0] * 4 + [2] * 5)
    cells, flags = cell.expand(3, 3, 3), torch.tensor([True, False, True])
    reference = peers.ours(sk.neighbor_list(r, 3.1, ptr=ptr, cell=cells.contiguous(), pbc=flags.expand(3, 3)))
    expected = [peers.by_ase(r[a:b], 3.1, cell, flags) for a, b in ((0, 4), (4, 9))]
    np.testing.assert_array_equal(reference, np.concatenate([expected[0], peers.offset(expected[1], 4)]))
    for options in (
        {"ptr": ptr, "cell": cell, "pbc": flags},
        {"ptr": ptr, "cell": cell, "pbc": (True, False, True)},
        {"ptr": ptr, "cell": cells, "pbc": [True, False, True]},
        {"batch": batch, "cell": cell, "pbc": flags},
        {"batch": batch, "cell": cells, "pbc": flags.expand(3, 3)},
    ):
        nb = sk.neighbor_list(r, 3.1, **options)
        check(nb, reference)
        assert torch.equal(nb.ptr, ptr)
    open_ends = peers.ours(sk.neighbor_list(r, 3.1, ptr=ptr))
    for pbc in (False, (False, False, False), torch.zeros(3, dtype=torch.bool), torch.zeros((3, 3), dtype=torch.bool)):
        check(sk.neighbor_list(r, 3.1, ptr=ptr, cell=cells, pbc=pbc), open_ends)
    everywhere = peers.ours(sk.neighbor_list(r, 3.1, ptr=ptr, cell=cell))
    check(sk.neighbor_list(r, 3.1, ptr=ptr, cell=cell, pbc=True), everywhere)


def test_rows_of_non_periodic_directions_are_ignored() -> None:
    r = tensor(np.random.default_rng(3).uniform(0, 4, (6, 3)), torch.float64)
    slab = tensor([[4.0, 0, 0], [0.5, 3.8, 0], [0, 0, 0]], torch.float64)
    expected = peers.by_ase(r, 3.3, [[4.0, 0, 0], [0.5, 3.8, 0], [0, 0, 9.0]], (True, True, False))
    for third in ([0.0, 0, 0], [0, 0, 7.0], [4.0, 0, 0], [float("nan")] * 3):
        cell = torch.cat([slab[:2], torch.tensor([third], dtype=slab.dtype)])
        check(sk.neighbor_list(r, 3.3, cell=cell, pbc=(True, True, False)), expected)


def test_structures_without_atoms_at_the_end_are_counted_from_cell_and_pbc() -> None:
    r, batch = torch.rand((3, 3)), torch.tensor([0, 0, 1])
    assert sk.neighbor_list(r, 2.0, batch=batch).num_structures == 2
    assert sk.neighbor_list(r, 2.0, batch=batch, cell=9 * torch.eye(3).expand(4, 3, 3)).num_structures == 4
    pbc = torch.ones((5, 3), dtype=torch.bool)
    assert sk.neighbor_list(r, 2.0, batch=batch, cell=9 * torch.eye(3), pbc=pbc).num_structures == 5


def test_sort_batch() -> None:
    batch = torch.tensor([7, 2, 7, 2, 40])
    order, renumbered = sk.sort_batch(batch)
    assert order.tolist() == [1, 3, 0, 2, 4]
    assert renumbered.tolist() == [0, 0, 1, 1, 2]
    r = torch.rand((5, 3))
    assert sk.neighbor_list(r[order], 9.0, batch=renumbered).num_edges == 4
    with pytest.raises(ValueError, match=r"batch must be int64 of shape \(N,\)"):
        sk.sort_batch(torch.zeros(3))


# ---- real systems


@pytest.mark.parametrize(("dtype", "cutoff"), [(torch.float32, 3.1417), (torch.float64, 4.2713)], ids=["fp32", "fp64"])
def test_crystals(data: Path, dtype: torch.dtype, cutoff: float) -> None:
    """469 crystals of 222 space groups as one batch, against ASE and vesin."""
    file = np.load(data / "crystals_spglib.npz")
    ptr = torch.from_numpy(file["ptr"])
    r, cell = torch.from_numpy(file["pos"]).to(dtype), torch.from_numpy(file["cell"]).to(dtype)
    nb = sk.neighbor_list(r, cutoff, ptr=ptr, cell=cell)
    expected = []
    for b, (begin, end) in enumerate(zip(ptr[:-1].tolist(), ptr[1:].tolist(), strict=True)):
        by_vesin = peers.by_vesin(r[begin:end], cutoff, cell[b], True)
        if b % 4 == 0:
            np.testing.assert_array_equal(by_vesin, peers.by_ase(r[begin:end], cutoff, cell[b], True, margin=1e-9))
        expected.append(peers.offset(by_vesin, begin))
    check(nb, np.concatenate(expected))


LARGE = ["large_water_16080", "large_ala2_water_6787", "large_dhfr_23558", "large_dppc_28160", "large_truncoct_5827"]


@pytest.mark.parametrize("name", [*LARGE, "protein_bpti"])
def test_large_systems(data: Path, name: str) -> None:
    """Against vesin in full, and against ASE on the first 1500 atoms."""
    file = np.load(data / f"{name}.npz")
    r, cell, pbc = torch.from_numpy(file["pos"]), torch.from_numpy(file["cell"]), torch.from_numpy(file["pbc"])
    cutoff = 5.0371
    part = r[:1500]
    check(sk.neighbor_list(part, cutoff, cell=cell.float(), pbc=pbc), peers.by_ase(part, cutoff, cell.float(), pbc))
    by_vesin = peers.by_vesin(r, cutoff, cell.float(), pbc.tolist())
    for dtype in (torch.float32, torch.float64):
        nb = sk.neighbor_list(r.to(dtype), cutoff, cell=cell.float().to(dtype), pbc=pbc)
        check(nb, by_vesin)


def test_atoms_object_and_tensors_agree() -> None:
    atoms: Atoms = bulk("NaCl", "rocksalt", a=5.64) * (2, 2, 2)
    atoms.rattle(0.1, seed=1)
    from symkern import host

    check(host.neighbor_list(atoms, 4.1), peers.by_ase(atoms.positions, 4.1, atoms.cell, True))
