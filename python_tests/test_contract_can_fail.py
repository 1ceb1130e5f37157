"""A check that cannot fail checks nothing: each is given a Case with a planted fault and must object.

Most faults sit in a function of their own, `good`, so that they do not depend on what the real ops do.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError
from torch.testing._internal.optests import OpCheckError

from symkern import _library
from symkern.ops.safe_norm import reference as safe_norm_reference
from symkern.testing import BadInput, Case, Huge, Invariance, checks
from symkern.testing.cases import all_cases
from symkern.testing.geometry import generator, random_rotation

REFUSED = (AssertionError, GradcheckError, OpCheckError)


def good(x: Tensor) -> Tensor:
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point, got {x.dtype}")
    return (x**2).sum(-1) + x.square().sum(-1).add(1).log()


def _sample(*shape: int) -> Any:
    return lambda dtype, device, seed: {
        "x": torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(dtype).to(device)
    }


def _rotate(inputs: Any, random: torch.Generator) -> Any:
    rotation = random_rotation(random).to(inputs["x"])
    return {"x": inputs["x"] @ rotation.T}, lambda outputs: outputs


def _reverse(inputs: Any, random: torch.Generator) -> Any:
    return {"x": inputs["x"].flip(0)}, lambda outputs: (outputs[0].flip(0),)


SYMMETRIES = (Invariance("rotation", _rotate), Invariance("permutation", _reverse))
INTEGERS = BadInput("integers", lambda: {"x": torch.ones((2, 3), dtype=torch.int64)}, ValueError, "x must be floating")
GOOD = Case(
    name="good",
    function=good,
    reference=good,
    samples={"empty": _sample(0, 3), "one": _sample(1, 3), "ragged": _sample(7, 3)},
    differentiable=("x",),
    invariances=SYMMETRIES,
    bad_inputs=(INTEGERS,),
    huge=Huge(0, lambda device: {"x": torch.ones((2, 3), device=device)}, lambda inputs, out: out.shape == (2,)),
)


def planted(function: Any, **changes: Any) -> Case:
    return replace(GOOD, function=function, **changes)


# ---- the unplanted Case passes everything ----------------------------------------------------------------------------


@pytest.mark.parametrize("sample", GOOD.samples)
def test_good_case_passes(sample: str) -> None:
    for dtype in (torch.float32, torch.float64):
        checks.check_reference(GOOD, sample, dtype)
        checks.check_noncontiguous(GOOD, sample, dtype)
        checks.check_derivatives(GOOD, sample, dtype)
        checks.check_determinism(GOOD, sample, dtype)
    checks.check_gradcheck(GOOD, sample)
    checks.check_gradgradcheck(GOOD, sample)
    for invariance in SYMMETRIES:
        checks.check_invariance(GOOD, invariance, sample)
    checks.check_bad_input(GOOD, INTEGERS)
    checks.check_huge(GOOD)
    checks.check_compile(GOOD, torch.float64)


# ---- values ----------------------------------------------------------------------------------------------------------


def wrong_by_a_millionth(x: Tensor) -> Tensor:
    return good(x) * (1 + 1e-6)


def too_inexact(x: Tensor) -> Tensor:
    return good(x.half().to(x.dtype))


def nan_at_one_place(x: Tensor) -> Tensor:
    y = good(x)
    return torch.where(torch.arange(len(y)) == 3, float("nan"), y)


def too_many_rows(x: Tensor) -> Tensor:
    return torch.cat([good(x), good(x)[:1]])


def other_dtype(x: Tensor) -> Tensor:
    return good(x).double()


@pytest.mark.parametrize("function", [wrong_by_a_millionth, too_inexact, nan_at_one_place, too_many_rows, other_dtype])
def test_wrong_values(function: Any) -> None:
    with pytest.raises(REFUSED):
        checks.check_reference(planted(function), "ragged", torch.float32)


def test_wrong_only_when_empty() -> None:
    def fails_on_nothing(x: Tensor) -> Tensor:
        return good(x) if len(x) else x.new_zeros(1)

    with pytest.raises(REFUSED):
        checks.check_reference(planted(fails_on_nothing), "empty", torch.float32)


def test_one_wrong_integer() -> None:
    def rank(x: Tensor) -> Tensor:
        return x[:, 0].argsort()

    def rank_with_a_slip(x: Tensor) -> Tensor:
        order = rank(x)
        order[[0, 1]] = order[[1, 0]]
        return order

    case = planted(rank_with_a_slip, reference=rank, differentiable=())
    with pytest.raises(REFUSED, match="integers differ"):
        checks.check_reference(case, "ragged", torch.float64)


def test_memory_read_as_if_contiguous() -> None:
    def reads_memory(x: Tensor) -> Tensor:
        return good(torch.as_strided(x, x.shape, (x.shape[-1], 1), x.storage_offset()))

    case = planted(reads_memory)
    checks.check_reference(case, "ragged", torch.float64)
    with pytest.raises(REFUSED):
        checks.check_noncontiguous(case, "ragged", torch.float64)


def test_wrong_beyond_2_31_elements() -> None:
    with pytest.raises(REFUSED):
        checks.check_huge(planted(lambda x: good(x)[:1]))


# ---- derivatives -----------------------------------------------------------------------------------------------------


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return good(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad[:, None] * 2 * x  # the logarithm is forgotten


class NoSecondDerivative(torch.autograd.Function):
    """The gradient is right, but computed where autograd does not see it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return good(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        x = x.detach()
        return grad[:, None] * (2 * x + 2 * x / (1 + x.square().sum(-1, keepdim=True)))


class Inner(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor) -> Tensor:
        return grad[:, None] * (2 * x + 2 * x / (1 + x.square().sum(-1, keepdim=True)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        raise RuntimeError("not available")


class UnclearError(torch.autograd.Function):
    """The gradient is right, and its derivative raises without a word about whose it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return good(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return Inner.apply(grad, *ctx.saved_tensors)


def test_wrong_gradient() -> None:
    case = planted(WrongGradient.apply)
    checks.check_reference(case, "ragged", torch.float64)
    with pytest.raises(REFUSED):
        checks.check_gradcheck(case, "ragged")
    with pytest.raises(REFUSED):
        checks.check_derivatives(case, "ragged", torch.float32)


def test_missing_second_derivative_passes_gradcheck_and_fails_gradgradcheck() -> None:
    case = planted(NoSecondDerivative.apply)
    checks.check_gradcheck(case, "ragged")
    with pytest.raises(REFUSED):
        checks.check_gradgradcheck(case, "ragged")
    with pytest.raises(REFUSED):
        checks.check_derivatives(case, "ragged", torch.float64)


def test_nan_in_the_gradient() -> None:
    def norm(x: Tensor) -> Tensor:
        return x.square().sum(-1).sqrt()

    zero = {**GOOD.samples, "zero": lambda dtype, device, seed: {"x": torch.zeros((2, 3), dtype=dtype, device=device)}}
    case = planted(norm, reference=lambda x: safe_norm_reference(x), samples=zero)
    checks.check_reference(case, "zero", torch.float64)
    with pytest.raises(REFUSED, match="not finite"):
        checks.check_derivatives(case, "zero", torch.float64)


def test_silence_past_the_highest_derivative() -> None:
    with pytest.raises(REFUSED, match="did not raise"):
        checks.check_past_highest_order(planted(good, max_order=1), "ragged")


def test_unclear_error_past_the_highest_derivative() -> None:
    with pytest.raises(REFUSED, match="does not name it"):
        checks.check_past_highest_order(planted(UnclearError.apply, max_order=1), "ragged")


# ---- torch -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ops() -> Any:
    library = torch.library.Library("symkern_planted", "DEF")
    library.define("alias(Tensor x) -> Tensor")
    library.impl("alias", lambda x: x.view_as(x), "CPU")
    library.define("no_fake(Tensor x) -> Tensor")
    library.impl("no_fake", lambda x: good(x), "CPU")
    library.define("wrong_fake(Tensor x) -> Tensor")
    library.impl("wrong_fake", lambda x: good(x), "CPU")
    torch.library.register_fake("symkern_planted::wrong_fake", lambda x: torch.empty_like(x), lib=library)
    yield torch.ops.symkern_planted
    library._destroy()


@pytest.mark.parametrize("name", ["alias", "no_fake", "wrong_fake"])
def test_badly_registered_op(ops: Any, name: str) -> None:
    op = getattr(ops, name).default
    case = planted(good, differentiable=(), ops=lambda inputs: [(op, (inputs["x"],))])
    with pytest.raises(REFUSED):
        checks.check_opcheck(case, "ragged", torch.float64)


def test_graph_break() -> None:
    def prints(x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return good(x)

    with pytest.raises((*REFUSED, torch._dynamo.exc.Unsupported)):
        checks.check_compile(planted(prints), torch.float64)


def test_compiled_differs() -> None:
    def two_faced(x: Tensor) -> Tensor:
        return good(x) + (1 if torch.compiler.is_compiling() else 0)

    with pytest.raises(REFUSED):
        checks.check_compile(planted(two_faced), torch.float64)


# ---- determinism, symmetry, refusal ----------------------------------------------------------------------------------


def test_different_from_run_to_run() -> None:
    count = itertools.count()

    def drifts(x: Tensor) -> Tensor:
        return good(x) * (1 + next(count) * torch.finfo(x.dtype).eps)

    with pytest.raises(REFUSED):
        checks.check_determinism(planted(drifts), "ragged", torch.float64)


def test_depends_on_the_number_of_threads() -> None:
    def threaded(x: Tensor) -> Tensor:
        return good(x) * (1 + torch.get_num_threads() * 2 * torch.finfo(x.dtype).eps)

    with pytest.raises(REFUSED):
        checks.check_determinism(planted(threaded), "ragged", torch.float64)


def test_gradient_depends_on_the_number_of_threads() -> None:
    class Threaded(WrongGradient):
        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return WrongGradient.backward(ctx, grad) * (1 + torch.get_num_threads() * 1e-9)

    with pytest.raises(REFUSED):
        checks.check_determinism(planted(Threaded.apply), "ragged", torch.float64)


def test_breaks_rotation() -> None:
    case = planted(lambda x: good(x) + 1e-9 * x[..., 0])
    with pytest.raises(REFUSED):
        checks.check_invariance(case, SYMMETRIES[0], "ragged")


def test_breaks_permutation() -> None:
    case = planted(lambda x: good(x) + 1e-9 * torch.arange(len(x)))
    with pytest.raises(REFUSED):
        checks.check_invariance(case, SYMMETRIES[1], "ragged")


def _raises(error: Exception) -> Any:
    def function(x: Tensor) -> Tensor:
        raise error

    return function


@pytest.mark.parametrize(
    "function",
    [lambda x: x, _raises(ValueError("bad input")), _raises(TypeError("x must be floating point"))],
    ids=["accepts silently", "says nothing", "wrong type"],
)
def test_bad_input_not_refused_as_documented(function: Any) -> None:
    with pytest.raises(REFUSED):
        checks.check_bad_input(planted(function), INTEGERS)


def test_case_without_required_samples() -> None:
    with pytest.raises(ValueError, match="lacks the samples"):
        replace(GOOD, samples={"one": _sample(1, 3)})


def test_all_ops_have_a_case() -> None:
    """Every op of the library is opchecked by some Case."""
    checked = set()
    for case in all_cases().values():
        inputs = case.samples["ragged"](torch.float32, "cpu", 0)
        checked |= {op._schema.name.removeprefix("symkern::") for op, _ in (case.ops(inputs) if case.ops else ())}
    assert checked == set(_library.op_names())


# ---- a fault planted in real ops -------------------------------------------------------------------------------------


def test_lost_pair_and_lost_image() -> None:
    case = all_cases()["neighbor_list"]

    def loses_an_edge(**inputs: Any) -> Any:
        nb = case.function(**inputs)
        return replace(nb, edge_index=nb.edge_index[:, 1:], cell_shifts=nb.shifts[1:])

    with pytest.raises(REFUSED):
        checks.check_reference(replace(case, function=loses_an_edge), "ragged", torch.float32)

    def one_image_only(**inputs: Any) -> Any:
        return case.function(**{**inputs, "pbc": False})

    with pytest.raises(REFUSED):
        checks.check_reference(replace(case, function=one_image_only), "shared", torch.float32)


def test_padding_that_contributes() -> None:
    case = all_cases()["edge_vectors"]

    def pads_with_ones(positions: Tensor, nb: Any, cell: Tensor) -> Tensor:
        vectors = case.function(positions, nb, cell)
        return torch.where(torch.arange(len(vectors))[:, None] < nb.row_ptr[-1], vectors, 1.0)

    with pytest.raises(REFUSED):
        checks.check_reference(replace(case, function=pads_with_ones), "padded", torch.float64)
