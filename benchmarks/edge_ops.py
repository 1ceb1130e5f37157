"""Contestants for edge_vectors and safe_norm, on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import symkern as sk

from .contest import Work
from .peers import OURS, Entry
from .systems import System

Forward = Callable[[Tensor], Tensor]


def eager_vectors(system: System, nb: sk.Neighbors, *, select: bool) -> Forward:
    """r[j] - r[i] + S @ cell; shifts are made floating point beforehand, as a careful user would."""
    sender, receiver, cell = nb.senders, nb.receivers, system.cell
    shifts = None if cell is None else nb.shifts.to(cell.dtype)

    def forward(r: Tensor) -> Tensor:
        # index_select: its backward, index_add_, is several times faster than that of r[sender]
        ends = (r.index_select(0, sender), r.index_select(0, receiver)) if select else (r[sender], r[receiver])
        vectors = ends[0] - ends[1]
        return vectors if cell is None or shifts is None else vectors + shifts @ cell

    return forward


def eager_norm(vec: Tensor) -> Tensor:
    """As short as it gets; unlike safe_norm its second derivative is NaN at zero."""
    return torch.linalg.vector_norm(vec, dim=-1)


def vector_contestants(system: System, nb: sk.Neighbors, compiled: bool) -> dict[str, Forward]:
    select = eager_vectors(system, nb, select=True)
    calls: dict[str, Forward] = {
        OURS: lambda r: sk.edge_vectors(r, nb, system.cell),
        "eager, r[index]": eager_vectors(system, nb, select=False),
        "eager, index_select": select,
    }
    return calls | ({"compile, index_select": _compile(select)} if compiled else {})


def norm_contestants(compiled: bool) -> dict[str, Forward]:
    calls: dict[str, Forward] = {OURS: sk.safe_norm, "eager, vector_norm": eager_norm}
    return calls | ({"compile, vector_norm": _compile(eager_norm)} if compiled else {})


def _compile(forward: Forward) -> Forward:
    return torch.compile(forward, fullgraph=True, dynamic=False)


def entries(calls: dict[str, Forward], x: Tensor, backward: bool) -> list[Entry]:
    """Timed calls; with `backward` the gradient of x for a given gradient of the output, after checking it."""
    made = []
    with torch.no_grad():
        weight = torch.randn_like(calls[OURS](x))
    leaf = x.detach().clone().requires_grad_(backward)
    for name, forward in calls.items():
        who, _, form = name.partition(", ") if name != OURS else (OURS, "", "op")
        who = who if who == OURS else f"torch {who}"
        made.append(Entry(who, form, _timed(forward, leaf, weight, backward)))
    _check(made)
    return made


def _timed(forward: Forward, x: Tensor, weight: Tensor, backward: bool) -> Callable[[], Any]:
    if backward:
        return lambda: torch.autograd.grad(forward(x), x, weight)[0]

    def call() -> Tensor:
        with torch.no_grad():
            return forward(x)

    return call


def _check(made: list[Entry]) -> None:
    expected = made[0].call()
    scale = expected.abs().max()
    for entry in made[1:]:
        error = (entry.call() - expected).abs().max() / scale
        assert error < 1e-5, f"{entry.name} and symkern differ by {float(error):.1e} of the largest value"


def vector_work(system: System, nb: sk.Neighbors, backward: bool) -> Work:
    edges, atoms = nb.num_edges, system.atoms
    graph = (16 + (12 if system.cell is not None else 0)) * edges
    flops = (3 if system.cell is None else 21) * edges
    if not backward:
        return Work(graph + 12 * atoms + 12 * edges, flops, 12 * edges)
    return Work(graph + 24 * atoms + 24 * edges, flops + 6 * edges, 12 * edges)


def norm_work(edges: int, backward: bool) -> Work:
    return Work(32 * edges, 10 * edges, 12 * edges) if backward else Work(16 * edges, 6 * edges, 4 * edges)
