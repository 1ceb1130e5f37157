"""How each peer is called. Every form is one the peer documents; README.md says why it is the fair one.

Preparation that a peer allows (index tensors, reusable buffers, objects) is done once, outside the timing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import symkern as sk

from .systems import System

OURS = "symkern"
# (receiver, sender, shift) of each edge, as three tensors
Edges = tuple[Tensor, Tensor, Tensor | None]


@dataclass(frozen=True)
class Entry:
    """One contestant.

    Attributes:
        target: how many times faster symkern has to be; None where nothing was promised.
        limit: seconds that this contestant itself may take, where that was promised.
        edges: turns the result into edges, for the check before timing.
    """

    who: str
    form: str
    call: Callable[[], Any]
    dtype: str = "float32"
    output: str = "fresh"
    target: float | None = None
    limit: float | None = None
    edges: Callable[[Any], Edges] | None = None

    @property
    def name(self) -> str:
        return f"{self.who}: {self.form}, {self.dtype}"


def missing(package: str) -> str | None:
    """Why a peer cannot take part, or None."""
    try:
        importlib.import_module(package)
    except Exception as error:  # a broken peer must not stop the others
        return f"{package} does not import ({error}); install it: pip install -r requirements/bench.txt"
    return None


def symkern(system: System, dtype: torch.dtype = torch.float32) -> Entry:
    positions, ptr = system.positions.to(dtype), None if len(system.ptr) == 2 else system.ptr
    cell = None if system.cell is None else system.cell.to(dtype)
    return Entry(
        OURS,
        "edge list, sorted" + (", shifts" if cell is not None else ""),
        lambda: sk.neighbor_list(positions, system.cutoff, ptr=ptr, cell=cell),
        str(dtype).removeprefix("torch."),
        edges=lambda nb: (nb.receivers, nb.senders, nb.cell_shifts),
    )


def vesin(system: System, threads: int, *, ordered: bool, target: float | None) -> Entry:
    """The calculator object is kept, as in MD, so its buffers are reused; `copy=True` gives arrays the caller owns."""
    from vesin import NeighborList

    assert system.cell is not None
    calculator = NeighborList(cutoff=system.cutoff, full_list=True, sorted=ordered, n_threads=threads)
    points, box = system.positions.double().numpy(), system.cell.double().numpy()
    return Entry(
        "vesin",
        "ijS, sorted" if ordered else "ijS, unsorted",
        lambda: calculator.compute(points, box, True, "ijS"),
        "float64",
        target=target,
        edges=lambda r: tuple(torch.from_numpy(a.astype("int64")) for a in r),  # type: ignore[arg-type,return-value]
    )


def nvalchemi(system: System, *, matrix: bool, width: int | None, target: float | None) -> Entry:
    """As it comes (width None), or prepared once with the tightest row width, which only the answer tells."""
    import warp

    warp.config.quiet = True
    from nvalchemiops.torch.neighbors import neighbor_list, prepare_neighbor_list

    positions = system.positions
    setting: dict[str, Any] = {"return_neighbor_list": not matrix}
    if system.cell is not None:
        setting |= {"cell": system.cell, "pbc": torch.tensor([True] * 3), "method": "cell_list"}
    else:
        index = torch.repeat_interleave(torch.arange(len(system.ptr) - 1), system.ptr.diff())
        setting |= {"batch_idx": index.int(), "batch_ptr": system.ptr.int(), "method": "batch_naive"}
    form = "matrix" if matrix else "edge list"
    if system.cell is not None:
        form += ", shifts"
    edges = _matrix_edges if matrix else _coo_edges
    if width is None:
        return Entry(
            "nvalchemi",
            form,
            lambda: neighbor_list(positions, system.cutoff, **setting),
            target=target,
            edges=edges,
        )
    state = prepare_neighbor_list(positions, system.cutoff, max_neighbors=width, **setting)
    return Entry(
        "nvalchemi",
        f"{form}, prepared, width {width}",
        lambda: neighbor_list(positions, cell=system.cell, state=state),
        output="reused" if matrix else "fresh",
        target=target,
        edges=edges,
    )


def _coo_edges(result: tuple[Tensor, ...]) -> Edges:
    receiver, sender = result[0].long()
    return receiver, sender, result[2] if len(result) > 2 else None


def _matrix_edges(result: tuple[Tensor, ...]) -> Edges:
    matrix, count = result[:2]
    used = torch.arange(matrix.shape[1]) < count[:, None]
    return used.nonzero()[:, 0], matrix[used].long(), result[2][used] if len(result) > 2 else None


def dense(system: System) -> Entry:
    """All pairs in torch, possible where every molecule has the same size."""
    size = int(system.ptr[1])
    count = len(system.ptr) - 1
    positions = system.positions.reshape(count, size, 3)
    others = ~torch.eye(size, dtype=torch.bool, device=positions.device)
    limit = system.cutoff**2

    def call() -> Tensor:
        square = (positions[:, :, None] - positions[:, None]).square().sum(-1)
        structure, receiver, sender = ((square < limit) & others).nonzero(as_tuple=True)
        start = structure * size
        return torch.stack([start + sender, start + receiver])

    return Entry("torch", "all pairs, edge list", call, edges=lambda e: (e[1], e[0], None))


def ase(system: System) -> Entry:
    from ase import Atoms
    from ase.neighborlist import neighbor_list

    assert system.cell is not None
    atoms = Atoms(numbers=[1] * system.atoms, positions=system.positions.numpy(), cell=system.cell.numpy(), pbc=True)
    return Entry(
        "ase",
        "ijS",
        lambda: neighbor_list("ijS", atoms, system.cutoff),
        "float64",
        edges=lambda r: tuple(torch.from_numpy(a) for a in r),  # type: ignore[arg-type,return-value]
    )


def periodic(system: System, threads: int) -> list[Entry]:
    """Everyone on one large periodic system; symkern first."""
    entries = [symkern(system), symkern(system, torch.float64)]
    if missing("vesin") is None:
        entries.append(vesin(system, threads, ordered=False, target=4))
        entries.append(vesin(system, threads, ordered=True, target=8))
    if missing("nvalchemiops.torch.neighbors") is None:
        width = int(system.edges().row_ptr.diff().max())
        entries.append(nvalchemi(system, matrix=False, width=None, target=8))
        entries.append(nvalchemi(system, matrix=False, width=width, target=8))
    return entries


def molecules(system: System, threads: int) -> list[Entry]:
    """Everyone on a batch of equal molecules; symkern first. A molecule's size bounds the width of a row."""
    entries = [symkern(system)]
    if missing("nvalchemiops.torch.neighbors") is None:
        width = int(system.ptr[1]) - 1
        for matrix, target in ((False, 15), (True, 5)):
            entries.append(nvalchemi(system, matrix=matrix, width=None, target=target))
            entries.append(nvalchemi(system, matrix=matrix, width=width, target=target))
    entries.append(dense(system))
    return entries


