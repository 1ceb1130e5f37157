from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from symkern.neighbors import Neighbors
from symkern.ops.edge_angles import edge_angles, reference
from symkern.ops.triplets import Triplets, triplets
from symkern.testing.case import BadInput, Builder, Case, Inputs, Invariance, Size, num_bytes
from symkern.testing.cases.triplets import graph, large
from symkern.testing.geometry import random_rotation


def corners(make: Builder, spare: int | None = None) -> Builder:
    """`vec` and `tri` of a graph, the latter as (index, ptr) so that checks can move it; `spare` adds padding."""

    def build(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        inputs = make(dtype, device, seed)
        tri = triplets(inputs["nb"])
        if spare is not None:
            tri = triplets(inputs["nb"], max_triplets=tri.num_triplets + spare)
        return {"vec": inputs["vec"], "tri": (tri.index, tri.ptr)}

    return build


def _edge_angles(vec: Tensor, tri: tuple[Tensor, Tensor]) -> Tensor:
    return edge_angles(vec, Triplets(*tri))


def _reference(vec: Tensor, tri: tuple[Tensor, Tensor]) -> Tensor:
    return reference(vec, Triplets(*tri))


def _chain(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
    """Five atoms on a line, two of them in one place, and one off it: angles 0 and pi, vectors of length zero."""
    positions = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0], [3, 0, 0], [4, 0, 0], [1, 2, 0.5]])
    pairs = torch.cartesian_prod(torch.arange(6), torch.arange(6))
    nb = Neighbors.from_edge_index(pairs[pairs[:, 0] != pairs[:, 1]].T, 6)
    vec = positions[nb.senders] - positions[nb.receivers]
    tri = triplets(nb)
    return {"vec": vec.to(dtype).to(device), "tri": (tri.index.to(device), tri.ptr.to(device))}


def _rotate(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    rotation = random_rotation(random).to(inputs["vec"])
    return {**inputs, "vec": inputs["vec"] @ rotation.T}, lambda outputs: outputs


def _scale(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    lengths = 0.5 + torch.rand((len(inputs["vec"]), 1), generator=random, dtype=torch.float64).to(inputs["vec"])
    return {**inputs, "vec": inputs["vec"] * lengths}, lambda outputs: outputs


def _ops(inputs: Inputs) -> list[tuple[Any, tuple[Any, ...]]]:
    vec, tri = inputs["vec"], Triplets(*inputs["tri"])
    graph = (tri.index, tri.ptr, tri.kj_order, tri.kj_ptr)
    grad = torch.ones(tri.num_triplets, dtype=vec.dtype, device=vec.device)
    ops = torch.ops.symkern
    return [
        (ops.edge_angles.default, (vec, *graph)),
        (ops.edge_angles_backward.default, (grad, vec, *graph)),
        (ops.edge_angles_double_backward.default, (torch.ones_like(vec), grad, vec, *graph)),
    ]


def _bad(name: str, match: str, **changes: Any) -> BadInput:
    def make() -> Inputs:
        inputs = corners(graph((4, 5), "each"))(torch.float32, "cpu", 0)
        return inputs | {key: change(inputs[key]) for key, change in changes.items()}

    return BadInput(name, make, ValueError, match)


def _bytes(inputs: Inputs, output: Tensor) -> int:
    return num_bytes(inputs["vec"], inputs["tri"][0], output)


CASE = Case(
    name="edge_angles",
    function=_edge_angles,
    reference=_reference,
    samples={
        "empty": corners(graph(())),
        "one": corners(graph((3,), density=0.2)),
        "ragged": corners(graph((4, 0, 1, 6), density=0.1)),
        "periodic": corners(graph((3, 2), "each", cutoff=4.0)),
        "self loops": corners(graph((4, 3), "each", self_loops=True)),
        "padded edges": corners(graph((3, 0, 4), density=0.2, spare=5)),
        "padded": corners(graph((3, 0, 4), density=0.2, spare=5), spare=7),
        "only padding": corners(graph((1,)), spare=3),
        "chain": _chain,
        "many": corners(graph((60,), density=0.1)),
    },
    differentiable=("vec",),
    gradient_samples=("one", "ragged", "padded"),
    ops=_ops,
    compile_sample="padded",
    invariances=(
        Invariance("rotation", _rotate, ("ragged", "chain")),
        Invariance("lengths", _scale, ("ragged", "chain")),
    ),
    bad_inputs=(
        _bad("integers", "vec must be float32 or float64, got int64", vec=lambda v: v.long()),
        _bad("edges", r"vec must have shape \(E, 3\) with E = ", vec=lambda v: v[1:]),
        _bad("flat", r"vec must have shape \(E, 3\) with E = ", vec=lambda v: v[:, :2]),
        _bad("index", "index must be int64, got int32", tri=lambda t: (t[0].int(), t[1])),
        _bad("index shape", r"index must have shape \(2, T\)", tri=lambda t: (t[0][0], t[1])),
    ),
    sizes={"300 atoms, 5 Å": Size(corners(large(300)), _bytes, lambda inputs, out: 25 * int(out.numel()))},
)
