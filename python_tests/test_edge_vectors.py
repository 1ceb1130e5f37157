"""Edge vectors against ASE's D, and gradients of what is built from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list as ase_list

import symkern as sk

FLOAT64 = torch.float64


def system(atoms: int = 6, seed: int = 0, cells: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions partly outside a skewed cell, or outside one cell for each structure."""
    random = torch.Generator().manual_seed(seed)
    positions = 6 * torch.rand((atoms, 3), generator=random, dtype=FLOAT64) - 1
    cell = 4 * torch.eye(3, dtype=FLOAT64) + 0.7 * torch.rand((max(cells, 1), 3, 3), generator=random, dtype=FLOAT64)
    return positions, cell if cells else cell[0]


@pytest.mark.parametrize("pbc", [(True, True, True), (False, True, False), (False, False, False)])
def test_same_as_ase(pbc: tuple[bool, ...]) -> None:
    positions, cell = system(9)
    nb = sk.neighbor_list(positions, 3.3, cell=cell, pbc=pbc)
    atoms = Atoms(positions=positions.numpy(), cell=cell.numpy(), pbc=pbc)
    i, j, shifts, vectors, distances = ase_list("ijSDd", atoms, 3.3)
    order = np.lexsort((*shifts.T[::-1], j, i))
    got = sk.edge_vectors(positions, nb, cell)
    np.testing.assert_allclose(got.numpy(), vectors[order], atol=1e-13, rtol=0)
    np.testing.assert_allclose(sk.safe_norm(got).numpy(), distances[order], atol=1e-13, rtol=0)
    assert torch.equal(sk.safe_norm(got) < 3.3, torch.ones(nb.num_edges, dtype=torch.bool))


def energy(positions: torch.Tensor, nb: sk.Neighbors, cell: torch.Tensor | None) -> torch.Tensor:
    """Something smooth of every distance, and of the vectors."""
    vectors = sk.edge_vectors(positions, nb, cell)
    d = sk.safe_norm(vectors)
    return (torch.exp(-d / 2) * torch.cos(d)).sum() + (vectors[:, 0] * vectors[:, 1] ** 2).sum() / 50


@pytest.mark.parametrize("cells", [0, 3])
@pytest.mark.parametrize("spare", [None, 11])
def test_gradients_of_an_energy(cells: int, spare: int | None) -> None:
    """First and second derivatives in positions and cell, self loops at zero distance among the edges."""
    positions, cell = system(7, cells=cells)
    options: dict[str, Any] = {"ptr": torch.tensor([0, 3, 3, 7])} if cells else {}
    nb = sk.neighbor_list(positions, 2.7, cell=cell, self_loops=True, **options)
    if spare is not None:
        nb = sk.neighbor_list(positions, 2.7, cell=cell, self_loops=True, max_edges=nb.num_edges + spare, **options)
    assert (sk.safe_norm(sk.edge_vectors(positions, nb, cell)) == 0).sum() == 7 + (spare or 0)
    leaves = (positions.requires_grad_(), cell.requires_grad_())
    # finite differences leave the kink of |v| at zero alone: loops stay at zero whatever moves
    assert torch.autograd.gradcheck(lambda r, h: energy(r, nb, h), leaves)
    assert torch.autograd.gradgradcheck(lambda r, h: energy(r, nb, h), leaves)
    assert torch.autograd.gradgradcheck(lambda r: energy(r, nb, cell.detach()), leaves[:1])
    assert torch.autograd.gradgradcheck(lambda h: energy(positions.detach(), nb, h), leaves[1:])


def test_forces_and_stress_against_finite_differences_of_the_whole_pipeline() -> None:
    """The list is built anew for each displaced system; a smooth cutoff makes that differentiable."""
    positions, cell = system(8, seed=3)

    def total(r: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        nb = sk.neighbor_list(r.detach(), 3.0, cell=h.detach())
        d = sk.safe_norm(sk.edge_vectors(r, nb, h))
        return ((1 - (d / 3.0) ** 2) ** 4 / (0.3 + d)).sum()

    leaves = (positions.requires_grad_(), cell.requires_grad_())
    assert torch.autograd.gradcheck(total, leaves)
    assert torch.autograd.gradgradcheck(total, leaves)


def test_third_derivative() -> None:
    positions, _ = system(4)
    nb = sk.neighbor_list(positions, 4.0)
    index = nb.edge_index

    def third(run: Any) -> torch.Tensor:
        r = positions.clone().requires_grad_()
        value = run(r)
        for _ in range(3):
            (grad,) = torch.autograd.grad(value, r, create_graph=True)
            value = (grad * torch.arange(12, dtype=FLOAT64).reshape(4, 3).cos()).sum()
        return grad

    expected = third(lambda r: (r[index[0]] - r[index[1]]).norm(dim=1).sin().sum())
    torch.testing.assert_close(third(lambda r: sk.safe_norm(sk.edge_vectors(r, nb)).sin().sum()), expected)


def test_padding_contributes_nothing() -> None:
    positions, cell = system()
    nb = sk.neighbor_list(positions, 3.0, cell=cell)
    padded = sk.neighbor_list(positions, 3.0, cell=cell, max_edges=nb.num_edges + 50)
    found = []
    for graph in (nb, padded):
        r, h = positions.clone().requires_grad_(), cell.clone().requires_grad_()
        vectors = sk.edge_vectors(r, graph, h)
        # a weight that is as large on padding as elsewhere
        weight = (1.0 + torch.arange(vectors.numel(), dtype=FLOAT64)).sin().reshape(vectors.shape).requires_grad_()
        first = torch.autograd.grad((vectors * weight).sum(), (r, h), create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in first), weight)[0]
        found.append((*(g.detach() for g in first), second[: nb.num_edges]))
        assert not vectors[nb.num_edges :].any()
        assert not second[nb.num_edges :].any()
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_atoms_without_edges_and_empty_graphs() -> None:
    for atoms in (0, 1, 3):
        r = (100.0 * torch.arange(3 * atoms, dtype=torch.float32)).reshape(-1, 3).requires_grad_()
        nb = sk.neighbor_list(r.detach(), 1.0)
        vectors = sk.edge_vectors(r, nb)
        assert vectors.shape == (0, 3)
        sk.safe_norm(vectors).sum().backward()
        assert r.grad is not None
        assert not r.grad.any()


