"""The graphs of SANN: named molecules, a plain loop, and independence of the order of the atoms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import symkern as sk
from symkern.testing.geometry import generator, random_rotation


def as_they_are(positions: Tensor, orbit_rank: Tensor, sym: sk.Stabilizers) -> sk.Canonical:
    """Molecules whose positions are canonical as they are."""
    frames = torch.eye(3, dtype=positions.dtype).expand(len(sym), 3, 3)
    return sk.Canonical(frames, positions, positions.new_full((len(sym),), math.inf), orbit_rank, sym)


def in_frame(*molecules: tuple[Tensor, list[int]], noise: float = 0.0, seed: int = 0) -> sk.Canonical:
    """Orbits ranked by size (small first), species, and distance from the centroid."""
    positions = torch.cat([torch.zeros(0, 3, dtype=torch.float64), *(x for x, _ in molecules)])
    positions = positions + noise * (2 * torch.rand(positions.shape, generator=generator(seed)) - 1)
    numbers = torch.tensor([z for _, species in molecules for z in species], dtype=torch.int64)
    ptr = torch.tensor([0, *(len(x) for x, _ in molecules)]).cumsum(0)
    sym = sk.stabilizers(positions, numbers, ptr=ptr)
    rank = torch.zeros(len(numbers), dtype=torch.int64)
    for b, (begin, end) in enumerate(itertools.pairwise(ptr.tolist())):
        atoms = range(begin, end)
        keys = {}
        for root in {int(sym.orbits[i]) for i in atoms}:
            members = [i for i in atoms if int(sym.orbits[i]) == root]
            radius = (positions[members] - sym.centroid[b]).norm(dim=1).mean()
            keys[root] = len(members), int(numbers[root]), round(float(radius), 2), positions[members].amin(0).tolist()
        ranked = sorted(keys, key=lambda root: keys[root])
        for i in atoms:
            rank[i] = ranked.index(int(sym.orbits[i]))
    return as_they_are(positions, rank, sym)


WATER = torch.tensor([[0, 0, -0.05], [0.76, 0, 0.4], [-0.76, 0, 0.4]], dtype=torch.float64), [8, 1, 1]
_angle = torch.arange(6, dtype=torch.float64) * math.pi / 3
_ring = torch.stack([_angle.cos(), _angle.sin(), 0 * _angle], 1)
BENZENE = torch.cat([1.39 * _ring, 2.48 * _ring]), [6] * 6 + [1] * 6
_corners = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
METHANE = torch.cat([torch.zeros(1, 3, dtype=torch.float64), 0.63 * _corners]), [6, 1, 1, 1, 1]
CARBON_DIOXIDE = torch.tensor([[0.0, 0, -1.16], [0, 0, 0], [0, 0, 1.16]], dtype=torch.float64), [8, 6, 8]
ARGON = torch.zeros(1, 3, dtype=torch.float64), [18]
NOTHING = torch.zeros(0, 3, dtype=torch.float64), []


def chain(atoms: int, seed: int = 0) -> tuple[Tensor, list[int]]:
    """No symmetry, and longer than the cutoff."""
    wobble = torch.rand((atoms, 3), generator=generator(seed), dtype=torch.float64)
    return wobble + 1.3 * torch.arange(atoms)[:, None] * torch.tensor([1.0, 0, 0]), [6, 7, 8] * (atoms // 3)


ALL = (WATER, chain(9), BENZENE, NOTHING, METHANE, ARGON, CARBON_DIOXIDE, chain(12, 1))


def pairs(nb: sk.Neighbors) -> list[tuple[int, int]]:
    """(receiver, sender)"""
    return [(i, j) for j, i in nb.edge_index.T.tolist()]


def check_graph(nb: sk.Neighbors) -> None:
    """What `Neighbors` promises."""
    found = pairs(nb)
    assert found == sorted(set(found))
    counts = torch.bincount(nb.receivers, minlength=nb.num_nodes)
    assert torch.equal(nb.row_ptr, torch.cat([counts.new_zeros(1), counts.cumsum(0)]))
    assert nb.self_loops
    assert nb.full
    assert all((i, i) in found for i in range(nb.num_nodes))
    assert (nb.reverse >= 0).all()


def by_loops(canonical: sk.Canonical, cutoff: float) -> tuple[list, list, list, list]:
    """class_of, representatives, edges within, edges across; without ties."""
    sym, x = canonical.sym, canonical.positions
    classes: list[list[int]] = []
    class_of = [0] * len(x)
    representatives: list[int] = []
    within, across = [], []
    for b, (begin, end) in enumerate(itertools.pairwise(sym.ptr.tolist())):
        first = len(classes)
        for rank in sorted({int(r) for r in canonical.orbit_rank[begin:end]}):
            classes.append([i for i in range(begin, end) if int(canonical.orbit_rank[i]) == rank])
            chosen = representatives[first:]
            keys = {
                i: (
                    round(min((float((x[i] - x[k]).norm()) for k in chosen), default=0.0), 3),
                    *x[i].round(decimals=3).tolist(),
                )
                for i in classes[-1]
            }
            representatives.append(min(classes[-1], key=lambda i: keys[i]))
        for c in range(first, len(classes)):
            for i in classes[c]:
                class_of[i] = c
                within += [(i, j) for j in classes[c]]
            for other in range(first, len(classes)):
                distance = float((x[representatives[c]] - x[representatives[other]]).norm())
                if int(sym.order[b]) != 1 or distance < cutoff:
                    across.append((c, other))
    return class_of, representatives, sorted(within), across


@pytest.mark.parametrize("cutoff", [3.0, 8.0])
def test_plain_loop(cutoff) -> None:
    canonical = in_frame(*ALL)
    graphs = sk.sann_graphs(canonical, cutoff)
    class_of, representatives, within, across = by_loops(canonical, cutoff)
    assert graphs.class_of.tolist() == class_of
    assert graphs.representatives.tolist() == representatives
    assert pairs(graphs.within) == within
    assert pairs(graphs.across) == across
    check_graph(graphs.within)
    check_graph(graphs.across)
    assert torch.equal(graphs.within.ptr, canonical.sym.ptr)
    assert graphs.across.ptr.diff().tolist() == [2, 9, 2, 0, 2, 1, 2, 12]
    assert graphs.num_classes == 30
    for c, (begin, end) in enumerate(itertools.pairwise(graphs.member_ptr.tolist())):
        assert graphs.members[begin:end].tolist() == [i for i, k in enumerate(class_of) if k == c]
    assert repr(graphs) == f"SannGraphs(45 atoms, 30 classes, 8 molecules, {len(within)} + {len(across)} edges)"
    for nb, x, references in (
        (graphs.within, canonical.positions, graphs.within_references),
        (graphs.across, canonical.positions[graphs.representatives], graphs.across_references),
    ):
        assert torch.equal(references, sk.reference_neighbors(x, nb, tie=0.02))


def test_water() -> None:
    graphs = sk.sann_graphs(in_frame(WATER))
    # the hydrogen with the smaller x
    assert graphs.representatives.tolist() == [0, 2]
    assert graphs.class_of.tolist() == [0, 1, 1]
    assert pairs(graphs.within) == [(0, 0), (1, 1), (1, 2), (2, 1), (2, 2)]
    assert pairs(graphs.across) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_benzene() -> None:
    """The carbon that is the first choice, and the hydrogen that is bound to it."""
    graphs = sk.sann_graphs(in_frame(BENZENE))
    first, second = graphs.representatives.tolist()
    assert second - first == -6 or first - second == -6
    assert graphs.within.num_edges == 2 * 36
    assert graphs.across.num_edges == 4


def test_without_symmetry() -> None:
    """Every atom is a class of its own; across them a radius graph."""
    molecule = chain(12)
    canonical = in_frame(molecule)
    assert canonical.sym.labels == ["C1"]
    graphs = sk.sann_graphs(canonical, 4.0)
    order = graphs.representatives
    assert sorted(order.tolist()) == list(range(12))
    assert pairs(graphs.within) == [(i, i) for i in range(12)]
    d = torch.cdist(molecule[0], molecule[0])
    near = {(int(i), int(j)) for i, j in (d < 4.0).nonzero()}
    assert {(int(order[c]), int(order[k])) for c, k in pairs(graphs.across)} == near
    assert len(near) < 144


@pytest.mark.parametrize("noise", [0.0, 0.003])
@pytest.mark.parametrize("seed", range(3))
def test_order_of_atoms(seed, noise) -> None:
    """Any order, and noise below the tolerance: the same atoms are chosen, in molecules that are nothing but ties."""
    plain = in_frame(*ALL)
    expected = sk.sann_graphs(plain)
    parts, back = [], []
    for k, (x, z) in enumerate(ALL):
        order = torch.randperm(len(x), generator=generator(10 * seed + k))
        parts.append((x[order], [z[i] for i in order]))
        back.append(order + sum(len(m[0]) for m in ALL[:k]))
    place = torch.cat(back)
    # each class must keep its rank, which this test's own ranking by rounded distances does not promise
    mixed = in_frame(*parts, noise=noise, seed=seed)
    mixed.orbit_rank = plain.orbit_rank[place]
    found = sk.sann_graphs(mixed)
    assert torch.equal(place[found.representatives], expected.representatives)
    assert torch.equal(found.class_of, expected.class_of[place])
    assert torch.equal(found.across.edge_index, expected.across.edge_index)
    assert sorted((int(place[i]), int(place[j])) for i, j in pairs(found.within)) == pairs(expected.within)
    for a, b, label in (
        (found.within_references, expected.within_references[place], place),
        (found.across_references, expected.across_references, torch.arange(30)),
    ):
        ours, theirs = (found.within, expected.within) if label is place else (found.across, expected.across)
        assert torch.equal(a < 0, b < 0)
        assert torch.equal(torch.where(a < 0, -1, label[ours.senders[a]]), torch.where(b < 0, -1, theirs.senders[b]))


def test_shared_rank() -> None:
    """Orbits that nothing tells apart but their place: by coordinates, not by index."""
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        positions = torch.tensor([[0.0, 0, 1], [0, 0, -1.2], [0.3, 1, 0], [-2, 0, 0]], dtype=torch.float64)[order]
        canonical = in_frame((positions, [1, 1, 1, 1]))
        canonical.orbit_rank = torch.zeros(4, dtype=torch.int64)
        graphs = sk.sann_graphs(canonical)
        assert [order[i] for i in graphs.representatives] == [3, 1, 0, 2]


def test_batching() -> None:
    together = sk.sann_graphs(in_frame(*ALL))
    atoms = classes = 0
    for molecule in ALL:
        alone = sk.sann_graphs(in_frame(molecule))
        n, o = len(molecule[0]), alone.num_classes
        assert torch.equal(together.class_of[atoms : atoms + n] - classes, alone.class_of)
        assert torch.equal(together.representatives[classes : classes + o] - atoms, alone.representatives)
        inside = (together.across.receivers >= classes) & (together.across.receivers < classes + o)
        assert torch.equal(together.across.edge_index[:, inside] - classes, alone.across.edge_index)
        atoms, classes = atoms + n, classes + o


def test_no_molecules() -> None:
    graphs = sk.sann_graphs(in_frame())
    assert graphs.num_classes == 0
    assert graphs.within.num_edges == graphs.across.num_edges == 0
    first, second = sk.sann_edge_features(torch.zeros(0, 3), graphs.within, 8.0, 3, 2)
    assert first.shape == (0, 18)
    assert second.shape == (0, 6)


def test_features_of_both_graphs() -> None:
    canonical = in_frame(*ALL)
    graphs = sk.sann_graphs(canonical)
    x = canonical.positions.clone().requires_grad_()
    within = sk.sann_edge_features(x, graphs.within, 8.0, 4, 3, references=graphs.within_references)
    across = sk.sann_edge_features(
        x[graphs.representatives], graphs.across, 8.0, 4, 3, references=graphs.across_references
    )
    assert [len(f) for f in (*within, *across)] == [graphs.within.num_edges] * 2 + [graphs.across.num_edges] * 2
    (grad,) = torch.autograd.grad(sum(f.square().sum() for f in (*within, *across)), x)
    assert grad.isfinite().all()
    # the six carbons of benzene see the same, as the operations that exchange them say: sums over what each receives
    carbons = sk.segment_sum(within[0].detach()[:, :3], graphs.within.row_ptr)[12:18]
    torch.testing.assert_close(carbons, carbons[:1].expand(6, -1))


def test_device_and_errors(device) -> None:
    canonical = in_frame(*ALL)
    graphs = sk.sann_graphs(canonical)
    there = sk.sann_graphs(canonical.to(device))
    for name in ("representatives", "class_of", "members", "member_ptr", "within_references", "across_references"):
        assert torch.equal(getattr(there, name).cpu(), getattr(graphs, name))
        assert torch.equal(getattr(graphs.to(device), name), getattr(there, name))
    assert torch.equal(there.across.edge_index.cpu(), graphs.across.edge_index)
    assert torch.equal(there.within.edge_index.cpu(), graphs.within.edge_index)
    for cutoff in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="cutoff must be positive and finite"):
            sk.sann_graphs(canonical, cutoff)


def test_op_of_representatives() -> None:
    canonical = in_frame(*ALL)
    graphs = sk.sann_graphs(canonical)
    op = torch.ops.symkern.class_representatives.default
    arguments = canonical.positions, graphs.members, graphs.member_ptr, graphs.across.ptr
    torch.library.opcheck(op, (*arguments, 0.02))
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(op(*arguments, 0.02), graphs.representatives)
    torch.set_num_threads(before)
    x, members, starts, ptr = arguments
    for bad, match in (
        ((x.long(), members, starts, ptr), "positions must be float32 or float64"),
        ((x, members[1:], starts, ptr), r"members must have shape \(45,\)"),
        ((x, members + 1, starts, ptr), "members holds an index out of range"),
        ((x, members, starts + 1, ptr), "class_ptr holds an index out of range"),
        ((x, members, starts, ptr + 1), "ptr holds an index out of range"),
        ((x, members, starts[:0], ptr), "class_ptr and ptr must have shapes"),
    ):
        with pytest.raises(ValueError, match=match):
            op(*bad, 0.02)
    with pytest.raises(ValueError, match="tie must be finite"):
        op(*arguments, -1.0)


@pytest.mark.parametrize("seed", range(3))
def test_copies_through_canonicalize(seed) -> None:
    """Rotated, reflected, shifted and permuted copies: the same features, whatever graphs and frames decide by ties."""
    parts = [m for m in ALL if len(m[0]) > 1]
    features = []
    for copy in (0, 1):
        positions, numbers, sizes = [], [], []
        for k, (x, z) in enumerate(parts):
            random = generator(100 * seed + k)
            order = torch.randperm(len(x), generator=random) if copy else torch.arange(len(x))
            turn = random_rotation(random) * (-1) ** k if copy else torch.eye(3, dtype=torch.float64)
            positions.append(x[order] @ turn.T + 5 * copy)
            numbers += [z[i] for i in order]
            sizes.append(len(x))
        ptr = torch.tensor([0, *sizes]).cumsum(0)
        canonical = sk.canonicalize(torch.cat(positions), torch.tensor(numbers), ptr=ptr)
        graphs = sk.sann_graphs(canonical)
        x = canonical.positions
        within = sk.sann_edge_features(x, graphs.within, 8.0, 3, 3, references=graphs.within_references)
        across = sk.sann_edge_features(
            x[graphs.representatives], graphs.across, 8.0, 3, 3, references=graphs.across_references
        )
        assert graphs.across.ptr.diff().tolist() == [2, 9, 2, 2, 2, 12]
        # classes and their representatives come in the same order; atoms are compared by their canonical places
        atoms = torch.cat([x, *(sk.segment_sum(f, graphs.within.row_ptr) for f in within)], 1)
        atoms = [sorted(atoms[a:b].round(decimals=4).tolist()) for a, b in itertools.pairwise(ptr.tolist())]
        features.append((across, torch.tensor([row for molecule in atoms for row in molecule])))
    for a, b in zip(features[0][0], features[1][0], strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)
    torch.testing.assert_close(features[0][1], features[1][1], atol=2e-4, rtol=0)
