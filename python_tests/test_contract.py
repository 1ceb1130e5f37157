"""Every Case against every generic check. New ops are covered by adding a Case; nothing here names an op."""

from __future__ import annotations

import os

import pytest
import torch

from symkern.testing import BadInput, Case, Invariance, checks
from symkern.testing.cases import all_cases

CASES = all_cases()
DTYPES = [pytest.param(torch.float32, id="fp32"), pytest.param(torch.float64, id="fp64")]
SMALL = ("empty", "one", "ragged")

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
differentiable = [(case, sample) for case in CASES.values() if case.differentiable for sample in case.samples]
smooth = [(case, sample) for case, sample in differentiable if sample in case.gradient_samples]


def _ids(pairs: list[tuple[Case, str]]) -> list[str]:
    return [f"{case.name}-{sample}" for case, sample in pairs]


def _parametrize(pairs: list[tuple[Case, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("case", "sample"), pairs, ids=_ids(pairs))


each_sample = _parametrize([(case, sample) for case in CASES.values() for sample in case.samples])
each_small_sample = _parametrize([(case, sample) for case in CASES.values() for sample in SMALL])


@each_dtype
@each_sample
def test_reference(case: Case, sample: str, dtype: torch.dtype, device: str) -> None:
    for seed in range(3):
        checks.check_reference(case, sample, dtype, device, seed)


@each_dtype
@each_sample
def test_not_contiguous(case: Case, sample: str, dtype: torch.dtype, device: str) -> None:
    checks.check_noncontiguous(case, sample, dtype, device)


@each_dtype
@_parametrize(differentiable)
def test_derivatives(case: Case, sample: str, dtype: torch.dtype, device: str) -> None:
    checks.check_derivatives(case, sample, dtype, device)


@_parametrize(smooth)
def test_gradcheck(case: Case, sample: str, device: str) -> None:
    checks.check_gradcheck(case, sample, device)


@_parametrize(smooth)
def test_gradgradcheck(case: Case, sample: str, device: str) -> None:
    checks.check_gradgradcheck(case, sample, device)


@_parametrize([pair for pair in smooth if pair[0].max_order is not None])
def test_past_highest_order(case: Case, sample: str, device: str) -> None:
    checks.check_past_highest_order(case, sample, device)


@each_small_sample
def test_opcheck(case: Case, sample: str, device: str) -> None:
    checks.check_opcheck(case, sample, torch.float32, device)


@each_dtype
@each_case
def test_compile(case: Case, dtype: torch.dtype, device: str) -> None:
    checks.check_compile(case, dtype, device)


def test_compile_with_inductor(device: str) -> None:
    # one op: the backend compiles C++ of its own, which takes long
    checks.check_compile(CASES["safe_norm"], torch.float32, device, backend="inductor")


@each_dtype
@each_sample
def test_determinism(case: Case, sample: str, dtype: torch.dtype, device: str) -> None:
    checks.check_determinism(case, sample, dtype, device)


symmetries = [(case, i, sample) for case in CASES.values() for i in case.invariances for sample in i.samples]


@pytest.mark.parametrize(
    ("case", "invariance", "sample"), symmetries, ids=[f"{c.name}-{i.name}-{sample}" for c, i, sample in symmetries]
)
def test_invariance(case: Case, invariance: Invariance, sample: str, device: str) -> None:
    for seed in range(3):
        checks.check_invariance(case, invariance, sample, device, seed)


refused = [(case, bad) for case in CASES.values() for bad in case.bad_inputs]


@pytest.mark.parametrize(("case", "bad"), refused, ids=[f"{case.name}-{bad.name}" for case, bad in refused])
def test_bad_input(case: Case, bad: BadInput, device: str) -> None:
    checks.check_bad_input(case, bad, device)


@pytest.mark.slow
@each_case
def test_more_than_2_31_elements(case: Case, device: str) -> None:
    if case.huge is None:
        pytest.skip("the Case has no such input")
    if device == "cuda":
        free = torch.cuda.mem_get_info()[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if free < case.huge.memory:
        pytest.skip(f"needs {case.huge.memory >> 30} GiB, free are {free >> 30}")
    checks.check_huge(case, device)


@pytest.mark.cuda
@each_dtype
@each_sample
def test_cuda_agrees_with_cpu(case: Case, sample: str, dtype: torch.dtype) -> None:
    checks.check_devices_agree(case, sample, dtype)


@pytest.mark.cuda
@each_small_sample
def test_side_stream(case: Case, sample: str) -> None:
    checks.check_side_stream(case, sample, torch.float32)


@pytest.mark.cuda
@each_small_sample
def test_second_device(case: Case, sample: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    checks.check_devices_agree(case, sample, torch.float32, "cuda:1")
    assert torch.cuda.current_device() == 0
