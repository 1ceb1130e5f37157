"""Labelled data from files: what is read from which, and what is refused."""

from __future__ import annotations

import io
import os
import zipfile

import ase.db
import ase.io
import ase.units
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from example_data import (
    RNG,
    Planted,
    emt_frames,
    equal,
    ragged,
    small,
    write,
)

from symkern.data import DataError, Dataset, read
from symkern.units import ENERGY_IN_EV


def trajectories(atoms: int = 4) -> dict[str, object]:
    arrays: dict[str, object] = {"z": np.arange(1, atoms + 1, dtype=np.int8)}
    for split, frames in (("train", 3), ("test", 2), ("test_hot", 5)):
        arrays[f"{split}_pos"] = RNG.random((frames, atoms, 3)).astype(np.float32)
        arrays[f"{split}_energy"] = RNG.random(frames) - 97000
        arrays[f"{split}_forces"] = RNG.random((frames, atoms, 3)).astype(np.float32)
        arrays[f"{split}_old_index"] = np.arange(frames)
    return arrays


# archives


def test_ragged_archive(tmp_path):
    arrays = ragged(
        u0=np.array([-1.5, -2.5]),
        u298=np.array([[1.0], [2.0]]),
        gdb_id=np.array([7, 9], np.int32),
        known=np.array([True, False]),
        dipole_mp2=RNG.random((2, 3)).astype(np.float32),
        mulliken=RNG.random(5).astype(np.float32),
        name=np.array(["a", "b"]),
        symbol=np.array(["C1", "D6h"]),
        odd=np.zeros((4, 2)),
        when=np.array(["2020-01-01"] * 2, dtype="datetime64[D]"),
    )
    data = Dataset.read(write(tmp_path / "set.npz", arrays), energy="u0", energy_unit="Ha")
    assert (len(data), data.num_atoms, data.energy_unit, data.names) == (2, 5, "Ha", ("a", "b"))
    assert data.z.dtype == torch.int64
    assert data.pos.dtype == data.per_atom["mulliken"].dtype == torch.float64
    np.testing.assert_array_equal(data.pos, arrays["pos"])
    assert set(data.per_structure) == {"energy", "u298", "gdb_id", "known", "dipole_mp2"}
    assert set(data.per_atom) == {"mulliken"}
    assert data.per_structure["energy"].tolist() == [-1.5, -2.5]
    assert data.per_structure["gdb_id"].tolist() == [7, 9]
    assert data.per_structure["known"].dtype == torch.bool
    np.testing.assert_array_equal(data.per_structure["dipole_mp2"], arrays["dipole_mp2"])
    # nothing is dropped without a word
    assert set(data.left_out) == {"symbol", "odd", "when"}
    assert "shape (4, 2), expected one that begins with (2,) or (5,)" in data.left_out["odd"]
    assert "left out: odd, symbol" in repr(data)
    # without an energy there is no unit to state; (B, 1) energies are energies
    assert Dataset.read(tmp_path / "set.npz").energy_unit is None
    assert Dataset.read(tmp_path / "set.npz", energy="u298", energy_unit="eV").per_structure["energy"].shape == (2,)


def test_another_energy_takes_the_place_of_energy(tmp_path):
    path = write(tmp_path / "two.npz", ragged(energy=np.zeros(2), baseline=np.ones(2)))
    data = Dataset.read(path, energy="baseline", energy_unit="eV")
    assert data.per_structure["energy"].tolist() == [1, 1]
    assert data.left_out == {"energy": "baseline takes its place"}


def test_trajectories_by_split(tmp_path):
    arrays = trajectories()
    path = write(tmp_path / "md.npz", {**arrays, "masses": np.ones(4)})
    with pytest.raises(DataError, match=r"md\.npz: holds 3 splits, pass split= one of: test, test_hot, train"):
        Dataset.read(path, energy_unit="eV")
    with pytest.raises(DataError, match="no split 'valid'; found: test, test_hot, train"):
        Dataset.read(path, split="valid", energy_unit="eV")
    for split, frames in (("train", 3), ("test", 2), ("test_hot", 5)):
        data = Dataset.read(path, split=split, energy_unit="kcal/mol")
        assert (len(data), data.names[1]) == (frames, f"{split} 1")
        np.testing.assert_array_equal(data.pos, arrays[f"{split}_pos"].reshape(-1, 3))
        np.testing.assert_array_equal(data.per_atom["forces"], arrays[f"{split}_forces"].reshape(-1, 3))
        np.testing.assert_array_equal(data.per_structure["energy"], arrays[f"{split}_energy"])
        np.testing.assert_array_equal(data.per_structure["old_index"], np.arange(frames))
        assert data.z.tolist() == [1, 2, 3, 4] * frames
        assert list(data.left_out) == ["masses"]


