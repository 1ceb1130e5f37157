"""PaiNN's heads turn with the molecule, its blocks are defined at zero, and it learns. See also test_models.py."""

from __future__ import annotations

import json
from pathlib import Path

import ase.build
import pytest
import torch
from egnn_tools import DOUBLE, close, molecules, rotation
from torch import Tensor

import symkern as sk
from symkern import training
from symkern.data import Dataset
from symkern.models import PaiNN
from symkern.nn import GatedEquivariantBlock, PaiNNInteraction, PaiNNMixing, unit_vectors

HEADS = ("vector", "dipole", "polarizability")
NAMES = ("CH3CH2OH", "H2O", "C2H2", "NH3", "CO2")


def made(head: str = "scalar", **options: object) -> PaiNN:
    """fp64, with nothing that starts at zero left there."""
    torch.manual_seed(3)
    model = PaiNN(1, 12, 2, 6, 3.0, head=head, **options).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def turned(q: Tensor, out: Tensor) -> Tensor:
    """A vector per row, or a tensor."""
    return out @ q.T if out.dim() == 2 else q @ out @ q.T


@pytest.mark.parametrize("determinant", [1, -1])
@pytest.mark.parametrize("head", HEADS)
def test_heads_turn_with_the_molecule(head: str, determinant: int) -> None:
    model, system, q = made(head), molecules(*NAMES), rotation(determinant)
    out = model(**system)
    assert out.shape == {"vector": (len(system["z"]), 3), "dipole": (5, 3), "polarizability": (5, 3, 3)}[head]
    assert (out.abs() > 1e-3).sum() > out.numel() // 2
    moved = system["pos"] @ q.T + torch.tensor([1.0, -2.0, 3.0], dtype=DOUBLE)
    close(model(**{**system, "pos": moved}), turned(q, out))
    if head == "polarizability":
        close(out, out.transpose(1, 2), 1e-14)
        isotropic = out.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(3, dtype=DOUBLE)
        assert (out - isotropic).abs().max() > 1e-2


def test_features_turn_with_the_molecule() -> None:
    model, system, q = made(), molecules(*NAMES), rotation(-1)
    scalars, vectors = model.encode(**system)
    again, turned_vectors = model.encode(**{**system, "pos": system["pos"] @ q.T})
    close(again, scalars)
    close(turned_vectors, torch.einsum("ab,nbf->naf", q, vectors))
    assert vectors.abs().max() > 1e-2


@pytest.mark.parametrize("head", HEADS)
def test_order_and_batching_do_not_matter(head: str) -> None:
    model, system = made(head), molecules(*NAMES)
    out = model(**system)
    order = torch.argsort(system["batch"] + torch.rand(len(system["z"]), generator=torch.Generator().manual_seed(2)))
    shuffled = model(**{name: value[order] for name, value in system.items()})
    close(shuffled, out[order] if head == "vector" else out)
    own = [system["batch"] == b for b in range(len(NAMES))]
    close(torch.cat([model(system["z"][mask], system["pos"][mask]) for mask in own]), out)
    padded = sk.neighbor_list(system["pos"], 4.0, batch=system["batch"], max_edges=900)
    close(model(**system, nb=padded), out)


@pytest.mark.parametrize("head", HEADS)
def test_gradients_of_heads(head: str) -> None:
    model, system = made(head), molecules("H2O", "C2H2")
    nb = sk.neighbor_list(system["pos"], 3.5, batch=system["batch"])
    pos = system["pos"].requires_grad_()

    def output(x: Tensor) -> Tensor:
        out: Tensor = model(system["z"], x, system["batch"], nb=nb)
        return out

    assert torch.autograd.gradcheck(output, pos, fast_mode=True)
    assert torch.autograd.gradgradcheck(output, pos, fast_mode=True)


def test_gradients_of_a_trainable_basis() -> None:
    for kind in ("bessel", "gaussian"):
        model, system = made(kind=kind, trainable_basis=True), molecules("H2O", "C2H2")
        basis = model.interactions[0].basis
        parameters = list(basis.parameters())
        assert parameters
        assert all(layer.basis is basis for layer in model.interactions)

        def energy(*_: Tensor, model: PaiNN = model, system: dict[str, Tensor] = system) -> Tensor:
            out: Tensor = model(**system)
            return out

        assert torch.autograd.gradcheck(energy, parameters, fast_mode=True)


