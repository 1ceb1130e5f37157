"""SchNet learns energies and forces, and drives molecular dynamics: the loop every user of a learned potential runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.build
import numpy as np
import torch
from ase import units
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from numpy.typing import NDArray
from torch import nn

import symkern as sk
from symkern import training
from symkern.data import DataError, Dataset
from symkern.models import SchNet

Tick = Callable[[], None]


@dataclass(frozen=True)
class Plan:
    """What is learned, and how long.

    Attributes:
        dataset: frames of one system with energies and forces.
        cutoff: Å.
        temperature: K, of the dynamics at the end.
        step: fs, of these dynamics; vibrations of hydrogen, with periods of 9 fs, need a quarter.
    """

    name: str
    source: str
    dataset: Dataset
    cutoff: float
    temperature: float
    train: int
    epochs: int
    steps: int
    step: float
    batch_size: int = 10

    @property
    def ticks(self) -> int:
        updates = -(-self.train // self.batch_size)
        return self.epochs * updates + self.steps


@dataclass(frozen=True)
class Learned:
    """What came of it, in eV and Å.

    Attributes:
        mae: of a force component on frames not trained on; zero_mae: of the prediction zero.
        history: mean absolute errors of forces per epoch, in training and validation.
        forces: (2, n) true and predicted components.
        total, kinetic: (steps + 1,) energies per atom along a run at constant energy.
    """

    mae: float
    zero_mae: float
    energy_mae: float
    history: dict[str, list[float]]
    forces: NDArray[np.float64]
    total: NDArray[np.float64]
    kinetic: NDArray[np.float64]
    builds: int
    seconds: float
    collate_share: float


def copper(frames: int, seed: int = 0) -> Dataset:
    """Frames of strained, hot copper with energies and forces of ASE's effective medium theory."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(max(frames // 20, 1)):
        atoms = ase.build.bulk("Cu", "fcc", a=3.61, cubic=True).repeat(2)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=True)
        atoms.calc = EMT()
        run = Langevin(
            atoms, 5 * units.fs, temperature_K=float(rng.uniform(300, 1200)), friction=0.02, rng=rng, fixcm=False
        )
        run.run(60)
        for _ in range(20):
            run.run(5)
            frame = atoms.copy()
            frame.calc = _results(atoms)
            found.append(frame)
    return Dataset.from_atoms(found[:frames])


def _results(atoms: Any) -> Any:
    from ase.calculators.singlepoint import SinglePointCalculator

    return SinglePointCalculator(atoms, energy=atoms.get_potential_energy(), forces=atoms.get_forces())


def rmd17(paths: Sequence[Path]) -> tuple[str, Dataset] | None:
    """The first file of the revised MD17 set among `paths`, ethanol if there is a choice; name and training frames."""
    found = sorted((path for path in paths if path.name.startswith("rmd17_")), key=lambda p: "ethanol" not in p.name)
    for path in found:
        try:
            return path.stem.removeprefix("rmd17_"), Dataset.read(path, split="train", energy_unit="kcal/mol")
        except DataError:
            continue
    return None


def learn(plan: Plan, tick: Tick, seed: int = 0) -> Learned:
    """Train, test on frames not seen, then run at constant energy from one of them."""
    torch.manual_seed(seed)
    data = plan.dataset.in_unit("eV")
    train, valid, test = data.split([plan.train, max(plan.train // 20, 5), "rest"], seed)
    potential = sk.Potential.fit(SchNet(1, 48, 48, 3, 24, plan.cutoff), train)
    settings = training.Settings(
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        learning_rate=3e-3,
        schedule="cosine",
        warmup_steps=50,
        ema=0.99,
        clip=100.0,
        monitor="forces_mae",
        seed=seed,
    )
    loaders = [part.loader(plan.cutoff) for part in (train, valid, test)]
    task = _Ticking(training.EnergyForces(energy_weight=0.05, forces_weight=1.0), tick)
    result = training.fit(potential, task, loaders[0], loaders[1], settings, progress=False, test=loaders[2])
    assert result.test is not None
    forces = _forces(potential, loaders[2])
    total, kinetic, builds = _dynamics(potential, plan, test.atoms(0), tick)
    return Learned(
        mae=result.test["forces_mae"],
        zero_mae=float(np.abs(forces[0]).mean()),
        energy_mae=result.test["energy_mae"] / (test.num_atoms / len(test)),
        history={part: [float(record[part]["forces_mae"]) for record in result.history] for part in ("train", "valid")},
        forces=forces,
        total=total,
        kinetic=kinetic,
        builds=builds,
        seconds=result.seconds,
        collate_share=result.shares["collate"],
    )


class _Ticking:
    """A task that reports every training step."""

    def __init__(self, task: training.EnergyForces, tick: Tick) -> None:
        self._task, self._tick = task, tick
        self.objective: Mapping[str, float] = task.objective

    def __call__(self, model: nn.Module, batch: Any) -> dict[str, training.Term]:
        if torch.is_grad_enabled():
            self._tick()
        return self._task(model, batch)


def _forces(potential: sk.Potential, loader: Any) -> NDArray[np.float64]:
    """True and predicted force components, (2, n)."""
    pairs = []
    for start in range(0, min(len(loader), 200), 20):
        batch = loader.collate(torch.arange(start, min(start + 20, len(loader))))
        _, forces = sk.energy_and_forces(
            potential, batch.z, batch.pos, batch.batch, cell=batch.cell, pbc=batch.pbc, nb=batch.nb
        )
        pairs.append(torch.stack([batch.targets["forces"].flatten(), forces.flatten()]).double())
    return torch.cat(pairs, 1).numpy()


def _dynamics(
    potential: sk.Potential, plan: Plan, atoms: Any, tick: Tick
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    atoms.calc = sk.Calculator(potential, dtype=torch.float64)
    thermal = np.random.default_rng(0).normal(size=(len(atoms), 3))
    atoms.set_momenta(thermal * np.sqrt(atoms.get_masses()[:, None] * units.kB * plan.temperature))
    run = VelocityVerlet(atoms, plan.step * units.fs)
    total, kinetic = [atoms.get_total_energy()], [atoms.get_kinetic_energy()]
    for _ in range(plan.steps):
        run.run(1)
        total.append(atoms.get_total_energy())
        kinetic.append(atoms.get_kinetic_energy())
        tick()
    assert atoms.calc.neighbors is not None
    count = len(atoms)
    return np.array(total) / count, np.array(kinetic) / count, atoms.calc.neighbors.builds
