from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from symkern.neighbors import Neighbors
from symkern.ops.egnn_message import LADDER, _prepare, egnn_message, reference
from symkern.ops.neighbor_list import neighbor_list
from symkern.testing.case import BadInput, Builder, Case, Inputs, Invariance, Size, num_bytes
from symkern.testing.geometry import generator, random_box, shuffle_within

_PER_ATOM, _PER_EDGE = ("received", "sent"), ("attributes", "edge_weight")


def _molecules(sizes: tuple[int, ...], random: torch.Generator, spare: int = 0) -> Neighbors:
    positions = torch.cat([torch.zeros(0, 3), *(random_box(n, random, 0.1)[0] for n in sizes)])
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    nb = neighbor_list(positions, 3.0, ptr=ptr)
    return neighbor_list(positions, 3.0, ptr=ptr, max_edges=nb.num_edges + spare) if spare else nb


def _directed(atoms: int, edges: int, random: torch.Generator) -> Neighbors:
    """Edges at random, self loops among them; most have no reverse and the last third of the atoms receives nothing."""
    index = torch.randint(atoms, (2, edges), generator=random)
    index[1] = index[1] * 2 // 3
    return Neighbors.from_edge_index(index, atoms)


def _inputs(
    graph: Any, hidden: int = 16, attributes: int = 2, *, weighted: bool = False, gate: bool = False, head: bool = False
) -> Builder:
    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        random = generator(seed)
        nb = graph(random)
        shapes: dict[str, tuple[int, ...]] = {
            "received": (nb.num_nodes, hidden),
            "sent": (nb.num_nodes, hidden),
            "attributes": (nb.num_edges, attributes),
            "first_weight": (hidden, attributes),
            "second_weight": (hidden, hidden),
            "second_bias": (hidden,),
        }
        if weighted:
            shapes["edge_weight"] = (nb.num_edges,)
        if gate:
            shapes |= {"attention_weight": (1, hidden), "attention_bias": (1,)}
        if head:
            shapes |= {"head_weight": (hidden, hidden), "head_bias": (hidden,), "head_last": (1, hidden)}
        made = {
            name: torch.randn(shape, generator=random, dtype=torch.float64)
            / (shape[-1] ** 0.5 if "weight" in name else 1)
            for name, shape in shapes.items()
        }
        return {"nb": nb.to(device), **{name: x.to(dtype).to(device) for name, x in made.items()}}

    return make


def _complete(structures: int, atoms: int) -> Any:
    """All pairs of every structure, as EGNN without a cutoff has them."""

    def make(random: torch.Generator) -> Neighbors:
        pair = torch.cartesian_prod(torch.arange(atoms), torch.arange(atoms - 1))
        receiver, sender = pair[:, 0], pair[:, 1] + (pair[:, 1] >= pair[:, 0])
        start = atoms * torch.arange(structures).repeat_interleave(len(pair))
        index = torch.stack([sender.repeat(structures) + start, receiver.repeat(structures) + start])
        return Neighbors.from_edge_index(index, structures * atoms, ptr=atoms * torch.arange(structures + 1))

    return make


def _outputs(result: tuple[Tensor, Tensor | None]) -> tuple[Tensor, ...]:
    return tuple(x for x in result if x is not None)


def _change(inputs: Inputs, atoms: Tensor, edges: Tensor, nb: Neighbors) -> Inputs:
    """The same weights for other atoms and edges of these numbers."""
    rows = {**dict.fromkeys(_PER_ATOM, atoms), **dict.fromkeys(_PER_EDGE, edges)}
    return {**{name: x[rows[name]] if name in rows else x for name, x in inputs.items()}, "nb": nb}


