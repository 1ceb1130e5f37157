"""The graph that ops and models work on: edges sorted by receiver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from symkern import _library as _library
from symkern._check import check_tensor
from symkern.ops.edge_order import reverse_edges, sender_order

_T = TypeVar("_T")


class _Lazy(Generic[_T]):
    """`functools.cached_property` without its lock (Python < 3.12), which torch.compile cannot trace."""

    def __init__(self, compute: Callable[[Any], _T]) -> None:
        self._compute, self.__doc__ = compute, compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, graph: Any, owner: type | None = None) -> _T:
        if graph is None:
            return self  # type: ignore[return-value]
        if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
            # computed once for all uses: what inference mode makes could not be saved for a backward pass later
            with torch.inference_mode(False):
                value = self._compute(graph)
        else:
            value = self._compute(graph)
        graph.__dict__[self._name] = value
        return value


@dataclass(eq=False, repr=False)
class Neighbors:
    """Edges in lexicographic order (receiver, sender, shift).

    Attributes:
        edge_index: (2, E) int64 in PyG order: [0] = sender j, [1] = receiver i.
        row_ptr: (N + 1,) int64; atom i receives the edges row_ptr[i] .. row_ptr[i + 1]. Edges from row_ptr[-1] on are
            padding: they point from atom 0 to atom 0 at shift 0. Ops give them zero vectors and zero gradients; what
            a model computes from a zero distance itself needs `edge_mask`.
        ptr: (B + 1,) int64; structure b owns the atoms ptr[b] .. ptr[b + 1].
        cell_shifts: (E, 3) int32 in units of the lattice vectors, or None where there is no cell.
        order: (E,) int64, for graphs made by `from_edge_index`: edge e is column order[e] of the given edge_index, so
            ``edge_attr[order]`` follows the edges.
        cutoff: Å that the list is complete for, or None where that is not known.
        full: both directions of each pair; False for half lists.
        self_loops: whether atoms are their own neighbors at zero shift, as far as is known.
    """

    edge_index: Tensor
    row_ptr: Tensor
    ptr: Tensor
    cell_shifts: Tensor | None = None
    order: Tensor | None = field(default=None, repr=False)
    cutoff: float | None = None
    full: bool = True
    self_loops: bool = False

    @property
    def num_nodes(self) -> int:
        return self.row_ptr.shape[0] - 1

    @property
    def num_edges(self) -> int:
        """Columns of edge_index, padding included."""
        return self.edge_index.shape[1]

    @property
    def num_structures(self) -> int:
        return self.ptr.shape[0] - 1

    @property
    def senders(self) -> Tensor:
        return self.edge_index[0]

    @property
    def receivers(self) -> Tensor:
        return self.edge_index[1]

    @_Lazy
    def shifts(self) -> Tensor:
        """(E, 3) int32 shift of each edge in units of the lattice vectors; zeros where there is no cell."""
        if self.cell_shifts is not None:
            return self.cell_shifts
        return self.edge_index.new_zeros((self.num_edges, 3), dtype=torch.int32)

    @property
    def edge_mask(self) -> Tensor:
        """(E,) bool: true for edges, false for padding."""
        return torch.arange(self.num_edges, device=self.row_ptr.device) < self.row_ptr[-1]

    def __repr__(self) -> str:
        shifts = "no cell" if self.cell_shifts is None else "shifts"
        return (
            f"Neighbors({self.num_nodes} atoms, {self.num_structures} structures, {self.num_edges} edges, {shifts}, "
            f"{self.edge_index.device})"
        )

    @_Lazy
    def batch(self) -> Tensor:
        """(N,) int64 structure of each atom."""
        structures = torch.arange(self.num_structures, device=self.ptr.device)
        return torch.repeat_interleave(structures, self.ptr.diff(), output_size=self.num_nodes)

    @_Lazy
    def _by_sender(self) -> tuple[Tensor, Tensor]:
        return sender_order(self.edge_index, self.row_ptr)

    @property
    def sender_order(self) -> Tensor:
        """(E,) int64: the edges in order of their sender (stable), padding last. Computed once."""
        return self._by_sender[0]

    @property
    def sender_ptr(self) -> Tensor:
        """(N + 1,) int64: atom j sends the edges sender_order[sender_ptr[j] : sender_ptr[j + 1]]."""
        return self._by_sender[1]

    @_Lazy
    def reverse(self) -> Tensor:
        """(E,) int64: index of the edge from receiver to sender with the opposite shift, -1 if there is none.

        Half lists have none. Computed once.
        """
        return reverse_edges(self.edge_index, self.cell_shifts, self.row_ptr, *self._by_sender)

    def to(self, device: torch.device | str) -> Neighbors:
        """A copy on `device`, with the lazy views that exist already."""
        return self._map(lambda x: x.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Neighbors:
        """A copy of changed tensors, with the lazy views that exist already."""

        def maybe(x: Tensor | None) -> Tensor | None:
            return None if x is None else change(x)

        tensors = change(self.edge_index), change(self.row_ptr), change(self.ptr)
        known = self.cutoff, self.full, self.self_loops
        changed = Neighbors(*tensors, maybe(self.cell_shifts), maybe(self.order), *known)
        for name in ("batch", "reverse"):
            if name in self.__dict__:
                changed.__dict__[name] = change(self.__dict__[name])
        if "_by_sender" in self.__dict__:
            changed.__dict__["_by_sender"] = tuple(change(x) for x in self._by_sender)
        return changed

    @classmethod
    def from_edge_index(
        cls,
        edge_index: Tensor,
        num_nodes: int,
        shifts: Tensor | None = None,
        ptr: Tensor | None = None,
        batch: Tensor | None = None,
    ) -> Neighbors:
        """A graph from any PyG edge_index: unsorted, asymmetric, with repeated edges.

        Reads the indices, so it synchronises on CUDA and is for code outside ``torch.compile``.

        Args:
            edge_index: (2, E) int64, [0] = sender, [1] = receiver.
            num_nodes: number of atoms N.
            shifts: (E, 3) integer shift of each edge in units of the lattice vectors.
            ptr: (B + 1,) int64 starts of the structures; one structure by default.
            batch: (N,) int64 sorted structure of each atom, instead of `ptr`.

        Raises:
            TypeError: an argument is not a tensor.
            ValueError: wrong shape or dtype, an index outside 0 .. N - 1, a shift beyond int32, a ptr that does not run
                from 0 to N, a batch that is not sorted, an edge between structures.
        """
        for name, value in (("edge_index", edge_index), ("shifts", shifts), ("ptr", ptr), ("batch", batch)):
            check_tensor(name, value, optional=name != "edge_index")
        if edge_index.dim() != 2 or edge_index.shape[0] != 2:
            raise ValueError(f"edge_index must have shape (2, E), got {tuple(edge_index.shape)}")
        if edge_index.dtype != torch.int64:
            raise ValueError(f"edge_index must be int64, got {edge_index.dtype}")
        if num_nodes < 0:
            raise ValueError(f"num_nodes must not be negative, got {num_nodes}")
        edges = edge_index.shape[1]
        if edges and (int(edge_index.min()) < 0 or int(edge_index.max()) >= num_nodes):
            raise ValueError(
                f"edge_index must lie in 0 .. {num_nodes - 1} (num_nodes = {num_nodes}), "
                f"got {int(edge_index.min())} .. {int(edge_index.max())}"
            )
        if shifts is not None:
            shifts = _checked_shifts(shifts, edge_index)
        ptr = _checked_ptr(ptr, batch, num_nodes, edge_index)
        order = _lexicographic_order(edge_index, shifts)
        sorted_index = edge_index[:, order]
        counts = torch.bincount(sorted_index[1], minlength=num_nodes)
        row_ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        graph = cls(sorted_index, row_ptr, ptr, None if shifts is None else shifts[order], order)
        if ptr.shape[0] > 2 and bool((graph.batch[sorted_index[0]] != graph.batch[sorted_index[1]]).any()):
            raise ValueError("edge_index must join atoms of one structure, but an edge crosses structures")
        return graph


def _checked_shifts(shifts: Tensor, edge_index: Tensor) -> Tensor:
    edges = edge_index.shape[1]
    if shifts.shape != (edges, 3) or shifts.is_floating_point() or shifts.is_complex():
        raise ValueError(
            f"shifts must be integers of shape ({edges}, 3), got {shifts.dtype} of shape {tuple(shifts.shape)}"
        )
    if shifts.device != edge_index.device:
        raise ValueError(f"shifts must be on {edge_index.device}, as edge_index is, got {shifts.device}")
    if edges and int(shifts.long().abs().max()) > torch.iinfo(torch.int32).max:
        raise ValueError(f"shifts must fit into int32, got magnitudes up to {int(shifts.long().abs().max())}")
    return shifts.to(torch.int32)


def _checked_ptr(ptr: Tensor | None, batch: Tensor | None, num_nodes: int, edge_index: Tensor) -> Tensor:
    if batch is not None:
        if ptr is not None:
            raise ValueError("batch and ptr describe the same thing: give one of them")
        if batch.dtype != torch.int64 or batch.shape != (num_nodes,):
            raise ValueError(f"batch must be int64 of shape ({num_nodes},), got {batch.dtype}, {tuple(batch.shape)}")
        if num_nodes and (int(batch[0]) < 0 or bool((batch[1:] < batch[:-1]).any())):
            raise ValueError("batch must be sorted and not negative; symkern.sort_batch(batch) returns the order")
        counts = torch.bincount(batch)
        return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    if ptr is None:
        return torch.tensor([0, num_nodes], device=edge_index.device)
    if ptr.dtype != torch.int64 or ptr.dim() != 1 or ptr.numel() < 1:
        raise ValueError(f"ptr must be int64 of shape (B + 1,), got {ptr.dtype} of shape {tuple(ptr.shape)}")
    if int(ptr[0]) != 0 or int(ptr[-1]) != num_nodes or bool((ptr[1:] < ptr[:-1]).any()):
        raise ValueError(f"ptr must rise from 0 to num_nodes = {num_nodes}, got {ptr.tolist()[:8]}")
    return ptr


def _lexicographic_order(edge_index: Tensor, shifts: Tensor | None) -> Tensor:
    """Permutation that sorts by (receiver, sender, shift), equal edges in the order given."""
    order = torch.arange(edge_index.shape[1], device=edge_index.device)
    columns = [edge_index[0], edge_index[1]]
    if shifts is not None:
        columns = [shifts[:, 2], shifts[:, 1], shifts[:, 0], *columns]
    for column in columns:
        order = order[torch.sort(column[order], stable=True).indices]
    return order


def check_neighbors(nb: object) -> None:
    """Raise TypeError unless `nb` is a graph."""
    if not isinstance(nb, Neighbors):
        raise TypeError(
            f"nb must be symkern.Neighbors, got {type(nb)}; for an edge_index use Neighbors.from_edge_index"
        )
