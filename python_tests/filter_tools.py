"""What the tests of cfconv and painn_message share: graphs, and memory as torch's profiler sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import symkern as sk

CUTOFF = 5.0


def molecules(count: int, atoms: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, sk.Neighbors]:
    """Positions of molecules whose atoms all see each other, and their graph."""
    random = torch.Generator().manual_seed(0)
    pos = 2.5 * torch.rand((count * atoms, 3), generator=random, dtype=torch.float64)
    pos = pos.to(dtype)
    return pos, sk.neighbor_list(pos, CUTOFF, ptr=torch.arange(0, count * atoms + 1, atoms))


def star(leaves: int) -> tuple[Tensor, sk.Neighbors]:
    """Distances of an atom that receives from and sends to all others, and the graph."""
    others = torch.arange(1, leaves + 1)
    hub = torch.zeros_like(others)
    index = torch.stack([torch.cat([others, hub]), torch.cat([hub, others])])
    nb = sk.Neighbors.from_edge_index(index, leaves + 1)
    length = 0.5 + 4 * torch.rand(leaves, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return length[nb.edge_index.amax(0) - 1], nb


def random_graph(atoms: int, edges: int) -> sk.Neighbors:
    """Edges between any two atoms: no order that a cache or a chunk could use."""
    random = torch.Generator().manual_seed(0)
    return sk.Neighbors.from_edge_index(torch.randint(0, atoms, (2, edges), generator=random), atoms)


def memory(step: Callable[[], Any]) -> tuple[int, int]:
    """Largest allocation in bytes, and the largest sum of what was allocated and not yet freed, during a step."""
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, record_shapes=False) as trace:
        step()
    largest = held = peak = 0
    for event in trace.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            size = event.nbytes()
            largest, held = max(largest, size), held + size
            peak = max(peak, held)
    return largest, peak


def force_step(energy: Callable[[], tuple[Tensor, Tensor]], parameters: list[Tensor]) -> Callable[[], list[Tensor]]:
    """One training step on energies and forces: gradients of the parameters. `energy` makes energy and positions."""

    def step() -> list[Tensor]:
        value, pos = energy()
        (force,) = torch.autograd.grad(value, pos, create_graph=True)
        return list(torch.autograd.grad(value.square() + force.square().sum(), parameters))

    return step
