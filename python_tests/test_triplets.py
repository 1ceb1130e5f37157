"""Named systems for triplets; the contract has the rest."""

from __future__ import annotations

from itertools import product

import pytest
import torch

import symkern as sk


def brute_force(nb: sk.Neighbors) -> list[tuple[int, int]]:
    edges = [(int(j), int(i), tuple(s.tolist())) for j, i, s in zip(nb.senders, nb.receivers, nb.shifts, strict=True)][
        : int(nb.row_ptr[-1])
    ]
    found = []
    for (ji, (j, i, s)), (kj, (k, end, t)) in product(enumerate(edges), repeat=2):
        loops = (i == j and s == (0, 0, 0)) or (k == j and t == (0, 0, 0))
        back = k == i and all(a + b == 0 for a, b in zip(s, t, strict=True))
        if end == j and not loops and not back:
            found.append((kj, ji))
    return found


def pairs(tri: sk.Triplets) -> list[tuple[int, int]]:
    return [tuple(p) for p in tri.index.T.tolist()]


@pytest.mark.parametrize("self_loops", [False, True])
@pytest.mark.parametrize("periodic", [False, True])
def test_against_brute_force(periodic, self_loops) -> None:
    positions = 3 * torch.rand((7, 3))
    cell = 3 * torch.eye(3) if periodic else None
    nb = sk.neighbor_list(positions, 1.9, cell=cell, self_loops=self_loops, batch=torch.tensor([0] * 4 + [1] * 3))
    tri = sk.triplets(nb)
    assert pairs(tri) == brute_force(nb)
    assert len(pairs(tri)) > 0
    counts = torch.bincount(tri.ji, minlength=nb.num_edges)
    assert torch.equal(tri.ptr.diff(), counts)


def test_water() -> None:
    positions = torch.tensor([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    nb = sk.neighbor_list(positions, 1.2)  # no edge between the hydrogens
    tri = sk.triplets(nb)
    ends = torch.stack([nb.senders[tri.kj], nb.senders[tri.ji], nb.receivers[tri.ji]], 1)
    assert sorted(ends.tolist()) == [[1, 0, 2], [2, 0, 1]]


def test_one_atom_per_cell_has_angles_with_its_own_images() -> None:
    """Six neighbors in a simple cubic lattice: of 36 pairs, six lead straight back."""
    nb = sk.neighbor_list(torch.zeros((1, 3)), 1.1, cell=torch.eye(3))
    tri = sk.triplets(nb)
    assert (nb.num_edges, tri.num_triplets) == (6, 30)
    angles = sk.edge_angles(sk.edge_vectors(torch.zeros((1, 3)), nb, torch.eye(3)), tri)
    degrees = torch.rad2deg(angles).round().int()
    assert torch.bincount(degrees)[[90, 180]].tolist() == [24, 6]


def test_same_as_pyg_without_images() -> None:
    """PyG leaves out triplets with equal indices of k and i."""
    nb = sk.neighbor_list(4 * torch.rand((12, 3)), 2.5)
    kj, ji = (nb.receivers[None, :] == nb.senders[:, None]).nonzero(as_tuple=True)[::-1]
    keep = nb.senders[kj] != nb.receivers[ji]
    assert torch.equal(sk.triplets(nb).index, torch.stack([kj, ji])[:, keep])


def test_order_by_kj() -> None:
    nb = sk.neighbor_list(3 * torch.rand((9, 3)), 2.5)
    count = sk.triplets(nb).num_triplets
    tri = sk.triplets(nb, max_triplets=count + 3)
    assert torch.equal(tri.kj_order[:count], torch.sort(tri.kj[:count], stable=True).indices)
    assert tri.kj_order[count:].tolist() == [count, count + 1, count + 2]
    assert torch.equal(tri.kj_ptr.diff(), torch.bincount(tri.kj[:count], minlength=nb.num_edges))
    assert torch.equal(tri.to("cpu").kj_order, tri.kj_order)


def test_frozen() -> None:
    tri = sk.triplets(sk.neighbor_list(torch.rand((3, 3)), 2.0))
    with pytest.raises(AttributeError):
        tri.index = tri.index[:, :1]  # type: ignore[misc]


def test_a_graph_built_wrongly_by_hand_is_refused() -> None:
    nb = sk.Neighbors(torch.tensor([[10**8], [0]]), torch.tensor([0, 1, 1]), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="edge_index holds an index out of range"):
        sk.triplets(nb)
