"""Losses that take the minimum over a molecule's operations: oracles, pymatgen's operations, named systems."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import symkern as sk
from symkern.testing.cases.symmetric_loss import cast_floats, molecules
from symkern.testing.geometry import generator, random_rotation

DIRECTIONS = ("x_to_y", "y_to_x", "both")
KINDS = ("vector", "pseudovector", "point")
VECTORS = json.loads((Path(__file__).parent / "vectors" / "symmetric_losses.json").read_text())


def squares(x: Tensor, y: Tensor, ptr: Tensor) -> Tensor:
    return sk.segment_sum((x - y).square().sum(-1), ptr)


def evaluate(name: str, pred: Tensor, target: Tensor, sym: sk.Stabilizers, kind: str = "vector") -> Any:
    """A loss by name: mse, metric, or a direction with or without "typed"."""
    if name == "mse":
        return sk.symmetric_mse(pred, target, sym, kind=kind)
    if name == "metric":
        return sk.symmetric_loss(pred, target, sym, metric=squares, kind=kind)
    direction, _, typed = name.partition(" ")
    return sk.symmetric_chamfer(pred, target, sym, direction=direction, kind=kind, typed=bool(typed))


LOSSES = ("mse", "metric", *DIRECTIONS, "both typed")


def draw(seed: int, sym: sk.Stabilizers) -> Tensor:
    return torch.randn(sym.positions.shape, generator=generator(seed), dtype=torch.float64)


def transformed(sym: sk.Stabilizers, x: Tensor, kind: str, seed: int) -> tuple[Tensor, Tensor]:
    """x under a random operation of each molecule, and their numbers."""
    moved, chosen, random = x.clone(), [], generator(seed)
    for b in range(sym.num_structures):
        begin, end = sym.ptr[b : b + 2].tolist()
        first, last = sym.op_ptr[b : b + 2].tolist()
        g = int(torch.randint(first, last, (1,), generator=random))
        matrix, c = sym.operations[g], sym.centroid[b] if kind == "point" else 0
        if kind == "pseudovector":
            matrix = matrix * matrix.det().sign()
        moved[sym.permutations[sym.perm_ptr[g] : sym.perm_ptr[g + 1]]] = (x[begin:end] - c) @ matrix.T + c
        chosen.append(g - first)
    return moved, torch.tensor(chosen)


# ---- independent operations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pymatgen_operations(dtype: torch.dtype) -> None:
    found = list(VECTORS["molecules"].values())
    joined = {key: torch.cat([torch.tensor(m[key]) for m in found]) for key in ("numbers",)}
    rows = {k: torch.cat([torch.tensor(m[k], dtype=dtype) for m in found]) for k in ("positions", "pred", "target")}
    ptr = torch.tensor([0, *(len(m["numbers"]) for m in found)]).cumsum(0)
    sym = sk.stabilizers(rows["positions"], joined["numbers"], ptr=ptr)
    assert sym.labels == [m["group"] for m in found]
    assert sym.order.tolist() == [m["operations"] for m in found]
    for name in found[0]["losses"]:
        loss, kind, typed = (*name.split(" "), "")[:3]
        expected = torch.tensor([m["losses"][name] for m in found], dtype=torch.float64)
        got, _ = evaluate(f"{loss} {typed}".strip(), rows["pred"], rows["target"], sym, kind)
        # positions in the file are ideal to 1e-16, operations from fp32 positions to 1e-7
        torch.testing.assert_close(got.double(), expected, rtol=3e-6 if dtype == torch.float32 else 1e-12, atol=0)


# ---- oracles of the papers' experiments ------------------------------------------------------------------------------

_ANGLE = math.radians(104.5) / 2
_WATER = 0.9575 * torch.tensor(
    [[0, 0, 0], [math.sin(_ANGLE), 0, -math.cos(_ANGLE)], [-math.sin(_ANGLE), 0, -math.cos(_ANGLE)]],
    dtype=torch.float64,
)
_MODES = {
    "symmetric": [[0, 0, -0.0503], [0.582, 0, 0.399], [-0.582, 0, 0.399]],
    "bending": [[0, 0, -0.0705], [-0.430, 0, 0.559], [0.430, 0, 0.559]],
    "asymmetric": [[0.0703, 0, 0], [-0.5577, 0, -0.4318], [-0.5577, 0, 0.4318]],
}
# loss: (zero output, best equivariant output) for each mode
_ORACLES = {
    "x_to_y": ((0.0076, 0), (0.0149, 0), (0.0148, 0.0148)),
    "y_to_x": ((1, 0), (1, 0), (1, 0.378)),
    "mse": ((1, 0), (1, 0), (1, 1)),
}


def water(copies: int) -> sk.Stabilizers:
    turn = random_rotation(generator(3))
    ptr = torch.arange(copies + 1) * 3
    sym = sk.stabilizers((_WATER @ turn.T).repeat(copies, 1), torch.tensor([8, 1, 1]).repeat(copies), ptr=ptr)
    assert set(sym.labels) == {"C2v"}
    return sym


def best(loss: str, target: Tensor, sym: sk.Stabilizers, output: Any, start: Tensor, kind: str = "vector") -> float:
    """The smallest loss of output(parameters) over many starts, one per molecule of the batch."""
    parameters = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def step() -> Tensor:
        optimizer.zero_grad()
        value = evaluate(loss, output(parameters), target, sym, kind)[0].sum()
        value.backward()
        return value

    optimizer.step(step)
    return float(evaluate(loss, output(parameters), target, sym, kind)[0].min().detach())


@pytest.mark.parametrize("loss", _ORACLES)
@pytest.mark.parametrize("number", range(3), ids=_MODES)
def test_vibrations_of_water(loss: str, number: int) -> None:
    turn = random_rotation(generator(3))
    starts = 24
    sym = water(starts)
    mode = torch.tensor(list(_MODES.values())[number], dtype=torch.float64)
    if number == 2:  # the two H follow the H at +x first
        mode = torch.stack([mode[0], mode[1], mode[2]])
    mode = mode / mode.norm()
    target = (mode @ turn.T).repeat(starts, 1)
    zero, least = _ORACLES[loss][number]
    assert float(evaluate(loss, torch.zeros_like(target), target, sym)[0][0]) == pytest.approx(zero, abs=1e-3)

    # what C2v allows: O along z; the two H mirror images in the plane
    basis = torch.zeros(3, 3, 3, dtype=torch.float64)
    basis[0, 0, 2] = basis[1, 1, 0] = basis[2, 1, 2] = basis[2, 2, 2] = 1
    basis[1, 2, 0] = -1

    def equivariant(parameters: Tensor) -> Tensor:
        return torch.einsum("bk,kia->bia", parameters, basis).reshape(-1, 3) @ turn.T

    random = torch.randn(starts, 3, generator=generator(0), dtype=torch.float64)
    assert best(loss, target, sym, equivariant, random) == pytest.approx(least, abs=1e-3)
    # a model that breaks the symmetry reaches zero
    free = torch.randn(starts, 9, generator=generator(1), dtype=torch.float64)
    assert best(loss, target, sym, lambda p: p.reshape(-1, 3), free) < 1e-10


_D = math.sqrt(2) / 8
_SQUARE = 0.5 * torch.tensor([[1, 1, 0], [-1, 1, 0], [-1, -1, 0], [1, -1, 0]], dtype=torch.float64)
_RECTANGLES = [_SQUARE * torch.tensor([1 + s * 2 * _D, 1 - s * 2 * _D, 1], dtype=torch.float64) for s in (1, -1)]


@pytest.mark.parametrize("loss", [*DIRECTIONS, "mse"])
def test_squares_that_become_rectangles(loss: str) -> None:
    sym = sk.stabilizers(_SQUARE.repeat(2, 1), torch.full((8,), 6), ptr=torch.tensor([0, 4, 8]))
    assert sym.labels == ["D4h", "D4h"]
    target = torch.cat(_RECTANGLES)
    scales = torch.linspace(0, 2, 2001, dtype=torch.float64).tolist()
    # a D4 equivariant model can only scale the square
    least = min(float(evaluate(loss, s * _SQUARE.repeat(2, 1), target, sym, "point")[0].mean()) for s in scales)
    assert least == pytest.approx(0.25 * (2 if loss == "both" else 1), abs=1e-9)
    # one that breaks the symmetry may answer either rectangle, the same for both labels
    for number, prediction in enumerate(_RECTANGLES):
        value, which = evaluate(loss, prediction.repeat(2, 1), target, sym, "point")
        assert float(value.abs().max()) < 1e-28
        assert int(which[number]) == 0
    # without the minimum over operations no one output serves both labels
    free = torch.randn(4, 3, generator=generator(0), dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.LBFGS([free], max_iter=300, line_search_fn="strong_wolfe")

    def plain() -> Tensor:
        if loss == "mse":
            return (free - torch.stack(_RECTANGLES)).square().sum() / 2
        return sum(sk.chamfer(free, y, direction=loss)[0] for y in _RECTANGLES) / 2  # type: ignore[return-value]

    def step() -> Tensor:
        optimizer.zero_grad()
        value = plain()
        value.backward()
        return value

    optimizer.step(step)
    assert float(plain().detach()) > 0.25 - 1e-6


# ---- the group ------------------------------------------------------------------------------------------------------

_NAMES = ("water", "methane", "square", "chiral", "octahedron", "nothing")


@given(seed=st.integers(0, 10**6), loss=st.sampled_from(LOSSES), kind=st.sampled_from(KINDS))
def test_equivalent_targets(seed: int, loss: str, kind: str) -> None:
    sym = molecules(*_NAMES)(seed % 5)
    pred, target = draw(seed, sym), draw(seed + 1, sym)
    expected, _ = evaluate(loss, pred, target, sym, kind)
    moved, _ = transformed(sym, target, kind, seed)
    torch.testing.assert_close(evaluate(loss, pred, moved, sym, kind)[0], expected, rtol=1e-11, atol=1e-12)
    moved, _ = transformed(sym, pred, kind, seed)
    torch.testing.assert_close(evaluate(loss, moved, target, sym, kind)[0], expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
def test_finds_the_operation(loss: str, kind: str) -> None:
    for seed in range(4):
        sym = molecules("water", "methane", "square", "octahedron")(seed)
        target = draw(seed, sym)
        pred, expected = transformed(sym, target, kind, seed)
        value, which = evaluate(loss, pred, target, sym, kind)
        assert float(value.abs().max()) < 1e-24
        if kind == "pseudovector":  # inversion and the identity act alike where both permute nothing
            expected = torch.minimum(expected, which) if loss != "mse" else expected
        assert torch.equal(which, expected)


@given(seed=st.integers(0, 10**6), loss=st.sampled_from(LOSSES), kind=st.sampled_from(KINDS))
def test_batching(seed: int, loss: str, kind: str) -> None:
    names = ("water", "CO2", "methane", "atom", "HCl")
    whole = molecules(*names)(1)
    pred, target = draw(seed, whole), draw(seed + 1, whole)
    together = evaluate(loss, pred, target, whole, kind)
    for b in range(len(names)):
        begin, end = whole.ptr[b : b + 2].tolist()
        alone = sk.stabilizers(whole.positions[begin:end], whole.numbers[begin:end])
        value, which = evaluate(loss, pred[begin:end], target[begin:end], alone, kind)
        assert int(which) == int(together[1][b])
        torch.testing.assert_close(value[0], together[0][b], rtol=1e-13, atol=1e-13)


def test_chamfer_is_that_of_chamfer_without_symmetry() -> None:
    sym = molecules("chiral", "chiral")(0)
    pred, target = draw(0, sym), draw(1, sym)
    for direction in DIRECTIONS:
        expected = sk.chamfer(pred, target, x_ptr=sym.ptr, y_ptr=sym.ptr, direction=direction)
        torch.testing.assert_close(evaluate(direction, pred, target, sym)[0], expected, rtol=1e-15, atol=0)
        options = {"x_type": sym.numbers, "y_type": sym.numbers}
        expected = sk.chamfer(pred, target, x_ptr=sym.ptr, y_ptr=sym.ptr, direction=direction, **options)
        got = evaluate(f"{direction} typed", pred, target, sym)[0]
        torch.testing.assert_close(got, expected, rtol=1e-15, atol=0)


# ---- ties and precision ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", LOSSES)
def test_equal_operations_choose_the_first(loss: str, dtype: torch.dtype) -> None:
    sym = molecules("water", "methane", "square", "octahedron", "CO2", "atom")(2)
    sym32 = cast_floats(sym, dtype)
    target = draw(0, sym).to(dtype)
    # zero is equally far from all images
    assert evaluate(loss, torch.zeros_like(target), target, sym32)[1].tolist() == [0] * 6
    # a symmetric target: all its images are the same to rounding, the inputs' own positions
    same = sym32.positions
    assert evaluate(loss, target + same, same, sym32, "point")[1].tolist() == [0] * 6


@pytest.mark.parametrize("loss", LOSSES)
def test_near_convergence_fp32_chooses_as_fp64(loss: str) -> None:
    sym = molecules("methane", "square", "octahedron")(3)
    low = cast_floats(sym, torch.float32)
    for exponent in range(1, 6):
        target = draw(exponent, sym)
        pred, _ = transformed(sym, target, "vector", exponent)
        pred = (pred + 10.0**-exponent * draw(exponent + 50, sym)).float()
        exact, expected = evaluate(loss, pred.double(), target.float().double(), low)
        value, which = evaluate(loss, pred, target.float(), low)
        assert torch.equal(which, expected)
        # differences of this size have few digits left where they are formed in fp32, as the metric does
        torch.testing.assert_close(value.double(), exact, rtol=2e-2 if loss == "metric" else 1e-6, atol=0)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e18])
@pytest.mark.parametrize("loss", ["mse", *DIRECTIONS])
def test_any_magnitude(loss: str, scale: float) -> None:
    sym = molecules("methane", "octahedron")(1)
    pred, target = draw(0, sym), draw(1, sym)
    value, which = evaluate(loss, pred, target, sym)
    scaled, same = evaluate(loss, scale * pred, scale * target, sym)
    assert torch.equal(which, same)
    torch.testing.assert_close(scaled, scale**2 * value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", ["mse", *DIRECTIONS])
def test_one_large_atom_beside_small_ones(loss: str) -> None:
    """fp32 sifting may not decide what it cannot resolve."""
    sym = molecules("octahedron")(1)
    module = sys.modules[f"symkern.ops.symmetric_{'mse' if loss == 'mse' else 'chamfer'}"]
    for seed in range(5):
        pred, target = draw(seed, sym), draw(seed + 10, sym)
        pred[0] = target[0] = 0
        pred[0] += 1e4
        options = {} if loss == "mse" else {"direction": loss}
        expected, which = module.reference(pred, target, sym, **options)
        value, found = evaluate(loss, pred, target, sym)
        assert torch.equal(found, which)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)


def test_every_instruction_set_chooses_alike() -> None:
    script = (
        "import torch, symkern as sk\n"
        "from symkern.testing.cases.symmetric_loss import molecules\n"
        "from python_tests.test_symmetric_losses import draw, evaluate\n"
        "sym = molecules('methane', 'octahedron', 'square', 'water')(0)\n"
        "for seed in range(3):\n"
        "    pred, target = draw(seed, sym), draw(seed + 1, sym).round()\n"
        "    for loss in ('x_to_y', 'y_to_x', 'both', 'both typed', 'mse'):\n"
        "        value, which = evaluate(loss, pred.round() if seed else pred, target, sym)\n"
        "        print(which.tolist(), [x.hex() for x in value.tolist()])\n"
    )
    outputs = []
    for isa in ("baseline", "avx2", "avx512"):
        environment = os.environ | {"SYMKERN_ISA": isa}
        root = Path(__file__).resolve().parent.parent
        run = subprocess.run(
            [sys.executable, "-c", script], env=environment, cwd=root, capture_output=True, text=True, check=True
        )
        outputs.append(run.stdout)
    assert outputs[0].count("\n") == 15
    assert outputs[0] == outputs[1] == outputs[2]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("loss", ["mse", *DIRECTIONS])
def test_what_is_not_finite_shows(loss: str, bad: float) -> None:
    sym = molecules("water", "methane", "CO2")(0)
    for side in range(2):
        inputs = [draw(0, sym), draw(1, sym)]
        clean, _ = evaluate(loss, *inputs, sym)
        inputs[side][4, 1] = bad
        value, which = evaluate(loss, *inputs, sym)
        assert value.isnan().tolist() == [False, True, False]
        assert int(which[1]) == 0
        assert torch.equal(value[::2], clean[::2])
        pred = inputs[0].requires_grad_()
        (grad,) = torch.autograd.grad(evaluate(loss, pred, inputs[1], sym)[0][0], pred)
        assert bool(grad[:3].isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_computes_in_fp32(loss: str, dtype: torch.dtype) -> None:
    sym = cast_floats(molecules("methane", "CO2")(0), torch.float32)
    pred, target = draw(0, sym).to(dtype).requires_grad_(), draw(1, sym).to(dtype)
    value, which = evaluate(loss, pred, target, sym)
    expected, same = evaluate(loss, pred.float(), target.float(), sym)
    assert value.dtype == dtype
    assert torch.equal(value, expected.to(dtype))
    assert torch.equal(which, same)
    value.sum().backward()
    assert pred.grad is not None
    assert pred.grad.dtype == dtype


# ---- continuous groups -----------------------------------------------------------------------------------------------


def about_axis(sym: sk.Stabilizers, x: Tensor, seed: int) -> Tensor:
    """Each row turned about its molecule's axis by an angle of its own."""
    axis = sym.axis[sym.batch]
    angle = torch.rand(len(x), 1, generator=generator(seed), dtype=x.dtype) * 6.28
    along = (x * axis).sum(-1, keepdim=True) * axis
    across = x - along
    return along + angle.cos() * across + angle.sin() * torch.linalg.cross(axis, across)


