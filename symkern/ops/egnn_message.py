"""EGNN's messages: two layers per edge, summed at the receiver, without a row of features per edge in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from symkern import _library as _library
from symkern._check import check_reverse_mode
from symkern._ladder import Ladder
from symkern.neighbors import Neighbors
from symkern.ops._fused import by_sender, check_arguments, is_real, padded, precision, sum_to, work


def egnn_message(
    received: Tensor,
    sent: Tensor,
    attributes: Tensor,
    nb: Neighbors,
    *,
    first_weight: Tensor,
    second_weight: Tensor,
    second_bias: Tensor,
    attention_weight: Tensor | None = None,
    attention_bias: Tensor | None = None,
    head_weight: Tensor | None = None,
    head_bias: Tensor | None = None,
    head_last: Tensor | None = None,
    edge_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Sums of messages m_ij over the senders j of each receiver i, and a number per edge that moves coordinates.

        m_ij = silu(W_2 silu(P_i + Q_j + W_1 a_ij) + b_2)          with attention times sigmoid(w_a m_ij + b_a)
        total_i = sum_j u_ij m_ij                                  head_ij = c_2 silu(C_1 m_ij + c_1)

    The first layer of the published form, phi_e(h_i, h_j, |x_i - x_j|^2, a_ij), is split: P = h W_i + b_1 and
    Q = h W_j are rows per atom, and W_1 acts on what belongs to the edge. No row of H numbers per edge is kept, in any
    of the two derivatives; only second derivatives in directions of the weights and third derivatives go through torch
    operations that do. Sums run in a fixed order: results do not depend on the number of threads.
    fp16 and bf16 are computed in fp32 and rounded once. On CUDA, products are TF32 only where torch may use it
    (`torch.set_float32_matmul_precision`) or inputs are half precision.

    Source: Satorras, Hoogeboom, Welling, ICML 2021, eq. 3, 5 and the coordinate factor of eq. 4.

    Args:
        received: (N, H) P, one row per receiver; float32, float64, float16 or bfloat16, as all the others.
        sent: (N, H) Q, one row per sender.
        attributes: (E, K) a_ij in the order of the edges of `nb`, such as |x_i - x_j|^2.
        nb: graph.
        first_weight: (H, K) W_1, laid out as that of nn.Linear, as all weights.
        second_weight, second_bias: (H, H) and (H,).
        attention_weight, attention_bias: (1, H) and (1,), or None for no attention.
        head_weight, head_bias, head_last: (H, H), (H,) and (1, H), or None for no head.
        edge_weight: (E,) u_ij, a factor of each message in the sum; 1 by default.

    Returns:
        total (N, H), and head (E,), or None without one; zero for padding edges.

    Raises:
        TypeError: an argument is not a tensor, or `nb` not a graph.
        ValueError: shapes, dtypes or devices that do not fit; part of the attention or of the head is missing.
        RuntimeError: forward-mode differentiation.
    """
    named = {
        "received": received,
        "sent": sent,
        "attributes": attributes,
        "edge_weight": edge_weight,
        "first_weight": first_weight,
        "second_weight": second_weight,
        "second_bias": second_bias,
        "attention_weight": attention_weight,
        "attention_bias": attention_bias,
        "head_weight": head_weight,
        "head_bias": head_bias,
        "head_last": head_last,
    }
    floats = _prepare(nb, named)
    width = received.shape[1]
    order, start = by_sender(nb, received)
    total, head = LADDER(*floats, nb.edge_index, nb.row_ptr, order, start, precision(received))
    total = total[:, :width] if total.shape[1] != width else total
    return total.to(received.dtype), None if head_weight is None else head.to(received.dtype)