@pytest.mark.parametrize("head", ["scalar", *HEADS])
def test_atoms_without_neighbors(head: str) -> None:
    """A single atom, two out of reach of each other, two in one place, and none."""
    model = made(head)
    far = torch.tensor([[0.0, 0, 0], [9, 0, 0], [3, 3, 3], [3, 3, 3], [3, 3, 4]], dtype=DOUBLE, requires_grad=True)
    out = model(torch.tensor([8, 6, 1, 7, 1]), far)
    (grad,) = torch.autograd.grad(out.square().sum(), far, create_graph=True)
    weights = torch.autograd.grad(grad.square().sum(), list(model.parameters()), allow_unused=True)
    assert all(torch.isfinite(x).all() for x in (out, grad, *(w for w in weights if w is not None)))
    if head == "vector":
        assert (out[:2] == 0).all()
    alone = model(torch.tensor([8]), torch.tensor([[5.0, 6, 7]], dtype=DOUBLE))
    assert torch.isfinite(alone).all()
    assert alone.shape[0] == 1
    if head in ("vector", "dipole"):
        assert (alone == 0).all()
    none = torch.zeros(0, dtype=torch.int64)
    assert len(model(none, torch.zeros(0, 3, dtype=DOUBLE), none)) == 0


def test_vectors_of_symmetric_molecules_are_symmetric() -> None:
    """Methane has no dipole, carbon no vector, and each hydrogen's points along its bond."""
    atoms = ase.build.molecule("CH4")
    z, pos = torch.tensor(atoms.numbers, dtype=torch.int64), torch.tensor(atoms.positions)
    assert made("dipole")(z, pos).abs().max() < 1e-12
    vectors = made("vector")(z, pos)
    assert vectors[0].abs().max() < 1e-12
    assert vectors[1:].abs().max() > 1e-3
    assert torch.linalg.cross(vectors[1:], pos[1:] - pos[0]).abs().max() < 1e-12
    alpha = made("polarizability")(z, pos)[0]
    close(alpha, alpha[0, 0] * torch.eye(3, dtype=DOUBLE), 1e-12)


def test_vectors_of_a_crystal_are_those_of_its_supercell() -> None:
    small = ase.build.bulk("NaCl", "rocksalt", a=4.4)
    small.rattle(0.2, seed=1)
    model, found = made("vector"), []
    for atoms in (small, small * (2, 1, 3)):
        z, pos = torch.tensor(atoms.numbers, dtype=torch.int64), torch.tensor(atoms.positions)
        found.append(model(z, pos, cell=torch.tensor(atoms.cell.array)))
    assert found[0].abs().max() > 1e-3
    close(found[1], found[0].repeat(6, 1))


@pytest.mark.parametrize("head", HEADS)
def test_heads_go_smoothly_through_the_cutoff(head: str) -> None:
    model, found = made(head), []
    for offset in (-1e-7, 1e-7):
        pos = torch.tensor([[0.0, 0, 0], [1, 0.3, 0], [3 + offset, 0, 0]], dtype=DOUBLE, requires_grad=True)
        out = model(torch.tensor([6, 1, 8]), pos)
        found.append((out.detach(), torch.autograd.grad(out.square().sum(), pos)[0]))
    close(found[0][0], found[1][0], 1e-6)
    close(found[0][1], found[1][1], 1e-5)


@pytest.mark.parametrize("head", ["dipole", "polarizability"])
def test_positions_of_a_crystal_have_no_center(head: str) -> None:
    model, cell = made(head), 9 * torch.eye(3, dtype=DOUBLE)
    z, pos = torch.tensor([8, 1]), torch.tensor([[0.0, 0, 0], [0, 0, 1]], dtype=DOUBLE)
    with pytest.raises(ValueError, match="cell must be None"):
        model(z, pos, cell=cell)
    boxed = model(z, pos, cell=cell, pbc=torch.zeros(3, dtype=torch.bool))
    close(boxed, model(z, pos), 1e-14)


