from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from symkern.neighbors import Neighbors
from symkern.ops.neighbor_list import neighbor_list
from symkern.ops.reference_neighbors import reference, reference_neighbors
from symkern.testing.case import BadInput, Builder, Case, Inputs, Invariance, Size, num_bytes
from symkern.testing.geometry import generator, random_box, shuffle_within


def complete(ptr: Tensor, self_loops: bool = True) -> Neighbors:
    """All pairs of atoms of each structure."""
    parts = [torch.cartesian_prod(*[torch.arange(a, b)] * 2) for a, b in pairwise(ptr.tolist())]
    index = torch.cat([torch.zeros((0, 2), dtype=torch.int64), *parts]).T
    index = index if self_loops else index[:, index[0] != index[1]]
    return Neighbors.from_edge_index(index, int(ptr[-1]), ptr=ptr)


def grid(random: torch.Generator, atoms: int) -> Tensor:
    """Atoms on the points of a lattice, moved a little: many ties, collinear and coincident atoms."""
    return torch.randint(0, 3, (atoms, 3), generator=random) + 1e-3 * torch.rand((atoms, 3), generator=random)


def helix(random: torch.Generator, atoms: int) -> Tensor:
    """Atoms near a helix: no three of them are close to a line, where angles are ill-conditioned."""
    turn = torch.arange(atoms, dtype=torch.float64)
    places = torch.stack([1.5 * turn.cos(), 1.5 * turn.sin(), 0.4 * turn], 1)
    return places + 0.1 * torch.rand((atoms, 3), generator=random, dtype=torch.float64)


def box(random: torch.Generator, atoms: int) -> Tensor:
    return random_box(atoms, random, 0.05)[0]


def placed(
    sizes: tuple[int, ...],
    place: Callable[[torch.Generator, int], Tensor] = box,
    *,
    self_loops: bool = True,
    spare: int | None = None,
) -> Builder:
    """Positions, and the graph of all pairs, or one with a cutoff and `spare` padding edges."""

    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        random = generator(seed)
        parts = [place(random, n) for n in sizes]
        positions = torch.cat([torch.zeros(0, 3), *parts]).to(dtype)
        ptr = torch.tensor([0, *sizes]).cumsum(0)
        if spare is None:
            nb = complete(ptr, self_loops)
        else:
            room = neighbor_list(positions, 3.0, ptr=ptr, self_loops=self_loops).num_edges + spare
            nb = neighbor_list(positions, 3.0, ptr=ptr, self_loops=self_loops, max_edges=room)
        return {"positions": positions.to(device), "nb": nb.to(device)}

    return make


def moved(nb: Neighbors, place: Tensor) -> tuple[Neighbors, Tensor]:
    """The graph where atom i is atom place[i], and where its edges are then."""
    graph = Neighbors.from_edge_index(place[nb.edge_index], nb.num_nodes, ptr=nb.ptr)
    assert graph.order is not None
    return graph, torch.argsort(graph.order)


def _permute(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    nb = inputs["nb"]
    order = shuffle_within(nb.ptr, random)
    graph, edge = moved(nb, torch.argsort(order))

    def expected(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        found = outputs[0][order]
        return (torch.where(found < 0, -1, edge[found]),)

    return {"positions": inputs["positions"][order], "nb": graph}, expected


def _translate(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    shift = torch.randint(-3, 4, (3,), generator=random).to(inputs["positions"])
    return {**inputs, "positions": inputs["positions"] + shift}, lambda outputs: outputs


def _ops(inputs: Inputs) -> list[tuple[Any, tuple[Any, ...]]]:
    nb, positions, ops = inputs["nb"], inputs["positions"], torch.ops.symkern
    atoms = torch.arange(nb.num_nodes + 1, device=positions.device)  # each a class of its own
    return [
        (ops.class_representatives.default, (positions, atoms[:-1], atoms, nb.ptr, 0.02)),
        (ops.reference_neighbors.default, (positions, nb.edge_index, nb.row_ptr, 0.02)),
    ]


def _bad(name: str, match: str, error: type[Exception] = ValueError, **changes: Any) -> BadInput:
    def make() -> Inputs:
        inputs = placed((4, 3))(torch.float32, "cpu", 0)
        return inputs | {k: change(inputs.get(k)) for k, change in changes.items()}

    return BadInput(name, make, error, match)


def _with_shifts(nb: Neighbors) -> Neighbors:
    return Neighbors(nb.edge_index, nb.row_ptr, nb.ptr, nb.shifts)


CASE = Case(
    name="reference_neighbors",
    function=reference_neighbors,
    reference=reference,
    samples={
        "empty": placed(()),
        "one": placed((1,)),
        "ragged": placed((4, 0, 2, 1, 6)),
        "lattice": placed((5, 9, 3), grid),
        "no loops": placed((4, 0, 2, 1, 6), self_loops=False),
        "padded": placed((4, 0, 7), spare=5),
    },
    ops=_ops,
    invariances=(
        Invariance("permutation", _permute, ("ragged", "lattice")),
        Invariance("translation", _translate, ("ragged",)),
    ),
    bad_inputs=(
        _bad("no tensor", "positions must be a torch.Tensor", TypeError, positions=lambda x: x.tolist()),
        _bad("no graph", "nb must be symkern.Neighbors", TypeError, nb=lambda nb: nb.edge_index),
        _bad("cell", "nb must be a graph without a cell", nb=_with_shifts),
        _bad("integers", "positions must be float32 or float64, got int64", positions=lambda x: x.long()),
        _bad("shape", r"positions must have shape \(N, 3\) with N = 7", positions=lambda x: x[1:]),
        _bad("tie", "tie must be finite and not negative, got -1", tie=lambda _: -1.0),
    ),
    sizes={
        "64 x 12 atoms": Size(
            placed((12,) * 64),
            lambda inputs, out: num_bytes(inputs["positions"], inputs["nb"].edge_index, out),
            lambda inputs, out: 20 * inputs["nb"].num_edges,
        )
    },
)
