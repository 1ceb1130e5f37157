"""Labelled data: units, checks, parts."""

from __future__ import annotations

import itertools

import ase.db
import ase.io
import ase.units
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from example_data import (
    RNG,
    emt_frames,
    equal,
    small,
)

from symkern.data import Dataset, Structures, read
from symkern.units import ENERGY_IN_EV, energy_factor

# units


def test_units_are_those_of_ase():
    units = ase.units.create_units("2018")
    of_ase = {"Ha": "Hartree", "kcal/mol": None, "kJ/mol": None}
    for name, value in ENERGY_IN_EV.items():
        if name in of_ase:
            key = of_ase[name]
            expected = units[key] if key else units[name.split("/")[0]] / units["mol"]
            assert value == pytest.approx(expected, rel=1e-9)
            default = getattr(ase.units, key) if key else getattr(ase.units, name.split("/")[0]) / ase.units.mol
            assert value == pytest.approx(default, rel=1e-7)
    assert (ENERGY_IN_EV["eV"], ENERGY_IN_EV["meV"]) == (1, 1e-3)
    assert energy_factor("kcal/mol", "kJ/mol") == pytest.approx(4.184, rel=1e-15)
    assert energy_factor("Ha", "kcal/mol") == pytest.approx(627.509474, rel=1e-9)
    for wrong in ("Hartree", "ev", "", None, 1):
        with pytest.raises(ValueError, match=r"must be one of eV, meV, Ha, kcal/mol, kJ/mol, got"):
            energy_factor("eV", wrong)
        with pytest.raises(ValueError, match="must be one of"):
            energy_factor(wrong, "eV")


# tensors


def test_plain_tensors_are_checked():
    z, pos, ptr = torch.ones(3, dtype=torch.int32), torch.rand(3, 3), torch.tensor([0, 1, 3])
    data = Dataset(z, pos, ptr, per_structure={"energy": torch.ones(2)}, energy_unit="eV")
    assert data.z.dtype == torch.int64
    assert data.per_structure["energy"].dtype == torch.float64
    assert data.names == ("0", "1")
    with pytest.raises(TypeError, match=r"pos must be a torch\.Tensor, got numpy"):
        Dataset(z, pos.numpy(), ptr)
    for fields, reason in (
        ({"pos": torch.rand(2, 3)}, r"pos must be floats of shape \(3, 3\)"),
        ({"z": torch.ones(3)}, "z must be integers"),
        ({"ptr": torch.tensor([0, 2])}, "ptr must run from 0 to the number of atoms 3"),
        ({"names": ["a"]}, "names must be one for each of the 2 structures, got 1"),
        ({"pbc": torch.ones(2, 3, dtype=torch.bool)}, "pbc needs a cell"),
        ({"cell": torch.eye(3)}, r"cell must be torch\.float32, as pos is, of shape \(2, 3, 3\)"),
        ({"cell": torch.ones(2, 3, 3)}, "vectors along periodic directions of structure 0 are linearly dependent"),
        ({"per_atom": {"q": torch.ones(2)}}, r"per_atom\['q'\] must be numbers of shape \(3,\)"),
        ({"per_atom": {"energy": torch.ones(3)}, "energy_unit": "eV"}, "energy must be a property of structures"),
        ({"per_structure": {"a": torch.ones(2)}, "per_atom": {"a": torch.ones(3)}}, "a: a property of structures and"),
        ({"per_structure": {"energy": torch.ones(2)}}, "nothing says in which unit"),
    ):
        with pytest.raises(ValueError, match=reason):
            Dataset(**{"z": z, "pos": pos, "ptr": ptr, **fields})


def test_from_structures():
    found = Structures("x", np.array([1, 8]), RNG.random((2, 3)), np.array([0, 1, 2]), None, None, ("a", "b"))
    data = Dataset.from_structures(found, per_structure={"energy": np.ones(2, np.float32)}, energy_unit="eV")
    assert (data.names, data.per_structure["energy"].dtype) == (("a", "b"), torch.float64)


def test_energies_keep_their_digits():
    """float32 resolves -97,000 kcal/mol to 0.008 only."""
    energy = torch.tensor([-97000.001, -97000.002], dtype=torch.float64)
    z = torch.ones(2, dtype=torch.int64)
    data = Dataset(z, torch.rand(2, 3), torch.arange(3), per_structure={"energy": energy}, energy_unit="kcal/mol")
    assert torch.equal(data.to(torch.float32).per_structure["energy"], energy)
    batch = data.loader(None, dtype=torch.float32).collate([1, 0])
    assert torch.equal(batch.targets["energy"], energy.flip(0))


def test_in_unit_converts_energies_only():
    data = small(per_atom={"forces": torch.ones(21, 3), "q": torch.ones(21)})
    converted = data.in_unit("eV", also=["spin"])
    factor = ENERGY_IN_EV["Ha"]
    assert converted.energy_unit == "eV"
    torch.testing.assert_close(converted.per_structure["energy"], data.per_structure["energy"] * factor)
    torch.testing.assert_close(converted.per_structure["spin"], data.per_structure["spin"] * factor)
    torch.testing.assert_close(converted.per_atom["forces"], torch.full((21, 3), factor))
    assert torch.equal(converted.per_atom["q"], torch.ones(21))
    assert torch.equal(data.in_unit("Ha").per_structure["energy"], data.per_structure["energy"])
    with pytest.raises(ValueError, match="unit must be one of"):
        data.in_unit("cal")
    with pytest.raises(ValueError, match="also names 'gap', found: energy, spin, forces, q"):
        data.in_unit("eV", also=["gap"])
    unlabelled = Dataset(data.z, data.pos, data.ptr)
    with pytest.raises(ValueError, match="not known"):
        unlabelled.in_unit("eV")


