"""`symkern fetch`: little archives in the published formats, from servers that behave and servers that do not."""

from __future__ import annotations

import bz2
import errno
import hashlib
import io
import lzma
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest

from symkern import cli
from symkern.data import DataError, Dataset, download, fetch, qm9_xyz
from symkern.experiments import rmd17
from symkern.experiments.asan import qm9 as asan_qm9
from symkern.experiments.sann import qm7x, table4

# dsgdb9nsd_000001.xyz as it is published
METHANE = """5
gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749\t-40.47893\t-40.476062\t\
-40.475117\t-40.498597\t6.469\t
C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689
H\t 0.002150416\t-0.0060313176\t 0.0019761204\t 0.133921
H\t 1.0117308433\t 1.4637511618\t 0.0002765748\t 0.133922
H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923
H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923
1341.307\t1341.3284\t1341.365\t1562.6731\t1562.7453\t3038.3205\t3151.6034\t3151.6788\t3151.7078
C\tC\t
InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4
"""
# made up: numbers as Mathematica writes them, fluorine
FLUORIDE = """2
gdb 7\t0.\t600.\t600.\t1.8\t5.\t-0.4\t0.1\t0.5\t9.\t9.3*^-3\t-100.\t-99.9\t-99.8\t-100.1\t6.5
F\t 1.5*^-6\t-2.*^-7\t 0.1\t-0.3
H\t 0.\t 0.\t 1.02\t 3.*^-1
4000.
F\tF
InChI=1S/FH/h1H\tInChI=1S/FH/h1H
"""
MOVED = FLUORIDE.replace("gdb 7", "gdb 21")
# the form of the published list: a head, a row for each molecule, a foot
LIST = "Compounds that changed\n======\n  Index  SMILES\n------\n     21  F  F\n======\n"


def tar(path: Path, members: Mapping[str, bytes | str]) -> Path:
    with tarfile.open(path, "w:bz2") as archive:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def texts(*molecules: str) -> dict[str, str]:
    return {f"dsgdb9nsd_{int(text.split()[2]):06d}.xyz": text for text in molecules}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYMKERN_DATA", raising=False)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """What the servers have."""
    folder = tmp_path / "published"
    folder.mkdir()
    tar(folder / "dsgdb9nsd.xyz.tar.bz2", texts(METHANE, FLUORIDE, MOVED))
    (folder / "uncharacterized.txt").write_text(LIST)
    return folder


@pytest.fixture
def point(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets sources lie elsewhere."""

    def to(name: str, base: str, folder: Path, *, checksums: bool = True) -> None:
        parts = []
        for part in fetch.SETS[name]:
            sources = tuple(
                download.Source(s.name, (f"{base}/{s.name}",), md5(folder / s.name) if checksums else None)
                for s in part.sources
                if (folder / s.name).is_file()
            )
            parts += [replace(part, sources=sources)] if len(sources) == len(part.sources) else []
        monkeypatch.setitem(fetch.SETS, name, tuple(parts))
        monkeypatch.setattr(qm9_xyz, "MOLECULES", 3)
        monkeypatch.setattr(qm9_xyz, "UNCHARACTERIZED", 1)

    return to


