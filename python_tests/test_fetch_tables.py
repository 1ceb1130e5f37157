"""What `symkern fetch` writes, and the tables that read it."""

from __future__ import annotations

import io
import lzma
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import fetch_tools
import h5py
import numpy as np
import pytest
from fetch_tools import FLUORIDE, METHANE, MOVED, Server, tar, texts

from symkern import cli
from symkern.data import DataError, Dataset, fetch, qm9_xyz
from symkern.experiments import rmd17
from symkern.experiments.asan import qm9 as asan_qm9
from symkern.experiments.sann import qm7x, table4

published = pytest.fixture(fetch_tools.published)
point = pytest.fixture(fetch_tools.point)
server = pytest.fixture(fetch_tools.server)


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYMKERN_DATA", raising=False)


# ---- revised MD17 ----------------------------------------------------------------------------------------------------


def test_rmd17(published: Path, point: Callable[..., None], tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(fetch, "_MOLECULES", ("ethanol", "benzene"))
    monkeypatch.setitem(
        fetch.SETS, "rmd17", (replace(fetch.SETS["rmd17"][0], products=("rmd17_ethanol.npz", "rmd17_benzene.npz")),)
    )
    random = np.random.default_rng(0)
    raw = {
        "nuclear_charges": np.array([8, 1, 1], dtype=np.uint8),
        "coords": random.normal(size=(30, 3, 3)),
        "energies": random.normal(size=30) - 97_000,
        "forces": random.normal(size=(30, 3, 3)),
        "old_indices": np.arange(30) * 7,
        "old_energies": np.zeros(30),
    }
    file = io.BytesIO()
    np.savez(file, **raw)
    train, test = [29, 0, 4, 11], [3, 2]
    content = {
        "rmd17/npz_data/rmd17_benzene.npz": file.getvalue(),
        "rmd17/npz_data/rmd17_ethanol.npz": file.getvalue(),
        "rmd17/splits/index_train_01.csv": "".join(f"{k}\n" for k in train),
        "rmd17/splits/index_train_02.csv": "1\n",
        "rmd17/splits/index_test_01.csv": "".join(f"{k}\n" for k in test),
    }
    tar(published / "rmd17.tar.bz2", content)
    point("rmd17", published.as_uri(), published)
    out = tmp_path / "out"
    out.mkdir()
    (out / "rmd17_benzene.npz").write_bytes(b"there before")
    assert cli.main(["fetch", "rmd17", "--to", str(out)]) == 0
    assert "2 molecules, 4 train, 2 test frames each" in capsys.readouterr().out
    assert (out / "rmd17_benzene.npz").read_bytes() == b"there before"
    assert rmd17._file(out) == out / "rmd17_ethanol.npz"
    for split, rows in (("train", train), ("test", test)):
        found = Dataset.read(out / "rmd17_ethanol.npz", split=split, energy_unit="kcal/mol")
        assert found.z.tolist() == [8, 1, 1] * len(rows)
        assert np.array_equal(found.pos.reshape(-1, 3, 3), raw["coords"][rows].astype(np.float32))
        assert np.array_equal(found.per_structure["energy"], raw["energies"][rows])
        assert np.array_equal(found.per_atom["forces"].reshape(-1, 3, 3), raw["forces"][rows].astype(np.float32))
        assert found.per_structure["old_index"].tolist() == [7 * k for k in rows]
    (out / "rmd17_ethanol.npz").unlink()
    for name, changed, reason in (
        ("rmd17/npz_data/rmd17_ethanol.npz", b"no archive", "expected an archive of revised MD17"),
        ("rmd17/splits/index_test_01.csv", "30\n31\n", "expected an archive of revised MD17 .*out of bounds"),
        ("rmd17/npz_data/rmd17_ethanol.npz", None, "expected rmd17_ethanol.npz in it"),
    ):
        wrong = {key: value if key != name else changed for key, value in content.items()}
        tar(published / "rmd17.tar.bz2", {key: value for key, value in wrong.items() if value is not None})
        point("rmd17", published.as_uri(), published)
        (out / "rmd17.tar.bz2").unlink()
        with pytest.raises(DataError, match=reason):
            fetch.fetch("rmd17", out)
        assert not (out / "rmd17_ethanol.npz").exists()


def test_rmd17_round_trip(data: Path) -> None:
    """Frames of the archive at hand, written as they are published, come back."""
    path = data / "rmd17_ethanol.npz"
    if not path.is_file():
        pytest.skip(f"no {path.name}")
    with np.load(path) as archive:
        stored = dict(archive)

    def both(key: str) -> np.ndarray:
        return np.concatenate([stored[f"test_{key}"], stored[f"train_{key}"]])

    names = {"coords": "pos", "energies": "energy", "forces": "forces", "old_indices": "old_index"}
    file = io.BytesIO()
    np.savez(file, nuclear_charges=stored["z"].astype(np.uint8), **{new: both(old) for new, old in names.items()})
    count = len(stored["test_energy"])
    rows = {"train": count + np.arange(len(stored["train_energy"])), "test": np.arange(count)}
    found = fetch._frames(file.getvalue(), rows)
    assert set(found) == set(stored)
    assert all(found[key].dtype == stored[key].dtype and np.array_equal(found[key], stored[key]) for key in stored)


# ---- QM7-X -----------------------------------------------------------------------------------------------------------


def test_qm7x(server: Server, published: Path, point: Callable[..., None], tmp_path: Path, capsys) -> None:
    for name in ("1000", "2000"):
        plain = tmp_path / name
        with h5py.File(plain, "w") as file:
            group = file.create_group(f"{name}/Geom-m{name}-i1-c1-opt")
            group["atNUM"], group["atXYZ"], group["hVDIP"] = [8, 1, 1], np.eye(3), np.full((3, 3), float(name))
        (published / f"{name}.xz").write_bytes(lzma.compress(plain.read_bytes()))
    out = tmp_path / "out"
    point("qm7x", server.url, published, checksums=False)
    assert cli.main(["fetch", "qm7x", "--to", str(out), "--from", str(published / "2000.xz")]) == 0
    assert server.asked == []
    assert [path.name for path in out.iterdir()] == ["2000.hdf5"]
    assert cli.main(["fetch", "qm7x", "--to", str(out)]) == 0
    found = qm7x.read_hdf5(qm7x.files(out))
    assert found.per_structure["molecule"].tolist() == [1000, 2000]
    assert found.per_atom["hVDIP"][:, 0].tolist() == [1000.0] * 3 + [2000.0] * 3
    said = capsys.readouterr().out
    assert f"{out / '2000.hdf5'}: already there" in said
    compressed = (published / "1000.xz").read_bytes()
    broken = bytearray(compressed)
    broken[len(broken) // 2] ^= 1
    (out / "1000.hdf5").unlink()
    for content, reason in (
        (compressed[:-40], "damaged or cut off"),
        (bytes(broken), "damaged or cut off"),
        (lzma.compress(b"something else"), "expected HDF5 in it"),
        (lzma.compress(b""), "expected HDF5 in it"),
    ):
        (out / "1000.xz").write_bytes(content)
        with pytest.raises(DataError, match=rf"1000\.xz: {reason}"):
            fetch.fetch("qm7x", out)
        assert sorted(path.name for path in out.iterdir()) == ["1000.xz", "2000.hdf5"]


# ---- what reads them -------------------------------------------------------------------------------------------------


def raw_text(archive: Mapping[str, np.ndarray], k: int) -> str:
    """Molecule `k` as it is published, in the published number of digits."""
    atoms = slice(archive["ptr"][k], archive["ptr"][k + 1])
    symbols = {1: "H", 6: "C", 7: "N", 8: "O", 9: "F"}
    rows = [
        "\t".join(
            [symbols[int(z)], *(f"{v:.10f}" if abs(v) >= 1e-4 else f"{v:.9e}".replace("e", "*^") for v in x), "0."]
        )
        for z, x in zip(archive["z"][atoms], archive["pos"][atoms].astype(float), strict=True)
    ]
    properties = "\t".join(repr(float(archive[key][k])) for key in qm9_xyz.PROPERTIES)
    return "\n".join([str(len(rows)), f"gdb {archive['gdb_id'][k]}\t{properties}\t", *rows, "1.\t2.", "C\tC", "I\tI\n"])


def test_qm9_round_trip(data: Path, published: Path, point, tmp_path: Path, monkeypatch) -> None:
    """The ASAN sample, written as it is published and fetched, comes out as it does of the parts of QM9 at hand."""
    paths = [data / name for name in ("qm9_20k.npz", "qm9_extra_29k.npz")]
    if not all(path.is_file() for path in paths):
        pytest.skip("no qm9_20k.npz, qm9_extra_29k.npz")
    wanted = sorted({i for parts in asan_qm9.stored().values() for part in parts.values() for i in part})
    molecules, stored = [], []
    for path in paths:
        with np.load(path) as file:
            archive = dict(file)
        for k in np.flatnonzero(np.isin(archive["gdb_id"], wanted)):
            molecules.append(raw_text(archive, k))
            stored.append((int(archive["gdb_id"][k]), [archive[key][k] for key in qm9_xyz.PROPERTIES]))
    tar(published / "dsgdb9nsd.xyz.tar.bz2", texts(*molecules, MOVED))
    point("qm9", published.as_uri(), published)
    monkeypatch.setattr(qm9_xyz, "MOLECULES", len(wanted) + 1)
    fetch.fetch("qm9", tmp_path / "out")
    with np.load(tmp_path / "out" / "qm9.npz") as file:
        row = {int(identity): k for k, identity in enumerate(file["gdb_id"])}
        values = np.stack([file[key] for key in qm9_xyz.PROPERTIES], 1)
    assert all(values[row[identity]].tolist() == numbers for identity, numbers in stored)
    for name in asan_qm9.SPLITS:
        for ours, theirs in zip(
            asan_qm9.split(str(tmp_path / "out"), name), asan_qm9.split(str(data), name), strict=True
        ):
            assert ours.names == theirs.names
            assert np.array_equal(ours.z, theirs.z)
            assert np.array_equal(ours.pos, theirs.pos)
            assert np.array_equal(ours.per_structure["gap"], theirs.per_structure["gap"])


def test_all_of_qm9_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside its parts nothing counts twice; rows of all of it are full, but for models that take a sample."""
    found = [qm9_xyz.parse(text, "text") for text in (METHANE, FLUORIDE, METHANE.replace("gdb 1", "gdb 9"))]
    np.savez(tmp_path / "qm9_20k.npz", **qm9_xyz.arrays(found[:1]))
    np.savez(tmp_path / "qm9.npz", **qm9_xyz.arrays(found))
    assert table4._files(tmp_path) == [str(tmp_path / "qm9.npz")]
    assert [list(ids) for *_, ids, _ in asan_qm9._archives(str(tmp_path))] == [[1, 7, 9]]
    assert table4._files(tmp_path / "qm9_20k.npz") == [str(tmp_path / "qm9_20k.npz")]

    def statuses(data: Path, out: str) -> dict[tuple[str, str], str]:
        rows = table4.run(data, tmp_path / out, molecules=1, progress=False)["rows"]
        return {(row["model"], row["column"]): row["status"] for row in rows}

    g2 = table4._g2()[:2]
    monkeypatch.setattr(table4, "_g2", lambda: g2)
    monkeypatch.setattr(table4, "COPIES", 2)
    monkeypatch.setattr(table4, "MOLECULES", 5)
    monkeypatch.setattr(table4, "UNCHARACTERIZED", 2)
    whole_set = statuses(tmp_path, "whole")
    assert whole_set["ASUN+", "qm9/rank3/emd"] == whole_set["PCA", "qm9/rank3/failures"] == "full"
    assert whole_set["ASUN", "qm9/rank1/emd"] == "full"
    assert whole_set["ASUN", "qm9/rank3/emd"] == whole_set["ASUN", "qm9/rank3/failures"] == "reduced"
    assert whole_set["ASUN", "g2/rank3/emd"] == "full"
    assert statuses(tmp_path / "qm9_20k.npz", "part")["ASUN+", "qm9/rank3/emd"] == "reduced"


@pytest.mark.parametrize(
    ("table", "command"), [("asan-table1", "qm9"), ("sann-table4", "qm9"), ("rmd17-ethanol", "rmd17")]
)
def test_missing_data_name_the_command(table: str, command: str, tmp_path: Path, capsys) -> None:
    np.savez(tmp_path / "other.npz", z=[1])
    with pytest.raises(SystemExit):
        cli.main(["reproduce", table, "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert f"symkern fetch {command} gets" in capsys.readouterr().err