def test_one_split_needs_no_name(tmp_path):
    arrays = {name: value for name, value in trajectories().items() if "test" not in name}
    arrays["energy_unit"] = np.array("kcal/mol")
    data = Dataset.read(write(tmp_path / "md.npz", arrays))
    assert (len(data), data.energy_unit) == (3, "kcal/mol")


def test_trajectories_with_cells(tmp_path):
    arrays = trajectories()
    cells = RNG.random((3, 3, 3)) + 3 * np.eye(3)
    arrays.update(train_cell=cells, cell=4 * np.eye(3), pbc=np.array([True, True, False]))
    path = write(tmp_path / "md.npz", arrays)
    data = Dataset.read(path, split="train", energy_unit="eV")
    np.testing.assert_array_equal(data.cell, cells)
    assert bool(data.pbc.all())
    data = Dataset.read(path, split="test", energy_unit="eV")
    np.testing.assert_array_equal(data.cell, [4 * np.eye(3)] * 2)
    assert data.pbc.tolist() == [[True, True, False]] * 2
    found = read(path)  # all splits: test, test_hot, train
    np.testing.assert_array_equal(found.cell[-3:], cells)
    assert found.pbc[-3:].all()
    assert not found.pbc[:-3, 2].any()


def test_one_system(tmp_path):
    arrays = {"z": np.array([1, 8]), "pos": RNG.random((2, 3)), "energy": np.array(-3.0), "forces": RNG.random((2, 3))}
    arrays.update(cell=4 * np.eye(3), stress=np.arange(6.0), dipole=np.ones(3), energy_unit=np.array(["eV"]))
    data = Dataset.read(write(tmp_path / "one.npz", arrays))
    assert {name: tuple(x.shape) for name, x in data.targets.items()} == {
        "dipole": (1, 3),
        "energy": (1,),
        "forces": (2, 3),
        "stress": (1, 3, 3),
    }
    assert data.per_structure["stress"][0].tolist() == [[0, 5, 4], [5, 1, 3], [4, 3, 2]]  # xx, yy, zz, yz, xz, xy


def test_shapes_that_leave_it_open(tmp_path):
    single = {"z": np.array([1, 2]), "pos": RNG.random((2, 3)), "ptr": np.array([0, 1, 2]), "spin": np.ones(2)}
    path = write(tmp_path / "atoms.npz", {**single, "energy": np.ones(2), "forces": np.ones((2, 3))})
    with pytest.raises(DataError, match=r"atoms\.npz: spin has shape \(2,\).*pass per_atom=\('spin',\) or per_struct"):
        Dataset.read(path, energy_unit="eV")
    assert "spin" in Dataset.read(path, energy_unit="eV", per_atom=["spin"]).per_atom
    data = Dataset.read(path, energy_unit="eV", per_structure=["spin"])
    assert set(data.per_structure) == {"energy", "spin"}
    assert set(data.per_atom) == {"forces"}

    water = {**trajectories(3), "train_mu": np.ones((3, 3)), "train_charges": np.ones((3, 3))}
    path = write(tmp_path / "water.npz", water)
    with pytest.raises(DataError, match="mu has shape"):
        Dataset.read(path, split="train", energy_unit="eV")
    data = Dataset.read(path, split="train", energy_unit="eV", per_structure=["mu"])
    assert data.per_structure["mu"].shape == (3, 3)
    assert data.per_atom["charges"].shape == (9,)
    with pytest.raises(TypeError, match="sequence of names"):
        Dataset.read(path, per_atom="spin")
    with pytest.raises(ValueError, match="two things at once"):
        Dataset.read(path, energy="mu", forces="mu")


def test_units_are_never_guessed(tmp_path):
    path = write(tmp_path / "md.npz", trajectories())
    with pytest.raises(DataError, match=r"md\.npz: .* unit: pass energy_unit= one of eV, meV, Ha, kcal/mol"):
        Dataset.read(path, split="train")
    with pytest.raises(DataError, match=r"energy_unit must be one of .* got 'kcal'"):
        Dataset.read(path, split="train", energy_unit="kcal")
    stated = write(tmp_path / "stated.npz", ragged(energy=np.ones(2), energy_unit=np.array("Ha")))
    assert Dataset.read(stated).energy_unit == Dataset.read(stated, energy_unit="Ha").energy_unit == "Ha"
    with pytest.raises(DataError, match="in Ha by the file, but energy_unit='eV'"):
        Dataset.read(stated, energy_unit="eV")
    with pytest.raises(DataError, match="energy_unit must be one of"):
        Dataset.read(write(tmp_path / "odd.npz", ragged(energy_unit=np.array("furlong"))))
    with pytest.raises(DataError, match="energy_unit must be one string"):
        Dataset.read(write(tmp_path / "number.npz", ragged(energy_unit=np.array(1.0))))


