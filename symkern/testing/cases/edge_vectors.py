from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from symkern.neighbors import Neighbors
from symkern.ops.edge_vectors import edge_vectors, reference
from symkern.ops.neighbor_list import neighbor_list
from symkern.testing.case import BadInput, Builder, Case, Huge, Inputs, Invariance, Size, num_bytes
from symkern.testing.geometry import generator, random_box, random_cell, random_rotation, shuffle_within


def _graph(
    sizes: tuple[int, ...], cells: str = "none", *, cutoff: float = 3.0, density: float = 0.05, spare: int | None = None
) -> Builder:
    """Structures of these sizes with no cell, one "shared" cell, or one cell "each"; `spare` adds padding edges."""

    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        random = generator(seed)
        positions = torch.cat([random_box(n, random, density)[0] for n in sizes] or [torch.zeros(0, 3)]).to(dtype)
        ptr = torch.tensor([0, *sizes]).cumsum(0)
        cell = None
        if cells == "shared":
            cell = random_cell(random).to(dtype)
        elif cells == "each":
            cell = torch.stack([random_cell(random) for _ in sizes]).to(dtype)
        nb = neighbor_list(positions, cutoff, ptr=ptr, cell=cell)
        if spare is not None:
            nb = neighbor_list(positions, cutoff, ptr=ptr, cell=cell, max_edges=nb.num_edges + spare)
        return {
            "positions": positions.to(device),
            "nb": nb.to(device),
            "cell": None if cell is None else cell.to(device),
        }

    return make


def _large(atoms: int) -> Builder:
    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        positions, cell = random_box(atoms, generator(seed))
        positions, cell = positions.to(dtype).to(device), cell.to(dtype).to(device)
        return {"positions": positions, "nb": neighbor_list(positions, 6.0, cell=cell), "cell": cell}

    return make


def _rotate(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    rotation = random_rotation(random).to(inputs["positions"])
    cell = inputs["cell"]
    turned = {"positions": inputs["positions"] @ rotation.T, "cell": None if cell is None else cell @ rotation.T}
    return {**inputs, **turned}, lambda outputs: (outputs[0] @ rotation.T,)


def _translate(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    offset = 10 * torch.randn(3, generator=random, dtype=torch.float64).to(inputs["positions"])
    return {**inputs, "positions": inputs["positions"] + offset}, lambda outputs: outputs


def _permute(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    nb = inputs["nb"]
    order = shuffle_within(nb.ptr, random)
    place = torch.argsort(order)
    moved = Neighbors.from_edge_index(place[nb.edge_index], nb.num_nodes, nb.cell_shifts, nb.ptr)
    return {**inputs, "positions": inputs["positions"][order], "nb": moved}, lambda outputs: (outputs[0][moved.order],)


def _ops(inputs: Inputs) -> list[tuple[Any, tuple[Any, ...]]]:
    nb, cell, positions = inputs["nb"], inputs["cell"], inputs["positions"]
    per_structure = cell is not None and cell.dim() == 3
    shifts = None if cell is None else nb.shifts
    batch = nb.batch if per_structure else None
    graph = (nb.edge_index, shifts, nb.row_ptr, nb.ptr, batch, nb.sender_order, nb.sender_ptr)
    grad = torch.ones((nb.num_edges, 3), dtype=positions.dtype, device=positions.device)
    ops = torch.ops.symkern
    return [
        (ops.edge_vectors.default, (positions, cell, *graph)),
        (ops.edge_vectors_backward.default, (grad, *graph, True, cell is not None, per_structure)),
        (ops.sender_order.default, (nb.edge_index, nb.row_ptr)),
        (ops.reverse_edges.default, (nb.edge_index, shifts, nb.row_ptr, nb.sender_order, nb.sender_ptr)),
    ]


def _bad(name: str, match: str, **changes: Any) -> BadInput:
    def make() -> Inputs:
        inputs = _graph((4, 3), "each")(torch.float32, "cpu", 0)
        return inputs | {key: change(inputs[key]) for key, change in changes.items()}

    return BadInput(name, make, ValueError, match)


def _huge(device: torch.device | str) -> Inputs:
    # two atoms; every edge is 0 <- 1, except the last
    edges = 2**31 // 3 + 8
    index = torch.zeros((2, edges), dtype=torch.int64, device=device)
    index[0] = 1
    index[0, -1], index[1, -1] = 0, 1
    row_ptr = torch.tensor([0, edges - 1, edges], device=device)
    nb = Neighbors(index, row_ptr, torch.tensor([0, 2], device=device))
    return {"positions": torch.tensor([[0.0, 0, 0], [1, 2, 3]], device=device), "nb": nb, "cell": None}


def _verify_huge(inputs: Inputs, out: Tensor) -> bool:
    return out[0].tolist() == [1, 2, 3] and out[-2].tolist() == [1, 2, 3] and out[-1].tolist() == [-1, -2, -3]


def _bytes(inputs: Inputs, output: Tensor) -> int:
    nb, cell = inputs["nb"], inputs["cell"]
    return num_bytes(inputs["positions"], nb.edge_index, None if cell is None else nb.shifts, cell, output)


def _flops(inputs: Inputs, output: Tensor) -> int:
    # three differences, and three rows of three multiply-adds with a cell
    return int(inputs["nb"].num_edges) * (3 if inputs["cell"] is None else 21)


CASE = Case(
    name="edge_vectors",
    function=edge_vectors,
    reference=reference,
    samples={
        "empty": _graph(()),
        "one": _graph((1,), "shared", cutoff=5.0),
        "lonely": _graph((1,)),
        "ragged": _graph((4, 0, 1, 6), "each"),
        "shared": _graph((3, 5), "shared"),
        "molecules": _graph((5, 1, 0, 7)),
        "padded": _graph((3, 0, 4), "each", spare=9),
        "many": _graph((700, 900), "each", density=0.5, cutoff=0.8),
    },
    differentiable=("positions", "cell"),
    gradient_samples=("one", "ragged", "shared", "molecules", "padded"),
    ops=_ops,
    invariances=(
        Invariance("rotation", _rotate, ("ragged", "shared", "molecules")),
        Invariance("translation", _translate, ("ragged", "molecules")),
        Invariance("permutation", _permute, ("ragged", "molecules")),
    ),
    bad_inputs=(
        _bad("no cell", "cell must be given", cell=lambda _: None),
        _bad("atoms", r"positions must have shape \(N, 3\) with N = 7, got \(6, 3\)", positions=lambda r: r[1:]),
        _bad("integers", "positions must be float32 or float64, got int64", positions=lambda r: r.long()),
        _bad("dtypes", "cell must be float32, got float64", cell=lambda c: c.double()),
        _bad("cells", r"cell must have shape .* B = 2, got \(1, 3, 3\)", cell=lambda c: c[:1]),
        _bad("cell shape", r"cell must have shape .* got \(3,\)", cell=lambda c: c[0, 0]),
    ),
    sizes={f"{n} atoms, 6 Å": Size(_large(n), _bytes, _flops) for n in (1_000, 30_000)},
    huge=Huge(20 * 2**30, _huge, _verify_huge),
)