class Server:
    """Serves a folder; `ranges`: whether parts can be asked for; `limit`: how much is sent before it hangs up."""

    def __init__(self, folder: Path) -> None:
        self.ranges, self.limit, self.status = True, 1 << 30, 200
        self.asked: list[tuple[str, str | None]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                owner.asked.append((self.path, asked))
                file = folder / self.path.lstrip("/")
                if not file.is_file():
                    return self.send_error(404, "Not Found")
                data, begin = file.read_bytes(), 0
                if asked and owner.ranges:
                    begin = int(asked.removeprefix("bytes=").removesuffix("-"))
                    if begin >= len(data):
                        return self.send_error(416, "Range Not Satisfiable")
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
                else:
                    self.send_response(owner.status)
                self.send_header("Content-Length", str(len(data) - begin))
                self.end_headers()
                self.wfile.write(data[begin : begin + owner.limit])

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def server(published: Path) -> Iterator[Server]:
    found = Server(published)
    yield found
    found.http.shutdown()
    found.http.server_close()


def whole(folder: Path) -> None:
    """What `METHANE` and `FLUORIDE` hold."""
    with np.load(folder / "qm9.npz", allow_pickle=False) as archive:
        found = dict(archive)
    assert list(found) == ["z", "pos", "ptr", "gdb_id", *qm9_xyz.PROPERTIES]
    assert found["z"].tolist() == [6, 1, 1, 1, 1, 9, 1]
    assert found["ptr"].tolist() == [0, 5, 7]
    assert found["gdb_id"].tolist() == [1, 7]
    assert found["pos"][0].tolist() == np.float32([-0.0126981359, 1.0858041578, 0.0080009958]).tolist()
    assert found["pos"][5].tolist() == np.float32([1.5e-6, -2e-7, 0.1]).tolist()
    dtypes = {"z": np.int8, "pos": np.float32, "ptr": np.int64, "gdb_id": np.int32}
    assert all(array.dtype == dtypes.get(key, np.float64) for key, array in found.items())
    values = {"A": 157.7118, "mu": 0, "gap": 0.5048, "r2": 35.3641, "u0": -40.47893, "g298": -40.498597, "cv": 6.469}
    assert {key: found[key][0] for key in values} == values
    assert found["zpve"].tolist() == [0.044749, 9.3e-3]


# ---- QM9 -------------------------------------------------------------------------------------------------------------


def test_qm9(server: Server, published: Path, point: Callable[..., None], tmp_path: Path, capsys) -> None:
    point("qm9", server.url, published)
    to = tmp_path / "new" / "data"
    assert cli.main(["fetch", "qm9", "--to", str(to)]) == 0
    whole(to)
    said = capsys.readouterr().out
    assert f"{to / 'qm9.npz'}: 2 molecules; the 1 uncharacterized ones are left out" in said
    assert f"--data {to}" in said
    assert Dataset.read(to / "qm9.npz", energy="u0", energy_unit="Ha").num_structures == 2
    assert sorted(path.name for path in to.iterdir()) == ["dsgdb9nsd.xyz.tar.bz2", "qm9.npz", "uncharacterized.txt"]
    count = len(server.asked)
    assert cli.main(["fetch", "qm9", "--to", str(to)]) == 0
    assert "already there" in capsys.readouterr().out
    (to / "qm9.npz").unlink()
    fetch.fetch("qm9", to)  # from the files that are there
    whole(to)
    assert len(server.asked) == count == 2


def test_default_folders(server, published, point, tmp_path, monkeypatch) -> None:
    point("qm9", server.url, published)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["fetch", "qm9"]) == 0
    whole(tmp_path / "data")
    monkeypatch.setenv("SYMKERN_DATA", str(tmp_path / "mine"))
    assert cli.main(["fetch", "qm9"]) == 0
    whole(tmp_path / "mine")


def test_by_hand(published: Path, point: Callable[..., None], tmp_path: Path, capsys) -> None:
    point("qm9", "http://127.0.0.1:9", published)
    given = [str(published / name) for name in ("uncharacterized.txt", "dsgdb9nsd.xyz.tar.bz2")]
    assert cli.main(["fetch", "qm9", "--to", str(tmp_path / "out"), "--from", *given]) == 0
    whole(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["qm9.npz"]
    other = published / "other.tar.bz2"
    other.touch()
    assert cli.main(["fetch", "qm9", "--to", str(tmp_path / "out"), "--from", str(other)]) == 1
    assert "must be named dsgdb9nsd.xyz.tar.bz2, uncharacterized.txt, got other.tar.bz2" in capsys.readouterr().err
    assert cli.main(["fetch", "qm9", "--to", str(tmp_path / "out"), "--from", "none"]) == 1
    assert "none: no such file" in capsys.readouterr().err


def test_file_urls(published: Path, point: Callable[..., None], tmp_path: Path) -> None:
    point("qm9", published.as_uri(), published)
    fetch.fetch("qm9", tmp_path / "out")
    whole(tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (METHANE.replace("5\ngdb", "6\ngdb"), "could not convert|5 of 6|KeyError"),
        (METHANE.replace("gdb 1", "xyz 1"), "'xyz'"),
        (METHANE.replace("\t6.469", ""), "14 properties"),
        (METHANE.replace("C\t-0.01", "Xx\t-0.01"), "KeyError: 'Xx'"),
        (METHANE.replace("13.21", "many"), "could not convert"),
        ("", "IndexError"),
    ],
)
def test_other_texts(text: str, reason: str) -> None:
    with pytest.raises(DataError, match=rf"here: expected a molecule in the format of QM9 \(.*({reason})"):
        qm9_xyz.parse(text, "here")