BAD = {
    "energies of another number": (ragged(energy=np.ones(3)), r"energy cannot be used: shape \(3,\), expected one"),
    "forces without components": (ragged(forces=np.ones(5)), r"forces must be numbers of shape \(5, 3\)"),
    "energies that are texts": (ragged(energy=np.array(["a", "b"])), "energy cannot be used: not numbers"),
    "energy that is not finite": (ragged(energy=np.array([1, np.nan])), r"energy .* 1 of 2 .* structure 1 \(bad 1\)"),
    "forces that are not finite": (
        ragged(forces=np.where(np.arange(15).reshape(5, 3) > 12, np.inf, 0.0)),
        r"forces must be finite, but is not in 1 of 2 structures, first in structure 1",
    ),
    "stress": (ragged(stress=np.ones((2, 5))), r"stress must be numbers of shape \(2, 3, 3\)"),
    "positions": (ragged(pos=np.full((5, 3), np.nan)), "pos must be finite, but is not in 2 of 2 structures"),
    "positions missing": ({"z": np.ones(3, int), "energy": np.ones(1)}, "expected arrays z and pos"),
    "ptr": (ragged(ptr=np.array([0, 4, 3])), "ptr must run from 0"),
    "falling ptr": (ragged(ptr=np.array([0, 4, 3, 5])), "ptr must not fall, but it does after structure 1"),
    "reserved": (ragged(numbers=np.ones(5)), "the name 'numbers' is taken"),
    "negative": (ragged(z=-np.ones(5, int)), "z must not be negative, got -1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_archives_are_refused(tmp_path, case):
    arrays, reason = BAD[case]
    names = [name for name in ("energy", "forces", "stress") if name in arrays]
    with pytest.raises(DataError, match=reason) as caught:
        Dataset.read(write(tmp_path / "bad.npz", arrays), energy_unit="eV", **{name: name for name in names})
    assert str(tmp_path / "bad.npz") in str(caught.value)


def test_damaged_files_and_pickles(tmp_path):
    trap = tmp_path / "trap"
    path = write(tmp_path / "pickled.npz", ragged(extra=np.array([Planted(trap), None], dtype=object)))
    assert Dataset.read(path).left_out == {"extra": "not numbers: object"}
    assert not trap.exists()
    pickled = write(tmp_path / "pickled.npz", ragged(z=np.array([Planted(trap)] * 5, dtype=object)))
    with pytest.raises(DataError, match="z holds pickled objects, which are never read"):
        Dataset.read(pickled)
    assert not trap.exists()
    path = write(tmp_path / "cut.npz", ragged(energy=np.ones(2)))
    whole = path.read_bytes()
    for size in range(0, len(whole), 61):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"cut\.npz: not a readable \.npz archive"):
            Dataset.read(path, energy_unit="eV")
    with pytest.raises(DataError, match="no such file"):
        Dataset.read(tmp_path / "absent.npz")
    for name in ("a.db", "a.json", "a.traj", "a.extxyz"):
        for content in (b"", b"SQLite format 3\0" + bytes(200), b"\x80\x04K\x01."):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(DataError, match=r"ASE (cannot read it|found no structure)"):
                Dataset.read(tmp_path / name)
            assert (tmp_path / name).read_bytes() == content


@pytest.mark.filterwarnings("ignore")  # of the parser that numpy reads headers with
def test_damaged_headers_raise_nothing_else(tmp_path):
    rng = np.random.default_rng(2)
    path = tmp_path / "header.npz"
    more = {"energy_unit": np.array("eV"), "per_atom": np.array(["q"]), "q": np.ones(5), "name": np.array(["a", "b"])}
    members = {}
    for name, array in ragged(
        energy=np.ones(2), forces=np.ones((5, 3)), cell=np.tile(np.eye(3), (2, 1, 1)), **more
    ).items():
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(array))
        members[name] = buffer.getvalue()
    refused = 0
    for _ in range(300):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                damaged = bytearray(content)
                damaged[rng.integers(len(content) if rng.random() < 0.3 else 128)] = rng.integers(256)
                archive.writestr(f"{name}.npy", bytes(damaged))
        try:
            Dataset.read(path)
        except DataError:
            refused += 1
    assert refused > 100


