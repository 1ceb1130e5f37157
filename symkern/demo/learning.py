"""The learning steps of the demo, as sections of the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from symkern.demo import force_field, modes, plots_learning
from symkern.demo.results import Check, Plot, Section

Tick = Callable[[], None]

# an error of a learned mode below this is "learned"; rounding may push the other one below its floor by no more
LEARNED, ROUNDING = 1e-3, 1e-9
# a learned force field is worth its name if it is this much better than predicting no force at all
FORCES = 0.2
# the total energy may wander by this part of the kinetic energy
DRIFT = 0.02


def normal_modes(steps: int, tick: Tick) -> Section:
    """EGNN on the vibrations of water."""
    learned = [modes.learn(name, steps, tick) for name in modes.NAMES]
    checks = []
    for mode in learned:
        best, last = min(mode.errors), mode.errors[-1]
        if mode.floor < ROUNDING:
            checks.append(
                Check(f"{mode.name} is learned", last < LEARNED, f"squared error {last:.1e} after {steps} steps")
            )
        else:
            detail = f"squared error {last:.6f} after {steps} steps, never below {mode.floor:.6f}, the bound"
            holds = best > mode.floor - ROUNDING and last < mode.floor + LEARNED
            checks.append(Check(f"{mode.name} cannot be learned", holds, detail))
    picture = plots_learning.normal_modes(learned, modes.NUMBERS.tolist(), modes.POSITIONS.numpy())
    return Section(
        "What symmetry forbids: the normal modes of water",
        "EGNN learns to displace the atoms of H2O along one vibration, the molecule turned at random at each step. Two "
        "modes keep the molecule's symmetry, and the error falls to rounding. The third does not: half a turn about "
        "the molecule's axis leaves the atoms in place but reverses the mode, so an equivariant network, which has to "
        "give the same answer for the same atoms, can only answer with something that is orthogonal to it. The best "
        "it can do is not to move at all: a squared error of 1, whatever its size and training. (The error counts the "
        "better of the mode and its mirror image, so it is not that the network must guess a sign.) Networks that "
        "break the symmetry by the molecule's own stabilizer are what symkern is for.",
        checks,
        plots=[
            Plot(
                "normal_modes",
                "Above: each mode (grey) and what EGNN learned (blue). Below: its error along training.",
                picture,
            )
        ],
    )


def plan(files: Sequence[Path], quick: bool) -> force_field.Plan:
    """What the force field learns: rMD17 if it is among `files`, otherwise frames made on the spot."""
    found = force_field.rmd17(files)
    if found is not None:
        name, dataset = found
        train, epochs = (100, 10) if quick else (600, 40)
        source = f"the revised MD17 set, {len(dataset)} frames of density-functional dynamics"
        return force_field.Plan(name, source, dataset, 5.0, 300.0, train, epochs, 100 if quick else 600, 0.25)
    dataset = force_field.copper(40 if quick else 120)
    source = f"{len(dataset)} frames of strained, hot copper by ASE's effective medium theory, made on the spot"
    train, epochs = (30, 15) if quick else (90, 25)
    return force_field.Plan(
        "copper", source, dataset, 4.0, 600.0, train, epochs, 20 if quick else 200, 1.0, batch_size=3
    )


def learned_forces(what: force_field.Plan, tick: Tick) -> Section:
    """SchNet on energies and forces, then dynamics with it."""
    found = force_field.learn(what, tick)
    ratio = found.mae / found.zero_mae
    drift = float(np.ptp(found.total) / found.kinetic.mean())
    atoms = what.dataset.num_atoms // len(what.dataset)
    return Section(
        f"A learned force field: SchNet on {what.name}",
        f"Trained on energies and forces of {what.train} frames out of {what.source}; tested on frames not seen. "
        "Forces are the derivative of the energy, so training differentiates twice. Then the model, as an ASE "
        f"calculator with a reused neighbor list, moves the {atoms} atoms at constant energy.",
        [
            Check(
                "forces on unseen frames",
                ratio < FORCES,
                f"mean absolute error {found.mae * 1e3:.1f} meV/Å, {ratio:.1%} of that of predicting zero",
            ),
            Check(
                "energy is conserved", drift < DRIFT, f"range {drift:.1e} of the kinetic energy in {what.steps} steps"
            ),
        ],
        plots=[
            Plot(
                "force_field",
                "Left: error along training. Middle: forces on unseen frames. Right: energies along the dynamics.",
                plots_learning.force_field(found, what.step),
            )
        ],
        figures={
            "energies on unseen frames": f"mean absolute error {found.energy_mae * 1e3:.2f} meV per atom",
            "training": f"{what.epochs} epochs, {found.seconds:.0f} s",
            "share of loading and collating": f"{found.collate_share:.1%} of the time",
            "lists built": f"{found.builds} in {what.steps} steps",
        },
    )
