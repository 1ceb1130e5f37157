"""Mechanics of `stabilizers`: the shortcut, threads, policies, fields, the NumPy front end, limits."""

from __future__ import annotations

import time
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor

import symkern as sk
from symkern import host
from symkern.elements import FAMILIES, group_of_counts
from symkern.ops.stabilizers import exhaustive, reference
from symkern.testing.cases.stabilizers import _FIELDS, _MOLECULES, _molecules

ALL = tuple(_MOLECULES)


def molecule(name: str, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    inputs = _molecules((name,), noise)(torch.float64, "cpu", 0)
    return inputs["positions"], inputs["numbers"]


def rotation_about_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def orbit(generators: list[np.ndarray], points: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """All images of the points, each point a species of its own, and the order of the group."""
    group = [np.eye(3)]
    for g in group:
        for h in generators:
            product = g @ h
            if not any(np.abs(product - known).max() < 1e-6 for known in group):
                group.append(product)
    images = np.stack(group) @ points.T  # (G, 3, points)
    return images.transpose(2, 0, 1).reshape(-1, 3), np.repeat(np.arange(len(points)) + 1, len(group)), len(group)


PLANE, UPRIGHT, TURN = np.diag([1.0, 1, -1]), np.diag([1.0, -1, 1]), np.diag([1.0, -1, -1])
THREE = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
GOLDEN = (1 + 5**0.5) / 2
FIVE = 0.5 * np.array([[1, -GOLDEN, 1 / GOLDEN], [GOLDEN, 1 / GOLDEN, -1], [1 / GOLDEN, 1, GOLDEN]])
SWAP = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])
TETRAHEDRAL = [THREE, TURN]


def constructed() -> dict[str, list[np.ndarray]]:
    cases = {"Cs": [PLANE], "Ci": [-np.eye(3)]}
    for n in range(2, 9):
        turn = rotation_about_z(2 * np.pi / n)
        half = rotation_about_z(np.pi / n) @ PLANE
        cases |= {f"C{n}": [turn], f"C{n}v": [turn, UPRIGHT], f"C{n}h": [turn, PLANE], f"D{n}": [turn, TURN]}
        cases |= {f"D{n}h": [turn, TURN, PLANE], f"D{n}d": [half, TURN], f"S{2 * n}": [half]}
    cases |= {"T": TETRAHEDRAL, "Td": [*TETRAHEDRAL, SWAP], "Th": [*TETRAHEDRAL, -np.eye(3)]}
    cases |= {"O": [THREE, rotation_about_z(np.pi / 2)], "Oh": [THREE, rotation_about_z(np.pi / 2), -np.eye(3)]}
    cases |= {"I": [FIVE, TURN], "Ih": [FIVE, TURN, -np.eye(3)]}
    return cases


@pytest.mark.parametrize("label", constructed())
def test_constructed_groups(label: str) -> None:
    random = np.random.default_rng(0)
    points = random.normal(size=(3, 3)) * 2 + np.array([0, 0, 0.5])
    positions, numbers, order = orbit(constructed()[label], points)
    found = host.point_group(positions, numbers)
    assert (found.label, found.order) == (label, order)
    assert found.residuals.max() < 1e-12
    assert len(np.unique(found.orbits)) == 3
    for r, p in zip(found.operations, found.permutations, strict=True):
        y = positions - found.centroid
        np.testing.assert_allclose(y @ r.T, y[p], atol=1e-12)