def test_sum_of_forces_vanishes() -> None:
    positions, cell = system(50, seed=5)
    r = positions.requires_grad_()
    nb = sk.neighbor_list(positions.detach(), 3.0, cell=cell)
    (grad,) = torch.autograd.grad(energy(r, nb, cell), r)
    assert grad.sum(0).abs().max() < 1e-12 * grad.abs().max() * 50


def test_same_bits_for_any_number_of_threads() -> None:
    random = torch.Generator().manual_seed(2)
    before = torch.get_num_threads()
    for dtype in (torch.float32, FLOAT64):
        positions = (20 * torch.rand((3000, 3), generator=random, dtype=FLOAT64)).to(dtype)
        cell = (20 * torch.eye(3, dtype=FLOAT64) + 0.3).to(dtype).expand(2, 3, 3).contiguous()
        ptr = torch.tensor([0, 1400, 3000])
        found = []
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            nb = sk.neighbor_list(positions, 3.0, ptr=ptr, cell=cell)
            r, h = positions.clone().requires_grad_(), cell.clone().requires_grad_()
            first = torch.autograd.grad(energy(r, nb, h), (r, h), create_graph=True)
            second = torch.autograd.grad(sum((g * g.detach().cos()).sum() for g in first), (r, h))
            found.append((*first, *second))
        torch.set_num_threads(before)
        for other in found[1:]:
            assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_zero_distance_has_zero_gradient_of_every_order() -> None:
    vec = torch.zeros((2, 3), dtype=FLOAT64, requires_grad=True)
    d = sk.safe_norm(vec)
    for _ in range(4):
        (grad,) = torch.autograd.grad(d.sum(), vec, create_graph=True)
        assert not grad.any()
        d = (grad * torch.arange(6).reshape(2, 3)).sum(1)
        if not d.requires_grad:
            break


@pytest.mark.parametrize(("dtype", "tiny", "huge"), [(torch.float32, 1e-30, 1e30), (FLOAT64, 1e-200, 1e200)])
def test_norm_neither_overflows_nor_underflows(dtype: torch.dtype, tiny: float, huge: float) -> None:
    for scale in (tiny, huge):
        vec = (scale * torch.tensor([[3.0, 4.0, 0.0], [1.0, 2.0, 2.0]], dtype=FLOAT64)).to(dtype).requires_grad_()
        d = sk.safe_norm(vec)
        torch.testing.assert_close(d.double(), scale * torch.tensor([5.0, 3.0], dtype=FLOAT64), rtol=1e-6, atol=0)
        (grad,) = torch.autograd.grad(d.sum(), vec)
        expected = torch.tensor([[0.6, 0.8, 0.0], [1 / 3, 2 / 3, 2 / 3]], dtype=dtype)
        torch.testing.assert_close(grad, expected)
    not_a_number = torch.tensor([[float("nan"), 1, 2], [float("inf"), 1, 2]], dtype=dtype)
    assert sk.safe_norm(not_a_number)[0].isnan()
    assert sk.safe_norm(not_a_number)[1] == float("inf")


@pytest.mark.parametrize("room", [None, 3000])
def test_the_pipeline_compiles_as_one_graph(room: int | None) -> None:
    """List, vectors and norms under fullgraph=True: with a fixed size, and with one known only at run time."""
    positions, cell = system(20, seed=7)

    def total(r: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        nb = sk.neighbor_list(r.detach(), 3.0, cell=h.detach(), max_edges=room)
        d = sk.safe_norm(sk.edge_vectors(r, nb, h))
        return (d * torch.exp(-d)).sum()

    torch._dynamo.reset()
    leaves = (positions.requires_grad_(), cell.requires_grad_())
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        got = torch.autograd.grad(torch.compile(total, fullgraph=True, backend="aot_eager")(*leaves), leaves)
    torch.testing.assert_close(got, torch.autograd.grad(total(*leaves), leaves))
