"""Chamfer distances between point clouds: exact nearest points, differentiable to any order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from symkern import _library as _library
from symkern._autograd import differentiable, fake
from symkern._check import HALF, check_reverse_mode, check_tensor, same_precision, whole
from symkern._reference import by_reference, compute
from symkern.ops.edge_order import sender_order

# (summed over, compared with) for each direction, by place in (x, y)
_SIDES = {"x_to_y": ((0, 1),), "y_to_x": ((1, 0),), "both": ((0, 1), (1, 0))}


def chamfer(
    x: Tensor,
    y: Tensor,
    *,
    x_ptr: Tensor | None = None,
    y_ptr: Tensor | None = None,
    direction: Literal["x_to_y", "y_to_x", "both"] = "x_to_y",
    x_type: Tensor | None = None,
    y_type: Tensor | None = None,
    return_index: bool = False,
) -> Any:
    """Sum over the points of x of the squared distance to the nearest point of y, for each structure.

    The nearest point is that of the smallest direct difference |y_j - x_i|^2 in fp64, ties to the lowest index: the
    same for every algorithm, number of threads, instruction set and device. (|x|^2 + |y|^2 - 2 x.y, which loses all
    digits far from the origin, is not used.) Small structures are compared pair by pair, large clouds through a tree,
    in memory that grows with the number of points.

    The indices are constants for differentiation: the distance is then quadratic in `x` and `y`, with derivatives of
    any order. Sums run in fp64 in a fixed order, so values and gradients are the same bits for any number of threads.

    Args:
        x: (N, D) points, D = 1, 2 or 3, in any unit of length (Å); float32, float64, float16 or bfloat16, the latter
            two computed in float32. Or (B, N, D): B clouds of N points.
        y: (M, D) or (B, M, D), dtype and device of `x`. If one of the two is float16 or bfloat16, as under autocast, it
            is converted to the dtype of the other.
        x_ptr: (B + 1,) int64, rising from 0 to N: structure b owns the points x_ptr[b] .. x_ptr[b + 1]. Without it all
            points are one structure.
        y_ptr: (B + 1,) int64, the same for `y`.
        direction: "x_to_y" sums over the points of x, "y_to_x" over those of y, "both" is the sum of the two.
        x_type, y_type: (N,) and (M,) integers, or (B, N) and (B, M): only points of equal type are compared, such as
            atoms of one element. Both or neither.
        return_index: also return the index of the nearest point.

    Returns:
        (B,) in the wider dtype, in squared units of `x`; structures with nothing to sum over give 0. With
        `return_index` a tuple: (distance, index) with index (N,) int64 into `y`, for "y_to_x" (M,) into `x`, for
        "both" (distance, index of x_to_y, index of y_to_x). For (B, N, D) inputs indices are (B, N) and (B, M) and
        count within the cloud.

    Raises:
        TypeError: an argument is not a tensor.
        RuntimeError: forward-mode differentiation.
        ValueError: shapes, dtypes or devices that do not fit; one of `x_ptr` and `y_ptr`, or of `x_type` and `y_type`,
            without the other; an unknown direction. On the CPU also: a ptr that does not rise from 0 to the number of
            points; a point that is not finite; a structure that has points to sum over but none (or none of their
            type) to compare with. On CUDA, where such a check would have to wait for the device, the distance of that
            structure is NaN and the index -1.

    Source: Barrow et al., Parametric correspondence and chamfer matching, IJCAI 1977; in the form of squared distances
    Fan et al., A point set generation network for 3D object reconstruction, CVPR 2017, eq. (2).
    """
    for name, value in (("x", x), ("y", y)):
        check_tensor(name, value)
    for name, option in (("x_ptr", x_ptr), ("y_ptr", y_ptr), ("x_type", x_type), ("y_type", y_type)):
        check_tensor(name, option, optional=True)
    check_reverse_mode("chamfer", x, y)
    if direction not in _SIDES:
        raise ValueError(f"direction must be one of {', '.join(map(repr, _SIDES))}, got {direction!r}")
    _check_shapes(x, y, x_ptr, y_ptr)
    _check_types(x, y, x_type, y_type)
    x, y = same_precision(x, y)
    if x.dtype != y.dtype:
        raise ValueError(f"y must have the dtype of x, {x.dtype}, got {y.dtype}")
    if x_ptr is None or y_ptr is None:
        x_ptr = _ptr(x, None)
        y_ptr = x_ptr if x.shape == y.shape else _ptr(y, None)
    ptrs = (x_ptr, y_ptr)
    points = (_points(x), _points(y))
    types = [None if t is None else whole(n, t).reshape(-1) for n, t in (("x_type", x_type), ("y_type", y_type))]
    sides = _SIDES[direction]
    found = [_one_way(points[a], points[b], ptrs[a], ptrs[b], types[a], types[b]) for a, b in sides]
    distance = found[0][0] if len(found) == 1 else found[0][0] + found[1][0]
    if x.dtype in HALF:
        distance = distance.to(x.dtype)
    if not return_index:
        return distance
    if x.dim() == 2:
        return (distance, *(index for _, index in found))
    clouds = (x, y)
    return (distance, *(_local(index, clouds[a], clouds[b]) for (_, index), (a, b) in zip(found, sides, strict=True)))


def _check_shapes(x: Tensor, y: Tensor, x_ptr: Tensor | None, y_ptr: Tensor | None) -> None:
    of_x, of_y = x.shape, y.shape  # once: each look makes an object
    for name, shape, count in (("x", of_x, "N"), ("y", of_y, "M")):
        if len(shape) not in (2, 3) or shape[-1] not in (1, 2, 3):
            raise ValueError(
                f"{name} must have shape ({count}, D) or (B, {count}, D) with D = 1, 2 or 3, got {tuple(shape)}"
            )
    if len(of_x) != len(of_y) or of_x[-1] != of_y[-1]:
        raise ValueError(f"y must have as many axes and as long a last axis as x, {tuple(of_x)}, got {tuple(of_y)}")
    if (x_ptr is None) != (y_ptr is None):
        raise ValueError("x_ptr and y_ptr must be given together")
    if len(of_x) == 3:
        if x_ptr is not None:
            raise ValueError(f"x_ptr and y_ptr are for points of shape (N, D), got {tuple(of_x)}")
        if of_x[0] != of_y[0]:
            raise ValueError(f"y must have as many clouds as x, {of_x[0]}, got {of_y[0]}")


def _check_types(x: Tensor, y: Tensor, x_type: Tensor | None, y_type: Tensor | None) -> None:
    if (x_type is None) != (y_type is None):
        raise ValueError("x_type and y_type must be given together")
    if x_type is None:
        return
    for name, types, points in (("x_type", x_type, x), ("y_type", y_type, y)):
        if types is not None and types.shape != points.shape[:-1]:
            raise ValueError(f"{name} must have shape {tuple(points.shape[:-1])}, got {tuple(types.shape)}")


def _points(x: Tensor) -> Tensor:
    """(rows, 3) in a dtype that kernels know; absent coordinates are zero, which adds nothing to a distance."""
    flat = x if x.dim() == 2 else x.flatten(0, 1)
    if x.dtype in HALF:
        flat = flat.float()
    return flat if x.shape[-1] == 3 else torch.nn.functional.pad(flat, (0, 3 - x.shape[-1]))


def _ptr(x: Tensor, ptr: Tensor | None) -> Tensor:
    if ptr is not None:
        return ptr
    clouds, points = (1, x.shape[0]) if x.dim() == 2 else x.shape[:2]
    if points == 0:
        return torch.zeros(clouds + 1, dtype=torch.int64, device=x.device)
    return torch.arange(0, clouds * points + 1, points, device=x.device)


def _local(index: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Global row numbers to places within the cloud; -1 stays."""
    clouds, points = x.shape[:2]
    start = torch.arange(clouds, device=x.device).unsqueeze(1) * y.shape[1]
    return (index.reshape(clouds, points) - start).clamp(min=-1)


