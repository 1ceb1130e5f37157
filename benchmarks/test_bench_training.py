"""Training SchNet on forces: what a step costs beside PyG's, and what loading and collating add to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import symkern as sk
from symkern import training
from symkern.data import Dataset
from symkern.models import SchNet

from . import layer_ops, message_ops, systems
from .contest import Work
from .peers import OURS, Entry

# of a step: graphs are precomputed, a batch is copies and additions
SHARE = 0.05
# PyG's step has to take this many times as long
PYG = 3.0
CUTOFF = 5.0
NOTHING = Work(0, 0, 0)


@pytest.fixture(scope="module")
def loader():
    """1,000 molecules of 18 atoms with made-up energies and forces."""
    torch.manual_seed(0)
    system = systems.molecules(1000)
    atoms = system.atoms
    data = Dataset(
        torch.randint(1, 9, (atoms,)),
        system.positions.double(),
        torch.arange(0, atoms + 1, atoms // 1000),
        per_structure={"energy": torch.randn(1000, dtype=torch.float64)},
        per_atom={"forces": torch.randn(atoms, 3)},
        energy_unit="eV",
    )
    return data.loader(CUTOFF)


@pytest.mark.parametrize("batch_size", [10, 100])
def test_collate(batch_size, loader, compare):
    """A step has to take 20 times as long as making its batch."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    potential = sk.Potential(SchNet(1, 64, 64, 4, 25, CUTOFF))
    task = training.EnergyForces()
    optimizer = torch.optim.AdamW(potential.parameters(), fused=True)
    index = torch.randint(0, 1000, (batch_size,))
    batch = loader.collate(index)

    def step():
        terms = task(potential, batch)
        loss = sum(weight * terms[name][0] / terms[name][1] for name, weight in task.objective.items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    entries = [
        Entry(OURS, "collate", lambda: loader.collate(index)),
        Entry("symkern, SchNet step", "energies, forces, update", step, target=1 / SHARE),
    ]
    compare("collate a batch", f"{batch_size} molecules of 18 atoms, 5 Å, with targets", entries, 1, NOTHING)


def test_schnet_beside_pyg(quick, compare):
    """A force step of the whole model, with one set of weights; both get the list of pairs."""
    why = message_ops.why_missing("schnet")
    if why is not None:
        pytest.skip(why)
    torch.set_num_threads(1)
    layer = message_ops.schnet(layer_ops.molecules(8 if quick else 128))
    ours, theirs = layer_ops.entries(layer, layer_ops.STEP, compiled=False)
    entries = [ours, replace(theirs, target=PYG)]
    note = "6 interactions; " + layer_ops.NO_COMPILE
    work = layer.work(layer_ops.STEP)
    compare(f"{layer.name}, {layer_ops.STEP}", layer.system, entries, 1, work, note, seconds=10, least=3)
