"""What the fused message-passing ops have in common: arguments, padding to whole vectors, precision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from symkern._check import HALF, check_tensor
from symkern.neighbors import Neighbors, check_neighbors

LANES = 16  # features are padded to a multiple of this


def check_arguments(nb: Any, named: Mapping[str, Tensor | None], optional: tuple[str, ...] = ()) -> None:
    """Types, dtypes and devices; the ops check shapes.

    Raises:
        TypeError: an argument is not a tensor, or `nb` not a graph.
        ValueError: mixed dtypes, or one that is no float.
    """
    check_neighbors(nb)
    first, like = next(iter(named.items()))
    for name, value in named.items():
        check_tensor(name, value, optional=name in optional)
    assert like is not None
    if like.dtype not in (torch.float32, torch.float64, *HALF):
        raise ValueError(f"{first} must be float32, float64, float16 or bfloat16, got {str(like.dtype)[6:]}")
    for name, value in named.items():
        if value is not None and value.dtype != like.dtype:
            raise ValueError(f"{name} must be {str(like.dtype)[6:]}, as {first} is, got {str(value.dtype)[6:]}")
        if value is not None and value.device != like.device:
            raise ValueError(f"{name} must be on {like.device}, as {first} is, got {value.device}")


def padded(x: Tensor | None, *axes: int) -> Tensor | None:
    """`x` with zeros at the end of each of `axes` (negative), up to a multiple of `LANES`."""
    if x is None:
        return None
    pads = [0] * (-2 * min(axes))
    for axis in axes:
        pads[-2 * axis - 1] = -x.shape[axis] % LANES
    return functional.pad(x, pads) if any(pads) else x


def work(x: Tensor | None) -> Tensor | None:
    """Half precision is computed in fp32."""
    return x.float() if x is not None and x.dtype in HALF else x


def precision(x: Tensor) -> int:
    """1 where products may be taken in TF32 (CUDA): half-precision inputs, autocast, or wherever torch itself may."""
    low = x.dtype in HALF or torch.is_autocast_enabled(x.device.type)
    return int(low or (x.is_cuda and torch.get_float32_matmul_precision() != "highest"))


def by_sender(nb: Neighbors, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The order of the edges by sender, which gradients on CUDA follow."""
    return nb._by_sender if x.is_cuda else (None, None)


def real_edges(edge_index: Tensor, row_ptr: Tensor) -> tuple[Tensor, Tensor]:
    """Senders and receivers without padding, for references."""
    edges = edge_index[:, : int(row_ptr[-1])]
    return edges[0], edges[1]


def is_real(edge_index: Tensor, row_ptr: Tensor) -> Tensor:
    """(E, 1) bool: false for padding. Unlike the length of `real_edges`, it can be traced."""
    return (torch.arange(edge_index.shape[1], device=row_ptr.device) < row_ptr[-1]).unsqueeze(1)


def shifted_softplus(x: Tensor) -> Tensor:
    """ln(e^x / 2 + 1 / 2), also where torch's default would take it for x - ln 2, 2e-9 away."""
    return functional.softplus(x, threshold=40) - math.log(2)


def sum_to(rows: Tensor, index: Tensor, count: int) -> Tensor:
    """Rows added up by index, for references."""
    return rows.new_zeros((count, *rows.shape[1:])).index_add(0, index, rows)
