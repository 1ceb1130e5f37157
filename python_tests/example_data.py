"""Small labelled data that several tests use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

import symkern as sk
from symkern.data import Batch, Dataset

LAZY = ("batch", "reverse", "sender_order", "sender_ptr")
RNG = np.random.default_rng(0)


def ragged(**more: object) -> dict[str, object]:
    return {"z": np.array([8, 1, 1, 6, 6], np.int8), "pos": RNG.random((5, 3)), "ptr": np.array([0, 3, 5]), **more}


def write(path: Path, arrays: dict[str, object]) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def small(structures: int = 6, **more: object) -> Dataset:
    """Structures of 1, 2, 3, ... atoms with labels."""
    counts = torch.arange(1, structures + 1)
    ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    atoms = int(ptr[-1])
    fields: dict[str, object] = {
        "per_structure": {"energy": -torch.arange(float(structures)), "spin": torch.arange(structures)},
        "per_atom": {"forces": torch.arange(3.0 * atoms).reshape(-1, 3).double(), "q": torch.arange(float(atoms))},
        "energy_unit": "Ha",
        **more,
    }
    return Dataset(torch.arange(atoms) + 1, torch.rand(atoms, 3, dtype=torch.float64), ptr, **fields)


def equal(a: Dataset, b: Dataset) -> bool:
    same = torch.equal(a.z, b.z) and torch.equal(a.pos, b.pos) and torch.equal(a.ptr, b.ptr)
    for x, y in ((a.cell, b.cell), (a.pbc, b.pbc)):
        same = same and (x is None) == (y is None) and (x is None or torch.equal(x, y))
    for x, y in ((a.per_structure, b.per_structure), (a.per_atom, b.per_atom)):
        same = same and x.keys() == y.keys() and all(torch.equal(x[n], y[n]) and x[n].dtype == y[n].dtype for n in x)
    return same and tuple(a.names) == tuple(b.names) and a.energy_unit == b.energy_unit


def emt_frames() -> list[Atoms]:
    frames = []
    for k in range(3):
        atoms = bulk("Cu", cubic=True) * (1, 1, k + 1)
        atoms.rattle(0.1, seed=k)
        atoms.calc = EMT()
        atoms.get_potential_energy()
        atoms.get_stress()
        atoms.info["temperature"] = 300.0 + k
        atoms.set_array("weight", np.arange(len(atoms)))
        frames.append(atoms)
    return frames


def molecules() -> list[Atoms]:
    return [molecule(name) for name in ("CH4", "H", "C6H6", "H2O", "CH3CH2OH", "C60", "NH3", "N2")]


def crystals() -> list[Atoms]:
    """Cells smaller than the cutoff (many images of one pair), skewed and partly periodic ones, and a molecule."""
    found = [bulk("Cu"), bulk("NaCl", "rocksalt", a=5.64), molecule("H2O"), bulk("Si", cubic=True), Atoms("He")]
    found.append(Atoms("OH", positions=[[0, 0, 0], [0, 0, 1]], cell=[3, 3.5, 4], pbc=[True, True, False]))
    skewed = bulk("Mg")
    skewed.set_cell(skewed.cell.array @ [[1, 0, 0], [0.4, 1, 0], [-0.3, 0.2, 1]], scale_atoms=True)
    skewed.rattle(0.05, seed=1)
    return [*found, skewed]


def labelled(frames: list[Atoms]) -> Dataset:
    data = Dataset.from_atoms(frames)
    count, atoms = len(data), data.num_atoms
    random = torch.Generator().manual_seed(3)
    return Dataset(
        data.z,
        data.pos,
        data.ptr,
        data.cell,
        data.pbc,
        per_structure={
            "energy": torch.randn(count, generator=random),
            "stress": torch.randn(count, 3, 3, generator=random),
            "dipole": torch.randn(count, 3, generator=random),
            "label": torch.arange(count),
        },
        per_atom={"forces": torch.randn(atoms, 3, generator=random).double(), "q": torch.arange(atoms)},
        energy_unit="eV",
    )


def assert_same_graph(nb: sk.Neighbors, expected: sk.Neighbors) -> None:
    assert (nb.cell_shifts is None) == (expected.cell_shifts is None)
    for name in ("edge_index", "row_ptr", "ptr", "shifts", *LAZY):
        own, wanted = getattr(nb, name), getattr(expected, name)
        assert own.dtype == wanted.dtype, name
        assert torch.equal(own, wanted), name


def searched(batch: Batch, cutoff: float) -> sk.Neighbors:
    return sk.neighbor_list(batch.pos, cutoff, ptr=batch.ptr, cell=batch.cell, pbc=batch.pbc)


class Planted:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")