@pytest.mark.parametrize("loss", LOSSES)
def test_linear_molecules(loss: str) -> None:
    sym = molecules("CO2", "HCl")(0)
    assert sym.labels == ["Dinfh", "Cinfv"]
    target = draw(0, sym)
    same = about_axis(sym, target, 1)
    for kind in ("vector", "pseudovector"):
        assert float(evaluate(loss, same, target, sym, kind)[0].max()) < 1e-25
        moved, which = transformed(sym, target, kind, 5)
        value, found = evaluate(loss, about_axis(sym, moved, 2), target, sym, kind)
        assert float(value.max()) < 1e-25
        if kind == "vector":
            assert torch.equal(found, which)
    # a mirror through the axis turns a pseudovector's component along it around, for all atoms or for none
    axis = sym.axis[sym.batch]
    along = (target * axis).sum(-1, keepdim=True) * axis
    assert float(evaluate(loss, target - 2 * along, target, sym, "pseudovector")[0].max()) < 1e-25
    if loss in ("mse", "metric"):
        assert float(evaluate(loss, target - 2 * along, target, sym, "vector")[0].min()) > 1e-3
        half = target.clone()
        half[1::2] -= 2 * along[1::2]
        assert float(evaluate(loss, half, target, sym, "pseudovector")[0].min()) > 1e-3