def _one_way(
    x: Tensor, y: Tensor, x_ptr: Tensor, y_ptr: Tensor, x_type: Tensor | None, y_type: Tensor | None
) -> tuple[Tensor, Tensor]:
    if by_reference():
        return compute(_reference, x, y, x_ptr, y_ptr, x_type, y_type)
    distance, index = torch.ops.symkern.chamfer_search.default(x, y, x_ptr, y_ptr, x_type, y_type)
    return distance, index


# ---- reference -------------------------------------------------------------------------------------------------------


def reference(
    x: Tensor,
    y: Tensor,
    *,
    x_ptr: Tensor | None = None,
    y_ptr: Tensor | None = None,
    direction: str = "x_to_y",
    x_type: Tensor | None = None,
    y_type: Tensor | None = None,
    return_index: bool = False,
) -> Any:
    """The same from all pairs of points, in torch operations; for tests, not for large clouds."""
    if x.dim() == 3:
        clouds = len(x)
        types = [None if t is None else t.flatten() for t in (x_type, y_type)]
        found = reference(
            *(t.reshape(-1, x.shape[2]) for t in (x, y)),
            x_ptr=torch.arange(clouds + 1) * x.shape[1],
            y_ptr=torch.arange(clouds + 1) * y.shape[1],
            direction=direction,
            x_type=types[0],
            y_type=types[1],
            return_index=True,
        )
        pairs = zip(found[1:], _SIDES[direction], strict=True)
        local = [i.reshape((x, y)[a].shape[:2]) % max((x, y)[b].shape[1], 1) for i, (a, b) in pairs]
        return (found[0], *local) if return_index else found[0]
    if direction == "both":
        there, i = _reference(x, y, _ptr(x, x_ptr), _ptr(y, y_ptr), x_type, y_type)
        back, j = _reference(y, x, _ptr(y, y_ptr), _ptr(x, x_ptr), y_type, x_type)
        return (there + back, i, j) if return_index else there + back
    if direction == "y_to_x":
        x, y, x_ptr, y_ptr, x_type, y_type = y, x, y_ptr, x_ptr, y_type, x_type
    found = _reference(x, y, _ptr(x, x_ptr), _ptr(y, y_ptr), x_type, y_type)
    return found if return_index else found[0]


