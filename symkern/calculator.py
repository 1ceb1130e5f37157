"""Any energy model as an ASE calculator, for molecular dynamics and relaxation."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from ase import Atoms
from ase.calculators import calculator as ase_calculator
from ase.stress import full_3x3_to_voigt_6_stress
from torch import nn

from symkern.energy import energy_and_forces
from symkern.potential import load_potential
from symkern.units import energy_factor
from symkern.verlet import VerletList


class Calculator(ase_calculator.Calculator):
    """Energies (eV), forces (eV/Å) and stress (eV/Å^3, ASE's sign and order) of a model.

    The neighbor list is reused until an atom has moved by half the skin. In long runs of fp32 models the energy
    wanders by the rounding of single steps; ``dtype=torch.float64`` computes in fp64, which takes longer.

    Args:
        model: a `Potential`, the path of a saved one, or any model that gives (B, 1) energies. That of a SchNet is
            faster as ``potential.tabulate()``.
        energy_unit: unit of the model's energies; that of the potential by default.
        skin: Å, see `VerletList`.
        dtype: float32 or float64; that of the model's parameters by default.
        device: where to compute.

    Raises:
        ValueError: no unit given for a model that knows none, an unknown unit, another one than the potential's.
        ModelFileError, FileNotFoundError: as `load_potential`.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012  (as ASE declares it)

    def __init__(
        self,
        model: nn.Module | Path | str,
        *,
        energy_unit: str | None = None,
        skin: float = 1.0,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if not isinstance(model, nn.Module):
            model = load_potential(model)
        own = getattr(model, "energy_unit", None)  # a Potential's, also behind torch.compile
        unit = energy_unit or own
        if unit is None:
            raise ValueError("energy_unit must be given for a model that is no Potential, for example 'eV'")
        if own is not None and unit != own:
            raise ValueError(f"energy_unit must be that of the potential, {own!r}, got {unit!r}")
        self._in_ev = energy_factor(unit, "eV")
        self.dtype = dtype or next((p.dtype for p in model.parameters()), torch.get_default_dtype())
        self.device = torch.device(device)
        # a copy: the caller may go on training the model
        self.model = copy.deepcopy(model).to(device=self.device, dtype=self.dtype).eval().requires_grad_(False)
        # a model without a finite cutoff makes its own graph
        cutoff = getattr(model, "cutoff", math.inf)
        self.neighbors = VerletList(cutoff, skin) if cutoff < math.inf else None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(ase_calculator.all_changes),
    ) -> None:
        """Fill ``self.results``; called by ASE.

        Raises:
            PropertyNotImplementedError: the stress of atoms whose cell has no volume.
            ValueError: a periodic direction without a lattice vector; what the model raises.
        """
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        atoms = cast(Atoms, self.atoms)
        stress = "stress" in properties
        if stress and atoms.cell.rank < 3:
            raise ase_calculator.PropertyNotImplementedError("stress needs a cell with three lattice vectors")
        if (atoms.pbc & ~atoms.cell.any(1)).any():
            raise ValueError(f"pbc must be False along lattice vectors that are zero, got {atoms.pbc} and {atoms.cell}")
        z = self._tensor(atoms.numbers, torch.int64)
        pos = self._tensor(atoms.positions, self.dtype)
        setting: dict[str, Any] = {}
        if atoms.pbc.any() or stress:
            setting["cell"] = self._tensor(atoms.cell.complete().array, self.dtype)
            setting["pbc"] = self._tensor(atoms.pbc, torch.bool)
        nb = None if self.neighbors is None else self.neighbors(pos, **setting)
        energy, forces, *rest = energy_and_forces(self.model, z, pos, nb=nb, stress=stress, **setting)
        self.results["energy"] = self.results["free_energy"] = float(energy[0]) * self._in_ev
        self.results["forces"] = forces.double().cpu().numpy() * self._in_ev
        if stress:
            self.results["stress"] = full_3x3_to_voigt_6_stress(rest[0][0].double().cpu().numpy()) * self._in_ev

    def _tensor(self, array: Any, dtype: torch.dtype) -> torch.Tensor:
        return torch.as_tensor(array, dtype=dtype, device=self.device)