@pytest.mark.parametrize("policy", ["closed", "raw", "generate"])
@pytest.mark.parametrize(("noise", "tolerance"), [(0.0, 0.01), (0.003, 0.01), (0.004, 0.01), (0.05, 0.2), (0.3, 1.0)])
def test_shortcut_is_exhaustive_search(noise: float, tolerance: float, policy: str) -> None:
    if policy == "generate" and tolerance == 1:
        pytest.skip("what is found at such a tolerance generates no point group")
    open_groups = 0
    for seed in range(5):
        inputs = _molecules(ALL * 3, noise)(torch.float64, "cpu", seed)
        quick = sk.stabilizers(**inputs, tolerance=tolerance, policy=policy)
        full = exhaustive(**inputs, tolerance=tolerance, policy=policy)
        for name in _FIELDS:
            assert torch.equal(getattr(quick, name), getattr(full, name)), name
        open_groups += int((~quick.closed).sum())
    assert noise == 0 or open_groups > 0  # the policies must have had something to decide


def test_policies_differ_where_nothing_closes() -> None:
    inputs = _molecules(("octahedron", "benzene", "methane", "ethane") * 20, 0.004)(torch.float64, "cpu", 0)
    found = {policy: sk.stabilizers(**inputs, policy=policy) for policy in ("closed", "raw", "generate")}
    closed, raw, made = found["closed"], found["raw"], found["generate"]
    open_ = ~closed.closed
    assert open_.any()
    assert torch.equal(closed.closed, raw.closed)
    assert torch.equal(closed.closed, made.closed)
    assert (closed.order[open_] < raw.order[open_]).all()
    assert (raw.order[open_] < made.order[open_]).all()
    assert torch.equal(closed.order[~open_], made.order[~open_])
    assert closed.residuals.max() <= 0.01
    assert raw.residuals.max() <= 0.01 < made.residuals.max()
    assert closed.labels == raw.labels


@pytest.mark.parametrize("policy", ["closed", "generate"])
def test_result_is_a_group(policy: str) -> None:
    inputs = _molecules(ALL * 4, 0.004)(torch.float64, "cpu", 1)
    sym = sk.stabilizers(**inputs, policy=policy)
    op_ptr, dets = sym.op_ptr.tolist(), torch.linalg.det(sym.operations).round().long().tolist()
    for b in range(sym.num_structures):
        first, last = op_ptr[b : b + 2]
        rows = sym.permutations[sym.perm_ptr[first] : sym.perm_ptr[last]].reshape(last - first, -1) - sym.ptr[b]
        keys = [(tuple(p), d) for p, d in zip(rows.tolist(), dets[first:last], strict=True)]
        assert keys[0] == (tuple(range(rows.shape[1])), 1)
        assert keys == sorted(keys, key=lambda k: (-k[1], k[0]))
        group = set(keys)
        assert {(tuple(p[i] for i in q), d * e) for p, d in group for q, e in group} == group


def test_threads_do_not_change_bits() -> None:
    inputs = _molecules(ALL * 20, 0.003)(torch.float32, "cpu", 0)
    before, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(sk.stabilizers(**inputs))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(getattr(results[0], name), getattr(other, name)) for name in _FIELDS)


@pytest.mark.parametrize("threads", [1, 3])
def test_host_equals_torch(threads: int) -> None:
    inputs = _molecules(ALL * 3, 0.003)(torch.float64, "cpu", 0)
    sym = sk.stabilizers(**inputs)
    groups = host.point_groups(**{name: value.numpy() for name, value in inputs.items()}, threads=threads)
    assert [g.label for g in groups] == sym.labels
    assert np.array_equal(np.concatenate([g.operations for g in groups]), sym.operations.numpy())
    assert np.array_equal(np.concatenate([g.residuals for g in groups]), sym.residuals.numpy())
    starts = inputs["ptr"].tolist()
    flat = np.concatenate([(g.permutations + s).ravel() for g, s in zip(groups, starts[:-1], strict=True)])
    assert np.array_equal(flat, sym.permutations.numpy())
    assert [g.margin for g in groups] == sym.margin.tolist()
    assert [[e.name for e in g.elements] for g in groups] == [[e.name for e in m] for m in sym.elements]
    sites = [[(s + a, label) for a, label in g.site_symmetry] for g, s in zip(groups, starts[:-1], strict=True)]
    assert sites == sym.site_symmetry


