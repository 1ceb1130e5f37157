"""Files from the network: gone on with where they stopped, checked, and under their name only when they are whole."""

from __future__ import annotations

import hashlib
import http.client
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symkern import __version__
from symkern.data.structures import DataError

CHUNK = 1 << 20
_TIMEOUT = 60.0  # seconds without any byte
_LINES_APART = 10.0  # seconds, where there is no bar


class FetchError(DataError):
    """A file could not be fetched; the message says why and what to do."""


@dataclass(frozen=True)
class Source:
    """A published file: its name, where it is, its MD5 where that is known."""

    name: str
    urls: tuple[str, ...]
    md5: str | None = None


def download(source: Source, folder: Path) -> Path:
    """The file in `folder`, from the first URL that gives it.

    Raises:
        FetchError: none does; the message has all of them, each with its reason.
        OSError: it cannot be written.
    """
    target, partial = folder / source.name, folder / f"{source.name}.partial"
    problems = []
    for url in source.urls:
        try:
            _transfer(url, partial)
            try:
                verify(partial, source.md5)
            except DataError:
                partial.unlink()
                raise
        except DataError as error:
            problems.append(f"{url}: {error}")
        else:
            partial.replace(target)
            print(f"{target}: fetched from {url}", flush=True)
            return target
    raise FetchError("\n  ".join([f"{source.name} could not be fetched:", *problems]))


def verify(path: Path, md5: str | None) -> None:
    """Raise DataError unless the file has this MD5; None: anything will do."""
    if md5 is None:
        return
    state = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            state.update(chunk)
    if state.hexdigest() != md5:
        raise DataError(
            f"{path}: expected a file with MD5 {md5}, found {state.hexdigest()}; delete it and fetch it again"
        )


def _transfer(url: str, partial: Path) -> None:
    """All of `url` in `partial`, which may hold the beginning."""
    done = partial.stat().st_size if partial.is_file() else 0
    answer = _open(url, done)
    if answer is None:
        return
    with answer:
        if answer.status not in (None, 200, 206):  # 202: a page that asks for a browser
            raise FetchError(f"HTTP {answer.status} in place of the file")
        if answer.status != 206:  # the server, or a file:// URL, knows no ranges
            done = 0
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            raise FetchError(f"asked for bytes from {done}, got {answer.headers.get('Content-Range')}")
        length = answer.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        with partial.open("ab" if done else "wb") as file, progress(f"fetching {partial.stem}", total) as watch:
            while chunk := _read(answer):
                file.write(chunk)
                done += len(chunk)
                watch(done)
    if total is not None and done != total:
        raise FetchError(f"cut off after {done} of {total} bytes")


def _open(url: str, begin: int) -> Any:
    """The answer from byte `begin` on; None where there is no such byte: all is there already."""
    headers = {"User-Agent": f"symkern/{__version__}"} | ({"Range": f"bytes={begin}-"} if begin else {})
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and begin:
            return None
        raise FetchError(f"HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(_reason(error)) from error


def _read(answer: Any) -> bytes:
    try:
        chunk: bytes = answer.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(_reason(error)) from error
    return chunk


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", error)) or type(error).__name__


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """Shows how many bytes are done: a bar on a terminal where rich is installed, now and then a line elsewhere."""
    printed = time.monotonic()

    def say(done: int) -> None:
        nonlocal printed
        if time.monotonic() > printed + _LINES_APART:
            printed = time.monotonic()
            of = "" if total is None else f" of {total / 1e6:.0f}"
            print(f"{label}: {done / 1e6:.0f}{of} MB", file=sys.stderr, flush=True)

    try:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        yield say
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield say
        return
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)
