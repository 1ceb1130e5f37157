from __future__ import annotations

from math import cos, pi, sin, sqrt
from typing import Any

import torch
from torch import Tensor

from symkern.ops import stabilizers as module
from symkern.ops import symmetrize as _symmetrize  # noqa: F401  registers its fake kernel
from symkern.ops.stabilizers import stabilizers
from symkern.stabilizer import Stabilizers
from symkern.testing.case import BadInput, Builder, Case, Inputs, Invariance, Size, num_bytes
from symkern.testing.geometry import generator, random_box, random_rotation, shuffle_within

Atoms = list[tuple[int, float, float, float]]


def _ring(number: int, count: int, radius: float, height: float = 0.0, turn: float = 0.0) -> Atoms:
    angles = [turn + 2 * pi * k / count for k in range(count)]
    return [(number, radius * cos(a), radius * sin(a), height) for a in angles]


def _icosahedron(number: int, scale: float) -> Atoms:
    long = scale * (1 + sqrt(5)) / 2
    signs = [(s, t) for s in (-scale, scale) for t in (-long, long)]
    return [(number, *xyz) for s, t in signs for xyz in ((0.0, s, t), (s, t, 0.0), (t, 0.0, s))]


_D = 0.629
_MOLECULES: dict[str, Atoms] = {
    "nothing": [],
    "atom": [(18, 0.0, 0.0, 0.0)],
    "CO": [(6, 0.0, 0.0, 0.0), (8, 0.0, 0.0, 1.13)],
    "CO2": [(6, 0.0, 0.0, 0.0), (8, 0.0, 0.0, 1.16), (8, 0.0, 0.0, -1.16)],
    "water": [(8, 0.0, 0.0, 0.119), (1, 0.0, 0.763, -0.477), (1, 0.0, -0.763, -0.477)],
    "peroxide": [(8, 0.0, 0.73, 0.0), (8, 0.0, -0.73, 0.0), (1, 0.8, 0.9, 0.45), (1, -0.8, -0.9, 0.45)],
    "ammonia": [(7, 0.0, 0.0, 0.1), *_ring(1, 3, 0.94, -0.27)],
    "methane": [(6, 0.0, 0.0, 0.0), (1, _D, _D, _D), (1, _D, -_D, -_D), (1, -_D, _D, -_D), (1, -_D, -_D, _D)],
    "chiral": [
        (6, 0.0, 0.0, 0.0),
        (1, 0.6, 0.6, 0.6),
        (9, 0.8, -0.8, -0.8),
        (17, -1.0, 1.0, -1.0),
        (8, -0.7, -0.7, 0.7),
    ],
    "benzene": [*_ring(6, 6, 1.39), *_ring(1, 6, 2.48)],
    "ethane": [
        *[(6, 0.0, 0.0, h) for h in (0.76, -0.76)],
        *_ring(1, 3, 1.02, 1.16),
        *_ring(1, 3, 1.02, -1.16, pi / 3),
    ],
    "octahedron": [(16, 0.0, 0.0, 0.0), *_ring(9, 4, 1.56), (9, 0.0, 0.0, 1.56), (9, 0.0, 0.0, -1.56)],
    "icosahedron": [*_icosahedron(5, 0.9), *_icosahedron(1, 1.5)],
}


def _molecules(names: tuple[str, ...], noise: float = 0.0, **options: Any) -> Builder:
    """These molecules, each turned and moved."""

    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        random = generator(seed)
        parts, numbers, starts = [torch.zeros((0, 3), dtype=torch.float64)], [], [0]
        for name in names:
            atoms = _MOLECULES[name]
            x = torch.tensor([row[1:] for row in atoms], dtype=torch.float64).reshape(-1, 3)
            x = x + noise * torch.randn(x.shape, generator=random, dtype=torch.float64)
            parts.append(x @ random_rotation(random).T + torch.randn(3, generator=random, dtype=torch.float64))
            numbers += [row[0] for row in atoms]
            starts.append(len(numbers))
        return {
            "positions": torch.cat(parts).to(dtype).to(device),
            "numbers": torch.tensor(numbers, dtype=torch.int64, device=device),
            "ptr": torch.tensor(starts, device=device),
            **options,
        }

    return make


