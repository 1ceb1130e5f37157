"""Structures from files: what is read, and what is refused."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from symkern import data
from symkern.data import DataError

RNG = np.random.default_rng(0)


def ragged(**more: object) -> dict[str, object]:
    return {"z": np.array([8, 1, 1, 6, 6], np.int8), "pos": RNG.random((5, 3)), "ptr": np.array([0, 3, 5]), **more}


def write(path: Path, arrays: dict[str, object]) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def test_one_system(tmp_path):
    cell = np.diag([4.0, 5.0, 6.0])
    pbc = np.array([True, False, True])
    pos = RNG.random((4, 3)).astype(np.float32)
    found = data.read(write(tmp_path / "box.npz", {"z": np.array([1, 2, 3, 4]), "pos": pos, "cell": cell, "pbc": pbc}))
    assert found.source == "box"
    assert found.names == ("box",)
    assert found.positions.dtype == np.float64
    np.testing.assert_array_equal(found.positions, pos.astype(np.float64))
    np.testing.assert_array_equal(found.numbers, [1, 2, 3, 4])
    np.testing.assert_array_equal(found.ptr, [0, 4])
    np.testing.assert_array_equal(found.cell, cell[None])
    np.testing.assert_array_equal(found.pbc, pbc[None])


def test_a_cell_that_is_not_periodic_is_none(tmp_path):
    arrays = {"z": np.array([1]), "pos": np.zeros((1, 3)), "cell": np.zeros((3, 3)), "pbc": np.zeros(3, bool)}
    found = data.read(write(tmp_path / "protein.npz", arrays))
    assert found.cell is None
    assert found.pbc is None


def test_ragged_set_with_cells_and_names(tmp_path):
    cell = RNG.random((2, 3, 3)) + 3 * np.eye(3)
    arrays = ragged(cell=cell, name=np.array(["a", "bc"]))
    found = data.read(write(tmp_path / "set.npz", arrays))
    assert (found.num_structures, found.num_atoms, found.names) == (2, 5, ("a", "bc"))
    np.testing.assert_array_equal(found.cell, cell)
    assert found.pbc is not None
    assert found.pbc.all()
    np.testing.assert_array_equal(found.positions, arrays["pos"])


def test_trajectories_are_concatenated(tmp_path):
    train, test = RNG.random((3, 2, 3)), RNG.random((2, 2, 3))
    found = data.read(write(tmp_path / "md.npz", {"z": np.array([1, 8]), "train_pos": train, "test_pos": test}))
    np.testing.assert_array_equal(found.ptr, [0, 2, 4, 6, 8, 10])
    np.testing.assert_array_equal(found.numbers, [1, 8] * 5)
    first = np.concatenate([test, train]).reshape(-1, 3)  # in order of their names
    np.testing.assert_array_equal(found.positions, first)
    assert found.names[0] == "test 0"


def test_files_of_ase(tmp_path):
    water, copper = molecule("H2O"), bulk("Cu", "fcc", a=3.6)
    ase.io.write(tmp_path / "two.extxyz", [water, copper])
    found = data.read(tmp_path / "two.extxyz")
    np.testing.assert_array_equal(found.ptr, [0, 3, 4])
    np.testing.assert_array_equal(found.numbers, [8, 1, 1, 29])
    np.testing.assert_allclose(found.positions[:3], water.positions, atol=1e-7)
    np.testing.assert_array_equal(found.pbc, [[False] * 3, [True] * 3])
    np.testing.assert_allclose(found.cell[1], np.asarray(copper.cell), atol=1e-7)
    ase.io.write(tmp_path / "water.xyz", water)
    assert data.read(tmp_path / "water.xyz").cell is None


def test_mixed_periodicity_reaches_neighbor_list(tmp_path):
    import torch

    import symkern as sk

    ase.io.write(tmp_path / "two.extxyz", [molecule("H2O"), bulk("Cu", "fcc", a=3.6)])
    found = data.read(tmp_path / "two.extxyz")
    arguments = {key: torch.from_numpy(getattr(found, key)) for key in ("ptr", "cell", "pbc")}
    nb = sk.neighbor_list(torch.from_numpy(found.positions), 3.0, **arguments)
    assert nb.row_ptr.diff().tolist() == [2, 2, 2, 12]


def test_directory_environment_and_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("SYMKERN_DATA", raising=False)
    assert data.find() == []
    write(tmp_path / "b.npz", ragged())
    ase.io.write(tmp_path / "a.xyz", molecule("H2O"))
    (tmp_path / "README.md").write_text("not data")
    assert [file.name for file in data.find(tmp_path)] == ["a.xyz", "b.npz"]
    monkeypatch.setenv("SYMKERN_DATA", str(tmp_path))
    assert [found.source for found in data.load()] == ["a", "b"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: holds no file of a known kind \(\.npz"):
        data.find(tmp_path / "empty")
    with pytest.raises(DataError, match="nowhere: no such file or directory"):
        data.find(tmp_path / "nowhere")


LAYOUTS = {
    "no positions": ({"energy": np.zeros(3)}, "expected arrays z and pos, found energy"),
    "positions of another length": (
        ragged(pos=np.zeros((4, 3))),
        r"pos to be floats of shape \(5, 3\), found float64 \(4",
    ),
    "integer positions": (ragged(pos=np.zeros((5, 3), int)), "pos to be floats"),
    "atomic numbers that are floats": (ragged(z=np.ones(5)), "z to be integers"),
    "negative atomic numbers": (ragged(z=-np.ones(5, int)), "must not be negative, found -1"),
    "ptr that stops early": (ragged(ptr=np.array([0, 3, 4])), "ptr must rise from 0 to the number of atoms 5"),
    "ptr that falls": (ragged(ptr=np.array([0, 6, 5])), "ptr must rise"),
    "empty ptr": (ragged(ptr=np.array([], int)), r"ptr must rise|ptr to be"),
    "a cell too few": (ragged(cell=np.ones((1, 3, 3))), r"cell to be floats of shape \(2, 3, 3\)"),
    "singular cell": (ragged(cell=np.ones((2, 3, 3)), name=np.array(["good", "bad"])), "good: the lattice vectors"),
    "cell that is not finite": (ragged(cell=np.full((2, 3, 3), np.nan)), "cell is not finite"),
    "positions that are not finite": (ragged(pos=np.full((5, 3), np.inf)), "positions of 5 atoms are not finite"),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_foreign_layouts_are_refused(tmp_path, case):
    arrays, reason = LAYOUTS[case]
    path = write(tmp_path / "bad.npz", arrays)
    with pytest.raises(DataError, match=reason) as caught:
        data.read(path)
    assert str(path) in str(caught.value)


class Planted:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickled_objects_are_never_loaded(tmp_path):
    trap = tmp_path / "trap"
    path = write(tmp_path / "pickled.npz", ragged(name=np.array([Planted(trap), None], dtype=object)))
    with np.load(path, allow_pickle=True) as archive:  # the trap works
        archive["name"]
    assert trap.exists()
    trap.unlink()
    with pytest.raises(DataError, match=r"pickled\.npz: name holds pickled objects, which are never read"):
        data.read(path)
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(100)])
def test_files_that_are_no_archive(tmp_path, content):
    path = tmp_path / "foreign.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"foreign\.npz: not a readable \.npz archive"):
        data.read(path)


def test_a_bare_array_is_refused(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    (tmp_path / "bare.npz").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match=r"expected an \.npz archive"):
        data.read(tmp_path / "bare.npz")


def test_truncated_archives(tmp_path):
    path = write(tmp_path / "cut.npz", ragged())
    whole = path.read_bytes()
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"cut\.npz: not a readable \.npz archive"):
            data.read(path)


def test_damaged_archives_raise_nothing_else(tmp_path):
    path = write(tmp_path / "damaged.npz", ragged(cell=np.tile(np.eye(3), (2, 1, 1)), name=np.array(["a", "b"])))
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for at in rng.integers(len(whole), size=rng.integers(1, 4)):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            data.read(path)  # damage to a time stamp does no harm
        except DataError:
            refused += 1
    assert refused > 200


@pytest.mark.filterwarnings("ignore")  # of the parser that numpy reads headers with
def test_damaged_headers_raise_nothing_else(tmp_path):
    """The same without checksums in the way: the arrays' own headers are wrong."""
    rng = np.random.default_rng(2)
    path = tmp_path / "header.npz"
    members = {}
    for name, array in ragged().items():
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(array))
        members[name] = buffer.getvalue()
    refused = 0
    for _ in range(300):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                damaged = bytearray(content)
                damaged[rng.integers(128)] = rng.integers(256)
                archive.writestr(f"{name}.npy", bytes(damaged))
        try:
            data.read(path)
        except DataError:
            refused += 1
    assert refused > 100


