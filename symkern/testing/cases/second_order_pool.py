from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from symkern.ops.second_order_pool import reference, second_order_pool
from symkern.testing.case import BadInput, Builder, Case, Huge, Inputs, Invariance, Size, num_bytes
from symkern.testing.geometry import generator, random_rotation, shuffle_within


def _sample(mode: str, *sizes: int, shared: bool = False, channels: int | None = None) -> Builder:
    """Molecules of these sizes with a matrix each, or one for all if `shared`."""

    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        random = generator(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=random, dtype=torch.float64).to(dtype).to(device)

        atoms, batch = sum(sizes), () if shared else (len(sizes),)
        inputs: Inputs = {"positions": normal(atoms, 3), "rotation": normal(*batch, 3, 3), "mode": mode}
        inputs["ptr"] = torch.tensor([0, *sizes]).cumsum(0).to(device)
        return inputs if channels is None else inputs | {"weights": normal(atoms, channels)}

    return make


def _rotate(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    """Molecules turn or are mirrored, and R takes it back."""
    turn = -random_rotation(random).to(inputs["positions"])
    changed = {"positions": inputs["positions"] @ turn, "rotation": turn.T @ inputs["rotation"]}
    return inputs | changed, lambda outputs: outputs


def _turn_frame(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    """Another rotation after R leaves the Gram matrix as it is and turns the moments."""
    turn = random_rotation(random).to(inputs["positions"])

    def expected(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if inputs["mode"] == "gram":
            return outputs
        moments = outputs[0].reshape(len(outputs[0]), -1, 3, 3)
        return ((turn.T @ moments @ turn).reshape(outputs[0].shape),)

    return inputs | {"rotation": inputs["rotation"] @ turn}, expected


def _permute(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    order = shuffle_within(inputs["ptr"], random)
    return inputs | {k: inputs[k][order] for k in ("positions", "weights") if k in inputs}, lambda outputs: outputs


def _batch(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    """Molecules alone, and after others in a batch."""
    ptr, count = inputs["ptr"], len(inputs["positions"])
    changed: Inputs = {k: torch.cat([2 * inputs[k], inputs[k]]) for k in ("positions", "weights") if k in inputs}
    if inputs["rotation"].dim() == 3:
        changed["rotation"] = inputs["rotation"].repeat(2, 1, 1)
    scale = 8 if "weights" in inputs else 4
    both = inputs | changed | {"ptr": torch.cat([ptr, ptr[1:] + count])}
    return both, lambda outputs: (torch.cat([scale * outputs[0], outputs[0]]),)


def _ops(inputs: Inputs) -> list[tuple[Any, tuple[Any, ...]]]:
    x, rotation, ptr = (inputs[name] for name in ("positions", "rotation", "ptr"))
    weights, grad, grad_moment = torch.ones_like(x[:, :2]), x.new_ones(len(ptr) - 1, 225), x.new_ones(len(ptr) - 1, 18)
    outer, moment = (x, rotation, None, ptr, 0), (x, torch.eye(3).to(x), weights, ptr, 2)
    ops = torch.ops.symkern
    return [
        (ops.second_order_pool.default, outer),
        (ops.second_order_pool_backward.default, (grad, *outer, 3)),
        (ops.second_order_pool_backward.default, (grad_moment, *moment, 0b110)),
        (ops.second_order_pool_double_backward.default, (x, rotation, None, grad, *outer, 7)),
        (ops.second_order_pool_double_backward.default, (None, None, weights, grad_moment, *moment, 0b1101)),
    ]


def _bad(name: str, match: str, error: type[Exception] = ValueError, mode: str = "outer", **changes: Any) -> BadInput:
    def make() -> Inputs:
        inputs = _sample(mode, 4, 3)(torch.float32, "cpu", 0)
        return inputs | {key: change(inputs.get(key)) for key, change in changes.items()}

    return BadInput(name, make, error, match)


def _too_large(mode: str, match: str, *sizes: int) -> BadInput:
    """Refused on the CPU; a device, which does not look at ptr, makes the features NaN."""
    make = _sample(mode, *sizes)

    def later(device: torch.device | str) -> None:
        if bool(second_order_pool(**make(torch.float32, device, 0)).isnan().all(1).any()):
            raise ValueError(match)

    return BadInput(f"too large, {mode}", lambda: make(torch.float32, "cpu", 0), ValueError, match, later)


def _flops(inputs: Inputs, output: Tensor) -> int:
    """The rotation; then a product per feature, or two per moment and atom."""
    terms = {"outer": 1, "gram": 5}.get(inputs["mode"])
    atoms = len(inputs["positions"])
    return int(15 * atoms + (terms * output.numel() if terms else 2 * output.shape[1] * atoms))


def _bytes(inputs: Inputs, output: Tensor) -> int:
    return num_bytes(*(inputs.get(k) for k in ("positions", "rotation", "ptr", "weights")), output)


def _huge(device: torch.device | str) -> Inputs:
    molecules = 2**31 // 225 + 8
    positions = torch.full((molecules, 3), 2.0, device=device)
    return {"positions": positions, "rotation": torch.eye(3, device=device), "mode": "outer"} | {
        "ptr": torch.arange(molecules + 1, device=device)
    }


_SAMPLES = {
    "empty": _sample("outer"),
    "one": _sample("outer", 1),
    "ragged": _sample("outer", 3, 0, 5, 1, 2),
    "full": _sample("outer", 15, 14, 15),
    "outer, shared": _sample("outer", 2, 15, 0, 9, shared=True),
    "gram": _sample("gram", 4, 0, 1, 15),
    "gram, shared": _sample("gram", 7, 15, 3, shared=True),
    "moment": _sample("moment", 3, 0, 23, 1),
    "moment, shared": _sample("moment", 5, 17, shared=True),
    "masked": _sample("moment", 6, 0, 19, 1, channels=5),
    "masked, shared": _sample("moment", 4, 31, channels=9, shared=True),
    "no atoms": _sample("moment", 0, 0, channels=2),
    "small outer": _sample("outer", 2, 1),
    "small gram": _sample("gram", 2, 0, 1, shared=True),
    "small moment": _sample("moment", 2, 3, shared=True, channels=2),
    "many": _sample("moment", *[3] * 700, shared=True, channels=3),
}
_EACH = ("ragged", "full", "gram", "moment", "masked", "masked, shared")

CASE = Case(
    name="second_order_pool",
    function=second_order_pool,
    reference=reference,
    samples=_SAMPLES,
    differentiable=("positions", "rotation", "weights"),
    gradient_samples=("small outer", "small gram", "small moment"),
    ops=_ops,
    invariances=(
        Invariance("rotation", _rotate, _EACH),
        Invariance("frame", _turn_frame, ("gram", "moment", "masked")),
        Invariance("permutation", _permute, ("moment", "masked", "masked, shared")),
        Invariance("batching", _batch, _EACH),
    ),
    bad_inputs=(
        _bad("list", "positions must be a torch.Tensor, got builtins.list", TypeError, positions=lambda x: x.tolist()),
        _bad("integers", "positions must be float32 or float64, got int64", positions=lambda x: x.long()),
        _bad("flat", r"positions must have shape \(N, 3\), got \(21,\)", positions=lambda x: x.flatten()),
        _bad("mixed", "rotation must be float32, got float64", rotation=lambda r: r.double()),
        _bad("matrices", r"rotation must have shape \(3, 3\) or \(B, 3, 3\) with B = 2", rotation=lambda r: r[1:]),
        _bad("rows", r"rotation must have shape \(3, 3\) or \(B, 3, 3\)", rotation=lambda r: r[0, :2]),
        _bad("ptr", r"ptr must have shape \(B \+ 1,\)", ptr=lambda p: p[:0]),
        _bad("ptr of int32", "ptr must be int64, got int32", ptr=lambda p: p.int()),
        _bad("mode", "mode must be one of 'outer', 'gram', 'moment', got 'cube'", mode="cube"),
        _bad("weights of outer", "weights go with mode 'moment', got mode 'outer'", weights=lambda _: torch.ones(7, 1)),
        _bad("rows of weights", r"weights must have shape \(N, C\)", mode="moment", weights=lambda _: torch.ones(6, 2)),
        _bad("flat weights", r"weights must have shape \(N, C\)", mode="moment", weights=lambda _: torch.ones(7)),
        _bad("mixed weights", "weights must be float32, got float64", mode="moment",
             weights=lambda _: torch.ones(7, 2, dtype=torch.float64)),
        _too_large("outer", "mode 'outer' has room for 15 atoms, but molecule 1 has 16", 2, 16),
        _too_large("gram", "mode 'gram' has room for 15 atoms, but molecule 0 has 20", 20),
    ),
    sizes={
        "128 x 15, outer": Size(_sample("outer", *[15] * 128), _bytes, _flops),
        "128 x 15, gram": Size(_sample("gram", *[15] * 128), _bytes, _flops),
        "128 x 18, 32 channels": Size(_sample("moment", *[18] * 128, channels=32), _bytes, _flops),
    },
    huge=Huge(10 * 2**30, _huge, lambda inputs, out: out[-1, :4].tolist() == [4, 4, 4, 0] and out[-1, 45] == 4),
)  # fmt: skip
