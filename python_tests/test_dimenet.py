"""DimeNet++ against PyG's, its symmetries, and what happens at the cutoff, at collinear and at missing atoms."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pyg_vectors
import pytest
import torch
from torch import Tensor

import symkern as sk
from symkern.models.dimenet import DimeNetPlusPlus

CUTOFF = 3.0
SMALL = {
    "hidden": 6,
    "num_blocks": 2,
    "int_emb_size": 4,
    "basis_emb_size": 3,
    "out_emb_channels": 5,
    "num_spherical": 3,
    "num_radial": 2,
    "cutoff": CUTOFF,
    "num_after_skip": 1,
    "num_output_layers": 1,
    "output_initializer": "glorot_orthogonal",
}


def _small(**changes) -> DimeNetPlusPlus:
    torch.manual_seed(1)
    model = DimeNetPlusPlus(**{**SMALL, **changes}).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # biases that are not zero
    return model


def _molecule(atoms: int = 7) -> tuple[Tensor, Tensor]:
    """Atoms on a disturbed grid: none is close to another, some pairs are beyond the cutoff."""
    generator = torch.Generator().manual_seed(3)
    grid = torch.cartesian_prod(*[torch.arange(3.0, dtype=torch.float64)] * 3)[torch.randperm(27, generator=generator)]
    pos = 1.6 * grid[:atoms] + 0.3 * torch.rand(atoms, 3, dtype=torch.float64, generator=generator)
    return torch.tensor([6, 1, 8, 7, 1, 6, 9])[:atoms], pos


def _evaluate(model, z, pos, batch=None, **arguments) -> tuple[Tensor, Tensor]:
    pos = pos.detach().requires_grad_()
    out = model(z, pos, batch, **arguments)
    forces = torch.autograd.grad(-out.sum(), pos, allow_unused=True, materialize_grads=True)[0]
    return out.detach(), forces


def _close(got, expected, tolerance=1e-12) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# ---- PyG -------------------------------------------------------------------------------------------------------------


def _recorded() -> pyg_vectors.Recorded:
    (case,) = pyg_vectors.read("dimenet").values()
    case.module.emb = SimpleNamespace(act=torch.nn.functional.silu)
    return case


def test_recorded_outputs_of_pyg() -> None:
    case = _recorded()
    model = DimeNetPlusPlus.from_pyg(case.module)
    assert next(model.parameters()).dtype == torch.float64
    got = _evaluate(model, case.z, case.pos, case.batch)
    _close(got, (case.out, case.forces), 1e-6)
    _close(got, (case.out_exact, case.forces_exact))
    single = _evaluate(model.float(), case.z, case.pos.float(), case.batch)
    _close([t.double() for t in single], (case.out, case.forces), 1e-5)
    rebuilt = DimeNetPlusPlus(**model.config)
    rebuilt.load_state_dict(model.state_dict())


def _writer() -> ModuleType:
    pytest.importorskip("torch_geometric")
    path = Path(__file__).with_name("vectors") / "make_pyg.py"
    spec = importlib.util.spec_from_file_location("make_pyg", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pyg_where_it_is_installed() -> None:
    writer = _writer()
    for seed, exact in ((5, True), (6, False)):
        theirs = writer.dimenet_model(
            seed, exact, out_channels=3, num_blocks=1, num_spherical=3, envelope_exponent=5, cutoff=2.5
        )
        systems = writer.molecules()
        expected = writer.evaluate(theirs, **systems)
        _close(_evaluate(DimeNetPlusPlus.from_pyg(theirs), **systems), expected, 1e-11 if exact else 1e-6)
    refused = writer.dimenet_model(act="relu")
    with pytest.raises(ValueError, match='module must have act="swish"'):
        DimeNetPlusPlus.from_pyg(refused)


def test_other_modules_are_refused() -> None:
    case = _recorded()
    del case.module.state["output_blocks.0.lin_up.weight"]  # the older DimeNet has none
    with pytest.raises(TypeError, match="module must be torch_geometric"):
        DimeNetPlusPlus.from_pyg(case.module)
    with pytest.raises(TypeError, match="module must be torch_geometric"):
        DimeNetPlusPlus.from_pyg(torch.nn.Linear(2, 2))
    case = _recorded()
    case.module.emb.act = torch.nn.functional.relu
    with pytest.raises(ValueError, match='module must have act="swish"'):
        DimeNetPlusPlus.from_pyg(case.module)


# ---- symmetries ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("improper", [False, True])
def test_rotations_and_translations(improper) -> None:
    model, (z, pos) = _small(out=2), _molecule()
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    if (torch.linalg.det(rotation) < 0) != improper:
        rotation = -rotation
    out, forces = _evaluate(model, z, pos)
    _close(_evaluate(model, z, pos @ rotation.T + torch.tensor([3.0, -8, 2])), (out, forces @ rotation.T), 1e-11)
    assert float(forces.abs().max()) > 1e-2
    assert float(forces.sum(0).abs().max()) < 1e-12


def test_permutations_and_batches() -> None:
    model, (z, pos) = _small(), _molecule()
    out, forces = _evaluate(model, z, pos)
    order = torch.randperm(len(z))
    _close(_evaluate(model, z[order], pos[order]), (out, forces[order]))
    parts = [_molecule(n) for n in (4, 1, 7)]
    batch = torch.repeat_interleave(torch.tensor([4, 1, 7]))
    alone = [_evaluate(model, *part) for part in parts]
    together = _evaluate(model, torch.cat([z for z, _ in parts]), torch.cat([pos for _, pos in parts]), batch)
    _close(together, [torch.cat(results) for results in zip(*alone, strict=True)])


def test_crystal_and_supercell() -> None:
    """One atom per cell meets only its own images; in the supercell they are other atoms."""
    model = _small()
    cell = torch.tensor([[2.6, 0.1, 0], [0.2, 2.7, 0], [-0.1, 0.3, 2.5]], dtype=torch.float64)
    z, pos = torch.tensor([14]), torch.tensor([[0.3, -7.0, 0.2]], dtype=torch.float64)
    out, forces = _evaluate(model, z, pos, cell=cell, pbc=torch.ones(3, dtype=torch.bool))
    images = torch.cartesian_prod(*[torch.arange(3, dtype=torch.float64)] * 3)
    large, large_forces = _evaluate(
        model, z.expand(27), pos + images @ cell, cell=3 * cell, pbc=torch.ones(3, dtype=torch.bool)
    )
    _close((large, large_forces), (27 * out, forces.expand(27, 3)), 1e-11)
    # triplets at work: the angles of the same distances matter
    assert sk.triplets(sk.neighbor_list(pos, CUTOFF, cell=cell, pbc=True)).num_triplets > 0

    def energy(cell: Tensor) -> Tensor:
        return model(z, pos, cell=cell, nb=nb)

    nb = sk.neighbor_list(pos, CUTOFF, cell=cell, pbc=True)
    assert torch.autograd.gradcheck(energy, cell.clone().requires_grad_())


# ---- derivatives -----------------------------------------------------------------------------------------------------


def test_derivatives() -> None:
    """Forces against finite differences, and theirs in positions and parameters, as training needs them."""
    model = _small(hidden=3, num_blocks=1, num_before_skip=0, num_after_skip=0)
    z, pos = _molecule(4)
    pos.requires_grad_()
    assert torch.autograd.gradcheck(lambda pos: model(z, pos), pos)
    assert torch.autograd.gradgradcheck(lambda pos: model(z, pos), pos)

    names = (
        "rbf.frequencies",
        "interaction_blocks.0.lin_sbf1.weight",
        "emb.lin.weight",
        "output_blocks.1.lin_rbf.weight",
    )
    named = dict(model.named_parameters())

    def forces(*values: Tensor) -> Tensor:
        out = torch.func.functional_call(model, dict(zip(names, values, strict=True)), (z, pos))
        return torch.autograd.grad(out.sum(), pos, create_graph=True)[0]

    assert torch.autograd.gradcheck(forces, [named[name].detach().clone().requires_grad_() for name in names])


def test_atoms_leave_smoothly() -> None:
    """An atom comes eps within the cutoff, with triplets on both sides: the energy goes as eps^3, forces as eps^2."""
    model, z = _small(), torch.tensor([6, 8, 7])

    def at(distance: float) -> tuple[Tensor, Tensor]:
        pos = torch.tensor([[0, 0, 0], [-0.7, 0.9, 0], [distance, 0, 0]], dtype=torch.float64)
        return _evaluate(model, z, pos)

    outside, outside_forces = at(CUTOFF)
    _close(at(CUTOFF + 0.1), (outside, outside_forces), 0)
    changes = []
    for eps in (1e-3, 5e-4):
        out, forces = at(CUTOFF - eps)
        changes.append((float((out - outside).abs()), float((forces - outside_forces).abs().max())))
    (e1, f1), (e2, f2) = changes
    assert e1 > 1e-12
    assert e1 / e2 == pytest.approx(8, rel=0.1)
    assert f1 / f2 == pytest.approx(4, rel=0.1)


# ---- graphs ----------------------------------------------------------------------------------------------------------


def test_longer_and_padded_lists() -> None:
    model, (z, pos) = _small(), _molecule()
    expected = _evaluate(model, z, pos)
    longer = sk.neighbor_list(pos, 1.6 * CUTOFF)
    exact = sk.neighbor_list(pos, CUTOFF)
    assert longer.num_edges > exact.num_edges
    _close(_evaluate(model, z, pos, nb=longer), expected)
    padded = sk.neighbor_list(pos, CUTOFF, max_edges=exact.num_edges + 9)
    _close(_evaluate(model, z, pos, nb=padded), expected)


def test_few_atoms() -> None:
    model = _small(out=2)
    alone, forces = _evaluate(model, torch.tensor([8]), torch.zeros(1, 3, dtype=torch.float64))
    assert alone.shape == (1, 2)
    assert not forces.any()
    far = 10 * torch.eye(3, dtype=torch.float64)
    _close(_evaluate(model, torch.tensor([8, 1, 1]), far), (3 * alone, torch.zeros(3, 3, dtype=torch.float64)))
    pair, forces = _evaluate(model, torch.tensor([8, 1]), torch.eye(3, dtype=torch.float64)[:2])  # no triplet
    assert float(forces.abs().max()) > 1e-3
    empty, forces = _evaluate(
        model, torch.zeros(0, dtype=torch.int64), pair.new_zeros(0, 3), torch.zeros(0, dtype=torch.int64)
    )
    assert empty.shape == (0, 2)
    assert forces.shape == (0, 3)


def test_collinear_atoms() -> None:
    """Forces at a line are the limit of forces near it, and lie on it."""
    model, z = _small(), torch.tensor([6, 8, 8, 7])
    axis = torch.tensor([2.0, -1, 2], dtype=torch.float64) / 3
    line = torch.tensor([0, 1.2, -1.1, 2.3], dtype=torch.float64)[:, None] * axis
    _, forces = _evaluate(model, z, line)
    torch.testing.assert_close(forces, (forces @ axis)[:, None] * axis, rtol=0, atol=1e-12)
    _, near = _evaluate(model, z, line + 1e-8 * torch.randn(4, 3, dtype=torch.float64))
    torch.testing.assert_close(near, forces, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite(dtype) -> None:
    """Second derivatives too, with collinear and coincident atoms and self loops."""
    model = _small().to(dtype)
    pos = torch.tensor([[0, 0, 0], [1, 0, 0], [2, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=dtype).requires_grad_()
    looped = sk.neighbor_list(pos.detach(), CUTOFF, self_loops=True)
    nb = sk.Neighbors.from_edge_index(looped.edge_index, looped.num_nodes)
    out = model(torch.tensor([6, 1, 8, 1, 7]), pos, nb=nb)
    (forces,) = torch.autograd.grad(out.sum(), pos, create_graph=True)
    found = torch.autograd.grad(forces.square().sum(), [pos, *model.parameters()], allow_unused=True)
    assert all(bool(t.isfinite().all()) for t in (out, forces, *found) if t is not None)


# ---- training --------------------------------------------------------------------------------------------------------


def test_learns_forces() -> None:
    torch.manual_seed(0)
    model, (z, pos) = DimeNetPlusPlus(**{**SMALL, "output_initializer": "zeros"}).double(), _molecule(4)
    target = 0.1 * torch.randn(4, 3, dtype=torch.float64)
    target -= target.mean(0)
    assert not model(z, pos).any()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    pos.requires_grad_()
    losses = []
    for _ in range(60):
        (gradient,) = torch.autograd.grad(model(z, pos).sum(), pos, create_graph=True)
        loss = (gradient + target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_autocast() -> None:
    model, (z, pos) = _small().float(), _molecule()
    pos = pos.float().requires_grad_()
    expected = model(z, pos)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(z, pos)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected, rtol=0.05, atol=0.05)
    out.sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in (pos, *model.parameters()))


def test_published_size_and_start() -> None:
    model = DimeNetPlusPlus()
    assert model.cutoff == 5.0
    assert sum(p.numel() for p in model.parameters()) == 1_885_830  # PyG's count for the same settings
    z, pos = _molecule()
    assert not model(z, pos.float()).any()
    torch.testing.assert_close(model.rbf.frequencies, math.pi * torch.arange(1.0, 7))
    weight = model.interaction_blocks[0].lin_down.weight.detach()
    assert float(weight.var()) == pytest.approx(2 / sum(weight.shape), rel=1e-4)


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("cutoff", 0.0, "cutoff must be positive and finite, got 0.0"),
        ("cutoff", math.nan, "cutoff must be positive and finite, got nan"),
        ("out", 0, "out must be positive"),
        ("hidden", -1, "hidden must be positive"),
        ("num_blocks", 0, "num_blocks must be positive"),
        ("num_spherical", 0, "num_spherical must be positive"),
        ("num_radial", 0, "num_radial must be positive"),
        ("envelope_exponent", -1, "envelope_exponent must not be negative, got -1"),
        ("num_before_skip", -1, "num_before_skip must not be negative"),
        ("num_output_layers", -2, "num_output_layers must not be negative"),
        ("output_initializer", "ones", "output_initializer must be one of zeros, glorot_orthogonal, got 'ones'"),
    ],
)
def test_bad_settings(name, value, message) -> None:
    with pytest.raises(ValueError, match=message):
        DimeNetPlusPlus(**{**SMALL, name: value})


def test_bad_inputs() -> None:
    model, (z, pos) = _small(), _molecule()
    for wrong in (0, 95):
        with pytest.raises(ValueError, match=r"z must lie in 1 \.\. 94"):
            model(torch.where(z == 8, wrong, z), pos)
    with pytest.raises(ValueError, match="pos must have shape"):
        model(z, pos[:-1])
    with pytest.raises(TypeError, match=r"nb must be symkern\.Neighbors"):
        model(z, pos, nb=torch.zeros(2, 0, dtype=torch.int64))
    with pytest.raises(ValueError, match="float64"):
        model(z, pos.float())
