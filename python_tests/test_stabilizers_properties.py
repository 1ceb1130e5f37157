"""What holds for every molecule: group axioms, orbits, invariance, and the decomposition into orbits."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import point_groups as pg
import pytest
import torch
from ase.collections import g2
from hypothesis import given, settings
from hypothesis import strategies as st
from stabilizer_tools import Found, by_definition, find, find_all, images, isometries

import symkern as sk


def molecules() -> list[tuple[Any, Any]]:
    """Real, ideal and constructed ones, at most 40 atoms."""
    real = [(g2[name].positions, g2[name].numbers) for name in g2.names]
    made = (*pg.ideal_molecules(), *pg.all_constructed())
    return real + [(s.positions, s.numbers) for s in made if len(s.numbers) <= 40]


MOLECULES = molecules()
seeds = st.integers(0, 2**32 - 1)
choices = st.integers(0, len(MOLECULES) - 1)


@pytest.fixture(scope="module")
def everything() -> list[Found]:
    return find_all(MOLECULES)


def partition(orbits: Any) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(orbits == k).tolist()) for k in set(orbits.tolist())}


# ---- one operation, and all together ---------------------------------------------------------------------------------


def test_group_axioms(everything: list[Found]) -> None:
    """Identity first, closed, inverses, and matrices that multiply like their permutations."""
    for found in everything:
        keys = found.keys
        number = {key: k for k, key in enumerate(keys)}
        assert len(number) == len(keys)
        assert keys[0] == (tuple(range(len(found.centered))), 1)
        np.testing.assert_allclose(found.operations[0], np.eye(3), atol=1e-12)
        assert keys == sorted(keys, key=lambda k: (-k[1], k[0]))
        orthogonal = found.operations @ found.operations.transpose(0, 2, 1)
        np.testing.assert_allclose(orthogonal, np.broadcast_to(np.eye(3), orthogonal.shape), atol=1e-12)
        assert found.order in (0, len(keys))
        slack = 1e-12 + 12 * found.residuals.max() / max(np.linalg.norm(found.centered, axis=1).max(), 1e-3)
        assert (found.order == 0) == (found.rank < 2)
        table = np.array([[number[tuple(p[i] for i in q), d * e] for q, e in keys] for p, d in keys])
        assert all(sorted(row) == list(range(len(keys))) for row in (*table, *table.T))  # so each has an inverse
        products = np.einsum("aij,bjk->abik", found.operations, found.operations)
        assert np.abs(products - found.operations[table]).max() < slack


def test_operations_do_what_they_say(everything: list[Found]) -> None:
    for (_, numbers), found in zip(MOLECULES, everything, strict=True):
        turned = np.einsum("gij,nj->gni", found.operations, found.centered)
        for image, p, residual in zip(turned, found.permutations, found.residuals, strict=True):
            np.testing.assert_array_equal(np.asarray(numbers)[p], numbers)
            left = np.linalg.norm(image - found.centered[p], axis=1).max()
            assert residual == pytest.approx(left, abs=1e-10)
        assert found.residuals.max() <= 0.01
        assert 0 <= found.margin <= 0.01


def test_orbits_and_site_groups(everything: list[Found]) -> None:
    """|G| = |orbit| |site group| for each atom; an orbit is what permutations connect, named by its first atom."""
    for found in everything:
        size = len(found.operations)
        for i, name in enumerate(found.orbits):
            orbit = set(found.permutations[:, i].tolist())
            assert orbit == set(np.flatnonzero(found.orbits == name).tolist())
            assert name == min(orbit)
            assert len(orbit) * (found.permutations[:, i] == i).sum() == size


def test_margin_is_the_distance_to_the_next_answer(everything: list[Found]) -> None:
    """Any tolerance nearer than the margin gives the same operations."""
    for (r, z), found in itertools.islice(zip(MOLECULES, everything, strict=True), 0, None, 7):
        for factor in (-0.9, 0.9):
            tolerance = 0.01 + factor * found.margin
            other = find(r, z, tolerance=tolerance)
            assert (other.label, other.keys) == (found.label, found.keys)


# ---- Proposition 4.1 of the SANN paper -------------------------------------------------------------------------------


def test_the_group_is_the_intersection_over_orbits(everything: list[Found]) -> None:
    """Sym(M) = intersection of Sym(orbit), all about the molecule's centroid.

    The intersection is enumerated without the op: an isometry is fixed, up to a mirror, by the images of two atoms that
    are not on a line with the centroid, and those stay in their orbits. So orbits of one atom or on a line, whose own
    groups are infinite, need no special treatment.
    """
    slack = 0.02
    tried = 0
    for found in everything:
        x = found.centered
        if found.rank < 2 or found.ambiguous or found.residuals.max() > 1e-3:
            continue
        orbits = [np.flatnonzero(found.orbits == k) for k in sorted(set(found.orbits.tolist()))]
        off_center = [o for o in orbits if np.linalg.norm(x[o[0]]) > 0.5]
        off_center.sort(key=len)
        if not off_center:
            continue

        def spread(pair: Any, x: Any = x) -> float:
            a = x[pair[0][0]]
            return max(float(np.linalg.norm(np.cross(a, x[k]))) for k in pair[1])

        first, second = max(itertools.product(off_center, off_center), key=spread)
        kept = [
            m for m in isometries(x, first, second, 1e-3) if all(images(m, x[orbit], slack / 2) for orbit in orbits)
        ]
        different = [m for k, m in enumerate(kept) if all(np.abs(m - n).max() > 0.05 for n in kept[:k])]
        assert len(different) == len(found.operations), found.label
        for m in different:
            assert np.abs(found.operations - m).max((1, 2)).min() < 0.05
        tried += 1
    assert tried > 200


def test_an_orbit_alone_may_have_more_symmetry() -> None:
    """So the intersection is needed: the hydrogens of eclipsed ethane are a prism, the carbons a line, both are D3h or
    more; cis-trans pairs of one element make orbits of D2h in a molecule of C2h."""
    structure = next(s for s in pg.ideal_molecules() if s.name == "trans-C2H2Cl2")
    found = find(structure.positions, structure.numbers)
    parts = [find(structure.positions[structure.numbers == z], [z, z]).label for z in (1, 6, 17)]
    assert (found.label, parts) == ("C2h", ["Dinfh"] * 3)


# ---- invariance ------------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(choice=choices, seed=seeds, det=st.sampled_from([-1, 1]), shift=st.floats(-30, 30))
def test_moving_a_molecule_moves_its_operations(choice: int, seed: int, det: int, shift: float) -> None:
    """Rotation, reflection and translation: the same permutations in the same order, and Q R Q^T."""
    r, z = MOLECULES[choice]
    q = pg.random_orthogonal(np.random.default_rng(seed), det)
    before, after = find(r, z), find(pg.moved(r, q, [shift, -shift, 1.0]), z)
    if before.margin < 1e-7:
        return  # rounding may decide either way
    assert (before.label, before.order, before.keys) == (after.label, after.order, after.keys)
    np.testing.assert_array_equal(before.orbits, after.orbits)
    np.testing.assert_allclose(q @ before.operations @ q.T, after.operations, atol=1e-9)
    np.testing.assert_allclose(before.residuals, after.residuals, atol=1e-10)
    assert before.margin == pytest.approx(after.margin, abs=1e-9)


@settings(max_examples=150)
@given(choice=choices, seed=seeds)
def test_atom_order_only_renames(choice: int, seed: int) -> None:
    r, z = MOLECULES[choice]
    order = np.random.default_rng(seed).permutation(len(z))  # new atom k is old atom order[k]
    before, after = find(r, z), find(r[order], np.asarray(z)[order])
    if before.margin < 1e-7:
        return
    assert (before.label, before.order, before.rank) == (after.label, after.order, after.rank)
    renamed = {(tuple(order[list(p)][np.argsort(order)].tolist()), d) for p, d in after.keys}
    assert renamed == set(before.keys)
    old = {frozenset(order[list(orbit)].tolist()) for orbit in partition(after.orbits)}
    assert old == partition(before.orbits)
    assert before.margin == pytest.approx(after.margin, abs=1e-9)


@settings(max_examples=50)
@given(seed=seeds, count=st.integers(3, 9), species=st.integers(1, 3), radius=st.sampled_from([0.002, 0.02, 0.08]))
def test_near_symmetric_points(seed: int, count: int, species: int, radius: float) -> None:
    """Distorted polygons and prisms: whatever is returned by default is a group within the tolerance."""
    random = np.random.default_rng(seed)
    r = pg.ring(count, 1.5)
    if seed % 2:
        r = np.concatenate([r + 0.7 * pg.Z, r - 0.7 * pg.Z])
    r = r + pg.noise(len(r), radius, random)
    z = 6 + np.arange(len(r)) % species
    found = find(r, z, tolerance=0.03)
    keys = set(found.keys)
    assert {(tuple(p[i] for i in q), d * e) for p, d in keys for q, e in keys} == keys
    assert found.residuals.max() <= 0.03
    everything = find(r, z, tolerance=0.03, policy="raw")
    assert keys <= set(everything.keys)
    assert found.closed == everything.closed
    assert found.closed == (len(keys) == len(everything.keys))


@settings(max_examples=200)
@given(
    seed=seeds,
    count=st.integers(3, 6),
    species=st.integers(1, 2),
    noisy=st.floats(0, 1.2),
    tolerance=st.sampled_from([0.003, 0.03, 0.1]),
    squeeze=st.sampled_from([(1, 1, 1), (1, 1, 0.05), (0.1, 0.1, 1), (0.05, 0.02, 1)]),
)
def test_nothing_is_missed(
    seed: int, count: int, species: int, noisy: float, tolerance: float, squeeze: tuple[float, float, float]
) -> None:
    """Distorted polygons, prisms and nearly flat or straight sets beside the definition over all permutations.

    Complete where atoms of one species are at least four times the tolerance apart: then an atom is nearest to its
    image even if a first guess is off by the tolerance.
    """
    random = np.random.default_rng(seed)
    half = pg.ring(count // 2, 1.5, 0.9) if count > 4 else pg.ring(count, 1.5)
    r = np.concatenate([half, -half]) if count > 4 else half
    if seed % 3 == 0:
        r = np.concatenate([r, [(seed % 2) * pg.Z]])
    r = r * squeeze + pg.noise(len(r), noisy * tolerance, random)
    r = pg.moved(r, pg.random_orthogonal(random), random.normal(size=3))
    z = 6 + random.integers(0, species, len(r))
    distances = np.linalg.norm(r[:, None] - r, axis=-1) + 99 * (np.eye(len(r)) + (z[:, None] != z))
    found = find(r, z, tolerance=tolerance, policy="raw")
    assert found.ambiguous == (distances.min() < 2 * tolerance)
    if found.rank < 2 or found.margin < 1e-9 or distances.min() < 4 * tolerance:
        return
    residuals = by_definition(r, z)
    assert set(found.keys) == {key for key, residual in residuals.items() if residual <= tolerance}
    assert min(abs(v - tolerance) for v in residuals.values()) >= found.margin - 1e-9


@settings(max_examples=30)
@given(seed=seeds, count=st.integers(0, 12))
def test_random_points_have_no_symmetry(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    r, z = random.normal(size=(count, 3)) * 3, random.integers(1, 10, count)
    found = find(r, z, tolerance=1e-5)
    if count < 3:
        expected = ["Kh", "Kh", "Dinfh" if len(set(z.tolist())) == 1 else "Cinfv"][count]
    else:
        expected = "Cs" if count == 3 else "C1"
    assert found.label == expected


# ---- fixed results ---------------------------------------------------------------------------------------------------


def test_same_bits_for_any_number_of_threads() -> None:
    positions = torch.tensor(np.concatenate([r for r, _ in MOLECULES]))
    numbers = torch.tensor(np.concatenate([z for _, z in MOLECULES]), dtype=torch.int64)
    ptr = torch.tensor([0, *np.cumsum([len(z) for _, z in MOLECULES]).tolist()])
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(sk.stabilizers(positions, numbers, ptr=ptr))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for name in ("operations", "permutations", "residuals", "orbits", "group", "margin", "centroid", "axis"):
            assert torch.equal(getattr(results[0], name), getattr(other, name)), name


def test_far_from_the_origin() -> None:
    """A hundred Å away in single precision positions are rounded to 8e-6 Å, which the default forgives."""
    batch = [(np.asarray(r) + 100.0, z) for r, z in MOLECULES]
    for near, far in zip(find_all(MOLECULES), find_all(batch, torch.float32), strict=True):
        if near.margin > 1e-4:
            assert (near.label, near.order) == (far.label, far.order)
