"""ASAN in its readings, and the two networks it is compared with, against their definitions in NumPy."""

from __future__ import annotations

import json
from functools import reduce
from pathlib import Path

import ase.build
import numpy as np
import pytest
import torch

import symkern as sk
from symkern.models import ASAN, CoordinateMLP, InvariantMLP
from symkern.nn.asan import LearnedRotation, ScaledAngles

DOUBLE = torch.float64
NAMES = ("H2O", "CH4", "CH3CH2OH", "C6H6")
READINGS = ("outer", "gram", "moment")
VARIANTS = {
    **{reading: {"pooling": reading} for reading in READINGS},
    "released": {"variant": "released"},
    "masked": {"variant": "masked"},
}


def molecules(*names: str) -> dict[str, torch.Tensor]:
    atoms = [ase.build.molecule(name) for name in names or NAMES]
    random = np.random.default_rng(0)
    return {
        "z": torch.tensor(np.concatenate([a.numbers for a in atoms])),
        "pos": torch.tensor(np.concatenate([a.positions + 0.1 * random.normal(size=a.positions.shape) for a in atoms])),
        "batch": torch.repeat_interleave(torch.arange(len(atoms)), torch.tensor([len(a) for a in atoms])),
    }


def made(kind: str, **options: object) -> torch.nn.Module:
    """A network in fp64 with running statistics and angles unlike the initial ones, as after training."""
    torch.manual_seed(0)
    kinds = {"CoordinateMLP": CoordinateMLP, "InvariantMLP": InvariantMLP}
    model = kinds[kind](**options) if kind in kinds else ASAN(**VARIANTS[kind], **options)  # type: ignore[arg-type]
    model = model.to(DOUBLE).eval()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm1d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    if hasattr(model, "rotation"):
        torch.nn.init.normal_(model.rotation.theta)
    return model


def rotation(seed: int = 1) -> torch.Tensor:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return torch.tensor(q * np.linalg.det(q))


def centered(system: dict[str, torch.Tensor]) -> list[np.ndarray]:
    parts = [system["pos"][system["batch"] == b].numpy() for b in range(int(system["batch"][-1]) + 1)]
    return [x - x.mean(0) for x in parts]


def layers(model: torch.nn.Module, features: np.ndarray) -> np.ndarray:
    """The paper's MLP, 3.4, in evaluation: dropout does nothing, batch norm uses running statistics."""
    state = {k: v.detach().numpy() for k, v in model.regressor.state_dict().items()}
    h = features
    for first in (0, 4):
        h = h @ state[f"{first}.weight"].T + state[f"{first}.bias"]
        norm = first + 1
        h = (h - state[f"{norm}.running_mean"]) / np.sqrt(state[f"{norm}.running_var"] + 1e-5)
        h = np.maximum(h * state[f"{norm}.weight"] + state[f"{norm}.bias"], 0)
    return h @ state["8.weight"].T + state["8.bias"]


def pooled(x: np.ndarray, reading: str) -> np.ndarray:
    """By loops over atoms, for one molecule of turned coordinates."""
    if reading == "moment":
        return sum((np.outer(atom, atom) for atom in x), np.zeros((3, 3))).reshape(9)
    full = np.zeros((15, 3))
    full[: len(x)] = x
    if reading == "gram":
        return np.array([full[i] @ full[j] for i in range(15) for j in range(15)])
    u = full.reshape(45)
    return np.array([u[i] * u[j] for i in range(45) for j in range(i, 45)][:225])


# ---- what the networks compute


@pytest.mark.parametrize("reading", READINGS)
def test_paper_variant_is_its_text(reading: str) -> None:
    model, system = made(reading), molecules()
    turn = model.rotation().detach().numpy()
    features = np.stack([pooled(x @ turn, reading) for x in centered(system)])
    found = model(**system)
    assert found.shape == (4, 1)
    assert np.abs(found.detach().numpy() - layers(model, features)).max() < 1e-12


def test_released_variant_is_its_description() -> None:
    model, system = made("released"), molecules()
    torch.nn.init.uniform_(model.angles.scales, 0.5, 2)
    rows = []
    for x in centered(system):
        r = np.linalg.norm(x, axis=1)
        polar, azimuth = np.arccos(x[:, 2] / r), np.arctan2(x[:, 1], x[:, 0])
        row = np.zeros((5, 15, 3))
        for k, s in enumerate(model.angles.scales.tolist()):
            across = r * np.sin(s * polar)
            row[k, : len(x)] = np.stack(
                [across * np.cos(s * azimuth), across * np.sin(s * azimuth), r * np.cos(s * polar)], 1
            )
        rows.append(row.reshape(225))
    assert np.abs(model(**system).detach().numpy() - layers(model, np.stack(rows))).max() < 1e-12