def test_files_ase_cannot_read(tmp_path):
    path = tmp_path / "broken.xyz"
    path.write_text("3\nwater\nO 0 0\n")
    with pytest.raises(DataError, match=r"broken\.xyz: ASE cannot read it"):
        data.read(path)
    path = tmp_path / "unknown.thing"
    path.write_bytes(b"\x00\x01")
    with pytest.raises(DataError, match=r"unknown\.thing: ASE cannot read it"):
        data.read(path)
    with pytest.raises(DataError, match="no such file"):
        data.read(tmp_path / "absent.xyz")


def test_atoms_are_compared_to_what_was_written(tmp_path):
    """A mistake in the order of atoms or structures would show here."""
    frames = [Atoms("HHe", positions=RNG.random((2, 3)) + k) for k in range(3)]
    ase.io.write(tmp_path / "frames.traj", frames)
    found = data.read(tmp_path / "frames.traj")
    np.testing.assert_array_equal(found.positions, np.concatenate([atoms.positions for atoms in frames]))
    assert found.names == ("HHe 0", "HHe 1", "HHe 2")


def test_trajectories_keep_their_cells(tmp_path):
    cells = RNG.random((3, 3, 3)) + 3 * np.eye(3)
    arrays = {"z": np.array([1, 8]), "train_pos": RNG.random((3, 2, 3)), "test_pos": RNG.random((2, 2, 3))}
    found = data.read(write(tmp_path / "md.npz", {**arrays, "train_cell": cells}))
    np.testing.assert_array_equal(found.cell, [*np.zeros((2, 3, 3)), *cells])
    assert found.pbc.all(1).tolist() == [False, False, True, True, True]
    shared = {**arrays, "cell": 4 * np.eye(3), "pbc": np.array([True, False, True])}
    found = data.read(write(tmp_path / "md.npz", shared))
    np.testing.assert_array_equal(found.cell, [4 * np.eye(3)] * 5)
    assert found.pbc.tolist() == [[True, False, True]] * 5
    with pytest.raises(DataError, match=r"train_cell to be floats of shape \(3, 3, 3\)"):
        data.read(write(tmp_path / "md.npz", {**arrays, "train_cell": cells[:2]}))


