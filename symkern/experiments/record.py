"""What an experiment leaves behind: one JSON file with paper and own figures side by side."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import symkern
from symkern import _files

MARKS = (None, "green", "red")
KEYS = ("model", "column", "paper", "mean", "std", "runs", "status")  # of every row


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        model: named as in the paper.
        column: "<task>/<metric>".
        paper: the published figure; None where there is none.
        runs: ours, one per seed or fold. What is not finite becomes null in JSON, and so do mean and std with it; a
            single run has no std.
        full: whether the whole protocol was run.
        notes: further plain values. Known to tables and reports: paper_std; mark and paper_mark ("green", "red" or
            None: the paper's highlighting, by its rule); unit; section (which rows are one table: "paper's protocol",
            "converged"); protocol, parameters (of the model); best_epoch, stopped_epoch, paper_stopped_epoch (lists:
            where runs were best and where they stopped); construction (what stands for the paper's model, if that is
            something else).

    Raises:
        ValueError: no runs, or an unknown mark.
    """

    model: str
    column: str
    paper: float | None
    runs: Sequence[float]
    full: bool
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError(f"runs must not be empty, got none for {self.model}, {self.column}")
        for name in ("mark", "paper_mark"):
            if self.notes.get(name) not in MARKS:
                raise ValueError(f"{name} must be green, red or None, got {self.notes[name]!r}")

    def as_json(self) -> dict[str, Any]:
        finite = all(map(math.isfinite, self.runs))
        return {
            "model": self.model,
            "column": self.column,
            "paper": self.paper,
            "mean": statistics.fmean(self.runs) if finite else None,
            "std": statistics.pstdev(self.runs) if finite and len(self.runs) > 1 else None,
            "runs": [float(run) if math.isfinite(run) else None for run in self.runs],
            "status": "full" if self.full else "reduced",
            **self.notes,
        }


def start(folder: Path) -> None:
    """Note the commit that a run begins with; a run that is resumed keeps its own."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "last.pt").exists():
        (folder / "commit").write_text(commit() + "\n", encoding="utf-8")


def started_at(folder: Path) -> str:
    """The commit that `start` noted."""
    return (folder / "commit").read_text(encoding="utf-8").strip()


def write(
    path: Path, name: str, commits: Sequence[str], settings: Mapping[str, Any], rows: Sequence[Row]
) -> dict[str, Any]:
    """Write `path`; returns what it holds. `commits` are those that the runs began with.

    Raises:
        ValueError: the file there has more rows of the whole protocol, and would be lost.
        OSError: `path` cannot be written to.
    """
    began = ", ".join(sorted(set(commits)))
    plain = {"name": name, "commit": began, "settings": dict(settings), "rows": [row.as_json() for row in rows]}
    content: dict[str, Any] = _finite(plain)
    if _full(path) > sum(row.full for row in rows):
        raise ValueError(
            f"{path} holds a run of the whole protocol, which this one would replace: give another --out, or move it"
        )
    with _files.replacing(path) as file:
        file.write((json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    return content


def _full(path: Path) -> int:
    """How many rows of an earlier run of all models are of the whole protocol; 0 if there is none that can be read."""
    try:
        return sum(row["status"] == "full" for row in json.loads(path.read_text(encoding="utf-8"))["rows"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0


def _finite(content: Any) -> Any:
    """The same with null for numbers that JSON does not have."""
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, Mapping):
        return {key: _finite(entry) for key, entry in content.items()}
    return [_finite(entry) for entry in content] if isinstance(content, list | tuple) else content


def table(content: Mapping[str, Any], *, colored: bool = False) -> str:
    """The rows as text, by section and column: published figure and ours; above them the findings, if any.

    Args:
        colored: show marks, with the escape sequences of terminals.
    """
    sections = list(dict.fromkeys(row.get("section") for row in content["rows"]))
    lines: list[tuple[str, ...]] = [("model", "column", "published", "ours", "spread", "best epoch", "status")]
    places = {column: k for k, column in enumerate(dict.fromkeys(row["column"] for row in content["rows"]))}
    rows = sorted(content["rows"], key=lambda row: places[row["column"]])
    lines += [_line(row) for row in rows]
    shown = [k for k in range(len(lines[0])) if any(line[k] for line in lines[1:])]
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    text = list(content["settings"].get("findings", []))
    for section in sections:
        text += [] if section is None else ["", section]
        text.append(_joined(lines[0], shown, widths, {}))
        for row, line in zip(rows, lines[1:], strict=True):
            if row.get("section") == section:
                text.append(_joined(line, shown, widths, _colors(row) if colored else {}))
    return "\n".join(text)


def _line(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        full_name(row),
        heading(row),
        published(row),
        value(row["mean"]),
        spread(row),
        epochs(row),
        row["status"],
    )


def _joined(line: Sequence[str], shown: Sequence[int], widths: Sequence[int], colors: Mapping[int, int]) -> str:
    cells = [line[k].rjust(widths[k]) if 2 <= k <= 5 else line[k].ljust(widths[k]) for k in shown]
    text = "  ".join(f"\033[{colors[k]}m{c}\033[0m" if k in colors else c for k, c in zip(shown, cells, strict=True))
    return text.rstrip()


def _colors(row: Mapping[str, Any]) -> dict[int, int]:
    codes = {"green": 32, "red": 31}
    return {
        k: codes[row[name]]
        for k, name, text in ((2, "paper_mark", "paper"), (3, "mark", "mean"))
        if row.get(name) and row[text] is not None
    }


def value(number: float | None) -> str:
    return "not finite" if number is None else f"{number:.4g}"


def spread(row: Mapping[str, Any]) -> str:
    return "" if row["std"] is None else f"{row['std']:.2g}"


def published(row: Mapping[str, Any]) -> str:
    if row["paper"] is None:
        return ""
    return value(row["paper"]) if row.get("paper_std") is None else f"{value(row['paper'])} ± {row['paper_std']:.2g}"


def epochs(row: Mapping[str, Any], key: str = "best_epoch") -> str:
    """First and last of the epochs under `key`, such as "61-194"; empty where there are none."""
    found = [epoch for epoch in row.get(key) or [] if epoch is not None]
    if not found:
        return ""
    return str(found[0]) if min(found) == max(found) else f"{min(found)}-{max(found)}"


def named(model: str, construction: str | None) -> str:
    """The paper's name of a model, and what stands for it here if that is something else."""
    return model if construction in (None, model) else f"{model} ({construction})"


def full_name(row: Mapping[str, Any]) -> str:
    """The model of a row, what stands for it, and how it was trained."""
    name = named(row["model"], row.get("construction"))
    return f"{name}, {row['protocol']}" if row.get("protocol") else name


def heading(row: Mapping[str, Any]) -> str:
    """The column of a row, with its unit."""
    return f"{row['column']}, {row['unit']}" if row.get("unit") else str(row["column"])


def commit() -> str:
    """The commit of the source tree, marked "+" where files have changed since; the version where there is no tree."""
    folder = Path(symkern.__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if not (folder / "csrc").is_dir():  # installed: the folder may be part of some other repository
            return symkern.__version__
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return symkern.__version__
