"""Pairs of edges that meet in an atom."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from symkern import _library as _library
from symkern._autograd import fake
from symkern._reference import by_reference
from symkern.neighbors import Neighbors, _Lazy
from symkern.ops.edge_order import sender_order


@dataclass(frozen=True, eq=False)
class Triplets:
    """Pairs of edges k->j and j->i, sorted by the edge j->i, then by k->j.

    Attributes:
        index: (2, T) int64 edge indices: [0] = kj, [1] = ji. Columns from ptr[-1] on are padding: they point at edge 0
            and contribute nothing.
        ptr: (E + 1,) int64; edge e has, as j->i, the triplets ptr[e] .. ptr[e + 1].
    """

    index: Tensor
    ptr: Tensor

    @property
    def kj(self) -> Tensor:
        """(T,) edge from k to j."""
        return self.index[0]

    @property
    def ji(self) -> Tensor:
        """(T,) edge from j to i."""
        return self.index[1]

    @property
    def num_triplets(self) -> int:
        """Columns of index, padding included."""
        return self.index.shape[1]

    @property
    def num_edges(self) -> int:
        return self.ptr.shape[0] - 1

    @_Lazy
    def _by_kj(self) -> tuple[Tensor, Tensor]:
        # the same counting sort as that of edges by sender
        return sender_order(self.index, self.ptr)

    @property
    def kj_order(self) -> Tensor:
        """(T,) int64: the triplets in order of kj (stable), padding last. Computed once."""
        return self._by_kj[0]

    @property
    def kj_ptr(self) -> Tensor:
        """(E + 1,) int64: edge e is, as k->j, in the triplets kj_order[kj_ptr[e] : kj_ptr[e + 1]]."""
        return self._by_kj[1]

    def to(self, device: torch.device | str) -> Triplets:
        """A copy on `device`, with the order by kj if it exists already."""
        moved = Triplets(self.index.to(device), self.ptr.to(device))
        if "_by_kj" in self.__dict__:
            moved.__dict__["_by_kj"] = tuple(t.to(device) for t in self._by_kj)
        return moved


def triplets(nb: Neighbors, *, max_triplets: int | None = None) -> Triplets:
    """All pairs of edges k->j and j->i of a graph whose ends k and i are not the same atom image.

    A pair is left out where j->i leads back to where k->j came from: k is i, and the shifts of both edges add up to
    zero. PyG's DimeNet++ leaves out every pair with equal indices k and i. For molecules that is the same; in a
    periodic system it would lose the angles between an atom and its own images: all of them for one atom per cell.

    Self loops (an atom with itself at zero shift) have no direction and are part of no triplet; padding edges neither.
    The order does not depend on threads or device. On CUDA one synchronisation finds the number of triplets.

    Args:
        nb: full graph; an edge that is absent in one direction is just not used in that direction.
        max_triplets: room for this many triplets: the result has exactly this size, padded behind ``ptr[-1]``.

    Returns:
        Triplets.

    Raises:
        ValueError: a graph of the wrong shapes, dtypes or devices; more triplets than `max_triplets`.
    """
    if max_triplets is not None and max_triplets < 0:
        raise ValueError(f"max_triplets must not be negative, got {max_triplets}")
    if by_reference():
        return reference(nb, max_triplets=max_triplets)
    room = -1 if max_triplets is None else max_triplets
    return Triplets(*torch.ops.symkern.triplets.default(nb.edge_index, nb.cell_shifts, nb.row_ptr, room))


def reference(nb: Neighbors, *, max_triplets: int | None = None) -> Triplets:
    """The same from all pairs of edges, in torch operations; for tests, not for large graphs."""
    real = int(nb.row_ptr[-1])
    sender, receiver, shifts = nb.senders[:real], nb.receivers[:real], nb.shifts[:real]
    meets = receiver[None, :] == sender[:, None]  # (ji, kj)
    back = (sender[None, :] == receiver[:, None]) & (shifts[None, :] + shifts[:, None] == 0).all(-1)
    loop = (sender == receiver) & (shifts == 0).all(-1)
    ji, kj = (meets & ~back & ~loop[None, :] & ~loop[:, None]).nonzero(as_tuple=True)
    counts = torch.bincount(ji, minlength=nb.num_edges)
    index = torch.stack([kj, ji])
    if max_triplets is not None:
        index = torch.nn.functional.pad(index, (0, max_triplets - len(ji)))
    return Triplets(index, torch.cat([counts.new_zeros(1), counts.cumsum(0)]))


@fake("triplets")
def _(edge_index: Tensor, shifts: Tensor | None, row_ptr: Tensor, max_triplets: int) -> tuple[Tensor, Tensor]:
    size = max_triplets if max_triplets >= 0 else torch.library.get_ctx().new_dynamic_size()
    return edge_index.new_empty((2, size)), edge_index.new_empty(edge_index.shape[1] + 1)