def test_settings() -> None:
    for options, match in (
        ({"head": "energy"}, "head must be one of scalar, vector, dipole, polarizability, got 'energy'"),
        ({"readout": "max"}, "readout must be one of sum, mean"),
        ({"head": "dipole", "readout": "mean"}, "out and readout are settings of head='scalar'"),
        ({"head": "vector", "out": 2}, "out and readout are settings of head='scalar'"),
        ({"hidden": 0}, "hidden must be positive"),
        ({"num_layers": 0}, "num_layers must be positive"),
        ({"cutoff": -1.0}, "cutoff must be positive"),
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"kind": "sine"}, "kind must be one of"),
        ({"head_hidden": [4, 0]}, "head_hidden must be positive"),
    ):
        with pytest.raises(ValueError, match=match):
            PaiNN(**options)  # type: ignore[arg-type]
    model = PaiNN(3, 8, 3, head_hidden=(6, 5), shared_filters=True)
    assert len({id(layer.filter) for layer in model.interactions}) == 1
    assert [p.shape[0] for name, p in model.head.named_parameters() if name.endswith("weight")] == [6, 5, 3]
    assert json.loads(json.dumps(model.config)) == model.config


def test_layers_check_their_input() -> None:
    layer, nb = PaiNNInteraction(8, 5, 3.0), sk.neighbor_list(torch.rand(4, 3), 3.0)
    mu, d, directions = torch.zeros(4, 3, 8), torch.ones(nb.num_edges), torch.zeros(nb.num_edges, 3)
    with pytest.raises(ValueError, match=r"q must be floats of shape \(4, 8\)"):
        layer(torch.zeros(4, 9), mu, d, directions, nb)
    with pytest.raises(ValueError, match=r"mu must have shape \(4, 3, 8\)"):
        layer(torch.zeros(4, 8), mu[:, :2], d, directions, nb)
    with pytest.raises(TypeError, match=r"nb must be symkern.Neighbors.*from_edge_index"):
        layer(torch.zeros(4, 8), mu, d, directions, nb.edge_index)
    with pytest.raises(ValueError, match=r"q must be torch.float32, as the parameters are, got torch.float64"):
        layer(torch.zeros(4, 8).double(), mu, d, directions, nb)
    with pytest.raises(ValueError, match="hidden must be positive"):
        PaiNNMixing(0)
    with pytest.raises(ValueError, match="outputs must be positive"):
        GatedEquivariantBlock(4, 0)


def test_unit_vectors_are_defined_at_zero() -> None:
    vec = torch.tensor([[3.0, 0, 4], [0, 0, 0], [1e-30, 0, 0], [2e-10, 0, 0]], requires_grad=True)
    unit = unit_vectors(vec, sk.safe_norm(vec))
    assert unit.tolist() == [[pytest.approx(0.6), 0, pytest.approx(0.8)], [0, 0, 0], [0, 0, 0], [1, 0, 0]]
    (grad,) = torch.autograd.grad(unit.sum(), vec, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), vec)
    assert (grad[1:3] == 0).all()
    assert torch.isfinite(grad).all()
    assert torch.isfinite(second).all()


@pytest.mark.parametrize("head", ["scalar", *HEADS])
def test_compiles(head: str) -> None:
    model, system = made(head), molecules("H2O", "CH4")
    nb = sk.neighbor_list(system["pos"], 3.0, batch=system["batch"])
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    results = []
    for run in (model, compiled):
        pos = system["pos"].clone().requires_grad_()
        out = run(system["z"], pos, system["batch"], nb=nb)
        results.append([out, *torch.autograd.grad(out.square().sum(), [pos, *model.parameters()], allow_unused=True)])
    for plain, fast in zip(*results, strict=True):
        assert (plain is None) == (fast is None)
        if plain is not None:
            close(fast, plain, 1e-12)


@pytest.mark.parametrize("head", HEADS)
def test_bf16(head: str) -> None:
    """Linear layers in bf16: a small error, outputs and gradients in fp32."""
    model, system = made(head).float(), molecules(*NAMES)
    system["pos"] = system["pos"].float()
    with torch.autocast("cpu", torch.bfloat16):
        low = model(**system)
    exact = model(**system)
    assert low.dtype == torch.float32
    assert 0 < (low - exact).abs().max() < 0.1 * exact.abs().max()
    low.square().sum().backward()
    assert all(
        p.grad is None or (p.grad.dtype == torch.float32 and p.grad.isfinite().all()) for p in model.parameters()
    )


