"""From labelled data to a saved potential: split, normalise, train, test."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from symkern.data import Dataset
from symkern.models import EGNN, DimeNetPlusPlus, PaiNN, SchNet
from symkern.potential import Potential
from symkern.training.loop import fit
from symkern.training.parallel import join
from symkern.training.run import Result
from symkern.training.settings import Settings
from symkern.training.tasks import EnergyForces

# name on the command line -> (hidden, layers, cutoff) -> a network suited to energies and forces
NETWORKS: dict[str, Callable[[int, int, float], nn.Module]] = {
    "schnet": lambda hidden, layers, cutoff: SchNet(1, hidden, hidden, layers, 25, cutoff),
    "egnn": lambda hidden, layers, cutoff: EGNN(
        1, hidden, layers, cutoff=cutoff, num_basis=16, kind="bessel", attention=True, tanh=True
    ),
    "dimenet++": lambda hidden, layers, cutoff: DimeNetPlusPlus(
        1, hidden, layers, max(hidden // 2, 1), cutoff=cutoff, output_initializer="glorot_orthogonal"
    ),
    "painn": lambda hidden, layers, cutoff: PaiNN(1, hidden, layers, 20, cutoff),
}


def train_potential(
    network: Callable[[], nn.Module],
    data: Dataset,
    settings: Settings,
    task: EnergyForces,
    *,
    out: Path | str,
    sizes: Sequence[float | int | str] = (0.8, 0.1, 0.1),
    test: Dataset | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> tuple[Potential, Result]:
    """Train a network on energies and forces; leaves the best weights in ``out/potential.pt`` (see `load_potential`).

    Args:
        network: makes a network with one output; called after the seed is set.
        data: with targets for what `task` asks for.
        sizes: of training, validation and test set, as `Dataset.split` takes them; two where `test` is given.
        test: structures to test on, in the unit of `data`.
        settings, task, out, resume, device, progress: as of `symkern.training.fit`.

    Returns:
        The potential and what came of the run; errors are in the unit of `data`.

    Raises:
        ValueError: sizes that do not fit, a test set in another unit, and what `fit` and `Potential.fit` raise.
    """
    parts = ("training", "validation", "test")[: 3 if test is None else 2]
    if len(sizes) != len(parts):
        raise ValueError(f"sizes must be those of {', '.join(parts)}, got {list(sizes)}")
    if test is not None and test.energy_unit != data.energy_unit:
        raise ValueError(f"test must be in {data.energy_unit} as data, got {test.energy_unit}")
    train, valid, *rest = data.split(sizes, seed=settings.seed)
    unseen = rest[0] if test is None else test
    torch.manual_seed(settings.seed)
    potential = Potential.fit(network(), train)
    dtype = torch.float64 if settings.precision == "fp64" else torch.float32
    # a network without a cutoff makes its own graphs
    cutoff = potential.cutoff if potential.cutoff < math.inf else None
    targets = [name.partition("_")[0] for name in task.objective]
    needed = ["energy", *(name for name in targets if name != "energy")]
    loaders = [part.loader(cutoff, dtype=dtype, targets=needed) for part in (train, valid, unseen)]
    result = fit(
        potential,
        task,
        loaders[0],
        loaders[1] if len(valid) else None,
        settings,
        out=out,
        resume=resume,
        device=device,
        progress=progress,
        test=loaders[2] if len(loaders[2]) else None,
    )
    if join(device).main:
        potential.save(Path(out) / "potential.pt")
    return potential, result
