"""NumPy in, NumPy out: the same kernels without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

from symkern import __version__
from symkern.elements import POLICIES, Element, elements_of, group_label, site_symmetry_of

try:
    from symkern import _host
except ImportError as error:
    raise ImportError(
        f"symkern: expected the compiled module symkern._host for this Python, but: {error}; "
        "build it: make build (in a source tree), or pip install --no-build-isolation --force-reinstall --no-deps ."
    ) from error


@dataclass(frozen=True, eq=False, repr=False)
class HostNeighbors:
    """Edges in lexicographic order (receiver, sender, shift), as NumPy arrays.

    Attributes:
        edge_index: (2, E) int64: [0] = sender j, [1] = receiver i (ASE's ``i`` is the receiver).
        shifts: (E, 3) int32 in units of the lattice vectors (ASE's ``S``); zeros without a cell.
        row_ptr: (N + 1,) int64; atom i receives the edges row_ptr[i] .. row_ptr[i + 1].
        vectors: (E, 3) float64, r_j - r_i + shift @ cell, Å (ASE's ``D``).
    """

    edge_index: NDArray[np.int64]
    shifts: NDArray[np.int32]
    row_ptr: NDArray[np.int64]
    _positions: NDArray[np.float64]
    _cell: NDArray[np.float64] | None
    _ptr: NDArray[np.int64]

    def __repr__(self) -> str:
        return f"HostNeighbors({len(self.row_ptr) - 1} atoms, {self.edge_index.shape[1]} edges)"

    @property
    def vectors(self) -> NDArray[np.float64]:
        sender, receiver = self.edge_index
        vectors: NDArray[np.float64] = self._positions[sender] - self._positions[receiver]
        if self._cell is not None:
            if self._cell.ndim == 2:
                vectors = vectors + self.shifts @ self._cell
            else:
                structure = np.searchsorted(self._ptr, receiver, side="right") - 1
                vectors = vectors + np.einsum("ek,ekc->ec", self.shifts, self._cell[structure])
        return vectors

    @property
    def distances(self) -> NDArray[np.float64]:
        """(E,) float64, Å (ASE's ``d``)."""
        return np.asarray(np.linalg.norm(self.vectors, axis=1), dtype=np.float64)


def neighbor_list(
    positions: ArrayLike | Any,
    cutoff: float,
    *,
    batch: ArrayLike | None = None,
    ptr: ArrayLike | None = None,
    cell: ArrayLike | None = None,
    pbc: ArrayLike | bool | None = None,
    full: bool = True,
    self_loops: bool = False,
    threads: int = 1,
) -> HostNeighbors:
    """All pairs with |r_j - r_i + shift @ cell| < cutoff, exact and complete; see `symkern.neighbor_list`.

    Args:
        positions: (N, 3), Å; or an `ase.Atoms`, whose cell and pbc are used.
        cutoff: Å, positive and finite.
        batch: (N,) sorted structure of each atom.
        ptr: (B + 1,) starts of the structures, instead of `batch`.
        cell: (3, 3) or (B, 3, 3), rows are lattice vectors, Å.
        pbc: one bool, (3,) or (B, 3) bools; True everywhere if a cell is given.
        full: both directions of each pair, or each pair once.
        self_loops: also each atom with itself at zero shift.
        threads: how many threads may work; the result does not depend on it.

    Raises:
        ValueError: bad input; the message names the argument, what it got and what it expected.
    """
    if hasattr(positions, "get_positions") and hasattr(positions, "get_pbc"):
        atoms: Any = positions
        if cell is not None or pbc is not None or batch is not None or ptr is not None:
            raise ValueError("positions is an Atoms object, which brings its own cell and pbc: do not give them too")
        positions = atoms.get_positions()
        if bool(np.any(atoms.get_pbc())):
            cell, pbc = np.asarray(atoms.get_cell()), atoms.get_pbc()
    r = _floats(positions, "positions")
    if r.ndim != 2 or r.shape[1] != 3:
        raise ValueError(f"positions must have shape (N, 3), got {r.shape}")
    cutoff = float(cutoff)
    if not (0 < cutoff < float("inf")):
        raise ValueError(f"cutoff must be positive and finite, got {cutoff}")
    if not 1 <= threads <= 1024:
        raise ValueError(f"threads must be 1 .. 1024, got {threads}")
    rows = None if cell is None else _floats(cell, "cell")
    if rows is not None and (rows.ndim not in (2, 3) or rows.shape[-2:] != (3, 3)):
        raise ValueError(f"cell must have shape (3, 3) or (B, 3, 3), got {rows.shape}")
    starts = _starts(len(r), batch, ptr, None if rows is None or rows.ndim == 2 else len(rows))
    structures = len(starts) - 1
    if rows is not None and rows.ndim == 3 and len(rows) != structures:
        raise ValueError(f"cell must have shape (3, 3) or (B, 3, 3) with B = {structures}, got {rows.shape}")
    periodic = None
    if pbc is not None:
        periodic = np.asarray(pbc)
        if periodic.dtype.kind == "i" and np.isin(periodic, (0, 1)).all():
            periodic = periodic.astype(np.bool_)
        if periodic.dtype != np.bool_:
            raise ValueError(f"pbc must be bool, got {periodic.dtype}")
        if periodic.ndim == 0:
            periodic = np.repeat(periodic, 3)
        if periodic.shape not in ((3,), (structures, 3)):
            raise ValueError(f"pbc must be one bool, (3,) or (B, 3) with B = {structures}, got {periodic.shape}")
        if rows is None:
            if periodic.any():
                raise ValueError("pbc needs a cell")
            periodic = None
        else:
            periodic = np.ascontiguousarray(periodic)
            assert rows is not None
            rows[~np.broadcast_to(periodic, rows.shape[:-1])] = 0  # these rows have no meaning, and may hold NaN
    edge_index, shifts, row_ptr = _host.neighbor_list(r, cutoff, starts, rows, periodic, full, self_loops, int(threads))
    if rows is None:
        shifts = np.zeros((edge_index.shape[1], 3), dtype=np.int32)
    return HostNeighbors(edge_index, shifts, row_ptr, r, rows, starts)


@dataclass(frozen=True, eq=False, repr=False)
class PointGroup:
    """The symmetry of one molecule with N atoms and G operations, as NumPy arrays; see `symkern.Stabilizers`.

    Attributes:
        label: Schoenflies symbol: "C1", "C2v", "D6h", "Td", "Cinfv", "Dinfh", "Kh", ...
        code: the same as an integer.
        order: number of operations; 0 for continuous groups (linear molecules, single atoms, no atoms).
        operations: (G, 3, 3) act on column vectors about the centroid; identity first.
        permutations: (G, N) int64, where each operation sends each atom.
        residuals: (G,) max_i |R (x_i - c) - (x_p(i) - c)|, Å.
        centroid: (3,) unweighted mean of the positions, Å.
        orbits: (N,) int64 smallest index among the atoms that operations send each atom to.
        rank: of the centered positions: 0 point, 1 line, 2 plane, 3.
        axis: (3,) unit vector along linear molecules, zero for others.
        closed: whether the operations within the tolerance formed a group.
        margin: Å, how far the tolerance is from the nearest value that decided something.
        ambiguous: two atoms of one species are closer than twice the tolerance.
        tolerance: Å, as given.
    """

    label: str
    code: int
    order: int
    operations: NDArray[np.float64]
    permutations: NDArray[np.int64]
    residuals: NDArray[np.float64]
    centroid: NDArray[np.float64]
    orbits: NDArray[np.int64]
    rank: int
    axis: NDArray[np.float64]
    closed: bool
    margin: float
    ambiguous: bool
    tolerance: float

    def __repr__(self) -> str:
        return f"PointGroup({self.label}, {len(self.orbits)} atoms, {len(self.operations)} operations)"

    @cached_property
    def elements(self) -> list[Element]:
        """The symmetry element of each operation, in their order."""
        return elements_of(self.operations, self.permutations, self.code)

    @cached_property
    def site_symmetry(self) -> list[tuple[int, str]]:
        """(smallest atom, Schoenflies symbol of its site) for each orbit."""
        return site_symmetry_of(self.elements, self.permutations, self.orbits, self.code)


def point_group(
    positions: ArrayLike | Any,
    numbers: ArrayLike | None = None,
    tolerance: float = 0.01,
    *,
    policy: str = "closed",
    samples: int = 0,
) -> PointGroup:
    """The point group of a molecule, with its operations; see `symkern.stabilizers` for the definition.

    Args:
        positions: (N, 3), Å; or an `ase.Atoms`, which brings its own numbers (periodic images are ignored).
        numbers: (N,) integers of at least 1: atomic numbers or other labels.
        tolerance: Å, positive: how far atoms may be from where an operation sends them.
        policy: "closed", "raw" or "generate": what to return where these operations form no group.
        samples: for linear molecules, so many rotations about the axis and mirror planes through it.

    Raises:
        ValueError: bad input; the message names the argument, what it got and what it expected.
    """
    r, z = _molecule(positions, numbers)
    found = _stabilizers(r, z, np.array([0, len(r)], dtype=np.int64), tolerance, policy, samples, 1)
    return _point_group(found, 0, 0, len(r), float(tolerance))


def point_groups(
    positions: ArrayLike | Sequence[Any],
    numbers: ArrayLike | None = None,
    *,
    batch: ArrayLike | None = None,
    ptr: ArrayLike | None = None,
    tolerance: float = 0.01,
    policy: str = "closed",
    samples: int = 0,
    threads: int = 1,
) -> list[PointGroup]:
    """`point_group` of each molecule of a batch; permutations and orbits count from the molecule's first atom.

    Args:
        positions: (N, 3), Å; or a sequence of `ase.Atoms`, which bring their own numbers and need no `batch` or `ptr`.
        numbers: (N,) integers of at least 1.
        batch: (N,) sorted molecule of each atom.
        ptr: (B + 1,) starts of the molecules, instead of `batch`.
        tolerance, policy, samples: as for `point_group`.
        threads: how many threads may work; the result does not depend on it.

    Raises:
        ValueError: bad input; the message names the argument, what it got and what it expected.
    """
    if not 1 <= threads <= 1024:
        raise ValueError(f"threads must be 1 .. 1024, got {threads}")
    frames: list[Any] = list(positions) if isinstance(positions, (list, tuple)) else []
    if frames and all(_is_atoms(frame) for frame in frames):
        if numbers is not None or batch is not None or ptr is not None:
            raise ValueError(
                "positions are Atoms objects, which bring their own numbers: do not give numbers, batch or ptr too"
            )
        ptr = np.cumsum([0, *map(len, frames)])
        positions = np.concatenate([frame.get_positions() for frame in frames])
        numbers = np.concatenate([frame.get_atomic_numbers() for frame in frames])
    r, z = _molecule(positions, numbers)
    starts = _starts(len(r), batch, ptr, None)
    found = _stabilizers(r, z, starts, tolerance, policy, samples, threads)
    bounds = starts.tolist()
    return [_point_group(found, b, bounds[b], bounds[b + 1], float(tolerance)) for b in range(len(bounds) - 1)]


def _is_atoms(value: Any) -> TypeGuard[Any]:
    return hasattr(value, "get_positions") and hasattr(value, "get_atomic_numbers")


def _molecule(positions: ArrayLike | Any, numbers: ArrayLike | None) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    if _is_atoms(positions):
        if numbers is not None:
            hint = f"; did you mean tolerance={numbers}?" if isinstance(numbers, float) else ""
            raise ValueError(f"positions is an Atoms object, which brings its own numbers: do not give them too{hint}")
        positions, numbers = positions.get_positions(), positions.get_atomic_numbers()
    r = _floats(positions, "positions")
    if r.ndim != 2 or r.shape[1] != 3:
        raise ValueError(f"positions must have shape (N, 3), got {r.shape}")
    if numbers is None:
        raise ValueError("numbers are needed, unless positions is an ase.Atoms")
    z = np.asarray(numbers)
    if z.size == 0:
        z = z.astype(np.int64)  # an empty list is an array of floats
    if z.shape != (len(r),) or z.dtype.kind not in "iu":
        raise ValueError(f"numbers must be integers of shape ({len(r)},), got {z.dtype} of shape {z.shape}")
    return r, np.ascontiguousarray(z, dtype=np.int64)


def _stabilizers(
    r: NDArray[np.float64],
    z: NDArray[np.int64],
    starts: NDArray[np.int64],
    tolerance: float,
    policy: str,
    samples: int,
    threads: int,
) -> tuple[NDArray[Any], ...]:
    tolerance = float(tolerance)
    if not (0 < tolerance < float("inf")):
        raise ValueError(f"tolerance must be positive and finite, got {tolerance}")
    if policy not in POLICIES:
        raise ValueError(f"policy must be one of {', '.join(POLICIES)}, got {policy!r}")
    if not 0 <= samples <= 100_000:
        raise ValueError(f"samples must be 0 .. 100000, got {samples}")
    return _host.stabilizers(r, z, starts, tolerance, POLICIES.index(policy), int(samples), int(threads))


def _point_group(found: tuple[NDArray[Any], ...], b: int, begin: int, end: int, tolerance: float) -> PointGroup:
    (operations, op_ptr, permutations, perm_ptr, residuals, centroid, orbits, order, group, rank) = found[:10]
    axis, closed, margin, ambiguous = found[10:]
    first, last = int(op_ptr[b]), int(op_ptr[b + 1])
    moves = permutations[perm_ptr[first] : perm_ptr[last]].reshape(last - first, end - begin) - begin
    return PointGroup(
        label=group_label(int(group[b])),
        code=int(group[b]),
        order=int(order[b]),
        operations=operations[first:last],
        permutations=moves,
        residuals=residuals[first:last],
        centroid=centroid[b],
        orbits=orbits[begin:end] - begin,
        rank=int(rank[b]),
        axis=axis[b],
        closed=bool(closed[b]),
        margin=float(margin[b]),
        ambiguous=bool(ambiguous[b]),
        tolerance=tolerance,
    )


def build_info() -> dict[str, Any]:
    """Version, compiler, and the instruction set in use and found, of the compiled module."""
    return {**_host.build_info(), "package_version": __version__}


def _floats(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values)
    if array.dtype.kind not in "f":
        raise ValueError(f"{name} must be floating point, got {array.dtype}")
    return np.array(array, dtype=np.float64, order="C")  # a copy: results must not change with the caller's array


def _starts(atoms: int, batch: ArrayLike | None, ptr: ArrayLike | None, structures: int | None) -> NDArray[np.int64]:
    if batch is not None and ptr is not None:
        raise ValueError("batch and ptr describe the same thing: give one of them")
    if ptr is not None:
        starts = np.asarray(ptr)
        if starts.ndim != 1 or starts.dtype.kind != "i" or len(starts) < 1:
            raise ValueError(f"ptr must be integers of shape (B + 1,), got {starts.dtype} of shape {starts.shape}")
        # compared, not subtracted: differences of extreme values overflow
        if starts[0] != 0 or (starts[1:] < starts[:-1]).any() or starts[-1] != atoms:
            raise ValueError(f"ptr must rise from 0 to N = {atoms}, got {starts[:8].tolist()}")
        return np.array(starts, dtype=np.int64)
    if batch is None:
        return np.array([0, atoms], dtype=np.int64)
    labels = np.asarray(batch)
    if labels.shape != (atoms,) or labels.dtype.kind != "i":
        raise ValueError(f"batch must be integers of shape ({atoms},), got {labels.dtype} of shape {labels.shape}")
    if atoms and labels[0] < 0:
        raise ValueError(f"batch must not be negative, but batch[0] = {labels[0]}")
    if (labels[1:] < labels[:-1]).any():
        raise ValueError("batch must be sorted; numpy.argsort(batch, kind='stable') is the order that sorts it")
    count = max(structures or 0, int(labels[-1]) + 1 if atoms else 0)
    if count > 64 * atoms + 65536:  # ids rather than structure numbers; a ptr for them would only fill memory
        hint = "numpy.unique(batch, return_inverse=True)[1] renumbers it"
        raise ValueError(f"batch names structure {count - 1} of {atoms} atoms; {hint}")
    return np.searchsorted(labels, np.arange(count + 1)).astype(np.int64)