def _permute(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    nb = inputs["nb"]
    atoms = shuffle_within(nb.ptr, random)
    real = nb.edge_index[:, : int(nb.row_ptr[-1])]
    moved = Neighbors.from_edge_index(torch.argsort(atoms)[real], nb.num_nodes, ptr=nb.ptr)
    order = moved.order
    assert order is not None
    return _change(inputs, atoms, order, moved), lambda outputs: tuple(
        x[index] for x, index in zip(outputs, (atoms, order), strict=False)
    )


def _batch(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    """Twice the same structures."""
    nb = inputs["nb"]
    atoms, edges = torch.arange(nb.num_nodes).repeat(2), torch.arange(nb.num_edges).repeat(2)
    index = torch.cat([nb.edge_index, nb.edge_index + nb.num_nodes], 1)
    twice = Neighbors.from_edge_index(index, 2 * nb.num_nodes, ptr=torch.cat([nb.ptr, nb.ptr[1:] + nb.num_nodes]))
    return _change(inputs, atoms.to(index.device), edges.to(index.device), twice), lambda outputs: tuple(
        torch.cat([x, x]) for x in outputs
    )


def _ops(inputs: Inputs) -> list[tuple[Any, tuple[Any, ...]]]:
    nb, named = inputs["nb"], {key: inputs.get(key) for key in _ORDER}
    floats = _prepare(nb, named)
    by_sender = nb._by_sender if nb.edge_index.is_cuda else (None, None)
    arguments = (*floats, nb.edge_index, nb.row_ptr, *by_sender, 0)
    total, head = LADDER.op()(*arguments)
    grads = (torch.ones_like(total), torch.ones_like(head) if len(head) else None)
    along = tuple(None if x is None else torch.ones_like(x) for x in floats[:4])
    return [
        (LADDER.op(), arguments),
        (LADDER.op("_backward"), (*grads, *arguments, (1 << 12) - 1)),
        (LADDER.op("_backward"), (*grads, *arguments, 0b0101)),
        (LADDER.op("_double_backward"), (*along, *grads, *arguments, (1 << 14) - 1)),
    ]


_ORDER = (
    *("received", "sent", "attributes", "edge_weight", "first_weight", "second_weight", "second_bias"),
    *("attention_weight", "attention_bias", "head_weight", "head_bias", "head_last"),
)


def _bad(name: str, match: str, error: type[Exception] = ValueError, **changes: Any) -> BadInput:
    def make() -> Inputs:
        inputs = _inputs(lambda g: _molecules((4, 3), g), weighted=True, gate=True, head=True)(torch.float32, "cpu", 0)
        return inputs | {key: change(inputs[key]) for key, change in changes.items()}

    return BadInput(name, make, error, match)


def _wrong_index(row: int, value: int) -> Any:
    def change(nb: Neighbors) -> Neighbors:
        index = nb.edge_index.clone()
        index[row, 1] = value
        return Neighbors(index, nb.row_ptr, nb.ptr)

    return change


def _bytes(inputs: Inputs, output: Any) -> int:
    tensors = [x for x in inputs.values() if isinstance(x, Tensor)]
    return num_bytes(*tensors, inputs["nb"].edge_index, *output)


def _flops(inputs: Inputs, output: Any) -> int:
    """Of the split form: K + H products per edge and feature, and H for the head."""
    edges, (hidden, attributes) = inputs["nb"].num_edges, inputs["first_weight"].shape
    return int(2 * edges * hidden * (attributes + hidden * (2 if "head_weight" in inputs else 1)))


_LARGE = _complete(128, 18)

CASE = Case(
    name="egnn_message",
    function=egnn_message,
    reference=reference,
    outputs=_outputs,
    samples={
        "empty": _inputs(lambda g: _molecules((), g), weighted=True, gate=True, head=True),
        "one": _inputs(lambda g: _molecules((1,), g), head=True),
        "ragged": _inputs(lambda g: _molecules((4, 0, 1, 6), g), weighted=True),
        "plain": _inputs(lambda g: _molecules((4,), g), 3, 1),
        "attention": _inputs(lambda g: _molecules((5, 3), g), gate=True),
        "head": _inputs(lambda g: _molecules((5, 3), g), 20, 1, head=True),
        "all": _inputs(lambda g: _molecules((5, 0, 7), g), 33, 6, weighted=True, gate=True, head=True),
        "padded": _inputs(lambda g: _molecules((3, 4), g, 9), weighted=True, gate=True, head=True),
        "no attributes": _inputs(lambda g: _molecules((6,), g), 7, 0, head=True),
        "directed": _inputs(lambda g: _directed(9, 40, g), weighted=True, head=True),
    },
    differentiable=_ORDER,
    # the check tries every choice of arguments: with gates and heads there are thousands (see test_egnn_message.py)
    gradient_samples=("plain",),
    ops=_ops,
    invariances=(
        Invariance("permutation", _permute, ("ragged", "all")),
        Invariance("batching", _batch, ("ragged", "all", "directed")),
    ),
    bad_inputs=(
        _bad("no graph", r"nb must be symkern\.Neighbors", TypeError, nb=lambda nb: nb.edge_index),
        _bad("no tensor", "received must be a torch.Tensor", TypeError, received=lambda x: x.tolist()),
        _bad("atoms", r"received must have shape \(7, H\), got \(6, 16\)", received=lambda x: x[1:]),
        _bad("senders", r"sent must have shape \(7, 16\), got \(7, 15\)", sent=lambda x: x[:, 1:]),
        _bad("edges", r"attributes must have shape \(\d+, K\)", attributes=lambda x: x[1:]),
        _bad("weights of edges", r"edge_weight must have shape \(\d+,\)", edge_weight=lambda x: x[:, None]),
        _bad("first", r"first_weight must have shape \(16, 2\), got \(2, 16\)", first_weight=lambda x: x.T),
        _bad("second", r"second_weight must have shape \(16, 16\), got \(15, 16\)", second_weight=lambda x: x[1:]),
        _bad("bias", r"second_bias must have shape \(16,\), got \(1, 16\)", second_bias=lambda x: x[None]),
        _bad("attention", r"attention_weight must have shape \(1, 16\)", attention_weight=lambda x: x[0]),
        _bad("half an attention", "attention_bias must be given with attention_weight", attention_bias=lambda _: None),
        _bad("half a head", "head_last must be given with head_weight", head_last=lambda _: None),
        _bad("dtypes", "sent must be float32, as received is, got float64", sent=lambda x: x.double()),
        _bad("integers", "received must be float32, .* got int64", received=lambda x: x.long()),
        *(
            BadInput(
                f"index {value} in row {row}",
                lambda row=row, value=value: _bad("", "", nb=_wrong_index(row, value)).make(),  # type: ignore[misc]
                ValueError,
                "edge_index holds an index out of range: the graph is not consistent",
            )
            for row, value in ((0, -1), (0, 7), (1, -1), (1, 2**40), (1, 6))
        ),
    ),
    sizes={
        f"39168 edges, H = {hidden}": Size(_inputs(_LARGE, hidden, 1, head=True), _bytes, _flops)
        for hidden in (64, 128)
    },
    # three layers deep: between small samples the error of the reference itself varies by this much
    floor=16.0,
)
