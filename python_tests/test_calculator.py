"""The ASE calculator: derivatives, the reused list, dynamics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.build
import numpy as np
import pytest
import torch
from ase import units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.md.verlet import VelocityVerlet

import symkern as sk
from symkern.models import EGNN, SchNet
from symkern.units import ENERGY_IN_EV


def potential(**settings: Any) -> sk.Potential:
    torch.manual_seed(0)
    references = {1: -13.6, 8: -2041.0, 18: -14_000.0}
    return sk.Potential(SchNet(1, 16, 16, 2, 12, 4.0), references=references, scale=5.0, **settings)


def crystal() -> Any:
    atoms = ase.build.bulk("Ar", "fcc", a=5.0, cubic=True)
    atoms.rattle(0.15, seed=1)
    shear = np.eye(3) + np.array([[0, 0.1, 0], [0.05, 0, -0.1], [0, 0.02, 0]])
    atoms.set_cell(atoms.cell.array @ shear, scale_atoms=True)
    return atoms


def test_forces_and_stress_are_derivatives() -> None:
    atoms = crystal()
    atoms.calc = sk.Calculator(potential(), dtype=torch.float64)
    assert np.abs(atoms.get_forces()).max() > 0.01
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6)
    np.testing.assert_allclose(atoms.get_stress(), calculate_numerical_stress(atoms, eps=1e-5), atol=1e-8)


def test_units() -> None:
    atoms = ase.build.molecule("H2O")
    found = {}
    for unit in ("eV", "kcal/mol"):
        atoms.calc = sk.Calculator(potential(energy_unit=unit), dtype=torch.float64)
        found[unit] = (atoms.get_potential_energy(), atoms.get_forces())
    factor = ENERGY_IN_EV["kcal/mol"]
    assert found["kcal/mol"][0] == pytest.approx(found["eV"][0] * factor, rel=1e-12)
    np.testing.assert_allclose(found["kcal/mol"][1], found["eV"][1] * factor, rtol=1e-12)


@pytest.mark.parametrize("periodic", [False, True])
def test_energy_is_conserved(periodic: bool) -> None:
    """NVE: the error of velocity Verlet shrinks with the square of the time step, as with true forces it must."""
    drifts = []
    for step, steps in ((1.0, 100), (0.5, 200)):
        atoms = crystal() if periodic else ase.build.molecule("H2O")
        atoms.calc = sk.Calculator(potential(), dtype=torch.float64, skin=0.5)
        thermal = np.random.default_rng(0).normal(size=(len(atoms), 3))
        atoms.set_momenta(thermal * np.sqrt(atoms.get_masses()[:, None] * units.kB * 500))
        run = VelocityVerlet(atoms, step * units.fs)
        totals = [atoms.get_total_energy()]
        for _ in range(steps):
            run.run(1)
            totals.append(atoms.get_total_energy())
        drifts.append(float(np.ptp(totals)))
        assert atoms.calc.neighbors.builds < steps
    assert drifts[0] < 0.02 * atoms.get_kinetic_energy()
    assert drifts[1] < 0.35 * drifts[0]


def test_list_is_reused_and_rebuilt() -> None:
    atoms = crystal()
    atoms.calc = sk.Calculator(potential(), skin=1.0)
    atoms.get_forces()
    for moved, builds in ((0.1, 1), (0.2, 1), (0.6, 2)):
        atoms.positions[0, 0] += moved
        atoms.get_forces()
        assert atoms.calc.neighbors.builds == builds
    fresh = sk.Calculator(potential())
    np.testing.assert_allclose(atoms.get_forces(), fresh.get_forces(atoms), atol=1e-5)


def test_model_is_left_alone(tmp_path: Path) -> None:
    model = potential()
    atoms = ase.build.molecule("H2O")
    atoms.calc = sk.Calculator(model, dtype=torch.float64)
    atoms.get_forces()
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    model.save(tmp_path / "water.pt")
    other = ase.build.molecule("H2O")
    other.calc = sk.Calculator(tmp_path / "water.pt", dtype=torch.float64)
    assert other.get_potential_energy() == atoms.get_potential_energy()


def test_model_without_a_cutoff() -> None:
    torch.manual_seed(0)
    atoms = ase.build.molecule("CH4")
    atoms.calc = sk.Calculator(EGNN(1, 8, 2, cutoff=None).double(), energy_unit="Ha")
    assert atoms.calc.neighbors is None
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6)


def test_slab_with_two_periodic_directions() -> None:
    atoms = crystal()
    atoms.pbc = (True, True, False)
    atoms.cell[2] = 0
    atoms.calc = sk.Calculator(potential(), dtype=torch.float64)
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6)
    with pytest.raises(PropertyNotImplementedError, match="stress needs a cell"):
        atoms.get_stress()


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="energy_unit must be given"):
        sk.Calculator(potential().model)
    with pytest.raises(ValueError, match="must be one of"):
        sk.Calculator(potential().model, energy_unit="Rydberg")
    with pytest.raises(ValueError, match="energy_unit must be that of the potential, 'eV', got 'Ha'"):
        sk.Calculator(potential(), energy_unit="Ha")
    no_cell = ase.build.molecule("H2O", pbc=True)
    no_cell.calc = sk.Calculator(potential())
    with pytest.raises(ValueError, match="pbc must be False along lattice vectors that are zero"):
        no_cell.get_potential_energy()
    with pytest.raises(FileNotFoundError):
        sk.Calculator("no-such-file.pt")
    atoms = ase.build.molecule("CH4")
    atoms.calc = sk.Calculator(potential())
    with pytest.raises(ValueError, match=r"without a reference energy: \[6\]"):
        atoms.get_potential_energy()
