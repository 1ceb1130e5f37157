"""Named systems for segment_sum and segment_mean; the contract has the rest."""

from __future__ import annotations

import pytest
import torch

import symkern as sk


def test_against_a_loop() -> None:
    counts = [3, 0, 600, 1]
    row_ptr = torch.tensor([0, *counts]).cumsum(0)
    values = torch.randn((int(row_ptr[-1]) + 5, 7), dtype=torch.float64)
    parts = [values[row_ptr[n] : row_ptr[n + 1]] for n in range(len(counts))]
    torch.testing.assert_close(sk.segment_sum(values, row_ptr), torch.stack([p.sum(0) for p in parts]))
    means = torch.stack([p.mean(0) if len(p) else p.sum(0) for p in parts])
    torch.testing.assert_close(sk.segment_mean(values, row_ptr), means)


@pytest.mark.parametrize("segment", [sk.segment_sum, sk.segment_mean])
def test_padding_gets_zero_gradient(segment) -> None:
    values = torch.randn((6, 2), requires_grad=True)
    values_with_nan = torch.cat([values[:4], torch.full((2, 2), float("nan"))])
    row_ptr = torch.tensor([0, 3, 4])
    assert torch.equal(segment(values_with_nan, row_ptr), segment(values[:4], row_ptr))
    (grad,) = torch.autograd.grad(segment(values, row_ptr).sum(), values)
    assert torch.equal(grad[4:], torch.zeros(2, 2))
    assert bool((grad[:4] != 0).all())


def test_long_and_short_segments_agree() -> None:
    """Tiles are chosen by shape: the same rows give the same sum to rounding, alone or beside others."""
    values = torch.randn((100_000, 3))
    together = sk.segment_sum(values, torch.tensor([0, 100, 99_000, 100_000]))
    torch.testing.assert_close(together[0], values[:100].double().sum(0).float())
    torch.testing.assert_close(together[1], values[100:99_000].double().sum(0).float())


@pytest.mark.parametrize(
    ("row_ptr", "match"),
    [([0, 4, 3], r"row_ptr\[2\] = 3"), ([0, 9], r"row_ptr\[1\] = 9"), ([1, 2], r"row_ptr\[0\] = 1"), ([-1, 2], "= -1")],
)
def test_bad_row_ptr(row_ptr, match) -> None:
    with pytest.raises(ValueError, match=match):
        sk.segment_sum(torch.zeros((5, 2)), torch.tensor(row_ptr))
