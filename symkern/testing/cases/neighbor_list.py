from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from symkern.neighbors import Neighbors
from symkern.ops import neighbor_list as module
from symkern.ops.neighbor_list import neighbor_list
from symkern.testing.case import BadInput, Builder, Case, Huge, Inputs, Invariance, Size, num_bytes
from symkern.testing.geometry import generator, random_box, random_cell, random_rotation, shuffle_within


def _structures(
    sizes: tuple[int, ...], cells: str = "none", *, cutoff: float = 3.0, density: float = 0.05, **options: Any
) -> Builder:
    """Structures of these sizes with no cell, one "shared" cell, or one cell "each"; some atoms lie outside theirs."""

    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        random = generator(seed)
        boxes = [random_box(n, random, density)[0] for n in sizes]
        positions = torch.cat(boxes) if boxes else torch.zeros((0, 3))
        inputs: Inputs = {
            "positions": positions,
            "cutoff": cutoff,
            "ptr": torch.tensor([0, *sizes]).cumsum(0),
            **options,
        }
        if cells == "shared":
            inputs["cell"] = random_cell(random)
        elif cells == "each":
            inputs["cell"] = torch.stack([random_cell(random) for _ in sizes])
            inputs["pbc"] = torch.rand((len(sizes), 3), generator=random) < 0.7
        for name in ("positions", "cell"):
            if name in inputs:
                inputs[name] = inputs[name].to(dtype)
        return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}

    return make


def _molecules(count: int, atoms: int) -> Builder:
    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        # as dense as an organic molecule with its hydrogens
        edge = (atoms / 0.1) ** (1 / 3)
        positions = edge * torch.rand((count * atoms, 3), generator=generator(seed), dtype=torch.float64)
        ptr = torch.arange(0, count * atoms + 1, atoms)
        return {"positions": positions.to(dtype).to(device), "cutoff": 5.0, "ptr": ptr.to(device)}

    return make


def _periodic(atoms: int) -> Builder:
    def make(dtype: torch.dtype, device: torch.device | str, seed: int) -> Inputs:
        positions, cell = random_box(atoms, generator(seed))
        return {"positions": positions.to(dtype).to(device), "cutoff": 6.0, "cell": cell.to(dtype).to(device)}

    return make


def _reference(positions: Tensor, cutoff: float, *, max_edges: int | None = None, **options: Any) -> Neighbors:
    batch, ptr = options.pop("batch", None), options.pop("ptr", None)
    if ptr is None:
        counts = torch.tensor([len(positions)]) if batch is None else torch.bincount(batch)
        ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(positions.device)
    nb = module.reference(positions, cutoff, ptr=ptr, **options)
    if max_edges is None:
        return nb
    spare = (0, max_edges - nb.num_edges)
    edge_index, shifts = torch.nn.functional.pad(nb.edge_index, spare), torch.nn.functional.pad(nb.shifts.T, spare).T
    return Neighbors(edge_index, nb.row_ptr, nb.ptr, shifts)


