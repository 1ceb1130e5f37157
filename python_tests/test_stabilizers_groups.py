"""Stabilizers of structures built from matrix groups, and the definition applied to every permutation."""

from __future__ import annotations

import numpy as np
import point_groups as pg
import pytest
import torch
from ase.build import molecule
from ase.collections import g2
from point_groups import ORDERS, Structure, all_constructed
from stabilizer_tools import Found, by_definition, find, find_all, kabsch, number_of_permutations

LABELS = tuple(ORDERS)


def test_the_groups_themselves() -> None:
    assert len(ORDERS) == 57
    for label, order in ORDERS.items():
        matrices = pg.group(label)
        assert len(matrices) == order, label
        assert np.abs(matrices @ matrices.transpose(0, 2, 1) - np.eye(3)).max() < 1e-12
        expected = order if label[0] in "CDTOI" and label[-1] not in "hvdis" else order / 2
        assert (np.linalg.det(matrices) > 0).sum() == expected, label


def of(label: str) -> list[Structure]:
    return [s for s in all_constructed() if s.label == label]


def equal_sets(found: Found, structure: Structure, q: np.ndarray, atol: float) -> None:
    """Every generating matrix is found, turned by q, once, with the permutation it makes of the atoms."""
    assert structure.operations is not None
    wanted = q @ structure.operations @ q.T
    distance = np.abs(found.operations[:, None] - wanted).max((2, 3))
    assert distance.min(1).max() < atol
    assert distance.min(0).max() < atol
    assert len(found.operations) == len(wanted)
    images = np.einsum("gij,nj->gni", wanted[distance.argmin(1)], found.centered)
    nearest = np.linalg.norm(images[:, :, None] - found.centered, axis=-1).argmin(2)
    np.testing.assert_array_equal(found.permutations, nearest)


@pytest.mark.parametrize("label", LABELS)
def test_constructed(label: str) -> None:
    """Label, order, matrices, permutations and residuals, in a random orientation and atom order."""
    random = np.random.default_rng(5)
    for structure in of(label):
        q = pg.random_orthogonal(random, random.choice([-1, 1]))
        order = random.permutation(len(structure.numbers))
        r, z = pg.moved(structure.positions, q, random.normal(size=3))[order], structure.numbers[order]
        found = find(r, z)
        assert (found.label, found.order, found.closed) == (label, structure.order, True), structure
        assert found.residuals.max() < 1e-12
        equal_sets(found, structure, q, 1e-12)


def test_constructed_in_single_precision() -> None:
    structures = all_constructed()
    batch = [(s.positions, s.numbers) for s in structures]
    for structure, found in zip(structures, find_all(batch, torch.float32), strict=True):
        assert (found.label, found.order) == (structure.label, structure.order), structure
        equal_sets(found, structure, np.eye(3), 1e-5)


def test_constructed_with_noise() -> None:
    """Displaced by 0.001 Å and searched at 0.005 Å."""
    random = np.random.default_rng(6)
    structures = all_constructed()
    batch = [(s.positions + pg.noise(len(s.numbers), 1e-3, random), s.numbers) for s in structures]
    for structure, found in zip(structures, find_all(batch, tolerance=0.005), strict=True):
        assert (found.label, found.order, found.closed) == (structure.label, structure.order, True), structure
        equal_sets(found, structure, np.eye(3), 0.01)


PAIRS = (
    "Oh:C4v Oh:C2h Oh:Td Oh:Th Oh:O Ih:I Ih:Th Ih:D2h Td:S4 Td:D2d O:D4 D6h:D3h D6h:D3d D6h:C3 D4d:S8 D8h:D4d D6d:S12"
)


@pytest.mark.parametrize("pair", PAIRS.split())
def test_a_subgroup_is_found_where_the_rest_is_broken(pair: str) -> None:
    """The larger group's orbit beside generic orbits of a smaller one, which alone decide."""
    large, part = pair.split(":")
    assert all(np.abs(pg.group(large) - m).max((1, 2)).min() < 1e-9 for m in pg.group(part))
    small = pg.constructed(part, 3, 1, seed=7)
    around = pg.orbit(pg.group(large), 1.3 * np.linalg.norm(small.positions, axis=1).max() * np.array([0.2, 0.3, 0.93]))
    r = np.concatenate([small.positions, around])
    z = np.concatenate([small.numbers, np.full(len(around), 9)])
    assert find(around, z[-len(around) :]).order >= len(pg.group(large))
    assert find(r, z).label == part


# ---- the definition, without any search ------------------------------------------------------------------------------

SMALL = [name for name in g2.names if len(g2[name]) > 2 and number_of_permutations(g2[name].numbers) <= 750]


@pytest.mark.parametrize("tolerance", [1e-4, 0.01, 0.06])
def test_every_permutation_of_small_molecules(tolerance: float) -> None:
    """All (permutation, det) with a residual within the tolerance are found, and no others; `margin` is theirs.

    Also for molecules displaced by as much as the tolerance, which keep some operations and lose others.
    """
    random = np.random.default_rng(9)
    assert len(SMALL) > 80
    batch = []
    for name in SMALL:
        r, z = g2[name].positions, g2[name].numbers
        batch += [(r, z), (r + pg.noise(len(r), tolerance, random), z)]
    partly = 0
    for (r, z), found in zip(batch, find_all(batch, tolerance=tolerance, policy="raw"), strict=True):
        if found.rank < 2 or found.ambiguous:
            continue
        residuals = by_definition(r, z)
        assert min(abs(v - tolerance) for v in residuals.values()) >= found.margin - 1e-9
        if found.margin < 1e-9:
            continue
        assert set(found.keys) == {key for key, residual in residuals.items() if residual <= tolerance}
        np.testing.assert_allclose(found.residuals, [residuals[key] for key in found.keys], atol=1e-8)
        partly += not found.closed
    assert partly > 0 or tolerance < 0.01


@pytest.mark.parametrize("name", ["C6H6", "C2H6", "bicyclobutane", "SiH4", "C60", "cyclobutane", "BF3", "ClF3"])
def test_matrices_and_residuals_by_scipy(name: str) -> None:
    atoms = molecule(name)
    found = find(atoms.positions, atoms.numbers)
    assert found.order > 1
    for matrix, p, residual in zip(found.operations, found.permutations, found.residuals, strict=True):
        best, left = kabsch(found.centered, p, int(np.sign(np.linalg.det(matrix))))
        np.testing.assert_allclose(matrix, best, atol=1e-6)
        assert residual == pytest.approx(left, abs=1e-9)
        assert residual <= 0.01
