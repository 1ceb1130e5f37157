"""What an experiment leaves behind: one JSON file with paper and own figures side by side."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import symkern


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        model: named as in the paper.
        column: "<task>/<metric>".
        paper: the published figure; None where there is none.
        runs: ours, one per seed or fold.
        full: whether the whole protocol was run.
        notes: further plain values.
    """

    model: str
    column: str
    paper: float | None
    runs: Sequence[float]
    full: bool
    notes: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "column": self.column,
            "paper": self.paper,
            "mean": statistics.fmean(self.runs),
            "std": statistics.pstdev(self.runs),
            "runs": list(self.runs),
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
        OSError: `path` cannot be written to.
    """
    began = ", ".join(sorted(set(commits)))
    content = {"name": name, "commit": began, "settings": dict(settings), "rows": [row.as_json() for row in rows]}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return content


def table(content: Mapping[str, Any]) -> str:
    """The rows as text: published figure and ours; above them the summary, where there is one."""
    cells = [("model", "column", "paper", "ours", "spread", "status")]
    for row in content["rows"]:
        column = f"{row['column']}, {row['unit']}" if "unit" in row else row["column"]
        paper = "" if row["paper"] is None else f"{row['paper']:.4g}"
        name = named(row["model"], row.get("construction"))
        cells.append((name, column, paper, f"{row['mean']:.4g}", f"{row['std']:.2g}", row["status"]))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(c.rjust(w) if 2 <= k <= 4 else c.ljust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in cells
    ]
    return "\n".join([*content.get("summary", []), *(line.rstrip() for line in lines)])


def named(model: str, construction: str | None) -> str:
    """The paper's name of a model, and what stands for it here if that is something else."""
    return model if construction in (None, model) else f"{model} ({construction})"


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