def test_precisions_and_integer_types_agree() -> None:
    inputs = _molecules(ALL)(torch.float32, "cpu", 0)
    single = sk.stabilizers(**inputs)
    double = sk.stabilizers(**(inputs | {"positions": inputs["positions"].double()}))
    small = sk.stabilizers(**(inputs | {"numbers": inputs["numbers"].to(torch.int8)}))
    for name in _FIELDS:
        a, b, c = (getattr(s, name) for s in (single, double, small))
        assert torch.equal(a, c)
        assert torch.equal(a, b) if not a.is_floating_point() else torch.equal(a, b.float())
    assert single.operations.dtype == torch.float32
    assert small.numbers.dtype == torch.int64


def test_batch_and_ptr_agree() -> None:
    inputs = _molecules(("water", "nothing", "CO2", "benzene"))(torch.float64, "cpu", 0)
    sym = sk.stabilizers(**inputs)
    ptr = inputs.pop("ptr")
    again = sk.stabilizers(**inputs, batch=torch.repeat_interleave(torch.arange(4), ptr.diff()))
    assert all(torch.equal(getattr(sym, name), getattr(again, name)) for name in _FIELDS)
    assert torch.equal(sym.batch, torch.repeat_interleave(torch.arange(4), ptr.diff()))
    assert torch.equal(sym.op_batch, torch.repeat_interleave(torch.arange(4), sym.op_ptr.diff()))
    assert sym.labels == ["C2v", "Kh", "Dinfh", "D6h"]


def test_margin_says_where_the_answer_changes() -> None:
    positions, numbers = molecule("ethane", 0.02)
    sym = sk.stabilizers(positions, numbers, tolerance=0.03)
    margin = float(sym.margin)
    assert 0 < margin <= 0.03
    inside = [sk.stabilizers(positions, numbers, tolerance=0.03 + f * margin, policy="raw") for f in (-0.999, 0.999)]
    assert inside[0].order == inside[1].order
    outside = [sk.stabilizers(positions, numbers, tolerance=0.03 + f * margin, policy="raw") for f in (-1.001, 1.001)]
    assert outside[0].order < outside[1].order


def test_atoms_in_one_place_are_ambiguous() -> None:
    positions = torch.tensor([[0.0, 0, 0], [0, 0, 0], [2, 0, 0], [0, 3, 0]], dtype=torch.float64)
    sym = sk.stabilizers(positions, torch.tensor([1, 1, 6, 7]))
    assert bool(sym.ambiguous)
    assert not bool(sk.stabilizers(positions, torch.tensor([1, 2, 6, 7])).ambiguous)
    point = sk.stabilizers(positions[:2], torch.tensor([1, 1]))
    assert point.labels == ["Kh"]
    assert bool(point.ambiguous)


def test_samples_of_linear_molecules() -> None:
    for name, count in (("CO2", 4), ("CO", 2)):
        positions, numbers = molecule(name)
        plain, sym = sk.stabilizers(positions, numbers), sk.stabilizers(positions, numbers, samples=5)
        assert int(sym.order) == 0
        assert sym.num_operations == 5 * count
        assert plain.num_operations == count // 2
        assert torch.equal(sym.orbits, plain.orbits)
        assert sym.residuals.max() < 1e-12
        r = sym.operations
        products = torch.einsum("gij,hjk->ghik", r, r).reshape(-1, 1, 9)
        assert (products - r.reshape(-1, 9)).norm(dim=-1).min(1).values.max() < 1e-12
        assert (r @ sym.axis[0]).abs().sub(sym.axis[0].abs()).abs().max() < 1e-12


