"""Little archives in the published formats of `symkern fetch`, and servers that behave and that do not."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from symkern.data import download, fetch, qm9_xyz

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


def published(tmp_path: Path) -> Path:
    """What the servers have."""
    folder = tmp_path / "published"
    folder.mkdir()
    tar(folder / "dsgdb9nsd.xyz.tar.bz2", texts(METHANE, FLUORIDE, MOVED))
    (folder / "uncharacterized.txt").write_text(LIST)
    return folder


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
                if self.path.startswith("/moved/"):
                    self.send_response(302)
                    self.send_header("Location", self.path.removeprefix("/moved"))
                    return self.end_headers()
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