def test_linear_value_by_hand() -> None:
    positions = torch.tensor([[0, 0, 0.0], [0, 0, 1.3]], dtype=torch.float64)
    sym = sk.stabilizers(positions, torch.tensor([17, 1]))
    pred = torch.tensor([[3, 4, 1.0], [0, 1, 2]], dtype=torch.float64)
    target = torch.tensor([[5, 12, -2.0], [0, 0, 0]], dtype=torch.float64)
    # (1, 5) against (-2, 13), and (2, 1) against (0, 0)
    assert float(sk.symmetric_mse(pred, target, sym)[0]) == pytest.approx(9 + 64 + 4 + 1)
    # with the other sign: (1, 5) against (2, 13)
    assert float(sk.symmetric_mse(pred, target, sym, kind="pseudovector")[0]) == pytest.approx(1 + 64 + 4 + 1)
    # x to y: (1, 5) and (2, 1) are both nearest to (0, 0)
    assert float(sk.symmetric_chamfer(pred, target, sym)[0]) == pytest.approx(26 + 5)


@pytest.mark.parametrize("loss", LOSSES)
def test_atoms_compare_norms(loss: str) -> None:
    sym = molecules("atom", "atom")(0)
    pred = torch.tensor([[3.0, 4, 0], [0, 0, 0]], dtype=torch.float64).requires_grad_()
    target = torch.tensor([[0.0, 0, 2], [0, 1, 0]], dtype=torch.float64)
    value, which = evaluate(loss, pred, target, sym)
    assert value.tolist() == pytest.approx([9 * (1 + (loss[:4] == "both")), 1 + (loss[:4] == "both")])
    assert which.tolist() == [0, 0]
    (grad,) = torch.autograd.grad(value.sum(), pred, create_graph=True)
    assert bool(grad.isfinite().all())
    assert torch.equal(grad[1], torch.zeros_like(grad[1]))  # a norm has no direction at zero
    (second,) = torch.autograd.grad(grad.square().sum(), pred)
    assert bool(second.isfinite().all())
    # points are measured from the atom itself
    value, _ = evaluate(loss, sym.positions + target, sym.positions + target.flip(1), sym, "point")
    assert value.tolist() == pytest.approx([0, 0], abs=1e-28)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [1, 2, 5])
