from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from symkern.ops.chamfer import _by_target, chamfer, reference
from symkern.testing.case import BadInput, Builder, Case, Inputs, Invariance, Size, num_bytes
from symkern.testing.geometry import generator, random_rotation, shuffle_within


def _clouds(x: tuple[int, ...], y: tuple[int, ...], width: int = 3, types: int = 0, **options: Any) -> Builder:
    """Structures of x[b] and y[b] points; with types 0 .. types - 1 of each at least one in y."""

    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        random = generator(seed)
        inputs: Inputs = {**options, "return_index": True}
        for name, counts in (("x", x), ("y", y)):
            points = 2 * torch.randn((sum(counts), width), generator=random, dtype=torch.float64)
            inputs[name] = points.to(dtype).to(device)
            inputs[f"{name}_ptr"] = torch.tensor([0, *counts]).cumsum(0).to(device)
            if types:
                kinds = [torch.arange(n) % types for n in counts]
                inputs[f"{name}_type"] = torch.cat([torch.zeros(0, dtype=torch.long), *kinds]).to(device) - 1
        return inputs

    return make


def _dense(clouds: int, x: int, y: int, **options: Any) -> Builder:
    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        inputs = _clouds((x,) * clouds, (y,) * clouds)(dtype, device, seed)
        shaped = {name: inputs[name].reshape(clouds, size, 3) for name, size in (("x", x), ("y", y))}
        return {**shaped, **options, "return_index": True}

    return make


def _rounded(builder: Builder) -> Builder:
    """On a lattice: most points have several nearest ones."""

    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        inputs = builder(dtype, device, seed)
        return inputs | {name: inputs[name].round() for name in ("x", "y")}

    return make


def _far(builder: Builder) -> Builder:
    """Far from the origin: |x|^2 + |y|^2 - 2 x.y would lose all digits."""

    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        inputs = builder(dtype, device, seed)
        return inputs | {name: inputs[name] + 1e4 for name in ("x", "y")}

    return make


