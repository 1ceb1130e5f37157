"""SchNet's continuous-filter convolution: filters, products and their sum without rows of features per edge."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from symkern import _library as _library
from symkern._check import check_reverse_mode
from symkern._ladder import Ladder
from symkern.neighbors import Neighbors
from symkern.ops import radial_basis as radial
from symkern.ops._fused import by_sender, check_arguments, is_real, padded, precision, shifted_softplus, sum_to, work


def cfconv(
    h: Tensor,
    d: Tensor,
    nb: Neighbors,
    cutoff: float,
    *,
    first_weight: Tensor,
    first_bias: Tensor,
    second_weight: Tensor,
    second_bias: Tensor,
    kind: str = "gaussian",
    centers: Tensor | None = None,
    gamma: Tensor | None = None,
    frequencies: Tensor | None = None,
) -> Tensor:
    """out_i = sum over senders j of h_j * W(d_ij) u(d_ij), with the filter W an MLP of a radial basis.

        W(d) = W_2 ssp(W_1 b(d) + b_1) + b_2,   ssp(x) = log(1 + e^x) - log 2,   u(d) = (1 + cos(pi d / cutoff)) / 2

    u is 0 from the cutoff on. Where `nb` has the reverse of an edge, and the two distances are the same number,
    their filter is computed once. No row of F numbers per edge is kept, forward, backward or in the second
    derivative; only second derivatives in directions of the parameters and third derivatives go through torch
    operations that do. Sums run in a fixed order: results do not depend on the number of threads (those torch
    operations may). fp16 and bf16 are computed in fp32 and rounded once. On CUDA, products are TF32 only where
    torch may use it or inputs are half precision.

    Source: Schütt et al. (SchNet), J. Chem. Phys. 148, 241722 (2018), eq. 5-7; Behler's cutoff, J. Chem. Phys. 134,
    074106 (2011).

    Args:
        h: (N, F) features of the senders; float32, float64, float16 or bfloat16, as all the others.
        d: (E,) Å, in the order of the edges of `nb`.
        nb: graph.
        cutoff: Å.
        first_weight, first_bias: (F, K) and (F,), laid out as those of nn.Linear; K is the size of the basis.
        second_weight, second_bias: (F, F) and (F,).
        kind, centers, gamma, frequencies: radial basis b, see `radial_basis`; without an envelope of its own.

    Returns:
        (N, F).

    Raises:
        TypeError: an argument is not a tensor, or `nb` not a graph.
        ValueError: shapes, dtypes or devices that do not fit; distances, cutoff or basis as in `radial_basis`.
        RuntimeError: forward-mode differentiation.
    """
    named = {
        "h": h,
        "d": d,
        "first_weight": first_weight,
        "first_bias": first_bias,
        "second_weight": second_weight,
        "second_bias": second_bias,
    }
    check_arguments(nb, named)
    check_reverse_mode("cfconv", *named.values(), centers, gamma, frequencies)
    p, q, settings = basis_arguments(d, cutoff, first_weight, kind, centers, gamma, frequencies)
    if h.dim() != 2 or h.shape[0] != nb.num_nodes or h.shape[1] < 1:
        raise ValueError(f"h must have shape ({nb.num_nodes}, F), got {tuple(h.shape)}")
    f, k = h.shape[1], p.shape[0]
    shapes = {
        "d": (nb.num_edges,),
        "first_weight": (f, k),
        "first_bias": (f,),
        "second_weight": (f, f),
        "second_bias": (f,),
    }
    for name, shape in shapes.items():
        value = named[name]
        if value.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}")
    floats = (
        padded(work(h), -1),
        work(d),
        p,
        q,
        padded(work(first_weight), -2),
        padded(work(first_bias), -1),
        padded(work(second_weight), -2, -1),
        padded(work(second_bias), -1),
    )
    out: Tensor = LADDER(*floats, nb.edge_index, nb.row_ptr, reverse_of(nb), *by_sender(nb, h), *settings, precision(h))
    return (out[:, :f] if out.shape[1] != f else out).to(h.dtype)


def reference(
    h: Tensor,
    d: Tensor,
    nb: Neighbors,
    cutoff: float,
    *,
    first_weight: Tensor,
    first_bias: Tensor,
    second_weight: Tensor,
    second_bias: Tensor,
    kind: str = "gaussian",
    centers: Tensor | None = None,
    gamma: Tensor | None = None,
    frequencies: Tensor | None = None,
) -> Tensor:
    """The same in torch operations."""
    p, q, settings = basis_arguments(d, cutoff, first_weight, kind, centers, gamma, frequencies)
    weights = (first_weight, first_bias, second_weight, second_bias)
    (out,) = _formula(h, d, p, q, *weights, nb.edge_index, nb.row_ptr, None, None, None, *settings, 0)
    return out


def basis_arguments(
    d: Tensor,
    cutoff: float,
    weight: Tensor,
    kind: str,
    centers: Tensor | None,
    gamma: Tensor | None,
    frequencies: Tensor | None,
) -> tuple[Tensor, Tensor | None, tuple[float, int]]:
    """Parameters (K,) of the basis that `weight` (rows, K) acts on, in the dtype to compute in, and its settings."""
    if d.dim() != 1:
        raise ValueError(f"d must have shape (E,), got {tuple(d.shape)}")
    if weight.dim() != 2:
        raise ValueError(f"the weight of the filter must have shape (F, K), got {tuple(weight.shape)}")
    rc, number, _, _ = radial._check(d, cutoff, weight.shape[1], kind, "none", 1)
    p, q = radial._parameters(d, cutoff, weight.shape[1], kind, centers, gamma, frequencies)
    return p, q, (rc, number)


def reverse_of(nb: Neighbors) -> Tensor | None:
    """The reversed edges, where the op shares filters between them: on the CPU, unless there can be none."""
    return None if nb.edge_index.is_cuda or not nb.full else nb.reverse


def _formula(
    h: Tensor,
    d: Tensor,
    p: Tensor,
    q: Tensor | None,
    first_weight: Tensor,
    first_bias: Tensor,
    second_weight: Tensor,
    second_bias: Tensor,
    edge_index: Tensor,
    row_ptr: Tensor,
    reverse: Tensor | None,
    order: Tensor | None,
    start: Tensor | None,
    cutoff: float,
    kind: int,
    allow_tf32: int,
) -> tuple[Tensor]:
    (senders, receivers), real = edge_index, is_real(edge_index, row_ptr)
    d = torch.where(real[:, 0], d, 0)
    basis = radial._formula(d, p, q, cutoff, kind, radial._ENVELOPES.index("none"), 1)
    inner = shifted_softplus(functional.linear(basis, first_weight, first_bias))
    filters = functional.linear(inner, second_weight, second_bias) * radial._envelope(d.unsqueeze(1), cutoff, 0, 1)
    return (sum_to(torch.where(real, h[senders] * filters, 0), receivers, len(h)),)


def _shapes(h: Tensor, *rest: Any) -> tuple[tuple[Any, ...], ...]:
    return (tuple(h.shape),)


LADDER = Ladder("cfconv", _formula, _shapes, floats=8, indices=5, outputs=1, directed=2)
LADDER.register()
