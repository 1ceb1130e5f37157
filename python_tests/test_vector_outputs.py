"""Vectors from every model of SANN's tables: which are equivariant, which are not, and that they can be trained."""

from __future__ import annotations

import copy

import ase.build
import numpy as np
import point_groups
import pytest
import torch
from torch import Tensor, nn

import symkern as sk
from symkern.experiments.sann.vector_models import MODELS, Prepared, VectorModel, grid, make
from symkern.models import EGNN, DimeNetPlusPlus, PaiNN, SchNet
from symkern.models.vector_outputs import (
    ChargeDipoles,
    DisplacementVectors,
    GradientVectors,
    MLPVectors,
    Noisy,
    SummedVectors,
)
from symkern.testing.geometry import generator, random_rotation

EQUIVARIANT = ("SchNet", "DimeNet++", "EGNN", "PaiNN", "PaiNN (vector)")
SMALL = {"hidden": 16, "layers": 2}
NAMES = ("H2O", "CH3CH2OH", "NH3", "C2H2", "CH4")


def molecules(*names: str, noise: float = 0.1) -> dict[str, Tensor]:
    found = [ase.build.molecule(name) for name in names]
    pos = torch.tensor(np.concatenate([a.positions for a in found]))
    counts = torch.tensor([len(a) for a in found])
    return {
        "z": torch.tensor(np.concatenate([a.numbers for a in found])),
        "pos": pos + noise * torch.randn(pos.shape, generator=generator(0), dtype=torch.float64),
        "batch": torch.repeat_interleave(torch.arange(len(found)), counts),
        "ptr": torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
    }


def stirred(name: str, per: str = "atom", **settings: object) -> VectorModel:
    """In fp64 and evaluation mode; what starts at zero does not hide anything."""
    model = make(name, per=per, seed=0, dtype=torch.float64, **{**SMALL, **settings}).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator(1), dtype=p.dtype))
    return model


