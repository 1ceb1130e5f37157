from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from symkern.ops.canonical_frames import canonical_frames
from symkern.ops.stabilizers import stabilizers
from symkern.testing.case import BadInput, Builder, Case, Inputs, Invariance, Size, num_bytes
from symkern.testing.frames import reference
from symkern.testing.geometry import generator, random_rotation, shuffle_within

# species and positions in Å
_SHAPES: dict[str, tuple[list[int], list[list[float]]]] = {
    "nothing": ([], []),
    "atom": ([2], [[0, 0, 0]]),
    "water": ([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]),
    "methane": ([6, 1, 1, 1, 1], [[0, 0, 0], [0.6, 0.6, 0.6], [0.6, -0.6, -0.6], [-0.6, 0.6, -0.6], [-0.6, -0.6, 0.6]]),
    "carbon dioxide": ([8, 6, 8], [[-1.16, 0, 0], [0, 0, 0], [1.16, 0, 0]]),
    "hydrogen cyanide": ([1, 6, 7], [[0, 0, -1.07], [0, 0, 0], [0, 0, 1.16]]),
    "square": ([6, 6, 6, 6], [[0.7, 0.7, 0], [0.7, -0.7, 0], [-0.7, -0.7, 0], [-0.7, 0.7, 0]]),
    "chiral": ([6, 1, 9, 17, 35], [[0, 0, 0], [0.6, 0.6, 0.6], [0.8, -0.8, -0.8], [-1, 1, -1], [-1.1, -1.1, 1.1]]),
}


def _molecules(*names: str, noise: float = 2e-3, **options: Any) -> Builder:
    """Shapes that are symmetric within the tolerance but not exactly, so that one of the equivalent frames is best."""

    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        random = generator(seed)
        parts = [torch.tensor(_SHAPES[name][1], dtype=torch.float64).reshape(-1, 3) for name in names]
        positions = torch.cat([torch.zeros((0, 3), dtype=torch.float64), *parts])
        positions = positions + noise * torch.randn(positions.shape, generator=random, dtype=torch.float64)
        return {
            "positions": positions.to(dtype).to(device),
            "numbers": torch.tensor([z for name in names for z in _SHAPES[name][0]], dtype=torch.int64, device=device),
            "ptr": torch.tensor([0, *(len(part) for part in parts)], device=device).cumsum(0),
            **options,
        }

    return make


def _clouds(count: int, atoms: int) -> Builder:
    """Without symmetry, and as dense as an organic molecule."""

    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        random = generator(seed)
        positions = (atoms / 0.1) ** (1 / 3) * torch.rand((count * atoms, 3), generator=random, dtype=torch.float64)
        numbers = torch.tensor([1, 6, 7, 8])[torch.randint(4, (count * atoms,), generator=random)]
        ptr = torch.arange(0, count * atoms + 1, atoms)
        return {"positions": positions.to(dtype).to(device), "numbers": numbers.to(device), "ptr": ptr.to(device)}

    return make


