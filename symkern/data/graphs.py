"""Graphs of many structures, stored so that those of any batch are gathered without searching or sorting.

Everything in them is relative: the sender to the receiver, the reverse edge to the edge itself. So they hold wherever
the atoms and edges of a structure end up in a batch, and 32 bits suffice however large the whole set is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from symkern.neighbors import Neighbors
from symkern.ops.neighbor_list import neighbor_list

# atoms searched at once: bounds the memory that the 64-bit lists take on the way
_CHUNK = 32768


@dataclass(frozen=True, eq=False)
class Graphs:
    """Full neighbor lists of B structures with N atoms and E edges.

    Attributes:
        degrees: (N,) int32 edges that each atom receives.
        edge_ptr: (B + 1,) int64; structure b owns the edges edge_ptr[b] .. edge_ptr[b + 1].
        relative: (2 or 3, E) int32: sender - receiver, reverse - edge, sender_order - edge. The last row is left out
            where it repeats the one before, as it does unless two atoms are joined by several periodic images.
        shifts: (E, 3) int32, or None where there is no cell.
    """

    degrees: NDArray[np.int32]
    edge_ptr: NDArray[np.int64]
    relative: NDArray[np.int32]
    shifts: NDArray[np.int32] | None

    def gather(
        self, index: NDArray[np.int64], ptr: Tensor, atoms: NDArray[np.int64], batch: Tensor, cutoff: float | None
    ) -> Neighbors:
        """The graph of the structures at `index`, equal to what `neighbor_list` finds for them.

        Args:
            index: (b,) structures.
            ptr: (b + 1,) starts of their atoms in the batch.
            atoms: (n,) their atoms in the whole set.
            batch: (n,) structure of each atom in the batch.
            cutoff: Å that the graphs were built for.
        """
        starts, ends = self.edge_ptr[index].tolist(), self.edge_ptr[index + 1].tolist()
        degrees = self.degrees[atoms]
        row_ptr = np.zeros(len(degrees) + 1, dtype=np.int64)
        np.cumsum(degrees, out=row_ptr[1:])
        # slices are copied as blocks, faster than gathering single edges
        relative = _joined(self.relative, starts, ends, axis=1)
        edges = np.arange(relative.shape[1])
        edge_index = np.empty((2, len(edges)), dtype=np.int64)
        edge_index[1] = np.repeat(np.arange(len(degrees)), degrees)
        np.add(edge_index[1], relative[0], out=edge_index[0])
        rows = torch.from_numpy(row_ptr)
        reverse = torch.from_numpy(edges + relative[1])
        sender_order = reverse if len(relative) == 2 else torch.from_numpy(edges + relative[2])
        shifts = None if self.shifts is None else torch.from_numpy(_joined(self.shifts, starts, ends, axis=0))
        nb = Neighbors(torch.from_numpy(edge_index), rows, ptr, shifts, cutoff=cutoff)
        # as many edges leave an atom as arrive, so sender_ptr is row_ptr
        nb.__dict__.update(batch=batch, reverse=reverse, _by_sender=(sender_order, rows))
        return nb


def _joined(values: NDArray[np.int32], starts: list[int], ends: list[int], axis: int) -> NDArray[np.int32]:
    if not starts:
        return values[:, :0] if axis else values[:0]
    if axis:
        return np.concatenate([values[:, start:end] for start, end in zip(starts, ends, strict=True)], 1)
    return np.concatenate([values[start:end] for start, end in zip(starts, ends, strict=True)])


def build(
    pos: Tensor,
    cutoff: float,
    ptr: Tensor,
    cell: Tensor | None,
    pbc: Tensor | None,
    progress: Callable[[int, int], object] | None = None,
) -> Graphs:
    """The full neighbor lists of all structures; raises as `neighbor_list` does.

    Args:
        pos, cutoff, ptr, cell, pbc: as `neighbor_list` takes them.
        progress: called with the number of structures done and in all.
    """
    count = len(ptr) - 1
    # the empty part gives the arrays their types where there is no structure
    parts = [_compact(neighbor_list(pos[:0], cutoff, ptr=ptr[:1], cell=_rows(cell, 0, 0), pbc=_rows(pbc, 0, 0)))]
    for first, last in _chunks(ptr):
        at, to = int(ptr[first]), int(ptr[last])
        found = neighbor_list(
            pos[at:to],
            cutoff,
            ptr=ptr[first : last + 1] - at,
            cell=_rows(cell, first, last),
            pbc=_rows(pbc, first, last),
        )
        parts.append(_compact(found))
        if progress is not None:
            progress(last, count)
    degrees = np.concatenate([part.degrees for part in parts])
    ends = np.concatenate([[0], np.cumsum(degrees, dtype=np.int64)])
    deepest = max(len(part.relative) for part in parts)
    return Graphs(
        degrees,
        ends[ptr.numpy()],
        # a row left out repeats the one before
        np.concatenate([part.relative[[0, 1, -1][:deepest]] for part in parts], 1),
        None if cell is None else np.concatenate([_present(part.shifts) for part in parts]),
    )


def _compact(nb: Neighbors) -> Graphs:
    edges = torch.arange(nb.num_edges)
    reverse, order = nb.reverse, nb.sender_order
    if nb.num_edges and int(reverse.min()) < 0:
        raise RuntimeError("neighbor_list returned an edge without its reverse; please report this")
    rows = [nb.senders - nb.receivers, reverse - edges] + ([] if torch.equal(order, reverse) else [order - edges])
    return Graphs(
        nb.row_ptr.diff().int().numpy(),
        nb.row_ptr[nb.ptr].numpy(),
        torch.stack(rows).int().numpy(),
        None if nb.cell_shifts is None else nb.cell_shifts.numpy(),
    )


def _chunks(ptr: Tensor) -> Iterator[tuple[int, int]]:
    """Runs of structures with about `_CHUNK` atoms, at least one structure each."""
    starts, first = ptr.numpy(), 0
    while first < len(starts) - 1:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + _CHUNK, side="right")) - 1)
        yield first, last
        first = last


def _rows(value: Tensor | None, first: int, last: int) -> Tensor | None:
    return None if value is None else value[first:last]


def _present(value: NDArray[Any] | None) -> NDArray[Any]:
    assert value is not None
    return value
