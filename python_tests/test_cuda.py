"""What only a GPU can show beyond the contract: mixed devices, CUDA graphs, errors that arrive late."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import symkern as sk

pytestmark = pytest.mark.cuda


def system(device: str = "cuda", atoms: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return 10 * torch.rand((atoms, 3), generator=random).to(device), (10 * torch.eye(3)).to(device)


@pytest.mark.parametrize("name", ["cell", "ptr", "batch", "pbc"])
def test_mixed_devices(name: str) -> None:
    positions, cell = system()
    options: dict[str, Any] = {"cell": cell}
    given = {
        "cell": cell,
        "ptr": torch.tensor([0, 200], device="cuda"),
        "batch": torch.zeros(200, dtype=torch.int64, device="cuda"),
        "pbc": torch.ones(3, dtype=torch.bool, device="cuda"),
    }
    options[name] = given[name].cpu()
    with pytest.raises(ValueError, match=rf"{name} must be on the device of positions \(cuda:0\), got cpu"):
        sk.neighbor_list(positions, 3.0, **options)
    if name != "cell":
        options = {"cell": cell.cpu(), name: given[name]}
        with pytest.raises(ValueError, match="must be on the device of positions"):
            sk.neighbor_list(positions.cpu(), 3.0, **options)


def test_mixed_devices_of_a_graph() -> None:
    positions, cell = system()
    nb = sk.neighbor_list(positions, 3.0, cell=cell)
    with pytest.raises(ValueError, match="must be on the device of"):
        sk.edge_vectors(positions.cpu(), nb, cell.cpu())
    with pytest.raises(ValueError, match="must be on the device of"):
        sk.edge_vectors(positions, nb.to("cpu"), cell)


def test_to_and_back() -> None:
    positions, cell = system("cpu")
    nb = sk.neighbor_list(positions, 3.0, cell=cell)
    views = nb.reverse, nb.sender_order, nb.sender_ptr
    there = nb.to("cuda")
    fresh = sk.neighbor_list(positions.cuda(), 3.0, cell=cell.cuda())
    for name in ("edge_index", "shifts", "row_ptr", "ptr", "reverse", "sender_order", "sender_ptr"):
        assert torch.equal(getattr(there, name), getattr(fresh, name))
    assert all(torch.equal(a, b) for a, b in zip(views, (nb.reverse, nb.sender_order, nb.sender_ptr), strict=True))


def test_cuda_graph() -> None:
    """A list of fixed size and what is computed from it, captured once and replayed on new positions."""
    positions, cell = system()
    room = 2 * sk.neighbor_list(positions, 3.0, cell=cell).num_edges

    def step() -> tuple[sk.Neighbors, torch.Tensor]:
        nb = sk.neighbor_list(positions, 3.0, cell=cell, max_edges=room)
        return nb, sk.safe_norm(sk.edge_vectors(positions, nb, cell))

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        nb, d = step()
    for seed in range(3):
        positions.copy_(10 * torch.rand((200, 3), generator=torch.Generator().manual_seed(seed)))
        graph.replay()
        fresh = sk.neighbor_list(positions, 3.0, cell=cell)
        end = fresh.num_edges
        assert torch.equal(nb.row_ptr, fresh.row_ptr)
        assert torch.equal(nb.edge_index[:, :end], fresh.edge_index)
        assert torch.equal(nb.shifts[:end], fresh.shifts)
        assert not nb.edge_index[:, end:].any()
        assert torch.equal(d[:end], sk.safe_norm(sk.edge_vectors(positions, fresh, cell)))


def test_overflow_inside_a_cuda_graph_is_raised_by_the_next_synchronising_call() -> None:
    positions, cell = system()
    sk.neighbor_list(positions, 3.0, cell=cell)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sk.neighbor_list(positions, 3.0, cell=cell, max_edges=7)
    for _ in range(2):
        graph.replay()
        with pytest.raises(ValueError, match=r"earlier neighbor_list with max_edges.*max_edges is too small"):
            sk.neighbor_list(positions, 3.0, cell=cell)
        sk.neighbor_list(positions, 3.0, cell=cell)  # told once


def test_no_synchronisation_with_a_fixed_size() -> None:
    positions, cell = system()
    found = sk.neighbor_list(positions, 3.0, cell=cell).num_edges
    torch.cuda.set_sync_debug_mode("error")
    try:
        nb = sk.neighbor_list(positions, 3.0, cell=cell, max_edges=found)
        sk.safe_norm(sk.edge_vectors(positions, nb, cell))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert int(nb.row_ptr[-1]) == found


def test_the_result_depends_on_nothing_but_the_input() -> None:
    """Large enough for many blocks: bit-identical from run to run, and to the host."""
    random = torch.Generator().manual_seed(1)
    for dtype in (torch.float32, torch.float64):
        positions = (45 * torch.rand((9000, 3), generator=random, dtype=torch.float64)).to(dtype)
        cell = (45 * torch.eye(3, dtype=torch.float64) + 0.5).to(dtype)
        here = sk.neighbor_list(positions, 4.0, cell=cell)
        for _ in range(3):
            there = sk.neighbor_list(positions.cuda(), 4.0, cell=cell.cuda())
            for name in ("edge_index", "shifts", "row_ptr"):
                assert torch.equal(getattr(there, name).cpu(), getattr(here, name))