def test_exact_symmetry() -> None:
    inputs = _molecules(ALL, 0.003)(torch.float64, "cpu", 3)
    sym = sk.stabilizers(**inputs, tolerance=0.03)
    positions, exact = sk.symmetrize(sym)
    assert exact.residuals.max() < 1e-13 < sym.residuals.max()
    assert (positions - sym.positions).norm(dim=1).max() < 0.03
    again = sk.stabilizers(positions, sym.numbers, ptr=sym.ptr, tolerance=1e-10)
    assert again.labels == sym.labels
    assert torch.equal(again.permutations, sym.permutations)
    op_ptr, dets = sym.op_ptr.tolist(), torch.linalg.det(exact.operations).round().long().tolist()
    for b in range(sym.num_structures):
        first, last = op_ptr[b : b + 2]
        r = exact.operations[first:last]
        rows = sym.permutations[sym.perm_ptr[first] : sym.perm_ptr[last]].reshape(last - first, -1) - sym.ptr[b]
        keys = {(tuple(p), d): k for k, (p, d) in enumerate(zip(rows.tolist(), dets[first:last], strict=True))}
        for (p, d), g in keys.items():
            for (q, e), h in keys.items():
                assert (r[g] @ r[h] - r[keys[(tuple(p[i] for i in q), d * e)]]).abs().max() <= 2e-14


def test_symmetrize_needs_a_group() -> None:
    inputs = _molecules(("octahedron", "benzene") * 10, 0.004)(torch.float64, "cpu", 0)
    sym = sk.stabilizers(**inputs, policy="raw")
    assert not bool(sym.closed.all())
    with pytest.raises(ValueError, match="sym must hold groups, but the operations of molecule"):
        sk.symmetrize(sym)
    single = sk.symmetrize(sk.stabilizers(**(inputs | {"positions": inputs["positions"].float()})))
    assert single[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("water", {"E": 1, "C2": 1, "sigma_v": 2}),
        ("ammonia", {"E": 1, "C3": 1, "C3^2": 1, "sigma_v": 3}),
        ("methane", {"E": 1, "C3": 4, "C3^2": 4, "C2": 3, "sigma_d": 6, "S4": 3, "S4^3": 3}),
        ("ethane", {"E": 1, "C3": 1, "C3^2": 1, "C2": 3, "sigma_d": 3, "i": 1, "S6": 1, "S6^5": 1}),
        ("chiral", {"E": 1}),
        ("CO2", {"E": 1, "i": 1}),
        (
            "benzene",
            {"E": 1, "C6": 1, "C6^5": 1, "C3": 1, "C3^2": 1, "C2": 7, "i": 1, "S3": 1, "S3^5": 1, "S6": 1, "S6^5": 1,
             "sigma_h": 1, "sigma_v": 3, "sigma_d": 3},
        ),
        (
            "octahedron",
            {"E": 1, "C4": 3, "C4^3": 3, "C3": 4, "C3^2": 4, "C2": 9, "i": 1, "S4": 3, "S4^3": 3, "S6": 4, "S6^5": 4,
             "sigma_h": 3, "sigma_d": 6},
        ),
    ],
)  # fmt: skip
def test_elements(name: str, expected: dict[str, int]) -> None:
    positions, numbers = molecule(name, 1e-4)
    sym = sk.stabilizers(positions, numbers)
    names = [e.name for e in sym.elements[0]]
    assert {n: names.count(n) for n in names} == expected
    for element, r in zip(sym.elements[0], sym.operations.numpy(), strict=True):
        kind = element.name[0]
        if kind not in "CSs":
            assert not element.axis.any()
            continue
        assert np.linalg.norm(element.axis) == pytest.approx(1)
        assert next(c for c in element.axis[::-1] if abs(c) > 1e-6) > 0
        a, (x, y, z) = 2 * np.pi * element.power / element.order, element.axis
        if kind == "s":
            a = 0.0
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        turn = np.eye(3) + np.sin(a) * cross + (1 - np.cos(a)) * cross @ cross
        if kind != "C":
            turn = turn @ (np.eye(3) - 2 * np.outer(element.axis, element.axis))
        np.testing.assert_allclose(turn, r, atol=1e-3)


