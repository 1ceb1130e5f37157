"""All pairs of atoms within a cutoff."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from symkern import _library as _library
from symkern._autograd import fake
from symkern._check import check_tensor
from symkern._reference import by_reference
from symkern.neighbors import Neighbors, _checked_ptr

# pbc in every direction, as one bit per lattice vector
_ALL = 7


def neighbor_list(
    positions: Tensor,
    cutoff: float,
    *,
    batch: Tensor | None = None,
    ptr: Tensor | None = None,
    cell: Tensor | None = None,
    pbc: Tensor | Sequence[bool] | bool | None = None,
    full: bool = True,
    self_loops: bool = False,
    max_edges: int | None = None,
) -> Neighbors:
    """All pairs with |r_j - r_i + shift @ cell| < cutoff, exact and complete, sorted by (receiver, sender, shift).

    Small molecules and large systems take different algorithms, chosen from the sizes; the result does not depend on
    the algorithm, the number of threads, the device or the precision's rounding: pairs within rounding of the cutoff
    are decided in fp64 from the given positions. There is no cap on the number of neighbors. Gradients do not flow
    through the list: take them through `edge_vectors`.

    Args:
        positions: (N, 3) float32 or float64, Å. Atoms may lie outside the cell.
        cutoff: Å, positive and finite.
        batch: (N,) int64 structure of each atom, sorted (as in PyG). Pairs never cross structures.
        ptr: (B + 1,) int64 starts of the structures, instead of `batch`.
        cell: (3, 3) for all structures or (B, 3, 3), rows are lattice vectors, Å, dtype of `positions`. Any cell works:
            triclinic, left-handed, smaller than the cutoff.
        pbc: periodic directions: one bool, three, or a (3,) or (B, 3) bool tensor. True everywhere if a cell is given.
        full: both (i, j) and (j, i). Otherwise each pair once: the edges whose sender has the higher index, and of an
            atom's own images those with the lexicographically positive shift.
        self_loops: also the pairs of an atom with itself at zero shift. (Its periodic images always count.)
        max_edges: room for this many edges: the result has exactly this size, padded behind ``row_ptr[-1]`` with edges
            from atom 0 to atom 0 (see ``Neighbors.edge_mask``). Makes shapes static, and saves the CUDA version its
            only synchronisation.

    Returns:
        Neighbors. ``shifts`` are int32 in units of the lattice vectors.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: wrong shapes, dtypes or devices; positions that are not finite; cutoff <= 0; a batch that is
            negative or not sorted; a ptr that does not run from 0 to N; a singular cell along periodic directions; more
            edges than `max_edges` (on CUDA, where such a call does not synchronise, the list is then empty and the next
            call without `max_edges` raises); atoms more than 1e6 cells away from the cell.
    """
    check_tensor("positions", positions, hint="; for NumPy and ASE use symkern.host.neighbor_list")
    for name, value in (("batch", batch), ("ptr", ptr), ("cell", cell)):
        if value is not None:
            check_tensor(name, value)
    if max_edges is not None and max_edges < 0:
        raise ValueError(f"max_edges must not be negative, got {max_edges}")
    mask = _ALL
    if pbc is not None and not isinstance(pbc, Tensor):
        mask = _pbc_mask(pbc)
        pbc = None
        if cell is None and mask != 0:
            raise ValueError("pbc needs a cell")
    if by_reference():
        x, starts = positions.detach(), _checked_ptr(ptr, batch, len(positions), positions)
        flags = torch.tensor([bool(mask >> k & 1) for k in range(3)]) if pbc is None else pbc
        found = reference(x, cutoff, ptr=starts, cell=cell, pbc=flags, full=full, self_loops=self_loops)
        return _padded(found, float(cutoff), full, self_loops, max_edges)
    edge_index, shifts, row_ptr, starts = torch.ops.symkern.neighbor_list.default(
        positions,
        float(cutoff),
        batch,
        ptr,
        cell,
        pbc,
        mask,
        full,
        self_loops,
        -1 if max_edges is None else int(max_edges),
    )
    return Neighbors(
        edge_index,
        row_ptr,
        starts,
        None if cell is None else shifts,
        cutoff=float(cutoff),
        full=full,
        self_loops=self_loops,
    )


def _pbc_mask(pbc: Sequence[bool] | bool) -> int:
    flags = [pbc] * 3 if isinstance(pbc, (bool, int)) else list(pbc)
    if len(flags) != 3 or not all(flag in (False, True) for flag in flags):
        raise ValueError(f"pbc must be one bool, three bools, or a (3,) or (B, 3) bool tensor, got {pbc!r}")
    return sum(1 << k for k, flag in enumerate(flags) if flag)


def sort_batch(batch: Tensor) -> tuple[Tensor, Tensor]:
    """Order that groups the atoms of each structure, for inputs whose `batch` is not sorted.

    ``order, batch = sort_batch(batch)``; then use ``positions[order]`` and the returned, renumbered `batch`.

    Args:
        batch: (N,) int64, any labels.

    Returns:
        order: (N,) int64, stable within a structure; batch: (N,) int64, sorted, numbered 0, 1, ... without gaps.

    Raises:
        ValueError: `batch` is not a one-dimensional int64 tensor.
    """
    if batch.dim() != 1 or batch.dtype != torch.int64:
        raise ValueError(f"batch must be int64 of shape (N,), got {batch.dtype} of shape {tuple(batch.shape)}")
    labels, order = torch.sort(batch, stable=True)
    return order, torch.unique_consecutive(labels, return_inverse=True)[1]


def reference(
    positions: Tensor,
    cutoff: float,
    *,
    ptr: Tensor,
    cell: Tensor | None = None,
    pbc: Tensor | None = None,
    full: bool = True,
    self_loops: bool = False,
) -> Neighbors:
    """The same from all pairs and all images in pure torch and fp64; for tests, not for large systems."""
    device = positions.device
    edges, shifts = [], []
    for b in range(len(ptr) - 1):
        r = positions[ptr[b] : ptr[b + 1]].double()
        if cell is None or not len(r):
            grid = torch.zeros((1, 3), dtype=torch.int64, device=device)
            offsets = torch.zeros((1, 3), dtype=torch.float64, device=device)
        else:
            rows = (cell if cell.dim() == 2 else cell[b]).double()
            periodic = torch.ones(3, dtype=torch.bool) if pbc is None else (pbc if pbc.dim() == 1 else pbc[b]).cpu()
            reach = _image_reach(r, rows, periodic, cutoff)
            grid = torch.cartesian_prod(*(torch.arange(-n, n + 1) for n in reach)).reshape(-1, 3).to(device)
            offsets = grid.double() @ torch.where(periodic[:, None].to(device), rows, 0)
        d = (r[None, :, None] - r[:, None, None] + offsets).norm(dim=-1)  # (receiver, sender, image)
        i, j, k = (d < cutoff).nonzero(as_tuple=True)
        s = grid[k]
        home = (s == 0).all(1)
        positive = (s[:, 0] > 0) | ((s[:, 0] == 0) & ((s[:, 1] > 0) | ((s[:, 1] == 0) & (s[:, 2] > 0))))
        keep = torch.ones_like(home) if full else (j > i) | ((j == i) & positive)
        same = (i == j) & home
        keep = keep | same if self_loops else keep & ~same
        edges.append(torch.stack([j, i])[:, keep] + ptr[b])
        shifts.append(s[keep].int())
    index = torch.cat(edges, 1) if edges else torch.zeros((2, 0), dtype=torch.int64, device=device)
    s = torch.cat(shifts) if shifts else torch.zeros((0, 3), dtype=torch.int32, device=device)
    return Neighbors.from_edge_index(index, len(positions), None if cell is None else s, ptr)


def _padded(nb: Neighbors, cutoff: float, full: bool, self_loops: bool, max_edges: int | None) -> Neighbors:
    """The reference's list with what `neighbor_list` says about it, in `max_edges` columns."""
    spare = 0 if max_edges is None else max_edges - nb.num_edges
    if spare < 0:
        raise ValueError(f"max_edges must be at least the number of edges, {nb.num_edges}, got {max_edges}")
    index = torch.nn.functional.pad(nb.edge_index, (0, spare))
    shifts = None if nb.cell_shifts is None else torch.nn.functional.pad(nb.cell_shifts, (0, 0, 0, spare))
    return Neighbors(index, nb.row_ptr, nb.ptr, shifts, cutoff=cutoff, full=full, self_loops=self_loops)