# ASE


@pytest.mark.parametrize("suffix", ["extxyz", "traj", "db", "json", "direct"])
def test_calculator_results_of_every_format(tmp_path, suffix):
    frames = emt_frames()
    if suffix == "direct":
        data = Dataset.from_atoms(frames)
    else:
        path = tmp_path / f"frames@1.{suffix}"  # an "@" is no index
        if suffix in ("db", "json"):
            with ase.db.connect(path) as database:
                for atoms in frames:
                    database.write(
                        atoms, temperature=atoms.info["temperature"], data={"weight": atoms.arrays["weight"]}
                    )
        else:
            ase.io.write(path, frames)
        data = Dataset.read(path)
    assert data.energy_unit == "eV"
    assert data.ptr.tolist() == [0, 4, 12, 24]
    tight = {"rtol": 0, "atol": 1e-6}
    np.testing.assert_allclose(data.per_structure["energy"], [a.get_potential_energy() for a in frames], **tight)
    np.testing.assert_allclose(data.per_atom["forces"], np.concatenate([a.get_forces() for a in frames]), **tight)
    stress = [a.get_stress(voigt=False) for a in frames]
    np.testing.assert_allclose(data.per_structure["stress"], stress, **tight)
    np.testing.assert_allclose(data.cell, [a.cell.array for a in frames], **tight)
    assert data.per_structure["temperature"].tolist() == [300, 301, 302]
    if suffix != "traj":  # which does not keep them
        np.testing.assert_array_equal(data.per_atom["weight"], np.concatenate([np.arange(len(a)) for a in frames]))
    # and back
    for k, atoms in enumerate(frames):
        again = data.atoms(k)
        np.testing.assert_allclose(again.get_stress(), atoms.get_stress(), **tight)
        np.testing.assert_allclose(again.get_forces(), atoms.get_forces(), **tight)
        assert again.info["temperature"] == 300 + k
    assert equal(Dataset.from_atoms([data.atoms(k) for k in range(3)]), data)


def test_atoms_are_in_ev():
    data = small()
    atoms = data.atoms(1)
    assert atoms.get_potential_energy() == pytest.approx(-ENERGY_IN_EV["Ha"])
    np.testing.assert_allclose(atoms.get_forces(), data.per_atom["forces"][1:3] * ENERGY_IN_EV["Ha"])
    assert atoms.arrays["q"].tolist() == [1, 2]
    assert (atoms.info["spin"], atoms.info["name"]) == (1, "1")
    assert data.atoms(-1).get_chemical_symbols() == data.atoms(5).get_chemical_symbols()


def test_labels_under_other_names_need_their_unit():
    frames = [molecule("H2O"), molecule("CH4")]
    for k, atoms in enumerate(frames):
        atoms.info.update(REF_energy=float(k), config="bulk", magmom=1.0)
        atoms.set_array("REF_forces", np.full((len(atoms), 3), float(k)))
        atoms.calc = SinglePointCalculator(atoms, energy=9.0, magmom=2.0)
    with pytest.raises(ValueError, match="nothing says in which unit"):
        Dataset.from_atoms(frames, energy="REF_energy", forces="REF_forces")
    data = Dataset.from_atoms(frames, energy="REF_energy", forces="REF_forces", energy_unit="kcal/mol")
    assert data.per_structure["energy"].tolist() == [0, 1]
    assert data.per_atom["forces"].shape == (8, 3)
    assert data.per_structure["magmom"].tolist() == [2, 2]
    assert set(data.left_out) == {"config", "energy", "magmom (info)"}
    with pytest.raises(ValueError, match="no array wrong; found: REF_energy, REF_forces, magmom"):
        Dataset.from_atoms(frames, energy="wrong")


def test_data_of_a_database(tmp_path):
    path = tmp_path / "rows.db"
    with ase.db.connect(path) as database:
        for name, gap in (("H2O", 0.1), ("CH4", 0.2)):
            atoms = molecule(name)
            arrays = {"energy": np.array([-1.0]), "forces": np.ones((len(atoms), 3)), "q": [1.5] * len(atoms), "t": "x"}
            database.write(atoms, gap=gap, data=arrays)
    with pytest.raises(DataError, match="nothing says in which unit"):
        Dataset.read(path)
    data = Dataset.read(path, energy_unit="Ha")
    assert data.per_structure["gap"].tolist() == [0.1, 0.2]
    assert data.per_structure["energy"].tolist() == [-1, -1]
    assert data.per_atom["q"].shape == (8,)
    assert data.per_atom["forces"].shape == (8, 3)
    assert "t" in data.left_out
    with ase.db.connect(tmp_path / "water.db") as database:
        for _ in range(2):
            database.write(molecule("H2O"), data={"mu": [0.0, 0.0, 1.0]})
    with pytest.raises(DataError, match=r"mu has shape \(3,\) in frames of 3 atoms each"):
        Dataset.read(tmp_path / "water.db")
    assert Dataset.read(tmp_path / "water.db", per_structure=["mu"]).per_structure["mu"].shape == (2, 3)


