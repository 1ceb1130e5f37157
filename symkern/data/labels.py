"""Which arrays of a file are properties of structures, which of atoms, and which are the energy, forces and stress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

# ASE's names; "energy", "forces" and "stress" are the targets that models of the potential energy are trained on
PER_STRUCTURE = {"energy", "free_energy", "stress", "dipole", "magmom", "polarization", "dielectric_tensor"}
PER_ATOM = {"forces", "energies", "stresses", "charges", "magmoms", "born_effective_charges"}
IN_ENERGY_UNIT = ("energy", "forces", "stress")


@dataclass(frozen=True)
class Request:
    """What the user asked for: the names of the targets in the file, and of arrays whose kind must be stated."""

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None
    per_structure: Sequence[str] = ()
    per_atom: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("per_structure", "per_atom"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a sequence of names, got the string {getattr(self, name)!r}")
        named = [name for name in (self.energy, self.forces, self.stress) if name is not None]
        twice = set(named) & {n for n in named if named.count(n) > 1} | set(self.per_structure) & set(self.per_atom)
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))} cannot be two things at once")

    @property
    def names(self) -> list[str]:
        """Everything asked for, under its name in the file."""
        targets = [name for name in (self.energy, self.forces, self.stress) if name is not None]
        return [*targets, *self.per_structure, *self.per_atom]

    def target(self, name: str) -> str | None:
        """The target that array `name` becomes; its own name if it is none; None if another array takes its place."""
        for target in IN_ENERGY_UNIT:
            if getattr(self, target) == name:
                return target
        return None if name in IN_ENERGY_UNIT and getattr(self, name) is not None else name

    def kind(self, name: str) -> str | None:
        """ "atom" or "structure" where the name decides it."""
        if name in self.per_atom or name in self.per_structure:
            return "atom" if name in self.per_atom else "structure"
        known = self.target(name)
        return "atom" if known in PER_ATOM else "structure" if known in PER_STRUCTURE else None


@dataclass
class Labels:
    """Arrays under their final names, and the reason for each that is not among them."""

    per_structure: dict[str, NDArray[Any]] = field(default_factory=dict)
    per_atom: dict[str, NDArray[Any]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, kind: str, array: NDArray[Any]) -> None:
        if name == "energy" and array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if name == "stress":
            array = full_stress(array)
        (self.per_atom if kind == "atom" else self.per_structure)[name] = array

    def check(self, request: Request) -> None:
        """ValueError unless everything that was asked for by name is there."""
        found = {*self.per_structure, *self.per_atom}
        for name in request.names:
            target = request.target(name)
            if target not in found:
                reason = self.left_out.get(name)
                offered = ", ".join(sorted(found - set(IN_ENERGY_UNIT))) or "none"
                raise ValueError(f"{name} cannot be used: {reason}" if reason else f"no array {name}; found: {offered}")


def full_stress(stress: NDArray[Any]) -> NDArray[Any]:
    """(B, 3, 3) from (B, 3, 3), rows of nine, or ASE's (xx, yy, zz, yz, xz, xy); other shapes as they are."""
    if stress.ndim == 2 and stress.shape[1] == 6:
        return stress[:, [0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(-1, 3, 3)
    return stress.reshape(-1, 3, 3) if stress.ndim == 2 and stress.shape[1] == 9 else stress


def is_numeric(array: NDArray[Any]) -> bool:
    return array.dtype.kind in "iufb"


def ambiguous(name: str, fits: str) -> ValueError:
    return ValueError(
        f"{name} {fits}, so it could belong to atoms or to structures: pass per_atom=({name!r},) or "
        f"per_structure=({name!r},)"
    )