# ---- learning


def water(count: int = 48) -> Dataset:
    """Bent molecules of three atoms in random orientations, with properties of point charges and springs."""
    generator = torch.Generator().manual_seed(0)
    atoms = ase.build.molecule("H2O")
    pos = torch.tensor(atoms.positions).repeat(count, 1, 1)
    pos = pos + 0.1 * torch.randn(pos.shape, dtype=DOUBLE, generator=generator)
    turn, _ = torch.linalg.qr(torch.randn(count, 3, 3, dtype=DOUBLE, generator=generator))
    pos = (pos @ turn).requires_grad_()
    charges = torch.tensor([-0.8, 0.4, 0.4], dtype=DOUBLE)
    bonds = (pos[:, 1:] - pos[:, :1]).norm(dim=2)
    energy = 10 * (bonds - 1).square().sum(1)
    (gradient,) = torch.autograd.grad(energy.sum(), pos)
    pos = pos.detach()
    return Dataset(
        torch.tensor(atoms.numbers, dtype=torch.int64).repeat(count),
        pos.reshape(-1, 3),
        torch.arange(0, 3 * count + 1, 3),
        per_structure={"energy": energy.detach(), "dipole": (charges[:, None] * pos).sum(1)},
        per_atom={"forces": -gradient.reshape(-1, 3), "push": gradient.reshape(-1, 3)},
        energy_unit="eV",
    )


def test_learns_energies_and_forces(tmp_path: Path) -> None:
    torch.manual_seed(0)
    potential = sk.Potential.fit(PaiNN(1, 16, 2, 8, 3.0), water())
    loader = water().loader(3.0, targets=["energy", "forces"])
    settings = training.Settings(epochs=12, batch_size=8, learning_rate=5e-3)
    result = training.fit(potential, training.EnergyForces(), loader, None, settings, progress=False)
    first, last = (result.history[k]["train"] for k in (0, -1))
    assert last["forces_mse"] < 0.3 * first["forces_mse"]
    potential.save(tmp_path / "model.pt")
    again = sk.load_potential(tmp_path / "model.pt")
    batch = loader.collate(torch.arange(3))
    assert torch.equal(again(batch.z, batch.pos, batch.batch), potential.eval()(batch.z, batch.pos, batch.batch))


@pytest.mark.parametrize(("head", "target"), [("dipole", "dipole"), ("vector", "push")])
def test_learns_vectors(head: str, target: str, tmp_path: Path) -> None:
    """Of any orientation: half of the molecules are unseen, and so are their orientations."""
    torch.manual_seed(0)
    train, valid = water().split([32, 16])
    model = sk.Normalized.fit(PaiNN(1, 16, 2, 8, 3.0, head=head), train, target)
    assert model.mean.tolist() == [0.0]
    assert float(model.std) == pytest.approx(float(train.targets[target].double().square().mean().sqrt()))
    settings = training.Settings(epochs=15, batch_size=8, learning_rate=5e-3)
    loaders = [part.loader(3.0, targets=[target]) for part in (train, valid)]
    result = training.fit(model, training.Property(target), *loaders, settings, progress=False)
    spread = float(valid.targets[target].double().square().mean())
    assert result.best[f"{target}_mse"] < 0.2 * spread
    model.save(tmp_path / "model.pt")
    batch = loaders[1].collate(torch.arange(4))
    again = sk.load_model(tmp_path / "model.pt")
    assert torch.equal(again(batch.z, batch.pos, batch.batch), model.eval()(batch.z, batch.pos, batch.batch))


def test_normalized_takes_targets_of_atoms_for_vectors_only() -> None:
    with pytest.raises(ValueError, match="'push'; found: energy, dipole"):
        sk.Normalized.fit(PaiNN(1, 8, 1), water(4), "push")
    with pytest.raises(ValueError, match="found: energy, dipole, forces, push"):
        sk.Normalized.fit(PaiNN(1, 8, 1, head="vector"), water(4), "pull")
