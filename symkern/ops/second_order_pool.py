"""Products of rotated coordinates: the features that ASAN's symmetry layer hands to its network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from symkern import _library as _library
from symkern._check import check_reverse_mode, check_tensor
from symkern._ladder import Ladder
from symkern._reference import by_reference

ATOMS, FEATURES = 15, 225  # of the modes with a fixed length
_MODES = ("outer", "gram", "moment")


def second_order_pool(
    positions: Tensor, rotation: Tensor, ptr: Tensor, mode: str, *, weights: Tensor | None = None
) -> Tensor:
    """Second-order features of x~_i = x_i R, molecule by molecule.

    The paper gives "a quadratic expansion" of length 225 for up to 15 atoms in words that allow two readings, beside
    its eq. 1, so there are three modes. X~ is (n, 3); vec goes row by row.

    - "outer": u = vec(X~), 45 numbers with zeros for missing atoms; the first 225 entries of the upper triangle, with
      diagonal, of u u^T, row by row. All of them have a coordinate of the first two atoms as a factor.
    - "gram": vec(X~ X~^T), 15 x 15 with zeros for missing atoms. Does not change with R as long as R is orthogonal, so
      its derivative along rotations is 0.
    - "moment": vec(X~^T X~), 9 numbers for any number of atoms (the paper's eq. 1). With `weights` 9 of them for every
      channel c, vec(sum_i w_ic x~_i x~_i^T), channel after channel.

    Nothing is centred. Sums run in a fixed order and in fp64: results are the same bits for any number of threads.

    Args:
        positions: (N, 3) float32 or float64, Å; of each molecule consecutive.
        rotation: (3, 3), one for all molecules, or (B, 3, 3); acts on rows from the right. Its nine entries are free:
            nothing asks for orthogonality.
        ptr: (B + 1,) int64, where molecules begin: rising from 0 to N, as PyG has it.
        mode: "outer", "gram" or "moment".
        weights: (N, C), for mode "moment" alone.

    Returns:
        (B, D), Å^2: D = 225 for "outer" and "gram", 9 for "moment", 9 C for "moment" with weights. Differentiable in
        positions, rotation and weights to any order, by ops up to the second.

    Raises:
        TypeError: an argument is not a tensor.
        RuntimeError: forward-mode differentiation.
        ValueError: shapes, dtypes or devices that do not fit; an unknown mode; weights with another mode than
            "moment"; on the CPU also a molecule of more than 15 atoms in mode "outer" or "gram", and a `ptr` that does
            not rise from 0 to N. On CUDA, where these checks would have to wait for the device, the features of too
            large a molecule are NaN.

    Source: Adaptive Symmetry-Aware Networks (ASAN), section 3.3, eq. 1.
    """
    for name, value in (("positions", positions), ("rotation", rotation), ("ptr", ptr)):
        check_tensor(name, value)
    check_tensor("weights", weights, optional=True)
    if mode not in _MODES:
        raise ValueError(f"mode must be one of 'outer', 'gram', 'moment', got {mode!r}")
    if weights is not None and mode != "moment":
        raise ValueError(f"weights go with mode 'moment', got mode {mode!r}")
    check_reverse_mode("second_order_pool", positions, rotation, weights)
    if by_reference():
        _check_sizes(ptr, mode)
    out: Tensor = LADDER(positions, rotation, weights, ptr, _MODES.index(mode))
    return out


def reference(positions: Tensor, rotation: Tensor, ptr: Tensor, mode: str, *, weights: Tensor | None = None) -> Tensor:
    """The same in torch operations."""
    _check_sizes(ptr, mode)
    (out,) = _formula(positions, rotation, weights, ptr, _MODES.index(mode))
    return out


def _check_sizes(ptr: Tensor, mode: str) -> None:
    large = (ptr.diff() > ATOMS).nonzero()
    if mode != "moment" and len(large):
        b = int(large[0])
        raise ValueError(
            f"mode '{mode}' has room for {ATOMS} atoms, but molecule {b} has {int(ptr[b + 1] - ptr[b])}; "
            "mode 'moment' takes any number"
        )


def _formula(positions: Tensor, rotation: Tensor, weights: Tensor | None, ptr: Tensor, mode: int) -> tuple[Tensor]:
    atoms, molecules = positions.shape[0], ptr.shape[0] - 1
    owner = torch.repeat_interleave(torch.arange(molecules, device=ptr.device), ptr.diff(), output_size=atoms)
    turned = (positions.unsqueeze(1) @ (rotation if rotation.dim() == 2 else rotation[owner])).squeeze(1)
    if _MODES[mode] == "moment":
        products = (turned.unsqueeze(2) * turned.unsqueeze(1)).flatten(1)
        if weights is not None:
            products = (weights.unsqueeze(2) * products.unsqueeze(1)).flatten(1)
        return (products.new_zeros(molecules, products.shape[1]).index_add(0, owner, products),)
    place = torch.arange(atoms, device=ptr.device) - ptr[owner]
    padded = turned.new_zeros(molecules, ATOMS, 3).index_put((owner, place), turned)
    if _MODES[mode] == "gram":
        return ((padded @ padded.mT).flatten(1),)
    u = padded.flatten(1)
    row, column = torch.triu_indices(3 * ATOMS, 3 * ATOMS, device=ptr.device)[:, :FEATURES]
    return (u[:, row] * u[:, column],)


def _shapes(
    positions: Tensor, rotation: Tensor, weights: Tensor | None, ptr: Tensor, mode: int
) -> tuple[tuple[Any, ...], ...]:
    moments = 9 * (1 if weights is None else weights.shape[1])
    return ((ptr.shape[0] - 1, moments if _MODES[mode] == "moment" else FEATURES),)


LADDER = Ladder("second_order_pool", _formula, _shapes, floats=3, indices=1, outputs=1, directed=3)
LADDER.register()
