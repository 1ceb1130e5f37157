"""Stabilizers of named molecules: labels that three programs agree on, ideal geometries, near misses, odd input."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import point_groups as pg
import pytest
import torch
from ase.build import molecule
from ase.collections import g2
from point_groups import Structure, ideal_molecules
from stabilizer_tools import Found, find, find_all, separate

import symkern as sk
from symkern import host

G2 = json.loads((Path(__file__).parent / "vectors" / "point_groups_g2.json").read_text())
BY_NAME = {s.name: s for s in ideal_molecules()}
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])


def g2_molecules() -> list[tuple[Any, Any]]:
    return [(g2[name].positions, g2[name].numbers) for name in G2["labels"]]


@each_dtype
def test_g2(dtype: torch.dtype) -> None:
    """162 of 162, as the majority of pymsym, pymatgen and MolSym says (see vectors/make_point_groups.py)."""
    assert len(G2["labels"]) == 162
    found = dict(zip(G2["labels"], find_all(g2_molecules(), dtype), strict=True))
    assert {name: f.label for name, f in found.items()} == G2["labels"]
    assert all(f.closed and not f.ambiguous for f in found.values())


def test_programs_that_lost_the_vote_are_the_known_ones() -> None:
    assert set(G2["different"]) == {"COF2", "C4H4NH", "CH3S"}
    assert {who for lost in G2["different"].values() for who in lost} == {"pymatgen"}


@pytest.mark.parametrize("structure", ideal_molecules(), ids=str)
def test_ideal_molecule(structure: Structure) -> None:
    """In a random orientation and atom order, both dtypes."""
    random = np.random.default_rng(3)
    order = random.permutation(len(structure.numbers))
    r = pg.moved(structure.positions, pg.random_orthogonal(random), random.normal(size=3))[order]
    for dtype, rounding in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        found = find(r, structure.numbers[order], dtype)
        assert (found.label, found.order, found.closed) == (structure.label, structure.order, True)
        assert found.residuals.max() < rounding
        assert not found.ambiguous


# ---- near misses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "label"), [("COF2", "C2v"), ("C4H4NH", "C2v"), ("CH3S", "Cs"), ("C60", "Ih"), ("C6H6", "D6h")]
)
def test_where_programs_go_wrong(name: str, label: str) -> None:
    atoms = molecule(name)
    assert find(atoms.positions, atoms.numbers).label == label


def test_c60_of_ase_is_icosahedral_only_to_its_rounding() -> None:
    atoms = molecule("C60")
    assert find(atoms.positions, atoms.numbers, tolerance=0.01).order == 120
    tight = find(atoms.positions, atoms.numbers, tolerance=1e-4)
    assert tight.order < 120
    assert tight.closed


def test_ferrocene_is_not_fooled_by_a_small_twist() -> None:
    """Turned by an angle: exact at the ends, D5 between, and the ends within the tolerance of the hydrogens' radius."""
    eclipsed = BY_NAME["ferrocene D5h"]
    upper = eclipsed.positions[:, 2] > 0.5

    def turned(degrees: float) -> Found:
        r = eclipsed.positions.copy()
        r[upper] = r[upper] @ pg.rotation(pg.Z, np.deg2rad(degrees)).T
        return find(r, eclipsed.numbers)

    assert [turned(d).label for d in (0, 0.1, 5, 30, 36, 41, 72)] == ["D5h", "D5h", "D5", "D5", "D5d", "D5", "D5h"]


@pytest.mark.parametrize("seed", range(5))
def test_benzene_with_noise(seed: int) -> None:
    """0.01 Å of noise: no symmetry, or little, at the default; all of it at three times the noise, as D6h."""
    structure = BY_NAME["benzene"]
    r = structure.positions + pg.noise(12, 0.01, np.random.default_rng(seed))
    assert find(r, structure.numbers, tolerance=0.03).label == "D6h"
    assert find(r, structure.numbers, tolerance=1e-4).label == "C1"
    default = find(r, structure.numbers)
    assert default.order < 24
    assert 24 % default.order == 0  # a subgroup


