"""The exact earth mover's distance between structures of equal size, for evaluation."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, overload

import numpy as np
import torch
from torch import Tensor

from symkern._check import HALF, check_tensor, same_precision, whole
from symkern.ops.safe_norm import safe_norm
from symkern.ops.segment_sum import segment_mean


@overload
def emd(
    x: Tensor,
    y: Tensor,
    *,
    x_ptr: Tensor | None = ...,
    y_ptr: Tensor | None = ...,
    x_type: Tensor | None = ...,
    y_type: Tensor | None = ...,
    return_index: Literal[False] = ...,
) -> Tensor: ...


@overload
def emd(
    x: Tensor,
    y: Tensor,
    *,
    x_ptr: Tensor | None = ...,
    y_ptr: Tensor | None = ...,
    x_type: Tensor | None = ...,
    y_type: Tensor | None = ...,
    return_index: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def emd(
    x: Tensor,
    y: Tensor,
    *,
    x_ptr: Tensor | None = None,
    y_ptr: Tensor | None = None,
    x_type: Tensor | None = None,
    y_type: Tensor | None = None,
    return_index: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Mean distance between the atoms of x and their partners in y, under the best assignment of partners.

    The assignment is exact (SciPy's `linear_sum_assignment`, on the host, cubic in the number of atoms) and a constant
    for differentiation; the gradient at coincident atoms is zero. Everything is fp64.

    Args:
        x: (N, 3) float32, float64, float16 or bfloat16, Å.
        y: (N, 3), dtype and device of `x`; one of the two may be float16 or bfloat16 where the other is not.
        x_ptr: (B + 1,) int64, rising from 0 to N: structure b owns the rows x_ptr[b] .. x_ptr[b + 1]. Without it all
            rows are one structure.
        y_ptr: the same for `y`; structures must have the sizes that they have in `x`.
        x_type, y_type: (N,) integers, such as atomic numbers: partners have equal types, of which a structure must have
            equal numbers in `x` and `y`. Both or neither.
        return_index: also return the assignment.

    Returns:
        (B,) float64 Å, 0 for structures without atoms; with `return_index` also (N,) int64: row i of `x` goes to row
        index[i] of `y`.

    Raises:
        ImportError: SciPy is not installed.
        TypeError: an argument is not a tensor.
        ValueError: shapes, dtypes or devices that do not fit; sizes or types that differ between `x` and `y`;
            coordinates that are not finite.

    Source: Villani, Optimal Transport, 2009, for uniform weights, where an assignment is optimal; the metric of SANN,
    Table 4.
    """
    try:
        from scipy.optimize import linear_sum_assignment
        from scipy.spatial.distance import cdist
    except ImportError as error:
        raise ImportError("emd needs SciPy: pip install scipy") from error
    ptr = _check(x, y, x_ptr, y_ptr, x_type, y_type)
    points = [t.detach().double().cpu().numpy() for t in (x, y)]
    kinds = [np.zeros(len(x)) if t is None else t.cpu().numpy() for t in (x_type, y_type)]
    index = np.empty(len(x), dtype=np.int64)
    for b, (begin, end) in enumerate(pairwise(ptr.tolist())):
        here, there = (np.argsort(k[begin:end], kind="stable") + begin for k in kinds)
        if not np.array_equal(kinds[0][here], kinds[1][there]):
            raise ValueError(f"y_type must have the types of x_type in other order, but structure {b} has others")
        if not all(np.isfinite(p[begin:end]).all() for p in points):
            raise ValueError(f"x and y must be finite, but structure {b} is not")
        ends = np.flatnonzero(np.diff(kinds[0][here])) + 1
        for rows, columns in zip(np.split(here, ends), np.split(there, ends), strict=True):
            _, best = linear_sum_assignment(cdist(points[0][rows], points[1][columns]))
            index[rows] = columns[best]
    order = torch.from_numpy(index).to(x.device)
    distance = segment_mean(safe_norm(x.double() - y.double().index_select(0, order)), ptr)
    return (distance, order) if return_index else distance


def _check(
    x: Tensor,
    y: Tensor,
    x_ptr: Tensor | None,
    y_ptr: Tensor | None,
    x_type: Tensor | None,
    y_type: Tensor | None,
) -> Tensor:
    """Structures, the same in both."""
    for name, value in (("x", x), ("y", y)):
        check_tensor(name, value)
        if value.dim() != 2 or value.shape[1] != 3:
            raise ValueError(f"{name} must have shape (N, 3), got {tuple(value.shape)}")
        if value.dtype not in (torch.float32, torch.float64, *HALF):
            raise ValueError(f"{name} must be float32, float64, float16 or bfloat16, got {str(value.dtype)[6:]}")
    wide = same_precision(x, y)
    if wide[0].dtype != wide[1].dtype:
        raise ValueError(f"y must be {str(x.dtype)[6:]}, as x is, got {str(y.dtype)[6:]}")
    for pair in (("x_ptr", x_ptr, "y_ptr", y_ptr), ("x_type", x_type, "y_type", y_type)):
        if (pair[1] is None) != (pair[3] is None):
            raise ValueError(f"{pair[0]} and {pair[2]} must be given together")
    others = (("y", y), ("x_ptr", x_ptr), ("y_ptr", y_ptr), ("x_type", x_type), ("y_type", y_type))
    for name, other in others:
        check_tensor(name, other, optional=True)
        if other is not None and other.device != x.device:
            raise ValueError(f"{name} must be on the device of x ({x.device}), got {other.device}")
        if other is not None and name.endswith("ptr") and other.dtype != torch.int64:
            raise ValueError(f"{name} must be int64, got {str(other.dtype)[6:]}")
    if len(x) != len(y):
        raise ValueError(f"y must have as many atoms as x, {len(x)}, got {len(y)}")
    for name, types in (("x_type", x_type), ("y_type", y_type)):
        if types is not None and whole(name, types).shape != (len(x),):
            raise ValueError(f"{name} must have shape ({len(x)},), got {tuple(types.shape)}")
    if x_ptr is None or y_ptr is None:
        return torch.tensor([0, len(x)], device=x.device)
    for name, ptr in (("x_ptr", x_ptr), ("y_ptr", y_ptr)):
        if ptr.dim() != 1 or len(ptr) < 1:
            raise ValueError(f"{name} must have shape (B + 1,), got {tuple(ptr.shape)}")
        if int(ptr[0]) != 0 or int(ptr[-1]) != len(x) or bool((ptr.diff() < 0).any()):
            raise ValueError(f"{name} must rise from 0 to the number of atoms, {len(x)}, got {ptr.tolist()}")
    if not torch.equal(x_ptr, y_ptr):
        raise ValueError("x and y must have equal numbers of atoms in each structure: x_ptr and y_ptr differ")
    return x_ptr
