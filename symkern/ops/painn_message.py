"""PaiNN's messages: filters, scalar and vector channels and their sums without a row of features per edge in memory."""

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
from symkern.ops._fused import LANES, by_sender, check_arguments, is_real, padded, precision, sum_to, work
from symkern.ops.cfconv import basis_arguments, reverse_of


def painn_message(
    phi: Tensor,
    mu: Tensor,
    d: Tensor,
    directions: Tensor,
    nb: Neighbors,
    cutoff: float,
    *,
    filter_weight: Tensor,
    filter_bias: Tensor,
    kind: str = "bessel",
    centers: Tensor | None = None,
    gamma: Tensor | None = None,
    frequencies: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Updates of scalars and vectors, summed over the senders j of each receiver i.

        (s, r, v)_ij = phi_j * (W b(d_ij) + c) u(d_ij)            three parts of F channels, u the cosine cutoff
        dq_i = sum_j s_ij,    dmu_i = sum_j r_ij n_ij + v_ij mu_j

    u is 0 from the cutoff on. Where `nb` has the reverse of an edge, and the two distances are the same number, their
    filter is computed once. Memory, order of sums, derivatives and half precision are as in `cfconv`.

    Source: Schütt, Unke, Gastegger (PaiNN), ICML 2021, eq. 7 and 8; order of the parts as in SchNetPack.

    Args:
        phi: (N, 3, F) scalars of the senders after their network; float32, float64, float16 or bfloat16, as all others.
        mu: (N, 3, F) vectors of the senders, axis 1 is x, y, z.
        d: (E,) Å, in the order of the edges of `nb`.
        directions: (E, 3) n_ij, from i to j: edge_vectors(...) / d.
        nb: graph.
        cutoff: Å.
        filter_weight, filter_bias: (3, F, K) and (3, F); K is the size of the basis.
        kind, centers, gamma, frequencies: radial basis b, see `radial_basis`; without an envelope of its own.

    Returns:
        dq (N, F), dmu (N, 3, F).

    Raises:
        TypeError: an argument is not a tensor, or `nb` not a graph.
        ValueError: shapes, dtypes or devices that do not fit; distances, cutoff or basis as in `radial_basis`.
        RuntimeError: forward-mode differentiation.
    """
    named = {
        "phi": phi,
        "mu": mu,
        "d": d,
        "directions": directions,
        "filter_weight": filter_weight,
        "filter_bias": filter_bias,
    }
    check_arguments(nb, named)
    check_reverse_mode("painn_message", *named.values(), centers, gamma, frequencies)
    if phi.dim() != 3 or phi.shape[:2] != (nb.num_nodes, 3) or phi.shape[2] < 1:
        raise ValueError(f"phi must have shape ({nb.num_nodes}, 3, F), got {tuple(phi.shape)}")
    if filter_weight.dim() != 3:
        raise ValueError(f"filter_weight must have shape (3, F, K), got {tuple(filter_weight.shape)}")
    p, q, settings = basis_arguments(d, cutoff, filter_weight[0], kind, centers, gamma, frequencies)
    f, k = phi.shape[2], p.shape[0]
    shapes = {
        "mu": (nb.num_nodes, 3, f),
        "d": (nb.num_edges,),
        "directions": (nb.num_edges, 3),
        "filter_weight": (3, f, k),
        "filter_bias": (3, f),
    }
    for name, shape in shapes.items():
        value = named[name]
        if value.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}")
    floats = (
        padded(work(phi), -1),
        padded(work(mu), -1),
        work(d),
        work(directions),
        p,
        q,
        padded(work(filter_weight), -2),
        padded(work(filter_bias), -1),
    )
    dq, dmu = LADDER(*floats, nb.edge_index, nb.row_ptr, reverse_of(nb), *by_sender(nb, phi), *settings, precision(phi))
    if f % LANES:
        dq, dmu = dq[..., :f], dmu[..., :f]
    return dq.to(phi.dtype), dmu.to(phi.dtype)


def reference(
    phi: Tensor,
    mu: Tensor,
    d: Tensor,
    directions: Tensor,
    nb: Neighbors,
    cutoff: float,
    *,
    filter_weight: Tensor,
    filter_bias: Tensor,
    kind: str = "bessel",
    centers: Tensor | None = None,
    gamma: Tensor | None = None,
    frequencies: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same in torch operations."""
    p, q, settings = basis_arguments(d, cutoff, filter_weight[0], kind, centers, gamma, frequencies)
    floats = (phi, mu, d, directions, p, q, filter_weight, filter_bias)
    return _formula(*floats, nb.edge_index, nb.row_ptr, None, None, None, *settings, 0)


def _formula(
    phi: Tensor,
    mu: Tensor,
    d: Tensor,
    directions: Tensor,
    p: Tensor,
    q: Tensor | None,
    filter_weight: Tensor,
    filter_bias: Tensor,
    edge_index: Tensor,
    row_ptr: Tensor,
    reverse: Tensor | None,
    order: Tensor | None,
    start: Tensor | None,
    cutoff: float,
    kind: int,
    allow_tf32: int,
) -> tuple[Tensor, Tensor]:
    (senders, receivers), real = edge_index, is_real(edge_index, row_ptr)
    d, directions = torch.where(real[:, 0], d, 0), torch.where(real, directions, 0)
    basis = radial._formula(d, p, q, cutoff, kind, radial._ENVELOPES.index("none"), 1)
    filters = functional.linear(basis, filter_weight.flatten(0, 1), filter_bias.flatten())
    filters = torch.where(real, filters * radial._envelope(d.unsqueeze(1), cutoff, 0, 1), 0)
    x = phi[senders] * filters.unflatten(1, (3, -1))
    vectors = x[:, 1:2] * directions.unsqueeze(2) + x[:, 2:3] * mu[senders]
    return sum_to(x[:, 0], receivers, len(phi)), sum_to(vectors, receivers, len(phi))


def _shapes(phi: Tensor, mu: Tensor, *rest: Any) -> tuple[tuple[Any, ...], ...]:
    return (phi.shape[0], phi.shape[2]), tuple(mu.shape)


LADDER = Ladder("painn_message", _formula, _shapes, floats=8, indices=5, outputs=2, directed=4)
LADDER.register()
