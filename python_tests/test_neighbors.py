"""`Neighbors`: graphs from any edge_index, and the views that ops use, against brute force."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import symkern as sk

ATOMS = 5


@st.composite
def edges(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Unsorted, asymmetric, with repeated edges and self loops; with or without shifts."""
    atom = st.integers(0, ATOMS - 1)
    pairs = draw(st.lists(st.tuples(atom, atom), max_size=25))
    index = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    if draw(st.booleans()):
        return index, None
    shift = st.integers(-1, 1)
    shifts = [draw(st.tuples(shift, shift, shift)) for _ in pairs]
    return index, torch.tensor(shifts, dtype=torch.int32).reshape(-1, 3)


@given(edges())
def test_from_edge_index(graph: tuple[torch.Tensor, torch.Tensor | None]) -> None:
    index, shifts = graph
    nb = sk.Neighbors.from_edge_index(index, ATOMS, shifts)
    given_edges = [(i, j, *s) for (j, i), s in zip(index.T.tolist(), _shifts(index, shifts), strict=True)]
    table = [(i, j, *s) for (j, i), s in zip(nb.edge_index.T.tolist(), nb.shifts.tolist(), strict=True)]
    assert table == sorted(given_edges)
    # a stable sort: of equal edges the first stays first
    assert nb.order.tolist() == sorted(range(len(given_edges)), key=lambda e: given_edges[e])
    assert [given_edges[e] for e in nb.order.tolist()] == table
    counts = [sum(edge[0] == i for edge in table) for i in range(ATOMS)]
    assert nb.row_ptr.diff().tolist() == counts
    assert nb.row_ptr[0] == 0
    assert (nb.num_nodes, nb.num_edges, nb.num_structures) == (ATOMS, len(table), 1)
    assert (nb.cell_shifts is None) == (shifts is None)
    assert nb.batch.tolist() == [0] * ATOMS


@given(edges())
def test_views(graph: tuple[torch.Tensor, torch.Tensor | None]) -> None:
    index, shifts = graph
    nb = sk.Neighbors.from_edge_index(index, ATOMS, shifts)
    senders = nb.senders.tolist()
    assert nb.sender_order.tolist() == sorted(range(nb.num_edges), key=lambda e: senders[e])
    assert nb.sender_ptr.tolist() == [sum(j < i for j in senders) for i in range(ATOMS + 1)]
    check_reverse(nb)


def check_reverse(nb: sk.Neighbors) -> None:
    """The k-th of equal edges belongs to the k-th of their reverses."""
    end = int(nb.row_ptr[-1])
    edges = [(i, j, *s) for (j, i), s in zip(nb.edge_index.T.tolist()[:end], nb.shifts.tolist(), strict=False)]
    places, rank, expected = defaultdict(list), defaultdict(int), []
    for e, edge in enumerate(edges):
        places[edge].append(e)
    for i, j, *s in edges:
        others = places[(j, i, *(-x for x in s))]
        k = rank[(i, j, *s)]
        rank[(i, j, *s)] += 1
        expected.append(others[k] if k < len(others) else -1)
    assert nb.reverse.tolist() == expected + [-1] * (nb.num_edges - end)


def _shifts(index: torch.Tensor, shifts: torch.Tensor | None) -> list[list[int]]:
    return [[0, 0, 0]] * index.shape[1] if shifts is None else shifts.tolist()


@pytest.mark.parametrize("spare", [0, 7])
def test_views_of_a_list_with_padding(spare: int) -> None:
    positions = 4 * torch.rand((20, 3), generator=torch.Generator().manual_seed(1))
    options = {"cell": torch.tensor([[4.0, 0, 0], [1, 4, 0], [0, -1, 5]]), "ptr": torch.tensor([0, 8, 8, 20])}
    real = sk.neighbor_list(positions, 2.5, **options).num_edges
    nb = sk.neighbor_list(positions, 2.5, max_edges=real + spare, **options)
    check_reverse(nb)
    assert (nb.reverse[:real] >= 0).all()  # a full list is symmetric
    assert torch.equal(nb.reverse[nb.reverse[:real]], torch.arange(real))
    # padding comes last and belongs to no sender
    assert nb.sender_order[real:].tolist() == list(range(real, real + spare))
    assert nb.sender_ptr[-1] == real
    assert (nb.senders[nb.sender_order[:real]].diff() >= 0).all()
    assert nb.batch.tolist() == [0] * 8 + [2] * 12