def test_site_symmetry() -> None:
    sites = {name: [label for _, label in sk.stabilizers(*molecule(name)).site_symmetry[0]] for name in ALL}
    assert sites["water"] == ["C2v", "Cs"]
    assert sites["methane"] == ["Td", "C3v"]
    assert sites["octahedron"] == ["Oh", "C4v"]
    assert sites["benzene"] == ["C2v", "C2v"]
    assert sites["icosahedron"] == ["C5v", "C5v"]
    assert sites["CO2"] == ["Dinfh", "Cinfv"]
    assert sites["CO"] == ["Cinfv", "Cinfv"]
    assert sites["atom"] == ["Kh"]
    assert sites["nothing"] == []
    assert sites["chiral"] == ["C1"] * 5


def test_labels_of_counts() -> None:
    counts = {"C1": (1, 1, 1, 0, 0), "S4": (4, 2, 2, 0, 0), "S8": (8, 4, 4, 0, 0), "C4h": (8, 4, 4, 1, 1)}
    for label, count in counts.items():
        assert FAMILIES[group_of_counts(*count) >> 16].format(n=group_of_counts(*count) & 0xFFFF) == label


def test_many_atoms_of_one_species() -> None:
    random = np.random.default_rng(0)
    v = random.normal(size=(500, 3))
    v *= 10 / np.linalg.norm(v, axis=1)[:, None]
    assert host.point_group(np.concatenate([v, -v]), np.ones(1000, dtype=int)).label == "Ci"
    angles = 2 * np.pi * np.arange(300) / 300
    ring = 60 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
    found = host.point_group(ring, np.ones(300, dtype=int))
    assert (found.label, found.order, found.rank) == ("D300h", 1200, 2)


def test_limits_are_errors() -> None:
    random = np.random.default_rng(0)
    positions = random.normal(size=(3000, 3))
    with pytest.raises(ValueError, match=r"tolerance is too large for molecule 0: at least 400[0-9]{4} pairs"):
        host.point_group(positions, np.ones(3000, dtype=int), tolerance=2.0)


def _ring(count: int, radius: float = 5.0) -> np.ndarray:
    angles = 2 * np.pi * np.arange(count) / count
    return radius * np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)


@pytest.mark.parametrize(
    ("count", "tolerance"), [(300, 0.5), (1000, 0.5), (1000, 0.01), (5000, 0.5), (10_000, 5e-4), (100_000, 1e-4)]
)
def test_work_is_bounded(count: int, tolerance: float) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match=r"tolerance is too large for molecule 0: "):
        host.point_group(_ring(count), np.ones(count, dtype=int), tolerance=tolerance)
    assert time.process_time() - began < 10  # a second or two on a machine with nothing else to do


@pytest.mark.parametrize(("count", "tolerance"), [(30, 0.5), (100, 0.01), (1000, 0.001)])
def test_large_rings_within_the_bound(count: int, tolerance: float) -> None:
    found = host.point_group(_ring(count), np.ones(count, dtype=int), tolerance=tolerance)
    assert (found.label, found.order) == (f"D{count}h", 4 * count)


@pytest.mark.parametrize("apart", [0.0, 1e-4, 0.015, 0.035])
def test_close_atoms_share_partners(apart: float) -> None:
    positions = torch.tensor([[0.0, 0, 0], [apart, 0, 0], [2, 0, 0], [0, 3, 0]], dtype=torch.float64)
    numbers = torch.tensor([1, 1, 6, 7])
    ptr = torch.tensor([0, 4])
    for sym in (sk.stabilizers(positions, numbers), reference(positions, numbers, ptr=ptr)):
        assert sym.labels == ["Cs"]
        assert sym.permutations.tolist() == [0, 1, 2, 3] * 2
    line = torch.tensor([[0, 0, 1], [0, 0, 1 + apart], [0, 0, 0], [0, 0, -1], [0, 0, -1 - apart]], dtype=torch.float64)
    for sym in (
        sk.stabilizers(line, torch.tensor([1, 1, 6, 1, 1])),
        reference(line, torch.tensor([1, 1, 6, 1, 1]), ptr=torch.tensor([0, 5])),
    ):
        assert sym.labels == ["Dinfh"]


