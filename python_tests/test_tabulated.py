"""Filters in tables: the error that they state, forces that follow their energy, and dynamics."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import symkern as sk
from symkern.nn import CFConv, TabulatedCFConv
from symkern.nn.tabulated import _derivatives
from symkern.ops.filter_table import interpolate

CUTOFF = 4.0
Z = torch.tensor([6, 6, 8, 1, 1, 1, 1, 1, 1])
# ethanol, Å
POS = torch.tensor(
    [
        [0.0, 0.0, 0.0], [1.51, 0.0, 0.0], [2.0, 1.33, 0.0], [-0.38, -0.52, 0.88], [-0.38, -0.52, -0.88],
        [-0.38, 1.02, 0.0], [1.88, -0.53, 0.88], [1.88, -0.53, -0.88], [2.96, 1.3, 0.0],
    ],
    dtype=torch.float64,
)  # fmt: skip


def conv_of(kind: str = "gaussian", width: int = 24, dtype: torch.dtype = torch.float64) -> CFConv:
    torch.manual_seed(0)
    return CFConv(width, width + 5, 20, CUTOFF, kind=kind).to(dtype)


def exact(conv: CFConv, d: Tensor) -> list[Tensor]:
    return _derivatives(torch.nn.Sequential(conv.basis, conv.filter).double(), conv.cutoff, d.double(), 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", ["gaussian", "bessel", "expnorm"])
def test_the_stated_error_holds_everywhere(kind: str, dtype: torch.dtype) -> None:
    conv = conv_of(kind, dtype=dtype)
    made = conv.tabulate(1e-5, 1e-4)
    assert made.error[0] <= 1e-5
    assert made.error[1] <= 1e-4
    assert made.knots == len(made.table) < 2000
    ends = torch.tensor([0.0, 1e-9, 1e-4, CUTOFF * (1 - 1e-6), CUTOFF * (1 - 1e-3)])
    d = torch.cat([torch.rand(5000, generator=torch.Generator().manual_seed(1)) * CUTOFF, ends]).to(dtype)
    values, slopes, _ = exact(conv, d)
    found = torch.func.jvp(lambda x: interpolate(x, CUTOFF, made.table), (d,), (torch.ones_like(d),))
    assert float((found[0] - values).abs().max()) <= made.error[0] * made.largest[0]
    assert float((found[1] - slopes).abs().max()) <= made.error[1] * made.largest[1]


def test_derivatives_of_the_filter() -> None:
    """What tables are made of: against autograd through the module's own basis, filter and cutoff."""
    conv = conv_of()
    d = torch.linspace(0.05, CUTOFF - 0.05, 40, dtype=torch.float64, requires_grad=True)
    with sk.reference_mode():
        own = conv.filter(conv.basis(d)) * sk.nn.cosine_cutoff(d, CUTOFF)
    values, slopes, bends = exact(conv, d.detach())
    torch.testing.assert_close(values, own.detach())
    for channel in (0, 7, 28):
        (slope,) = torch.autograd.grad(own[:, channel].sum(), d, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), d, retain_graph=True)
        torch.testing.assert_close(slopes[:, channel], slope.detach())
        torch.testing.assert_close(bends[:, channel], bend)


def test_tighter_tolerances_cost_knots() -> None:
    conv = conv_of()
    loose, tight = conv.tabulate(1e-3, 1e-2), conv.tabulate(1e-9, 1e-8)
    assert loose.knots < tight.knots < 1000
    assert tight.error[0] <= 1e-9
    assert "knots" in repr(loose)


