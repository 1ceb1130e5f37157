"""The steps of the demo: each computes, checks what it computed, and returns a Section."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ase.build
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import symkern as sk
from symkern.data import Structures
from symkern.demo import plots, systems
from symkern.demo.ase_check import measure, timed
from symkern.demo.potential import ARGON, central, finite_gradient, gradient, hessian_times, melt
from symkern.demo.results import Check, Plot, Section

Tick = Callable[[], None]
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]

_bulk: Any = ase.build.bulk

# Å; the usual cutoff of learned potentials
CUTOFF = 6.0
# finite differences of fourth order in fp64 are good to about 1e-9 here; a wrong term is off by far more than this
TOLERANCE = 1e-7
# energy per particle may wander by this part of the kinetic energy
DRIFT = 1e-3


@dataclass(frozen=True)
class Size:
    """How much to compute."""

    water: tuple[int, int, int]
    quartz: int
    steps: int
    free: int
    walk: int
    modes: int


FULL = Size(water=(20, 25, 20), quartz=15, steps=80, free=40, walk=20, modes=400)
QUICK = Size(water=(8, 9, 8), quartz=6, steps=20, free=10, walk=8, modes=200)


def molecules(tick: Tick) -> Section:
    """The G2 set as one batch."""
    g2 = systems.g2_molecules()
    timings = []
    for cutoff in (5.0, CUTOFF):
        timings.append(measure(g2, cutoff)[0])
        tick()
    return Section(
        "162 molecules in one call",
        "The G2 set of ASE as one ragged batch. Every molecule is compared with ASE, which takes them one by one.",
        [timing.check() for timing in timings],
        timings,
    )


def dynamics(size: Size, tick: Tick) -> tuple[Section, Structures]:
    """Melt a grid of water-sized particles, and put a water molecule on each."""
    centers, rows = systems.water_grid(size.water)
    start, cell = torch.from_numpy(centers), torch.from_numpy(rows)
    run = melt(start, cell, size.steps, size.free, tick=tick)
    free = slice(-size.free, None)
    drift = float(np.ptp(run.total[free]) / run.kinetic[free].mean())
    detail = f"range {drift:.1e} of the kinetic energy in {size.free} free steps"
    curves = {"grid, at the start": _g(start, cell), "after melting": _g(run.positions, cell)}
    section = Section(
        "Molecular dynamics: melting a grid",
        f"{len(centers):,} Lennard-Jones particles at the density of water start on a cubic grid and move at 300 K, "
        "forces by neighbor_list, edge_vectors and safe_norm, the list reused by VerletList (skin 1 Å). For the last "
        f"{size.free} steps nothing holds the temperature: the total energy must stay. The fluid is a model; each "
        "particle becomes a water molecule of random orientation in the next step.",
        [Check("energy is conserved", drift < DRIFT, detail)],
        plots=[
            Plot(
                "rdf_fluid",
                "Radial distribution of the particles after melting; grey: the grid they started on.",
                plots.radial_distribution(curves, "distance / Å", faint="grid, at the start"),
            ),
            Plot(
                "energies",
                "Energy along the run. Ticks: steps at which the list was built anew.",
                plots.energies(run.total, run.kinetic, run.builds, size.free, dt=5.0),
            ),
        ],
        figures={
            "steps": str(size.steps + size.free),
            "lists built": f"{len(run.builds) + 1}",
            "time per step, energy and forces": f"{run.seconds_per_step * 1e3:.1f} ms",
        },
    )
    return section, systems.water_box(run.positions.numpy(), rows)


def large(water: Structures, size: Size, tick: Tick) -> Section:
    """The water box and a triclinic crystal."""
    timings, counts = [], {}
    for structures in (water, systems.quartz(size.quartz)):
        timing, nb = measure(structures, CUTOFF)
        timings.append(timing)
        counts[structures.source] = nb.row_ptr.diff().numpy()
        tick()
    return Section(
        "Large periodic systems",
        "A box of water, and alpha quartz sheared until all its angles are oblique. Full lists with shifts, sorted.",
        [timing.check() for timing in timings],
        timings,
        [Plot("neighbors", f"Neighbors of an atom within {CUTOFF:g} Å.", plots.neighbor_counts(counts, CUTOFF))],
    )


def derivatives(tick: Tick) -> Section:
    """Gradients and Hessian products of a pair potential against finite differences, fp64."""
    generator = torch.Generator().manual_seed(0)
    crystal = _bulk("Ar", "fcc", a=5.3, cubic=True).repeat(4)
    shear = torch.tensor([[1.0, 0.1, -0.05], [0.0, 1.0, 0.15], [0.0, 0.0, 1.0]], dtype=torch.float64)
    cell = torch.from_numpy(np.asarray(crystal.cell)) @ shear
    x = torch.from_numpy(crystal.positions) @ shear
    x = x + 0.15 * torch.randn(x.shape, generator=generator, dtype=x.dtype)

    def of_positions(r: Tensor) -> Tensor:
        return ARGON.energy_at(r, cell)

    def of_cell(c: Tensor) -> Tensor:
        return ARGON.energy_at(x, c)

    def of_strain(strain: Tensor) -> Tensor:
        deform = torch.eye(3, dtype=x.dtype) + strain
        return ARGON.energy_at(x @ deform, cell @ deform)

    force = -gradient(of_positions, x)
    some = torch.randperm(x.numel(), generator=generator)[:60].tolist()
    direction = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    none = torch.zeros(3, 3, dtype=x.dtype)
    every = list(range(9))
    pairs = {"positions": (-force.reshape(-1)[some], finite_gradient(of_positions, x, some))}
    tick()
    pairs["cell"] = (gradient(of_cell, cell).reshape(-1), finite_gradient(of_cell, cell, every))
    strain = gradient(of_strain, none)
    pairs["strain (stress)"] = (strain.reshape(-1), finite_gradient(of_strain, none, every))
    tick()
    product = hessian_times(of_positions, x, direction)
    pairs["Hessian product"] = (
        product.reshape(-1),
        central(lambda r: gradient(of_positions, r), x, direction).reshape(-1),
    )
    tick()
    net = float(force.sum(0).abs().max() / force.abs().sum())
    skew = float((strain - strain.T).abs().max() / strain.abs().max())
    checks = [_agree(name, *pair) for name, pair in pairs.items()]
    checks.append(Check("forces sum to zero", net < 1e-13, f"largest component {net:.1e} of the sum of all |F|"))
    checks.append(
        Check("stress is symmetric", skew < 1e-11, f"{skew:.1e} relative: the energy does not feel rotations")
    )
    drawn = plots.derivatives({name: (a.numpy(), b.numpy()) for name, (a, b) in pairs.items()})
    return Section(
        "Derivatives",
        f"Lennard-Jones argon, {len(x)} atoms displaced by 0.15 Å in an oblique cell, cutoff {ARGON.cutoff:g} Å. "
        "Gradients in positions, cell and strain, and a Hessian-vector product by double backward, against central "
        "differences of fourth order in which every energy builds its own list.",
        checks,
        plots=[Plot("derivatives", "Backward against finite differences, each quantity by its largest value.", drawn)],
    )


def walk(water: Structures, size: Size, tick: Tick, skin: float = 1.0, step: float = 0.05) -> Section:
    """A random walk of all atoms, with VerletList and with a new list at every step."""
    assert water.cell is not None
    cell = torch.from_numpy(water.cell)
    x = torch.from_numpy(water.positions)
    lazy, exact = sk.VerletList(CUTOFF, skin), sk.VerletList(CUTOFF, skin, exact=True)
    generator = torch.Generator().manual_seed(0)
    with_list = without = 0.0
    equal = True
    sk.neighbor_list(x, CUTOFF, cell=cell)  # the first call touches memory that later ones find ready
    for _ in range(size.walk):
        x = x + step * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        with_list += timed(lambda x=x: lazy(x, cell=cell))[1]  # type: ignore[misc]
        fresh, seconds = timed(lambda x=x: sk.neighbor_list(x, CUTOFF, cell=cell))  # type: ignore[misc]
        without += seconds
        reused = exact(x, cell=cell)
        equal = equal and torch.equal(reused.edge_index, fresh.edge_index) and torch.equal(reused.shifts, fresh.shifts)
        tick()
    return Section(
        "Reusing the list",
        f"{len(x):,} atoms of the water box walk at random, {step:g} Å a step in each direction, for "
        f"{size.walk} steps. The list for {CUTOFF:g} + {skin:g} Å is larger than for {CUTOFF:g}, but seldom built.",
        [
            Check(
                "reused list equals a new one",
                equal,
                f"cut back to {CUTOFF:g} Å (exact=True, not timed), pairs and shifts at all {size.walk} steps",
            ),
            Check("list is reused and rebuilt", 1 < lazy.builds < size.walk, f"{lazy.builds} builds"),
        ],
        figures={
            "lists built": f"{lazy.builds} in {size.walk} steps (skin {skin:g} Å)",
            "time per step with VerletList": f"{with_list / size.walk * 1e3:.2f} ms",
            "time per step with a new list": f"{without / size.walk * 1e3:.2f} ms",
        },
    )


def files(given: Sequence[Structures], tick: Tick) -> Section:
    """Every file that was given."""
    timings, curves = [], {}
    for structures in given:
        timings.append(measure(structures, CUTOFF, repeats=3)[0])
        oxygen = structures.numbers == 8
        if structures.num_structures == 1 and structures.cell is not None and oxygen.sum() > 1000:
            rows = torch.from_numpy(structures.cell[0])
            curves[structures.source] = _g(torch.from_numpy(structures.positions[oxygen]), rows)
        tick()
    drawn = plots.radial_distribution(curves, "oxygen-oxygen distance / Å") if curves else None
    return Section(
        "Your files",
        "What --data or SYMKERN_DATA named, each file in one call.",
        [timing.check() for timing in timings],
        timings,
        [Plot("rdf_files", "Radial distribution of the oxygen atoms.", drawn)] if drawn else [],
    )


def overview(sections: Sequence[Section]) -> Plot:
    """Rates of everything that was timed."""
    timings = [timing for section in sections for timing in section.timings]
    threads = torch.get_num_threads()
    caption = (
        "Atoms per second of neighbor_list and of ASE on the same machine in this run. symkern: median of several "
        "calls after a warm-up; ASE: one call, on as many atoms as the table says."
    )
    return Plot("rates", caption, plots.timing_bars(timings, threads))


def _agree(name: str, exact: Tensor, finite: Tensor) -> Check:
    error = float((exact - finite).abs().max())
    relative = error / float(finite.abs().max())
    detail = f"{len(exact)} values against finite differences: max {error:.1e} absolute, {relative:.1e} relative"
    return Check(f"gradient: {name}", relative < TOLERANCE, detail)


def _g(positions: Tensor, cell: Tensor, reach: float = 9.0, bins: int = 120) -> Curve:
    """Radial distribution function up to `reach` Å."""
    nb = sk.neighbor_list(positions, reach, cell=cell)
    d = sk.safe_norm(sk.edge_vectors(positions, nb, cell)).numpy()
    count, edges = np.histogram(d, bins, (0, reach))
    volume = abs(float(torch.linalg.det(cell)))
    shell = 4 / 3 * np.pi * np.diff(edges**3)
    return 0.5 * (edges[1:] + edges[:-1]), count / shell * volume / len(positions) ** 2