def test_archives_that_are_wrong(published: Path, point: Callable[..., None], tmp_path: Path) -> None:
    archive, out = published / "dsgdb9nsd.xyz.tar.bz2", tmp_path / "out"
    for content, reason in (
        (texts(METHANE, FLUORIDE), "expected 3 molecules, 1 of them uncharacterized, found 2, 0 of them"),
        (texts(METHANE, MOVED) | {"dsgdb9nsd_000002.xyz": METHANE}, "molecule 1 of QM9 is there twice"),
        (texts(METHANE, FLUORIDE) | {"../dsgdb9nsd_000021.xyz": MOVED}, "claims a place outside of the archive"),
        (texts(METHANE, FLUORIDE) | {"/tmp/dsgdb9nsd_000021.xyz": MOVED}, "claims a place outside of the archive"),
    ):
        tar(archive, content)
        point("qm9", published.as_uri(), published)
        with pytest.raises(DataError, match=reason):
            fetch.fetch("qm9", out)
        assert sorted(path.name for path in out.iterdir()) == ["dsgdb9nsd.xyz.tar.bz2", "uncharacterized.txt"]
        assert not list(tmp_path.rglob("dsgdb9nsd_*"))
        (out / "dsgdb9nsd.xyz.tar.bz2").unlink()
    raw = bz2.compress(bz2.decompress(archive.read_bytes())[:1500])
    for damaged in (raw, archive.read_bytes()[:-200], b"no archive at all"):
        archive.write_bytes(damaged)
        point("qm9", published.as_uri(), published)
        with pytest.raises(DataError, match=r"dsgdb9nsd.xyz.tar.bz2: damaged or cut off .*fetch it again"):
            fetch.fetch("qm9", out)
        assert not (out / "qm9.npz").exists()
        (out / "dsgdb9nsd.xyz.tar.bz2").unlink()


# ---- servers ---------------------------------------------------------------------------------------------------------