def reference(
    received: Tensor,
    sent: Tensor,
    attributes: Tensor,
    nb: Neighbors,
    *,
    first_weight: Tensor,
    second_weight: Tensor,
    second_bias: Tensor,
    attention_weight: Tensor | None = None,
    attention_bias: Tensor | None = None,
    head_weight: Tensor | None = None,
    head_bias: Tensor | None = None,
    head_last: Tensor | None = None,
    edge_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The same in torch operations."""
    floats = (received, sent, attributes, edge_weight, first_weight, second_weight, second_bias)
    gates = (attention_weight, attention_bias, head_weight, head_bias, head_last)
    total, head = _formula(*floats, *gates, nb.edge_index, nb.row_ptr, None, None, 0)
    return total, None if head_weight is None else head


def _formula(
    received: Tensor,
    sent: Tensor,
    attributes: Tensor,
    edge_weight: Tensor | None,
    first_weight: Tensor,
    second_weight: Tensor,
    second_bias: Tensor,
    attention_weight: Tensor | None,
    attention_bias: Tensor | None,
    head_weight: Tensor | None,
    head_bias: Tensor | None,
    head_last: Tensor | None,
    edge_index: Tensor,
    row_ptr: Tensor,
    order: Tensor | None,
    start: Tensor | None,
    allow_tf32: int,
) -> tuple[Tensor, Tensor]:
    senders, receivers = edge_index
    real, none = is_real(edge_index, row_ptr), received.new_zeros(())
    attributes = torch.where(real, attributes, none)  # padding may hold anything: nothing flows through it, either way
    inner = received[receivers] + sent[senders] + functional.linear(attributes, first_weight)
    m = functional.silu(functional.linear(functional.silu(inner), second_weight, second_bias))
    if attention_weight is not None:
        m = m * torch.sigmoid(functional.linear(m, attention_weight, attention_bias))
    weighted = m if edge_weight is None else m * torch.where(real, edge_weight.unsqueeze(1), none)
    total = sum_to(torch.where(real, weighted, none), receivers, len(received))
    if head_weight is None or head_last is None:
        return total, total.new_zeros(0)
    head = functional.linear(functional.silu(functional.linear(m, head_weight, head_bias)), head_last)
    return total, torch.where(real, head, none).squeeze(1)


def _prepare(nb: Neighbors, named: dict[str, Tensor | None]) -> list[Tensor | None]:
    """The checked float arguments of the op, in its order, in fp32 or fp64 and padded."""
    optional = ("edge_weight", "attention_weight", "attention_bias", "head_weight", "head_bias", "head_last")
    check_arguments(nb, named, optional)
    check_reverse_mode("egnn_message", *named.values())
    received, attributes = named["received"], named["attributes"]
    assert received is not None
    assert attributes is not None
    for group in (optional[1:3], optional[3:]):
        given = [name for name in group if named[name] is not None]
        if given and len(given) < len(group):
            missing = next(name for name in group if named[name] is None)
            raise ValueError(f"{missing} must be given with {given[0]}")
    if received.dim() != 2 or received.shape[0] != nb.num_nodes or received.shape[1] < 1:
        raise ValueError(f"received must have shape ({nb.num_nodes}, H), got {tuple(received.shape)}")
    if attributes.dim() != 2 or attributes.shape[0] != nb.num_edges:
        raise ValueError(f"attributes must have shape ({nb.num_edges}, K), got {tuple(attributes.shape)}")
    h, k, e = received.shape[1], attributes.shape[1], nb.num_edges
    shapes = {
        "sent": (nb.num_nodes, h),
        "edge_weight": (e,),
        "first_weight": (h, k),
        "second_weight": (h, h),
        "second_bias": (h,),
        "attention_weight": (1, h),
        "attention_bias": (1,),
        "head_weight": (h, h),
        "head_bias": (h,),
        "head_last": (1, h),
    }
    for name, shape in shapes.items():
        value = named[name]
        if value is not None and value.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}")
    axes: dict[str, tuple[int, ...]] = {"attributes": (), "edge_weight": (), "attention_bias": ()}
    axes |= {"first_weight": (-2,), "second_weight": (-2, -1), "head_weight": (-2, -1)}
    wide = {name: work(value) for name, value in named.items()}
    return [padded(value, *axes.get(name, (-1,))) if axes.get(name, (-1,)) else value for name, value in wide.items()]


def _shapes(received: Tensor, *rest: Any) -> tuple[tuple[Any, ...], ...]:
    edges = rest[11].shape[1]
    return tuple(received.shape), ((edges,) if rest[8] is not None else (0,))


LADDER = Ladder("egnn_message", _formula, _shapes, floats=12, indices=4, outputs=2, directed=4)
LADDER.register()
