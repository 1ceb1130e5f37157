from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from symkern.ops.radial_basis import radial_basis, reference
from symkern.testing.case import BadInput, Builder, Case, Huge, Inputs, Invariance, Size, num_bytes
from symkern.testing.geometry import generator

CUTOFF = 5.0


def _distances(*shape: int, margin: float = 0.05, learn: str = "", num_basis: int = 9, **options: Any) -> Builder:
    """Distances to beyond the cutoff, `margin` away from where derivatives jump; random parameters named in `learn`."""

    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        random = generator(seed)

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(shape, generator=random, dtype=torch.float64)

        d = uniform(margin, 1.2 * CUTOFF - 2 * margin, *shape)
        d = torch.where(d > CUTOFF - margin, d + 2 * margin, d)
        inputs: Inputs = {"d": d, "cutoff": CUTOFF, "num_basis": num_basis, **options}
        unit = options.get("kind") == "expnorm"
        if "centers" in learn:
            inputs["centers"] = uniform(0, 1 if unit else CUTOFF, num_basis)
        if "gammas" in learn:
            inputs["gamma"] = uniform(0.3, 20 if unit else 3, num_basis)
        elif "gamma" in learn:
            inputs["gamma"] = uniform(0.3, 3)
        if "frequencies" in learn:
            inputs["frequencies"] = uniform(-1, 6, num_basis)
        return {k: v.to(dtype).to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}

    return make


