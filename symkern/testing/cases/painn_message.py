from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from symkern.ops._fused import by_sender
from symkern.ops.cfconv import reverse_of
from symkern.ops.painn_message import painn_message, reference
from symkern.testing.case import BadInput, Builder, Case, Inputs, Invariance, Size, num_bytes
from symkern.testing.cases import _filters as filters
from symkern.testing.geometry import generator, random_rotation

CUTOFF = filters.CUTOFF


def _sample(graph: filters.GraphBuilder, features: int = 20, num_basis: int = 6, **options: Any) -> Builder:
    """`options`: kind, `learn` for random parameters of the basis, `uneven` for distances that differ within a pair."""

    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        random = generator(seed)
        vectors, nb = graph(random)

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            return scale * torch.randn(shape, generator=random, dtype=torch.float64)

        inputs: Inputs = {
            "phi": normal(nb.num_nodes, 3, features),
            "mu": normal(nb.num_nodes, 3, features),
            "d": filters.lengths(vectors, nb, random, uneven=options.get("uneven", False)),
            "directions": torch.nn.functional.normalize(vectors),
            "filter_weight": normal(3, features, num_basis, scale=num_basis**-0.5),
            "filter_bias": normal(3, features, scale=0.3),
            **filters.basis(random, num_basis, options.get("kind", "bessel"), options.get("learn", False)),
        }
        return filters.placed(inputs, dtype, device) | {"nb": nb.to(device), "cutoff": CUTOFF}

    return make


