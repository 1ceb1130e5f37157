"""second_order_pool entry by entry, its facts, and errors that no Case has."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

import symkern as sk
from symkern.testing.geometry import generator, random_rotation


def molecules(*sizes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = generator(seed)
    positions = torch.randn(sum(sizes), 3, generator=random, dtype=torch.float64)
    return positions, random_rotation(random), torch.tensor([0, *sizes]).cumsum(0)


def test_entries() -> None:
    """Every entry from its definition, in loops of NumPy."""
    positions, rotation, ptr = molecules(3, 15, 0, 8)
    weights = torch.rand(26, 4, generator=generator(1), dtype=torch.float64)
    found = {mode: sk.second_order_pool(positions, rotation, ptr, mode).numpy() for mode in ("outer", "gram", "moment")}
    masked = sk.second_order_pool(positions, rotation, ptr, "moment", weights=weights).numpy()
    for b, (begin, end) in enumerate(pairwise(ptr.tolist())):
        y = positions[begin:end].numpy() @ rotation.numpy()
        u = np.zeros(45)
        u[: y.size] = y.reshape(-1)
        upper = [u[i] * u[j] for i in range(45) for j in range(i, 45)]
        np.testing.assert_allclose(found["outer"][b], upper[:225], rtol=1e-13, atol=1e-14)
        gram = np.zeros((15, 15))
        for i in range(len(y)):
            for j in range(len(y)):
                gram[i, j] = y[i] @ y[j]
        np.testing.assert_allclose(found["gram"][b], gram.reshape(-1), rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(found["moment"][b], (y.T @ y).reshape(-1), rtol=1e-13, atol=1e-14)
        for c in range(4):
            moment = sum((weights[begin + i, c].item() * np.outer(y[i], y[i]) for i in range(len(y))), np.zeros((3, 3)))
            np.testing.assert_allclose(masked[b, 9 * c : 9 * c + 9], moment.reshape(-1), rtol=1e-13, atol=1e-14)


def slope(mode: str, plane: tuple[int, int]) -> torch.Tensor:
    """d features / d angle of a turn of R in a plane."""
    positions, rotation, ptr = molecules(9, 15)
    generator_of_turn = torch.zeros(3, 3, dtype=torch.float64)
    generator_of_turn[plane], generator_of_turn[plane[::-1]] = 1, -1

    def features(angle: torch.Tensor) -> torch.Tensor:
        return sk.second_order_pool(positions, rotation @ torch.linalg.matrix_exp(angle * generator_of_turn), ptr, mode)

    return torch.autograd.functional.jacobian(features, torch.zeros((), dtype=torch.float64))


@pytest.mark.parametrize("plane", [(0, 1), (0, 2), (1, 2)])
def test_the_gram_matrix_cannot_learn_a_rotation(plane: tuple[int, int]) -> None:
    assert slope("gram", plane).abs().max() < 1e-13
    assert slope("outer", plane).abs().max() > 0.1
    assert slope("moment", plane).abs().max() > 0.1


def test_the_rest_of_the_outer_product_is_cut_off() -> None:
    """The first 225 of 1035 entries do not have a single product of two atoms beyond the second."""
    positions, rotation, ptr = molecules(15)
    rows = positions.clone()
    rows[:2] = 0
    assert sk.second_order_pool(positions, rotation, ptr, "outer").ne(0).all()
    assert sk.second_order_pool(rows, rotation, ptr, "outer").eq(0).all()


def test_moments_of_any_number_of_atoms() -> None:
    positions, rotation, ptr = molecules(4000, 1)
    y = positions[:4000] @ rotation
    torch.testing.assert_close(
        sk.second_order_pool(positions, rotation, ptr, "moment")[0], (y.T @ y).flatten(), rtol=1e-12, atol=1e-9
    )


def test_a_pass_computes_what_is_asked_for() -> None:
    """Training the rotation alone takes no gradient of the atoms, and each mask gives the same numbers."""
    positions, rotation, ptr = molecules(15, 3, 7)
    grad = torch.randn(3, 225, generator=generator(2), dtype=torch.float64)
    backward = torch.ops.symkern.second_order_pool_backward.default
    everything = backward(grad, positions, rotation, None, ptr, 0, 7)
    only = backward(grad, positions, rotation, None, ptr, 0, 2)
    assert [tuple(t.shape) for t in everything] == [(25, 3), (3, 3), (0,)]
    assert [tuple(t.shape) for t in only] == [(0,), (3, 3), (0,)]
    assert torch.equal(only[1], everything[1])
    assert all(t.shape == (0,) for t in backward(grad, positions, rotation, None, ptr, 0, 0))


def test_one_rotation_has_the_gradient_of_all() -> None:
    """Over more molecules than one tile of the sum."""
    positions, rotation, ptr = molecules(*[2, 3] * 300)
    single = rotation.clone().requires_grad_()
    many = rotation.repeat(600, 1, 1).requires_grad_()
    for matrices in (single, many):
        sk.second_order_pool(positions, matrices, ptr, "outer").sin().sum().backward()
    torch.testing.assert_close(single.grad, many.grad.sum(0), rtol=1e-12, atol=1e-10)


def test_errors_that_values_of_ptr_make() -> None:
    positions, rotation, ptr = molecules(4, 5)
    for wrong, match in (
        (torch.tensor([0, 5, 4, 9]), "ptr"),
        (torch.tensor([0, 4, 8]), "ptr"),
        (torch.tensor([1, 4, 9]), "ptr"),
    ):
        with pytest.raises(ValueError, match=match):
            sk.second_order_pool(positions, rotation, wrong, "moment")
    with (
        sk.reference_mode(),
        pytest.raises(ValueError, match="mode 'gram' has room for 15 atoms, but molecule 1"),
    ):
        sk.second_order_pool(torch.zeros(18, 3), torch.eye(3), torch.tensor([0, 2, 18]), "gram")
    with pytest.raises(RuntimeError, match=r"symkern\.second_order_pool has no forward-mode derivative"):
        torch.func.jvp(lambda x: sk.second_order_pool(x, rotation, ptr, "gram"), (positions,), (positions,))


def test_autocast_computes_in_fp32() -> None:
    positions, rotation, ptr = molecules(4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        found = sk.second_order_pool(positions.bfloat16(), rotation.bfloat16(), ptr, "gram")
    expected = sk.second_order_pool(positions.bfloat16().float(), rotation.bfloat16().float(), ptr, "gram")
    assert torch.equal(found, expected)