def _reference(
    x: Tensor, y: Tensor, x_ptr: Tensor, y_ptr: Tensor, x_type: Tensor | None, y_type: Tensor | None
) -> tuple[Tensor, Tensor]:
    sums, indices = [], []
    for (a, b), (c, d) in zip(_ranges(x_ptr), _ranges(y_ptr), strict=True):
        with torch.no_grad():
            square = (x[a:b, None].double() - y[None, c:d].double()).square().sum(-1)
            if x_type is not None and y_type is not None:
                square = square.masked_fill(x_type[a:b, None] != y_type[None, c:d], torch.inf)
            number = torch.arange(c, d, device=x.device).expand_as(square)
            if b > a:
                number = number.masked_fill(square > square.amin(1, keepdim=True), torch.iinfo(torch.int64).max)
                indices.append(number.amin(1))
            else:
                indices.append(x_ptr.new_zeros(0))
        sums.append((x[a:b] - y[indices[-1]]).square().sum())
    return torch.stack(sums) if sums else x.sum() + x.new_zeros(0), torch.cat([x_ptr.new_zeros(0), *indices])


def _ranges(ptr: Tensor) -> Sequence[tuple[int, int]]:
    bounds = ptr.tolist()
    return list(pairwise(bounds))


# ---- fake kernels and derivatives: see the formulas in csrc/ops/chamfer.cpp ------------------------------------------


