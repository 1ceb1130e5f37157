"""Runs the steps one after the other, shows them, and writes the report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from symkern import info
from symkern.data import Structures
from symkern.demo import learning, report, steps, symmetry
from symkern.demo.results import Results, Section

T = TypeVar("T")


def run(files: Sequence[Structures], out: Path, *, paths: Sequence[Path] = (), quick: bool = False) -> int:
    """The whole demo; 0 if every check passed, else 1. Writes ``report.html`` and ``results.json`` to `out`.

    Args:
        files: structures to run too, read from `paths`.
        quick: smaller systems, shorter training.

    Raises:
        OSError: `out` cannot be written to.
    """
    size = steps.QUICK if quick else steps.FULL
    start = time.perf_counter()
    results = Results(info.collect(), datetime.now().astimezone().isoformat(timespec="seconds"))
    show = Show(results)
    show.installed()
    with show.progress:
        show.section("162 molecules", 2, steps.molecules)
        show.section("symmetry", 3, symmetry.symmetry)
        fluid, water = show.step("molecular dynamics", size.steps + size.free, lambda tick: steps.dynamics(size, tick))
        show.add(fluid)
        show.section("large systems", 2, lambda tick: steps.large(water, size, tick))
        show.section("derivatives", 3, steps.derivatives)
        show.section("normal modes", 3 * size.modes, lambda tick: learning.normal_modes(size.modes, tick))
        plan = show.step("reference frames", 1, lambda _: learning.plan(paths, quick))
        show.section("force field", plan.ticks, lambda tick: learning.learned_forces(plan, tick))
        show.section("reusing the list", size.walk, lambda tick: steps.walk(water, size, tick))
        if files:
            show.section("your files", len(files), lambda tick: steps.files(files, tick))
        rates = steps.overview(results.sections)
    results.seconds = time.perf_counter() - start
    page, numbers = out / "report.html", out / "results.json"
    page.write_text(report.html(results, rates), encoding="utf-8")
    numbers.write_text(json.dumps(results.as_json(), indent=2) + "\n", encoding="utf-8")
    show.summary(page, numbers)
    return 0 if results.passed else 1


class Show:
    """The terminal: progress while a step runs, its outcome after it, a table at the end."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.console = Console(highlight=False)
        if not self.console.is_terminal:  # a log file has no width; 80 columns would break the table
            self.console = Console(highlight=False, width=140)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30), TimeElapsedColumn())
        self.progress = Progress(*columns, console=self.console, transient=True)

    def installed(self) -> None:
        self.console.print("[bold]symkern demo[/bold]\n")
        short = {**self.results.info, "ops": {}}
        self.console.print(escape(info.text(short)) + "\n", soft_wrap=True)

    def step(self, name: str, ticks: int, work: Callable[[steps.Tick], T]) -> T:
        """Do `work`, which calls its argument `ticks` times on the way."""
        task = self.progress.add_task(name, total=ticks)
        try:
            return work(lambda: self.progress.advance(task))
        finally:
            self.progress.remove_task(task)

    def section(self, name: str, ticks: int, work: Callable[[steps.Tick], Section]) -> None:
        self.add(self.step(name, ticks, work))

    def add(self, section: Section) -> None:
        self.results.sections.append(section)
        self.console.print(f"[bold]{escape(section.title)}[/bold]")
        for check in section.checks:
            mark = "[green]pass[/green]" if check.passed else "[bold red]FAIL[/bold red]"
            self.console.print(f"  {mark}  {escape(check.name)}: {escape(check.detail)}")
        for name, value in section.figures.items():
            self.console.print(f"        {escape(name)}: {escape(value)}")

    def summary(self, page: Path, numbers: Path) -> None:
        threads = self.results.info["torch"]["threads"]
        table = Table(title="\nneighbor_list and ASE, same machine, same run", title_justify="left", title_style="bold")
        for column in report.timing_header(threads):
            text = column in ("system", "same")
            table.add_column(column, justify="left" if text else "right", no_wrap=text)
        for timing in self.results.timings:
            *cells, same = map(escape, report.timing_cells(timing))
            table.add_row(*cells, same if timing.identical else f"[bold red]{same}[/bold red]")
        self.console.print(table)
        self.console.print(f"[dim]{report.TIMING_NOTE}[/dim]")
        failed = [check for check in self.results.checks if not check.passed]
        self.console.print(f"\n{page}\n{numbers}\n", soft_wrap=True)
        for check in failed:
            self.console.print(f"[bold red]FAIL[/bold red]  {escape(check.name)}: {escape(check.detail)}")
        total, seconds = len(self.results.checks), self.results.seconds
        if failed:
            self.console.print(f"[bold red]{len(failed)} of {total} checks failed[/bold red] ({seconds:.0f} s)")
        else:
            self.console.print(f"[bold green]all checks passed[/bold green] ({total} checks, {seconds:.0f} s)")
