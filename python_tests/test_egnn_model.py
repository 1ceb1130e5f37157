"""The model EGNN: batches, cells, cutoffs, forces, bad input."""

from __future__ import annotations

import json
from typing import Any

import ase.build
import numpy as np
import pytest
import torch
from egnn_tools import DOUBLE, close, lively, molecules, rotation
from torch import Tensor, nn

import symkern as sk
from symkern.models import EGNN

MODEL_OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "mean": {"aggregation": "mean", "attention": True, "readout": "mean"},
    "structure": {"decoder": "structure", "normalize": True, "tanh": True, "node_attr": 2},
    "not smooth": {"smooth": False, "aggregation": "mean", "decoder": "linear"},
    "complete": {"cutoff": None, "update_coordinates": False},
}


@pytest.fixture(params=MODEL_OPTIONS)
def model(request: pytest.FixtureRequest) -> EGNN:
    made: EGNN = lively(EGNN(2, 8, 2, **{"cutoff": 3.0, **MODEL_OPTIONS[request.param]}))
    return made


NAMES = ("CH3CH2OH", "H2O", "CO2", "CH4")


def test_a_batch_equals_its_molecules(model: EGNN) -> None:
    system = molecules(*NAMES)
    out, (h, x) = model(**system), model.encode(**system)
    assert out.shape == (len(NAMES), 2)
    for b in range(len(NAMES)):
        own = system["batch"] == b
        z, pos = system["z"][own], system["pos"][own]
        close(model(z, pos), out[b : b + 1])
        close(model.encode(z, pos)[0], h[own])
        close(model.encode(z, pos)[1], x[own])


def test_model_symmetries(model: EGNN) -> None:
    system = molecules("CH3CH2OH")
    z, pos = system["z"], system["pos"]
    r, shuffled = rotation(-1), torch.randperm(len(z))
    out, (_, x) = model(z, pos), model.encode(z, pos)
    close(model(z, pos @ r.T + 4), out)
    close(model.encode(z, pos @ r.T + 4)[1], x @ r.T + 4)
    close(model(z[shuffled], pos[shuffled]), out)
    close(model.encode(z[shuffled], pos[shuffled])[1], x[shuffled])
    if model.config["update_coordinates"]:
        assert (x - pos).abs().max() > 1e-3


def test_longer_lists_change_nothing(model: EGNN) -> None:
    system = molecules(*NAMES)
    exact = model(**system)
    if model.config["cutoff"] is None:
        close(model(**system, nb=sk.neighbor_list(system["pos"], 50.0, batch=system["batch"])), exact)
        return
    verlet = sk.VerletList(3.0, 1.0)(system["pos"], batch=system["batch"], max_edges=300)
    assert int(verlet.row_ptr[-1]) > sk.neighbor_list(system["pos"], 3.0, batch=system["batch"]).num_edges
    close(model(**system, nb=verlet), exact)
    close(model.encode(**system, nb=verlet)[1], model.encode(**system)[1])


@pytest.mark.parametrize("name", ["default", "mean", "structure", "not smooth"])
def test_supercell_is_its_cells(name: str) -> None:
    model = lively(EGNN(2, 8, 2, **{"cutoff": 3.0, **MODEL_OPTIONS[name], "decoder": "mlp"}))
    unit = ase.build.bulk("NaCl", "rocksalt", 5.6, cubic=False)
    unit.rattle(0.1, seed=2)
    double = unit.repeat((2, 1, 1))
    outputs, vectors = [], []
    for atoms in (unit, double):
        z, pos, cell = (torch.tensor(np.asarray(a)) for a in (atoms.numbers, atoms.positions, atoms.cell))
        outputs.append(model(z, pos, cell=cell))
        vectors.append(model.encode(z, pos, cell=cell)[1] - pos)
    close(outputs[1], outputs[0] * (1 if model.readout == "mean" else 2))
    close(vectors[1], vectors[0].repeat(2, 1))


def test_no_atoms_no_structures_and_single_atoms(model: EGNN) -> None:
    nothing = torch.empty(0, dtype=torch.int64)
    assert model(nothing, torch.empty(0, 3, dtype=DOUBLE), nothing).shape == (0, 2)
    assert model(nothing, torch.empty(0, 3, dtype=DOUBLE)).shape == (1, 2)
    h, x = model.encode(torch.tensor([6]), torch.ones(1, 3, dtype=DOUBLE))
    assert h.isfinite().all()
    close(x, torch.ones(1, 3, dtype=DOUBLE))


def test_config_rebuilds_the_model(model: EGNN) -> None:
    again = EGNN(**json.loads(json.dumps(model.config))).double()
    again.load_state_dict(model.state_dict())
    system = molecules(*NAMES)
    close(again(**system), model(**system), 0.0)


@pytest.mark.parametrize("aggregation", ["sum", "mean"])
def test_smooth_energies_are_continuous_at_the_cutoff(aggregation: str) -> None:
    options: dict[str, Any] = {"cutoff": 3.0, "aggregation": aggregation, "attention": True}
    z = torch.tensor([6, 8, 1])

    def energies(model: nn.Module) -> Tensor:
        found = [
            model(z, torch.tensor([[0, 0, 0], [0, 1.1, 0], [d, 0, 0]], dtype=DOUBLE)) for d in (3 - 1e-7, 3 + 1e-7)
        ]
        return torch.cat(found).squeeze(1)

    smooth, rough = (energies(lively(EGNN(1, 8, 2, smooth=smooth, **options))) for smooth in (True, False))
    assert (smooth[0] - smooth[1]).abs() < 1e-9
    assert (rough[0] - rough[1]).abs() > 1e-3