def test_half_list_has_no_reverse() -> None:
    nb = sk.neighbor_list(3 * torch.rand((10, 3)), 2.0, full=False)
    assert nb.num_edges > 0
    assert (nb.reverse == -1).all()


def test_order_carries_edge_attributes() -> None:
    index = torch.tensor([[2, 0, 1, 2, 0], [0, 2, 0, 0, 1]])
    nb = sk.Neighbors.from_edge_index(index, 3)
    attributes = index[0] * 10 + index[1]
    assert torch.equal(attributes[nb.order], nb.senders * 10 + nb.receivers)


def test_to_takes_views_along() -> None:
    index = torch.tensor([[2, 0, 1], [0, 2, 0]])
    nb = sk.Neighbors.from_edge_index(index, 3, torch.zeros((3, 3), dtype=torch.int64), torch.tensor([0, 3]))
    lazy = nb.to("cpu")
    assert not {"batch", "reverse", "_by_sender"} & set(lazy.__dict__)
    views = nb.batch, nb.reverse, nb.sender_order, nb.sender_ptr
    moved = nb.to("cpu")
    assert {"batch", "reverse", "_by_sender"} <= set(moved.__dict__)
    for a, b in zip(views, (moved.batch, moved.reverse, moved.sender_order, moved.sender_ptr), strict=True):
        assert torch.equal(a, b)
    for name in ("edge_index", "row_ptr", "ptr", "cell_shifts", "order"):
        assert torch.equal(getattr(moved, name), getattr(nb, name))
    assert nb.cell_shifts.dtype == torch.int32
    other = nb.to("meta")
    assert {other.edge_index.device.type, other.ptr.device.type, other.reverse.device.type} == {"meta"}


def test_no_edges_no_atoms() -> None:
    empty = torch.zeros((2, 0), dtype=torch.int64)
    for atoms in (0, 3):
        nb = sk.Neighbors.from_edge_index(empty, atoms)
        assert nb.row_ptr.tolist() == [0] * (atoms + 1)
        assert nb.reverse.shape == nb.sender_order.shape == (0,)
        assert nb.sender_ptr.tolist() == [0] * (atoms + 1)


