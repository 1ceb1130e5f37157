"""Models and training on a GPU: the CPU's numbers, the same bits at every run, errors that arrive late."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import symkern as sk
from symkern import training
from symkern.data import Dataset
from symkern.models import EGNN, SANN, DimeNetPlusPlus, PaiNN, SchNet

pytestmark = pytest.mark.cuda

MODELS: dict[str, Callable[[], nn.Module]] = {
    "SchNet": lambda: SchNet(1, 32, 32, 2, 16, 4.0),
    "EGNN": lambda: EGNN(1, 32, 2, cutoff=4.0, num_basis=8, attention=True),
    "DimeNet++": lambda: DimeNetPlusPlus(1, 16, 2, 8, 4, 16, 3, 4, cutoff=4.0, output_initializer="glorot_orthogonal"),
    "PaiNN": lambda: PaiNN(1, 32, 2, 12, 4.0),
    "SANN": lambda: SANN(1, 32, output="scalar"),
}


def molecules(count: int = 40, atoms: int = 9) -> Dataset:
    """Grids with noise: no two atoms are close."""
    random = torch.Generator().manual_seed(0)
    grid = 1.3 * torch.cartesian_prod(*[torch.arange(3.0)] * 3)[:atoms]
    pos = grid.repeat(count, 1) + 0.2 * torch.randn(count * atoms, 3, generator=random)
    return Dataset(
        torch.randint(1, 9, (count * atoms,), generator=random),
        pos.double(),
        torch.arange(0, count * atoms + 1, atoms),
        per_structure={"energy": torch.randn(count, generator=random).double()},
        per_atom={"forces": torch.randn(count * atoms, 3, generator=random)},
        energy_unit="eV",
    )


def gradients(model: nn.Module, device: str) -> tuple[Tensor, ...]:
    """Energies, forces, and the gradient of a loss of both in the weights."""
    model = model.to(device)
    batch = molecules().loader(4.0, dtype=torch.float64).collate(torch.arange(10)).to(device)
    energy, forces = sk.energy_and_forces(model, batch.z, batch.pos, batch.batch, nb=batch.nb, create_graph=True)
    loss = energy.square().sum() + forces.square().sum()
    weights = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return energy.detach(), forces.detach(), *[g for g in weights if g is not None]


@pytest.mark.parametrize("name", MODELS)
def test_as_on_the_cpu_and_deterministic(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().double()
    expected = gradients(model, "cpu")
    first, second = gradients(model, "cuda"), gradients(model, "cuda")
    for on_host, here, again in zip(expected, first, second, strict=True):
        torch.testing.assert_close(here.cpu(), on_host, rtol=1e-9, atol=1e-9)
        assert torch.equal(here, again)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_is_deterministic(precision: str, tmp_path: Path) -> None:
    states = []
    for run in range(2):
        torch.manual_seed(0)
        potential = sk.Potential(SchNet(1, 16, 16, 2, 8, 4.0), references=dict.fromkeys(range(1, 9), -1000.0))
        settings = training.Settings(epochs=2, batch_size=8, precision=precision, ema=0.9, clip=10.0)
        loader = molecules().loader(4.0)
        out = tmp_path / str(run)
        training.fit(potential, training.EnergyForces(), loader, None, settings, out=out, device="cuda", progress=False)
        states.append(potential.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_gradients_of_half_precision_gathers() -> None:
    """Under autocast features are bf16, and so are the gradients that come back along the edges."""
    model = SchNet(1, 32, 32, 2, 16, 4.0).cuda()
    batch = molecules().loader(4.0).collate(torch.arange(10)).to("cuda")
    with torch.autocast("cuda", torch.bfloat16):
        _, forces = sk.energy_and_forces(model, batch.z, batch.pos, batch.batch, nb=batch.nb, create_graph=True)
    forces.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_pinned_batches() -> None:
    batch = molecules().loader(4.0).collate(torch.arange(5))
    there = batch.to("cuda")
    fresh = sk.neighbor_list(there.pos, 4.0, batch=there.batch)
    assert there.nb is not None
    for name in ("edge_index", "row_ptr", "sender_order", "sender_ptr", "reverse"):
        assert torch.equal(getattr(there.nb, name), getattr(fresh, name))