def _random(count: int, atoms: int) -> Builder:
    """As dense as an organic molecule with its hydrogens, without symmetry."""

    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        random = generator(seed)
        positions = torch.cat([random_box(atoms, random)[0] for _ in range(count)])
        numbers = torch.randint(0, 4, (count * atoms,), generator=random)
        return {
            "positions": positions.to(dtype).to(device),
            "numbers": torch.tensor([1, 6, 7, 8])[numbers].to(device),
            "ptr": torch.arange(0, count * atoms + 1, atoms, device=device),
        }

    return make


_FIELDS = (
    "operations", "op_ptr", "permutations", "perm_ptr", "residuals", "centroid", "orbits", "order", "group", "rank",
    "axis", "closed", "margin", "ambiguous", "ptr",
)  # fmt: skip


def _outputs(sym: Stabilizers) -> tuple[Tensor, ...]:
    return tuple(getattr(sym, name) for name in _FIELDS)


def _reference(positions: Tensor, numbers: Tensor, *, ptr: Tensor | None = None, **options: Any) -> Stabilizers:
    if ptr is None:
        ptr = torch.tensor([0, len(positions)], device=positions.device)
    return module.reference(positions, numbers, ptr=ptr, **options)


def _rotate(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    q = random_rotation(random).to(inputs["positions"])

    def expected(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        found = dict(zip(_FIELDS, outputs, strict=True))
        axis = found["axis"] @ q.T
        lead = axis.gather(1, axis.abs().argmax(1, keepdim=True))  # the largest component is positive
        axis = torch.where(lead < 0, -axis, axis)
        changed = {"operations": q @ found["operations"] @ q.T, "centroid": found["centroid"] @ q.T, "axis": axis}
        return tuple((found | changed).values())

    return {**inputs, "positions": inputs["positions"] @ q.T}, expected


def _translate(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    offset = 10 * torch.randn(3, generator=random, dtype=torch.float64).to(inputs["positions"])

    def expected(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        found = dict(zip(_FIELDS, outputs, strict=True))
        filled = (found["ptr"].diff() > 0).unsqueeze(1)
        return tuple((found | {"centroid": found["centroid"] + filled * offset}).values())

    return {**inputs, "positions": inputs["positions"] + offset}, expected


def _permute(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    order = shuffle_within(inputs["ptr"], random)
    place = torch.argsort(order)

    def expected(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        found = dict(zip(_FIELDS, outputs, strict=True))
        operations, residuals = found["operations"].clone(), found["residuals"].clone()
        permutations, orbits = found["permutations"].clone(), found["orbits"].clone()
        for b in range(len(found["order"])):
            begin, end = found["ptr"][b : b + 2].tolist()
            first, last = found["op_ptr"][b : b + 2].tolist()
            rows = slice(int(found["perm_ptr"][first]), int(found["perm_ptr"][last]))
            old = found["permutations"][rows].reshape(last - first, end - begin)
            new = place[old[:, order[begin:end] - begin]]
            det = torch.linalg.det(found["operations"][first:last]).round().tolist()
            keys = [(-d, p, g) for g, (d, p) in enumerate(zip(det, new.tolist(), strict=True))]
            ranks = [g for _, _, g in sorted(keys)]
            operations[first:last] = operations[first:last][ranks]
            residuals[first:last] = residuals[first:last][ranks]
            permutations[rows] = new[ranks].flatten()
            if end > begin:
                orbits[begin:end] = new.min(0).values
        changed = {"operations": operations, "residuals": residuals, "permutations": permutations, "orbits": orbits}
        return tuple((found | changed).values())

    return {**inputs, "positions": inputs["positions"][order], "numbers": inputs["numbers"][order]}, expected


def _single_out(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    """The last molecule alone has the symmetry that it has in the batch."""
    begin = int(inputs["ptr"][-2])
    alone = {**inputs, "ptr": inputs["ptr"][-2:] - begin}
    for name in ("positions", "numbers"):
        alone[name] = inputs[name][begin:]

    def expected(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        found = dict(zip(_FIELDS, outputs, strict=True))
        first = int(found["op_ptr"][-2])
        entry = int(found["perm_ptr"][first])
        changed = {name: found[name][-1:] for name in found if len(found[name]) == len(found["order"])}
        changed |= {
            "operations": found["operations"][first:],
            "residuals": found["residuals"][first:],
            "op_ptr": found["op_ptr"][-2:] - first,
            "permutations": found["permutations"][entry:] - begin,
            "perm_ptr": found["perm_ptr"][first:] - entry,
            "orbits": found["orbits"][begin:] - begin,
            "ptr": found["ptr"][-2:] - begin,
        }
        return tuple((found | changed).values())

    return alone, expected


def _ops(inputs: Inputs) -> list[tuple[Any, tuple[Any, ...]]]:
    ops = torch.ops.symkern
    positions, numbers, ptr = inputs["positions"], inputs["numbers"], inputs["ptr"]
    sym = stabilizers(positions, numbers, ptr=ptr)
    parts = (sym.operations, sym.axis)
    doubles = tuple(t.double() for t in (positions, *parts))
    return [
        (ops.stabilizers.default, (positions, numbers, None, ptr, 0.01, 0, 0, False)),
        (ops.symmetrize.default, (*doubles, ptr, sym.op_ptr, sym.permutations, sym.perm_ptr, sym.rank, 4)),
    ]


def _bad(name: str, match: str, **changes: Any) -> BadInput:
    """Water and ammonia, with some inputs replaced, computed anew, or left out (None)."""

    def make() -> Inputs:
        inputs = _molecules(("water", "ammonia"))(torch.float32, "cpu", 0)
        for key, change in changes.items():
            inputs[key] = change(inputs[key]) if callable(change) else change
        return {key: value for key, value in inputs.items() if value is not None}

    return BadInput(name, make, ValueError, match)


def _with(position: int | tuple[int, int], value: float) -> Any:
    def change(t: Tensor) -> Tensor:
        t = t.clone()
        t[position] = value
        return t

    return change


def _bytes(inputs: Inputs, output: Stabilizers) -> int:
    return num_bytes(inputs["positions"], inputs["numbers"], *_outputs(output))


def _flops(inputs: Inputs, output: Stabilizers) -> int:
    # for each atom and operation found: its part of the covariance (18), its image (15), the distance (8)
    return 41 * int(output.permutations.numel())


_ALL = tuple(_MOLECULES)

CASE = Case(
    name="stabilizers",
    function=stabilizers,
    reference=_reference,
    samples={
        "empty": _molecules(()),
        "one": _molecules(("atom",)),
        "ragged": _molecules(("water", "nothing", "atom", "CO2", "methane", "CO", "ammonia")),
        "nothing": _molecules(("nothing", "nothing")),
        "all": _molecules(_ALL),
        "without ptr": _molecules(("benzene",), ptr=None),
        "loose": _molecules(("peroxide", "ethane", "chiral", "benzene"), 0.02, tolerance=0.1),
        "nearly": _molecules(("methane", "octahedron", "ethane", "benzene"), 0.004),
        "nearly, raw": _molecules(("methane", "octahedron", "ethane", "benzene"), 0.004, policy="raw"),
        "nearly, generate": _molecules(("methane", "octahedron", "ethane", "benzene"), 0.004, policy="generate"),
        "samples": _molecules(("CO2", "CO", "water", "atom"), samples=5),
    },
    outputs=_outputs,
    ops=_ops,
    invariances=(
        Invariance("rotation", _rotate, ("ragged", "all", "nearly")),
        Invariance("translation", _translate, ("ragged", "all", "nearly")),
        Invariance("permutation", _permute, ("ragged", "all", "nearly", "nearly, generate")),
        Invariance("batching", _single_out, ("ragged", "all")),
    ),
    bad_inputs=(
        _bad("nan", "positions must be finite, but atom 5", positions=_with((5, 1), float("nan"))),
        _bad("inf", "positions must be finite, but atom 2", positions=_with((2, 0), float("inf"))),
        _bad("integers", "positions must be float32 or float64, got int64", positions=lambda r: r.long()),
        _bad("half precision", "positions must be float32 or float64, got float16", positions=lambda r: r.half()),
        _bad("flat", r"positions must have shape \(N, 3\), got \(21,\)", positions=lambda r: r.flatten()),
        _bad("placeholder", "numbers must be at least 1, but atom 4 has 0", numbers=_with(4, 0)),
        _bad("negative number", "numbers must be at least 1, but atom 1 has -6", numbers=_with(1, -6)),
        _bad("real numbers", "numbers must be integers, got float32", numbers=lambda z: z.float()),
        _bad("too few numbers", r"numbers must have shape \(N,\) with N = 7, got \(6,\)", numbers=lambda z: z[:6]),
        _bad(
            "table of numbers", r"numbers must have shape \(N,\) with N = 7, got \(7, 1\)", numbers=lambda z: z[:, None]
        ),
        _bad("tolerance 0", "tolerance must be positive and finite, got 0", tolerance=0.0),
        _bad("negative tolerance", "tolerance must be positive and finite, got -0.1", tolerance=-0.1),
        _bad("nan tolerance", "tolerance must be positive and finite", tolerance=float("nan")),
        _bad("infinite tolerance", "tolerance must be positive and finite", tolerance=float("inf")),
        _bad("policy", "policy must be one of closed, raw, generate, got 'open'", policy="open"),
        _bad("samples", "samples must be 0 .. 100000, got -1", samples=-1),
        _bad("ptr end", "ptr must end at N = 7, the number of atoms, got 6", ptr=torch.tensor([0, 3, 6])),
        _bad("ptr start", "ptr must start at 0, got 1", ptr=torch.tensor([1, 3, 7])),
        _bad("ptr falls", r"ptr must not decrease, but ptr\[2\] = 7 < 9", ptr=torch.tensor([0, 9, 7])),
        _bad("ptr dtype", "ptr must be int64, got int32", ptr=torch.tensor([0, 3, 7], dtype=torch.int32)),
        _bad("no molecules", "ptr describes no structure, but there are 7 atoms", ptr=torch.tensor([0])),
        _bad("batch and ptr", "give one of them", batch=torch.zeros(7, dtype=torch.int64)),
        _bad("unsorted batch", "batch must be sorted", ptr=None, batch=torch.tensor([0, 0, 1, 0, 1, 1, 1])),
        _bad("negative batch", "batch must not be negative", ptr=None, batch=torch.tensor([-1, 0, 0, 0, 1, 1, 1])),
        _bad("batch shape", r"N = 7, got \(6,\)", ptr=None, batch=torch.zeros(6, dtype=torch.int64)),
        _bad("batch dtype", "batch must be int64, got float32", ptr=None, batch=torch.zeros(7)),
    ),
    sizes={
        "128 x 18 atoms": Size(_random(128, 18), _bytes, _flops),
        "4096 x 18 atoms": Size(_random(4096, 18), _bytes, _flops),
        "128 x icosahedron": Size(_molecules(("icosahedron",) * 128), _bytes, _flops),
    },
    # the reference rounds otherwise: numpy's SVD and eigenvectors against our own
    floor=64.0,
)
