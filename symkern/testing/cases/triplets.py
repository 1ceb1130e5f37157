from __future__ import annotations

from typing import Any

import torch

from symkern.neighbors import Neighbors
from symkern.ops.edge_vectors import edge_vectors
from symkern.ops.neighbor_list import neighbor_list
from symkern.ops.triplets import Triplets, reference, triplets
from symkern.testing.case import BadInput, Builder, Case, Inputs, Invariance, Size, num_bytes
from symkern.testing.geometry import generator, random_box, random_cell, shuffle_within


def graph(
    sizes: tuple[int, ...],
    cells: str = "none",
    *,
    cutoff: float = 3.0,
    density: float = 0.05,
    spare: int | None = None,
    self_loops: bool = False,
) -> Builder:
    """`vec` and `nb` of structures of these sizes, with no cell or one for "each"; `spare` adds padding edges."""

    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        random = generator(seed)
        positions = torch.cat([torch.zeros(0, 3), *(random_box(n, random, density)[0] for n in sizes)])
        ptr = torch.tensor([0, *sizes]).cumsum(0)
        cell = torch.stack([random_cell(random) for _ in sizes]) if cells == "each" else None

        def build(room: int | None = None) -> Neighbors:
            return neighbor_list(positions, cutoff, ptr=ptr, cell=cell, self_loops=self_loops, max_edges=room)

        nb = build()
        if spare is not None:
            nb = build(nb.num_edges + spare)
        vec = edge_vectors(positions, nb, cell)
        return {"vec": vec.to(dtype).to(device), "nb": nb.to(device)}

    return make


def _only_graph(make: Builder, **options: Any) -> Builder:
    def build(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        return {"nb": make(dtype, device, seed)["nb"], **options}

    return build


def large(atoms: int, cutoff: float = 5.0) -> Builder:
    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        positions, cell = random_box(atoms, generator(seed))
        positions, cell = positions.to(dtype).to(device), cell.to(dtype).to(device)
        nb = neighbor_list(positions, cutoff, cell=cell)
        return {"vec": edge_vectors(positions, nb, cell), "nb": nb}

    return make


def _outputs(tri: Triplets) -> tuple[torch.Tensor, ...]:
    return tri.index, tri.ptr


def _permute(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    nb = inputs["nb"]
    place = torch.argsort(shuffle_within(nb.ptr, random))
    moved = Neighbors.from_edge_index(place[nb.edge_index], nb.num_nodes, nb.cell_shifts, nb.ptr)
    assert moved.order is not None
    edge = torch.argsort(moved.order)

    def expected(outputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        kj, ji = edge[outputs[0]]
        order = torch.argsort(ji * nb.num_edges + kj)
        counts = torch.bincount(ji, minlength=nb.num_edges)
        return torch.stack([kj, ji])[:, order], torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    return {"nb": moved}, expected


def _ops(inputs: Inputs) -> list[tuple[Any, tuple[Any, ...]]]:
    nb = inputs["nb"]
    return [(torch.ops.symkern.triplets.default, (nb.edge_index, nb.cell_shifts, nb.row_ptr, -1))]


def _bad(name: str, match: str, change: Any, **options: Any) -> BadInput:
    def make() -> Inputs:
        nb = graph((4, 5), "each")(torch.float32, "cpu", 0)["nb"]
        fields = {"edge_index": nb.edge_index, "row_ptr": nb.row_ptr, "cell_shifts": nb.cell_shifts}
        return {"nb": Neighbors(ptr=nb.ptr, **{**fields, **change(nb)}), **options}

    return BadInput(name, make, ValueError, match)


CASE = Case(
    name="triplets",
    function=triplets,
    reference=reference,
    outputs=_outputs,
    samples={
        "empty": _only_graph(graph(())),
        "one": _only_graph(graph((1,), "each", cutoff=4.0)),
        "lonely": _only_graph(graph((1,))),
        "ragged": _only_graph(graph((4, 0, 1, 6), "each")),
        "molecules": _only_graph(graph((5, 1, 0, 7), density=0.2)),
        "self loops": _only_graph(graph((5, 3), "each", self_loops=True)),
        "padded edges": _only_graph(graph((3, 0, 4), "each", spare=9)),
        "padded": _only_graph(graph((3, 0, 4), density=0.2, spare=5), max_triplets=2000),
        "many": _only_graph(graph((60,), density=0.1)),
    },
    ops=_ops,
    compile_sample="padded",
    invariances=(Invariance("permutation", _permute, ("ragged", "molecules", "self loops")),),
    bad_inputs=(
        _bad("int32", "edge_index must be int64, got int32", lambda nb: {"edge_index": nb.edge_index.int()}),
        _bad("flat", r"edge_index must have shape \(2, E\)", lambda nb: {"edge_index": nb.edge_index[0]}),
        _bad("shifts", r"shifts must have shape \(E, 3\)", lambda nb: {"cell_shifts": nb.shifts[1:]}),
        _bad("no rows", r"row_ptr must have shape \(N \+ 1,\), got \(0,\)", lambda nb: {"row_ptr": nb.row_ptr[:0]}),
        _bad("room", "max_triplets must be at least .*, got 1", lambda nb: {}, max_triplets=1),
        _bad("negative room", "max_triplets must not be negative, got -2", lambda nb: {}, max_triplets=-2),
    ),
    sizes={
        f"{n} atoms, 5 Å": Size(
            _only_graph(large(n)),
            lambda inputs, tri: num_bytes(inputs["nb"].edge_index, inputs["nb"].shifts, tri.index, tri.ptr),
            lambda inputs, tri: 0,
        )
        for n in (300, 3_000)
    },
)
