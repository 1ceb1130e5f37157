from __future__ import annotations

import math
from typing import Any

import torch

from symkern.ops.spherical_features import _constants, reference, spherical_features
from symkern.testing.case import BadInput, Builder, Case, Inputs, Invariance, Size, num_bytes
from symkern.testing.geometry import generator

CUTOFF = 5.0


def points(count: int, num_spherical: int = 3, num_radial: int = 4) -> Builder:
    """Vectors from 0.5 Å to beyond the cutoff, and angles."""

    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        random = generator(seed)
        unit = torch.nn.functional.normalize(torch.randn((count, 3), generator=random, dtype=torch.float64), dim=1)
        d = 0.5 + 1.5 * CUTOFF * torch.rand((count, 1), generator=random, dtype=torch.float64)
        tau = math.pi * (2 * torch.rand(count, generator=random, dtype=torch.float64) - 1)
        sizes = {"cutoff": CUTOFF, "num_spherical": num_spherical, "num_radial": num_radial}
        return {"local": (d * unit).to(dtype).to(device), "tau": tau.to(dtype).to(device), **sizes}

    return make


def _special(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
    """Zero vectors, very short ones, the axes, the cutoff; angles 0 and pi."""
    inputs = points(24, 5, 3)(dtype, device, seed)
    local, tau = inputs["local"], inputs["tau"]
    local[0], local[1], local[2] = 0, 1e-6 * local[1], 1e-2 * local[2]
    local[3:9] = torch.cat([torch.eye(3), -torch.eye(3)]).to(local)
    local[9] = local.new_tensor([0, 0, CUTOFF])
    tau[0], tau[10:12], tau[12] = 0, 0, math.pi
    return inputs


def _flip(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    """y -> -y and tau -> -tau: the harmonics with m < 0 change sign."""
    signs = [-1.0 if m < 0 else 1.0 for order in range(inputs["num_spherical"]) for m in range(-order, order + 1)]
    first = torch.tensor(signs, dtype=torch.float64).repeat_interleave(inputs["num_radial"])
    local = inputs["local"] * inputs["local"].new_tensor([1.0, -1, 1])
    return {**inputs, "local": local, "tau": -inputs["tau"]}, lambda outputs: (
        outputs[0] * first.to(outputs[0]),
        outputs[1],
    )


def _units(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    changed = {**inputs, "local": 2 * inputs["local"], "cutoff": 2 * inputs["cutoff"]}
    return changed, lambda outputs: tuple(t / math.sqrt(8) for t in outputs)


def _ops(inputs: Inputs) -> list[tuple[Any, tuple[Any, ...]]]:
    local, tau = inputs["local"], inputs["tau"]
    cutoff, *sizes = inputs["cutoff"], inputs["num_spherical"], inputs["num_radial"]
    constants = (*_constants(cutoff, *sizes, local.dtype, local.device), cutoff)
    grads = tuple(torch.ones_like(t) for t in spherical_features(**inputs))
    return [
        (torch.ops.symkern.spherical_features.default, (local, tau, *constants)),
        (torch.ops.symkern.spherical_features_backward.default, (*grads, local, tau, *constants)),
        (torch.ops.symkern.spherical_features_double_backward.default, (local, tau, *grads, local, tau, *constants)),
    ]


def _bad(name: str, match: str, error: type[Exception] = ValueError, **changes: Any) -> BadInput:
    def make() -> Inputs:
        inputs = points(5)(torch.float32, "cpu", 0)
        return inputs | {k: change(inputs[k]) if callable(change) else change for k, change in changes.items()}

    return BadInput(name, make, error, match)


CASE = Case(
    name="spherical_features",
    function=spherical_features,
    reference=reference,
    samples={
        "empty": points(0),
        "one": points(1, 1, 1),
        "ragged": points(13),
        "largest": points(9, 8, 8),
        "wide": points(9, 2, 6),
        "special": _special,
    },
    differentiable=("local", "tau"),
    gradient_samples=("one", "ragged"),
    ops=_ops,
    invariances=(
        Invariance("reflection", _flip, ("ragged", "largest")),
        Invariance("units", _units, ("ragged", "largest")),
    ),
    bad_inputs=(
        _bad("no tensor", "local must be a torch.Tensor", TypeError, local=lambda x: x.tolist()),
        _bad("integers", "local must be float32 or float64, got int64", local=lambda x: x.long()),
        _bad("shape", r"local must have shape \(E, 3\), got \(5, 2\)", local=lambda x: x[:, :2]),
        _bad("length", r"tau must have shape \(E,\) with E = 5", tau=lambda x: x[1:]),
        _bad("dtypes", "tau must be float32, got float64", tau=lambda x: x.double()),
        _bad("cutoff", "cutoff must be positive and finite, got 0", cutoff=0.0),
        _bad("spherical", r"num_spherical must be in 1 .. 8, got 9", num_spherical=9),
        _bad("radial", r"num_radial must be in 1 .. 8, got 0", num_radial=0),
    ),
    sizes={
        "9,216 edges, 6 x 6": Size(
            points(9216, 6, 6),
            lambda inputs, out: num_bytes(inputs["local"], inputs["tau"], *out),
            lambda inputs, out: 2 * sum(t.numel() for t in out),
        )
    },
    # in fp64 the reference is its own truth, although it rounds the arguments z x, of up to 60 here
    floor=32.0,
)
