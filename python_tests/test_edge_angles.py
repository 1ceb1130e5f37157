"""Named systems for edge_angles; the contract has the rest."""

from __future__ import annotations

import math

import pytest
import torch

import symkern as sk


def _all_pairs(positions: torch.Tensor) -> tuple[torch.Tensor, sk.Triplets]:
    n = len(positions)
    pairs = torch.cartesian_prod(torch.arange(n), torch.arange(n))
    nb = sk.Neighbors.from_edge_index(pairs[pairs[:, 0] != pairs[:, 1]].T, n)
    return sk.edge_vectors(positions, nb), sk.triplets(nb)


def test_water() -> None:
    half = math.radians(104.5 / 2)
    positions = torch.tensor([[0.0, 0, 0], [math.sin(half), math.cos(half), 0], [-math.sin(half), math.cos(half), 0]])
    nb = sk.neighbor_list(positions, 1.2)
    angles = sk.edge_angles(sk.edge_vectors(positions, nb), sk.triplets(nb))
    torch.testing.assert_close(torch.rad2deg(angles), torch.full((2,), 104.5))


def test_pyg_has_the_supplement() -> None:
    """DimeNetPlusPlus in PyG takes the angle between r_i - r_j and r_j - r_k."""
    positions = torch.randn((5, 3), dtype=torch.float64)
    vec, tri = _all_pairs(positions)
    ij, jk = -vec[tri.ji], -vec[tri.kj]
    theirs = torch.atan2(torch.linalg.cross(ij, jk).norm(dim=-1), (ij * jk).sum(-1))
    torch.testing.assert_close(sk.edge_angles(vec, tri), math.pi - theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rotated", [False, True])
def test_collinear(dtype, rotated) -> None:
    """Carbon dioxide: 0 and pi, and finite derivatives, whatever rounding makes of a straight line."""
    positions = torch.tensor([[0.0, 0, 0], [1.16, 0, 0], [-1.16, 0, 0]], dtype=torch.float64)
    if rotated:
        positions = positions @ torch.linalg.qr(torch.randn((3, 3), dtype=torch.float64))[0].T
    positions = positions.to(dtype).requires_grad_()
    vec, tri = _all_pairs(positions)
    angles = sk.edge_angles(vec, tri)
    nearest = torch.where(angles < 1, 0, math.pi)
    torch.testing.assert_close(angles, nearest.to(dtype), atol=1e-6, rtol=0)
    (force,) = torch.autograd.grad((angles**2).sum(), positions, create_graph=True)
    (second,) = torch.autograd.grad(force.square().sum() + force.sum(), positions)
    assert not force.any()
    assert not second.any()


def test_nearly_collinear_is_exact() -> None:
    """acos would lose half of the digits here."""
    for angle in (1e-4, 1e-3, math.pi - 1e-3):
        vec = torch.tensor([[-1.0, 0, 0], [math.cos(angle), math.sin(angle), 0]], dtype=torch.float64)
        tri = sk.Triplets(torch.tensor([[1], [0]]), torch.tensor([0, 1, 1]))
        assert abs(float(sk.edge_angles(vec, tri)) - angle) < 1e-15
        vec = vec.requires_grad_()
        (grad,) = torch.autograd.grad(sk.edge_angles(vec, tri), vec)
        torch.testing.assert_close(grad.norm(dim=-1), torch.ones(2, dtype=torch.float64))


def test_zero_vectors() -> None:
    vec = torch.tensor([[0.0, 0, 0], [1, 0, 0]], requires_grad=True)
    tri = sk.Triplets(torch.tensor([[1, 0], [0, 1]]), torch.tensor([0, 1, 2]))
    angles = sk.edge_angles(vec, tri)
    (grad,) = torch.autograd.grad(angles.sum(), vec, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), vec)
    assert not angles.any()
    assert not grad.any()
    assert not second.any()


def test_third_derivative() -> None:
    vec = torch.randn((4, 3), dtype=torch.float64, requires_grad=True)
    tri = sk.Triplets(torch.tensor([[1, 2, 3], [0, 0, 1]]), torch.tensor([0, 2, 3, 3, 3]))

    def gradient(vec: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(sk.edge_angles(vec, tri).square().sum(), vec, create_graph=True)[0]

    assert torch.autograd.gradgradcheck(gradient, vec)