def test_sampled_operations_are_a_finite_list(samples: int, kind: str) -> None:
    names = ("CO2", "HCl", "atom")
    relaxed, sampled = molecules(*names)(4), molecules(*names, samples=samples)(4)
    assert sampled.order.tolist() == [0, 0, 0]
    assert sampled.op_ptr.diff().tolist() == [4 * samples, 2 * samples, 1]
    pred, target = draw(0, relaxed), draw(1, relaxed)
    for loss in LOSSES:
        value, which = evaluate(loss, pred, target, sampled, kind)
        bound, _ = evaluate(loss, pred, target, relaxed, kind)
        # each atom may turn by itself in the relaxed loss: never above that of any operation
        assert bool((bound[:2] < value[:2]).all())
        assert torch.equal(bound[2:], value[2:])
        # the finite list by hand
        moved, _ = transformed(sampled, target, kind, samples)
        zero, found = evaluate(loss, moved[:5], target[:5], replace_rows(sampled, 2), kind)
        assert float(zero.max()) < 1e-25
        assert which.shape == found.shape[:1] or len(found) == 2


def replace_rows(sym: sk.Stabilizers, molecules: int) -> sk.Stabilizers:
    """The first molecules alone."""
    atoms, operations = int(sym.ptr[molecules]), int(sym.op_ptr[molecules])
    rows = int(sym.perm_ptr[operations])
    per_molecule = ("centroid", "order", "group", "rank", "axis", "closed", "margin", "ambiguous")
    per_atom = ("orbits", "positions", "numbers")
    cut = {name: getattr(sym, name)[:molecules] for name in per_molecule}
    cut |= {name: getattr(sym, name)[:atoms] for name in per_atom}
    cut |= {"operations": sym.operations[:operations], "residuals": sym.residuals[:operations]}
    cut |= {"op_ptr": sym.op_ptr[: molecules + 1], "ptr": sym.ptr[: molecules + 1]}
    cut |= {"perm_ptr": sym.perm_ptr[: operations + 1], "permutations": sym.permutations[:rows]}
    return replace(sym, **cut)


