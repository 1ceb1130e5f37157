"""QM7-X: the published layout, the shipped stand-in, selection by symmetry, splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from symkern.data import DataError, Dataset
from symkern.experiments.sann import qm7x
from symkern.experiments.sann.turning import rotations, turned

BOHR = 0.529177210903  # Å


def _group(file: h5py.File, molecule: str, name: str, z: Any, x: Any, v: Any) -> None:
    """One structure as in the published files, with one of the many other keys."""
    group = file.create_group(f"{molecule}/{name}")
    group["atNUM"] = np.asarray(z, dtype=np.int64)
    group["atXYZ"] = np.asarray(x, dtype=np.float64)
    group["hVDIP"] = np.asarray(v, dtype=np.float64)
    group["hCHG"] = np.zeros((len(z), 1))


@pytest.fixture
def published(tmp_path: Path) -> list[Path]:
    """Two molecules of at most five heavy atoms, one of which has a copy, and one of six."""
    random = np.random.default_rng(0)
    paths = [tmp_path / "1000.hdf5", tmp_path / "2000.hdf5"]
    with h5py.File(paths[0], "w") as file:
        for name in ("Geom-m1-i1-c1-opt", "Geom-m1-i1-c1-17"):
            _group(file, "1", name, [8, 1, 1], random.normal(size=(3, 3)), random.normal(size=(3, 3)))
        _group(file, "2", "Geom-m2-i1-c1-opt", [6] * 6, random.normal(size=(6, 3)), random.normal(size=(6, 3)))
    with h5py.File(paths[1], "w") as file:
        _group(file, "1003", "Geom-m1003-i1-c1-opt", [6] * 5, random.normal(size=(5, 3)), random.normal(size=(5, 3)))
    return paths


def test_published_layout(published: list[Path]) -> None:
    data = qm7x.read_hdf5(published)
    assert data.names == ("Geom-m1-i1-c1-17", "Geom-m1-i1-c1-opt", "Geom-m1003-i1-c1-opt")
    assert data.per_structure["molecule"].tolist() == [1, 1, 1003]
    assert data.per_structure["relaxed"].tolist() == [False, True, True]
    assert data.ptr.tolist() == [0, 3, 6, 11]
    assert data.z.tolist() == [8, 1, 1, 8, 1, 1, *[6] * 5]
    with h5py.File(published[0]) as file:
        wanted = file["1/Geom-m1-i1-c1-opt"]
        assert np.array_equal(data.pos[3:6].numpy(), wanted["atXYZ"][()])
        assert np.array_equal(data.per_atom["hVDIP"][3:6].numpy(), wanted["hVDIP"][()])
    assert qm7x.read_hdf5(published, max_heavy=6).num_structures == 4


def test_which_files(published: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYMKERN_DATA", raising=False)
    assert qm7x.files() == []
    assert qm7x.files(published[0].parent) == published
    assert qm7x.files(published[1]) == [published[1]]
    other = published[0].with_name("qm9.npz")
    other.touch()
    with pytest.raises(
        DataError, match=r"qm9\.npz: must be a file of QM7-X, \.hdf5 or \.h5; without data the stand-in"
    ):
        qm7x.files(other)
    monkeypatch.setenv("SYMKERN_DATA", str(published[0].parent))
    assert qm7x.files() == published
    with pytest.raises(DataError, match="no such file or directory"):
        qm7x.files(published[0].parent / "nowhere")


def test_files_of_another_layout(tmp_path: Path) -> None:
    path = tmp_path / "1000.hdf5"
    path.write_text("not HDF5")
    with pytest.raises(DataError, match=r"1000\.hdf5: not a readable HDF5 file"):
        qm7x.read_hdf5([path])
    with h5py.File(path, "w") as file:
        _group(file, "1", "a", [8, 1, 1], np.zeros((3, 3)), np.zeros((3, 3)))
        del file["1/a/hVDIP"]
    with pytest.raises(DataError, match=r"1000\.hdf5: 1/a has no hVDIP; expected atNUM, atXYZ, hVDIP"):
        qm7x.read_hdf5([path])
    with h5py.File(path, "w") as file:
        _group(file, "1", "a", [8, 1, 1], np.zeros((3, 3)), np.zeros(9))
    with pytest.raises(DataError, match=r"1/a: atNUM must be \(N,\), .* found \(3,\), \(3, 3\), \(9,\)"):
        qm7x.read_hdf5([path])
    with h5py.File(path, "w") as file:
        _group(file, "1", "a", [6] * 7, np.zeros((7, 3)), np.zeros((7, 3)))
    for key, wrong, reason in (
        ("atNUM", [8.5, 1, 1], r"1/a: atNUM must hold atomic numbers, found \[8\.5, 1\.0, 1\.0\]"),
        ("atNUM", [8, 1, 0], r"1/a: atNUM must hold atomic numbers, found \[8, 1, 0\]"),
        ("hVDIP", np.full((3, 3), np.nan), "1/a: atXYZ and hVDIP must be finite"),
    ):
        with h5py.File(path, "w") as file:
            _group(file, "1", "a", [8, 1, 1], np.zeros((3, 3)), np.zeros((3, 3)))
            del file[f"1/a/{key}"]
            file[f"1/a/{key}"] = wrong
        with pytest.raises(DataError, match=reason):
            qm7x.read_hdf5([path])
    with h5py.File(path, "w") as file:
        file["1"] = [1.0]
    with pytest.raises(DataError, match=r"1000\.hdf5: 1 must be the group of a molecule, named by its number"):
        qm7x.read_hdf5([path])
    with h5py.File(path, "w") as file:
        _group(file, "1", "a", [8, 1, 1], np.zeros((3, 3)), np.zeros((3, 3)))
    with pytest.raises(DataError, match="structures must be there once, but a is repeated"):
        qm7x.read_hdf5([path, path])
    with h5py.File(path, "w") as file:
        _group(file, "1", "a", [6] * 6, np.zeros((6, 3)), np.zeros((6, 3)))
    with pytest.raises(DataError, match="no structures of at most 5 heavy atoms"):
        qm7x.read_hdf5([path])


# ---- symmetry --------------------------------------------------------------------------------------------------------


def _dataset(parts: list[tuple[Any, Any, Any, int]]) -> Dataset:
    z, x, v, molecule = zip(*parts, strict=True)
    return Dataset(
        z=torch.cat([torch.tensor(a) for a in z]),
        pos=torch.cat([torch.tensor(a, dtype=torch.float64) for a in x]),
        ptr=torch.tensor(np.cumsum([0, *map(len, z)])),
        per_structure={"molecule": torch.tensor(molecule), "relaxed": torch.ones(len(z), dtype=torch.bool)},
        per_atom={"hVDIP": torch.cat([torch.tensor(a, dtype=torch.float64) for a in v])},
    )


WATER = ([8, 1, 1], [[0, 0, 0.1], [0, 0.75, -0.5], [0, -0.75, -0.5]])
OF_WATER = [[0, 0, -0.13], [0, 0.2, -0.1], [0, -0.2, -0.1]]


def test_residuals_are_what_was_put_in() -> None:
    z, x = WATER
    bent = np.array(OF_WATER)
    bent[1, 0] = 0.04  # the mirror plane turns it into -0.04, and so does the axis for the other hydrogen
    moved = np.array(x)
    moved[1, 1] += 0.06  # one bond is longer
    co2 = ([8, 6, 8], [[0, 0, -1.16], [0, 0, 0], [0, 0, 1.16]])
    straight, bowed = [[0, 0, 0.1], [0, 0, 0], [0, 0, -0.1]], [[0, 0, 0.1], [0.03, 0, 0], [0, 0, -0.1]]
    lopsided = [[0, 0, 0.1], [0, 0, 0], [0, 0, -0.07]]
    parts = [(z, x, OF_WATER), (z, x, bent), (z, moved, OF_WATER)]
    parts += [(*co2, straight), (*co2, bowed), (*co2, lopsided)]
    hcn = ([7, 6, 1], [[0, 0, -1.16], [0.05, 0, 0], [0, 0, 1.07]])
    parts.append((*hcn, [[0, 0, 0.1], [0, 0, 0], [0, 0, -0.1]]))
    data, _ = turned(_dataset([(*part, k) for k, part in enumerate(parts)]), 3)
    found = qm7x.residuals(data, 0.2)
    assert found.symmetric.tolist() == [True] * 7
    assert found.positions[[0, 1, 3, 4, 5]].max() < 1e-12
    assert 0.02 < float(found.positions[2]) < 0.12
    assert 0.02 < float(found.positions[6]) < 0.05  # the carbon is beside the axis
    assert found.vectors.tolist()[:2] == [pytest.approx(0, abs=1e-12), pytest.approx(0.08)]
    assert found.vectors[3:6].tolist() == [pytest.approx(0, abs=1e-12), pytest.approx(0.06), pytest.approx(0.03)]
    assert qm7x.residuals(data, 0.01).symmetric.tolist() == [True] * 7
    assert qm7x.broken(data, 0.2, 0.05).tolist() == [False, True, False, False, True, False, False]
    assert qm7x.broken(data, 0.2, 0.1).sum() == 0


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = qm7x.stand_in().subset(slice(0, 12))
    whole = qm7x.residuals(data, 0.2)
    monkeypatch.setattr(qm7x, "_CHUNK", 5)
    parts = qm7x.residuals(data, 0.2)
    assert torch.equal(whole.vectors, parts.vectors)
    assert torch.equal(whole.positions, parts.positions)


def test_selection_takes_the_molecules_of_what_is_broken() -> None:
    z, x = WATER
    bent = np.array(OF_WATER)
    bent[1, 0] = 0.04
    data = _dataset([(z, x, OF_WATER, 7), (z, x, OF_WATER, 9), (z, x, bent, 7), (z, x, OF_WATER, 8)])
    assert qm7x.broken(data).tolist() == [False, False, True, False]
    assert qm7x.select(data).tolist() == [0, 2]


def test_splits() -> None:
    data = qm7x.stand_in()
    molecule = data.per_structure["molecule"]
    for by in ("structure", "molecule"):
        parts = qm7x.split(data, 3, by)
        assert torch.cat(parts).sort().values.tolist() == list(range(data.num_structures))
        assert [len(p) / data.num_structures for p in parts] == pytest.approx(qm7x.SPLIT, abs=0.1)
        assert all(torch.equal(a, b) for a, b in zip(parts, qm7x.split(data, 3, by), strict=True))
        assert not torch.equal(parts[0], qm7x.split(data, 4, by)[0])
        shared = set(molecule[parts[0]].tolist()) & set(molecule[parts[2]].tolist())
        assert bool(shared) == (by == "structure")
    with pytest.raises(ValueError, match="by must be 'structure' or 'molecule', got 'atom'"):
        qm7x.split(data, 0, "atom")


def test_turning() -> None:
    turns = rotations(50, 0)
    assert (turns @ turns.mT - torch.eye(3, dtype=torch.float64)).abs().max() < 1e-12
    assert torch.linalg.det(turns).allclose(torch.ones(50, dtype=torch.float64))
    assert rotations(4000, 1).mean(0).abs().max() < 0.05  # uniform: no preferred orientation
    data = qm7x.stand_in().subset([0, 5, 9])
    other, turns = turned(data, 1)
    b = slice(int(data.ptr[1]), int(data.ptr[2]))
    assert other.pos[b].allclose(data.pos[b] @ turns[1].T)
    assert other.per_atom["hVDIP"][b].allclose(data.per_atom["hVDIP"][b] @ turns[1].T)
    assert torch.equal(other.per_structure["molecule"], data.per_structure["molecule"])


# ---- what is shipped -------------------------------------------------------------------------------------------------


def test_stand_in() -> None:
    """Charges and atomic dipoles add up; relaxed structures are symmetric, and so are their vectors."""
    assert qm7x.STAND_IN.stat().st_size < 2_000_000
    data = qm7x.stand_in()
    assert data.num_structures >= 150
    assert len(set(data.names)) == data.num_structures
    with np.load(qm7x.STAND_IN) as archive:
        found = {key: archive[key] for key in archive.files}
    about = qm7x.about_stand_in()
    assert about["method"].startswith("PBE0/def2-svp, restricted")
    assert "hVDIP e bohr" in about["units"]
    assert (found["charge_error"] < 1e-4).all()
    assert (found["dipole_error"] < 1e-4).all()
    for b, (begin, end) in enumerate(zip(found["ptr"][:-1], found["ptr"][1:], strict=True)):
        atoms = slice(begin, end)
        assert 1 <= (found["z"][atoms] > 1).sum() <= qm7x.MAX_HEAVY
        assert abs(found["hCHG"][atoms].sum()) < 1e-4
        total = found["hCHG"][atoms] @ found["pos"][atoms] + BOHR * found["hVDIP"][atoms].sum(0)
        assert np.abs(total - found["vDIP"][b]).max() < 1e-4
        assert found["id"][b].startswith(f"Geom-m{found['molecule'][b]}-i1-c{found['conformer'][b]}-")
        assert found["id"][b].endswith("-opt") == (found["temperature"][b] == 0)
    relaxed = data.subset(data.per_structure["relaxed"])
    exact = qm7x.residuals(relaxed, 1e-3)
    assert exact.symmetric.double().mean() > 0.8
    assert exact.positions.max() < 1e-4
    assert exact.vectors.max() < 1e-3  # the grid's
    assert qm7x.broken(data, 0.2).sum() > 0.2 * data.num_structures


def test_stand_in_has_the_right_chemistry() -> None:
    """Figures known from elsewhere, for relaxed molecules: the sign and size of charges, dipoles (D, experiment)."""
    with np.load(qm7x.STAND_IN) as archive:
        found = {key: archive[key] for key in archive.files}
    dipoles = {"O": 1.85, "N": 1.47, "C=O": 2.33, "C#N": 2.98, "COC": 1.30, "C": 0.0, "O=C=O": 0.0, "c1ccoc1": 0.66}
    for smiles, debye in dipoles.items():
        (b, *_) = np.flatnonzero((found["smiles"] == smiles) & (found["temperature"] == 0))
        assert np.linalg.norm(found["vDIP"][b]) * 4.80320 == pytest.approx(debye, abs=0.3), smiles
    (b, *_) = np.flatnonzero((found["smiles"] == "O") & (found["temperature"] == 0))
    charges = found["hCHG"][found["ptr"][b] : found["ptr"][b + 1]]
    assert charges == pytest.approx([-0.32, 0.16, 0.16], abs=0.03)
