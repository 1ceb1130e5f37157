"""The same ops on a GPU: python -m benchmarks.gpu [--device cpu --tiny for a dry run] [--out FOLDER]

Needs torch and symkern only. A sample is one call between two events on an otherwise idle device, with the L2 cache
overwritten before it and the input changing from call to call; contestants take turns. Outputs are fresh, from torch's
caching allocator, which is warm.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import symkern as sk

from . import (
    basis_ops,
    contest,
    edge_ops,
    gpu_layers,
    layer_ops,
    machine,
    peers,
    pool_ops,
    report,
    sann_ops,
    stabilizer_ops,
    symmetric_ops,
    systems,
)
from .peers import OURS, Entry
from .report import Row
from .systems import System
from .timing import Race, rounds_within

INPUTS = 4  # sets of positions to rotate through


class DeviceRace(Race):
    """A race that measures with device events; on the CPU, for the dry run, with the host clock."""

    def __init__(self, calls: dict[str, Callable[[], Any]], device: torch.device, flush: torch.Tensor) -> None:
        super().__init__(calls)
        self.device, self.flush = device, flush

    def _sample(self, call: Callable[[], Any], inner: int) -> float:
        self.flush.zero_()
        if self.device.type == "cpu":
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3


class Bench:
    """Collects the rows of one device."""

    def __init__(self, device: torch.device, tiny: bool) -> None:
        self.device, self.tiny = device, tiny
        self.rows: list[Row] = []
        self.isa = _isa(device)
        self.flush = torch.empty(1 << 16 if tiny else self._l2_bytes() // 2, device=device)  # float32: twice the L2
        torch.backends.cuda.matmul.allow_tf32 = False

    def _l2_bytes(self) -> int:
        if self.device.type == "cpu":
            return 1 << 20
        return int(torch.cuda.get_device_properties(self.device).L2_cache_size)

    def rates(self) -> tuple[float, float]:
        """GB/s of a device copy, read plus written, and GFLOP/s of a float32 matrix product without tf32."""
        size, side = (1 << 18, 64) if self.tiny else (1 << 28, 8192)
        source = torch.ones(size, device=self.device)
        target = torch.empty_like(source)
        a = torch.rand(side, side, device=self.device)
        out = torch.empty_like(a)
        race = DeviceRace(
            {"copy": lambda: target.copy_(source), "mm": lambda: torch.mm(a, a, out=out)}, self.device, self.flush
        )
        race.calibrate(shortest=0)
        for _ in range(5):
            race.round()
        seconds = {name: sorted(samples)[2] for name, samples in race.samples.items()}
        return 2 * source.nbytes / seconds["copy"] / 1e9, 2 * side**3 / seconds["mm"] / 1e9

    def add(
        self,
        op: str,
        system: str,
        entries: list[Entry],
        work: contest.Work,
        notes: dict[str, str] | None = None,
        seconds: float = 2,
    ) -> list[Row]:
        """Race of `entries`, whose rows are kept and returned; `notes` by the names of entries."""
        measured = self.rates()
        race = DeviceRace(contest.calls(entries), self.device, self.flush)
        rounds = rounds_within(0.1 if self.tiny else seconds, race.calibrate(shortest=0), most=3 if self.tiny else 100)
        for _ in range(rounds):
            race.round()
        made = contest.rows(entries, race, op, system, 1, work, measured, isa=self.isa)
        for row, entry in zip(made, entries, strict=True):
            row.note = (notes or {}).get(entry.name, "")
            print(f"{op} | {system} | {row.who}: {row.form} | {row.median:.4g} {row.unit} {row.note}", flush=True)
        self.rows += made
        return made

    def layer_rates(self) -> gpu_layers.Rates:
        """What floors of layers are made of; a product in TF32 as well."""
        copy, fp32 = self.rates()
        torch.backends.cuda.matmul.allow_tf32 = True
        tf32 = self.rates()[1]
        torch.backends.cuda.matmul.allow_tf32 = False
        return gpu_layers.Rates(copy * 1e9, fp32 * 1e9, tf32 * 1e9, gpu_layers.special_rate(self.device))

    def add_layer(
        self,
        layer: layer_ops.Layer,
        passed: str,
        tf32: bool,
        entries: list[Entry],
        floors: dict[str, float],
        peaks: dict[str, int],
    ) -> None:
        """A pass of a layer: what it reaches of the slowest unit's floor, and its peak memory, are notes."""
        system = layer.system + (", TF32" if tf32 else "")
        notes = {name: f"peak {size / 1e6:.1f} MB" for name, size in peaks.items()}
        made = self.add(f"{layer.name}, {passed}", system, entries, layer.work(passed), notes, seconds=0.5)
        slowest = max(floors, key=lambda name: floors[name])
        for row in made:
            median = row.median * (1e-6 if row.unit == "µs" else 1e-3)
            share = f"{100 * floors[slowest] / median:.0f} % of the roofline ({slowest})"
            row.note = "; ".join(filter(None, [share, row.note]))
            print(f"  {row.who}: {row.note}", flush=True)
        print("  floors: " + ", ".join(f"{name} {1e6 * s:.4g} µs" for name, s in floors.items()), flush=True)

    def neighbor_list(self, host: System, dense: bool) -> None:
        expected = host.edges()
        system = host.to(self.device)
        nb = system.edges()
        for name in ("edge_index", "row_ptr", "cell_shifts"):
            on_host, here = getattr(expected, name), getattr(nb, name)
            if on_host is not None and not torch.equal(on_host, here.cpu()):
                raise AssertionError(f"{name} of {system.name} differs from the CPU's")
        rotating = Rotating(system)
        room = nb.num_edges + 16  # a turned copy may differ by a pair within rounding of the cutoff
        entries = [
            Entry(OURS, "edge list, one synchronisation", lambda: rotating.search(None)),
            Entry(OURS, "edge list, max_edges given", lambda: rotating.search(room)),
        ]
        if dense:
            entries.append(peers.dense(system))
        self.add("neighbor_list", system.name, entries, contest.neighbor_work(system, nb))

    def edges(self, atoms: int) -> None:
        system = systems.liquid(atoms).to(self.device)
        nb = system.edges()
        name = f"{nb.num_edges:,} edges (periodic)"
        vectors = edge_ops.eager_vectors(system, nb, select=True)(system.positions)
        for backward, part in ((False, "forward"), (True, "forward + gradient")):
            entries = edge_ops.entries(edge_ops.vector_contestants(system, nb, False), system.positions, backward)
            self.add(f"edge_vectors, {part}", name, entries, edge_ops.vector_work(system, nb, backward))
            entries = edge_ops.entries(edge_ops.norm_contestants(False), vectors, backward)
            self.add(f"safe_norm, {part}", name, entries, edge_ops.norm_work(nb.num_edges, backward))

    def bases(self, edges: int, structures: int) -> None:
        d = 0.1 + (basis_ops.RADIAL_CUTOFF - 0.1) * torch.rand(edges, device=self.device)
        eager = basis_ops.eager_radial("gaussian", self.device)
        calls = {
            OURS: lambda d: sk.radial_basis(d, basis_ops.RADIAL_CUTOFF, basis_ops.BASIS),
            "eager, as written": eager,
        }
        for backward, part in ((False, "forward"), (True, "forward + gradient")):
            entries = edge_ops.entries(calls, d, backward)
            name = f"{edges:,} distances x {basis_ops.BASIS}"
            self.add(f"radial_basis gaussian, {part}", name, entries, basis_ops.radial_work(edges, backward))
        system = systems.molecules(structures).to(self.device)
        nb = system.edges()
        tri = sk.triplets(nb)
        vec = sk.edge_vectors(system.positions, nb)
        d, angle = sk.safe_norm(vec).clamp(min=2.5), sk.edge_angles(vec, tri)
        options = (basis_ops.CUTOFF, basis_ops.SPHERICAL, basis_ops.RADIAL)
        layer, kj = basis_ops.pyg_layer(), tri.kj.contiguous()
        calls = {
            OURS: lambda d: sk.spherical_basis(d, angle, tri, *options, exponent=basis_ops.EXPONENT),
            "eager, PyG's formulas": lambda d: layer(d, angle, kj),
        }
        for backward, part in ((False, "forward"), (True, "forward + gradient")):
            entries = edge_ops.entries(calls, d, backward)
            name = f"{tri.num_triplets:,} triplets of {system.name}"
            self.add(f"spherical_basis, {part}", name, entries, basis_ops.spherical_work(tri, backward))

    def chamfer(self, structures: int) -> None:
        """Molecules against the same with noise, in one batch."""
        system = systems.molecules(structures).to(self.device)
        x = system.positions.reshape(structures, -1, 3)
        y = x + 0.1 * torch.randn_like(x)
        _same_nearest(x, y)
        calls = {OURS: lambda x: sk.chamfer(x, y), "eager, cdist": lambda x: _cdist(x, y).square().sum(1)}
        for backward, part in ((False, "forward"), (True, "forward + gradient")):
            entries = edge_ops.entries(calls, x, backward)
            self.add(f"chamfer, {part}", f"{structures:,} x {x.shape[1]} points", entries, _chamfer_work(x, backward))

    def chamfer_clouds(self, points: int, all_pairs: bool) -> None:
        """Two uniform clouds; where all pairs are still bearable, against all pairs."""
        x, y = torch.rand(2, points, 3, device=self.device)
        _same_nearest(x, y)
        calls: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {OURS: lambda x: sk.chamfer(x, y)}
        if all_pairs:
            rows = 8192  # of the matrix of distances at a time
            calls[f"eager, cdist, {rows:,} rows at a time"] = lambda x: torch.stack(
                [_cdist(part, y).square().sum() for part in x.split(rows)]
            ).sum(0, keepdim=True)
        work = _chamfer_work(x[None], False)
        self.add("chamfer, forward", f"{points:,} x {points:,} points", edge_ops.entries(calls, x, False), work)

    def stabilizers(self, molecules: stabilizer_ops.Molecules) -> None:
        """Integers must be those of the CPU. There is no other contestant on a device."""
        expected = molecules.find()
        here = molecules.to(self.device)
        found = here.find()
        for name in ("op_ptr", "permutations", "orbits", "group", "rank", "closed"):
            if not torch.equal(getattr(found, name).cpu(), getattr(expected, name)):
                raise AssertionError(f"{name} of {molecules.name} differs from the CPU's")
        work = stabilizer_ops.work(molecules)
        self.add("stabilizers", molecules.name, [Entry(OURS, "one batch, two synchronisations", here.find)], work)

    def frames(self, molecules: stabilizer_ops.Molecules) -> None:
        here = molecules.to(self.device)
        sym = here.find()

        def call() -> torch.Tensor:
            return sk.canonical_frames(here.positions, here.numbers, ptr=here.ptr, sym=sym)

        work = contest.Work(12 * len(here.positions) + 36 * len(here), 0, 36 * len(here))
        self.add("canonical_frames", molecules.name, [Entry(OURS, "stabilizers given", call)], work)

    def sann_features(self, structures: int) -> None:
        system = systems.molecules(structures).to(self.device)
        nb = system.edges()
        calls = sann_ops.contestants(system, nb)
        for backward, part in ((False, "forward"), (True, "forward + gradient")):
            entries = edge_ops.entries(calls, system.positions, backward)
            name = f"{nb.num_edges:,} edges of {system.name}"
            self.add(f"sann_edge_features, {part}", name, entries, sann_ops.features_work(nb, backward))

    def second_order_pool(self, structures: int) -> None:
        for mode in pool_ops.MODES:
            calls = pool_ops.contestants(mode, structures, self.device)
            for backward, part in ((False, "forward"), (True, "forward + gradient")):
                entries = edge_ops.entries(calls, pool_ops.rotation_of(self.device), backward)
                work = pool_ops.pool_work(mode, structures, backward)
                name = f"{structures:,} x {pool_ops.ATOMS} atoms"
                self.add(f"{pool_ops.name(mode)}, {part}", name, entries, work, seconds=0.5)

    def symmetric_losses(self, structures: int) -> None:
        sym = symmetric_ops.synthetic(structures=structures).to(self.device)
        pred, target = torch.randn(2, len(sym.positions), 3, device=self.device)
        work = symmetric_ops.least_work(sym)
        name = f"{structures:,} x {symmetric_ops.ATOMS} atoms, 24 operations"
        for op in (sk.symmetric_chamfer, sk.symmetric_mse):
            for backward, part in ((False, "forward"), (True, "forward + gradient")):
                entries = edge_ops.entries({OURS: lambda x, op=op: op(x, target, sym)[0]}, pred, backward)
                self.add(f"{op.__name__}, {part}", name, entries, work)


