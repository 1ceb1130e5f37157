"""What every model must do, whatever is inside."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import ase.build
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import symkern as sk
from symkern.models import EGNN, DimeNetPlusPlus, PaiNN, SchNet
from symkern.models._config import keeps_config

Builder = Callable[[], nn.Module]
MODELS: dict[str, Builder] = {
    "SchNet": lambda: SchNet(2, 16, 12, 2, 8, 3.0),
    "EGNN": lambda: EGNN(2, 16, 2, cutoff=3.0, attention=True, tanh=True),
    "EGNN basis": lambda: EGNN(1, 8, 2, cutoff=3.0, num_basis=6),
    "EGNN fixed coordinates": lambda: EGNN(1, 8, 2, cutoff=3.0, update_coordinates=False, residual=False),
    "DimeNet++": lambda: DimeNetPlusPlus(2, 8, 2, 8, 4, 8, 3, 4, cutoff=3.0),
    "PaiNN": lambda: PaiNN(2, 12, 2, 6, 3.0),
    "PaiNN shared": lambda: PaiNN(1, 8, 2, 6, 3.0, kind="gaussian", shared_filters=True, readout="mean"),
    "SchNet mean": lambda: SchNet(1, 8, 8, 1, 6, 3.0, readout="mean", kind="bessel", trainable_basis=True),
}
NAMES = ("CH3CH2OH", "H2O", "C2H2", "CO2", "NH3", "CH4")


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(1)
    made = MODELS[request.param]().double()
    with torch.no_grad():  # networks start with zeros in places; nothing may hide behind them
        for p in made.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return made


@pytest.fixture
def molecules() -> dict[str, Tensor]:
    return batch_of([ase.build.molecule(name) for name in NAMES])


def batch_of(structures: list[Any]) -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    return {
        "z": torch.tensor(np.concatenate([a.numbers for a in structures]), dtype=torch.int64),
        "pos": torch.tensor(
            np.concatenate([a.positions + rng.normal(scale=0.05, size=(len(a), 3)) for a in structures])
        ),
        "batch": torch.repeat_interleave(torch.arange(len(structures)), torch.tensor([len(a) for a in structures])),
    }


def rotation(seed: int = 0) -> Tensor:
    q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    return q


def close(a: Tensor, b: Tensor, tolerance: float = 1e-11) -> bool:
    assert a.shape == b.shape
    a, b = a.detach(), b.detach()
    return bool((a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max())))


def test_output_depends_on_geometry_and_elements(model: nn.Module, molecules: dict[str, Tensor]) -> None:
    out = model(**molecules)
    assert out.shape == (6, model.config["out"])
    assert not close(model(**{**molecules, "pos": molecules["pos"] * 1.05}), out, 1e-6)
    swapped = torch.where(molecules["z"] == 8, 16, molecules["z"])
    assert not close(model(**{**molecules, "z": swapped}), out, 1e-6)


@pytest.mark.parametrize("improper", [False, True])
def test_invariant_under_rotation_reflection_translation(
    model: nn.Module, molecules: dict[str, Tensor], improper: bool
) -> None:
    q = rotation()
    q = q if (torch.det(q) < 0) == improper else -q
    moved = molecules["pos"] @ q.T + torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    assert close(model(**{**molecules, "pos": moved}), model(**molecules))


def test_atom_order_does_not_matter(model: nn.Module, molecules: dict[str, Tensor]) -> None:
    random = torch.rand(len(molecules["z"]), generator=torch.Generator().manual_seed(2))
    order = torch.argsort(molecules["batch"] + random)  # within each molecule
    shuffled = {name: value[order] for name, value in molecules.items()}
    assert close(model(**shuffled), model(**molecules))


def test_batch_is_its_molecules(model: nn.Module, molecules: dict[str, Tensor]) -> None:
    singles = []
    for b in range(len(NAMES)):
        own = molecules["batch"] == b
        singles.append(model(molecules["z"][own], molecules["pos"][own]))
    assert close(torch.cat(singles), model(**molecules))


def test_one_molecule_or_none(model: nn.Module) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert model(none, torch.zeros(0, 3, dtype=torch.float64), none).shape == (0, model.config["out"])
    atom = model(torch.tensor([8]), torch.zeros(1, 3, dtype=torch.float64))
    assert atom.shape == (1, model.config["out"])
    assert torch.isfinite(atom).all()
    if model.config["out"] == 1:
        _, forces = sk.energy_and_forces(model, torch.tensor([8]), torch.zeros(1, 3, dtype=torch.float64))
        assert (forces == 0).all()


def test_longer_and_padded_lists_change_nothing(model: nn.Module, molecules: dict[str, Tensor]) -> None:
    expected = model(**molecules)
    for nb in (
        sk.neighbor_list(molecules["pos"], model.cutoff + 1.5, batch=molecules["batch"]),
        sk.neighbor_list(molecules["pos"], model.cutoff, batch=molecules["batch"], max_edges=400),
    ):
        assert close(model(**molecules, nb=nb), expected)


def test_list_of_any_edge_index(model: nn.Module, molecules: dict[str, Tensor]) -> None:
    nb = sk.neighbor_list(molecules["pos"], model.cutoff, batch=molecules["batch"])
    shuffled = nb.edge_index[:, torch.randperm(nb.num_edges, generator=torch.Generator().manual_seed(0))]
    again = sk.Neighbors.from_edge_index(shuffled, nb.num_nodes, batch=molecules["batch"])
    assert close(model(**molecules, nb=again), model(**molecules))


def crystal() -> Any:
    atoms = ase.build.bulk("NaCl", "rocksalt", a=4.4)
    atoms.rattle(0.2, seed=1)
    shear = np.eye(3) + np.array([[0, 0.1, 0], [0.05, 0, -0.1], [0, 0.02, 0]])
    atoms.set_cell(atoms.cell.array @ shear, scale_atoms=True)
    return atoms


def periodic(atoms: Any) -> dict[str, Tensor]:
    return {
        "z": torch.tensor(atoms.numbers, dtype=torch.int64),
        "pos": torch.tensor(atoms.positions),
        "cell": torch.tensor(atoms.cell.array),
    }


def test_periodic_system_is_its_supercell(model: nn.Module) -> None:
    """The cell is smaller than the cutoff: atoms see several images of each other and of themselves."""
    small, big = crystal(), crystal() * (2, 1, 3)
    factor = 1 if model.config.get("readout") == "mean" else 6
    assert close(model(**periodic(big)), factor * model(**periodic(small)))


def test_crystals_in_a_batch(model: nn.Module) -> None:
    a, b = crystal(), ase.build.bulk("Si")
    both = batch_of([a, b])
    both["pos"] = torch.tensor(np.concatenate([a.positions, b.positions]))
    cell = torch.tensor(np.stack([a.cell.array, b.cell.array]))
    assert close(model(**both, cell=cell), torch.cat([model(**periodic(a)), model(**periodic(b))]))


def scalar(model: nn.Module) -> Callable[..., Tensor]:
    """The sum of the outputs, as an energy."""
    return lambda *args, **kwargs: model(*args, **kwargs).sum(1, keepdim=True)


def test_forces_and_stress_are_derivatives(model: nn.Module) -> None:
    start = periodic(crystal())
    energy = scalar(model)
    e, forces, stress = sk.energy_and_forces(energy, **start, stress=True)
    step, volume = 1e-4, float(torch.det(start["cell"]).abs())

    def at(pos: Tensor, cell: Tensor) -> float:
        return float(energy(start["z"], pos, cell=cell).detach())

    for i, k in ((0, 0), (1, 2)):
        move = torch.zeros_like(start["pos"])
        move[i, k] = step
        slope = (at(start["pos"] + move, start["cell"]) - at(start["pos"] - move, start["cell"])) / (2 * step)
        assert forces[i, k] == pytest.approx(-slope, abs=1e-6)
    for a, b in ((0, 0), (0, 1), (2, 1)):
        strain = torch.zeros(3, 3, dtype=torch.float64)
        strain[a, b] += step / 2
        strain[b, a] += step / 2
        up, down = torch.eye(3, dtype=torch.float64) + strain, torch.eye(3, dtype=torch.float64) - strain
        slope = at(start["pos"] @ up, start["cell"] @ up) - at(start["pos"] @ down, start["cell"] @ down)
        assert stress[0, a, b] == pytest.approx(slope / (2 * step) / volume, abs=1e-7)
    assert close(stress[0], stress[0].T)
    assert e.shape == (1,)
    assert close(forces.sum(0), torch.zeros(3, dtype=torch.float64))


def test_forces_can_be_trained(model: nn.Module, molecules: dict[str, Tensor]) -> None:
    """The gradient of a loss of forces in the weights, against finite differences along a random direction."""
    energy = scalar(model)
    weights = [p for p in model.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(3)
    direction = [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in weights]

    def loss(create_graph: bool) -> Tensor:
        _, forces = sk.energy_and_forces(energy, **molecules, create_graph=create_graph)
        return forces.square().sum()

    grads = torch.autograd.grad(loss(True), weights, allow_unused=True)
    slope = sum(float((g * v).sum()) for g, v in zip(grads, direction, strict=True) if g is not None)
    values = []
    for sign in (1, -2, 1):
        with torch.no_grad():
            for p, v in zip(weights, direction, strict=True):
                p.add_(sign * 1e-5 * v)
        values.append(float(loss(False)))
    assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)


def test_energy_and_forces_go_smoothly_through_the_cutoff(model: nn.Module) -> None:
    energy = scalar(model)
    found = []
    for offset in (-1e-7, 1e-7):
        pos = torch.tensor([[0.0, 0, 0], [1.0, 0.3, 0], [model.cutoff + offset, 0, 0]], dtype=torch.float64)
        found.append(sk.energy_and_forces(energy, torch.tensor([6, 1, 8]), pos))
    assert close(found[0][0], found[1][0], 1e-6)
    assert close(found[0][1], found[1][1], 1e-5)


def test_coincident_atoms_have_finite_derivatives(model: nn.Module) -> None:
    pos = torch.tensor([[0.0, 0, 0], [0, 0, 0], [0, 0, 1.0], [0, 0, 2.0]], dtype=torch.float64)
    _, forces = sk.energy_and_forces(scalar(model), torch.tensor([6, 1, 8, 1]), pos, create_graph=True)
    weights = list(model.parameters())
    grads = torch.autograd.grad(forces.square().sum(), weights, allow_unused=True)
    assert torch.isfinite(forces).all()
    assert all(torch.isfinite(g).all() for g in grads if g is not None)


def test_config_rebuilds_the_model(model: nn.Module, molecules: dict[str, Tensor]) -> None:
    again = type(model)(**model.config).double()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(**molecules), model(**molecules))


def test_config_holds_all_arguments_as_plain_values() -> None:
    model = EGNN(np.int64(2), hidden=8, cutoff=np.float64(4), elements=np.array([1, 8]))
    assert json.loads(json.dumps(model.config)) == model.config
    assert set(model.config) == set(inspect.signature(EGNN).parameters)
    given = {"out": 2, "hidden": 8, "cutoff": 4.0, "elements": [1, 8]}
    assert given.items() <= model.config.items()

    class Narrow(EGNN):
        @keeps_config
        def __init__(self, width: int) -> None:
            super().__init__(hidden=width)

    assert Narrow(4).config == {"width": 4}
    with pytest.raises(TypeError, match=r"EGNN.__init__\(\) got an unexpected keyword argument 'width'"):
        EGNN(width=8)


def test_bad_input(model: nn.Module, molecules: dict[str, Tensor]) -> None:
    def refuse(kind: type[Exception], match: str, **changes: Any) -> None:
        with pytest.raises(kind, match=match):
            model(**{**molecules, **changes})

    outside = molecules["z"].clone()
    outside[3] = 200
    refuse(ValueError, r"z must lie in 1 .. \d+, the model's embedding, got 1 .. 200", z=outside)
    refuse(ValueError, r"z must lie in 1 .. \d+, the model's embedding, got 0 ..", z=molecules["z"] * 0)
    refuse(ValueError, "z must be int64 of shape", z=molecules["z"].int())
    refuse(TypeError, "z must be a torch.Tensor", z=[1, 2])
    refuse(ValueError, "pos must have shape", pos=molecules["pos"][:-1])
    refuse(
        ValueError, "pos must be torch.float64, as the parameters are, got torch.float32", pos=molecules["pos"].float()
    )
    refuse(ValueError, "must be finite", pos=molecules["pos"] * float("nan"))
    refuse(TypeError, "nb must be symkern.Neighbors", nb=torch.zeros(2, 0, dtype=torch.int64))
    refuse(ValueError, "nb must be a graph of the", nb=sk.neighbor_list(molecules["pos"][:3], 3.0))
    refuse(ValueError, "nb must have the structures of batch", nb=sk.neighbor_list(molecules["pos"], 3.0))
    batched = sk.neighbor_list(molecules["pos"], 3.0, batch=molecules["batch"])
    refuse(ValueError, "batch must be given, nb.batch: nb holds", nb=batched, batch=None)
    refuse(ValueError, "nb must have the shifts", nb=batched, cell=9 * torch.eye(3, dtype=torch.float64))
    for options, match in (
        ({"cutoff": 2.9}, "complete for the model's cutoff of 3 Å, got a list for 2.9 Å"),
        ({"cutoff": 3.0, "full": False}, "each pair in both directions"),
        ({"cutoff": 3.0, "self_loops": True}, "no self loops"),
    ):
        refuse(ValueError, match, nb=sk.neighbor_list(molecules["pos"], batch=molecules["batch"], **options))
