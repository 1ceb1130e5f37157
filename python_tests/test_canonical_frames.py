"""Canonical frames: one form for a molecule however it lies, and there and back."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import point_groups
import pytest
import torch
from ase.build import molecule
from ase.collections import g2
from point_groups import Structure, moved, random_orthogonal
from scipy.optimize import linear_sum_assignment

import symkern as sk
from symkern.testing.frames import reference

WATER_X = [[0.0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]]
EXACT = 1e-5  # Å
IDEAL = [s for s in point_groups.ideal_molecules() if len(s.numbers) < 100]
CONSTRUCTED = [s for s in point_groups.all_constructed() if len(s.numbers) < 130]
HIGH = ("T", "Td", "Th", "O", "Oh", "I", "Ih", "D4h", "D6h", "D8h", "D8d", "C8h", "S12")


def distance(x: np.ndarray, y: np.ndarray, zx: np.ndarray, zy: np.ndarray) -> float:
    """Largest distance of atoms of equal species under the assignment with the smallest mean."""
    cost = np.linalg.norm(x[:, None] - y, axis=-1) + 1e6 * (zx[:, None] != zy)
    return float(cost[linear_sum_assignment(cost)].max(initial=0))


def spread(x: np.ndarray, z: np.ndarray, *, copies: int = 4, proper: bool = False, seed: int = 0, dtype=torch.float64):
    """How far the forms of random copies are from that of the molecule; also the canonical object."""
    random = np.random.default_rng(seed)
    turned, numbers = [x], [z]
    for copy in range(copies):
        order = random.permutation(len(x))
        q = random_orthogonal(random, -1 if copy % 2 and not proper else 1)
        turned.append(moved(x, q, 5 * random.normal(size=3))[order])
        numbers.append(z[order])
    positions = torch.from_numpy(np.concatenate(turned)).to(dtype)
    ptr = torch.arange(copies + 2) * len(x)
    found = sk.canonicalize(positions, torch.from_numpy(np.concatenate(numbers)), ptr=ptr, proper=proper)
    forms = found.positions.double().numpy().reshape(copies + 1, len(x), 3)
    identity = found.frames.mT @ found.frames - torch.eye(3, dtype=dtype)
    assert identity.abs().max() < (1e-12 if dtype == torch.float64 else 1e-6)
    if proper:
        assert (torch.linalg.det(found.frames) > 0).all()
    ranks = found.orbit_rank.numpy().reshape(copies + 1, -1)
    for k in range(copies):
        assert sorted(zip(z, ranks[0], strict=True)) == sorted(zip(numbers[k + 1], ranks[k + 1], strict=True))
    finite = found.gap[found.gap.isfinite()]
    assert len(finite) in (0, copies + 1)
    if dtype == torch.float64 and len(finite):
        assert finite.max() - finite.min() < 1e-10
    return max(distance(forms[0], form, z, w) for form, w in zip(forms[1:], numbers[1:], strict=True)), found


def atoms_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    atoms = molecule(name)
    return atoms.positions, atoms.numbers.astype(np.int64)


@pytest.mark.parametrize("proper", [False, True])
def test_g2(proper: bool) -> None:
    worst = {name: spread(*atoms_of(name), proper=proper)[0] for name in g2.names}
    assert len(worst) == 162
    assert max(worst.values()) < 1e-10, max(worst, key=worst.__getitem__)


@pytest.mark.parametrize("noise", [1e-8, 1e-4, 3e-3, 8e-3, 0.05])
def test_g2_with_noise(noise: float) -> None:
    """Below, near and above the tolerance: what is a symmetry may change, the form may not."""
    random = np.random.default_rng(1)
    for name in g2.names:
        x, z = atoms_of(name)
        # differences below the window decide nothing, and are seen
        assert spread(x + noise * random.normal(size=x.shape), z, copies=2)[0] < 1e-7, name


@pytest.mark.parametrize("proper", [False, True])
@pytest.mark.parametrize("structure", [*IDEAL, *CONSTRUCTED], ids=str)
def test_symmetric(structure: Structure, proper: bool) -> None:
    assert spread(structure.positions, structure.numbers, copies=3, proper=proper)[0] < 1e-9


@pytest.mark.parametrize("structure", [s for s in CONSTRUCTED if s.label in HIGH], ids=str)
def test_symmetric_within_the_tolerance(structure: Structure) -> None:
    """The raw positions choose among as many frames as there are operations."""
    shift = 1e-3 * np.random.default_rng(2).normal(size=structure.positions.shape)
    assert spread(structure.positions + shift, structure.numbers, copies=3)[0] < 1e-9


def test_third_moments_vanish_and_the_form_is_one() -> None:
    """What usual constructions decide signs by is zero in these."""
    for name in ("SF6", "cubane", "B12H12 2-", "dodecahedrane", "benzene", "XeF4"):
        structure = next(s for s in IDEAL if s.name == name)
        x = structure.positions - structure.positions.mean(0)
        assert np.abs(np.einsum("ni,nj,nk->ijk", x, x, x)).max() < 1e-10
        assert spread(x, structure.numbers, copies=6)[0] < 1e-10


def _clouds(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(9, 3))
    x[:4] *= 4 / np.linalg.norm(x[:4], axis=1)[:, None]
    x[4:] -= x.sum(0) / 5
    return x, np.full(9, 6)


@pytest.mark.parametrize("difference", [0.0, 1e-13, 1e-11, 1e-8, 1e-4])
def test_atoms_that_rank_alike(difference: float) -> None:
    """Four atoms of one radius without any symmetry: equal, nearly equal, or told apart by 1e-4 Å."""
    for seed in range(20):
        x, z = _clouds(seed)
        x[0] *= 1 + difference / 4
        x[4:] -= x.sum(0) / 5
        error, found = spread(x, z, seed=seed)
        assert found.sym.labels[0] == "C1"
        assert error < 1e-8
        assert found.gap[0] > (0 if difference else 1e-6)


def test_gap_tells_how_sure_the_ranking_is() -> None:
    """Positions that move by much less than the gap keep their frame, up to the rounding of what moved."""
    x, z = _clouds(3)
    _, found = spread(x, z, copies=1)
    gap = float(found.gap[0])
    moved_a_bit = x + 0.01 * gap * np.random.default_rng(0).normal(size=x.shape)
    frames = [sk.canonical_frames(torch.from_numpy(r), torch.from_numpy(z))[0] for r in (x, moved_a_bit)]
    assert 1e-6 < gap < 1
    assert (frames[0] - frames[1]).abs().max() < 0.1 * gap
    x[0] *= 1 + 1e-4 / 4
    x[4:] -= x.sum(0) / 5
    assert np.linalg.norm(x, axis=1).argmax() == 0
    assert 0.8e-4 < spread(x, z, copies=1)[1].gap[0] < 1.2e-4


def test_mirror_images() -> None:
    """A chiral molecule and its image share one form, unless frames are proper."""
    structure = next(s for s in IDEAL if s.name == "CHFClBr")
    x, z = torch.from_numpy(structure.positions), torch.from_numpy(structure.numbers)
    image = x * torch.tensor([1.0, 1.0, -1.0])
    for proper in (False, True):
        a, b = (sk.canonicalize(r, z, proper=proper) for r in (x, image))
        same = (a.positions - b.positions).abs().max() < 1e-10
        assert bool(same) is not proper
        dets = torch.linalg.det(torch.cat([a.frames, b.frames]))
        assert bool((dets > 0).all()) is proper
    assert distance(a.positions.numpy(), b.positions.numpy(), structure.numbers, structure.numbers) > 0.1


@pytest.mark.parametrize("name", ["HCl", "HCN", "CO2", "acetylene"])
@pytest.mark.parametrize("noise", [0.0, 2e-3])
def test_linear(name: str, noise: float) -> None:
    structure = next(s for s in IDEAL if s.name == name)
    x = structure.positions + noise * np.random.default_rng(0).normal(size=structure.positions.shape)
    error, found = spread(x, structure.numbers, copies=6)
    assert error < 1e-10
    assert (found.sym.rank == 1).all()
    assert found.positions[:, :2].abs().max() <= 4 * noise + 1e-12


def test_planar_and_points() -> None:
    x, z = atoms_of("C6H6")
    _, found = spread(x, z)
    assert found.positions[:, 1].abs().max() < 1e-10  # the plane of z and x
    one = sk.canonicalize(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([2]))
    assert torch.equal(one.frames[0], torch.eye(3))
    assert torch.equal(one.positions, torch.zeros(1, 3))
    nothing = sk.canonicalize(torch.zeros((0, 3)), torch.zeros(0, dtype=torch.int64), ptr=torch.tensor([0, 0, 0]))
    assert torch.equal(nothing.frames, torch.eye(3).expand(2, 3, 3))
    assert sk.canonical_frames(torch.zeros((0, 3)), torch.zeros(0, dtype=torch.int64), ptr=torch.tensor([0])).shape == (
        0,
        3,
        3,
    )


def test_single_precision() -> None:
    for name in ("C6H6", "CH4", "CH3CH2OH", "CO2", "C60"):
        x, z = atoms_of(name)
        assert spread(x, z, dtype=torch.float32)[0] < 1e-4, name


def test_of_the_reference() -> None:
    """Also where frames are equivalent, if the positions tell them apart."""
    random = np.random.default_rng(4)
    for name in ("CH3CH2OH", "C6H6", "CH4", "C2H6", "bicyclobutane", "CH3COCH3", "SiH4", "HCN", "CO2", "C5H5N"):
        x, z = atoms_of(name)
        x = torch.from_numpy(x + 2e-3 * random.normal(size=x.shape))
        for proper in (False, True):
            got = sk.canonical_frames(x, torch.from_numpy(z), proper=proper)
            want = reference(x, torch.from_numpy(z), proper=proper)
            assert (got - want).abs().max() < 1e-10, name


# ---- what is built on it ---------------------------------------------------------------------------------------------


def _batch(*names: str, noise: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    parts = [atoms_of(name) for name in names]
    random = np.random.default_rng(5)
    x = np.concatenate([moved(r, random_orthogonal(random), random.normal(size=3)) for r, _ in parts])
    x += noise * random.normal(size=x.shape)
    ptr = torch.tensor([0, *np.cumsum([len(z) for _, z in parts])])
    return torch.from_numpy(x), torch.from_numpy(np.concatenate([z for _, z in parts])), ptr


@pytest.mark.parametrize("kind", ["vector", "pseudovector", "point"])
def test_there_and_back(kind: str) -> None:
    x, z, ptr = _batch("CH4", "H2O", "CO2", "CH3CH2OH", "H")
    found = sk.canonicalize(x, z, ptr=ptr)
    for shape in ((len(x), 3), (len(x), 2, 3)):
        value = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        there = found.apply(value, kind)
        assert (found.restore(there, kind) - value).abs().max() < 1e-12
        assert torch.autograd.gradcheck(lambda v: found.apply(v, kind), value)
        assert torch.autograd.gradcheck(lambda v: found.restore(v, kind), value)
    assert (found.apply(x, "point") - found.positions).abs().max() < 1e-12


def test_kinds_differ_by_the_determinant_and_the_center() -> None:
    x, z, ptr = _batch("CH3CH2OH", "C6H6", "CH3COCH3", noise=1e-3)
    reflected = x * torch.tensor([-1.0, 1, 1])
    for r in (x, reflected):
        found = sk.canonicalize(r, z, ptr=ptr)
        dets = torch.linalg.det(found.frames)[found.sym.batch][:, None]
        v = torch.randn(len(x), 3, dtype=torch.float64)
        assert torch.allclose(found.apply(v, "pseudovector"), dets * found.apply(v))
        assert torch.allclose(found.apply(v, "point"), found.apply(v - found.sym.centroid[found.sym.batch]))
    a = torch.linalg.det(sk.canonical_frames(x, z, ptr=ptr))
    b = torch.linalg.det(sk.canonical_frames(reflected, z, ptr=ptr))
    assert torch.allclose(a, -b)  # noise leaves no mirror plane


def test_pseudovectors_of_mirror_images() -> None:
    """r x v in the canonical frame is that of r and v there, also where the frame is left-handed."""
    x, z, ptr = _batch("CH3CH2OH", "C6H6", "CH3COCH3", noise=1e-3)
    v = torch.randn(len(x), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for sign in (1, -1):
        found = sk.canonicalize(sign * x, z, ptr=ptr)
        centered = sign * x - found.sym.centroid[found.sym.batch]
        expected = torch.linalg.cross(found.apply(centered), found.apply(v))
        assert torch.allclose(found.apply(torch.linalg.cross(centered, v), "pseudovector"), expected)


def test_relaxed_equivariance() -> None:
    """Any f becomes f(g x) = g s f(x) with s an operation of the molecule (equation 4)."""
    random = np.random.default_rng(6)
    weights = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def predict(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        found = sk.canonicalize(x, z)
        y = found.positions
        return found.restore(torch.tanh(y @ weights) + z[:, None] * torch.cos(y.roll(1, 1)))

    for name in ("H2O", "NH3", "CH4", "C6H6", "C2H4", "CH3CH2OH", "trans-butane", "SiH4"):
        x, z = (torch.from_numpy(a) for a in atoms_of(name))
        sym = sk.stabilizers(x, z)
        plain = predict(x, z)
        for copy in range(4):
            q = torch.from_numpy(random_orthogonal(random, -1 if copy % 2 else 1))
            turned = predict(x @ q.T + 1, z)
            errors = []
            for g in range(sym.num_operations):
                image = sym.permutations[sym.perm_ptr[g] : sym.perm_ptr[g + 1]]
                moved_atoms = torch.empty_like(plain)
                moved_atoms[image] = plain @ sym.operations[g].T
                errors.append(float((turned - moved_atoms @ q.T).abs().max()))
            assert min(errors) < 1e-4, name  # G2 has six decimals


def test_asymmetric_unit() -> None:
    x, z, ptr = _batch("CH4", "H2O", "C6H6", "CH3CH2OH")
    sym = sk.stabilizers(x, z, ptr=ptr)
    unit = sk.asymmetric_unit(sym)
    assert unit[:4].tolist() == [0, 1, 5, 6]
    assert torch.equal(unit, torch.unique(sym.orbits))
    assert len(sk.asymmetric_unit(sk.stabilizers(x[:0], z[:0]))) == 0


def test_orbit_ranks() -> None:
    x, z, ptr = _batch("CH4", "CH3CH2OH", "C6H6")
    found = sk.canonicalize(x, z, ptr=ptr)
    for begin, end in pairwise(ptr.tolist()):
        orbits, rank = found.sym.orbits[begin:end], found.orbit_rank[begin:end]
        place = {int(o): set(rank[orbits == o].tolist()) for o in orbits.unique()}
        assert sorted(r for ranks in place.values() for r in ranks) == list(range(len(place)))
    assert found.orbit_rank[:5].tolist() == [1, 0, 0, 0, 0]  # carbon is in the center


def test_known_stabilizers_and_gradients() -> None:
    x, z, ptr = _batch("CH4", "H2O", "CH3CH2OH")
    sym = sk.stabilizers(x, z, ptr=ptr)
    assert torch.equal(sk.canonical_frames(x, z, sym=sym), sk.canonical_frames(x, z, ptr=ptr))
    x.requires_grad_()
    found = sk.canonicalize(x, z, sym=sym)
    assert not found.frames.requires_grad
    assert torch.autograd.gradcheck(lambda r: (r - r.mean(0)) @ found.frames[0], x.detach()[:5].requires_grad_())
    (grad,) = torch.autograd.grad((found.positions**3).sum(), x)
    assert grad[:5].sum(0).abs().max() < 1e-10  # moving the molecule changes nothing
    assert grad.abs().max() > 0.1


def test_wrong_stabilizers_are_refused() -> None:
    x, z, ptr = _batch("CH4", "H2O")
    sym = sk.stabilizers(x, z, ptr=ptr)
    for name, value in (
        ("permutations", sym.permutations + 5),
        ("permutations", sym.permutations - 1),
        ("orbits", sym.orbits + 1),
        ("orbits", sym.orbits + 8),
        ("op_ptr", torch.zeros_like(sym.op_ptr)),
        ("perm_ptr", sym.perm_ptr + 100),
        ("ptr", sym.ptr.flip(0)),
    ):
        with pytest.raises(ValueError, match=f"{name} holds an index out of range"):
            sk.canonical_frames(x, z, sym=replace(sym, **{name: value}))
    found = sk.canonicalize(x, z, sym=sym)
    with pytest.raises(ValueError, match="kind must be one of vector, pseudovector, point, got 'tensor'"):
        found.apply(x, "tensor")
    with pytest.raises(ValueError, match=r"x must have shape \(N, ..., 3\) with N = 8, got \(7, 3\)"):
        found.restore(x[1:])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_numbers_of_any_integer_dtype(dtype: torch.dtype) -> None:
    x, z = torch.tensor(WATER_X, dtype=torch.float64), torch.tensor([8, 1, 1])
    expected, found = sk.canonicalize(x, z), sk.canonicalize(x, z.to(dtype))
    assert torch.equal(found.positions, expected.positions)
    assert torch.equal(sk.canonicalize(x, z.to(dtype), sym=expected.sym).frames, expected.frames)
    with pytest.raises(ValueError, match="numbers must be integers, got float64"):
        sk.canonical_frames(x, x[:, 0], sym=expected.sym)


def test_autocast_leaves_positions_alone() -> None:
    x, z = torch.tensor(WATER_X), torch.tensor([8, 1, 1])
    expected = sk.canonicalize(x, z)
    with torch.autocast("cpu", torch.bfloat16):
        found = sk.canonicalize(x, z)
        back = found.restore(found.apply(x, "point"), "point")
    assert torch.equal(found.positions, expected.positions)
    torch.testing.assert_close(back, x)


def test_wrong_objects_are_named(tmp_path: Path) -> None:
    x, z = torch.tensor(WATER_X), torch.tensor([8, 1, 1])
    canonical = sk.canonicalize(x, z)
    graphs = sk.sann_graphs(canonical)
    for call, match in (
        (
            lambda: sk.sann_graphs(canonical.sym),
            r"canonical must be symkern\.Canonical, as symkern\.canonicalize makes",
        ),
        (
            lambda: sk.symmetrize(x),
            r"sym must be symkern\.Stabilizers, as symkern\.stabilizers makes it, got torch.Tensor",
        ),
        (lambda: sk.asymmetric_unit(canonical), r"sym must be .*, got symkern\.canonical\.Canonical"),
        (lambda: sk.canonicalize(x, z, sym=canonical), r"sym must be symkern\.Stabilizers"),
        (lambda: sk.sann_edge_features(x, graphs, 8.0, 2, 2), r"nb must be symkern\.Neighbors"),
        (lambda: sk.sann_edge_features(canonical, graphs.within, 8.0, 2, 2), r"positions must be a torch\.Tensor"),
        (lambda: sk.sann_edge_features(x, graphs.within, 8.0, 2, 2, references=graphs), r"references must be a torch"),
        (lambda: sk.symmetry_picture(canonical.sym, tmp_path / "x.png"), r"sym must be symkern\.Stabilizers"),
    ):
        with pytest.raises(TypeError, match=match):
            call()


def test_symmetry_of_other_positions() -> None:
    positions, numbers = torch.eye(3, dtype=torch.float64), torch.tensor([1, 6, 8])
    sym = sk.stabilizers(positions, numbers)
    with pytest.raises(ValueError, match="sym must be of these positions"):
        sk.canonicalize(2 * positions, numbers, sym=sym)