def test_wrong_checksum(server: Server, published: Path, point: Callable[..., None], tmp_path: Path, capsys) -> None:
    point("qm9", server.url, published)
    tar(published / "dsgdb9nsd.xyz.tar.bz2", texts(METHANE, FLUORIDE))
    assert cli.main(["fetch", "qm9", "--to", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert f"{server.url}/dsgdb9nsd.xyz.tar.bz2: " in said
    assert "expected a file with MD5" in said
    assert not list((tmp_path / "out").iterdir())  # nothing to go on with
    with pytest.raises(DataError, match="expected a file with MD5"):
        fetch.fetch("qm9", tmp_path / "out", [published / "dsgdb9nsd.xyz.tar.bz2"])


def test_no_such_file(server: Server, published: Path, point: Callable[..., None], tmp_path: Path, capsys) -> None:
    point("qm9", f"{server.url}/nowhere", published)
    assert cli.main(["fetch", "qm9", "--to", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert f"{server.url}/nowhere/dsgdb9nsd.xyz.tar.bz2: HTTP 404 Not Found" in said
    assert "fetch it by hand from https://doi.org/10.6084/m9.figshare.c.978904.v5" in said
    assert "symkern fetch qm9 --from dsgdb9nsd.xyz.tar.bz2" in said


def test_no_network(published: Path, point: Callable[..., None], tmp_path: Path) -> None:
    point("qm9", "http://127.0.0.1:9", published)
    with pytest.raises(download.FetchError, match=r"http://127.0.0.1:9/dsgdb9nsd.xyz.tar.bz2: .*refused"):
        fetch.fetch("qm9", tmp_path)


def test_answers_that_are_no_file(server: Server, published: Path, point: Callable[..., None], tmp_path: Path) -> None:
    """As of servers that ask for a browser: success, by the number."""
    point("qm9", server.url, published)
    server.status = 202
    with pytest.raises(download.FetchError, match="HTTP 202 in place of the file"):
        fetch.fetch("qm9", tmp_path / "out")


@pytest.mark.parametrize("ranges", [True, False])
def test_interrupted(ranges: bool, server: Server, published: Path, point, tmp_path: Path) -> None:
    point("qm9", server.url, published)
    server.ranges, server.limit = ranges, 100
    size = (published / "dsgdb9nsd.xyz.tar.bz2").stat().st_size
    with pytest.raises(download.FetchError, match=rf"cut off after 100 of {size} bytes\n.*goes on where it stopped"):
        fetch.fetch("qm9", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dsgdb9nsd.xyz.tar.bz2.partial"]
    server.limit = 1 << 30
    server.asked.clear()
    fetch.fetch("qm9", tmp_path / "out")
    whole(tmp_path / "out")
    assert server.asked[0] == ("/dsgdb9nsd.xyz.tar.bz2", "bytes=100-")
    assert not list((tmp_path / "out").glob("*.partial"))


def test_whole_but_not_renamed(server: Server, published: Path, point, tmp_path: Path) -> None:
    point("qm9", server.url, published)
    content = (published / "dsgdb9nsd.xyz.tar.bz2").read_bytes()
    (tmp_path / "dsgdb9nsd.xyz.tar.bz2.partial").write_bytes(content)
    fetch.fetch("qm9", tmp_path)
    whole(tmp_path)


def test_next_url(server: Server, published: Path, point, tmp_path: Path, monkeypatch, capsys) -> None:
    point("qm9", server.url, published)
    (part,) = fetch.SETS["qm9"]
    sources = tuple(replace(s, urls=("http://127.0.0.1:9/x", f"{server.url}/none", *s.urls)) for s in part.sources)
    monkeypatch.setitem(fetch.SETS, "qm9", (replace(part, sources=sources),))
    fetch.fetch("qm9", tmp_path)
    whole(tmp_path)
    assert f"fetched from {server.url}/uncharacterized.txt" in capsys.readouterr().out


def test_stopped_and_full(server: Server, published: Path, point, tmp_path: Path, monkeypatch, capsys) -> None:
    """Ctrl-C and a full disk while the archive of molecules is written: no half file."""
    point("qm9", server.url, published)
    for error, code in ((KeyboardInterrupt(), 130), (OSError(errno.ENOSPC, "No space left on device"), 1)):

        def save(file: io.BufferedIOBase, *, stop: BaseException = error, **_: object) -> None:
            file.write(b"half")
            raise stop

        monkeypatch.setattr(fetch.np, "savez_compressed", save)
        assert cli.main(["fetch", "qm9", "--to", str(tmp_path / "out")]) == code
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["dsgdb9nsd.xyz.tar.bz2", "uncharacterized.txt"]
    said = capsys.readouterr().err
    assert "stopped; the same command goes on" in said
    assert f"{tmp_path / 'out'}: No space left on device; make space, or choose another folder (--to)" in said


def test_a_folder_that_is_none(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["fetch", "qm9", "--to", str(tmp_path / "file")]) == 1
    assert f"{tmp_path / 'file'}: File exists" in capsys.readouterr().err


def test_progress_is_told(server: Server, published: Path, point, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(download, "_LINES_APART", -1.0)
    monkeypatch.setattr(download, "CHUNK", 64)
    point("qm9", server.url, published)
    fetch.fetch("qm9", tmp_path)
    said = capsys.readouterr().err
    assert "fetching dsgdb9nsd.xyz.tar.bz2: 0 of 0 MB\n" in said
    assert "reading dsgdb9nsd.xyz.tar.bz2: 0 of 0 MB\n" in said


def test_names() -> None:
    """The command has them without importing anything; sources are of the published form."""
    with pytest.raises(SystemExit):
        cli.main(["fetch", "nonsense"])
    with pytest.raises(ValueError, match="name must be one of qm9, rmd17, qm7x, got 'nonsense'"):
        fetch.fetch("nonsense", Path())
    assert list(fetch.SETS) == list(fetch.PAGES) == ["qm9", "rmd17", "qm7x"]
    for part in (part for parts in fetch.SETS.values() for part in parts):
        for source in part.sources:
            assert all(url.startswith("https://") for url in source.urls)
            assert source.md5 is None or len(bytes.fromhex(source.md5)) == 16


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
    found = [qm9_xyz.parse(text, "text") for text in (METHANE, FLUORIDE)]
    np.savez(tmp_path / "qm9_20k.npz", **qm9_xyz.arrays(found[:1]))
    np.savez(tmp_path / "qm9.npz", **qm9_xyz.arrays(found))
    assert table4._files(tmp_path) == [str(tmp_path / "qm9.npz")]
    assert [list(ids) for *_, ids, _ in asan_qm9._archives(str(tmp_path))] == [[1, 7]]
    assert table4._files(tmp_path / "qm9_20k.npz") == [str(tmp_path / "qm9_20k.npz")]

    def statuses(data: Path, out: str) -> dict[tuple[str, str], str]:
        rows = table4.run(data, tmp_path / out, molecules=0, progress=False)["rows"]
        return {(row["model"], row["column"]): row["status"] for row in rows}

    g2 = table4._g2()[:2]
    monkeypatch.setattr(table4, "_g2", lambda: g2)
    monkeypatch.setattr(table4, "COPIES", 2)
    monkeypatch.setattr(table4, "MOLECULES", 5)
    monkeypatch.setattr(table4, "UNCHARACTERIZED", 3)
    whole_set = statuses(tmp_path, "whole")
    assert whole_set["ASUN+", "qm9/rank3/emd"] == whole_set["PCA", "qm9/rank3/failures"] == "full"
    assert whole_set["ASUN", "qm9/rank1/emd"] == "reduced"  # of two molecules one, of low rank
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