def _image_reach(r: Tensor, rows: Tensor, periodic: Tensor, cutoff: float) -> list[int]:
    """Images in each direction that certainly cover the cutoff, whatever the cell."""
    used = rows[periodic.to(rows.device)]
    if not len(used):
        return [0, 0, 0]
    inverse = torch.linalg.pinv(used)  # (3, periodic directions)
    fraction = r @ inverse
    spread = fraction.max(0).values - fraction.min(0).values
    reach = iter((spread + cutoff * inverse.norm(dim=0) + 1).ceil().long().tolist())
    return [next(reach) if flag else 0 for flag in periodic]


@fake("neighbor_list")
def _(
    positions: Tensor,
    cutoff: float,
    batch: Tensor | None,
    ptr: Tensor | None,
    cell: Tensor | None,
    pbc: Tensor | None,
    pbc_mask: int,
    full: bool,
    self_loops: bool,
    max_edges: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    context = torch.library.get_ctx()
    edges = max_edges if max_edges >= 0 else context.new_dynamic_size()
    starts: int | torch.SymInt = 2
    if ptr is not None:
        starts = ptr.shape[0]
    elif cell is not None and cell.dim() == 3:
        starts = cell.shape[0] + 1
    elif pbc is not None and pbc.dim() == 2:
        starts = pbc.shape[0] + 1
    elif batch is not None:
        starts = context.new_dynamic_size()
    long = torch.int64
    return (
        positions.new_empty((2, edges), dtype=long),
        positions.new_empty((edges if cell is not None else 0, 3), dtype=torch.int32),
        positions.new_empty(positions.shape[0] + 1, dtype=long),
        positions.new_empty(starts, dtype=long),
    )
