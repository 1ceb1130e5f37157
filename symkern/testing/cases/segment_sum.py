from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from symkern.ops.segment_sum import reference, reference_mean, segment_mean, segment_sum
from symkern.testing.case import BadInput, Builder, Case, Huge, Inputs, Invariance, Size, num_bytes
from symkern.testing.geometry import generator, shuffle_within


def _segments(counts: tuple[int, ...], *tail: int, padding: int = 0) -> Builder:
    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        shape = (sum(counts) + padding, *tail)
        values = torch.randn(shape, generator=generator(seed), dtype=torch.float64)
        return {
            "values": values.to(dtype).to(device),
            "row_ptr": torch.tensor([0, *counts]).cumsum(0).to(device),
        }

    return make


def _permute(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    """The order of rows within a segment does not matter."""
    order = shuffle_within(inputs["row_ptr"], random)
    return {**inputs, "values": inputs["values"][order]}, lambda outputs: outputs


def _ops(inputs: Inputs) -> list[tuple[Any, tuple[Any, ...]]]:
    values, row_ptr = inputs["values"].flatten(1), inputs["row_ptr"]
    sums = torch.ones((len(row_ptr) - 1, values.shape[1]), dtype=values.dtype, device=values.device)
    ops = torch.ops.symkern
    return [
        (ops.segment_sum.default, (values, row_ptr, False)),
        (ops.segment_sum.default, (values, row_ptr, True)),
        (ops.segment_expand.default, (sums, row_ptr, len(values), True)),
    ]


def _bad(name: str, match: str, later: Any = None, **changes: Any) -> BadInput:
    def make() -> Inputs:
        inputs = _segments((2, 3), 4)(torch.float32, "cpu", 0)
        return inputs | {key: change(inputs[key]) for key, change in changes.items()}

    return BadInput(name, make, ValueError, match, later)


def _huge(device: torch.device | str) -> Inputs:
    values = torch.zeros((2**31 + 8, 1), dtype=torch.float32, device=device)
    values[0], values[-2:] = 5, 1
    return {"values": values, "row_ptr": torch.tensor([0, 1, 2**31 + 7, 2**31 + 8], device=device)}


def _bytes(inputs: Inputs, output: Tensor) -> int:
    return num_bytes(inputs["values"], inputs["row_ptr"], output)


CASE = Case(
    name="segment_sum",
    function=segment_sum,
    reference=reference,
    samples={
        "empty": _segments((), 3),
        "one": _segments((1,), 1),
        "ragged": _segments((3, 0, 1, 7, 0), 5),
        "vectors": _segments((2, 4, 0), 3, 2),
        "scalars": _segments((2, 0, 5)),
        "padded": _segments((2, 0, 5), 9, padding=4),
        "only padding": _segments((0, 0), 2, padding=3),
        "no columns": _segments((2, 1), 0),
        "long": _segments((1500, 3, 2000), 11, padding=5),
        "many": _segments(tuple(range(40)) * 20, 16),
    },
    differentiable=("values",),
    gradient_samples=("one", "ragged", "vectors", "scalars", "padded"),
    ops=_ops,
    invariances=(Invariance("permutation", _permute, ("ragged", "vectors", "long")),),
    bad_inputs=(
        _bad("integers", "values must be float32 or float64, got int64", values=lambda v: v.long()),
        _bad("scalar", r"values must have shape \(E, ...\), got \(\)", values=lambda v: v[0, 0]),
        _bad("int32", "row_ptr must be int64, got int32", row_ptr=lambda r: r.int()),
        _bad("no segments", r"row_ptr must have shape \(N \+ 1,\)", row_ptr=lambda r: r[:0]),
        _bad("flat", r"row_ptr must have shape \(N \+ 1,\), got \(1, 3\)", row_ptr=lambda r: r[None]),
    ),
    sizes={"1e6 rows x 64": Size(_segments((20,) * 50_000, 64), _bytes, lambda i, _: int(i["values"].numel()))},
    # in fp64 the reference, which adds thousands of rows one after the other, is the less exact of the two
    floor=32.0,
    huge=Huge(10 * 2**30, _huge, lambda inputs, out: out.flatten().tolist() == [5, 1, 1]),
)

MEAN = replace(CASE, name="segment_mean", function=segment_mean, reference=reference_mean, huge=None)
