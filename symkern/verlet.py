"""Neighbor lists that are reused while atoms move little, as in molecular dynamics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from symkern.neighbors import Neighbors
from symkern.ops.edge_vectors import edge_vectors
from symkern.ops.neighbor_list import neighbor_list


class VerletList:
    """Builds the list for ``cutoff + skin`` and returns it again until an atom has moved by more than ``skin / 2``.

    The list is complete for `cutoff` at every call; it also holds pairs up to ``cutoff + skin``, which a model's cutoff
    function turns into zeros. With ``exact=True`` those are removed, which takes longer than building a new list on the
    CPU: use it to check, not to save time.

    It is rebuilt when an atom has moved too far, and whenever the number of atoms, cell, pbc, batch, dtype or device
    changes, however little. Comparing positions costs one synchronisation on CUDA; the decision is taken in Python, so
    call it outside ``torch.compile``. A `max_edges` must have room for the pairs up to ``cutoff + skin``.

    Args:
        cutoff: Å, positive.
        skin: Å, not negative; 0 rebuilds at every move.
        exact: return only pairs within `cutoff`.

    Attributes:
        builds: how many times the list was built.

    Raises:
        ValueError: cutoff or skin out of range.
    """

    def __init__(self, cutoff: float, skin: float, *, exact: bool = False) -> None:
        if not (0 < cutoff < float("inf")):
            raise ValueError(f"cutoff must be positive and finite, got {cutoff}")
        if not (0 <= skin < float("inf")):
            raise ValueError(f"skin must be finite and not negative, got {skin}")
        self.cutoff, self.skin, self.exact = cutoff, skin, exact
        self.builds = 0
        self._neighbors: Neighbors | None = None
        self._positions: Tensor | None = None
        self._setting: dict[str, Any] = {}

    def __call__(self, positions: Tensor, **setting: Any) -> Neighbors:
        """The list for these positions; keyword arguments as in `neighbor_list`."""
        pbc = setting.get("pbc")
        if pbc is not None and not isinstance(pbc, (bool, Tensor)):
            setting["pbc"] = tuple(bool(flag) for flag in pbc)  # a list could change behind our back
        if not self._is_valid(positions, setting):
            with torch.inference_mode(False):  # the list may be used for training later
                kept = positions.detach().clone()
                self._neighbors = neighbor_list(kept, self.cutoff + self.skin, **setting)
                self._positions = kept  # only now: a build that failed must not pass for one of these positions
                self._setting = {k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in setting.items()}
            self.builds += 1
        assert self._neighbors is not None
        return self._within_cutoff(positions) if self.exact else self._neighbors

    def _is_valid(self, positions: Tensor, setting: dict[str, Any]) -> bool:
        old = self._positions
        if old is None or self._neighbors is None:
            return False
        if (old.shape, old.dtype, old.device) != (positions.shape, positions.dtype, positions.device):
            return False
        if setting.keys() != self._setting.keys():
            return False
        if not all(_same(setting[name], self._setting[name]) for name in setting):
            return False
        if old.numel() == 0:
            return True
        # in fp64, and a hair early: rounding must not lose a pair
        moved = (positions.detach().double() - old.double()).square().sum(-1).max()
        # NaN compares false: the rebuild then reports the position that is not finite
        return bool(moved <= (0.5 * self.skin) ** 2 * (1 - 1e-12))

    def _within_cutoff(self, positions: Tensor) -> Neighbors:
        nb = self._neighbors
        assert nb is not None
        real = int(nb.row_ptr[-1])
        cell = self._setting.get("cell")
        vectors = edge_vectors(positions.detach().double(), nb, None if cell is None else cell.double())
        keep = (vectors.square().sum(-1) < self.cutoff**2)[:real].nonzero().squeeze(1)
        edge_index = nb.edge_index[:, keep]
        shifts = None if nb.cell_shifts is None else nb.cell_shifts[keep]
        counts = torch.bincount(edge_index[1], minlength=nb.num_nodes)
        row_ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        padding = (nb.num_edges if "max_edges" in self._setting else len(keep)) - len(keep)
        edge_index = torch.nn.functional.pad(edge_index, (0, padding))
        shifts = None if shifts is None else torch.nn.functional.pad(shifts, (0, 0, 0, padding))
        return Neighbors(
            edge_index, row_ptr, nb.ptr, shifts, cutoff=self.cutoff, full=nb.full, self_loops=nb.self_loops
        )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and bool(torch.equal(a, b))
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return False
    return bool(a == b)