@fake("chamfer_search")
def _(
    x: Tensor, y: Tensor, x_ptr: Tensor, y_ptr: Tensor, x_type: Tensor | None, y_type: Tensor | None
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x_ptr.shape[0] - 1), x_ptr.new_empty(x.shape[0])


@fake("chamfer_product")
def _(x: Tensor, y: Tensor, u: Tensor, v: Tensor | None, index: Tensor, x_ptr: Tensor, y_ptr: Tensor) -> Tensor:
    return x.new_empty(x_ptr.shape[0] - 1)


@fake("chamfer_product_backward")
def _(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    index: Tensor,
    x_ptr: Tensor,
    y_ptr: Tensor,
    order: Tensor | None,
    start: Tensor | None,
    num_y: int,
) -> tuple[Tensor, Tensor]:
    return x.new_empty((x.shape[0], 3)), x.new_empty((0 if order is None else num_y, 3))


def _by_target(index: Tensor, num_y: int) -> tuple[Tensor, Tensor]:
    """Queries in the order of their target, and where each target's begin: the counting sort of edges by sender."""
    ends = index.new_full((num_y + 1,), index.shape[0])
    return sender_order(index.expand(2, -1), ends)


def _adjoint(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    index: Tensor,
    ptrs: Sequence[Tensor],
    order: Sequence[Tensor | None] | None,
    num_y: int,
) -> tuple[Tensor, Tensor | None]:
    """g d(x, y) for x, and for y as well where there is an `order`."""
    back, start = order if order is not None else (None, None)
    grad_x, grad_y = torch.ops.symkern.chamfer_product_backward.default(grad, x, y, index, *ptrs, back, start, num_y)
    return grad_x, grad_y if order is not None else None


def _save_search(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, y, x_ptr, y_ptr, _, _ = inputs
    ctx.save_for_backward(x, y, output[1], x_ptr, y_ptr)


def _search_backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    x, y, index, *ptrs = ctx.saved_tensors
    order = _by_target(index, len(y)) if ctx.needs_input_grad[1] else None
    return (*_adjoint(2 * grad, x, y, index, ptrs, order, len(y)), *[None] * 4)


def _save_product(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.num_y = inputs[1].shape[0]
    ctx.save_for_backward(*inputs)


def _product_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, y, u, v, index, *ptrs = ctx.saved_tensors
    need_y, need_v = ctx.needs_input_grad[1], ctx.needs_input_grad[3]
    order = _by_target(index, ctx.num_y) if need_y or need_v else None
    first = _adjoint(grad, u, v, index, ptrs, order if need_y else None, ctx.num_y)
    second = _adjoint(grad, x, y, index, ptrs, order if need_v else None, ctx.num_y)
    return (*first, *second, None, None, None)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.num_y = inputs
    ctx.save_for_backward(*tensors)


def _double_backward(ctx: Any, grad_x: Tensor | None, grad_y: Tensor | None) -> tuple[Tensor | None, ...]:
    # the adjoint of (x, y) -> g d(x, y) is itself
    grad, x, y, index, *ptrs, back, start = ctx.saved_tensors
    if back is None:
        grad_y = None
    if grad_x is None:
        grad_x = torch.zeros_like(x)
    of_grad = of_x = of_y = None
    if ctx.needs_input_grad[0]:
        other = x.new_zeros((ctx.num_y, 3)) if y is None else y
        of_grad = torch.ops.symkern.chamfer_product.default(x, other, grad_x, grad_y, index, *ptrs)
    if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
        order = None
        if ctx.needs_input_grad[2]:
            order = (back, start) if back is not None else _by_target(index, ctx.num_y)
        of_x, of_y = _adjoint(grad, grad_x, grad_y, index, ptrs, order, ctx.num_y)
    return (of_grad, of_x, of_y, *[None] * 6)


differentiable("chamfer_search", _search_backward, _save_search)
differentiable("chamfer_product", _product_backward, _save_product)
differentiable("chamfer_product_backward", _double_backward, _save_backward)
