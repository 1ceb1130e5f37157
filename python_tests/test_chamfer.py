"""sk.chamfer: against brute force in fp64 and SciPy, where searches go wrong: ties, duplicates, degenerate and
clustered clouds, offsets, scales; the same index from every schedule and instruction set."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

import symkern as sk
from symkern.testing.geometry import random_rotation


def brute_force(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Lowest index of the smallest direct difference in fp64."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    return np.array([((y - p) ** 2).sum(1).argmin() for p in x], dtype=np.int64).reshape(-1)


def squares(x: np.ndarray, y: np.ndarray, index: np.ndarray) -> np.ndarray:
    return ((x.astype(np.float64) - y.astype(np.float64)[index]) ** 2).sum(1)


def cloud(kind: str, n: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    normal = random.normal(size=(n, 3))
    centers = np.random.default_rng(99).uniform(size=(20, 3))
    return {
        "uniform": random.uniform(size=(n, 3)),
        "normal": normal,
        "sphere": normal / np.linalg.norm(normal, axis=1, keepdims=True),
        "plane": normal * [1, 1, 0],
        "line": normal * [0, 0, 1],
        "clustered": centers[random.integers(20, size=n)] + 1e-6 * normal,
        "scales": normal * 10.0 ** random.uniform(-12, 3, size=(n, 1)),
        "far outlier": np.concatenate([normal[1:], [[1e6, -1e6, 1e6]]]),
        "far away": normal + np.array([1e5, -2e5, 3e5]),
        "lattice": random.integers(12, size=(n, 3)).astype(float),
        "all equal": np.full((n, 3), 0.3),
        "few sites": normal[random.integers(10, size=n)],
        "pairs of duplicates": np.repeat(normal[: n // 2], 2, axis=0),
        "tiny": normal * 1e-30,
        "huge": normal * 1e25,
    }[kind]


KINDS = (
    *("uniform", "normal", "sphere", "plane", "line", "clustered", "scales", "far outlier", "far away", "lattice"),
    *("all equal", "few sites", "pairs of duplicates", "tiny", "huge"),
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("size", [(60, 70), (1700, 2100), (3000, 900)], ids=["pairs", "tree", "few targets"])
@pytest.mark.parametrize("kind", KINDS)
def test_nearest_points(kind, size, dtype, device):
    x, y = (torch.from_numpy(cloud(kind, n, seed)).to(dtype) for seed, n in enumerate(size))
    value, index = sk.chamfer(x.to(device), y.to(device), return_index=True)
    index = index.cpu().numpy()
    expected = brute_force(x.numpy(), y.numpy())
    found, truth = (squares(x.numpy(), y.numpy(), i) for i in (index, expected))
    # the fma of the definition and NumPy's sum round differently: ties apart, the index is the same
    np.testing.assert_allclose(found, truth, rtol=1e-14, atol=0)
    same = index == expected
    if kind in ("lattice", "all equal", "few sites", "pairs of duplicates"):
        assert same.all()
    else:
        assert same.mean() > 0.999
    if truth.sum() > torch.finfo(dtype).max:
        assert float(value) == float("inf")
    else:
        assert float(value) == pytest.approx(truth.sum(), rel=1e-6 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("kind", ["uniform", "normal", "sphere", "clustered", "plane"])
def test_large_clouds_against_scipy(kind, device):
    x, y = cloud(kind, 20_000, 0), cloud(kind, 30_000, 1)
    value, index = sk.chamfer(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device), return_index=True)
    distance, expected = cKDTree(y).query(x)
    np.testing.assert_allclose(np.sqrt(squares(x, y, index.cpu().numpy())), distance, rtol=1e-12, atol=0)
    assert (index.cpu().numpy() == expected).mean() > 0.9999
    assert float(value) == pytest.approx((distance**2).sum(), rel=1e-12)


@pytest.mark.parametrize("size", [50, 3000])
def test_ties_go_to_the_lowest_index(size, device):
    """Every target twice, in shuffled order, and every query halfway between two."""
    random = np.random.default_rng(0)
    sites = np.arange(size // 2)[:, None] * [2.0, 0, 0]
    y = np.concatenate([sites, sites])[random.permutation(2 * len(sites))]
    x = sites[:-1] + np.array([1.0, 0, 0])
    _, index = sk.chamfer(*(torch.from_numpy(t).to(device) for t in (x, y)), return_index=True)
    expected = [np.flatnonzero((y[:, 0] == a) | (y[:, 0] == a + 2)).min() for a in sites[:-1, 0]]
    assert index.tolist() == expected


def test_a_cloud_is_at_no_distance_from_itself(device):
    x = torch.from_numpy(cloud("normal", 5000, 0)).float().to(device)
    value, there, back = sk.chamfer(x, x, direction="both", return_index=True)
    assert value.tolist() == [0]
    assert there.tolist() == back.tolist() == list(range(5000))


def test_far_from_the_origin_nothing_is_lost(device):
    """x^2 + y^2 - 2 x.y would be wrong in the first digit here."""
    x = torch.tensor([[4096.0, 0, 0], [4097.0, 0, 0]], device=device)
    y = x + torch.tensor([0.0, 0.25, 0], device=device)
    assert sk.chamfer(x, y, direction="both").tolist() == [0.25]


SCHEDULES = """
import hashlib, torch, symkern as sk
from python_tests.test_chamfer import KINDS, cloud
digest = hashlib.sha256()
for kind in KINDS:
    for dtype in (torch.float32, torch.float64):
        for n, m in ((70, 60), (1500, 1600)):
            x, y = torch.from_numpy(cloud(kind, n, 0)).to(dtype), torch.from_numpy(cloud(kind, m, 1)).to(dtype)
            value, index = sk.chamfer(x, y, return_index=True)
            digest.update(index.numpy().tobytes() + value.numpy().tobytes())
