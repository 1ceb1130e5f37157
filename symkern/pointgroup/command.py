"""`symkern pointgroup`: reads, computes, writes, prints, and says what went wrong."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from symkern.data import DataError
from symkern.pointgroup import inputs, outputs, report
from symkern.pointgroup.analysis import Result, analyse


def run(args: argparse.Namespace) -> int:
    """1 if anything that was asked for failed, else 0."""
    return _Command(args).run()


class _Command:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.failures = 0
        self.errors = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn())
        self.progress = Progress(*columns, console=self.errors, transient=True, disable=not self.errors.is_terminal)

    def run(self) -> int:
        args = self.args
        files, wrong = inputs.expand(args.files)
        for message in wrong:
            self.failed(message)
        try:
            targets = (
                outputs.structures(args.symmetrize, files, args.output_format, force=args.force)
                if args.symmetrize
                else {}
            )
            with self.progress:
                frames = self.read(files)
                results = self.analyse(frames)
                pictures = (
                    outputs.pictures(args.picture, results, args.picture_format, force=args.force)
                    if args.picture and results
                    else {}
                )
                moved = self.symmetrize(results, targets)
                self.draw(results, pictures)
        except outputs.OutputError as error:  # nothing was written yet
            self.failed(str(error))
            return 1
        if args.format == "json":
            print("[" + ",\n ".join(json.dumps(report.record(result)) for result in results) + "]")
        else:
            self.show(results, moved)
        if self.failures:
            self.errors.print(f"symkern: {self.failures} failed, see above", soft_wrap=True)
        return 1 if self.failures else 0

    def failed(self, message: str) -> None:
        self.failures += 1
        self.errors.print(f"[bold red]failed[/bold red]  {escape(message)}", soft_wrap=True)

    def read(self, files: list[str]) -> list[inputs.Frame]:
        frames: list[inputs.Frame] = []
        task = self.progress.add_task("reading files", total=len(files))
        for file in files:
            try:
                for frame in inputs.read(file, self.args.index, self.args.input_format):
                    problem = inputs.problem(frame)
                    if problem is None:
                        frames.append(frame)
                    else:
                        self.failed(f"{frame.name}: {problem}")
            except DataError as error:
                self.failed(str(error))
            self.progress.advance(task)
        return frames

    def analyse(self, frames: list[inputs.Frame]) -> list[Result]:
        task = self.progress.add_task("point groups", total=len(frames))
        return analyse(
            frames,
            self.args.tolerance,
            self.args.policy,
            failed=self.failed,
            done=lambda count: self.progress.advance(task, count),
        )

    def symmetrize(self, results: list[Result], targets: dict[str, Any]) -> dict[int, float]:
        """Writes the files; how far the atoms of each result moved."""
        moved: dict[int, float] = {}
        for file, path in targets.items():
            mine = [k for k, result in enumerate(results) if result.frame.file == file]
            if not mine:
                continue
            made, stale = outputs.symmetrised([results[k] for k in mine])
            if stale:
                what = f"{path}: without {', '.join(stale)}, which belong to the positions in {file}"
                self.errors.print(f"[yellow]{escape(what)}[/yellow]", soft_wrap=True)
            try:
                outputs.write(path, [atoms for atoms, _ in made], self.args.output_format)
            except outputs.OutputError as error:
                self.failed(str(error))
                continue
            moved |= {k: distance for k, (_, distance) in zip(mine, made, strict=True)}
        return moved

    def draw(self, results: list[Result], paths: dict[int, Any]) -> None:
        if not paths:
            return
        from symkern.pointgroup.picture import symmetry_picture

        task = self.progress.add_task("pictures", total=len(paths))
        for k, path in paths.items():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                symmetry_picture(path, results[k].sym, results[k].index)
            except OSError as error:
                self.failed(f"{path}: {error}")
            self.progress.advance(task)

    def show(self, results: list[Result], moved: dict[int, float]) -> None:
        if not results:
            return
        console = Console(highlight=False)
        if not console.is_terminal:  # a log file has no width; 80 columns would break the table
            console = Console(highlight=False, width=160)
        console.print(report.table(results, moved))
        if len(results) > 1:
            console.print(report.summary(results), soft_wrap=True)
        line = (
            f"tolerance {self.args.tolerance:g} Å; residual: of the worst operation; "
            "margin: how far the tolerance is from a value that decided something"
        )
        if any(result.changes for result in results):
            line += "; X at t: with a tolerance of t Å it would be X"
        console.print(f"[dim]{line}[/dim]", soft_wrap=True)
        for line in report.explanations(results):
            console.print(f"[yellow]{escape(line)}[/yellow]", soft_wrap=True)
        for file in dict.fromkeys(r.frame.file for r in results if r.frame.atoms.get_pbc().any()):
            console.print(f"[yellow]{escape(file)}[/yellow]: {report.PERIODIC}", soft_wrap=True)
        sys.stdout.flush()
