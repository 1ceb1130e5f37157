from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from symkern.ops._fused import by_sender
from symkern.ops.cfconv import cfconv, reference, reverse_of
from symkern.testing.case import BadInput, Builder, Case, Inputs, Invariance, Size, num_bytes
from symkern.testing.cases import _filters as filters
from symkern.testing.geometry import generator

CUTOFF = filters.CUTOFF


def _sample(graph: filters.GraphBuilder, features: int = 20, num_basis: int = 6, **options: Any) -> Builder:
    """`options`: kind, and `learn` for random parameters of the basis."""

    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        random = generator(seed)
        vectors, nb = graph(random)

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            return scale * torch.randn(shape, generator=random, dtype=torch.float64)

        inputs: Inputs = {
            "h": normal(nb.num_nodes, features),
            "d": filters.lengths(vectors, nb, random, uneven=options.get("uneven", False)),
            "first_weight": normal(features, num_basis, scale=num_basis**-0.5),
            "first_bias": normal(features, scale=0.3),
            "second_weight": normal(features, features, scale=features**-0.5),
            "second_bias": normal(features, scale=0.3),
            **filters.basis(random, num_basis, options.get("kind", "gaussian"), options.get("learn", False)),
        }
        return filters.placed(inputs, dtype, device) | {"nb": nb.to(device), "cutoff": CUTOFF}

    return make


