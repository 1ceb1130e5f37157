"""A `Case` says everything about one op that the generic checks, the benchmarks and the documentation need to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from symkern.neighbors import Neighbors
from symkern.stabilizer import Stabilizers

# Keyword arguments of the public function, and what makes them: builder(dtype, device, seed).
Inputs = dict[str, Any]
Builder = Callable[[torch.dtype, torch.device | str, int], Inputs]

# Every Case has samples with these names; a Case may have more.
REQUIRED_SAMPLES = ("empty", "one", "ragged")


@dataclass(frozen=True)
class Invariance:
    """How the outputs must change when the inputs do.

    Attributes:
        name: such as "rotation", "translation", "permutation", "batching".
        transform: (inputs, generator) -> (changed inputs, expected), where expected maps the tensors that the op
            returned for the inputs to those it must return for the changed ones.
        samples: the samples to try it on.
    """

    name: str
    transform: Callable[[Inputs, torch.Generator], tuple[Inputs, Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]]]
    samples: tuple[str, ...] = ("ragged",)


@dataclass(frozen=True)
class BadInput:
    """Input that must be refused: what it is, the exception, and a pattern (`re.search`) that its message matches.

    Attributes:
        later: a call, given the device, that raises the error where the op itself does not wait for the device.
    """

    name: str
    make: Callable[[], Inputs]
    error: type[Exception]
    match: str
    later: Callable[[torch.device | str], Any] | None = None


@dataclass(frozen=True)
class Size:
    """An input worth timing.

    Attributes:
        make: builder of the inputs.
        bytes: (inputs, output) -> bytes that a perfect forward pass has to read and write.
        flops: (inputs, output) -> floating-point operations that it has to do.
    """

    make: Builder
    bytes: Callable[[Inputs, Any], int]
    flops: Callable[[Inputs, Any], int]


@dataclass(frozen=True)
class Huge:
    """Input with more than 2^31 elements: `memory` bytes are needed for inputs and outputs together."""

    memory: int
    make: Callable[[torch.device | str], Inputs]
    verify: Callable[[Inputs, Any], bool]


@dataclass(frozen=True)
class Case:
    """One op.

    Attributes:
        name: the public name.
        function: the public function, called with the keyword arguments that a sample builds.
        reference: the same in pure torch; in fp64 it is the truth.
        samples: small inputs by name; `REQUIRED_SAMPLES` at least.
        differentiable: names of the floating-point arguments with a gradient.
        max_order: highest derivative; None means any.
        gradient_samples: samples for `gradcheck` and `gradgradcheck`, chosen where the function is smooth.
        outputs: result -> tensors; `tensors_of` knows tensors, tuples and Neighbors.
        ops: inputs -> (torch op, positional arguments) pairs for `opcheck`, or None to leave them out.
        compile_sample: sample for `torch.compile(fullgraph=True)`.
        invariances, bad_inputs, sizes, huge: see the classes.
        tolerance, floor: the error may be `tolerance` times that of the reference in the same precision, or `floor` ulp
            of max|reference|, whichever is larger. Integers must be identical.
    """

    name: str
    function: Callable[..., Any]
    reference: Callable[..., Any]
    samples: Mapping[str, Builder]
    differentiable: tuple[str, ...] = ()
    max_order: int | None = None
    gradient_samples: tuple[str, ...] = ("ragged",)
    outputs: Callable[[Any], tuple[Tensor, ...]] = field(default_factory=lambda: tensors_of)
    ops: Callable[[Inputs], Sequence[tuple[Any, tuple[Any, ...]]]] | None = None
    compile_sample: str = "ragged"
    invariances: tuple[Invariance, ...] = ()
    bad_inputs: tuple[BadInput, ...] = ()
    sizes: Mapping[str, Size] = field(default_factory=dict)
    huge: Huge | None = None
    tolerance: float = 2.0
    floor: float = 4.0

    def __post_init__(self) -> None:
        missing = [name for name in REQUIRED_SAMPLES if name not in self.samples]
        if missing:
            raise ValueError(f"Case {self.name} lacks the samples {missing}")
        used = {self.compile_sample, *(s for i in self.invariances for s in i.samples)}
        used |= set(self.gradient_samples) if self.differentiable else set()
        if used - set(self.samples):
            raise ValueError(f"Case {self.name} names samples it does not have: {sorted(used - set(self.samples))}")

    def __call__(self, inputs: Inputs) -> tuple[Tensor, ...]:
        return self.outputs(self.function(**inputs))

    def expect(self, inputs: Inputs) -> tuple[Tensor, ...]:
        return self.outputs(self.reference(**inputs))


def tensors_of(result: Any) -> tuple[Tensor, ...]:
    """The tensors of a result, in a fixed order."""
    if isinstance(result, Tensor):
        return (result,)
    if isinstance(result, Neighbors):
        return (result.edge_index, result.shifts, result.row_ptr, result.ptr)
    if isinstance(result, (tuple, list)):
        return tuple(t for part in result for t in tensors_of(part))
    raise TypeError(f"a Case must say with `outputs` which tensors are in a {type(result).__name__}")


def map_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Change every tensor in the inputs, also those inside a graph (whose lazy views start afresh)."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Neighbors):
        shifts, order = value.cell_shifts, value.order
        return Neighbors(
            change(value.edge_index),
            change(value.row_ptr),
            change(value.ptr),
            None if shifts is None else change(shifts),
            None if order is None else change(order),
            value.cutoff,
            value.full,
            value.self_loops,
        )
    if isinstance(value, Stabilizers):
        return value._map(change)
    if isinstance(value, dict):
        return {name: map_tensors(change, part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(change, part) for part in value)
    return value


def cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """The same inputs with floating-point tensors of another dtype."""
    result: Inputs = map_tensors(lambda t: t.detach().to(dtype) if t.is_floating_point() else t, inputs)
    return result


def move(inputs: Inputs, device: torch.device | str) -> Inputs:
    """The same inputs on another device."""
    result: Inputs = map_tensors(lambda t: t.detach().to(device), inputs)
    return result


def scatter(inputs: Inputs) -> Inputs:
    """The same inputs in memory that is not contiguous: every tensor is every second element of a larger one."""

    def spread(t: Tensor) -> Tensor:
        if t.dim() == 0:
            return t
        wide = torch.stack([t.detach(), torch.zeros_like(t)], -1).flatten(-2)
        return wide[..., ::2]

    result: Inputs = map_tensors(spread, inputs)
    return result


def num_bytes(*tensors: Tensor | None) -> int:
    """Size of the tensors in memory, for `Size.bytes`."""
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)