def _known(make: Builder) -> Builder:
    """With the stabilizers already there."""

    def build(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        inputs = make(dtype, device, seed)
        sym = stabilizers(inputs["positions"], inputs["numbers"], ptr=inputs.pop("ptr"))
        return {**inputs, "sym": sym}

    return build


def _turn(improper: bool) -> Any:
    def transform(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
        """Frames turn along: of the equivalent ones the positions say which."""
        matrix = random_rotation(random).to(inputs["positions"]) * (-1 if improper else 1)

        def expected(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            large = (inputs["ptr"].diff() > 1)[:, None, None]  # single atoms keep the identity
            return (torch.where(large, matrix @ outputs[0], outputs[0]),)

        return {**inputs, "positions": inputs["positions"] @ matrix.T}, expected

    return transform


def _translate(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    offset = 3 * torch.randn(3, generator=random, dtype=torch.float64).to(inputs["positions"])
    return {**inputs, "positions": inputs["positions"] + offset}, lambda outputs: outputs


def _permute(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    order = shuffle_within(inputs["ptr"], random)
    return {
        **inputs,
        "positions": inputs["positions"][order],
        "numbers": inputs["numbers"][order],
    }, lambda outputs: outputs


def _single_out(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    """The last molecule alone has the frame that it has in the batch."""
    begin = int(inputs["ptr"][-2])
    alone = {name: inputs[name][begin:] for name in ("positions", "numbers")}
    return {**inputs, **alone, "ptr": inputs["ptr"][-2:] - begin}, lambda outputs: (outputs[0][-1:],)


def _ops(inputs: Inputs) -> list[tuple[Any, tuple[Any, ...]]]:
    sym = inputs.get("sym") or stabilizers(inputs["positions"], inputs["numbers"], ptr=inputs["ptr"])
    tensors = (sym.operations, sym.op_ptr, sym.permutations, sym.perm_ptr, sym.orbits, sym.rank, sym.axis)
    arguments = (inputs["positions"], inputs["numbers"], sym.ptr, *tensors, inputs.get("proper", False))
    return [(torch.ops.symkern.canonical_frames.default, arguments)]


def _bad(name: str, match: str, error: type[Exception] = ValueError, **changes: Callable[[Any], Any]) -> BadInput:
    def make() -> Inputs:
        inputs = _known(_molecules("water", "methane"))(torch.float32, "cpu", 0)
        return inputs | {key: change(inputs[key]) for key, change in changes.items()}

    return BadInput(name, make, error, match)


_ALL = ("water", "nothing", "methane", "atom", "square", "chiral")
_LINEAR = ("carbon dioxide", "atom", "hydrogen cyanide")

CASE = Case(
    name="canonical_frames",
    function=canonical_frames,
    reference=reference,
    samples={
        "empty": _molecules(),
        "one": _molecules("atom"),
        "ragged": _molecules(*_ALL),
        "proper": _molecules(*_ALL, proper=True),
        "no symmetry": _molecules("methane", "square", noise=0.2),
        "solid": _molecules("methane", "chiral", "square"),
        "clouds": _clouds(5, 30),
        # far enough off the line that rounding does not matter to the direction
        "linear": _molecules(*_LINEAR, noise=4e-3),
        "known": _known(_molecules(*_ALL)),
        "no molecule": _known(_molecules()),
    },
    ops=_ops,
    compile_sample="known",
    invariances=(
        Invariance("rotation", _turn(False), ("ragged", "proper", "no symmetry", "clouds")),
        # (three atoms lie in a plane: what reflects them is an operation of theirs)
        Invariance("reflection", _turn(True), ("solid", "no symmetry", "clouds")),
        Invariance("translation", _translate, ("ragged", "proper", "clouds")),
        Invariance("permutation", _permute, ("ragged", "proper", "clouds")),
        Invariance("batching", _single_out, ("ragged", "proper", "clouds")),
    ),
    bad_inputs=(
        _bad("integers", "positions must be float32 or float64, got int64", positions=lambda r: r.long()),
        _bad("planar", r"positions must have shape \(N, 3\), got \(8, 2\)", positions=lambda r: r[:, :2]),
        _bad("a list", "positions must be a torch.Tensor", TypeError, positions=lambda r: r.tolist()),
        _bad("real numbers", "numbers must be integers, got float32", numbers=lambda z: z.float()),
        _bad("numbers", r"numbers must have shape \(N,\), got \(7,\)", numbers=lambda z: z[1:]),
        _bad("other dtype", "operations must be float64, got float32", positions=lambda r: r.double()),
        _bad("other atoms", "sym must be of these 7 atoms, got one of 8", positions=lambda r: r[1:]),
        _bad(
            "no sym",
            "sym must be symkern.Stabilizers, .* got builtins.str",
            TypeError,
            sym=lambda sym: "C2v",
        ),
        _bad("raw", 'policy "closed" or "generate", got "raw"', sym=lambda sym: replace(sym, policy="raw")),
    ),
    # in fp64 the reference rounds as much
    floor=32.0,
    sizes={
        "4096 x 18 atoms": Size(
            _known(_clouds(4096, 18)),
            lambda inputs, frames: num_bytes(
                inputs["positions"], inputs["numbers"], inputs["sym"].permutations, frames
            ),
            # distances of all pairs, and the smooth functions of two frames, twice
            lambda inputs, frames: 4096 * (18 * 18 * 9 + 4 * 18 * 8),
        ),
    },
)