def _rotate(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    rotation = random_rotation(random).to(inputs["x"])
    return {**inputs, **{name: inputs[name] @ rotation.T for name in ("x", "y")}}, lambda outputs: outputs


def _translate(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    shift = torch.randn(3, generator=random, dtype=torch.float64).to(inputs["x"])
    return {**inputs, **{name: inputs[name] + shift for name in ("x", "y")}}, lambda outputs: outputs


def _permute(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    """Points within a structure have no order."""
    order = {name: shuffle_within(inputs[f"{name}_ptr"], random) for name in ("x", "y")}
    changed = {name: inputs[name][order[name]] for name in ("x", "y")}
    types = {f"{n}_type": inputs[f"{n}_type"][order[n]] for n in ("x", "y") if f"{n}_type" in inputs}

    def expected(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        value, index = outputs
        place = torch.empty_like(order["y"])
        place[order["y"]] = torch.arange(len(place), device=place.device)
        return value, place[index][order["x"]]

    return {**inputs, **changed, **types}, expected


def _batch(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    """A structure more in front changes nothing for the others."""
    del random
    more: Inputs = {}
    for name in ("x", "y"):
        front, ptr = inputs[name][:1], inputs[f"{name}_ptr"]
        more[name] = torch.cat([front, inputs[name]])
        more[f"{name}_ptr"] = torch.cat([ptr[:1], ptr + 1])
    alone = chamfer(more["x"][:1], more["y"][:1])

    def expected(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        value, index = outputs
        return torch.cat([alone, value]), torch.cat([index.new_zeros(1), index + 1])

    return {**inputs, **more}, expected


def _ops(inputs: Inputs) -> list[tuple[Any, tuple[Any, ...]]]:
    ops = torch.ops.symkern
    x, y, ptrs = inputs["x"], inputs["y"], (inputs["x_ptr"], inputs["y_ptr"])
    _, index = ops.chamfer_search.default(x, y, *ptrs, None, None)
    grad = torch.ones(len(ptrs[0]) - 1, dtype=x.dtype, device=x.device)
    order = _by_target(index, len(y))
    return [
        (ops.chamfer_search.default, (x, y, *ptrs, None, None)),
        (ops.chamfer_product.default, (x, y, x - 1, None, index, *ptrs)),
        (ops.chamfer_product.default, (x, y, x + 1, y - 1, index, *ptrs)),
        (ops.chamfer_product_backward.default, (grad, x, y, index, *ptrs, *order, len(y))),
        (ops.chamfer_product_backward.default, (grad, x, y, index, *ptrs, None, None, len(y))),
    ]


def _bad(name: str, match: str, **changes: Any) -> BadInput:
    def make() -> Inputs:
        inputs = _clouds((2, 3), (4, 1), types=1)(torch.float32, "cpu", 0)
        return inputs | {key: change(inputs[key]) if callable(change) else change for key, change in changes.items()}

    return BadInput(name, make, ValueError, match)


def _bytes(inputs: Inputs, output: Any) -> int:
    return num_bytes(inputs["x"], inputs["y"], *output)


CASE = Case(
    name="chamfer",
    function=chamfer,
    reference=reference,
    samples={
        "empty": _clouds((), ()),
        "one": _clouds((1,), (1,)),
        "ragged": _clouds((3, 0, 1, 7, 0), (2, 4, 1, 9, 0)),
        "back": _clouds((3, 1, 7, 2), (2, 0, 9, 1), direction="y_to_x"),
        "both": _clouds((3, 0, 1, 7), (2, 0, 1, 9), direction="both"),
        "types": _clouds((5, 0, 9, 40), (8, 0, 4, 23), types=3, direction="both"),
        "plane": _clouds((5, 3), (8, 3), 2, direction="both"),
        "line": _clouds((20,), (30,), 1),
        "dense": _dense(3, 5, 4, direction="both"),
        "no clouds": _dense(0, 5, 4),
        "far away": _far(_clouds((18,) * 4, (18,) * 4)),
        "ties": _rounded(_clouds((30, 3), (50, 20), direction="both")),
        "large": _clouds((1500, 3, 40), (2000, 20, 1)),
    },
    differentiable=("x", "y"),
    gradient_samples=("one", "ragged", "both", "types", "plane", "dense"),
    ops=_ops,
    invariances=(
        Invariance("rotation", _rotate, ("ragged", "types", "large")),
        Invariance("translation", _translate, ("ragged", "large")),
        Invariance("permutation", _permute, ("ragged", "large")),
        Invariance("batching", _batch, ("ragged", "large")),
    ),
    bad_inputs=(
        _bad("integers", "x must be float32 or float64, got int64", x=lambda t: t.long(), y=lambda t: t.long()),
        _bad(
            "flat",
            r"x must have shape \(N, D\) or \(B, N, D\) with D = 1, 2 or 3, got \(15,\)",
            x=lambda t: t.flatten(),
        ),
        _bad("wide", r"x must have shape .*, got \(5, 0\)", x=lambda t: t[:, :0]),
        _bad("widths", r"y must have .* as long a last axis as x, \(5, 3\), got \(5, 2\)", y=lambda t: t[:, :2]),
        _bad("dtypes", "y must have the dtype of x, torch.float32, got torch.float64", y=lambda t: t.double()),
        _bad("direction", "direction must be one of 'x_to_y', .*, got 'x'", direction="x"),
        _bad("one ptr", "x_ptr and y_ptr must be given together", y_ptr=None),
        _bad("one type", "x_type and y_type must be given together", y_type=None),
        _bad("structures", "y_ptr must have as many structures as x_ptr, 2, got 1", y_ptr=lambda t: t[::2]),
        _bad("no structures", r"x_ptr must have shape \(B \+ 1,\)", x_ptr=lambda t: t[:0]),
        _bad("int32", "y_ptr must be int64, got int32", y_ptr=lambda t: t.int()),
        _bad("types of the wrong shape", r"x_type must have shape \(5,\), got \(4,\)", x_type=lambda t: t[1:]),
        _bad("floating-point types", "x_type must be integers, got float32", x_type=lambda t: t.float()),
    ),
    sizes={
        "128 x 18": Size(
            _clouds((18,) * 128, (18,) * 128), _bytes, lambda inputs, _: 8 * 18 * int(inputs["x"].shape[0])
        ),
        "1e5 x 1e5": Size(_clouds((100_000,), (100_000,)), _bytes, lambda inputs, _: 8 * int(inputs["x"].shape[0])),
    },
)