print(digest.hexdigest())
"""


def test_instruction_sets_agree():
    digests = set()
    for isa in ("baseline", "avx2", "avx512"):
        run = subprocess.run(
            [sys.executable, "-c", SCHEDULES],
            env=os.environ | {"SYMKERN_ISA": isa},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(run.stdout)
    assert len(digests) == 1
    assert len(digests.pop().strip()) == 2 * hashlib.sha256().digest_size


@pytest.mark.parametrize("size", [30, 4000])
def test_types(size, device):
    """As one search for each type."""
    random = torch.Generator().manual_seed(0)
    x, y = (torch.randn(size, 3, generator=random, dtype=torch.float64) for _ in range(2))
    x_type, y_type = (torch.randint(3, (size,), generator=random) * 7 - 7 for _ in range(2))
    value, index = sk.chamfer(
        x.to(device), y.to(device), x_type=x_type.to(device), y_type=y_type.to(device), return_index=True
    )
    expected = torch.empty_like(index, device="cpu")
    for kind in x_type.unique().tolist():
        rows, targets = (x_type == kind).nonzero()[:, 0], (y_type == kind).nonzero()[:, 0]
        expected[rows] = targets[torch.from_numpy(brute_force(x[rows].numpy(), y[targets].numpy()))]
    assert torch.equal(index.cpu(), expected)
    assert float(value) == pytest.approx(float((x - y[expected]).square().sum()), rel=1e-13)


def test_directions(device):
    random = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 3, generator=random, dtype=torch.float64).to(device) for n in (7, 9))
    x_ptr, y_ptr = torch.tensor([0, 3, 7], device=device), torch.tensor([0, 5, 9], device=device)
    there, back, both = (sk.chamfer(x, y, x_ptr=x_ptr, y_ptr=y_ptr, direction=d) for d in ("x_to_y", "y_to_x", "both"))
    assert torch.equal(back, sk.chamfer(y, x, x_ptr=y_ptr, y_ptr=x_ptr))
    torch.testing.assert_close(both, there + back)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(there, back)


def test_dense_clouds_are_ragged_ones(device):
    random = torch.Generator().manual_seed(0)
    x, y = (torch.randn(4, n, 2, generator=random).to(device) for n in (6, 5))
    kinds = (
        torch.tensor([0, 1, 0, 1, 0, 1], device=device).expand(4, -1),
        torch.arange(5, device=device).expand(4, -1) % 2,
    )
    value, there, back = sk.chamfer(x, y, direction="both", x_type=kinds[0], y_type=kinds[1], return_index=True)
    for b in range(4):
        options = {"direction": "both", "x_type": kinds[0][b], "y_type": kinds[1][b], "return_index": True}
        alone, i, j = sk.chamfer(x[b], y[b], **options)
        assert torch.equal(alone, value[b : b + 1])
        assert torch.equal(i, there[b])
        assert torch.equal(j, back[b])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_fp32(dtype, device):
    """4,096 unit distances: a sum in the narrow type would stop at 256 (bf16) or 2,048 (fp16)."""
    x = torch.zeros(4096, 3, dtype=dtype, device=device, requires_grad=True)
    value = sk.chamfer(x, torch.tensor([[1.0, 0, 0]], dtype=dtype, device=device))
    assert value.dtype == dtype
    assert value.tolist() == [4096]
    (grad,) = torch.autograd.grad(value.sum(), x)
    assert grad.dtype == dtype
    assert grad.unique().tolist() == [-2, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_one_of_two_in_half_precision(dtype, device):
    x, y = torch.rand(2, 7, 3, device=device).to(dtype).requires_grad_(), torch.rand(2, 7, 3, device=device)
    value = sk.chamfer(x, y, direction="both")
    assert value.dtype == torch.float32
    assert torch.equal(value, sk.chamfer(x.float(), y, direction="both"))
    assert torch.equal(value, sk.chamfer(y, x, direction="both"))
    assert torch.autograd.grad(value.sum(), x)[0].dtype == dtype
    assert sk.chamfer(x, y.double()).dtype == torch.float64
    for other in (y.to({torch.float16: torch.bfloat16, torch.bfloat16: torch.float16}[dtype]), y.long()):
        with pytest.raises(ValueError, match="y must have the dtype of x"):
            sk.chamfer(x, other)
    with pytest.raises(ValueError, match="y must have the dtype of x"):
        sk.chamfer(y, y.double())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_types_of_any_integer_dtype(dtype):
    x, y, kinds = torch.rand(6, 3), torch.rand(6, 3), torch.tensor([1, 1, 6, 8, 8, 8])
    expected = sk.chamfer(x, y, x_type=kinds, y_type=kinds)
    assert torch.equal(sk.chamfer(x, y, x_type=kinds.to(dtype), y_type=kinds), expected)
    with pytest.raises(ValueError, match="y_type must be integers, got float32"):
        sk.chamfer(x, y, x_type=kinds, y_type=kinds.float())


def test_gradient_of_a_shared_target(device):
    x = torch.tensor([[0.0, 0, 0], [1, 0, 0], [10, 0, 0]], device=device, requires_grad=True)
    y = torch.tensor([[0.5, 0, 0], [7, 0, 0], [99, 0, 0]], device=device, requires_grad=True)
    of_x, of_y = torch.autograd.grad(sk.chamfer(x, y).sum(), (x, y))
    assert of_x[:, 0].tolist() == [-1, 1, 6]
    assert of_y[:, 0].tolist() == [0, -6, 0]
    assert of_x.dtype == torch.float32


def test_empty(device):
    none, some = torch.zeros(0, 3, device=device), torch.ones(2, 3, device=device)
    assert sk.chamfer(none, some).tolist() == [0]
    assert sk.chamfer(none, none, direction="both").tolist() == [0]
    leaf = none.clone().requires_grad_()
    (grad,) = torch.autograd.grad(sk.chamfer(leaf, some).sum(), leaf)
    assert grad.shape == (0, 3)


def test_nothing_to_compare_with():
    ptr = torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match="needs points to compare with, but structure 1 has 1 and 0"):
        sk.chamfer(torch.ones(2, 3), torch.ones(1, 3), x_ptr=ptr, y_ptr=torch.tensor([0, 1, 1]))
    kinds = torch.tensor([6, 8])
    with pytest.raises(ValueError, match="points to compare with, but structure 1 has none of type 8"):
        sk.chamfer(torch.ones(2, 3), torch.ones(2, 3), x_ptr=ptr, y_ptr=ptr, x_type=kinds, y_type=torch.tensor([6, 6]))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["x", "y"])
def test_not_finite(name, bad):
    points = {"x": torch.ones(50, 3), "y": torch.ones(60, 3)}
    points[name][33, 1] = bad
    with pytest.raises(ValueError, match=f"{name} must be finite, but point 33 has coordinate"):
        sk.chamfer(**points)


@pytest.mark.parametrize("ptr", [[0, 2, 1, 5], [1, 5], [0, 4], [0, 6]])
def test_ptr_must_fit(ptr):
    ptr = torch.tensor(ptr)
    good = torch.linspace(0, 5, len(ptr)).long()
    with pytest.raises(ValueError, match="x_ptr must rise from 0 to the number of points of x, 5, but x_ptr"):
        sk.chamfer(torch.ones(5, 3), torch.ones(5, 3), x_ptr=ptr, y_ptr=good)


def test_not_a_tensor():
    with pytest.raises(TypeError, match=r"y must be a torch\.Tensor, got numpy"):
        sk.chamfer(torch.ones(5, 3), np.ones((5, 3)))


def test_forward_mode_is_refused():
    x = torch.ones(5, 3)
    with pytest.raises(RuntimeError, match="chamfer has no forward-mode derivative"):
        torch.func.jvp(lambda t: sk.chamfer(t, x), (x,), (x,))


counts = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(counts=counts, seed=st.integers(0, 2**31), rounded=st.booleans())
def test_properties(counts, seed, rounded):
    """Rotation, translation and the order of points change nothing, and a batch is its structures one by one."""
    random = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(sum(c[k] for c in counts), 3, generator=random, dtype=torch.float64) for k in (0, 1))
    if rounded:
        x, y = (2 * x).round(), (2 * y).round()
    ptrs = [torch.tensor([0, *(c[k] for c in counts)]).cumsum(0) for k in (0, 1)]
    value, index = sk.chamfer(x, y, x_ptr=ptrs[0], y_ptr=ptrs[1], return_index=True)
    for b in range(len(counts)):
        mine, theirs = (slice(int(p[b]), int(p[b + 1])) for p in ptrs)
        alone, nearest = sk.chamfer(x[mine], y[theirs], return_index=True)
        assert torch.equal(alone, value[b : b + 1])
        assert torch.equal(nearest + theirs.start, index[mine])
        assert torch.equal(nearest, torch.from_numpy(brute_force(x[mine].numpy(), y[theirs].numpy())))
        order = torch.randperm(theirs.stop - theirs.start, generator=random)
        torch.testing.assert_close(sk.chamfer(x[mine].flip(0), y[theirs][order]), alone, rtol=1e-13, atol=0)
    rotation, shift = random_rotation(random), torch.randn(3, generator=random, dtype=torch.float64)
    moved = sk.chamfer(x @ rotation.T + shift, y @ rotation.T + shift, x_ptr=ptrs[0], y_ptr=ptrs[1])
    torch.testing.assert_close(moved, value, rtol=1e-11, atol=1e-12)