@pytest.mark.parametrize("suffix", ["db", "json"])
def test_databases(tmp_path, suffix):
    with ase.db.connect(tmp_path / f"rows.{suffix}") as database:
        for name in ("H2O", "CH4"):
            database.write(molecule(name), data={"x": [1.0]})
    found = data.read(tmp_path / f"rows.{suffix}")
    assert found.ptr.tolist() == [0, 3, 8]
    assert data.find(tmp_path) == [tmp_path / f"rows.{suffix}"]


def test_an_empty_database_stays_empty(tmp_path):
    """ASE alone would write its tables into it."""
    (tmp_path / "empty.db").touch()
    with pytest.raises(DataError, match=r"empty\.db: ASE cannot read it \(not an SQLite database"):
        data.read(tmp_path / "empty.db")
    assert not (tmp_path / "empty.db").read_bytes()


def test_names_and_odd_file_names(tmp_path):
    water = molecule("H2O")
    water.info["name"] = "ice"
    ase.io.write(tmp_path / "a@1.extxyz", [molecule("CH4"), water], format="extxyz")
    assert data.read(tmp_path / "a@1.extxyz").names == ("CH4 0", "ice")


def test_reading_structures_needs_neither_torch_nor_ase():
    code = "import sys; from symkern import data; data.find(); assert not {'torch', 'ase'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