def _rotate(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    rotation = random_rotation(random).to(inputs["mu"])
    turned = {"mu": rotation @ inputs["mu"], "directions": inputs["directions"] @ rotation.T}
    return {**inputs, **turned}, lambda outputs: (outputs[0], rotation @ outputs[1])


def _permute(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    order, edges, nb = filters.permuted(inputs["nb"], random)
    changed = {name: inputs[name][order] for name in ("phi", "mu")}
    changed |= {name: inputs[name][edges] for name in ("d", "directions")}
    return {**inputs, **changed, "nb": nb}, lambda outputs: tuple(t[order] for t in outputs)


def _batch(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    """A structure behind another one in a batch."""
    other = {"phi": inputs["phi"].flip(0), "mu": inputs["mu"].flip(0), "d": 2 * inputs["d"]}
    other["directions"] = inputs["directions"].flip(1)
    alone = painn_message(**{**inputs, **other})
    changed = {name: torch.cat([value, inputs[name]]) for name, value in other.items()}
    return {**inputs, **changed, "nb": filters.twice(inputs["nb"])}, lambda outputs: tuple(
        torch.cat(pair) for pair in zip(alone, outputs, strict=True)
    )


def _ops(inputs: Inputs) -> list[tuple[Any, tuple[Any, ...]]]:
    nb, d, n = inputs["nb"], inputs["d"], inputs["directions"]
    f, k = 16, 3

    def ones(*shape: int) -> Tensor:
        return torch.ones(shape, dtype=d.dtype, device=d.device)

    rows, q = ones(nb.num_nodes, 3, f), ones(nb.num_nodes, f)
    p = torch.linspace(0.1, CUTOFF, k, dtype=d.dtype, device=d.device)
    weights = (ones(3, f, k), ones(3, f))
    graph = (nb.edge_index, nb.row_ptr, reverse_of(nb), *by_sender(nb, q))
    bessel = (rows, rows / 2, d, n, p, None, *weights, *graph, CUTOFF, 1, 0)
    expnorm = (rows, rows / 2, d, n, p, p + 0.5, *weights, *graph, CUTOFF, 2, 0)
    ops = torch.ops.symkern
    return [
        (ops.painn_message.default, bessel),
        (ops.painn_message.default, expnorm),
        (ops.painn_message_backward.default, (q, rows, *bessel, 0b11011111)),
        (ops.painn_message_backward.default, (None, rows, *expnorm, 0b01100101)),
        (ops.painn_message_double_backward.default, (rows, rows, d, n, q, rows, *expnorm, 1023)),
        (ops.painn_message_double_backward.default, (None, rows, None, n, q, None, *bessel, 0b1101011)),
    ]


def _bad(name: str, match: str, error: type[Exception] = ValueError, **changes: Any) -> BadInput:
    def make() -> Inputs:
        inputs = _sample(filters.boxes(4, 3))(torch.float32, "cpu", 0)
        return inputs | {key: change(inputs[key]) for key, change in changes.items()}

    return BadInput(name, make, error, match)


def _flops(inputs: Inputs, output: Any) -> int:
    """As computed: the filter once per pair."""
    (parts, f, k), nb = inputs["filter_weight"].shape, inputs["nb"]
    pairs = (nb.num_edges + 1) // 2 if nb.full else nb.num_edges
    return int(pairs * 2 * parts * f * k + nb.num_edges * 16 * f)


def _bytes(inputs: Inputs, output: Any) -> int:
    nb = inputs["nb"]
    names = ("phi", "mu", "d", "directions", "filter_weight", "filter_bias")
    return num_bytes(*(inputs[name] for name in names), nb.edge_index, nb.row_ptr, nb.reverse, *output)


CASE = Case(
    name="painn_message",
    function=painn_message,
    reference=reference,
    samples={
        "empty": _sample(filters.boxes()),
        "one": _sample(filters.line(2), features=1, num_basis=2),
        "ragged": _sample(filters.boxes(9, 1, 0, 14, 2)),
        "learned": _sample(filters.boxes(7, 5), features=32, learn=True),
        "gaussian": _sample(filters.boxes(8, 5), kind="gaussian", learn=True),
        "expnorm": _sample(filters.boxes(8, 5), kind="expnorm", learn=True),
        "padding": _sample(filters.boxes(6, 8, spare=7)),
        "isolated": _sample(filters.isolated(9)),
        "asymmetric": _sample(filters.asymmetric(11)),
        "half": _sample(filters.boxes(9, 6, full=False)),
        "uneven": _sample(filters.boxes(7, 9), uneven=True),
        "images": _sample(filters.images(2)),
    },
    differentiable=(
        "phi",
        "mu",
        "d",
        "directions",
        "filter_weight",
        "filter_bias",
        "centers",
        "gamma",
        "frequencies",
    ),
    gradient_samples=("one",),
    ops=_ops,
    invariances=(
        Invariance("rotation", _rotate, ("ragged", "images", "asymmetric")),
        Invariance("permutation", _permute, ("ragged", "padding", "asymmetric", "images")),
        Invariance("batching", _batch, ("isolated", "asymmetric", "images")),
    ),
    bad_inputs=(
        _bad("no tensor", "phi must be a torch.Tensor", TypeError, phi=lambda x: x.tolist()),
        _bad("no graph", "nb must be symkern.Neighbors", TypeError, nb=lambda nb: nb.edge_index),
        _bad("integers", "phi must be float32, float64", phi=lambda x: x.long()),
        _bad("mixed dtypes", "mu must be float32, as phi is, got float64", mu=lambda x: x.double()),
        _bad("atoms", r"phi must have shape \(7, 3, F\), got \(6, 3, 20\)", phi=lambda x: x[1:]),
        _bad("rank of phi", r"phi must have shape \(7, 3, F\), got \(7, 60\)", phi=lambda x: x.flatten(1)),
        _bad("vectors", r"mu must have shape \(7, 3, 20\), got \(7, 20, 3\)", mu=lambda x: x.transpose(1, 2)),
        _bad("distances", r"d must have shape \(\d+,\), got", d=lambda d: d[1:]),
        _bad("negative distance", "d must be finite and not negative, but d\\[0\\] = -", d=lambda d: -1 - d),
        _bad("nan distance", "d must be finite and not negative, but d\\[0\\] = ", d=lambda d: d + float("nan")),
        _bad("directions", r"directions must have shape \(\d+, 3\), got", directions=lambda n: n[:, :2]),
        _bad("weight", r"filter_weight must have shape \(3, 20, 6\)", filter_weight=lambda w: w[:, 1:]),
        _bad("rank of weight", r"filter_weight must have shape \(3, F, K\)", filter_weight=lambda w: w[0]),
        _bad("bias", r"filter_bias must have shape \(3, 20\)", filter_bias=lambda b: b[1:]),
        _bad("cutoff", "cutoff must be positive and finite, got 0", cutoff=lambda rc: 0.0),
        _bad("wrong index", "edge_index must lie in 0 .. 6, got sender 7", nb=filters.wrong_sender),
    ),
    sizes={
        "128 x 18, F = 64": Size(_sample(filters.molecules(128, 18), 64, 20), _bytes, _flops),
        "128 x 18, F = 128": Size(_sample(filters.molecules(128, 18), 128, 20), _bytes, _flops),
    },
    floor=8.0,  # in fp64 the reference rounds as often: a product of basis, filter and features, then sums
)