def _cdist(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    # differences, as symkern: the product of matrices that cdist prefers for many points loses digits
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").amin(-1)


def _same_nearest(x: torch.Tensor, y: torch.Tensor) -> None:
    """Nearest points must be those of the CPU, to the last integer."""
    here = sk.chamfer(x, y, return_index=True)[1]
    if not torch.equal(here.cpu(), sk.chamfer(x.cpu(), y.cpu(), return_index=True)[1]):
        raise AssertionError(f"nearest points of {tuple(x.shape)} differ from the CPU's")


def _chamfer_work(x: torch.Tensor, backward: bool) -> contest.Work:
    # both clouds in, one number per structure out, or the gradient; one difference per point, for an oracle
    points = x.shape[0] * x.shape[1]
    return contest.Work((36 if backward else 24) * points, 8 * points, 12 * points if backward else 4 * x.shape[0])


class Rotating:
    """Calls neighbor_list with one of several copies of the positions after the other.

    The copies are turned: a cyclic permutation of the axes maps a cube onto itself and keeps every distance, so the
    work is the same while addresses and values change.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        self.inputs = [system.positions.roll(k, dims=1).contiguous() for k in range(INPUTS)]
        self.next = 0

    def search(self, max_edges: int | None) -> sk.Neighbors:
        self.next = (self.next + 1) % INPUTS
        system = self.system
        ptr = None if len(system.ptr) == 2 else system.ptr
        return sk.neighbor_list(self.inputs[self.next], system.cutoff, ptr=ptr, cell=system.cell, max_edges=max_edges)


def describe(device: torch.device) -> dict[str, Any]:
    """Head of the result file: the host's, with the device in place of the processor."""
    head = machine.describe() | {"peers": {}}
    if device.type == "cpu":
        return head | {"machine": "dry-run"}
    model = torch.cuda.get_device_name(device)
    return head | {
        "machine": machine.slug(model),
        "device": "cuda",
        "model": model,
        "isa": _isa(device),
        "driver": driver(),
        "cuda": torch.version.cuda,
    }


def _isa(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else "sm_{}{}".format(*torch.cuda.get_device_capability(device))


def driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    found = re.search(r"[\d.]+", text)
    return found.group(0) if found else "unknown"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes for a dry run; nothing is written to results/")
    parser.add_argument("--out", type=Path, default=None, help="folder for the result (default: benchmarks/results)")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device; --device cpu --tiny does a dry run", file=sys.stderr)
        return 2
    tiny = options.tiny
    bench = Bench(device, tiny)
    failed = []
    stages: list[tuple[str, Callable[[], None]]] = [
        ("512 x 64", lambda: bench.neighbor_list(systems.periodic_batch(4 if tiny else 512, 64), False)),
        ("131,072", lambda: bench.neighbor_list(systems.liquid(600 if tiny else 131_072, 5.0), False)),
        ("1,000,000", lambda: bench.neighbor_list(systems.liquid(1000 if tiny else 1_000_000), False)),
        ("128 x 18", lambda: bench.neighbor_list(systems.molecules(8 if tiny else 128), True)),
        ("4096 x 18", lambda: bench.neighbor_list(systems.molecules(16 if tiny else 4096), True)),
        ("2.7 M edges", lambda: bench.edges(300 if tiny else 30_000)),
        ("27 M edges", lambda: bench.edges(600 if tiny else 300_000)),
        ("bases", lambda: bench.bases(500 if tiny else 5_000_000, 4 if tiny else 512)),
        ("stabilizers", lambda: bench.stabilizers(stabilizer_ops.made_up(130 if tiny else 1_000_000))),
        ("stabilizers of C60", lambda: bench.stabilizers(stabilizer_ops.c60())),
        ("canonical frames", lambda: bench.frames(stabilizer_ops.made_up(130 if tiny else 65_536))),
        ("SANN features", lambda: bench.sann_features(4 if tiny else 1024)),
        ("second-order pool", lambda: bench.second_order_pool(4 if tiny else 4096)),
        ("symmetric losses", lambda: bench.symmetric_losses(4 if tiny else 4096)),
        ("chamfer 128 x 18", lambda: bench.chamfer(4 if tiny else 128)),
        ("chamfer 4096 x 18", lambda: bench.chamfer(8 if tiny else 4096)),
        ("chamfer 100,000", lambda: bench.chamfer_clouds(300 if tiny else 100_000, True)),
        ("chamfer 1,000,000", lambda: bench.chamfer_clouds(1000 if tiny else 1_000_000, False)),
    ]
    for name, stage in stages + gpu_layers.stages(bench):
        try:
            stage()
        except Exception as error:  # the other systems are still worth measuring in a lent hour
            failed.append(name)
            print(f"FAILED {name}: {type(error).__name__}: {error}", flush=True)
    if bench.rows:
        folder = options.out or machine.results_folder(complete=not tiny and not failed)
        suffix = "-partial" if failed else ""
        path, text = report.write(describe(device), bench.rows, folder, suffix)
        outside = os.environ.get("OUT")
        if outside:
            report.write(describe(device), bench.rows, Path(outside), suffix)
        print(f"\n{text}\nwritten to {path.name}")
    return 1 if failed or not bench.rows else 0


if __name__ == "__main__":
    sys.exit(main())