def check(entries: list[Entry], system: System) -> None:
    """Every contestant finds the edges of the first, as sets with shifts.

    Peers in float32 may differ where a distance is within rounding of the cutoff; such pairs are left out for them.
    """
    expected = _keys(entries[0], system)
    for entry in entries[1:]:
        if entry.edges is None:
            continue
        found = _keys(entry, system)
        if len(found) == len(expected) and bool((found == expected).all()):
            continue
        different = _difference(found, expected)
        slack = 1e-4 if entry.dtype == "float32" else 1e-9
        far = [key for key in different.tolist() if abs(_distance(key, system) - system.cutoff) > slack]
        assert not far, f"{entry.name} and {entries[0].name} differ in {len(far)} edges on {system.name}"


def _keys(entry: Entry, system: System) -> Tensor:
    assert entry.edges is not None
    receiver, sender, shift = entry.edges(entry.call())
    key = receiver.long() * system.atoms + sender.long()
    for axis in range(3):
        key = key * 32 + (shift[:, axis].long() + 16 if shift is not None else 16)
    return key.sort().values


def _difference(a: Tensor, b: Tensor) -> Tensor:
    values, counts = torch.cat([a, b]).unique(return_counts=True)
    return values[counts == 1]


def _distance(key: int, system: System) -> float:
    shift = []
    for _ in range(3):
        key, digit = divmod(key, 32)
        shift.insert(0, digit - 16)
    receiver, sender = divmod(key, system.atoms)
    r = system.positions.double()
    vector = r[sender] - r[receiver]
    if system.cell is not None:
        vector = vector + torch.tensor(shift, dtype=torch.float64) @ system.cell.double()
    return float(vector.norm())


def installed() -> dict[str, str | None]:
    """Import name of each peer, and why it is missing."""
    names = ("vesin", "nvalchemiops.torch.neighbors", "ase", "pymsym", "pymatgen.symmetry.analyzer")
    names += ("torch_geometric.nn.models.schnet",)
    return {name: missing(name) for name in names}
