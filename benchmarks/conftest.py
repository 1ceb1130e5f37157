"""pytest-benchmark drives: a benchmark is a comparison, and one round of it an interleaved round of all contestants.

python -m pytest benchmarks            full run, writes results/<machine>.{json,md}
python -m pytest benchmarks --quick    about a minute; like every partial run it writes to build/bench/ only
python -m pytest benchmarks --large    also the layers' largest comparisons, which take longer than all others
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from . import contest, machine, peers, report
from .contest import Work
from .report import Row
from .timing import Race, rounds_within

HERE = Path(__file__).parent
_ROWS: list[Row] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="fewer repeats and systems")
    parser.addoption("--large", action="store_true", help="layers: all passes, widths and peers on a million edges")
    parser.addoption("--results", type=Path, default=None, help="folder for the result (default: benchmarks/results)")


def pytest_configure(config: pytest.Config) -> None:
    config.option.benchmark_quiet = True  # its table shows whole rounds; ours, at the end, shows the contestants


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "threads" in metafunc.fixturenames:
        counts = sorted({1, machine.all_threads()})
        metafunc.parametrize("threads", counts, ids=lambda n: f"{n}threads", scope="session")


@pytest.fixture
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--quick"))


@pytest.fixture
def large(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--large"))


@pytest.fixture
def record() -> Callable[[list[Row]], None]:
    """Adds rows to the result."""
    return _ROWS.extend


@pytest.fixture
def compare(benchmark: Any, quick: bool) -> Callable[..., list[Row]]:
    """Races contestants, symkern first, and records their rows."""

    def run(
        op: str,
        system: str,
        entries: list[peers.Entry],
        threads: int,
        work: Work,
        note: str = "",
        most: int = 100,
        seconds: float = 6,
        least: int = 7,
    ) -> list[Row]:
        measured = contest.rates(threads, quick)
        race = Race(contest.calls(entries))
        rounds = rounds_within(0.5 if quick else seconds, race.calibrate(), 3 if quick else least, most)
        benchmark.pedantic(race.round, rounds=rounds, iterations=1)
        made = contest.rows(entries, race, op, system, threads, work, measured, note)
        # into pytest-benchmark's own file (--benchmark-json), with every sample
        benchmark.extra_info["rows"] = [asdict(row) for row in made]
        benchmark.extra_info["samples"] = race.samples
        _ROWS.extend(made)
        return made

    return run


def _why_partial(session: pytest.Session) -> str | None:
    """Why this run must not replace the machine's result, or None."""
    if session.config.getoption("--quick"):
        return "a quick run"
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and reporter.stats.get("deselected"):
        return "some benchmarks were deselected"
    if session.testsfailed:
        return f"{session.testsfailed} benchmarks failed"
    files = {item.path.name for item in session.items}
    absent = sorted(path.name for path in HERE.glob("test_bench_*.py") if path.name not in files)
    return f"{', '.join(absent)} did not run" if absent else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not _ROWS or session.config.getoption("collectonly", False):
        return
    partial = _why_partial(session)
    folder = session.config.getoption("--results") or machine.results_folder(partial is None)
    head = machine.describe()
    readme = HERE.parent / "README.md"
    show = partial is None and not session.config.getoption("--results") and readme.exists()
    path, text = report.write(head, _ROWS, folder, "" if partial is None else "-partial", readme if show else None)
    session.config.stash[_TEXT] = (path, text, partial)


_TEXT = pytest.StashKey[tuple[Path, str, "str | None"]]()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if _TEXT not in config.stash:
        return
    path, text, partial = config.stash[_TEXT]
    for name, reason in peers.installed().items():
        if reason is not None:
            terminalreporter.write_line(f"peer left out: {name}: {reason}")
    terminalreporter.write_line("")
    terminalreporter.write_line(text)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    why = "" if partial is None else f" (not the machine's result: {partial})"
    terminalreporter.write_line(f"written to {shown} and {shown.with_suffix('.md')}{why}")