def test_masked_variant_is_its_definition() -> None:
    """Padding is not there: the same as with dense arrays of any size and a mask."""
    model, system = made("masked"), molecules()
    nb = sk.neighbor_list(system["pos"], 5.0, batch=system["batch"])
    d = sk.safe_norm(sk.edge_vectors(system["pos"], nb))
    weights = model.weights(system["z"], d, nb).detach().numpy()
    turn = model.rotation().detach().numpy()
    rows, begin = [], 0
    for x in centered(system):
        w, mask = np.zeros((20, weights.shape[1])), np.zeros(20)
        w[: len(x)], mask[: len(x)] = weights[begin : begin + len(x)], 1
        full = np.full((20, 3), 7.0)  # what lies there must not matter
        full[: len(x)] = x @ turn
        moments = np.einsum("i,ic,ia,ib->cab", mask, w, full, full)
        rows.append(np.concatenate([mask @ w, moments.reshape(-1)]))
        begin += len(x)
    assert np.abs(model(**system).detach().numpy() - layers(model, np.stack(rows))).max() < 1e-12


def test_masked_variant_has_none_of_the_limits() -> None:
    model, system = made("masked"), molecules("C6H6", "bicyclobutane", "isobutane", "C60")
    assert (torch.bincount(system["batch"]) > 15).any()  # isobutane 14, C60 60 atoms
    found = model(**system)
    atoms = [(system["batch"] == b).nonzero().flatten() for b in range(4)]
    order = torch.cat([own[torch.randperm(len(own))] for own in atoms])
    permuted = {**system, "z": system["z"][order], "pos": system["pos"][order]}
    assert (model(**permuted) - found).abs().max() < 1e-11
    other = {**system, "z": torch.where(system["z"] == 6, 7, system["z"])}
    assert (model(**other) - found).abs().min() > 1e-3
    count = {name: sum(p.numel() for p in made(name).parameters()) for name in ("outer", "masked")}
    assert count["outer"] == 225 * 128 + 128 + 128 * 64 + 64 + 65 + 2 * (128 + 64) + 5
    assert abs(count["masked"] / count["outer"] - 1) < 0.1


def test_networks_of_the_comparison() -> None:
    system = molecules()
    model = made("CoordinateMLP")
    rows = [np.concatenate([x, np.zeros((15 - len(x), 3))]).reshape(45) for x in centered(system)]
    assert np.abs(model(**system).detach().numpy() - layers(model, np.stack(rows))).max() < 1e-12
    model, rows = made("InvariantMLP"), []
    for x in centered(system):
        n = len(x)
        distances = [np.linalg.norm(x[i] - x[j]) if j < n else 0 for i in range(15) for j in range(i + 1, 15)]
        angles = []
        for k in range(1, 14):
            if k + 1 >= n:
                angles.append(0.0)
                continue
            a, b = x[k - 1] - x[k], x[k + 1] - x[k]
            angles.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        rows.append(np.array([*distances, *angles]))
    assert len(rows[0]) == 118
    assert np.abs(model(**system).detach().numpy() - layers(model, np.stack(rows))).max() < 1e-12


# ---- symmetry


@pytest.mark.parametrize("kind", [*VARIANTS, "CoordinateMLP", "InvariantMLP"])
def test_what_rotations_do(kind: str) -> None:
    """Only products between atoms, and distances and angles, stay as they are; the output of the others changes."""
    model, system = made(kind), molecules()
    found = model(**system)
    moved = model(**{**system, "pos": system["pos"] + torch.tensor([3.0, -2, 5])})
    assert (moved - found).abs().max() < 1e-10
    for turn in (rotation(), -rotation(2)):
        change = (model(**{**system, "pos": system["pos"] @ turn}) - found).abs()
        if kind in ("gram", "InvariantMLP"):
            assert change.max() < 1e-11
        else:
            assert change.max() > 1e-3


@pytest.mark.parametrize("kind", [*READINGS, "masked"])
def test_the_learned_rotation_is_a_rotation_of_the_input(kind: str) -> None:
    """f_theta(x) = f_0(x R): what augmentation by random rotations makes irrelevant."""
    model, system = made(kind), molecules()
    plain = made(kind, num_angles=0)
    plain.load_state_dict(model.state_dict() | {"rotation.theta": plain.rotation.theta})
    with torch.no_grad():
        pos = torch.cat([torch.tensor(x) for x in centered(system)]) @ model.rotation()
    assert (plain(**{**system, "pos": pos}) - model(**system)).abs().max() < 1e-12