def _edges(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
    """Zero, tiny and next to the cutoff."""
    eps = torch.finfo(dtype).eps
    d = [0.0, 1e-30, 1e-9, 1e-4, CUTOFF * (1 - eps), CUTOFF, CUTOFF * (1 + 2 * eps), 1e6]
    return {
        "d": torch.tensor(d, dtype=dtype, device=device),
        "cutoff": CUTOFF,
        "num_basis": 5,
        "kind": "bessel",
        "envelope": "polynomial",
    }


def _permute(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    order = torch.randperm(len(inputs["d"]), generator=random).to(inputs["d"].device)
    return {**inputs, "d": inputs["d"][order]}, lambda outputs: (outputs[0][order],)


def _units(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    """Distances and cutoff in other units give the same values, where the parameters follow."""
    factor = 8.0
    return {**inputs, "d": factor * inputs["d"], "cutoff": factor * inputs["cutoff"]}, lambda outputs: outputs


def _ops(inputs: Inputs) -> list[tuple[Any, tuple[Any, ...]]]:
    d = inputs["d"].reshape(-1)
    p = torch.linspace(0.1, CUTOFF, 7, dtype=d.dtype, device=d.device)
    q, grad = p + 0.5, torch.ones((len(d), 7), dtype=d.dtype, device=d.device)
    ops = torch.ops.symkern
    bessel, expnorm = (CUTOFF, 1, 1, 4), (CUTOFF, 2, 0, 6)
    return [
        (ops.radial_basis.default, (d, p, None, *bessel)),
        (ops.radial_basis.default, (d, p, q, *expnorm)),
        (ops.radial_basis_backward.default, (grad, d, p, None, *bessel, True, True, False)),
        (ops.radial_basis_backward.default, (grad, d, p, q, *expnorm, True, False, True)),
        (ops.radial_basis_double_backward.default, (d, None, q, grad, d, p, q, *expnorm, True, True, True, True)),
    ]


def _bad(name: str, match: str, **changes: Any) -> BadInput:
    return BadInput(name, lambda: _distances(6)(torch.float32, "cpu", 0) | changes, ValueError, match)


def _huge(device: torch.device | str) -> Inputs:
    d = torch.full((2**25 + 8,), CUTOFF / 2, device=device)
    d[-1] = CUTOFF
    return {"d": d, "cutoff": CUTOFF, "num_basis": 65, "envelope": "none"}


def _verify_huge(inputs: Inputs, out: Tensor) -> bool:
    ends = out[[0, -2]][:, 32], out[-1, 64]
    return bool((ends[0] == 1).all()) and float(ends[1]) == 1 and float(out[-1, 0]) == 0


def _bytes(inputs: Inputs, output: Tensor) -> int:
    return num_bytes(inputs["d"], output)


def _flops(inputs: Inputs, output: Tensor) -> int:
    # difference, two products, an exponential of ten operations, times the envelope
    return 14 * int(output.numel())


_NINE = torch.linspace(0, CUTOFF, 9)
_SMOOTH = ("one", "ragged", "scalar", "stacked", "plain", "bessel", "bessel polynomial", "bessel plain", "expnorm")

CASE = Case(
    name="radial_basis",
    function=radial_basis,
    reference=reference,
    samples={
        "empty": _distances(0, learn="centers gamma"),
        "one": _distances(1),
        "ragged": _distances(37, learn="centers gammas"),
        "scalar": _distances(),
        "stacked": _distances(3, 5, learn="gamma", envelope="polynomial"),
        "plain": _distances(11, learn="centers", envelope="none"),
        "bessel": _distances(37, kind="bessel", learn="frequencies"),
        "bessel polynomial": _distances(23, kind="bessel", envelope="polynomial", exponent=1, num_basis=3),
        "bessel plain": _distances(23, kind="bessel", envelope="none", num_basis=3),
        "expnorm": _distances(37, kind="expnorm", learn="centers gammas", envelope="polynomial", exponent=2),
        "expnorm plain": _distances(23, kind="expnorm", envelope="none"),
        "edges": _edges,
        "many": _distances(3_000, learn="centers gammas", num_basis=50),
        "many bessel": _distances(3_000, learn="frequencies", num_basis=33, kind="bessel"),
        "wide": _distances(7, learn="centers gammas", num_basis=600),
    },
    differentiable=("d", "centers", "gamma", "frequencies"),
    gradient_samples=_SMOOTH,
    ops=_ops,
    invariances=(
        Invariance("permutation", _permute, ("ragged", "bessel", "expnorm")),
        Invariance("units", _units, ("one", "expnorm plain")),
    ),
    bad_inputs=(
        _bad("integers", "d must be float32, float64, .* got int64", d=torch.ones(3, dtype=torch.int64)),
        _bad("cutoff 0", "cutoff must be positive and finite, got 0", cutoff=0.0),
        _bad("negative cutoff", "cutoff must be positive and finite, got -1", cutoff=-1.0),
        _bad("nan cutoff", "cutoff must be positive and finite, got nan", cutoff=float("nan")),
        _bad("infinite cutoff", "cutoff must be positive and finite, got inf", cutoff=float("inf")),
        _bad("no basis", "num_basis must be at least 1, got 0", num_basis=0),
        _bad("kind", "kind must be one of gaussian, bessel, expnorm, got 'sinc'", kind="sinc"),
        _bad("envelope", "envelope must be one of cosine, polynomial, none, got 'box'", envelope="box"),
        _bad("exponent", "exponent must be in 1 .. 1000, got 0", exponent=0),
        _bad("centers length", r"centers must have shape \(K,\) .* = 9, got \(8,\)", centers=_NINE[:8]),
        _bad("centers shape", r"centers must have shape \(K,\) .* = 9, got \(9, 1\)", centers=_NINE[:, None]),
        _bad("centers dtype", "centers must be float32, got float64", centers=_NINE.double()),
        _bad("gamma length", r"gamma must have shape \(K,\) .* = 9, got \(1,\)", gamma=_NINE[:1]),
        _bad("gamma dtype", "gamma must be float32, got float64", gamma=torch.tensor(1.0, dtype=torch.float64)),
        _bad("nan gamma", "gamma must be finite, got nan", gamma=float("nan")),
        _bad("frequencies length", "frequencies must have shape", kind="bessel", frequencies=_NINE[:8]),
        _bad("unused frequencies", "frequencies must be None for kind 'gaussian'", frequencies=_NINE),
        _bad("unused centers", "centers must be None for kind 'bessel'", kind="bessel", centers=_NINE),
        _bad("unused gamma", "gamma must be None for kind 'bessel'", kind="bessel", gamma=1.0),
    ),
    sizes={
        "200000 x 50 gaussian": Size(_distances(200_000, num_basis=50), _bytes, _flops),
        "200000 x 8 bessel": Size(
            _distances(200_000, num_basis=8, kind="bessel", envelope="polynomial"), _bytes, _flops
        ),
    },
    huge=Huge(10 * 2**30, _huge, _verify_huge),
)
