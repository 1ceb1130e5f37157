"""The cells of a table: independent runs, in one process or several, each kept as soon as it is done.

Convention: an experiment keeps them in ``out/cells/NAME``, those of quick runs in ``out/cells/NAME-quick``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symkern.experiments import record

_LINES_APART = 20.0
_PART = re.compile(r"[\w+()=,\- ][\w+()=,.\- ]*")


class CellError(RuntimeError):
    """Cells that raised; the message names them and shows the first traceback."""


@dataclass(frozen=True)
class Cell:
    """One run: `function` called with `arguments`.

    Attributes:
        key: unique among the cells of an experiment; the path of its file, such as "asymmetric/EGNN+Noise/sbcd/3".
        function: at the top level of a module, so that another process finds it; returns JSON values.
        arguments: by name, JSON values. They decide all of the result: a function seeds itself from them.
    """

    key: str
    function: Callable[..., dict[str, Any]]
    arguments: Mapping[str, Any]


class Results(dict[str, dict[str, Any]]):
    """Results by key, in the order of the cells.

    Attributes:
        commit: by key, the commit that each was computed at.
        seconds: by key, how long each took.
    """

    def __init__(self) -> None:
        super().__init__()
        self.commit: dict[str, str] = {}
        self.seconds: dict[str, float] = {}


def run(cells: Sequence[Cell], folder: Path, *, workers: int = 1, progress: bool = True, label: str = "") -> Results:
    """Run each cell, or read what an earlier run has left; results by key, as JSON gives them back.

    Each finished cell is written at once to ``folder/KEY.DIGEST.json`` with function, arguments, commit, seconds and
    result; the digest is that of function and arguments, so that no cell takes the place of another. A cell found there
    is not run again; a file that cannot be read is replaced with a warning. Cells of an earlier commit are taken over,
    with a warning: whoever has changed what they compute deletes them. Every cell has one thread of
    torch (the threads of other libraries are for its function to limit) and starts with torch's generator seeded from
    its key, so that results depend on neither the order nor the number of workers.

    Args:
        workers: processes; with 1 cells run in this one.
        progress: show a bar: cells done, pace, time left.
        label: of the bar.

    Raises:
        ValueError: keys that are no paths or not unique, a function that another process would not find, no workers.
        CellError: cells raised. The others have been finished first, and are kept.
    """
    _check(cells, workers)
    commit = record.commit()
    kept = {cell.key: found for cell in cells if (found := _read(folder, cell)) is not None}
    old = sorted({found["commit"] for found in kept.values()} - {commit})
    if old:
        warnings.warn(f"symkern: {folder} has cells of {', '.join(old)}, now {commit}: they are kept", stacklevel=2)
    failed: dict[str, str] = {}
    with _bar(label, len(cells), len(kept), progress) as advance:
        for cell, (seconds, text, error) in _finished([cell for cell in cells if cell.key not in kept], workers):
            if error is None:
                kept[cell.key] = _write(folder, cell, commit, seconds, json.loads(text))
            else:
                failed[cell.key] = error
            advance()
    if failed:
        first = next(cell.key for cell in cells if cell.key in failed)
        names = ", ".join(cell.key for cell in cells if cell.key in failed)
        raise CellError(f"{len(failed)} of {len(cells)} cells failed: {names}. The first, {first}:\n{failed[first]}")
    results = Results()
    for cell in cells:
        results[cell.key] = kept[cell.key]["result"]
        results.commit[cell.key] = kept[cell.key]["commit"]
        results.seconds[cell.key] = kept[cell.key]["seconds"]
    return results


def commits(results: Results) -> list[str]:
    """The commits that the cells of `run` were computed at, for `record.write`; without repetition."""
    return sorted(set(results.commit.values()))


# ---- checks ----------------------------------------------------------------------------------------------------------


def _check(cells: Sequence[Cell], workers: int) -> None:
    if workers < 1:
        raise ValueError(f"workers must be positive, got {workers}")
    seen: set[str] = set()
    for cell in cells:
        if not all(_PART.fullmatch(part) for part in cell.key.split("/")):
            raise ValueError(f"key must be a relative path of letters, digits and +-_.,=() , got {cell.key!r}")
        if cell.key in seen:
            raise ValueError(f"key must be unique, got {cell.key!r} twice")
        if "<" in cell.function.__qualname__:
            raise ValueError(f"function must be at the top level of a module, got {_name(cell)}")
        seen.add(cell.key)


def _name(cell: Cell) -> str:
    return f"{cell.function.__module__}.{cell.function.__qualname__}"


# ---- files -----------------------------------------------------------------------------------------------------------


def _path(folder: Path, cell: Cell) -> Path:
    return folder / f"{cell.key}.{zlib.crc32(json.dumps(_described(cell), sort_keys=True).encode()):08x}.json"


def digest(*files: Path | str) -> str:
    """What files hold, in short: among the arguments of a cell it tells data apart that lie at the same place."""
    whole = 0
    for file in files:
        whole = zlib.crc32(Path(file).read_bytes(), whole)
    return f"{whole:08x}"


def _described(cell: Cell) -> dict[str, Any]:
    """What must be the same for a result to be taken over, as JSON gives it back."""
    described: dict[str, Any] = json.loads(json.dumps({"function": _name(cell), "arguments": dict(cell.arguments)}))
    return described


def _read(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """What the file of this very cell holds, if there is one."""
    path = _path(folder, cell)
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(found["result"], dict) and isinstance(found["commit"], str) and found["seconds"] >= 0
        same = {"function": found["function"], "arguments": found["arguments"]} == _described(cell)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        warnings.warn(f"symkern: {path} cannot be read and is computed again: {error!r}", stacklevel=3)
        return None
    return found if whole and same else None


def _write(folder: Path, cell: Cell, commit: str, seconds: float, result: dict[str, Any]) -> dict[str, Any]:
    path = _path(folder, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**_described(cell), "commit": commit, "seconds": round(seconds, 3), "result": result}
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return content


# ---- processes -------------------------------------------------------------------------------------------------------

_Outcome = tuple[float, str, str | None]  # seconds, result as JSON, traceback


def _finished(cells: Sequence[Cell], workers: int) -> Iterator[tuple[Cell, _Outcome]]:
    """Each cell once it is done."""
    if workers == 1:
        with _one_thread():
            for cell in cells:
                yield cell, _work(cell)
        return
    if not cells:
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        min(workers, len(cells)), mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    try:
        waiting = {pool.submit(_work, cell): cell for cell in cells}
        for future in as_completed(waiting):
            yield waiting[future], _outcome(future)
    except BaseException:  # Ctrl-C: what is finished is kept, what runs is not waited for
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    pool.shutdown()


def _outcome(future: Future[_Outcome]) -> _Outcome:
    try:
        return future.result()
    except Exception as error:  # the process is gone
        return 0.0, "", f"{type(error).__name__}: {error}\n"


def _work(cell: Cell) -> _Outcome:
    import torch

    begin = time.perf_counter()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(cell.key.encode()))
            result = cell.function(**cell.arguments)
        if not isinstance(result, dict):
            raise TypeError(f"{_name(cell)} must return a dict, got {type(result).__name__}")
        return time.perf_counter() - begin, json.dumps(result), None
    except Exception:
        return time.perf_counter() - begin, "", traceback.format_exc()


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends without a traceback of its own
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """A parent that was killed has told nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---- progress --------------------------------------------------------------------------------------------------------


@contextmanager
def _bar(label: str, total: int, done: int, shown: bool) -> Iterator[Callable[[], None]]:
    """What to call after each cell. A bar in a terminal; elsewhere a line every `_LINES_APART` seconds."""
    if not shown or done == total:
        yield lambda: None
        return
    begin = printed = time.perf_counter()
    now = 0

    def pace() -> str:
        each = (time.perf_counter() - begin) / now
        left = each * (total - done - now)
        return f"{60 / each:.3g} per minute, {left / 60:.0f} min left" if left > 90 else f"{left:.0f} s left"

    def say() -> None:
        nonlocal now, printed
        now += 1
        if done + now == total or time.perf_counter() > printed + _LINES_APART:
            printed = time.perf_counter()
            print(f"{label}: {done + now} of {total} cells, {pace()}", file=sys.stderr, flush=True)

    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        yield say
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield say
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("cells {task.fields[pace]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=total, completed=done, pace="")

        def advance() -> None:
            nonlocal now
            now += 1
            bar.update(task, advance=1, pace=pace())

        yield advance