def test_gram_has_no_gradient_in_the_angles() -> None:
    """A finding about the paper's text: X R R^T X^T = X X^T."""
    norms = {}
    for reading in READINGS:
        model = made(reading)
        loss = model(**molecules()).square().sum()
        angles, weight = torch.autograd.grad(loss, [model.rotation.theta, model.regressor[0].weight])
        norms[reading] = float(angles.norm() / weight.norm())
    assert norms["gram"] < 1e-14
    assert min(norms["outer"], norms["moment"]) > 1e-4


def test_learned_rotation() -> None:
    def givens(k: int, angle: float) -> np.ndarray:
        i, j = ((0, 1), (0, 2), (1, 2))[k % 3]
        g = np.eye(3)
        g[i, i] = g[j, j] = np.cos(angle)
        g[i, j], g[j, i] = -np.sin(angle), np.sin(angle)
        return g

    for count in (0, 1, 3, 5, 10):
        layer = LearnedRotation(count).to(DOUBLE)
        assert torch.equal(layer(), torch.eye(3, dtype=DOUBLE))
        torch.nn.init.normal_(layer.theta)
        angles = np.pi * np.tanh(layer.theta.detach().numpy())
        expected = reduce(np.matmul, [givens(k, a) for k, a in enumerate(angles)], np.eye(3))
        found = layer().detach().numpy()
        assert np.abs(found - expected).max() < 1e-14
        assert np.linalg.det(found) == pytest.approx(1)
    assert LearnedRotation(5)().dtype == torch.float32
    with pytest.raises(ValueError, match="num_angles must not be negative, got -1"):
        LearnedRotation(-1)


def test_scaled_angles() -> None:
    layer = ScaledAngles(3).to(DOUBLE)
    x = torch.randn(20, 3, dtype=DOUBLE)
    found = layer(x)
    assert (found[:, 1] - x).abs().max() < 1e-14  # factor 1
    assert (found.norm(dim=2) - x.norm(dim=1, keepdim=True)).abs().max() < 1e-14
    on_axis = torch.tensor([[0.0, 0, 0], [0, 0, 2], [0, 0, -2], [1, 0, 0]], dtype=DOUBLE, requires_grad=True)
    found = layer(on_axis)
    assert found[0].abs().max() == 0
    assert found[1].tolist() == [[0, 0, 2]] * 3
    (grad,) = torch.autograd.grad(found.square().sum(), on_axis)
    assert grad.isfinite().all()
    assert torch.autograd.gradcheck(layer, x[:4].clone().requires_grad_())


# ---- derivatives, inputs, files


@pytest.mark.parametrize("kind", [*VARIANTS, "CoordinateMLP", "InvariantMLP"])
def test_forces(kind: str) -> None:
    """Derivatives in positions, of first and second order, also with coincident atoms and an atom at the centroid."""
    model, system = made(kind, hidden=(6, 5)), molecules("H2O", "CH4")

    def f(pos: torch.Tensor) -> torch.Tensor:
        return model(system["z"], pos, system["batch"])

    pos = system["pos"].clone().requires_grad_()
    assert torch.autograd.gradcheck(f, pos)
    assert torch.autograd.gradgradcheck(f, pos, atol=1e-4)
    odd = torch.tensor([[0.0, 0, 0], [0, 0, 1], [0, 0, -1], [0, 0, 0]], dtype=DOUBLE, requires_grad=True)
    out = model(torch.tensor([6, 1, 1, 6]), odd)
    (grad,) = torch.autograd.grad(out.sum(), odd, create_graph=True)
    assert grad.isfinite().all()
    if grad.requires_grad:
        assert torch.autograd.grad(grad.square().sum(), odd)[0].isfinite().all()