def test_subset():
    data = small()
    for index in ([4, 1], torch.tensor([4, 1]), np.array([4, 1]), [-2, 1], slice(4, 0, -3)):
        part = data.subset(index)
        assert part.per_structure["spin"].tolist() == [4, 1]
        assert part.ptr.tolist() == [0, 5, 7]
        assert part.names == ("4", "1")
        assert part.z.tolist() == [11, 12, 13, 14, 15, 2, 3]
        assert torch.equal(part.pos, torch.cat([data.pos[10:15], data.pos[1:3]]))
        assert torch.equal(part.per_atom["forces"][:5], data.per_atom["forces"][10:15])
    assert len(data.subset([])) == data.subset([]).num_atoms == 0
    assert data.subset(data.per_structure["spin"] > 3).names == ("4", "5")
    for wrong, reason in (([6], "index must lie in 0 .. 5"), ([True], "mask must have one"), ([0.5], "integers or a")):
        with pytest.raises(ValueError, match=reason):
            data.subset(wrong)


@pytest.mark.parametrize(
    ("sizes", "lengths"),
    [
        ([0.8, 0.1, 0.1], [16, 2, 2]),
        ([0.33, "rest"], [7, 13]),
        ([5, 3, "rest"], [5, 3, 12]),
        (["rest", 20], [0, 20]),
        ([np.int64(12), 8], [12, 8]),
        (["rest"], [20]),
        ([1 / 3, 1 / 3, 1 / 3], [7, 6, 7]),
    ],
)
def test_split(sizes, lengths):
    data = small(20)
    parts = data.split(sizes, seed=1)
    assert [len(part) for part in parts] == lengths
    numbers = [part.per_structure["spin"].tolist() for part in parts]
    assert sorted(itertools.chain(*numbers)) == list(range(20))
    assert numbers == [part.per_structure["spin"].tolist() for part in data.split(sizes, seed=1)]
    if len(sizes) > 1 and 20 not in sizes:
        assert numbers != [part.per_structure["spin"].tolist() for part in data.split(sizes, seed=2)]


def test_splits_that_cannot_be():
    data = small(20)
    for sizes, reason in (
        ([19, 2], "ask for more than there is: 21 of 20"),
        ([0.9, 0.2], "more than there is"),
        ([30, "rest"], "more than there is"),
        ([10, 5], r'leave structures over \(15 of 20\): add "rest"'),
        ([0.5, 5], "all fractions"),
        ([-1, 21], "must not be negative"),
        ([float("nan"), "rest"], "must not be negative"),
        (["rest", "rest"], 'at most one "rest"'),
        (["all"], 'at most one "rest"'),
        ([], "must be numbers"),
    ):
        with pytest.raises(ValueError, match=reason):
            data.split(sizes)


def test_concatenate():
    data = small()
    assert equal(Dataset.concatenate([data.subset(slice(0, 2)), data.subset(slice(2, None))]), data)
    assert equal(Dataset.concatenate([data]), data)
    crystal = Dataset.from_atoms([bulk("Cu"), molecule("H2O")])
    assert crystal.subset([1]).cell is None
    both = Dataset.concatenate([crystal.subset([1]), crystal])
    assert both.pbc.any(1).tolist() == [False, True, False]
    both = Dataset.concatenate([Dataset.from_atoms([molecule("CH4")]), crystal])
    assert both.pbc.tolist() == [[False] * 3, [True] * 3, [False] * 3]
    np.testing.assert_allclose(both.cell[1], bulk("Cu").cell.array)
    with pytest.raises(ValueError, match="per_structure of dataset 1 differs from that of dataset 0 in: energy, spin"):
        Dataset.concatenate([data, crystal])
    with pytest.raises(ValueError, match="dataset 1 has energies in eV, dataset 0 in Ha: use in_unit first"):
        Dataset.concatenate([data, data.in_unit("eV")])
    with pytest.raises(ValueError, match="at least one"):
        Dataset.concatenate([])


def test_saved_and_read_back(tmp_path):
    singles = Dataset(  # as many atoms as structures, and a name that is an argument of np.savez
        torch.tensor([1, 2]),
        torch.rand(2, 3, dtype=torch.float64),
        torch.arange(3),
        per_atom={"spin": torch.arange(2), "forces": torch.ones(2, 3, dtype=torch.float64)},
        per_structure={"file": torch.arange(2.0, dtype=torch.float64), "energy": torch.ones(2)},
        energy_unit="kJ/mol",
    )
    crystals = Dataset.from_atoms(emt_frames())
    for k, data in enumerate((singles, crystals, crystals.subset([]), Dataset.from_atoms([molecule("H2O")]))):
        data.save(tmp_path / f"{k}.npz")
        assert equal(Dataset.read(tmp_path / f"{k}.npz"), data)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{k}.npz" for k in range(4)]
    assert read(tmp_path / "1.npz").num_atoms == crystals.num_atoms
    with pytest.raises(ValueError, match=r"must end in \.npz"):
        singles.save(tmp_path / "data.h5")