def test_nothing_at_all() -> None:
    for names in ((), ("nothing",), ("nothing", "water", "nothing")):
        sym = molecules(*names)(0)
        for loss in LOSSES:
            value, which = evaluate(loss, sym.positions, sym.positions, sym)
            assert value.tolist() == pytest.approx([0] * len(names), abs=1e-28)
            assert which.tolist() == [0] * len(names)


# ---- the general loss ------------------------------------------------------------------------------------------------


def test_metric_sees_matching_rows() -> None:
    sym = molecules("methane", "water")(0)
    pred, target = draw(0, sym), draw(1, sym)
    calls = []

    def metric(x: Tensor, y: Tensor, ptr: Tensor) -> Tensor:
        calls.append((x.shape, torch.is_grad_enabled()))
        return sk.segment_sum((x - y).abs().sum(-1), ptr)

    value, which = sk.symmetric_loss(pred, target, sym, metric=metric)
    rows = len(sym.permutations)
    assert calls == [((rows, 3), False), ((8, 3), True)]
    for b in range(2):
        begin, end = sym.ptr[b : b + 2].tolist()
        found = []
        for g in range(*sym.op_ptr[b : b + 2].tolist()):
            partners = sym.permutations[sym.perm_ptr[g] : sym.perm_ptr[g + 1]]
            found.append(float((pred[partners] - target[begin:end] @ sym.operations[g].T).abs().sum()))
        assert float(value[b]) == pytest.approx(min(found), rel=1e-13)
        assert int(which[b]) == min(range(len(found)), key=lambda g: found[g])


