"""spherical_basis against SciPy and against DimeNet's formulas, derived here anew; the contract has the rest."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import eval_legendre, spherical_jn

import symkern as sk
from symkern.ops.spherical_basis import bessel_roots, bessel_values

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