INDEX = torch.tensor([[0, 1], [1, 0]])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((INDEX[0], 2), r"edge_index must have shape \(2, E\), got \(2,\)"),
        ((INDEX.int(), 2), "edge_index must be int64, got torch.int32"),
        ((INDEX, -1), "num_nodes must not be negative, got -1"),
        ((INDEX, 1), r"edge_index must lie in 0 \.\. 0 \(num_nodes = 1\), got 0 \.\. 1"),
        ((-INDEX, 2), r"edge_index must lie in 0 \.\. 1 .*got -1 \.\. 0"),
        ((INDEX, 2, torch.zeros((3, 3), dtype=torch.int32)), r"shifts must be integers of shape \(2, 3\)"),
        ((INDEX, 2, torch.zeros((2, 3))), "shifts must be integers"),
        ((INDEX, 2, None, torch.tensor([0, 1])), "ptr must rise from 0 to num_nodes = 2"),
        ((INDEX, 2, None, torch.tensor([0, 2, 1, 2])), "ptr must rise"),
        ((INDEX, 2, None, torch.tensor([0.0, 2.0])), "ptr must be int64"),
        (
            (INDEX, 2, torch.zeros((2, 3), dtype=torch.int32, device="meta")),
            "shifts must be on .* got meta",
        ),
    ],
)
def test_bad_input(arguments: tuple, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sk.Neighbors.from_edge_index(*arguments)


def test_padding_is_masked() -> None:
    r = torch.rand(5, 3)
    full = sk.neighbor_list(r, 2.0)
    padded = sk.neighbor_list(r, 2.0, max_edges=full.num_edges + 3)
    assert full.edge_mask.all()
    assert padded.edge_mask.tolist() == [True] * full.num_edges + [False] * 3
    assert torch.equal(padded.edge_index[:, padded.edge_mask], full.edge_index)


def test_from_edge_index_with_batch() -> None:
    edge_index = torch.tensor([[1, 0, 3], [0, 1, 2]])
    graph = sk.Neighbors.from_edge_index(edge_index, 4, batch=torch.tensor([0, 0, 1, 1]))
    assert graph.ptr.tolist() == [0, 2, 4]
    with pytest.raises(ValueError, match="crosses structures"):
        sk.Neighbors.from_edge_index(torch.tensor([[1], [2]]), 4, batch=torch.tensor([0, 0, 1, 1]))
    with pytest.raises(ValueError, match="batch must be sorted"):
        sk.Neighbors.from_edge_index(edge_index, 4, batch=torch.tensor([1, 0, 1, 1]))
    with pytest.raises(ValueError, match="give one of them"):
        sk.Neighbors.from_edge_index(edge_index, 4, batch=torch.zeros(4).long(), ptr=torch.tensor([0, 4]))
    with pytest.raises(ValueError, match="fit into int32"):
        sk.Neighbors.from_edge_index(edge_index, 4, shifts=torch.full((3, 3), 2**40))
    with pytest.raises(TypeError, match=r"edge_index must be a torch\.Tensor, got numpy\.ndarray"):
        sk.Neighbors.from_edge_index(edge_index.numpy(), 4)


def test_what_is_not_a_tensor_is_named() -> None:
    r = torch.rand(5, 3)
    with pytest.raises(TypeError, match=r"positions must be a torch\.Tensor, got numpy\.ndarray; for NumPy"):
        sk.neighbor_list(r.numpy(), 2.0)
    with pytest.raises(TypeError, match=r"ptr must be a torch\.Tensor, got builtins\.list"):
        sk.neighbor_list(r, 2.0, ptr=[0, 5])
    with pytest.raises(TypeError, match=r"nb must be symkern\.Neighbors"):
        sk.edge_vectors(r, sk.neighbor_list(r, 2.0).edge_index)
    with pytest.raises(TypeError, match=r"vec must be a torch\.Tensor"):
        sk.safe_norm(r.numpy())
    with pytest.raises(ValueError, match="max_edges must not be negative, got -1"):
        sk.neighbor_list(r, 2.0, max_edges=-1)


def test_forward_mode_is_refused() -> None:
    r = torch.rand(5, 3)
    nb = sk.neighbor_list(r, 2.0)
    for function in (sk.safe_norm, lambda x: sk.edge_vectors(x, nb)):
        with pytest.raises(RuntimeError, match="no forward-mode derivative"):
            torch.func.jvp(function, (r,), (r,))


@pytest.mark.parametrize(
    ("edge_index", "row_ptr"),
    [([[10**8], [0]], [0, 1, 1]), ([[0], [-5]], [0, 1, 1]), ([[1], [0]], [0, 1, 10**9]), ([[1], [0]], [0, -4, 1])],
)
def test_a_graph_built_wrongly_by_hand_is_refused(edge_index: list[list[int]], row_ptr: list[int]) -> None:
    """It must not read or write outside its tensors, whichever op meets it first."""
    r = torch.zeros(2, 3, requires_grad=True)

    def graph() -> sk.Neighbors:
        return sk.Neighbors(torch.tensor(edge_index), torch.tensor(row_ptr), torch.tensor([0, 2]))

    def gradient(nb: sk.Neighbors) -> None:
        torch.autograd.grad(sk.edge_vectors(r, nb).sum(), r)

    with pytest.raises(ValueError, match=r"row_ptr|edge_index|out of range"):
        gradient(graph())


def test_graphs_made_in_inference_mode_can_train() -> None:
    r = torch.rand(5, 3)
    nb = sk.neighbor_list(r, 2.0)
    verlet = sk.VerletList(2.0, 0.5)
    with torch.inference_mode():
        assert nb.sender_order.numel() == nb.num_edges
        made = verlet(r)
    for graph in (nb, made):
        x = r.clone().requires_grad_()
        torch.autograd.grad(sk.edge_vectors(x, graph).square().sum(), x)
