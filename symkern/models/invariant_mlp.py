"""A network on fixed invariants, distances and angles: the other one that the ASAN paper compares with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from symkern.models._config import keeps_config
from symkern.models._dense import molecules_of, padded, regressed, regressor
from symkern.neighbors import Neighbors
from symkern.ops.safe_norm import safe_norm


class InvariantMLP(nn.Module):
    """The MLP of the ASAN paper on all distances of a molecule and the cosines of angles along the order of its atoms.

    The paper ("MIT-inspired", section 4 b) says "interatomic distances and angles" and no more. Here these are, for
    molecules filled up to n = `max_atoms` atoms, the n (n - 1) / 2 distances and the n - 2 cosines at atom k between
    k - 1 and k + 1, with zeros where an atom is missing or two coincide. Invariant under O(3) and translations; it
    depends on the order of atoms, and does not know elements.

    Args:
        out: width of the output.
        max_atoms: n, at least 2.
        hidden: widths of the MLP; batch norm, ReLU and dropout follow each.
        dropout: its rate.

    Raises:
        ValueError: a setting out of range.
    """

    config: dict[str, Any]
    pairs: Tensor

    @keeps_config
    def __init__(
        self, out: int = 1, *, max_atoms: int = 15, hidden: Sequence[int] = (128, 64), dropout: float = 0.2
    ) -> None:
        super().__init__()
        if max_atoms < 2:
            raise ValueError(f"max_atoms must be at least 2, got {max_atoms}")
        self.max_atoms = max_atoms
        self.register_buffer("pairs", torch.triu_indices(max_atoms, max_atoms, 1), persistent=False)
        self.regressor = regressor(self.pairs.shape[1] + max_atoms - 2, out, hidden, dropout)

    def forward(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        *,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        nb: Neighbors | None = None,
    ) -> Tensor:
        """(B, out) for B molecules; arguments and errors as of `ASAN`, with `max_atoms` in place of 15."""
        ptr, batch = molecules_of(z, pos, batch, cell, pbc, nb, next(self.parameters()).dtype)
        return regressed(self.regressor, self.invariants(pos, ptr, batch)).to(pos.dtype)

    def invariants(self, pos: Tensor, ptr: Tensor, batch: Tensor) -> Tensor:
        """(B, n (n - 1) / 2 + n - 2) distances in Å, then cosines."""
        dense = padded(pos, ptr, batch, self.max_atoms)
        there = padded(pos.new_ones(len(pos)), ptr, batch, self.max_atoms)
        i, j = self.pairs
        distances = safe_norm(dense[:, i] - dense[:, j]) * (there[:, i] * there[:, j])
        steps = dense.diff(dim=1)
        lengths = safe_norm(steps)
        product = lengths[:, :-1] * lengths[:, 1:]
        # both steps point along the order of atoms: one is turned round
        opened = -(steps[:, :-1] * steps[:, 1:]).sum(2)
        nothing = product == 0
        cosines = torch.where(nothing, 0.0, opened / torch.where(nothing, 1.0, product))
        return torch.cat([distances, cosines * there[:, 2:]], 1)