def test_metric_of_points_sees_points() -> None:
    sym = molecules("methane", "atom")(0)
    pred, target = draw(0, sym) + 5, draw(1, sym) + 5
    seen = []
    sk.symmetric_loss(
        pred, target, sym, kind="point", metric=lambda x, y, ptr: seen.append((x, y)) or squares(x, y, ptr)
    )
    torch.testing.assert_close(seen[0][0][:5], pred[:5])
    torch.testing.assert_close(seen[0][1][:5], target[:5])  # the identity comes first
    assert float(seen[0][0][-1, 1:].abs().max()) == 0  # a norm


def test_gradient_flows_through_the_chosen_operation_only() -> None:
    sym = molecules("methane")(0)
    pred, target = draw(0, sym).requires_grad_(), draw(1, sym).requires_grad_()
    value, which = sk.symmetric_mse(pred, target, sym)
    g = int(which)
    partners = sym.permutations[sym.perm_ptr[g] : sym.perm_ptr[g + 1]]
    plain = (pred[partners] - target @ sym.operations[g].T).square().sum()
    torch.testing.assert_close(value[0], plain)
    got, expected = (torch.autograd.grad(v, (pred, target)) for v in (value.sum(), plain))
    torch.testing.assert_close(got, expected)


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["mse", "x_to_y"])
def test_inconsistent_stabilizers(loss: str) -> None:
    sym = molecules("water", "water")(0)
    x = draw(0, sym)
    for changes, match in (
        ({"op_ptr": torch.tensor([0, 8, 8])}, r"operation 4 must permute the 3 atoms|molecule 1 has no operation"),
        ({"op_ptr": torch.tensor([0, 4])}, r"op_ptr must rise from 0 to the number of operations, 8"),
        ({"perm_ptr": sym.perm_ptr[:-1]}, r"perm_ptr must rise from 0 to the number of permutations, 24"),
        ({"ptr": torch.tensor([0, 2, 6])}, r"operation 0 must permute the 2 atoms of molecule 0, got 3"),
        ({"permutations": sym.permutations.int()}, r"permutations must be int64, got int32"),
    ):
        with pytest.raises(ValueError, match=match):
            evaluate(loss, x, x, replace(sym, **changes))


