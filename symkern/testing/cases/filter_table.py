from __future__ import annotations

from typing import Any

import torch

from symkern.ops.filter_table import reference, tabulated_cfconv
from symkern.testing.case import BadInput, Builder, Case, Inputs, Size, cast, num_bytes
from symkern.testing.cases.triplets import graph
from symkern.testing.geometry import generator

_CUTOFF = 3.0


def _filters(make: Builder, width: int, knots: int = 9) -> Builder:
    """A table of smooth filters that end at the cutoff, on the graphs of another Case."""

    def build(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        inputs, random = make(torch.float64, "cpu", seed), generator(seed)
        nb = inputs["nb"]
        h = torch.randn((nb.num_nodes, width), generator=random, dtype=torch.float64)
        table = torch.randn((knots, 3, width), generator=random, dtype=torch.float64)
        table[-1] = 0
        made = {"h": h, "d": inputs["vec"].norm(dim=-1), "nb": nb, "cutoff": _CUTOFF, "table": table}
        moved: Inputs = {k: v.to(device) if hasattr(v, "to") else v for k, v in cast(made, dtype).items()}
        return moved

    return build


def _ops(inputs: Inputs) -> list[tuple[Any, tuple[Any, ...]]]:
    h, d, nb, table = (inputs[name] for name in ("h", "d", "nb", "table"))
    order = (nb.edge_index, nb.row_ptr, nb.sender_order, nb.sender_ptr)
    ops = torch.ops.symkern
    return [
        (ops.filter_table_sum.default, (h, d, None, table, *order, _CUTOFF, 0, False)),
        (ops.filter_table_sum.default, (h, d, d.clone(), table, *order, _CUTOFF, 1, True)),
        (ops.filter_table_dot.default, (h, h.clone(), d, table, *order, _CUTOFF, 1)),
    ]


def _bad(name: str, match: str, error: type[Exception] = ValueError, **changes: Any) -> BadInput:
    def make() -> Inputs:
        inputs = _filters(graph((4,), density=0.2), 5)(torch.float32, "cpu", 0)
        return inputs | {key: change(inputs[key]) if callable(change) else change for key, change in changes.items()}

    return BadInput(name, make, error, match)


CASE = Case(
    name="tabulated_cfconv",
    function=tabulated_cfconv,
    reference=reference,
    samples={
        "empty": _filters(graph(()), 3),
        "one": _filters(graph((1,)), 2),
        "ragged": _filters(graph((4, 0, 1, 5), density=0.1), 5),
        "vectors": _filters(graph((6, 2), density=0.2), 16, 40),
        "tail": _filters(graph((5, 3), density=0.2), 37, 2),
        "padded": _filters(graph((3, 0, 4), density=0.2, spare=5), 8),
        "no columns": _filters(graph((3,), density=0.2), 0),
    },
    differentiable=("h", "d"),
    gradient_samples=("ragged", "vectors"),
    ops=_ops,
    bad_inputs=(
        _bad("integers", "h must be float32", h=lambda t: t.long()),
        _bad("dtypes", "d must be float32, as h is, got float64", d=lambda t: t.double()),
        _bad("table of another dtype", "table must be float32, as h is", table=lambda t: t.double()),
        _bad("table of another width", r"table must have shape \(knots, 3, F\)", table=lambda t: t[..., :3]),
        _bad("one knot", "table must have at least 2 knots, got 1", table=lambda t: t[:1]),
        _bad("distances", r"d must have shape \(E,\)", d=lambda t: t[1:]),
        _bad("negative distance", "d must be finite and not negative", d=lambda t: -t),
        _bad("infinite distance", "d must be finite and not negative", d=lambda t: t / 0),
        _bad("cutoff", "cutoff must be positive and finite, got 0", cutoff=0.0),
        _bad("no graph", "nb must be symkern.Neighbors", TypeError, nb=lambda nb: nb.edge_index),
    ),
    # the place in the table, d / step, is rounded before its whole part is taken off
    floor=32.0,
    sizes={
        "128 x 18, F = 64": Size(
            _filters(graph((18,) * 128, density=0.5), 64, 100),
            lambda i, out: num_bytes(i["h"], i["d"], i["table"], out),
            lambda i, out: 14 * 64 * int(i["d"].numel()),
        )
    },
)
