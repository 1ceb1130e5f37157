"""What every op must keep, as functions of a `Case` that raise AssertionError. `python_tests/test_contract.py` runs all
of them on all Cases, and `test_contract_can_fail.py` shows that each can fail."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from symkern.testing.case import BadInput, Case, Inputs, Invariance, cast, move, scatter
from symkern.testing.geometry import generator

Device = torch.device | str


# ---- values ----------------------------------------------------------------------------------------------------------


def ulp(value: float, dtype: torch.dtype) -> float:
    """Distance between neighboring numbers of this size."""
    info = torch.finfo(dtype)
    return 0.0 if value == 0 else float(info.eps * max(info.tiny, 2.0 ** math.floor(math.log2(value))))


def largest(*tensors: Tensor) -> float:
    """Largest finite magnitude, 0 for nothing."""
    values = [t.detach().double().abs() for t in tensors if t.is_floating_point() and t.numel()]
    return max((float(torch.where(v.isfinite(), v, 0).max()) for v in values), default=0.0)


def assert_close(got: Tensor, truth: Tensor, allowed: float, what: str) -> None:
    """Same shape; integers identical; floats finite in the same places and within `allowed`."""
    assert got.shape == truth.shape, f"{what}: shape {tuple(got.shape)}, expected {tuple(truth.shape)}"
    got, truth = got.detach().cpu(), truth.detach().cpu()
    if not truth.is_floating_point():
        assert got.dtype == truth.dtype, f"{what}: {got.dtype}, expected {truth.dtype}"
        assert torch.equal(got, truth), f"{what}: integers differ in {int((got != truth).sum())} places"
        return
    got, truth = got.double(), truth.double()
    finite = truth.isfinite()
    assert torch.equal(got.isfinite(), finite), f"{what}: not finite in {int((got.isfinite() != finite).sum())} places"
    error = largest((got - truth)[finite])
    assert error <= allowed, f"{what}: error {error:.3e}, allowed {allowed:.3e}"


def assert_same(got: tuple[Tensor, ...], expected: tuple[Tensor, ...], what: str) -> None:
    """Bit for bit."""
    assert len(got) == len(expected), what
    for k, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert a.dtype == b.dtype, f"{what}: output {k} is {a.dtype}, expected {b.dtype}"
        assert a.device == b.device, f"{what}: output {k} is on {a.device}, expected {b.device}"
        assert torch.equal(a, b), f"{what}: output {k} differs"


def _assert_within_rule(
    case: Case,
    got: tuple[Tensor, ...],
    same: tuple[Tensor, ...],
    truth: tuple[Tensor, ...],
    what: str,
    *,
    size: float = 0.0,
    slack: float = 1.0,
) -> None:
    """Error at most `tolerance` times that of the same-precision reference, with a floor of ulp of max|reference|.

    `size` raises what the floor refers to. `slack` widens both.
    """
    assert len(got) == len(truth), f"{what}: {len(got)} outputs, expected {len(truth)}"
    for k, (g, s, t) in enumerate(zip(got, same, truth, strict=True)):
        allowed = 0.0
        if t.is_floating_point():
            assert g.dtype == s.dtype, f"{what}: output {k} is {g.dtype}, expected {s.dtype}"
            error = largest((s.double() - t.double())[t.isfinite() & s.isfinite()])
            allowed = slack * max(case.tolerance * error, case.floor * ulp(max(size, largest(t)), g.dtype))
        assert_close(g, t, allowed, f"{what}, output {k}")


def check_reference(case: Case, sample: str, dtype: torch.dtype, device: Device = "cpu", seed: int = 0) -> None:
    inputs = case.samples[sample](dtype, device, seed)
    same, truth = case.expect(inputs), case.expect(cast(inputs, torch.float64))
    size = _own_rounding(inputs, dtype)
    _assert_within_rule(case, case(inputs), same, truth, f"{case.name}[{sample}]", size=size)


def _own_rounding(inputs: Inputs, dtype: torch.dtype) -> float:
    """In fp64 the reference is its own truth: it rounds as much as the op does, relative to what it adds up."""
    return largest(*(t for t in inputs.values() if isinstance(t, Tensor))) if dtype == torch.float64 else 0.0


def check_noncontiguous(case: Case, sample: str, dtype: torch.dtype, device: Device = "cpu") -> None:
    inputs = case.samples[sample](dtype, device, 0)
    scattered = scatter(inputs)
    assert_same(case(scattered), case(inputs), f"{case.name}[{sample}], not contiguous")
    plain, strided = gradients(case, inputs, 1), gradients(case, scattered, 1)
    assert_same(strided[0], plain[0], f"{case.name}[{sample}], gradient, not contiguous")


# ---- derivatives -----------------------------------------------------------------------------------------------------


def differentiable_inputs(case: Case, inputs: Inputs) -> dict[str, Tensor]:
    return {name: inputs[name] for name in case.differentiable if isinstance(inputs.get(name), Tensor)}


def energy(outputs: tuple[Tensor, ...], scale: float) -> Tensor:
    """A scalar with non-zero derivatives of three orders, weighted differently for each element."""
    total = torch.zeros((), dtype=torch.float64, device=outputs[0].device)
    for t in outputs:
        if t.is_floating_point():
            u = t.double() / scale
            total = total + (_weights(t) * (u + u**2 + u**3)).sum()
    return total


def _weights(t: Tensor) -> Tensor:
    return torch.arange(1, t.numel() + 1, device=t.device, dtype=torch.float64).cos().reshape(t.shape)


def gradients(case: Case, inputs: Inputs, order: int, *, reference: bool = False, scale: float = 1.0) -> list[Any]:
    """Derivatives of `energy` up to `order`; each is that of a weighted sum of the one below."""
    points = {k: t.detach().clone().requires_grad_() for k, t in differentiable_inputs(case, inputs).items()}
    if not points:
        return [()] * order
    run = case.expect if reference else case
    value, found = energy(run({**inputs, **points}), scale), []
    for rung in range(order):
        if not value.requires_grad:  # constant from here on
            found.append(tuple(torch.zeros_like(p) for p in points.values()))
            continue
        # the gradient that is kept has a graph only if another order is to come
        grads = torch.autograd.grad(value, list(points.values()), create_graph=rung + 1 < order, materialize_grads=True)
        found.append(tuple(g.detach() for g in grads))
        value = torch.stack([(_weights(g) * g.double()).sum() for g in grads]).sum()
    return found


def check_derivatives(case: Case, sample: str, dtype: torch.dtype, device: Device = "cpu") -> None:
    """Derivatives up to the third order (or the highest) against those of the reference, by the rule for values."""
    order = 3 if case.max_order is None else min(3, case.max_order)
    inputs = case.samples[sample](dtype, device, 0)
    exact = cast(inputs, torch.float64)
    values = case.expect(exact)
    scale = largest(*values) or 1.0
    # derivatives sum over outputs
    rounding = _own_rounding(inputs, dtype) * math.sqrt(max(t.numel() for t in values))
    got = gradients(case, inputs, order, scale=scale)
    same = gradients(case, inputs, order, reference=True, scale=scale)
    truth = gradients(case, exact, order, reference=True, scale=scale)
    for k in range(order):
        # forces that cancel are as exact as the largest derivative of this order; each order rounds again
        what, size = f"{case.name}[{sample}], derivative {k + 1}", max(rounding, largest(*truth[k]))
        _assert_within_rule(case, got[k], same[k], truth[k], what, size=size, slack=4.0 ** (k + 1))


def check_gradcheck(case: Case, sample: str, device: Device = "cpu") -> None:
    """First derivatives against finite differences, for each choice of inputs that need one."""
    _finite_differences(case, sample, device, torch.autograd.gradcheck)


def check_gradgradcheck(case: Case, sample: str, device: Device = "cpu") -> None:
    """Second derivatives against finite differences."""
    if case.max_order is None or case.max_order > 1:
        _finite_differences(case, sample, device, torch.autograd.gradgradcheck)


def _finite_differences(case: Case, sample: str, device: Device, check: Any) -> None:
    inputs = case.samples[sample](torch.float64, device, 0)
    points = differentiable_inputs(case, inputs)
    assert points, f"{case.name}[{sample}] has no differentiable input"
    # of many inputs, each alone and all together
    counts = range(1, len(points) + 1) if len(points) <= 4 else (1, len(points))
    for count in counts:
        for names in combinations(points, count):

            def run(*values: Tensor, names: tuple[str, ...] = names) -> tuple[Tensor, ...]:
                outputs = case({**inputs, **dict(zip(names, values, strict=True))})
                return tuple(t for t in outputs if t.is_floating_point())

            leaves = tuple(points[name].detach().clone().requires_grad_() for name in names)
            assert check(run, leaves), f"{case.name}[{sample}]: {names}"


def check_past_highest_order(case: Case, sample: str, device: Device = "cpu") -> None:
    """One derivative too many raises, and says for which op."""
    if case.max_order is None:
        return
    inputs = case.samples[sample](torch.float64, device, 0)
    try:
        gradients(case, inputs, case.max_order + 1)
    except (RuntimeError, NotImplementedError) as error:
        problem = "" if case.name in str(error) else f"the error past the highest derivative does not name it: {error}"
    else:
        problem = f"derivative {case.max_order + 1} did not raise"
    assert not problem, f"{case.name}: {problem}"


# ---- torch -----------------------------------------------------------------------------------------------------------


def check_opcheck(case: Case, sample: str, dtype: torch.dtype, device: Device = "cpu") -> None:
    """Schema, autograd registration, fake kernels and AOT dispatch of every op behind the function."""
    inputs = case.samples[sample](dtype, device, 0)
    for op, arguments in case.ops(inputs) if case.ops is not None else ():
        ready = tuple(
            a.detach().clone().requires_grad_(bool(case.differentiable) and a.is_floating_point())
            if isinstance(a, Tensor)
            else a
            for a in arguments
        )
        torch.library.opcheck(op, ready)


def check_compile(
    case: Case, dtype: torch.dtype, device: Device = "cpu", backend: str = "aot_eager", sample: str | None = None
) -> None:
    """`torch.compile(fullgraph=True)`, forward and first backward, agrees with eager mode."""
    inputs = case.samples[sample or case.compile_sample](dtype, device, 0)
    torch._dynamo.reset()

    def step(**inputs: Any) -> tuple[Tensor, ...]:
        return case(inputs)

    compiled = torch.compile(step, fullgraph=True, backend=backend)
    assert_same(compiled(**inputs), case(inputs), f"{case.name}, compiled")
    if not differentiable_inputs(case, inputs):
        return
    found = []
    for run in (compiled, step):
        points = {k: t.detach().clone().requires_grad_() for k, t in differentiable_inputs(case, inputs).items()}
        value = energy(run(**{**inputs, **points}), 1.0)
        found.append(torch.autograd.grad(value, list(points.values()), allow_unused=True))
    for a, b in zip(*found, strict=True):
        assert a is not None, f"{case.name}, compiled: no gradient"
        assert_close(a, b, 4 * ulp(largest(b), dtype), f"{case.name}, compiled gradient")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_determinism(
    case: Case, sample: str, dtype: torch.dtype, device: Device = "cpu", threads: tuple[int, ...] = (1, 1, 2, 3)
) -> None:
    """Outputs and gradients are the same bits from run to run, for any number of threads."""
    inputs = case.samples[sample](dtype, device, 0)
    order = 2 if case.max_order is None else min(2, case.max_order)
    first: Any = None
    for count in threads:
        with _threads(count):
            results = (case(inputs), *gradients(case, inputs, order))
        first = first or results
        for k, (got, expected) in enumerate(zip(results, first, strict=True)):
            assert_same(got, expected, f"{case.name}[{sample}], {count} threads, derivative {k}")


# ---- symmetry and refusal --------------------------------------------------------------------------------------------


def check_invariance(case: Case, invariance: Invariance, sample: str, device: Device = "cpu", seed: int = 0) -> None:
    inputs = case.samples[sample](torch.float64, device, seed)
    changed, expected = invariance.transform(inputs, generator(seed + 1))
    got, wanted = case(changed), expected(case(inputs))
    assert len(got) == len(wanted), f"{case.name}, {invariance.name}"
    size = largest(*(t for t in (*inputs.values(), *changed.values()) if isinstance(t, Tensor)), *wanted)
    for k, (a, b) in enumerate(zip(got, wanted, strict=True)):
        # the transformation rounds too
        assert_close(a, b, 64 * ulp(size, torch.float64), f"{case.name}[{sample}], {invariance.name}, output {k}")


def check_bad_input(case: Case, bad: BadInput, device: Device = "cpu") -> None:
    inputs = move(bad.make(), device)
    try:
        case.function(**inputs)
        if bad.later is not None and torch.device(device).type == "cuda":
            bad.later(device)
    except Exception as error:
        expected = type(error) is bad.error and re.search(bad.match, str(error)) is not None
        problem = "" if expected else f"{type(error).__name__}: {error}; expected {bad.error.__name__}: {bad.match}"
    else:
        problem = "was accepted"
    assert not problem, f"{case.name}, {bad.name}: {problem}"


def check_huge(case: Case, device: Device = "cpu") -> None:
    """More than 2^31 elements: 32-bit indices would wrap."""
    assert case.huge is not None
    inputs = case.huge.make(device)
    assert case.huge.verify(inputs, case.function(**inputs)), f"{case.name}: wrong beyond 2^31 elements"


# ---- CUDA ------------------------------------------------------------------------------------------------------------


def check_devices_agree(case: Case, sample: str, dtype: torch.dtype, device: Device = "cuda") -> None:
    """Integers identical, floats by the rule for values."""
    inputs = case.samples[sample](dtype, "cpu", 0)
    truth = case.expect(cast(inputs, torch.float64))
    got = case(move(inputs, device))
    _assert_within_rule(
        case, tuple(t.cpu() for t in got), case.expect(inputs), truth, f"{case.name}[{sample}] on {device}"
    )
    order = 2 if case.max_order is None else min(2, case.max_order)
    pairs = zip(gradients(case, move(inputs, device), order), gradients(case, inputs, order), strict=True)
    for k, (there, here) in enumerate(pairs):
        for a, b in zip(there, here, strict=True):
            allowed = 8 * ulp(largest(b), dtype)
            assert_close(a, b, allowed, f"{case.name}[{sample}] on {device}, derivative {k + 1}")


def check_side_stream(case: Case, sample: str, dtype: torch.dtype, device: Device = "cuda") -> None:
    """Work is queued on the current stream: inputs that a busy side stream is still writing are waited for."""
    inputs = case.samples[sample](dtype, device, 0)
    expected = case(inputs)
    late = move(inputs, device)
    sources = {k: t for k, t in inputs.items() if isinstance(t, Tensor) and t.is_floating_point()}
    targets = {k: torch.zeros_like(t) for k, t in sources.items()}
    stream = torch.cuda.Stream(torch.device(device))
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        for name, target in targets.items():
            target.copy_(sources[name], non_blocking=True)
        got = case({**late, **targets})
    stream.synchronize()
    assert_same(got, expected, f"{case.name}[{sample}], side stream")