def _rotate(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    rotation = random_rotation(random).to(inputs["positions"])
    turned: Inputs = {name: inputs[name] @ rotation.T for name in ("positions", "cell") if name in inputs}
    return inputs | turned, lambda outputs: outputs


def _translate(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    offset = 10 * torch.randn(3, generator=random, dtype=torch.float64).to(inputs["positions"])
    return {**inputs, "positions": inputs["positions"] + offset}, lambda outputs: outputs


def _permute(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    order = shuffle_within(inputs["ptr"], random)
    place = torch.argsort(order)

    def expected(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nb = Neighbors.from_edge_index(place[outputs[0]], len(order), outputs[1], outputs[3])
        return nb.edge_index, nb.shifts, nb.row_ptr, nb.ptr

    return {**inputs, "positions": inputs["positions"][order]}, expected


def _single_out(inputs: Inputs, random: torch.Generator) -> tuple[Inputs, Any]:
    """The last structure alone has the edges that it has in the batch."""
    begin = int(inputs["ptr"][-2])
    alone = {**inputs, "positions": inputs["positions"][begin:], "ptr": inputs["ptr"][-2:] - begin}
    for name in ("cell", "pbc"):
        if name in inputs and inputs[name].dim() > (2 if name == "cell" else 1):
            alone[name] = inputs[name][-1:]

    def expected(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        edge_index, shifts, row_ptr, ptr = outputs
        first = int(row_ptr[begin])
        return edge_index[:, first:] - begin, shifts[first:], row_ptr[begin:] - first, ptr[-2:] - begin

    return alone, expected


def _ops(inputs: Inputs) -> list[tuple[Any, tuple[Any, ...]]]:
    given = (inputs.get(name) for name in ("batch", "ptr", "cell", "pbc"))
    flags = (inputs.get("full", True), inputs.get("self_loops", False), inputs.get("max_edges", -1))
    arguments = (inputs["positions"], inputs["cutoff"], *given, 7, *flags)
    return [(torch.ops.symkern.neighbor_list.default, arguments)]


def _bad(name: str, match: str, **changes: Any) -> BadInput:
    """Good inputs of two structures with 4 and 3 atoms, with some replaced, computed anew, or left out (None)."""

    def make() -> Inputs:
        inputs = _structures((4, 3), "each")(torch.float32, "cpu", 0)
        for key, change in changes.items():
            inputs[key] = change(inputs[key]) if callable(change) else change
        return {key: value for key, value in inputs.items() if value is not None}

    return BadInput(name, make, ValueError, match)


def _with(position: tuple[int, int], value: float) -> Any:
    def change(t: Tensor) -> Tensor:
        t = t.clone()
        t[position] = value
        return t

    return change


def _huge(device: torch.device | str) -> Inputs:
    # n^2 pairs in one place: 2 n^2 indices
    return {"positions": torch.zeros((32_800, 3), device=device), "cutoff": 1.0, "self_loops": True}


def _verify_huge(inputs: Inputs, out: Neighbors) -> bool:
    n = len(inputs["positions"])
    ends = out.edge_index[:, [0, 1, n - 1, n, -1]].tolist()
    return out.num_edges == n * n and ends == [[0, 1, n - 1, 0, n - 1], [0, 0, 0, 1, n - 1]]


def _bytes(inputs: Inputs, output: Neighbors) -> int:
    return num_bytes(inputs["positions"], output.edge_index, output.cell_shifts, output.row_ptr)


def _flops(inputs: Inputs, output: Neighbors) -> int:
    # eight per pair kept: three differences, three products, two sums
    return 8 * int(output.num_edges)


CASE = Case(
    name="neighbor_list",
    function=neighbor_list,
    reference=_reference,
    samples={
        "empty": _structures(()),
        "one": _structures((1,), "shared", cutoff=5.0),
        "lonely": _structures((1,)),
        "ragged": _structures((4, 0, 1, 6, 9), "each"),
        "shared": _structures((3, 0, 5), "shared", self_loops=True),
        "molecules": _structures((5, 1, 0, 70, 7)),
        "half": _structures((4, 3, 8), "each", full=False),
        "half with loops": _structures((4, 3, 70), full=False, self_loops=True),
        "no room to spare": _structures((), max_edges=0),
        "padded": _structures((4, 0, 6), "shared", max_edges=900),
        "large": _structures((1600,), density=0.4, cutoff=2.0),
        "large periodic": _structures((250,), "shared", density=3.0, cutoff=1.2),
    },
    ops=_ops,
    compile_sample="padded",
    invariances=(
        Invariance("rotation", _rotate, ("ragged", "shared", "molecules", "large")),
        # half lists say which image of a pair is kept, and shifts count from where an atom is: neither may change
        Invariance("translation", _translate, ("ragged", "half", "molecules", "large")),
        Invariance("permutation", _permute, ("ragged", "shared", "molecules")),
        Invariance("batching", _single_out, ("ragged", "shared", "half")),
    ),
    bad_inputs=(
        _bad("nan", "positions must be finite, but atom 5", positions=_with((5, 1), float("nan"))),
        _bad("inf", "positions must be finite, but atom 2", positions=_with((2, 0), float("inf"))),
        _bad("nan in a molecule", "finite, but atom 6", positions=_with((6, 2), float("nan")), cell=None, pbc=None),
        _bad("integers", "positions must be float32 or float64, got int64", positions=lambda r: r.long()),
        _bad("half precision", "positions must be float32 or float64, got float16", positions=lambda r: r.half()),
        _bad("flat", r"positions must have shape \(N, 3\), got \(21,\)", positions=lambda r: r.flatten()),
        _bad("planar", r"positions must have shape \(N, 3\), got \(7, 2\)", positions=lambda r: r[:, :2]),
        _bad("far away", "1e6 cells of the origin .*but atom 0 .*wrap it", positions=_with((0, 0), 1e9), pbc=None),
        _bad("cutoff 0", "cutoff must be positive and finite, got 0", cutoff=0.0),
        _bad("negative cutoff", "cutoff must be positive and finite, got -1", cutoff=-1.0),
        _bad("nan cutoff", "cutoff must be positive and finite", cutoff=float("nan")),
        _bad("infinite cutoff", "cutoff must be positive and finite", cutoff=float("inf")),
        _bad("cell dtype", "cell must be float32, got float64", cell=lambda c: c.double()),
        _bad("cell shape", r"cell must have shape \(3, 3\) or \(B, 3, 3\)", cell=lambda c: c[:, :2]),
        _bad("cells", r"cell must have shape .* with B = 2, got \(1, 3, 3\)", cell=lambda c: c[:1]),
        _bad("singular cell", "cell of structure 0 is singular", cell=torch.ones((2, 3, 3)), pbc=None),
        _bad("zero cell", "cell of structure 0 is singular", cell=torch.zeros((2, 3, 3)), pbc=None),
        _bad("nan cell", "cell of structure 1 is singular", cell=_with((1, 0), float("nan")), pbc=None),
        _bad("pbc without cell", "pbc needs a cell", cell=None),
        _bad("pbc flags without cell", "pbc needs a cell", cell=None, pbc=(True, False, False)),
        _bad("pbc shape", r"pbc must have shape .* got \(3, 3\)", pbc=torch.ones((3, 3), dtype=torch.bool)),
        _bad("pbc dtype", "pbc must be bool, got float32", pbc=torch.ones(3)),
        _bad("pbc flags", "pbc must be one bool, three bools", pbc=(True, True)),
        _bad("ptr end", "ptr must end at N = 7, the number of atoms, got 6", ptr=torch.tensor([0, 4, 6])),
        _bad("ptr start", "ptr must start at 0, got 1", ptr=torch.tensor([1, 4, 7])),
        _bad("ptr falls", r"ptr must not decrease, but ptr\[2\] = 7 < 9", ptr=torch.tensor([0, 9, 7])),
        _bad("ptr dtype", "ptr must be int64, got int32", ptr=torch.tensor([0, 4, 7], dtype=torch.int32)),
        _bad("ptr shape", r"ptr must have shape \(B \+ 1,\), got \(0,\)", ptr=torch.zeros(0, dtype=torch.int64)),
        _bad("batch and ptr", "give one of them", batch=torch.zeros(7, dtype=torch.int64)),
        _bad(
            "unsorted batch",
            r"batch must be sorted, but batch\[3\] = 0 < batch\[2\] = 1.*symkern\.sort_batch",
            ptr=None,
            batch=torch.tensor([0, 0, 1, 0, 1, 1, 1]),
        ),
        _bad(
            "negative batch",
            r"batch must not be negative, but batch\[0\] = -1",
            ptr=None,
            batch=torch.tensor([-1, 0, 0, 0, 1, 1, 1]),
        ),
        _bad(
            "batch beyond the cells",
            "batch names structure 2, but cell and pbc describe only 2",
            ptr=None,
            batch=torch.tensor([0, 0, 0, 0, 1, 1, 2]),
        ),
        _bad("batch shape", r"N = 7, got \(6,\)", ptr=None, batch=torch.zeros(6, dtype=torch.int64)),
        _bad("batch dtype", "batch must be int64, got float32", ptr=None, batch=torch.zeros(7)),
        replace(
            _bad("overflow", r"max_edges is too small: \d+ edges found, room for", max_edges=1),
            # a fixed size saves the synchronisation: the next call that has one raises
            later=lambda device: neighbor_list(torch.zeros((1, 3), device=device), 1.0),
        ),
        _bad("negative room", "max_edges must not be negative, got -5", max_edges=-5),
    ),
    sizes={
        "30000 atoms periodic, 6 Å": Size(_periodic(30_000), _bytes, _flops),
        "128 x 18 atoms": Size(_molecules(128, 18), _bytes, _flops),
        "4096 x 18 atoms": Size(_molecules(4096, 18), _bytes, _flops),
    },
    huge=Huge(24 * 2**30, _huge, _verify_huge),
)