@pytest.mark.parametrize(("factor", "least"), [(2.0, 0.9), (2.5, 0.98), (4.0, 0.99), (6.0, 0.99)])
def test_tolerance_over_noise(factor: float, least: float) -> None:
    """How often the right label comes back when every atom is displaced by up to 0.002 Å."""
    eta = 0.002
    random = np.random.default_rng(11)
    names = [name for name, label in G2["labels"].items() if label not in ("Kh", "C1")]
    noisy = []
    for name in names:
        noisy.append((exact(name) + pg.noise(len(g2[name]), eta, random), g2[name].numbers))
    found = find_all(noisy, tolerance=factor * eta)
    right = np.mean([f.label == G2["labels"][name] for name, f in zip(names, found, strict=True)])
    assert right >= least, right


def exact(name: str) -> Any:
    """A G2 molecule without the rounding of its coordinates: the mean of its images under its own operations."""
    atoms = g2[name]
    found = find(atoms.positions, atoms.numbers)
    back = np.einsum("gji,gnj->gni", found.operations, found.centered[found.permutations])
    return back.mean(0)


def test_tolerance_between_two_groups() -> None:
    """Methane with one bond longer by 0.03 Å is C3v until the tolerance forgives it; `margin` tells how far it is."""
    structure = BY_NAME["methane"]
    r = structure.positions.copy()
    r[1] *= 1 + 0.03 / np.linalg.norm(r[1])
    low, high = (find(r, structure.numbers, tolerance=t) for t in (0.005, 0.05))
    assert (low.label, high.label) == ("C3v", "Td")
    edge = 0.05 - high.margin
    assert 0.005 < edge < 0.05
    assert find(r, structure.numbers, tolerance=edge * (1 - 1e-6)).order < 24
    assert find(r, structure.numbers, tolerance=edge * (1 + 1e-6)).order == 24


# ---- operations that form no group -----------------------------------------------------------------------------------


def almost_hexagon() -> tuple[Any, Any]:
    """A ring of six whose atoms drift: neighbors match within the tolerance, opposite ones do not."""
    random = np.random.default_rng(8)
    return BY_NAME["benzene"].positions + pg.noise(12, 0.01, random), BY_NAME["benzene"].numbers


def not_closed() -> tuple[Any, Any, float]:
    r, z = almost_hexagon()
    for tolerance in np.linspace(0.008, 0.025, 35):
        if not find(r, z, tolerance=float(tolerance)).closed:
            return r, z, float(tolerance)
    raise AssertionError("every tolerance gives a group")


def test_policies() -> None:
    r, z, tolerance = not_closed()
    closed, raw, made = (find(r, z, tolerance=tolerance, policy=p) for p in ("closed", "raw", "generate"))
    assert not closed.closed
    assert not raw.closed
    assert not made.closed
    assert set(closed.keys) < set(raw.keys) < set(made.keys)
    for found in (closed, made):
        keys = set(found.keys)
        products = {(tuple(p[i] for i in q), d * e) for p, d in keys for q, e in keys}
        assert products == keys
    assert raw.residuals.max() <= tolerance
    assert made.residuals.max() > tolerance
    assert made.order == len(made.keys)


def test_policy_without_a_choice() -> None:
    results = [find(BY_NAME["SF6"].positions, BY_NAME["SF6"].numbers, policy=p) for p in ("closed", "raw", "generate")]
    assert len({tuple(f.keys) for f in results}) == 1
    assert all(f.closed for f in results)


# ---- lines, points, nothing ------------------------------------------------------------------------------------------


