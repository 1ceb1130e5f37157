"""The exact earth mover's distance beside all assignments."""

from __future__ import annotations

import sys
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import symkern as sk


def cloud(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brute_force(x: Tensor, y: Tensor, x_type: Tensor, y_type: Tensor) -> float:
    fits = (p for p in permutations(range(len(x))) if torch.equal(x_type, y_type[list(p)]))
    return min(float((x - y[list(p)]).norm(dim=1).mean()) for p in fits)


@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(0, 5), max_size=4), kinds=st.integers(1, 3))
def test_all_assignments(seed: int, sizes: list[int], kinds: int) -> None:
    random = torch.Generator().manual_seed(seed)
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    x, y = cloud(seed, sum(sizes), 3), cloud(seed + 1, sum(sizes), 3)
    x_type = torch.randint(kinds, (sum(sizes),), generator=random)
    y_type = x_type.clone()
    for a, b in zip(ptr[:-1].tolist(), ptr[1:].tolist(), strict=True):
        y_type[a:b] = x_type[a:b][torch.randperm(b - a, generator=random)]
    distance, index = sk.emd(x, y, x_ptr=ptr, y_ptr=ptr, x_type=x_type, y_type=y_type, return_index=True)
    assert torch.equal(x_type, y_type[index])
    blind = sk.emd(x, y, x_ptr=ptr, y_ptr=ptr)
    for k, (a, b) in enumerate(zip(ptr[:-1].tolist(), ptr[1:].tolist(), strict=True)):
        assert sorted(index[a:b].tolist()) == list(range(a, b))
        expected = brute_force(x[a:b], y[a:b], x_type[a:b], y_type[a:b]) if b > a else 0.0
        assert float(distance[k]) == pytest.approx(expected, abs=1e-13)
        zero = torch.zeros_like(x_type[a:b])
        expected = brute_force(x[a:b], y[a:b], zero, zero) if b > a else 0.0
        assert float(blind[k]) == pytest.approx(expected, abs=1e-13)


def test_known_value_and_dtype() -> None:
    x = torch.tensor([[0.0, 0, 0], [3, 0, 0]])
    y = torch.tensor([[3.0, 4, 0], [0, 0, 1]])
    distance, index = sk.emd(x, y, return_index=True)
    assert distance.dtype == torch.float64
    assert distance.tolist() == [2.5]
    assert index.tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    x, y = (cloud(s, 5, 3).to(dtype).requires_grad_() for s in (0, 1))
    expected = sk.emd(x.double(), y.double())
    for other in (y, y.float(), y.double()):
        assert torch.equal(sk.emd(x, other), expected)
        assert torch.equal(sk.emd(other, x), expected)
    assert torch.autograd.grad(sk.emd(x, y).sum(), x)[0].dtype == dtype


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_types_of_any_integer_dtype(dtype: torch.dtype) -> None:
    x, y, kinds = cloud(0, 4, 3), cloud(1, 4, 3), torch.tensor([1, 6, 1, 8])
    expected = sk.emd(x, y, x_type=kinds, y_type=kinds)
    assert torch.equal(sk.emd(x, y, x_type=kinds.to(dtype), y_type=kinds), expected)


def test_gradients_given_the_assignment() -> None:
    x, y = (cloud(s, 5, 3).requires_grad_() for s in (0, 1))
    assert torch.autograd.gradcheck(sk.emd, (x, y))
    assert torch.autograd.gradgradcheck(sk.emd, (x, y))


def test_gradient_of_coincident_atoms_is_zero() -> None:
    x = cloud(0, 4, 3).requires_grad_()
    (grad,) = torch.autograd.grad(sk.emd(x, x.detach().flip(0)).sum(), x)
    assert torch.equal(grad, torch.zeros_like(grad))


X = torch.zeros(3, 3)
PTR = torch.tensor([0, 1, 3])


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        ((X, X[1:]), {}, r"y must have as many atoms as x, 3, got 2"),
        ((X, X), {"x_ptr": PTR, "y_ptr": torch.tensor([0, 2, 3])}, r"equal numbers of atoms in each structure"),
        ((X, X), {"x_ptr": PTR}, r"x_ptr and y_ptr must be given together"),
        (
            (X, X),
            {"x_ptr": PTR + 1, "y_ptr": PTR},
            r"x_ptr must rise from 0 to the number of atoms, 3, got \[1, 2, 4\]",
        ),
        ((X, X), {"x_type": PTR}, r"x_type and y_type must be given together"),
        ((X, X), {"x_type": PTR, "y_type": PTR + 1}, r"y_type must have the types of x_type in other order"),
        ((X, X), {"x_type": PTR[1:], "y_type": PTR}, r"x_type must have shape \(3,\), got \(2,\)"),
        ((X, X), {"x_type": X[:, 0], "y_type": X[:, 0]}, r"x_type must be integers, got float32"),
        ((X, X.double()), {}, r"y must be float32, as x is, got float64"),
        ((X.long(), X.long()), {}, r"x must be float32, float64, float16 or bfloat16, got int64"),
        ((X[:, :2], X), {}, r"x must have shape \(N, 3\), got \(3, 2\)"),
        ((X, X + torch.nan), {}, r"must be finite, but structure 0 is not"),
    ],
)
def test_refuses(arguments: tuple[Tensor, Tensor], options: dict[str, Tensor], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sk.emd(*arguments, **options)


def test_not_a_tensor() -> None:
    with pytest.raises(TypeError, match=r"y must be a torch\.Tensor"):
        sk.emd(X, X.tolist())


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match="emd needs SciPy"):
        sk.emd(X, X)