def test_smooth_forces_are_continuous_at_the_cutoff() -> None:
    def jump(smooth: bool) -> float:
        model = lively(EGNN(1, 8, 2, cutoff=3.0, attention=True, smooth=smooth))
        forces = []
        for d in (3 - 1e-6, 3 + 1e-6):
            pos = torch.tensor([[0, 0, 0], [0, 1.1, 0], [d, 0, 0]], dtype=DOUBLE)
            forces.append(sk.energy_and_forces(model, torch.tensor([6, 8, 1]), pos)[1])
        return float((forces[0] - forces[1]).abs().max())

    assert jump(smooth=True) < 1e-6
    assert jump(smooth=False) > 1e-4


def test_forces_are_the_derivative_and_train() -> None:
    system = molecules("CH3CH2OH", "H2O")
    model = lively(EGNN(1, 8, 2, cutoff=3.0, attention=True))
    _, forces = sk.energy_and_forces(model, **system)
    step = 1e-5
    for atom, axis in ((0, 0), (4, 1), (10, 2)):
        moved = [system["pos"].clone() for _ in range(2)]
        moved[0][atom, axis] += step
        moved[1][atom, axis] -= step
        high, low = (model(system["z"], pos, system["batch"]).sum() for pos in moved)
        close(-(high - low) / (2 * step), forces[atom, axis], 1e-6)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        energies, forces = sk.energy_and_forces(model, **system, create_graph=True)
        losses.append(forces.square().mean() + energies.square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[2] < losses[1] < losses[0]
    unused = {name for name, p in model.named_parameters() if p.grad is None}
    assert unused == {"layers.1.coord_mlp.0.weight", "layers.1.coord_mlp.0.bias", "layers.1.coord_mlp.2.weight"}


def test_velocities_and_edge_attributes_reach_the_layers() -> None:
    system = molecules("CH3CH2OH")
    z, pos, v = system["z"], system["pos"], torch.randn_like(system["pos"])
    model = lively(EGNN(1, 8, 2, cutoff=None, velocity=True, edge_attr=1))
    nb = sk.neighbor_list(pos, 50.0)
    attr = torch.randn(nb.num_edges, 1, dtype=DOUBLE)
    _, x = model.encode(z, pos, nb=nb, edge_attr=attr, v=v)
    # by hand: every layer gets the initial velocities
    h, by_hand = model.embedding(z), pos
    for layer in model.layers:
        h, by_hand, _ = layer(h, by_hand, nb, attr, v)
    close(x, by_hand)
    r = rotation(-1)
    close(model.encode(z, pos @ r.T, nb=nb, edge_attr=attr, v=v @ r.T)[1], x @ r.T)
    assert not torch.allclose(model(z, pos, nb=nb, edge_attr=attr, v=2 * v), model(z, pos, nb=nb, edge_attr=attr, v=v))
    with pytest.raises(ValueError, match="nb must be given with edge_attr"):
        model(z, pos, edge_attr=attr, v=v)


def test_single_precision_follows_double() -> None:
    system = molecules(*NAMES)
    model = lively(EGNN(1, 16, 3, attention=True))
    exact, (_, x) = model(**system), model.encode(**system)
    system["pos"] = system["pos"].float()
    out, (_, x32) = model.float()(**system), model.encode(**system)
    assert out.dtype == x32.dtype == torch.float32
    close(out.double(), exact, 1e-4)
    close(x32.double(), x, 1e-4)


def test_bfloat16_autocast_runs_backward() -> None:
    system = molecules(*NAMES)
    system["pos"] = system["pos"].float()
    model = lively(EGNN(1, 16, 2, attention=True)).float()
    exact = model(**system)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(**system)
    out.float().sum().backward()
    close(out.float(), exact, 0.1)


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"cutoff": 0.0}, "cutoff must be positive"),
        ({"num_layers": 0}, "num_layers must be positive"),
        ({"decoder": "none"}, "decoder must be one of"),
        ({"readout": "max"}, "readout must be one of"),
        ({"elements": [1, 200]}, "elements must be different"),
        ({"elements": []}, "elements must be different"),
    ],
)
def test_bad_settings_of_a_model(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EGNN(**setting)


def test_bad_inputs_of_a_model() -> None:
    system = molecules("H2O")
    model = EGNN(cutoff=None, elements=(1, 8)).double()
    cell = torch.eye(3, dtype=DOUBLE)
    with pytest.raises(ValueError, match="knows no periodic images"):
        model(**system, cell=cell)
    model(**system, cell=cell, pbc=torch.tensor([False, False, False]))
    with pytest.raises(ValueError, match=r"pos must be torch\.float64"):
        model(system["z"], system["pos"].float())
    with pytest.raises(ValueError, match="only the elements"):
        model(system["z"] + 1, system["pos"])
    with pytest.raises(ValueError, match="batch must be sorted"):
        model(system["z"], system["pos"], torch.tensor([1, 0, 0]))
    with pytest.raises(TypeError, match="z must be"):
        model([8, 1, 1], system["pos"])