def test_forward_mode_is_refused() -> None:
    sym = molecules("water")(0)
    x = draw(0, sym)
    with pytest.raises(RuntimeError, match=r"symkern\.symmetric_mse has no forward-mode derivative"):
        torch.func.jvp(lambda v: sk.symmetric_mse(v, x, sym)[0], (x,), (x,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", LOSSES)
def test_one_of_two_in_half_precision(loss: str, dtype: torch.dtype) -> None:
    """A network's output under autocast against labels in fp32, and the other way around."""
    sym = cast_floats(molecules("methane", "CO2")(0), torch.float32)
    rows = [draw(k, sym).to(dtype).requires_grad_() for k in (0, 1)]
    expected, same = evaluate(loss, rows[0].float(), rows[1].float(), sym)
    for pred, target in ((rows[0], rows[1].float()), (rows[0].float(), rows[1])):
        value, which = evaluate(loss, pred, target, sym)
        assert value.dtype == torch.float32
        assert torch.equal(value, expected)
        assert torch.equal(which, same)
        assert torch.autograd.grad(value.sum(), rows[0])[0].dtype == dtype
    for pred, target in (
        (rows[0].float(), rows[1].double()),
        (rows[0], rows[1].long()),
        (rows[0].half(), rows[1].bfloat16()),
    ):
        with pytest.raises(ValueError, match=r"target must be .*, as pred is, got "):
            evaluate(loss, pred, target, sym)