def output(model: VectorModel, data: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(model.prepare(**data))


def turned(data: dict[str, Tensor], seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Rotated or mirrored, shifted."""
    q = random_rotation(generator(seed)) * (-1) ** seed
    return {**data, "pos": data["pos"] @ q.T + torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)}, q


# ---- all models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_shapes_seeds_and_gradients(name: str) -> None:
    data = molecules(*NAMES)
    for per, rows in (("atom", len(data["z"])), ("molecule", len(NAMES))):
        model = make(name, per=per, seed=3, **SMALL)
        state = torch.get_rng_state()
        same, other = make(name, per=per, seed=3, **SMALL), make(name, per=per, seed=4, **SMALL)
        assert torch.equal(torch.get_rng_state(), state)
        prepared = model.prepare(**data)
        found = model(prepared)
        assert found.shape == (rows, 3)
        assert found.dtype == torch.float32
        assert torch.equal(same(prepared), found)
        assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
        # a target without net translation, which gradients of invariants could not follow from zero
        (found - torch.randn(found.shape, generator=generator(0))).square().sum().backward()
        reached = [p for p in model.parameters() if p.grad is not None and bool((p.grad != 0).any())]
        assert reached
        assert all(p.grad.isfinite().all() for p in reached if p.grad is not None)
        with torch.no_grad():
            for p in reached:
                p -= 1e-3 * p.grad  # type: ignore[operator]
        assert not torch.equal(same(prepared), model.eval()(prepared))


@pytest.mark.parametrize("per", ["atom", "molecule"])
@pytest.mark.parametrize("name", EQUIVARIANT)
def test_equivariant_models_are(name: str, per: str) -> None:
    data = molecules(*NAMES)
    model = stirred(name, per)
    found = output(model, data)
    assert found.abs().max() > 1e-3
    for seed in (1, 2):
        moved, q = turned(data, seed)
        torch.testing.assert_close(output(model, moved), found @ q.T, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_order_of_atoms(name: str) -> None:
    if "Noise" in name:
        pytest.skip("noise is drawn in the order of the atoms")
    data = molecules(*NAMES)
    order = torch.cat([torch.arange(a, b).flip(0) for a, b in zip(data["ptr"][:-1], data["ptr"][1:], strict=True)])
    shuffled = {key: value if key == "ptr" else value[order] for key, value in data.items()}
    model = stirred(name)
    torch.testing.assert_close(output(model, shuffled), output(model, data)[order], rtol=1e-8, atol=1e-9)
    model = stirred(name, "molecule")
    torch.testing.assert_close(output(model, shuffled), output(model, data), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in MODELS if "MLP" in name])
def test_mlp_is_not_equivariant(name: str) -> None:
    data = molecules(*NAMES)
    model = stirred(name)
    found = output(model, data)
    moved, q = turned(data, 1)
    assert (output(model, moved) - found @ q.T).abs().max() > 0.03
    shifted = {**data, "pos": data["pos"] + 5}
    torch.testing.assert_close(output(model, shifted), found, rtol=1e-9, atol=1e-9)


def test_what_a_symmetric_molecule_allows() -> None:
    """The mirror image of water's vectors is water's vectors, but not for +MLP and SANN."""
    water = point_groups.ideal_molecules()[8]
    assert water.name == "H2O"
    data = {
        "z": torch.tensor(water.numbers),
        "pos": torch.tensor(water.positions),
        "batch": torch.zeros(3, dtype=torch.int64),
        "ptr": torch.tensor([0, 3]),
    }
    sym = sk.stabilizers(data["pos"], data["z"])
    for name in MODELS:
        y = output(stirred(name), data)
        broken = max(
            float((y[sym.permutations[3 * g : 3 * g + 3]] - y @ sym.operations[g].T).abs().max()) for g in range(4)
        )
        if name in EQUIVARIANT:
            assert broken < 1e-10, name
        else:
            assert broken > 1e-4, name


def test_tensor_valued_painn_sees_its_vectors() -> None:
    """+MLP on PaiNN's vectors knows more than on its scalars alone."""
    widths = {name: make(name, seed=0, **SMALL).vectors.mlp[0].in_features for name in MODELS if "MLP" in name}
    assert widths == {
        "SchNet+MLP": 19,
        "DimeNet+MLP": 19,
        "EGNN+MLP": 19,
        "PaiNN+MLP": 3 + 4 * 16,
        "PaiNN (vector)+MLP": 19,
    }


def test_graphs() -> None:
    """Complete, or within the cutoff; molecules longer than a network's own cutoff need no longer graph."""
    chain = molecules("isobutane", "C6H6")
    for name in ("SchNet", "DimeNet++", "PaiNN", "PaiNN+Noise"):
        own = {"SchNet": 10.0}.get(name, 5.0)
        complete, radius = stirred(name), stirred(name, cutoff=own)
        assert complete.prepare(**chain).nb.num_edges == 14 * 13 + 12 * 11
        torch.testing.assert_close(output(complete, chain), output(radius, chain), rtol=1e-9, atol=1e-10)
    short = stirred("EGNN", cutoff=3.0)
    assert short.prepare(**chain).nb.num_edges < 14 * 13 + 12 * 11
    assert not torch.allclose(output(short, chain), output(stirred("EGNN"), chain))


def test_grids() -> None:
    """Tables 5 and 6, and section 6 for noise."""
    sizes = {name: len(grid(name)) for name in MODELS}
    assert sizes == {
        **dict.fromkeys(MODELS, 1),
        "EGNN": 15,
        "EGNN+MLP": 15,
        "EGNN+Noise": 45,
        "PaiNN+Noise": 3,
        "PaiNN (vector)+Noise": 3,
        "SANN": 27,
    }
    assert {"layers": 7, "hidden": 32} in grid("EGNN")
    assert {"layers": 1, "num_spherical": 6, "num_radial": 4} in grid("SANN")
    assert grid("SchNet") == [{}]
    for name in MODELS:
        for settings in grid(name)[:: max(1, sizes[name] - 1)]:
            make(name, seed=0, **settings)


def test_prepared_moves_and_converts() -> None:
    data = molecules("H2O", "NH3", noise=0.0)
    for name in ("SANN", "PaiNN"):
        model = make(name, seed=0, **SMALL)
        prepared = model.prepare(**data)
        assert prepared.pos.dtype == torch.float32
        moved = prepared.to("cpu")
        assert isinstance(moved, Prepared)
        assert torch.equal(model(moved), model(prepared))


def test_prepared_sann_is_the_model() -> None:
    data = molecules("H2O", "NH3", "C6H6", noise=0.0)
    for per in ("atom", "molecule"):
        model = stirred("SANN", per)
        with torch.no_grad():
            expected = model.vectors(data["z"], data["pos"], data["batch"])
        assert torch.equal(output(model, data), expected)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="name must be one of SchNet, "):
        make("MACE", seed=0)
    with pytest.raises(ValueError, match="per must be one of atom, molecule, got 'bond'"):
        make("SANN", per="bond", seed=0)
    with pytest.raises(ValueError, match="settings of EGNN are layers, hidden, cutoff, got noise"):
        make("EGNN", seed=0, noise=0.1)
    with pytest.raises(ValueError, match="name must be one of SchNet, "):
        grid("SchNet+Noise")
    data = molecules("H2O", "NH3")
    for name in ("SANN", "EGNN"):
        with pytest.raises(ValueError, match="ptr must be that of batch"):
            make(name, seed=0, **SMALL).prepare(**{**data, "ptr": torch.tensor([0, 7])})


# ---- heads -----------------------------------------------------------------------------------------------------------


def arguments(data: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in data.items() if key != "ptr"}


def differences(model: nn.Module, data: dict[str, Tensor], atom: int, axis: int) -> float:
    step = torch.zeros_like(data["pos"])
    step[atom, axis] = 1e-5
    with torch.no_grad():
        up, down = (model(data["z"], data["pos"] + s, data["batch"]).sum() for s in (step, -step))
    return float((down - up) / 2e-5)


def test_gradient_vectors_are_minus_the_gradient() -> None:
    data = arguments(molecules("H2O", "NH3"))
    torch.manual_seed(0)
    for model in (SchNet(1, 8, 8, 2, 8), PaiNN(1, 8, 2, 8)):
        found = GradientVectors(model.double())(**data)
        assert found.requires_grad
        for atom, axis in ((0, 0), (2, 1), (5, 2)):
            assert abs(found[atom, axis].item() - differences(model, data, atom, axis)) < 1e-8
        torch.testing.assert_close(found[:3].sum(0), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
        with torch.no_grad():
            torch.testing.assert_close(GradientVectors(model)(**data), found.detach())


def test_displacements_of_one_layer() -> None:
    """Eq. 4 of EGNN: x_i' - x_i = mean over j of (x_i - x_j) phi_x(m_ij)."""
    data = arguments(molecules("NH3"))
    torch.manual_seed(0)
    model = EGNN(1, 8, 1, cutoff=None, aggregation="mean").double()
    layer = model.layers[0]
    h, x = model.embedding(data["z"]), data["pos"]
    expected = torch.zeros_like(x)
    for i in range(4):
        for j in set(range(4)) - {i}:
            d = x[i] - x[j]
            message = layer.edge_mlp(torch.cat([h[i], h[j], d.square().sum()[None]]))
            expected[i] += d * layer.coord_mlp(message) / 3
    torch.testing.assert_close(DisplacementVectors(model)(**data), expected, rtol=1e-9, atol=1e-12)


def test_charge_dipoles() -> None:
    data = molecules("H2O", "NH3")
    z, pos, batch = data["z"], data["pos"], data["batch"]
    torch.manual_seed(0)
    center = torch.stack([pos[batch == b].mean(0) for b in range(2)])[batch]
    schnet, egnn = SchNet(1, 8, 8, 1, 8).double(), EGNN(1, 8, 1, cutoff=None).double()
    dimenet = DimeNetPlusPlus(8, 8, 1, 4, num_spherical=3, num_radial=3, output_initializer="glorot_orthogonal")
    for model in (schnet, egnn, dimenet.double()):
        head = ChargeDipoles(model, 8).double()
        h = model.encode(z, pos, batch)
        terms = (pos - center) * head.charge(h[0] if isinstance(h, tuple) else h)
        if isinstance(model, EGNN):
            terms = terms + h[1] - pos
        expected = pos.new_zeros(2, 3).index_add(0, batch, terms)
        torch.testing.assert_close(head(z, pos, batch), expected, rtol=1e-11, atol=1e-12)
        nb = sk.neighbor_list(pos, 12.0, batch=batch)
        torch.testing.assert_close(head(z, pos, batch, nb=nb), expected, rtol=1e-9, atol=1e-10)


def test_encoders_are_what_the_output_is_made_of() -> None:
    data = molecules("H2O", "NH3")
    z, pos, batch = data["z"], data["pos"], data["batch"]
    torch.manual_seed(0)
    schnet = SchNet(2, 8, 8, 1, 8).double()
    summed = torch.zeros(2, 2, dtype=torch.float64).index_add(0, batch, schnet.head(schnet.encode(z, pos, batch)))
    torch.testing.assert_close(schnet(z, pos, batch), summed)
    dimenet = DimeNetPlusPlus(
        3, 8, 1, 4, num_spherical=3, num_radial=3, output_initializer="glorot_orthogonal"
    ).double()
    summed = torch.zeros(2, 3, dtype=torch.float64).index_add(0, batch, dimenet.encode(z, pos, batch))
    torch.testing.assert_close(dimenet(z, pos, batch), summed)


def test_mlp_vectors() -> None:
    data = molecules("H2O", "NH3")
    z, pos, batch = data["z"], data["pos"], data["batch"]
    torch.manual_seed(0)
    model = PaiNN(1, 8, 1, 8).double()
    center = torch.stack([pos[batch == b].mean(0) for b in range(2)])[batch]
    q, mu = model.encode(z, pos, batch)
    for tensors, parts in ((False, [pos - center, q]), (True, [pos - center, q, mu.reshape(7, 24)])):
        head = MLPVectors(model, 8, 16, tensors=tensors).double()
        hidden = torch.cat(parts, 1) @ head.mlp[0].weight.T + head.mlp[0].bias
        expected = (hidden * torch.sigmoid(hidden)) @ head.mlp[2].weight.T + head.mlp[2].bias
        torch.testing.assert_close(head(z, pos, batch), expected, rtol=1e-10, atol=1e-12)
        total = torch.zeros(2, 3, dtype=torch.float64).index_add(0, batch, expected)
        torch.testing.assert_close(SummedVectors(head)(z, pos, batch), total, rtol=1e-10, atol=1e-12)
    with pytest.raises(TypeError, match="tensors=True needs a model with vectors"):
        MLPVectors(SchNet(1, 8, 8, 1, 8).double(), 8, tensors=True).double()(z, pos, batch)


# ---- noise -----------------------------------------------------------------------------------------------------------


class Positions(nn.Module):
    """Gives back what it gets."""

    def forward(self, z: Tensor, pos: Tensor, batch: Tensor | None = None) -> Tensor:
        return pos


def test_noise() -> None:
    z, pos = torch.ones(20_000, dtype=torch.int64), torch.zeros(20_000, 3, dtype=torch.float64)
    noisy = Noisy(Positions(), 0.1, seed=5)
    first, second = noisy(z, pos), noisy(z, pos)
    assert abs(float(first.std()) - 0.1) < 2e-3
    assert abs(float(first.mean())) < 2e-3
    correlation = float((first * second).mean()) / 0.01
    assert abs(correlation) < 0.02
    tested = noisy.eval()(z, pos)
    assert torch.equal(noisy(z, pos), tested)
    assert abs(float((tested * first).mean())) / 0.01 < 0.02
    assert not torch.equal(Noisy(Positions(), 0.1, seed=6).eval()(z, pos), tested)


def test_noise_continues_where_it_was() -> None:
    z, pos = torch.ones(4, dtype=torch.int64), torch.zeros(4, 3)
    noisy = Noisy(Positions(), 0.1, seed=5)
    noisy(z, pos)
    state, twin = noisy.state_dict(), copy.deepcopy(noisy)
    expected = noisy(z, pos)
    noisy.eval()(z, pos)  # draws nothing from the stream
    fresh = Noisy(Positions(), 0.1, seed=5)
    fresh.load_state_dict(state)
    assert torch.equal(fresh(z, pos), expected)
    assert torch.equal(twin(z, pos), expected)
    assert not torch.equal(noisy.train()(z, pos), expected)


def test_bad_noise() -> None:
    with pytest.raises(ValueError, match="sd must be positive"):
        Noisy(Positions(), 0.0)
    with pytest.raises(ValueError, match="seed must not be negative, got -1"):
        Noisy(Positions(), 0.1, seed=-1)
