"""spherical_basis against SciPy and against DimeNet's formulas, derived here anew; the contract has the rest."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import eval_legendre, spherical_jn

import symkern as sk
from symkern.ops.spherical_basis import bessel_roots, bessel_values, reference

L, N, CUTOFF = 7, 6, 5.0


def _pairs(d, angle):
    """One triplet per distance and angle: edge e, as k->j, is in triplet e; the last edge is j->i in all of them."""
    count = len(d)
    index = torch.stack([torch.arange(count), torch.full((count,), count)])
    ptr = torch.cat([torch.zeros(count + 1, dtype=torch.int64), torch.tensor([count])])
    return torch.cat([d, d.new_ones(1)]), angle, sk.Triplets(index, ptr)


def _roots(order: int) -> list[float]:
    """As PyG finds them, but in double precision."""
    ends = np.arange(1, N + L + 1) * np.pi
    for k in range(1, order + 1):

        def function(x: float, k: int = k) -> float:
            return float(spherical_jn(k, x))

        ends = np.array([brentq(function, a, b, xtol=1e-14) for a, b in pairwise(ends)])
    return ends[:N].tolist()


def _dimenet(d: np.ndarray, angle: np.ndarray, exponent: int) -> np.ndarray:
    x, p = d / CUTOFF, exponent
    u = 1 / x - (p + 1) * (p + 2) / 2 * x ** (p - 1) + p * (p + 2) * x**p - p * (p + 1) / 2 * x ** (p + 1)
    columns = []
    for l in range(L):  # noqa: E741
        harmonic = np.sqrt((2 * l + 1) / (4 * np.pi)) * eval_legendre(l, np.cos(angle))
        for z in _roots(l):
            normal = np.sqrt(2) / np.abs(spherical_jn(l + 1, z))
            columns.append(u * (x < 1) * normal * spherical_jn(l, z * x) * harmonic)
    return np.stack(columns, 1)


@pytest.mark.parametrize("exponent", [1, 5, 6])
def test_against_dimenet(exponent) -> None:
    d = torch.linspace(0.05, 1.2 * CUTOFF, 301, dtype=torch.float64)
    angle = math.pi * torch.rand(301, dtype=torch.float64)
    got = sk.spherical_basis(*_pairs(d, angle), CUTOFF, L, N, exponent=exponent)
    expected = torch.from_numpy(_dimenet(d.numpy(), angle.numpy(), exponent))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12 * float(expected.abs().max()))
    single = sk.spherical_basis(*_pairs(d.float(), angle.float()), CUTOFF, L, N, exponent=exponent)
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("order", [0, 1, 6, 25])
def test_bessel_functions(order) -> None:
    y = torch.cat([torch.tensor([0.0, 1e-300, 1e-8]), torch.linspace(1e-3, 80, 4001)]).double()
    expected = spherical_jn(order, y.numpy())
    np.testing.assert_allclose(bessel_values(y, order)[:, order].numpy(), expected, rtol=1e-12, atol=2e-15)


def test_roots() -> None:
    roots = bessel_roots(20, 30)
    for order in range(20):
        slope = np.abs(spherical_jn(order, roots[order].numpy(), derivative=True))
        assert np.abs(spherical_jn(order, roots[order].numpy()) / slope).max() < 1e-13
        assert bool((roots[order].diff() > 3).all())
    assert bool((roots.diff(dim=0) > 0).all())


def test_orthonormal() -> None:
    """Without envelope the radial functions are orthonormal with weight x^2: envelope and constants are undone here."""
    x, weight = np.polynomial.legendre.leggauss(200)
    x, weight = (x + 1) / 2, weight / 2
    d = torch.from_numpy(CUTOFF * x)
    basis = sk.spherical_basis(*_pairs(d, torch.zeros_like(d)), CUTOFF, L, N).numpy().reshape(-1, L, N)
    p = 6
    u = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    for order in range(L):
        radial = basis[:, order] * (x / u)[:, None] / math.sqrt((2 * order + 1) / (4 * math.pi))
        np.testing.assert_allclose(radial.T @ (radial * (weight * x**2)[:, None]), np.eye(N), atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_special_distances_and_angles(dtype) -> None:
    d = torch.tensor([0.0, 1e-30, 1e-3, CUTOFF, 1e30, 2.0], dtype=dtype)
    angle = torch.tensor([0.0, 1, math.pi, 1, 1, math.pi], dtype=dtype)
    d, angle, tri = _pairs(d, angle)
    d, angle = d.requires_grad_(), angle.requires_grad_()
    out = sk.spherical_basis(d, angle, tri, CUTOFF, L, N)
    first = torch.autograd.grad(out.square().sum(), (d, angle), create_graph=True)
    second = torch.autograd.grad(sum(g.sum() for g in first), (d, angle))
    assert all(bool(t.isfinite().all()) for t in (out, *first, *second))
    assert not out[[0, 1, 3, 4]].any()
    assert out[2].any()
    assert not first[1][[2, 5]].abs().gt(1e-3 * out.detach()[2].square().sum()).any()  # even in the angle at pi


def test_self_loops_and_a_whole_molecule() -> None:
    """Forces through distances, angles and the basis, with self loops in the graph, against finite differences."""
    positions = torch.tensor([[0.0, 0, 0], [1.2, 0.1, 0], [-0.3, 1.4, 0.2], [0.2, -0.9, 1.1]], dtype=torch.float64)
    nb = sk.neighbor_list(positions, 2.2, self_loops=True)
    tri = sk.triplets(nb)

    def energy(positions: torch.Tensor) -> torch.Tensor:
        vec = sk.edge_vectors(positions, nb)
        basis = sk.spherical_basis(sk.safe_norm(vec), sk.edge_angles(vec, tri), tri, 2.5, 3, 2)
        return sk.segment_sum(basis, tri.ptr).square().sum()

    assert torch.autograd.gradcheck(energy, positions.requires_grad_())
    assert torch.autograd.gradgradcheck(energy, positions)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_bad_values_on_the_cpu(value) -> None:
    d, angle, tri = _pairs(torch.ones(5), torch.ones(5))
    bad = d.clone()
    bad[3] = value
    with pytest.raises(ValueError, match=r"d must be finite and not negative, but d\[3\] = "):
        sk.spherical_basis(bad, angle, tri, CUTOFF, 2, 2)
    if value == -1:
        return  # an angle may be negative
    bad = angle.clone()
    bad[4] = value
    with pytest.raises(ValueError, match=r"angle must be finite, but angle\[4\] = "):
        sk.spherical_basis(d, bad, tri, CUTOFF, 2, 2)


def _gradients(function, inputs, tri, shape, weight):
    """First and second derivatives, one list."""
    leaves = [x.clone().requires_grad_() for x in (*inputs, weight)]
    out = function(*leaves[:2], tri, CUTOFF, *shape)
    first = torch.autograd.grad(out, leaves[:2], leaves[2], create_graph=True, materialize_grads=True)
    directions = [torch.linspace(-1, 1, len(g), dtype=g.dtype) for g in first]
    along = sum((g * h).sum() for g, h in zip(first, directions, strict=True))
    second = torch.autograd.grad(along, leaves, materialize_grads=True)
    return [out, *first, *second]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 5), (7, 6), (3, 7), (2, 8), (3, 9), (9, 1), (1, 17)], ids=str)
def test_rows_of_every_width(shape, dtype) -> None:
    """Columns below, at and above the width of vectors; triplets that fill no vector, and padding behind them."""
    tri, generator = _random_triplets(edges=11, count=77, padding=9)
    inputs = [0.5 + 4 * torch.rand(11, generator=generator), 3 * torch.rand(86, generator=generator)]
    weight = torch.rand(86, shape[0] * shape[1], generator=generator)
    made = _gradients(sk.spherical_basis, [x.to(dtype) for x in inputs], tri, shape, weight.to(dtype))
    expected = _gradients(reference, [x.double() for x in inputs], tri, shape, weight.double())
    digits = 1e-11 if dtype == torch.float64 else 1e-5
    for got, known in zip(made, expected, strict=True):
        torch.testing.assert_close(
            got.double(), known, rtol=0, atol=digits * max(1.0, float(known.detach().abs().max()))
        )
    assert not made[0][77:].any()


def _random_triplets(edges, count, padding):
    generator = torch.Generator().manual_seed(edges)
    ji = torch.randint(edges, (count,), generator=generator).sort().values
    index = torch.stack([torch.randint(edges, (count,), generator=generator), ji])
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(ji, minlength=edges).cumsum(0)])
    return sk.Triplets(torch.nn.functional.pad(index, (0, padding)), ptr), generator


def test_gradient_of_one_input_only() -> None:
    """What is not asked for is not computed, and the rest is the same."""
    tri, generator = _random_triplets(edges=8, count=50, padding=3)
    d = (0.5 + 4 * torch.rand(8, generator=generator)).requires_grad_()
    angle = (3 * torch.rand(53, generator=generator)).requires_grad_()
    both = torch.autograd.grad(sk.spherical_basis(d, angle, tri, CUTOFF, L, N).square().sum(), (d, angle))
    of_d = torch.autograd.grad(sk.spherical_basis(d, angle.detach(), tri, CUTOFF, L, N).square().sum(), d)[0]
    of_angle = torch.autograd.grad(sk.spherical_basis(d.detach(), angle, tri, CUTOFF, L, N).square().sum(), angle)[0]
    torch.testing.assert_close(of_d, both[0])
    torch.testing.assert_close(of_angle, both[1])

    d = d.detach().double().requires_grad_()
    angle = angle.detach().double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda d: sk.spherical_basis(d, angle.detach(), tri, CUTOFF, 3, 2), d)
    assert torch.autograd.gradgradcheck(lambda a: sk.spherical_basis(d.detach(), a, tri, CUTOFF, 3, 2), angle)


def test_not_finite_gradients_stay_in_their_row() -> None:
    tri, generator = _random_triplets(edges=8, count=50, padding=0)
    d, angle = 0.5 + 4 * torch.rand(8, generator=generator), 3 * torch.rand(50, generator=generator)
    angle.requires_grad_()
    weight = torch.rand(50, L * N, generator=generator)
    weight[20] = float("nan")
    (grad,) = torch.autograd.grad(sk.spherical_basis(d, angle, tri, CUTOFF, L, N), angle, weight)
    assert grad.isnan().nonzero().flatten().tolist() == [20]


@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_lower_instruction_sets(isa) -> None:
    """The same tests once more in a process that uses a lower level (a no-op where there is only one)."""
    tests = [f"{__file__}::{name}" for name in ("test_rows_of_every_width", "test_against_dimenet")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, env=os.environ | {"SYMKERN_ISA": isa}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