def test_arguments_must_be_tensors() -> None:
    positions, numbers = molecule("water")
    with pytest.raises(TypeError, match=r"positions must be a torch.Tensor, got .*symkern\.host\.point_group"):
        sk.stabilizers(positions.numpy(), numbers)
    with pytest.raises(TypeError, match=r"numbers must be a torch.Tensor"):
        sk.stabilizers(positions, numbers.tolist())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"numbers": [8, 1]}, r"numbers must be integers of shape \(3,\), got int64 of shape \(2,\)"),
        ({"numbers": [8.0, 1.0, 1.0]}, "numbers must be integers"),
        ({"numbers": [8, 1, 0]}, "numbers must be at least 1, but atom 2 has 0"),
        ({"numbers": None}, "numbers are needed"),
        ({"positions": np.zeros((3, 2))}, r"positions must have shape \(N, 3\), got \(3, 2\)"),
        ({"positions": np.full((3, 3), np.nan)}, "positions must be finite, but atom 0"),
        ({"tolerance": 0}, "tolerance must be positive and finite, got 0"),
        ({"policy": "open"}, "policy must be one of closed, raw, generate, got 'open'"),
        ({"samples": -1}, "samples must be 0 .. 100000, got -1"),
    ],
)
def test_host_refuses(change: dict[str, object], message: str) -> None:
    positions, numbers = molecule("water")
    good: dict[str, object] = {"positions": positions.numpy(), "numbers": numbers.numpy()}
    with pytest.raises(ValueError, match=message):
        host.point_group(**(good | change))  # type: ignore[arg-type]


def test_no_gradient_and_device_copies() -> None:
    positions, numbers = molecule("methane")
    sym = sk.stabilizers(positions.requires_grad_(), numbers)
    assert not any(getattr(sym, f.name).requires_grad for f in fields(sym) if isinstance(getattr(sym, f.name), Tensor))
    copy = sym.to("cpu")
    assert copy.labels == sym.labels == ["Td"]
    assert torch.equal(copy.operations, sym.operations)
    assert repr(sym) == "Stabilizers(1 molecules, 24 operations: Td)"


def test_bent_within_the_tolerance() -> None:
    """A molecule that counts as linear turns around if any operation turns it around, not only the exact inversion."""
    positions = torch.tensor([[1.0, 0, 0], [0, 0, 0], [-1, 0.02, 0]], dtype=torch.float64)
    for sym in (sk.stabilizers(positions, torch.tensor([1, 8, 1])), _reference(positions, [1, 8, 1])):
        assert sym.labels == ["Dinfh"]
        assert sym.orbits.tolist() == [0, 1, 0]
        assert float(sym.residuals.max()) < 0.01


def test_immense_and_tiny_lengths() -> None:
    """Where squares of squares overflow there is an error, not another answer."""
    ring = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]], dtype=torch.float64)
    numbers = torch.ones(4, dtype=torch.int64)
    for scale in (1e-40, 1e-10, 1e10, 1e40):
        assert sk.stabilizers(ring * scale, numbers, tolerance=0.01 * scale).labels == ["D4h"]
    with pytest.raises(ValueError, match=r"positions must be within 1e45 of their centroid.*molecule 0"):
        sk.stabilizers(ring * 1e160, numbers)
    for tolerance in (1e-60, 1e60):
        with pytest.raises(ValueError, match=r"tolerance must be 1e-45 .. 1e45"):
            sk.stabilizers(ring, numbers, tolerance=tolerance)


def _reference(positions: torch.Tensor, numbers: list[int]) -> sk.Stabilizers:
    from symkern.ops.stabilizers import reference

    return reference(positions, torch.tensor(numbers), ptr=torch.tensor([0, len(numbers)]))
