from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from symkern.ops.edge_angles import edge_angles
from symkern.ops.safe_norm import safe_norm
from symkern.ops.spherical_basis import _constants, reference, spherical_basis
from symkern.ops.triplets import Triplets
from symkern.testing.case import BadInput, Builder, Case, Huge, Inputs, Invariance, Size, num_bytes
from symkern.testing.cases.edge_angles import corners
from symkern.testing.cases.triplets import graph, large
from symkern.testing.geometry import generator

CUTOFF = 4.0


def _basis(
    make: Builder, num_spherical: int = 3, num_radial: int = 2, *, spare: int | None = None, **options: Any
) -> Builder:
    """Distances from 0.5 to beyond the cutoff, and angles, drawn for the triplets of a graph."""

    def build(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        tri = Triplets(*corners(make, spare)(dtype, "cpu", seed)["tri"])
        random = generator(seed)
        d = 0.5 + CUTOFF * torch.rand(tri.num_edges, generator=random, dtype=torch.float64)
        angle = math.pi * torch.rand(tri.num_triplets, generator=random, dtype=torch.float64)
        sizes: Inputs = {"cutoff": CUTOFF, "num_spherical": num_spherical, "num_radial": num_radial, **options}
        tensors = {
            "d": d.to(dtype).to(device),
            "angle": angle.to(dtype).to(device),
            "tri": (tri.index.to(device), tri.ptr.to(device)),
        }
        return {**tensors, **sizes}

    return build


def _spherical_basis(d: Tensor, angle: Tensor, tri: tuple[Tensor, Tensor], **options: Any) -> Tensor:
    return spherical_basis(d, angle, Triplets(*tri), **options)


def _reference(d: Tensor, angle: Tensor, tri: tuple[Tensor, Tensor], **options: Any) -> Tensor:
    return reference(d, angle, Triplets(*tri), **options)


def _special(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
    """Distances at zero, close to it, at the cutoff and beyond; angles 0 and pi."""
    inputs = _basis(graph((4, 5), density=0.2), 4, 3)(dtype, device, seed)
    for k, value in enumerate((0.0, 1e-12, 0.05, CUTOFF, 2 * CUTOFF)):
        inputs["d"][k::11] = value
    inputs["angle"][::5], inputs["angle"][1::5] = 0, math.pi
    return inputs


def _large(atoms: int) -> Builder:
    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        inputs = corners(large(atoms))(dtype, device, seed)
        angle = edge_angles(inputs["vec"], Triplets(*inputs["tri"]))
        sizes = {"cutoff": 5.0, "num_spherical": 7, "num_radial": 6}
        return {"d": safe_norm(inputs["vec"]), "angle": angle, "tri": inputs["tri"], **sizes}

    return make


def _turn(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    """Legendre polynomials are even or odd about a right angle: PyG's angle changes signs only."""
    sign = (-1.0) ** torch.arange(inputs["num_spherical"], device=inputs["d"].device, dtype=torch.float64)
    signs = sign.repeat_interleave(inputs["num_radial"])
    return {**inputs, "angle": math.pi - inputs["angle"]}, lambda outputs: (outputs[0] * signs,)


def _units(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    return {**inputs, "d": 2 * inputs["d"], "cutoff": 2 * inputs["cutoff"]}, lambda outputs: outputs


def _ops(inputs: Inputs) -> list[tuple[Any, tuple[Any, ...]]]:
    d, angle, tri = inputs["d"], inputs["angle"], Triplets(*inputs["tri"])
    shape = inputs["num_spherical"], inputs["num_radial"]
    constants = _constants(*shape, d.dtype, d.device)
    points = (d, angle, tri.index, tri.ptr, tri.kj_order, tri.kj_ptr)
    grad = torch.ones((tri.num_triplets, shape[0] * shape[1]), dtype=d.dtype, device=d.device)
    settings = (CUTOFF, shape[1], 6)
    # the tables are constants: no gradient flows there, so they are not offered as points for one
    return [
        (torch.ops.symkern.spherical_basis.default, (*points, *constants, *settings)),
        *(
            (torch.ops.symkern.spherical_basis_backward.default, (grad, *points, *constants, *settings, *needs))
            for needs in ((True, True), (True, False), (False, True))
        ),
        (torch.ops.symkern.spherical_basis_double_backward.default, (d, angle, grad, *points, *constants, *settings)),
    ]


def _bad(name: str, match: str, **changes: Any) -> BadInput:
    def make() -> Inputs:
        inputs = _basis(graph((4, 5), density=0.2))(torch.float32, "cpu", 0)
        return inputs | {k: change(inputs[k]) if callable(change) else change for k, change in changes.items()}

    return BadInput(name, make, ValueError, match)


def _huge(device: torch.device | str) -> Inputs:
    count = 2**25 + 8
    index = torch.zeros((2, count), dtype=torch.int64, device=device)
    tri = index, torch.tensor([0, count], device=device)
    angle = torch.zeros(count, device=device)
    angle[-1] = math.pi
    d = torch.full((1,), 2.0, device=device)
    return {"d": d, "angle": angle, "tri": tri, "cutoff": CUTOFF, "num_spherical": 8, "num_radial": 8}


def _verify_huge(inputs: Inputs, out: Tensor) -> bool:
    signs = torch.tensor([1.0, -1] * 4, device=out.device).repeat_interleave(8)
    return bool(torch.allclose(out[0] * signs, out[-1], atol=1e-4)) and bool(out[0].abs().max() > 0.1)


def _bytes(inputs: Inputs, output: Tensor) -> int:
    return num_bytes(inputs["d"], inputs["angle"], inputs["tri"][0][0], output)


_SMOOTH = ("one", "ragged", "seven", "padded")

CASE = Case(
    name="spherical_basis",
    function=_spherical_basis,
    reference=_reference,
    samples={
        "empty": _basis(graph(())),
        "one": _basis(graph((3,), density=0.2), 1, 1),
        "ragged": _basis(graph((4, 0, 1, 5), density=0.1)),
        "seven": _basis(graph((4,), density=0.2), 7, 6, exponent=5),
        "padded": _basis(graph((3, 0, 4), density=0.2, spare=5), spare=7),
        "only padding": _basis(graph((1,)), spare=3),
        "special": _special,
        "steep": _basis(graph((4,), density=0.2), 2, 3, exponent=1),
        "tall": _basis(graph((4,), density=0.2), 12, 1),
        "wide": _basis(graph((4,), density=0.2), 2, 20),
        "many": _basis(graph((40,), density=0.1), 7, 8),
    },
    differentiable=("d", "angle"),
    gradient_samples=_SMOOTH,
    ops=_ops,
    compile_sample="padded",
    invariances=(
        Invariance("other angle", _turn, ("ragged", "seven")),
        Invariance("units", _units, ("ragged", "seven")),
    ),
    bad_inputs=(
        _bad("integers", "d must be float32 or float64, got int64", d=lambda d: d.long()),
        _bad("length", r"d must have shape \(E,\) with E = ", d=lambda d: d[1:]),
        _bad("angles", r"angle must have shape \(T,\) with T = ", angle=lambda a: a[1:]),
        _bad("dtypes", "angle must be float32, got float64", angle=lambda a: a.double()),
        _bad("cutoff 0", "cutoff must be positive and finite, got 0", cutoff=0.0),
        _bad("negative cutoff", "cutoff must be positive and finite, got -1", cutoff=-1.0),
        _bad("nan cutoff", "cutoff must be positive and finite, got nan", cutoff=float("nan")),
        _bad("infinite cutoff", "cutoff must be positive and finite, got inf", cutoff=float("inf")),
        _bad("no spherical", "num_spherical must be at least 1, got 0", num_spherical=0),
        _bad("no radial", "num_radial must be at least 1, got 0", num_radial=0),
        _bad("exponent", "exponent must be in 1 .. 1000, got 0", exponent=0),
    ),
    sizes={
        f"{n} atoms, 7 x 6": Size(_large(n), _bytes, lambda inputs, out: 2 * int(out.numel())) for n in (300, 1_000)
    },
    # in fp64 the reference is its own truth, although it rounds the arguments z x, of up to 60 here
    floor=32.0,
    huge=Huge(12 * 2**30, _huge, _verify_huge),
)
