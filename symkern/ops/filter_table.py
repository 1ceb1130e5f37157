"""The continuous-filter convolution with filters from a table, for inference and dynamics."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from symkern import _library as _library
from symkern._autograd import differentiable, fake
from symkern._check import check_reverse_mode
from symkern._reference import by_reference, compute
from symkern.neighbors import Neighbors
from symkern.ops._fused import check_arguments, real_edges, sum_to, work

# value, slope and curvature at the left end of an interval, then at the right one; powers of t = 0 .. 1 ascend
_HERMITE = (
    (1, 0, 0, -10, 15, -6),
    (0, 1, 0, -6, 8, -3),
    (0, 0, 0.5, -1.5, 1.5, -0.5),
    (0, 0, 0, 10, -15, 6),
    (0, 0, 0, -4, 7, -3),
    (0, 0, 0, 0.5, -1, 0.5),
)


def tabulated_cfconv(h: Tensor, d: Tensor, nb: Neighbors, cutoff: float, table: Tensor) -> Tensor:
    """out_i = sum over senders j of h_j * F(d_ij), with the filter F interpolated in a table.

    F is the quintic through values and two derivatives at equal steps from 0 to the cutoff: its second derivative is
    continuous. From the cutoff on F is 0. Differentiable in `h` and `d` to any order (derivatives of F beyond the
    second jump at the knots); the table is a constant. No row of F numbers per edge is kept, in any derivative. Sums
    run in a fixed order: results do not depend on the number of threads. fp16 and bf16 are computed in fp32 and rounded
    once.

    Args:
        h: (N, F) features of the senders; float32, float64, float16 or bfloat16.
        d: (E,) Å, dtype of `h`, in the order of the edges of `nb`.
        nb: graph.
        cutoff: Å.
        table: (knots, 3, F) at d_k = k s with s = cutoff / (knots - 1): F(d_k), s F'(d_k) and s^2 F''(d_k), in the
            dtype of `h` (float32 for half precision). `symkern.nn.CFConv.tabulate` makes it.

    Returns:
        (N, F).

    Raises:
        TypeError: an argument is not a tensor, or `nb` not a graph.
        ValueError: shapes, dtypes or devices that do not fit; a cutoff that is not positive and finite; a table that
            requires a gradient; on the CPU also `d` negative or not finite (on CUDA their sums become NaN: an error
            would have to wait for the device).
        RuntimeError: forward-mode differentiation.
    """
    check_arguments(nb, {"h": h, "d": d})
    check_arguments(nb, {"h": work(h), "table": table})
    check_reverse_mode("tabulated_cfconv", h, d, table)
    if table.requires_grad:
        raise ValueError("table must not require a gradient: it is a constant; train the CFConv that it is made from")
    x, r = work(h), work(d)
    assert x is not None
    assert r is not None
    if by_reference():
        return compute(reference, x, r, nb, cutoff, table).to(h.dtype)
    recording = torch.is_grad_enabled() and (h.requires_grad or d.requires_grad)
    order, start = nb._by_sender if recording else (None, None)
    out: Tensor = torch.ops.symkern.filter_table_sum.default(
        x, r, None, table, nb.edge_index, nb.row_ptr, order, start, float(cutoff), 0, False
    )
    return out.to(h.dtype)


def reference(h: Tensor, d: Tensor, nb: Neighbors, cutoff: float, table: Tensor) -> Tensor:
    """The same in torch operations."""
    senders, receivers = real_edges(nb.edge_index, nb.row_ptr)
    return sum_to(h[senders] * interpolate(d[: len(senders)], cutoff, table), receivers, len(h))


def interpolate(d: Tensor, cutoff: float, table: Tensor) -> Tensor:
    """(E, F) filters at distances (E,), see `tabulated_cfconv`; in torch operations, differentiable in `d`."""
    intervals = table.shape[0] - 1
    place = d * (intervals / cutoff)
    k = place.detach().long().clamp(0, intervals - 1)
    t = (place - k).unsqueeze(1)
    powers = torch.cat([torch.ones_like(t), t, t**2, t**3, t**4, t**5], 1)
    weights = powers @ _hermite(d.dtype, d.device)
    rows = torch.cat([table[k], table[k + 1]], 1)
    return torch.where((d < cutoff).unsqueeze(1), (weights.unsqueeze(2) * rows).sum(1), 0)


@lru_cache(maxsize=16)
def _hermite(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(_HERMITE, dtype=dtype, device=device).T


@fake("filter_table_sum")
def _(x: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@fake("filter_table_dot")
def _(received: Tensor, sent: Tensor, d: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(d, memory_format=torch.contiguous_format)


# Each is the derivative of the other: sums in their rows and factors are products along edges and sums the other way,
# products likewise; a derivative in d raises that of the table.


def _save_sum(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, d, factor, *graph, ctx.cutoff, ctx.derivative, ctx.to_senders = inputs
    ctx.save_for_backward(x, d, factor, *graph)


def _sum_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, d, factor, *graph = ctx.saved_tensors
    needs, n = ctx.needs_input_grad, ctx.derivative
    ends = (x, grad) if ctx.to_senders else (grad, x)
    dot, add = torch.ops.symkern.filter_table_dot.default, torch.ops.symkern.filter_table_sum.default
    to_x = add(grad, d, factor, *graph, ctx.cutoff, n, not ctx.to_senders) if needs[0] else None
    to_d = dot(*ends, d, *graph, ctx.cutoff, n + 1) if needs[1] else None
    to_factor = dot(*ends, d, *graph, ctx.cutoff, n) if needs[2] else None
    if to_d is not None and factor is not None:
        to_d = to_d * factor
    return to_x, to_d, to_factor, *[None] * 8


def _save_dot(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.cutoff, ctx.derivative = inputs
    ctx.save_for_backward(*tensors)


def _dot_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    received, sent, d, *graph = ctx.saved_tensors
    needs, n = ctx.needs_input_grad, ctx.derivative
    add = torch.ops.symkern.filter_table_sum.default
    to_received = add(sent, d, grad, *graph, ctx.cutoff, n, False) if needs[0] else None
    to_sent = add(received, d, grad, *graph, ctx.cutoff, n, True) if needs[1] else None
    to_d = None
    if needs[2]:
        to_d = grad * torch.ops.symkern.filter_table_dot.default(received, sent, d, *graph, ctx.cutoff, n + 1)
    return to_received, to_sent, to_d, *[None] * 7


differentiable("filter_table_sum", _sum_backward, _save_sum)
differentiable("filter_table_dot", _dot_backward, _save_dot)
