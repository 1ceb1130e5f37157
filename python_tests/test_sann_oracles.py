"""What the losses of the tables on symmetry breaking can and cannot tell: bounds in closed form, nothing trained.

References are written out here in NumPy from the definitions: Chamfer distances from all pairs, symmetric outputs from
the tables of characters of D4h and C2v.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from symkern.experiments.sann.squares import HALF_SIDES, squares
from symkern.experiments.sann.turning import rotations
from symkern.experiments.sann.vector_floors import (
    balanced,
    descend,
    equivariant_floor,
    invariant_vectors,
    single_output_floor,
)
from symkern.experiments.sann.vector_metrics import METRICS, means, measure
from symkern.experiments.sann.vector_task import VectorTask
from symkern.experiments.sann.water_modes import MODES, water_modes

_Array = NDArray[np.float64]
VARIANTS = tuple(HALF_SIDES)
SYMMETRIC = ("sbcd", "sbcd-reverse", "matched")


def chamfer(x: _Array, y: _Array) -> float:
    """From x to y."""
    return float(((x[:, None] - y[None]) ** 2).sum(-1).min(1).sum())


def errors(task: VectorTask, prediction: torch.Tensor) -> dict[str, float]:
    return means(prediction, task.target, task.sym, task.kind)


# ---- squares ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_squares_become_rectangles(variant: str) -> None:
    task = squares(variant)
    assert task.sym.labels == ["D4h", "D4h"]
    assert torch.equal(task.pos[:4], task.pos[4:])
    tall, wide = task.target.reshape(2, 4, 3).double().numpy()
    assert not np.allclose(tall, wide)
    # the one is the other turned by 90 degrees
    turned = tall @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    assert chamfer(turned, wide) < 1e-30
    # the paper's figure for the undeformed square, and the same in every metric
    assert chamfer(task.pos[:4].numpy(), tall) == pytest.approx(0.25, abs=1e-12)
    assert errors(task, task.pos) == {name: pytest.approx(0.25, abs=1e-12) for name in METRICS}


def test_perfect_breaker_of_squares() -> None:
    """The same rectangle for both squares: zero by the symmetric metrics, not by the plain ones."""
    for variant in VARIANTS:
        task = squares(variant)
        same = task.target[:4].repeat(2, 1)
        found = errors(task, same)
        assert [found[name] for name in SYMMETRIC] == [pytest.approx(0, abs=1e-28)] * 3
        assert found["cd"] > 0.12
        # and so for any corner going to any other by a symmetry of the square
        sym = task.sym[0]
        for g, p in zip(sym.operations, sym.permutations.reshape(-1, 4), strict=True):
            moved = torch.empty_like(same[:4])
            moved[p] = same[:4] @ g.mT
            assert means(moved, task.target[:4], sym_of_one(task), "point")["matched"] < 1e-28


def sym_of_one(task: VectorTask):
    import symkern as sk

    n = int(task.ptr[1])
    return sk.stabilizers(task.pos[:n], task.z[:n])


def test_equivariant_models_keep_the_square() -> None:
    """By D4h: corners can only move in and out along the diagonals. So .250 is a bound with either loss and matched."""
    task = squares()
    basis = invariant_vectors(task.sym[0])
    outward = task.pos[:4].flatten() / task.pos[:4].norm()
    assert basis.shape == (12, 1)
    assert abs(float(basis[:, 0] @ outward)) == pytest.approx(1)
    for name in SYMMETRIC:
        assert equivariant_floor(task, name) == pytest.approx(0.25, abs=1e-12)
    for scale in np.linspace(-2, 2, 401):
        found = errors(task, task.pos * scale)
        assert min(found.values()) > 0.25 - 1e-12


def test_no_model_beats_cd_on_two_squares() -> None:
    """Both squares get one answer; four free points come down to .250 and no further."""
    assert single_output_floor(squares()) == pytest.approx(0.25, abs=1e-12)
    assert single_output_floor(squares("stretch")) == pytest.approx(0.125, abs=1e-12)
    random = np.random.default_rng(0)
    for variant, floor in (("main", 0.25), ("stretch", 0.125)):
        task = squares(variant)
        tall, wide = task.target.reshape(2, 4, 3).numpy()
        # each point of the answer alone: a plane full of places
        side = np.linspace(-1, 1, 401)
        points = np.stack([*np.meshgrid(side, side, indexing="ij"), np.zeros((401, 401))], -1).reshape(-1, 3)
        to = [((points[:, None] - y) ** 2).sum(-1).min(1) for y in (tall, wide)]
        assert 4 * (to[0] + to[1]).min() / 2 == pytest.approx(floor, abs=1e-3)
        for _ in range(50):
            answer = torch.from_numpy(random.normal(scale=0.7, size=(4, 3))).repeat(2, 1)
            assert errors(task, answer)["cd"] > floor - 1e-12


def test_stretch_lets_equivariant_models_below_the_threshold() -> None:
    """(3/4, 1/2): the undeformed square has .250, one that breathes .125: no true threshold."""
    task = squares("stretch")
    assert equivariant_floor(task, "sbcd") == pytest.approx(0.125, abs=1e-12)
    breathing = errors(task, task.pos * 1.25)
    assert breathing == {name: pytest.approx(0.125, abs=1e-12) for name in METRICS}


def test_four_outputs_on_one_corner() -> None:
    task = squares()
    found = errors(task, task.target[:1].expand(8, 3))
    assert found["sbcd"] == pytest.approx(0, abs=1e-30)
    assert found["matched"] > 1
    assert found["sbcd-reverse"] > 1
    with pytest.raises(ValueError, match="variant must be one of main, stretch, got 'round'"):
        squares("round")


# ---- water -----------------------------------------------------------------------------------------------------------

# pred->label, label->pred, matched; each for zero and for the best equivariant output
WATER = {
    "symmetric": ((0.0076, 0.0), (1.0, 0.0), (1.0, 0.0)),
    "bending": ((0.0149, 0.0), (1.0, 0.0), (1.0, 0.0)),
    "asymmetric": ((0.0148, 0.0148), (1.0, 0.378), (1.0, 1.0)),
}


@pytest.mark.parametrize("mode", MODES)
def test_bounds_for_water(mode: str) -> None:
    task = water_modes(mode, seed=3)
    zero = errors(task, torch.zeros_like(task.pos))
    for name, (of_zero, of_best) in zip(SYMMETRIC, WATER[mode], strict=True):
        digits = 5e-4 if of_zero > 0.1 else 5e-5  # three significant digits
        assert zero[name] == pytest.approx(of_zero, abs=digits)
        assert equivariant_floor(task, name) == pytest.approx(of_best, abs=5e-5 if of_best < 0.1 else 5e-4)


@pytest.mark.parametrize("mode", MODES)
def test_water_and_its_modes(mode: str) -> None:
    task = water_modes(mode, seed=1)
    assert task.sym.labels == ["C2v", "C2v"]
    x, v = task.pos.reshape(2, 3, 3), task.target.reshape(2, 3, 3)
    assert torch.allclose(x.mean(1), torch.zeros(2, 3, dtype=torch.float64), atol=1e-12)
    assert v.square().sum((1, 2)).tolist() == [pytest.approx(1)] * 2
    bonds = x[:, 1:] - x[:, :1]
    assert bonds.norm(dim=-1).flatten().tolist() == [pytest.approx(0.9575)] * 4
    angle = torch.rad2deg(torch.acos((bonds[:, 0] * bonds[:, 1]).sum(-1) / 0.9575**2))
    assert angle.tolist() == [pytest.approx(104.5)] * 2
    # rates of the two bonds: equal and opposite for the asymmetric mode alone; momentum is near zero
    rates = ((v[:, 1:] - v[:, :1]) * bonds).sum(-1)
    assert torch.allclose(rates[:, 0], rates[:, 1] * (-1 if mode == "asymmetric" else 1), atol=1e-6)
    masses = torch.tensor([15.999, 1.008, 1.008], dtype=torch.float64).reshape(1, 3, 1)
    assert (v * masses).sum(1).abs().max() < 0.02
    # turned along: the same in the frame of the bonds, another in space
    shape = torch.cat([x, v], 1)
    assert torch.allclose(shape[0] @ shape[0].T, shape[1] @ shape[1].T, atol=1e-9)
    assert not torch.allclose(x[0], x[1], atol=0.1)
    again, other = water_modes(mode, seed=1), water_modes(mode, seed=2)
    assert torch.equal(again.pos, task.pos)
    assert not torch.allclose(other.pos, task.pos, atol=0.1)


def test_rotations_are_rotations() -> None:
    turns = rotations(2000, 0)
    assert torch.allclose(turns @ turns.mT, torch.eye(3, dtype=torch.float64).expand(2000, 3, 3), atol=1e-12)
    assert torch.allclose(torch.linalg.det(turns), torch.ones(2000, dtype=torch.float64))
    assert turns.mean(0).abs().max() < 0.05  # uniform
    with pytest.raises(ValueError, match="mode must be one of symmetric, bending, asymmetric, got 'twist'"):
        water_modes("twist")


def _water_frame(mode: str) -> _Array:
    v = np.array(MODES[mode], dtype=np.float64)
    return v / np.linalg.norm(v)


def test_gradients_of_an_invariant_add_up_to_zero() -> None:
    """Which the modes do not: the least error is the square of their sum over the number of atoms."""
    for mode, floor in (("symmetric", 0.187), ("bending", 0.366)):
        task = water_modes(mode, 2)
        by_hand = _water_frame(mode).sum(0)
        least = float(by_hand @ by_hand) / 3
        assert least == pytest.approx(floor, abs=5e-4)
        assert equivariant_floor(task, "matched", gradient=True) == pytest.approx(least, abs=1e-6)
        vectors = invariant_vectors(task.sym[0])
        assert vectors.shape == (9, 3)
        assert balanced(vectors).shape == (9, 2)
        assert balanced(vectors).reshape(3, 3, 2).sum(0).abs().max() < 1e-12
    for name in SYMMETRIC:  # corners that move along the diagonals stay around the centre
        assert equivariant_floor(squares(), name, gradient=True) == pytest.approx(0.25, abs=1e-12)
    asymmetric = water_modes("asymmetric")
    assert equivariant_floor(asymmetric, "sbcd-reverse", gradient=True) >= equivariant_floor(asymmetric, "sbcd-reverse")


def test_turned_tasks() -> None:
    for task in (squares(), water_modes("asymmetric", 4)):
        turned = task.turned(7)
        assert turned.sym.labels == task.sym.labels
        atoms = len(task.z) // 2
        assert not torch.allclose(turned.pos, task.pos, atol=0.1)
        assert torch.allclose(turned.sym.centroid, task.sym.centroid, atol=1e-9)
        for b in range(2):
            rows = slice(b * atoms, (b + 1) * atoms)
            before, after = (torch.cat([t.pos[rows], t.target[rows]]) for t in (task, turned))
            assert torch.allclose(before @ before.T, after @ after.T, atol=1e-9)
        zero = torch.zeros_like(task.pos)
        assert errors(turned, turned.output(zero)) == pytest.approx(errors(task, task.output(zero)), abs=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_bounds_by_search(mode: str) -> None:
    """The same from all outputs of the species A1, by hand: O (0, 0, c), H (+-a, 0, b)."""
    y = _water_frame(mode)
    grid = np.linspace(-0.78, 0.78, 21)
    best = [np.inf, np.inf, np.inf]
    for a, b, c in product(grid, grid, grid):
        x = np.array([[0, 0, c], [a, 0, b], [-a, 0, b]])
        now = (chamfer(x, y), chamfer(y, x), float(((x - y) ** 2).sum()))
        best = [min(pair) for pair in zip(best, now, strict=True)]
    task = water_modes(mode)
    for name, found in zip(SYMMETRIC, best, strict=True):
        floor = equivariant_floor(task, name)
        assert floor - 1e-12 <= found < floor + 0.02


def test_asymmetric_mode_is_orthogonal_to_every_equivariant_output() -> None:
    """Under rotations alone too: SO(3)-equivariant outputs of C2v have species A1 and A2, the mode is B2."""
    for seed in range(3):
        task = water_modes("asymmetric", seed)
        sym = task.sym[1]
        target = task.target[3:].flatten()
        assert (invariant_vectors(sym).T @ target).abs().max() < 1e-12
        proper = torch.linalg.det(sym.operations) > 0
        assert int(proper.sum()) == 2
        turned = torch.zeros(9, dtype=torch.float64)
        for g, p in zip(sym.operations[proper], sym.permutations.reshape(-1, 3)[proper], strict=True):
            image = torch.empty(3, 3, dtype=torch.float64)
            image[p] = target.reshape(3, 3) @ g.mT
            turned += image.flatten()
        assert turned.abs().max() < 1e-12  # the mean over rotations, which every such output is equal to its own of
    assert invariant_vectors(water_modes("bending").sym[0]).shape == (9, 3)


def test_sbcd_has_trivial_minima() -> None:
    """Free vectors, started small, all end on the arrow of the oxygen: no SBCD, no vibration. 50 of 50 starts."""
    task = water_modes("asymmetric", 0, molecules=50)
    vectors = descend(task, "sbcd", scale=0.1)
    assert measure("sbcd", vectors, task.target, task.sym).max() < 1e-30
    assert measure("matched", vectors, task.target, task.sym).min() > 1e-3
    lengths = vectors.reshape(50, 3, 3).norm(dim=-1)
    assert torch.allclose(lengths, task.target[0].norm().expand(50, 3), atol=1e-12)
    # started large, most find several arrows, and all but a few the wrong ones
    vectors = descend(task, "sbcd", scale=1.0)
    assert measure("sbcd", vectors, task.target, task.sym).max() < 1e-30
    assert (measure("matched", vectors, task.target, task.sym) > 1e-3).sum() > 40
    # the matched error has no such minima
    vectors = descend(task, "matched", scale=0.1)
    assert measure("matched", vectors, task.target, task.sym).max() < 1e-30


# ---- metrics ---------------------------------------------------------------------------------------------------------


def test_metrics_are_those_of_their_definition() -> None:
    random = np.random.default_rng(0)
    task = water_modes("asymmetric", 5)
    x = random.normal(size=(6, 3))
    y = task.target.numpy()
    expected = dict.fromkeys(METRICS, 0.0)
    for b in range(2):
        rows, sym = slice(3 * b, 3 * b + 3), task.sym[b]
        images, places = [], sym.permutations.reshape(-1, 3).numpy()
        for g, p in zip(sym.operations.numpy(), places, strict=True):
            image = np.empty((3, 3))
            image[p] = y[rows] @ g.T
            images.append(image)
        found = {
            "cd": chamfer(x[rows], y[rows]),
            "cd-reverse": chamfer(y[rows], x[rows]),
            "sbcd": min(chamfer(x[rows], image) for image in images),
            "sbcd-reverse": min(chamfer(image, x[rows]) for image in images),
            "matched": min(float(((x[rows] - image) ** 2).sum()) for image in images),
        }
        expected = {name: total + found[name] / 2 for name, total in expected.items()}
    assert means(torch.from_numpy(x), task.target, task.sym) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(
        ValueError, match="metric must be one of cd, cd-reverse, sbcd, sbcd-reverse, matched, got 'mae'"
    ):
        measure("mae", task.target, task.target, task.sym)


def test_floors_refuse() -> None:
    import symkern as sk

    with pytest.raises(ValueError, match="metric must be one of sbcd, sbcd-reverse, matched, got 'cd'"):
        equivariant_floor(squares(), "cd")
    with pytest.raises(ValueError, match="task must have molecules that are all alike"):
        single_output_floor(water_modes("bending"))
    pos = torch.randn(7, 3, dtype=torch.float64)
    z, ptr = torch.full((7,), 6), torch.tensor([0, 7])
    large = VectorTask(z, pos, ptr, pos, sk.stabilizers(pos, z), "vector")
    with pytest.raises(ValueError, match="task must have at most 6 atoms in each molecule, got 7"):
        equivariant_floor(large, "sbcd")
