from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from symkern.ops.edge_vectors import edge_vectors
from symkern.ops.local_coordinates import local_coordinates, reference
from symkern.ops.reference_neighbors import reference_neighbors
from symkern.testing.case import BadInput, Builder, Case, Inputs, Invariance, Size, num_bytes
from symkern.testing.cases.reference_neighbors import helix, moved, placed
from symkern.testing.geometry import random_rotation, shuffle_within


def edges(make: Builder, axes: bool = False) -> Builder:
    """Vectors, graph and references of a sample of `reference_neighbors`; `axes` leaves every second node without."""

    def build(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        inputs = make(torch.float64, "cpu", seed)
        positions, nb = inputs["positions"], inputs["nb"]
        references = reference_neighbors(positions, nb)
        if axes:
            references[::2] = -1
        vec = edge_vectors(positions, nb).to(dtype).to(device)
        return {"vec": vec, "nb": nb.to(device), "references": references.to(device)}

    return build


def _turn(inputs: Inputs, rotation: Tensor) -> Inputs:
    # frames of nodes without references do not turn along
    own = inputs["references"][:, 0] >= 0
    assert own.all(), "a sample with references for all"
    return {**inputs, "vec": inputs["vec"] @ rotation.T.to(inputs["vec"])}


def _rotate(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    return _turn(inputs, random_rotation(random)), lambda outputs: outputs


def _reflect(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    """phi and tau change sign."""

    def expected(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return outputs[0] * outputs[0].new_tensor([1.0, -1, 1]), -outputs[1]

    return _turn(inputs, -random_rotation(random)), expected


def _permute(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    nb, references = inputs["nb"], inputs["references"]
    order = shuffle_within(nb.ptr, random)
    graph, edge = moved(nb, torch.argsort(order))
    back = torch.argsort(edge)
    references = references[order]
    changed = {"vec": inputs["vec"][back], "nb": graph, "references": torch.where(references < 0, -1, edge[references])}
    return changed, lambda outputs: tuple(t[back] for t in outputs)


def _ops(inputs: Inputs) -> list[tuple[Any, tuple[Any, ...]]]:
    vec, nb = inputs["vec"], inputs["nb"]
    graph = (inputs["references"], nb.edge_index, nb.row_ptr, nb.sender_order, nb.sender_ptr)
    grads = torch.ones_like(vec), torch.ones_like(vec[:, 0])
    return [
        (torch.ops.symkern.local_coordinates.default, (vec, *graph)),
        (torch.ops.symkern.local_coordinates_backward.default, (*grads, vec, *graph)),
        (torch.ops.symkern.local_coordinates_double_backward.default, (0.5 * vec + 0.1, *grads, vec, *graph)),
    ]


def _bad(name: str, match: str, error: type[Exception] = ValueError, **changes: Any) -> BadInput:
    def make() -> Inputs:
        inputs = edges(placed((4, 5)))(torch.float32, "cpu", 0)
        return inputs | {k: change(inputs[k]) for k, change in changes.items()}

    return BadInput(name, make, error, match)


def _line(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
    """Atoms on a line, two of them in one place, one off it; references that are collinear."""
    positions = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0], [3, 0, 0], [4, 0, 0], [1, 2, 0.5]])
    inputs = placed((6,))(torch.float64, "cpu", 0)
    nb = inputs["nb"]
    references = reference_neighbors(positions, nb)
    begin = nb.row_ptr[:-1]
    references[0], references[4] = begin[0] + torch.tensor([1, 2]), begin[4] + torch.tensor([2, 3])
    vec = edge_vectors(positions.double(), nb)
    return {"vec": vec.to(dtype).to(device), "nb": nb.to(device), "references": references.to(device)}


CASE = Case(
    name="local_coordinates",
    function=local_coordinates,
    reference=reference,
    samples={
        "empty": edges(placed(())),
        "one": edges(placed((1,))),
        "ragged": edges(placed((4, 0, 2, 1, 6))),
        "framed": edges(placed((4, 5), helix)),
        "no loops": edges(placed((4, 0, 2, 1, 5), self_loops=False)),
        "axes": edges(placed((4, 3), self_loops=False), axes=True),
        "padded": edges(placed((4, 0, 7), spare=5)),
        "line": _line,
    },
    differentiable=("vec",),
    gradient_samples=("no loops", "axes"),
    ops=_ops,
    compile_sample="padded",
    invariances=(
        Invariance("rotation", _rotate, ("framed",)),
        Invariance("reflection", _reflect, ("framed",)),
        Invariance("permutation", _permute, ("ragged", "axes")),
    ),
    bad_inputs=(
        _bad("no tensor", "vec must be a torch.Tensor", TypeError, vec=lambda v: v.tolist()),
        _bad("no graph", "nb must be symkern.Neighbors", TypeError, nb=lambda nb: nb.edge_index),
        _bad("integers", "vec must be float32 or float64, got int64", vec=lambda v: v.long()),
        _bad("length", r"vec must have shape \(E, 3\) with E = 41", vec=lambda v: v[1:]),
        _bad("references", r"references must have shape \(N, 2\) with N = 9", references=lambda r: r[1:]),
        _bad("int32", "references must be int64, got int32", references=lambda r: r.int()),
        _bad("other row", "references holds an index out of range", references=lambda r: r.flip(0)),
        _bad("one twice", "references holds an index out of range", references=lambda r: r[:, :1].expand(-1, 2)),
    ),
    sizes={
        "64 x 12 atoms": Size(
            edges(placed((12,) * 64)),
            lambda inputs, out: num_bytes(inputs["vec"], inputs["nb"].edge_index, *out),
            lambda inputs, out: 150 * inputs["nb"].num_edges,
        )
    },
    # in fp64 the reference is its own truth, although angles near a straight line magnify its rounding
    floor=32.0,
)