def _permute(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    order, edges, nb = filters.permuted(inputs["nb"], random)
    changed = {"h": inputs["h"][order], "d": inputs["d"][edges], "nb": nb}
    return {**inputs, **changed}, lambda outputs: (outputs[0][order],)


def _batch(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    """A structure alone and as the second of a batch."""
    nb = filters.twice(inputs["nb"])
    changed = {"h": torch.cat([inputs["h"].flip(0), inputs["h"]]), "d": torch.cat([2 * inputs["d"], inputs["d"]])}
    alone = cfconv(**{**inputs, "h": inputs["h"].flip(0), "d": 2 * inputs["d"]})
    return {**inputs, **changed, "nb": nb}, lambda outputs: (torch.cat([alone, outputs[0]]),)


def _ops(inputs: Inputs) -> list[tuple[Any, tuple[Any, ...]]]:
    nb, like = inputs["nb"], inputs["d"]
    f, k = 16, 3

    def ones(*shape: int) -> Tensor:
        return torch.ones(shape, dtype=like.dtype, device=like.device)

    h = ones(nb.num_nodes, f)
    p = torch.linspace(0.1, CUTOFF, k, dtype=like.dtype, device=like.device)
    weights = (ones(f, k), ones(f), ones(f, f) / f, ones(f))
    graph = (nb.edge_index, nb.row_ptr, reverse_of(nb), *by_sender(nb, h))
    gaussian = (h, like, p, p + 0.5, *weights, *graph, CUTOFF, 0, 0)
    bessel = (h, like, p, None, *weights, *graph, CUTOFF, 1, 0)
    ops = torch.ops.symkern
    return [
        (ops.cfconv.default, gaussian),
        (ops.cfconv.default, bessel),
        (ops.cfconv_backward.default, (h, *gaussian, 255)),
        (ops.cfconv_backward.default, (h, *bessel, 0b10010011)),
        (ops.cfconv_double_backward.default, (h, like, h, *gaussian, 511)),
        (ops.cfconv_double_backward.default, (None, like, h, *bessel, 0b1000011)),
    ]


def _bad(name: str, match: str, error: type[Exception] = ValueError, **changes: Any) -> BadInput:
    def make() -> Inputs:
        inputs = _sample(filters.boxes(4, 3))(torch.float32, "cpu", 0)
        return inputs | {key: change(inputs[key]) for key, change in changes.items()}

    return BadInput(name, make, error, match)


def _flops(inputs: Inputs, output: Tensor) -> int:
    """As computed: the network once per pair."""
    (f, k), nb = inputs["first_weight"].shape, inputs["nb"]
    pairs = (nb.num_edges + 1) // 2 if nb.full else nb.num_edges
    return int(pairs * 2 * f * (k + f) + nb.num_edges * 2 * f)


def _bytes(inputs: Inputs, output: Tensor) -> int:
    nb = inputs["nb"]
    weights = (inputs[name] for name in ("first_weight", "first_bias", "second_weight", "second_bias"))
    return num_bytes(inputs["h"], inputs["d"], nb.edge_index, nb.row_ptr, nb.reverse, output, *weights)


CASE = Case(
    name="cfconv",
    function=cfconv,
    reference=reference,
    samples={
        "empty": _sample(filters.boxes()),
        "one": _sample(filters.line(2), features=2, num_basis=2),
        "ragged": _sample(filters.boxes(9, 1, 0, 14, 2)),
        "learned": _sample(filters.boxes(7, 5), features=32, learn=True),
        "bessel": _sample(filters.boxes(8, 5), kind="bessel", learn=True),
        "expnorm": _sample(filters.boxes(8, 5), kind="expnorm", learn=True),
        "padding": _sample(filters.boxes(6, 8, spare=7)),
        "isolated": _sample(filters.isolated(9)),
        "asymmetric": _sample(filters.asymmetric(11)),
        "half": _sample(filters.boxes(9, 6, full=False)),
        "uneven": _sample(filters.boxes(7, 9), uneven=True),
        "images": _sample(filters.images(2)),
        "learned one": _sample(filters.line(2), features=2, num_basis=2, learn=True),
        "wide": _sample(filters.boxes(6, 4), features=80, num_basis=50),
    },
    differentiable=(
        "h",
        "d",
        "first_weight",
        "first_bias",
        "second_weight",
        "second_bias",
        "centers",
        "gamma",
        "frequencies",
    ),
    gradient_samples=("one",),
    ops=_ops,
    invariances=(
        Invariance("permutation", _permute, ("ragged", "padding", "asymmetric", "images")),
        Invariance("batching", _batch, ("isolated", "asymmetric", "images")),
    ),
    bad_inputs=(
        _bad("no tensor", "h must be a torch.Tensor", TypeError, h=lambda h: h.tolist()),
        _bad("no graph", "nb must be symkern.Neighbors", TypeError, nb=lambda nb: nb.edge_index),
        _bad("integers", "h must be float32, float64", h=lambda h: h.long()),
        _bad("mixed dtypes", "d must be float32, as h is, got float64", d=lambda d: d.double()),
        _bad("atoms", r"h must have shape \(7, F\), got \(6, 20\)", h=lambda h: h[1:]),
        _bad("rank of h", r"h must have shape \(7, F\), got \(7,\)", h=lambda h: h[:, 0]),
        _bad("distances", r"d must have shape \(\d+,\), got", d=lambda d: d[1:]),
        _bad("rank of d", r"d must have shape \(E,\), got", d=lambda d: d[:, None]),
        _bad("negative distance", "d must be finite and not negative, but d\\[0\\] = -", d=lambda d: -1 - d),
        _bad("endless distance", "d must be finite and not negative, but d\\[0\\] = inf", d=lambda d: d + float("inf")),
        _bad("first weight", r"first_weight must have shape \(20, 6\)", first_weight=lambda w: w[1:]),
        _bad("first bias", r"first_bias must have shape \(20,\)", first_bias=lambda b: b[1:]),
        _bad("second weight", r"second_weight must have shape \(20, 20\)", second_weight=lambda w: w[1:]),
        _bad("second bias", r"second_bias must have shape \(20,\)", second_bias=lambda b: b[1:]),
        _bad("cutoff", "cutoff must be positive and finite, got 0", cutoff=lambda rc: 0.0),
        _bad("wrong index", "edge_index must lie in 0 .. 6, got sender 7", nb=filters.wrong_sender),
    ),
    sizes={
        "128 x 18, F = 64": Size(_sample(filters.molecules(128, 18), 64, 50), _bytes, _flops),
        "128 x 18, F = 128": Size(_sample(filters.molecules(128, 18), 128, 50), _bytes, _flops),
    },
    floor=8.0,  # in fp64 the reference rounds as often: a product of basis, filter and features, then sums
)
