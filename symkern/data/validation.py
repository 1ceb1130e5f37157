"""Checks of a dataset's tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from symkern._check import check_tensor
from symkern.data.labels import IN_ENERGY_UNIT
from symkern.units import ENERGY_IN_EV, check_energy_unit

if TYPE_CHECKING:
    from symkern.data.dataset import Dataset

# what archives and ase.Atoms call other things
_RESERVED = {
    "z",
    "pos",
    "ptr",
    "cell",
    "pbc",
    "name",
    "energy_unit",
    "per_structure",
    "per_atom",
    "numbers",
    "positions",
}


def validate(data: Dataset) -> dict[str, Any]:
    """The fields in their final types; TypeError and ValueError as `Dataset` says."""
    for name in ("z", "pos", "ptr"):
        check_tensor(name, getattr(data, name))
    for name in ("cell", "pbc"):
        check_tensor(name, getattr(data, name), optional=True)
    atoms = data.z.shape[0] if data.z.dim() else 0
    _expect("z", data.z, (atoms,), "integers", not (data.z.is_floating_point() or data.z.dtype == torch.bool))
    _expect("pos", data.pos, (atoms, 3), "floats", data.pos.is_floating_point())
    ptr = data.ptr
    if ptr.dim() != 1 or not len(ptr) or ptr.is_floating_point() or int(ptr[0]) != 0 or int(ptr[-1]) != atoms:
        raise ValueError(f"ptr must run from 0 to the number of atoms {atoms}, got {ptr.reshape(-1)[:8].tolist()} ...")
    ptr = ptr.long()
    if bool((ptr.diff() < 0).any()):
        raise ValueError(f"ptr must not fall, but it does after structure {int((ptr.diff() < 0).nonzero()[0])}")
    count = len(ptr) - 1
    names = tuple(data.names) or tuple(map(str, range(count)))
    if len(names) != count:
        raise ValueError(f"names must be one for each of the {count} structures, got {len(names)}")
    if atoms and int(data.z.min()) < 0:
        raise ValueError(f"z must not be negative, got {int(data.z.min())}")
    cell, pbc = _periodicity(data, count)
    owner = torch.repeat_interleave(torch.arange(count), ptr.diff())
    finite("pos", data.pos, owner, names)
    per_structure = _properties("per_structure", data.per_structure, count)
    per_atom = _properties("per_atom", data.per_atom, atoms)
    _targets(per_structure, per_atom, data.energy_unit, atoms, count)
    for name in IN_ENERGY_UNIT:
        if name in per_structure:
            finite(name, per_structure[name], torch.arange(count), names)
        if name in per_atom:
            finite(name, per_atom[name], owner, names)
    return {
        "z": data.z.long(),
        "ptr": ptr,
        "cell": cell,
        "pbc": pbc,
        "names": names,
        "per_structure": per_structure,
        "per_atom": per_atom,
    }


def finite(name: str, values: Tensor, owner: Tensor, names: Sequence[str]) -> None:
    """ValueError naming the first structure with a value that is not finite; row k belongs to structure owner[k]."""
    if not values.is_floating_point() or bool(torch.isfinite(values).all()):
        return
    bad = owner[~torch.isfinite(values.reshape(len(owner), -1)).all(1)].unique()
    raise ValueError(
        f"{name} must be finite, but is not in {len(bad)} of {len(names)} structures, first in structure "
        f"{int(bad[0])} ({names[int(bad[0])]})"
    )


def _expect(name: str, value: Tensor, shape: tuple[int, ...], kind: str, fits: bool) -> None:
    if tuple(value.shape) != shape or not fits or value.device.type != "cpu":
        raise ValueError(
            f"{name} must be {kind} of shape {shape} on the CPU, got {value.dtype} of shape {tuple(value.shape)} "
            f"on {value.device}"
        )


def _periodicity(data: Dataset, count: int) -> tuple[Tensor | None, Tensor | None]:
    if data.cell is None:
        if data.pbc is not None and bool(data.pbc.any()):
            raise ValueError("pbc needs a cell")
        return None, None
    pbc = torch.ones((count, 3), dtype=torch.bool) if data.pbc is None else data.pbc
    _expect("pbc", pbc, (count, 3), "bool", pbc.dtype == torch.bool)
    _expect("cell", data.cell, (count, 3, 3), f"{data.pos.dtype}, as pos is,", data.cell.dtype == data.pos.dtype)
    if not bool(torch.isfinite(data.cell).all()):
        raise ValueError("cell must be finite")
    vectors = torch.where(pbc[:, :, None], data.cell, 0).double()
    singular = torch.linalg.matrix_rank(vectors) < pbc.sum(1)
    if bool(singular.any()):
        first = int(singular.nonzero()[0])
        raise ValueError(
            f"cell: the lattice vectors along periodic directions of structure {first} are linearly dependent"
        )
    return (data.cell, pbc) if bool(pbc.any()) else (None, None)


def _properties(kind: str, values: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    checked = {}
    for name, value in values.items():
        if name in _RESERVED:
            raise ValueError(f"{kind}: the name {name!r} is taken, use another")
        check_tensor(f"{kind}[{name!r}]", value)
        _expect(f"{kind}[{name!r}]", value, (rows, *value.shape[1:]), "numbers", not value.is_complex())
        checked[name] = value
    return checked


def _targets(
    per_structure: dict[str, Tensor], per_atom: dict[str, Tensor], unit: str | None, atoms: int, count: int
) -> None:
    twice = per_structure.keys() & per_atom.keys()
    if twice:
        raise ValueError(f"{', '.join(sorted(twice))}: a property of structures and of atoms at once")
    for name, values, shape in (
        ("energy", per_structure, (count,)),
        ("stress", per_structure, (count, 3, 3)),
        ("forces", per_atom, (atoms, 3)),
    ):
        if name in values:
            _expect(name, values[name], shape, "numbers", values[name].dtype != torch.bool)
        elif name in per_structure or name in per_atom:
            raise ValueError(f"{name} must be a property of {'atoms' if name == 'forces' else 'structures'}")
    if "energy" in per_structure:
        per_structure["energy"] = per_structure["energy"].double()
    for name, values in (("stress", per_structure), ("forces", per_atom)):
        if name in values and not values[name].is_floating_point():
            values[name] = values[name].double()
    if unit is not None:
        check_energy_unit(unit, "energy_unit")
    elif any(name in {*per_structure, *per_atom} for name in IN_ENERGY_UNIT):
        raise ValueError(
            "there are energies, forces or stresses, but nothing says in which unit: "
            f"pass energy_unit= one of {', '.join(ENERGY_IN_EV)}"
        )