def test_curvature_is_continuous_at_the_knots() -> None:
    conv = conv_of()
    made = conv.tabulate(1e-3, 1e-2)
    knot = CUTOFF / (made.knots - 1) * 5
    d = torch.tensor([knot - 1e-9, knot + 1e-9], dtype=torch.float64, requires_grad=True)
    for channel in (0, 11):
        (slope,) = torch.autograd.grad(interpolate(d, CUTOFF, made.table)[:, channel].sum(), d, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), d)
        torch.testing.assert_close(bend[0], bend[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_same_convolution(dtype: torch.dtype) -> None:
    conv = conv_of(dtype=torch.float32 if dtype == torch.bfloat16 else dtype)
    made = conv.tabulate()
    assert isinstance(made, TabulatedCFConv)
    pos = torch.rand((60, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 6
    for nb in (sk.neighbor_list(pos, CUTOFF), sk.neighbor_list(pos, CUTOFF + 1, max_edges=4000)):
        d = sk.safe_norm(sk.edge_vectors(pos, nb)).to(dtype)
        h = torch.randn(60, 24).to(dtype)
        if dtype == torch.bfloat16:
            conv, made = conv.bfloat16(), made.bfloat16()
        found, expected = made(h, d, nb), conv(h, d, nb)
        assert found.dtype == dtype
        tolerance = 0.05 if dtype == torch.bfloat16 else 2e-4
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def test_zero_beyond_the_cutoff() -> None:
    nb = sk.Neighbors.from_edge_index(torch.tensor([[1, 0], [0, 1]]), 2)
    made = conv_of().tabulate()
    h = torch.randn(2, 24, dtype=torch.float64)
    far = made(h, torch.tensor([CUTOFF, 2 * CUTOFF], dtype=torch.float64), nb)
    assert torch.equal(far, made.output.bias.expand(2, -1))


def schnet() -> sk.models.SchNet:
    torch.manual_seed(0)
    return sk.models.SchNet(1, 32, 24, 3, 20, CUTOFF).double()


def test_forces_are_derivatives_of_the_energy() -> None:
    model = schnet().tabulate()
    energy, forces = sk.energy_and_forces(model, Z, POS)
    wanted = sk.energy_and_forces(schnet(), Z, POS)
    assert float((energy - wanted[0]).abs().max()) < 1e-4 * float(energy.abs().max())
    assert float((forces - wanted[1]).abs().max()) < 1e-3 * float(forces.abs().max())
    step = 1e-5
    for atom, axis in ((0, 0), (2, 1), (8, 2)):
        moved = []
        for sign in (1, -1):
            pos = POS.clone()
            pos[atom, axis] += sign * step
            moved.append(float(model(Z, pos).sum()))
        assert float(forces[atom, axis]) == pytest.approx(-(moved[0] - moved[1]) / (2 * step), rel=1e-6, abs=1e-9)


def test_periodic_forces_and_stress() -> None:
    cell = torch.diag(torch.tensor([5.0, 5.5, 6.0], dtype=torch.float64))
    found = sk.energy_and_forces(schnet().tabulate(1e-8, 1e-7), Z, POS, cell=cell, stress=True)
    expected = sk.energy_and_forces(schnet(), Z, POS, cell=cell, stress=True)
    for x, y in zip(found, expected, strict=True):
        assert float((x - y).abs().max()) < 1e-5 * float(y.abs().max())


def test_hessians_through_a_table() -> None:
    model, original = schnet().tabulate(1e-9, 1e-8), schnet()
    found, expected = (
        torch.autograd.functional.hessian(lambda x, m=m: m(Z, x.reshape(-1, 3)).sum(), POS.flatten())
        for m in (model, original)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_a_table_is_not_trained() -> None:
    model = schnet()
    made = model.tabulate()
    assert all(not p.requires_grad for p in made.parameters())
    assert not made.training
    assert any(p.requires_grad for p in model.parameters())
    assert isinstance(model.interactions[0].conv, CFConv)
    conv = made.interactions[0].conv
    assert not hasattr(conv, "filter")
    conv.table.requires_grad_()
    with pytest.raises(ValueError, match="table must not require a gradient"):
        made(Z, POS)
    with pytest.raises(RuntimeError, match="tabulated already"):
        made.tabulate()


def test_potentials_are_tabulated() -> None:
    potential = sk.Potential(schnet(), references={1: -0.5, 6: -38.0, 8: -75.0}, scale=0.1, energy_unit="Ha")
    made = potential.tabulate(1e-8, 1e-7)
    assert isinstance(made.model.interactions[0].conv, TabulatedCFConv)
    assert (made.references, made.energy_unit, made.training) == (potential.references, "Ha", False)
    for x, y in zip(sk.energy_and_forces(made, Z, POS), sk.energy_and_forces(potential, Z, POS), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-7)
    with pytest.raises(RuntimeError, match="tabulated already"):
        made.tabulate()
    with pytest.raises(ValueError, match="model must have filters to tabulate, as SchNet has, got PaiNN"):
        sk.Potential(sk.models.PaiNN(1, 8, 1, 4, CUTOFF)).tabulate()


def test_tables_are_not_saved(tmp_path: Path) -> None:
    model = schnet().tabulate(1e-3, 1e-2)
    for wrapped in (sk.Potential(model), sk.Normalized(model, mean=0.0, std=1.0)):
        with pytest.raises(ValueError, match="save the network that it was made from, and tabulate after loading"):
            wrapped.save(tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tabulated", [False, True])
def test_bad_inputs_are_named(tabulated: bool) -> None:
    conv, nb = conv_of(dtype=torch.float32), sk.neighbor_list(POS.float(), CUTOFF)
    layer = conv.tabulate() if tabulated else conv
    h, d = torch.randn(len(Z), 24), sk.safe_norm(sk.edge_vectors(POS.float(), nb))
    with pytest.raises(TypeError, match=r"nb must be symkern.Neighbors.*from_edge_index"):
        layer(h, d, nb.edge_index)
    with pytest.raises(ValueError, match=r"d must be floats of shape \(\d+,\)"):
        layer(h, d[1:], nb)
    for x, y, name in ((h.double(), d, "h"), (h, d.double(), "d"), (h.bfloat16(), d, "h")):
        with pytest.raises(ValueError, match=f"{name} must be torch.float32, as the parameters are"):
            layer(x, y, nb)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(h.bfloat16(), d, nb).shape == h.shape


def test_tolerances_out_of_reach() -> None:
    with pytest.raises(ValueError, match="within reach of float32"):
        conv_of(dtype=torch.float32).tabulate(1e-12, 1e-11)
    with pytest.raises(ValueError, match="tolerance must be positive"):
        conv_of().tabulate(0.0)


def test_dynamics_keep_their_energy() -> None:
    """NVE with ASE: the energy of the table's own potential is conserved, as that of the network is."""
    ase = pytest.importorskip("ase")
    from ase import units
    from ase.md.verlet import VelocityVerlet

    drift = {}
    for name, model in (("table", schnet().tabulate()), ("network", schnet())):
        atoms = ase.Atoms(Z.numpy(), POS.numpy())
        atoms.calc = sk.Calculator(model, energy_unit="eV")
        generator = torch.Generator().manual_seed(3)
        velocities = 0.02 * torch.randn(POS.shape, generator=generator, dtype=torch.float64)
        atoms.set_velocities(velocities.numpy())
        dynamics = VelocityVerlet(atoms, timestep=0.25 * units.fs)
        energies = []
        for _ in range(60):
            dynamics.run(2)
            energies.append(atoms.get_total_energy())
        change = max(atoms.get_potential_energy(), 0) - min(energies)
        assert abs(change) > 0  # something happened
        drift[name] = max(energies) - min(energies)
    assert drift["table"] < 2 * drift["network"] + 1e-6, drift


@pytest.mark.parametrize("change", ["row_ptr", "receiver"])
def test_inconsistent_graphs_are_refused(change: str) -> None:
    pos = torch.rand(6, 3)
    nb = sk.neighbor_list(pos, 2.0)
    conv = sk.nn.CFConv(8, 8, 10, 2.0).tabulate()
    row_ptr, index = nb.row_ptr.clone(), nb.edge_index.clone()
    if change == "row_ptr":
        row_ptr[0] = 1
    else:
        index[1, 0] = 5
    broken = sk.Neighbors(index, row_ptr, nb.ptr)
    with pytest.raises(ValueError, match=r"row_ptr|edge_index"):
        conv(torch.ones(6, 8), sk.safe_norm(sk.edge_vectors(pos, nb)), broken)