def test_no_molecules_and_empty_ones() -> None:
    empty = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
    none = sk.stabilizers(*empty, ptr=torch.tensor([0]))
    assert none.labels == []
    assert none.op_ptr.tolist() == [0]
    sym = sk.stabilizers(torch.eye(3)[:1], torch.tensor([6]), ptr=torch.tensor([0, 0, 1, 1]))
    assert sym.labels == ["Kh"] * 3
    assert sym.order.tolist() == sym.rank.tolist() == [0, 0, 0]
    assert sym.op_ptr.tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(sym.operations, torch.eye(3).expand(3, 3, 3))
    assert sym.permutations.tolist() == [0]


@pytest.mark.parametrize(("name", "ends"), [("HCl", 1), ("HCN", 1), ("CO2", 2), ("acetylene", 2), ("N2", 2)])
def test_linear(name: str, ends: int) -> None:
    structure = BY_NAME[name]
    q = pg.random_orthogonal(np.random.default_rng(1))
    found = find(pg.moved(structure.positions, q, 1.0), structure.numbers)
    assert (found.rank, found.order, len(found.operations)) == (1, 0, ends)
    np.testing.assert_allclose(found.operations, [np.eye(3), -np.eye(3)][:ends], atol=1e-12)
    along = structure.positions[1] - structure.positions[0]
    assert abs(found.axis @ q @ along) == pytest.approx(np.linalg.norm(along))
    assert len(set(found.orbits)) == -(-len(structure.numbers) // ends)


@pytest.mark.parametrize("samples", [1, 2, 5])
@pytest.mark.parametrize(("name", "ends"), [("HCl", 1), ("CO2", 2)])
def test_samples_about_an_axis(name: str, ends: int, samples: int) -> None:
    """n rotations and n mirror planes, with inversion twice as many: a finite group that keeps the molecule."""
    found = find(BY_NAME[name].positions, BY_NAME[name].numbers, samples=samples)
    matrices = found.operations
    assert len(matrices) == 2 * samples * ends
    assert found.order == 0
    np.testing.assert_allclose(
        matrices @ matrices.transpose(0, 2, 1), np.broadcast_to(np.eye(3), matrices.shape), atol=1e-12
    )
    products = (matrices[:, None] @ matrices[None]).reshape(-1, 9)
    assert np.abs(products[:, None] - matrices.reshape(-1, 9)).max(2).min(1).max() < 1e-12
    assert np.abs(matrices[:, None] - matrices + np.eye(len(matrices))[..., None, None]).max((2, 3)).min() > 1e-3
    for matrix, p in zip(matrices, found.permutations, strict=True):
        np.testing.assert_allclose(found.centered @ matrix.T, found.centered[p], atol=1e-12)


def test_two_atoms_apart_by_less_than_the_tolerance_are_a_point() -> None:
    r = np.array([[0, 0, 0], [0, 0, 0.01]])
    assert find(r, [6, 6], tolerance=0.006).label == "Kh"
    assert find(r, [6, 6], tolerance=0.001).label == "Dinfh"


def test_line_within_the_tolerance() -> None:
    bent = np.array([[0, 0, -1.16], [0.012, 0, 0], [0, 0, 1.16]])  # 0.006 Å off the best axis, roughly
    assert [find(bent, [8, 6, 8], tolerance=t).label for t in (0.02, 1e-3)] == ["Dinfh", "C2v"]


# ---- large -----------------------------------------------------------------------------------------------------------


def test_cube_of_a_thousand() -> None:
    structure = pg.cubic_cluster()
    found = find(structure.positions, structure.numbers)
    assert (found.label, found.order) == ("Oh", 48)
    assert found.residuals.max() < 1e-10
    # one orbit for each 0 <= i <= j <= k of the five distances from the central planes
    assert len(set(found.orbits)) == 35


def test_thousand_points_on_a_sphere() -> None:
    """All radii equal, so nothing but distances tells the points apart; turning it upside down is its symmetry."""
    r = pg.sphere(1000)
    found = find(r, np.full(1000, 6), tolerance=1e-3)
    assert (found.label, found.order) == ("C2", 2)
    assert find(r, 1 + np.arange(1000) % 90, tolerance=1e-3).label == "C1"


def test_more_operations_than_the_cap() -> None:
    """Points on a fine ring, all within the tolerance of each other's images: an error, not an endless search."""
    ring = pg.ring(10_000, 5.0)
    with pytest.raises((ValueError, RuntimeError), match="tolerance is too large"):
        find(ring, np.full(len(ring), 6), tolerance=0.3)


# ---- input that is wrong ---------------------------------------------------------------------------------------------

R, Z = torch.tensor([[0.0, 0, 0], [0, 0.76, 0.59], [0, -0.76, 0.59]]), torch.tensor([8, 1, 1])


@pytest.mark.parametrize("tolerance", [0.0, -0.01, float("nan"), float("inf")])
def test_bad_tolerance(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance must be"):
        sk.stabilizers(R, Z, tolerance=tolerance)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_positions_that_are_not_finite(value: float) -> None:
    r = R.clone()
    r[1, 2] = value
    with pytest.raises((ValueError, RuntimeError), match="positions must be finite"):
        sk.stabilizers(r, Z)


@pytest.mark.parametrize("number", [0, -1])
def test_atomic_number_out_of_range(number: int) -> None:
    with pytest.raises((ValueError, RuntimeError), match="numbers"):
        sk.stabilizers(R, torch.tensor([8, number, 1]))


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"positions": R[:, :2]}, "positions"),
        ({"positions": R.long()}, "positions"),
        ({"numbers": Z[:2]}, "numbers"),
        ({"numbers": Z.float()}, "numbers"),
        ({"policy": "open"}, "policy"),
        ({"samples": -1}, "samples"),
        ({"ptr": torch.tensor([0, 2])}, "ptr"),
        ({"batch": torch.tensor([1, 0, 0])}, "batch"),
        ({"batch": torch.zeros(3, dtype=torch.int64), "ptr": torch.tensor([0, 3])}, "batch"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(change: dict[str, Any], argument: str) -> None:
    given = {"positions": R, "numbers": Z} | change
    with pytest.raises((ValueError, RuntimeError, TypeError), match=argument):
        sk.stabilizers(given.pop("positions"), given.pop("numbers"), **given)


def test_ambiguous() -> None:
    """Two atoms of one species within twice the tolerance, coincident ones at any tolerance; species do not mix."""
    r = np.array([[0, 0, 0], [1.0, 0, 0], [0, 1.3, 0], [0, 0, 1.7], [0, 0, 1.75]])
    assert [find(r, [6] * 5, tolerance=t).ambiguous for t in (0.024, 0.026)] == [False, True]
    assert not find(r, [6, 6, 6, 6, 7], tolerance=0.026).ambiguous
    r[4] = r[3]
    coincident = find(r, [6] * 5, tolerance=1e-6)
    assert coincident.ambiguous
    assert coincident.order >= 1


def test_gradients_do_not_flow() -> None:
    r = R.double().requires_grad_()
    sym = sk.stabilizers(r, Z)
    for field in (sym.operations, sym.residuals, sym.centroid, sym.axis, sym.margin, sym.positions):
        assert not field.requires_grad


# ---- the same elsewhere ----------------------------------------------------------------------------------------------


def test_host_gives_the_same() -> None:
    """NumPy in, NumPy out: `symkern.host.point_group` on the molecules of G2 and the ideal ones."""
    molecules = g2_molecules() + [(s.positions, s.numbers) for s in ideal_molecules()]
    for (r, z), found in zip(molecules, find_all(molecules), strict=True):
        group = host.point_group(r, z)
        assert (group.label, group.order) == (found.label, found.order)
        np.testing.assert_array_equal(group.permutations, found.permutations)
        np.testing.assert_array_equal(group.operations, found.operations)
        np.testing.assert_array_equal(group.orbits, found.orbits)


def test_host_takes_atoms_and_batches() -> None:
    molecules = g2_molecules()
    ptr = np.array([0, *np.cumsum([len(z) for _, z in molecules])])
    r, z = (np.concatenate(parts) for parts in zip(*molecules, strict=True))
    together = host.point_groups(r, z, ptr=ptr, threads=2)
    for name, group in zip(G2["labels"], together, strict=True):
        one = host.point_group(g2[name])
        assert one.label == group.label == G2["labels"][name]
        np.testing.assert_array_equal(one.operations, group.operations)
        np.testing.assert_array_equal(one.permutations, group.permutations)


@pytest.mark.parametrize(
    "change", [{"tolerance": 0.0}, {"policy": "open"}, {"numbers": [8, 0, 1]}, {"positions": [[0.0]]}]
)
def test_host_refuses_bad_input(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        host.point_group(**({"positions": R.numpy(), "numbers": Z.numpy()} | change))


def test_batch_is_the_molecules_one_by_one() -> None:
    molecules = g2_molecules()
    for one, together in zip((find(*m) for m in molecules), find_all(molecules), strict=True):
        assert one.label == together.label
        np.testing.assert_array_equal(one.operations, together.operations)
        np.testing.assert_array_equal(one.permutations, together.permutations)
        np.testing.assert_array_equal(one.orbits, together.orbits)
        assert one.margin == together.margin


@pytest.mark.cuda
@each_dtype
def test_cuda_gives_the_same(dtype: torch.dtype) -> None:
    molecules = g2_molecules() + [(s.positions, s.numbers) for s in ideal_molecules()]
    positions = torch.tensor(np.concatenate([r for r, _ in molecules]), dtype=dtype)
    numbers = torch.tensor(np.concatenate([z for _, z in molecules]))
    ptr = torch.tensor([0, *np.cumsum([len(z) for _, z in molecules]).tolist()])
    here = sk.stabilizers(positions, numbers, ptr=ptr)
    there = sk.stabilizers(positions.cuda(), numbers.cuda(), ptr=ptr.cuda())
    for name in ("op_ptr", "permutations", "perm_ptr", "orbits", "order", "group", "rank", "closed", "ambiguous"):
        assert torch.equal(getattr(here, name), getattr(there, name).cpu()), name
    rounding = 1e-5 if dtype == torch.float32 else 1e-10
    for name in ("operations", "residuals", "centroid", "axis", "margin"):
        torch.testing.assert_close(getattr(here, name), getattr(there, name).cpu(), atol=rounding, rtol=0)
    assert all(f.label == g for f, g in zip(separate(there), here.labels, strict=True))


def test_one_molecule_of_a_batch() -> None:
    structures = [molecule(name) for name in ("CH4", "CO2", "H2O", "H", "C6H6")]
    sym = sk.transforms.from_ase(structures)
    assert len(sym) == len(list(sym)) == 5
    for b, (atoms, one) in enumerate(zip(structures, sym, strict=True)):
        expected = sk.transforms.from_ase(atoms)
        for field in fields(expected):
            found, wanted = getattr(one, field.name), getattr(expected, field.name)
            assert torch.equal(found, wanted) if isinstance(wanted, torch.Tensor) else found == wanted, (b, field.name)
    assert sym[-1].labels == ["D6h"]
    with pytest.raises(IndexError, match=r"index must be -5 \.\. 4, got 5"):
        sym[5]


def test_host_takes_lists_of_atoms() -> None:
    structures = [molecule(name) for name in ("CH4", "H2O", "C6H6")]
    assert [g.label for g in host.point_groups(structures, tolerance=0.02)] == ["Td", "C2v", "D6h"]
    with pytest.raises(ValueError, match="positions are Atoms objects, which bring their own numbers"):
        host.point_groups(structures, structures[0].numbers)
    with pytest.raises(ValueError, match=r"brings its own numbers.*did you mean tolerance=0\.1\?"):
        host.point_group(structures[0], 0.1)