def test_properties_of_some_frames():
    frames = [molecule("H2O") for _ in range(4)]
    for k in (0, 1, 3):
        frames[k].info["gap"] = 1.0
        frames[k].info["grid"] = np.ones(k + 1)
    data = Dataset.from_atoms(frames)
    assert data.left_out["gap"] == "is missing in 1 of 4 frames, first in frame 2"
    with pytest.raises(ValueError, match=r"no target 'gap' \(is missing in 1 of 4"):
        data.loader(None, targets=["gap"])
    with pytest.raises(ValueError, match="gap is missing in 1 of 4 frames"):
        Dataset.from_atoms(frames, energy="gap", energy_unit="eV")
    frames[2].info["grid"] = np.ones(3)
    assert "other shapes in other frames" in Dataset.from_atoms(frames).left_out["grid"]
    frames[1].calc = SinglePointCalculator(frames[1], energy=1.0, stress=np.ones(6))
    with pytest.raises(ValueError, match="energy is missing in 3 of 4 frames, first in frame 0"):
        Dataset.from_atoms(frames)


@pytest.mark.skipif(not os.environ.get("SYMKERN_DATA"), reason="no data: set SYMKERN_DATA")
def test_real_data(data):
    ethanol = Dataset.read(data / "rmd17_ethanol.npz", split="train", energy_unit="kcal/mol")
    assert repr(ethanol) == "Dataset(1000 structures, 9000 atoms; energy, forces in kcal/mol; old_index)"
    assert float(ethanol.per_atom["forces"].reshape(1000, 9, 3).sum(1).abs().max()) < 1e-3
    qm9 = Dataset.read(data / "qm9_20k.npz", energy="u0", energy_unit="Ha")
    assert float(qm9.per_structure["energy"][0]) == pytest.approx(-40.47893, abs=1e-5)  # methane
    dipoles = Dataset.read(data / "qm9_mp2_dipole_9k.npz")
    assert dipoles.per_structure["dipole_mp2"].shape == (9000, 3)
    charges = torch.zeros(9000, dtype=torch.float64)
    owner = torch.repeat_interleave(torch.arange(9000), dipoles.ptr.diff())
    charges.index_add_(0, owner, dipoles.per_atom["mulliken_mp2"])
    assert float(charges.abs().max()) < 1e-3  # the molecules are neutral
    assert len(Dataset.read(data / "3bpa.npz", split="mixedT", energy_unit="eV")) == 500
    assert Dataset.read(data / "crystals_roy.npz").cell is not None


def test_results_of_another_state_are_refused():
    """One calculator for all frames knows the last one only."""
    calculator, frames = EMT(), []
    for k in range(2):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=k)
        atoms.calc = calculator
        atoms.get_potential_energy()
        frames.append(atoms)
    with pytest.raises(ValueError, match=r"frame 0: its calculator holds results of an earlier state \(positions"):
        Dataset.from_atoms(frames)
    assert len(Dataset.from_atoms(frames[1:])) == 1


def test_unit_that_the_frames_state(tmp_path):
    """ASE takes ``energy=`` of extended XYZ for eV; a file that says otherwise is believed."""
    path = tmp_path / "stated.extxyz"
    line = 'Properties=species:S:1:pos:R:3:forces:R:3 energy=-97208.4 energy_unit="{}" pbc="F F F"'
    frame = "1\n" + line + "\nO 0 0 0 1 2 3\n"
    path.write_text(frame.format("kcal/mol") * 2)
    found = Dataset.read(path)
    assert found.energy_unit == "kcal/mol"
    assert not found.left_out
    with pytest.raises(DataError, match="energies are in kcal/mol by the frames, but energy_unit='eV' was given"):
        Dataset.read(path, energy_unit="eV")
    path.write_text(frame.format("kcal/mol") + frame.format("Ha"))
    with pytest.raises(DataError, match=r"different units of energy: Ha, kcal/mol"):
        Dataset.read(path)
