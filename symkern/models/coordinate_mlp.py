"""A network on raw coordinates: what the ASAN paper compares with, ignoring all symmetry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from symkern.models._config import keeps_config
from symkern.models._dense import centered, molecules_of, padded, regressed, regressor
from symkern.neighbors import Neighbors
from symkern.nn.basic import check_positive


class CoordinateMLP(nn.Module):
    """The MLP of the ASAN paper on the coordinates of at most `max_atoms` atoms from their centroid, zeros behind them.

    It depends on orientation and on the order of atoms, and does not know elements ("Baseline MLP", section 4 a).

    Args:
        out: width of the output.
        max_atoms: what molecules are filled up to.
        hidden: widths of the MLP; batch norm, ReLU and dropout follow each.
        dropout: its rate.

    Raises:
        ValueError: a setting out of range.
    """

    config: dict[str, Any]

    @keeps_config
    def __init__(
        self, out: int = 1, *, max_atoms: int = 15, hidden: Sequence[int] = (128, 64), dropout: float = 0.2
    ) -> None:
        super().__init__()
        check_positive(max_atoms=max_atoms)
        self.max_atoms = max_atoms
        self.regressor = regressor(3 * max_atoms, out, hidden, dropout)

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
        x = centered(pos, ptr, batch)
        return regressed(self.regressor, padded(x, ptr, batch, self.max_atoms).flatten(1)).to(pos.dtype)