@pytest.mark.parametrize("kind", [*VARIANTS, "CoordinateMLP", "InvariantMLP"])
def test_batches_and_inputs(kind: str) -> None:
    model, system = made(kind), molecules()
    found = model(**system)
    nb = sk.neighbor_list(system["pos"], 5.0, batch=system["batch"])
    assert torch.equal(model(**system, nb=nb), found)
    one = system["batch"] == 2
    assert (model(system["z"][one], system["pos"][one]) - found[2]).abs().max() < 1e-12
    boxed = model(**system, cell=9 * torch.eye(3, dtype=DOUBLE), pbc=torch.zeros(3, dtype=torch.bool))
    assert torch.equal(boxed, found)
    with pytest.raises(ValueError, match=r"cell must be None: .* a periodic structure lacks"):
        model(**system, cell=9 * torch.eye(3, dtype=DOUBLE))
    with pytest.raises(ValueError, match=r"pos must be torch\.float64, as the parameters are, got torch\.float32"):
        model(system["z"], system["pos"].float(), system["batch"])
    with pytest.raises(ValueError, match=r"z must lie in 1 \.\. 99"):
        model(0 * system["z"], system["pos"], system["batch"])
    with pytest.raises(ValueError, match=r"nb must be a graph of the \d+ atoms of z"):
        model(**system, nb=sk.neighbor_list(system["pos"][:5], 5.0))
    if kind not in ("moment", "masked"):
        with pytest.raises(ValueError, match="z must hold molecules of at most 15 atoms, got one of 60"):
            model(**molecules("C60"))


@pytest.mark.parametrize("kind", ["CoordinateMLP", "InvariantMLP", "released"])
def test_too_large_a_molecule_harms_no_other_where_no_check_can_raise(kind: str) -> None:
    """Compiled code does not raise: the large molecule is NaN, the one behind it right."""
    model = torch.compile(made(kind), backend="aot_eager")
    found = model(**molecules("H2O", "C60", "CH4"))
    assert found.isnan().flatten().tolist() == [False, True, False]
    alone = molecules("H2O", "C60", "CH4")
    last = alone["batch"] == 2
    expected = made(kind)(alone["z"][last], alone["pos"][last])
    torch.testing.assert_close(found[2:], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["CoordinateMLP", "InvariantMLP", *VARIANTS])
def test_a_batch_of_one_is_not_trained_on(kind: str) -> None:
    model, one = made(kind), molecules("CH4")
    assert model(**one).shape == (1, 1)
    with pytest.raises(ValueError, match="batch must hold at least 2 molecules in training mode, got 1: batch norm"):
        model.train()(**one)


def test_settings() -> None:
    for options, match in (
        ({"variant": "other"}, "variant must be one of paper, released, masked, got 'other'"),
        ({"pooling": "mean"}, "pooling must be one of outer, gram, moment, got 'mean'"),
        ({"variant": "masked", "pooling": "gram"}, "pooling is a setting of variant='paper', got 'gram' for 'masked'"),
        ({"variant": "released", "num_angles": 0}, "num_scales must be positive"),
        ({"variant": "masked", "channels": 0}, "channels must be positive"),
        ({"cutoff": 3.0}, "cutoff is a setting of variant='masked', got 3.0 for 'paper'"),
        ({"variant": "released", "channels": 8}, "channels is a setting of variant='masked', got 8 for 'released'"),
        ({"out": 0}, "out must be positive"),
        ({"hidden": (5, 0)}, "hidden must be positive"),
        ({"dropout": 2.0}, "dropout"),
    ):
        with pytest.raises(ValueError, match=match):
            ASAN(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_atoms must be at least 2, got 1"):
        InvariantMLP(max_atoms=1)
    with pytest.raises(ValueError, match="max_atoms must be positive"):
        CoordinateMLP(max_atoms=0)
    system = molecules("C60")
    assert made("CoordinateMLP", max_atoms=60)(**system).shape == (1, 1)
    assert made("InvariantMLP", max_atoms=60, out=2)(**system).shape == (1, 2)


@pytest.mark.parametrize("kind", [*VARIANTS, "CoordinateMLP", "InvariantMLP"])
def test_saved(kind: str, tmp_path: Path) -> None:
    model, system = made(kind), molecules()
    assert json.loads(json.dumps(model.config)) == model.config
    wrapped = sk.Normalized(model, mean=0.3, std=0.1, target="gap")
    wrapped.save(tmp_path / "model.pt")
    assert torch.equal(sk.load_model(tmp_path / "model.pt")(**system), wrapped.eval()(**system))


@pytest.mark.parametrize("kind", ["outer", "released", "masked", "InvariantMLP"])
def test_compiles(kind: str) -> None:
    model, system = made(kind), molecules()
    nb = sk.neighbor_list(system["pos"], 5.0, batch=system["batch"])
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert (compiled(**system, nb=nb) - model(**system, nb=nb)).abs().max() < 1e-12
