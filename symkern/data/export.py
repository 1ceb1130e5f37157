"""Datasets as archives and as ase.Atoms."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from symkern import _files
from symkern.data.labels import IN_ENERGY_UNIT

if TYPE_CHECKING:
    from symkern.data.dataset import Dataset

_VOIGT = [0, 4, 8, 5, 2, 1]  # xx, yy, zz, yz, xz, xy of a flat (3, 3)


def write_archive(data: Dataset, path: Path) -> None:
    """A ragged set with everything `data` holds, see `symkern.data.archive`."""
    if path.suffix != ".npz":
        raise ValueError(f"path must end in .npz, got {path}")
    arrays: dict[str, NDArray[Any]] = {
        "z": data.z.numpy(),
        "pos": data.pos.numpy(),
        "ptr": data.ptr.numpy(),
        "name": np.array(data.names, dtype=np.str_),
        "per_structure": np.array(list(data.per_structure), dtype=np.str_),
        "per_atom": np.array(list(data.per_atom), dtype=np.str_),
        **{name: value.numpy() for name, value in data.targets.items()},
    }
    if data.cell is not None and data.pbc is not None:
        arrays.update(cell=data.cell.numpy(), pbc=data.pbc.numpy())
    if data.energy_unit is not None:
        arrays["energy_unit"] = np.array(data.energy_unit)
    # not np.savez: its own arguments would clash with properties of the same name
    with _files.replacing(path) as whole, zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def to_atoms(data: Dataset, index: int) -> Any:
    """See `Dataset.atoms`."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    one = data.subset([index])
    one = one if one.energy_unit is None else one.in_unit("eV")
    periodic = one.cell is not None and one.pbc is not None
    atoms: Any = Atoms(
        numbers=one.z.numpy(),
        positions=one.pos.double().numpy(),
        cell=one.cell[0].double().numpy() if one.cell is not None else None,
        pbc=one.pbc[0].numpy() if periodic and one.pbc is not None else False,
    )
    results: dict[str, Any] = {}
    for name, value in one.per_structure.items():
        if name == "energy":
            results[name] = float(value[0])
        elif name == "stress":
            results[name] = value[0].reshape(9)[_VOIGT].double().numpy()
        else:
            atoms.info[name] = value[0].item() if value.dim() == 1 else value[0].numpy()
    for name, value in one.per_atom.items():
        if name in IN_ENERGY_UNIT:
            results[name] = value.double().numpy()
        else:
            atoms.set_array(name, value.numpy())
    atoms.info["name"] = one.names[0]
    if results:
        keep: Any = SinglePointCalculator
        atoms.calc = keep(atoms, **results)
    return atoms
