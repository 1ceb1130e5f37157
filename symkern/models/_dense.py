"""What ASAN shares with the networks it is compared with: centred molecules, rows of fixed length, the regressor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from symkern.models._graph import _require, check_atoms, graph_of
from symkern.neighbors import Neighbors, _checked_ptr
from symkern.nn.basic import check_positive
from symkern.ops.segment_sum import segment_mean

LARGEST_Z = 99


def check_molecules(cell: Tensor | None, pbc: Tensor | None) -> None:
    """Raise ValueError for a periodic structure, which has no centroid."""
    if cell is not None and (pbc is None or bool(torch.as_tensor(pbc).any())):
        raise ValueError("cell must be None: positions are taken from the centroid, which a periodic structure lacks")


def molecules_of(
    z: Tensor,
    pos: Tensor,
    batch: Tensor | None,
    cell: Tensor | None,
    pbc: Tensor | None,
    nb: Neighbors | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """`ptr` (B + 1,) and `batch` (N,), for networks that need no edges; from `nb` where there is one.

    Raises:
        TypeError, ValueError: what `check_molecules` and `graph_of` raise.
    """
    check_molecules(cell, pbc)
    if nb is not None:
        nb = graph_of(z, pos, batch, None, None, nb, 0.0, LARGEST_Z, dtype)
        return nb.ptr, nb.batch
    check_atoms(z, pos, batch, LARGEST_Z, dtype)
    ptr = _checked_ptr(None, batch, len(z), z)
    return ptr, torch.zeros_like(z) if batch is None else batch


def centered(pos: Tensor, ptr: Tensor, batch: Tensor) -> Tensor:
    """(N, 3) positions from the centroid of their molecule."""
    return pos - segment_mean(pos, ptr)[batch]


def check_sizes(ptr: Tensor, size: int) -> None:
    """Raise ValueError for a molecule of more than `size` atoms."""
    _require(
        lambda: (ptr.diff() <= size).all(),
        ptr,
        lambda: f"z must hold molecules of at most {size} atoms, got one of {int(ptr.diff().max())}",
    )


def padded(values: Tensor, ptr: Tensor, batch: Tensor, size: int) -> Tensor:
    """(B, size, ...) rows of each molecule's atoms, in their order, and zeros behind them.

    Raises:
        ValueError: a molecule of more than `size` atoms; on CUDA at a later call, and none in compiled code: there its
            rows are NaN.
    """
    check_sizes(ptr, size)
    within = torch.arange(len(values), device=values.device) - ptr[batch]
    molecules = len(ptr) - 1
    # where a check cannot raise, on CUDA and in compiled code, molecules that are too large are NaN, and harm no other
    place = torch.where(within < size, size * batch + within, size * molecules)
    empty = values.new_zeros((size * molecules + 1, *values.shape[1:]))
    rows = empty.index_copy(0, place, values)[:-1].reshape(molecules, size, *values.shape[1:])
    if not rows.is_floating_point():
        return rows
    return rows.masked_fill((ptr.diff() > size).reshape(-1, *[1] * values.dim()), math.nan)


def regressed(network: nn.Sequential, features: Tensor) -> Tensor:
    """(B, out) by a `regressor`.

    Raises:
        ValueError: a single molecule in training mode.
    """
    if network.training and len(network) > 1 and len(features) == 1:
        raise ValueError(
            "batch must hold at least 2 molecules in training mode, got 1: batch norm compares them (leave out a last "
            "batch of one with drop_last=True, or call eval() to predict)"
        )
    out: Tensor = network(features)
    return out


def regressor(inputs: int, out: int, hidden: Sequence[int] = (128, 64), dropout: float = 0.2) -> nn.Sequential:
    """The ASAN paper's network, 225 -> 128 -> 64 -> 1: linear map, batch norm, ReLU and dropout, twice, and a map.

    Raises:
        ValueError: widths that are not positive, a dropout outside 0 .. 1.
    """
    layers: list[nn.Module] = []
    check_positive(out=out)
    for inner, outer in pairwise([inputs, *hidden]):
        check_positive(hidden=outer)
        layers += [nn.Linear(inner, outer), nn.BatchNorm1d(outer), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(hidden[-1] if hidden else inputs, out))
