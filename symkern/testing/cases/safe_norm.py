from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from symkern.ops.safe_norm import reference, safe_norm
from symkern.testing.case import BadInput, Builder, Case, Huge, Inputs, Invariance, Size, num_bytes
from symkern.testing.geometry import generator, random_rotation


def _rows(*shape: int, scale: float = 1.0, zero_rows: bool = False) -> Builder:
    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        vec = scale * torch.randn(shape, generator=generator(seed), dtype=torch.float64)
        if zero_rows:
            vec[::3] = 0
        return {"vec": vec.to(dtype).to(device)}

    return make


def _rotate(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    rotation = random_rotation(random).to(inputs["vec"])
    return {"vec": inputs["vec"] @ rotation.T}, lambda outputs: outputs


def _permute(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    order = torch.randperm(inputs["vec"].shape[0], generator=random).to(inputs["vec"].device)
    return {"vec": inputs["vec"][order]}, lambda outputs: (outputs[0][order],)


def _ops(inputs: Inputs) -> list[tuple[Any, tuple[Any, ...]]]:
    vec = inputs["vec"].reshape(-1, inputs["vec"].shape[-1])
    grad, direction = torch.ones_like(vec[:, 0]), torch.ones_like(vec)
    ops = torch.ops.symkern
    return [
        (ops.safe_norm.default, (vec,)),
        (ops.safe_norm_backward.default, (grad, vec)),
        (ops.safe_norm_double_backward.default, (direction, grad, vec)),
    ]


def _huge(device: torch.device | str) -> Inputs:
    vec = torch.zeros((2**30 + 8, 2), dtype=torch.float32, device=device)
    vec[-1] = torch.tensor([3.0, 4.0])
    return {"vec": vec}


def _bytes(inputs: Inputs, output: Tensor) -> int:
    return num_bytes(inputs["vec"], output)


def _flops(inputs: Inputs, output: Tensor) -> int:
    # D multiply-adds and a square root per row
    return 2 * int(inputs["vec"].numel()) + int(output.numel())


CASE = Case(
    name="safe_norm",
    function=safe_norm,
    reference=reference,
    samples={
        "empty": _rows(0, 3),
        "one": _rows(1, 3),
        "ragged": _rows(37, 3),
        "zeros": _rows(37, 3, zero_rows=True),
        "wide": _rows(5, 19),
        "stacked": _rows(2, 3, 4),
        "large": _rows(11, 3, scale=1e15),
        "many": _rows(40_000, 3),
    },
    differentiable=("vec",),
    gradient_samples=("one", "ragged", "wide", "stacked"),
    ops=_ops,
    invariances=(Invariance("rotation", _rotate, ("ragged", "zeros")), Invariance("permutation", _permute)),
    bad_inputs=(
        BadInput(
            "integers", lambda: {"vec": torch.ones((4, 3), dtype=torch.int64)}, ValueError, "vec must be float32 or"
        ),
        BadInput("half", lambda: {"vec": torch.ones((4, 3), dtype=torch.float16)}, ValueError, "got float16"),
        BadInput("scalar", lambda: {"vec": torch.tensor(1.0)}, ValueError, r"vec must have shape \(\.\.\., D\)"),
    ),
    sizes={f"{n} rows": Size(_rows(n, 3), _bytes, _flops) for n in (10_000, 1_000_000)},
    huge=Huge(14 * 2**30, _huge, lambda inputs, out: out[-1].item() == 5 and out[0].item() == 0),
)
