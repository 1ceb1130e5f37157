"""What ASAN shares with the two networks it is compared with: centred molecules, rows of fixed length, the regressor."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from symkern._check import check_tensor
from symkern.models._graph import _require, graph_of
from symkern.neighbors import Neighbors
from symkern.nn.basic import check_positive
from symkern.ops.segment_sum import segment_mean

LARGEST_Z = 99


def centered(
    z: Tensor,
    pos: Tensor,
    batch: Tensor | None,
    cell: Tensor | None,
    pbc: Tensor | None,
    nb: Neighbors | None,
    dtype: torch.dtype,
    cutoff: float | None = None,
) -> tuple[Tensor, Neighbors]:
    """Positions (N, 3) from the centroid of their molecule, and a graph; without a cutoff one that may lack edges.

    Raises:
        TypeError, ValueError: a periodic structure, which has no centroid, and what `graph_of` raises.
    """
    if cell is not None and (pbc is None or bool(torch.as_tensor(pbc).any())):
        raise ValueError("cell must be None: positions are taken from the centroid, which a periodic structure lacks")
    if nb is None and cutoff is None:
        check_tensor("z", z)
        nb = Neighbors.from_edge_index(z.new_empty((2, 0), dtype=torch.int64), len(z), batch=batch)
    nb = graph_of(z, pos, batch, None, None, nb, cutoff or 0.0, LARGEST_Z, dtype)
    return pos - segment_mean(pos, nb.ptr)[nb.batch], nb


def padded(values: Tensor, nb: Neighbors, size: int) -> Tensor:
    """(B, size, ...) rows of each molecule's atoms, in their order, and zeros behind them.

    Raises:
        ValueError: a molecule of more than `size` atoms.
    """
    counts = nb.ptr.diff()
    _require(
        lambda: (counts <= size).all(),
        counts,
        lambda: f"z must hold molecules of at most max_atoms = {size} atoms, got one of {int(counts.max())}",
    )
    place = torch.arange(len(values), device=values.device) - nb.ptr[nb.batch] + size * nb.batch
    rows = values.new_zeros((nb.num_structures * size, *values.shape[1:])).index_copy(0, place, values)
    return rows.reshape(nb.num_structures, size, *values.shape[1:])


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
