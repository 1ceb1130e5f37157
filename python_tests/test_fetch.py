"""`symkern fetch`: QM9 in its published format, and what becomes of downloads that fail."""

from __future__ import annotations

import bz2
import errno
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fetch_tools
import pytest
from fetch_tools import FLUORIDE, METHANE, MOVED, Server, tar, texts, whole

from symkern import cli
from symkern.data import DataError, Dataset, download, fetch, qm9_xyz

published = pytest.fixture(fetch_tools.published)
point = pytest.fixture(fetch_tools.point)
server = pytest.fixture(fetch_tools.server)


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYMKERN_DATA", raising=False)


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
    files = "dsgdb9nsd.xyz.tar.bz2 uncharacterized.txt"
    assert f"By hand: get {files} from https://doi.org/10.6084/m9.figshare.c.978904.v5" in said
    assert f"symkern fetch qm9 --from {files}\n" in said


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


def test_redirected(server: Server, published: Path, point, tmp_path: Path) -> None:
    """As figshare does; the part that is asked for stays the same."""
    point("qm9", f"{server.url}/moved", published)
    content = (published / "dsgdb9nsd.xyz.tar.bz2").read_bytes()
    (tmp_path / "dsgdb9nsd.xyz.tar.bz2.partial").write_bytes(content[:50])
    fetch.fetch("qm9", tmp_path)
    whole(tmp_path)
    assert server.asked[1] == ("/dsgdb9nsd.xyz.tar.bz2", "bytes=50-")


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
