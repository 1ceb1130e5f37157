"""All results of a folder as one page, ``report.html``, and what was found in short, ``report.md``."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from glob import escape as escape_glob
from html import escape
from pathlib import Path
from typing import Any

from symkern import experiments
from symkern._page import figure, page
from symkern.experiments import record

_Row = Mapping[str, Any]
_WIDEST = 6  # columns of one table
_EPOCHS = {"best_epoch": "best epoch", "stopped_epoch": "stopped at", "paper_stopped_epoch": "paper stopped at"}

_LEGEND = (
    "Published figure beside ours: mean ± standard deviation over the runs; the runs themselves appear under the "
    "pointer and as dots in the plots. Green and red are the paper's highlighting, by its rule applied to our runs. "
    "Reduced: not the whole protocol; settings say what was run."
)


def build(folder: Path) -> Path:
    """Write ``folder/report.html`` from all ``*.json`` of experiments in `folder` and its subfolders; returns its path.

    Each table shows the settings, the findings (``settings["findings"]``, sentences), its rows and the plots that lie
    beside it (``NAME*.png``). The page fetches nothing from elsewhere. Findings and plots alone are in
    ``folder/report.md``, for places that show Markdown.

    Raises:
        FileNotFoundError: there are no results in `folder`.
        OSError: the page cannot be written.
    """
    found = sorted(_results(folder), key=lambda item: _place(*item))
    if not found:
        raise FileNotFoundError(f"no results of `symkern reproduce` in {folder}")
    contents = "".join(
        f'<dt><a href="#{_anchor(k)}">{escape(_title(path, content))}</a></dt><dd>{escape(_status(content))}</dd>'
        for k, (path, content) in enumerate(found)
    )
    body = [
        "<h1>Published results, rerun</h1>",
        f'<p class="quiet">{escape(_LEGEND)}</p>',
        f"<section><dl>{contents}</dl></section>",
        *(_section(_anchor(k), path, content) for k, (path, content) in enumerate(found)),
    ]
    target = folder / "report.html"
    target.write_text(page("symkern: published results, rerun", "\n".join(body), width=1180), encoding="utf-8")
    (folder / "report.md").write_text(_digest(folder, found), encoding="utf-8")
    return target


def _results(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    found = []
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError) as error:
            warnings.warn(f"symkern: {path} is left out of the report: {error}", stacklevel=3)
            continue
        if not isinstance(content, dict) or not {"name", "commit", "settings", "rows"} <= set(content):
            continue  # something else
        if problem := _problem(content):
            warnings.warn(f"symkern: {path} is left out of the report: {problem}", stacklevel=3)
        else:
            found.append((path, content))
    return found


def _problem(content: Mapping[str, Any]) -> str:
    """Why a file is none that `record.write` has written; empty if it is one."""
    settings, rows = content["settings"], content["rows"]
    if not isinstance(settings, dict) or not all(isinstance(text, str) for text in settings.get("findings", [])):
        return "settings must be a mapping, with sentences as findings"
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        return "rows must be a list of mappings"
    for row in rows:
        if not set(record.KEYS) <= set(row):
            return f"rows must have {', '.join(record.KEYS)}, got {', '.join(row)}"
        numbers = [row["paper"], row["mean"], row["std"], *row["runs"]]
        if not all(number is None or isinstance(number, float | int) for number in numbers):
            return f"figures must be numbers, got {numbers}"
        if row.get("mark") not in record.MARKS or row.get("paper_mark") not in record.MARKS:
            return f"marks must be green, red or null, got {row.get('mark')!r} and {row.get('paper_mark')!r}"
    return ""


def _place(path: Path, content: Mapping[str, Any]) -> tuple[int, str, str]:
    """In the order of `experiments.NAMES`; a variant of a table after the table itself."""
    base = _base(str(content["name"]))
    return list(experiments.NAMES).index(base) if base else len(experiments.NAMES), str(content["name"]), path.stem


def _base(name: str) -> str:
    """The experiment that `name` belongs to, if it is one of ours."""
    return max((known for known in experiments.NAMES if name.startswith(known)), key=len, default="")


def _title(path: Path, content: Mapping[str, Any]) -> str:
    name = str(content["name"])
    base = _base(name)
    title = experiments.TITLES[base] if base else name
    variant = path.stem.removeprefix(base or name).strip("-")
    return f"{title} ({variant})" if variant else title


def _anchor(k: int) -> str:
    return f"table-{k}"


def _status(content: Mapping[str, Any]) -> str:
    return ", ".join(sorted({row["status"] for row in content["rows"]}))


def _digest(folder: Path, found: Sequence[tuple[Path, Mapping[str, Any]]]) -> str:
    lines = [
        "# Published results, rerun",
        "",
        "Written by `symkern reproduce report`, which also makes a page of every row.",
    ]
    for path, content in found:
        place = path.relative_to(folder).as_posix()
        lines += ["", f"## {_title(path, content)}", "", f"[{path.name}]({place}), {_status(content)}", ""]
        lines += [f"- {text}" for text in content["settings"].get("findings", [])]
        for png in _pictures(path):
            lines += ["", f"![{png.stem}]({png.relative_to(folder).as_posix()})"]
    return "\n".join(lines) + "\n"


# ---- one experiment --------------------------------------------------------------------------------------------------


def _section(anchor: str, path: Path, content: Mapping[str, Any]) -> str:
    settings = dict(content["settings"])
    findings = "".join(f"<li>{escape(text)}</li>" for text in settings.pop("findings", []))
    notes = settings.pop("notes", [])
    mixed = len({row["status"] for row in content["rows"]}) > 1
    tables = "".join(
        _section_table(section, [row for row in content["rows"] if row.get("section") == section], mixed)
        for section in dict.fromkeys(row.get("section") for row in content["rows"])
    )
    title = _title(path, content)
    return (
        f'<section id="{anchor}"><h2>{escape(title)}</h2>'
        f'<p class="quiet">{escape(path.name)}, commit {escape(str(content["commit"]))}, {escape(_status(content))}</p>'
        + (f'<ul class="plain">{findings}</ul>' if findings else "")
        + tables
        + "".join(figure(png.read_bytes(), f"{title}: {png.name}") for png in _pictures(path))
        + _details("Settings", _settings(settings))
        + (_details("Notes", f"<pre>{escape(_text(notes))}</pre>") if notes else "")
        + "</section>"
    )


def _pictures(path: Path) -> list[Path]:
    """The PNGs beside a JSON file that carry its name, and not the longer name of another."""
    stem = escape_glob(path.stem)
    others = [other.stem for other in path.parent.glob(f"{stem}?*.json")]
    return [p for p in sorted(path.parent.glob(f"{stem}*.png")) if not any(p.stem.startswith(o) for o in others)]


def _details(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>{body}</details>"


def _text(notes: Any) -> str:
    return "\n".join(map(str, notes)) if isinstance(notes, list) else str(notes)


def _settings(settings: Mapping[str, Any]) -> str:
    """Plain values as a list, what has parts as JSON."""
    items = []
    for name, value in settings.items():
        nested = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict | list) for v in value))
        shown = _in_lines(value) if nested else _plain(value)
        items.append(f"<dt>{escape(name)}</dt><dd>{f'<pre>{escape(shown)}</pre>' if nested else escape(shown)}</dd>")
    return f"<dl>{''.join(items)}</dl>"


def _in_lines(value: Any) -> str:
    """Indented JSON, but lists of numbers or names in one line."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\n\s*", " ", found[0]), text)


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# ---- tables ----------------------------------------------------------------------------------------------------------


def _section_table(section: str | None, rows: Sequence[_Row], mixed: bool) -> str:
    """`mixed`: the experiment has rows of both statuses, so that each reduced one is to be marked."""
    heading = "" if section is None else f"<h3>{escape(section)}</h3>"
    groups = _grouped(list(dict.fromkeys(row["column"] for row in rows)))
    return heading + "".join(_table(columns, rows, mixed) for columns in groups)


def _grouped(columns: list[str]) -> list[list[str]]:
    """Columns "task/metric" as tables that are not too wide: all in one; else by metric, if there are several tasks."""
    if len(columns) <= _WIDEST:
        return [columns]
    groups: dict[str, list[str]] = {}
    for column in columns:
        groups.setdefault(column.rpartition("/")[2], []).append(column)
    if len(groups) == len(columns):  # one task
        groups = {"": columns}
    return [part for group in groups.values() for part in _parts(group)]


def _parts(group: list[str]) -> list[list[str]]:
    """As few as can be, and about equal."""
    size = math.ceil(len(group) / math.ceil(len(group) / _WIDEST))
    return [group[k : k + size] for k in range(0, len(group), size)]


def _table(columns: Sequence[str], rows: Sequence[_Row], mixed: bool) -> str:
    cells: dict[tuple[str, str], list[_Row]] = {}
    for row in rows:
        cells.setdefault((record.full_name(row), row["column"]), []).append(row)
    models = [m for m in dict.fromkeys(map(record.full_name, rows)) if any((m, c) in cells for c in columns)]
    quoted = [c for c in columns if any(row["paper"] is not None for m in models for row in cells.get((m, c), []))]
    first, second = ['<th class="text" rowspan="2">model</th>'], []
    for c in columns:
        name = next(record.heading(row) for m in models for row in cells.get((m, c), []))
        first.append(f'<th colspan="{2 if c in quoted else 1}">{escape(name)}</th>')
        second.append("<th>published</th><th>ours</th>" if c in quoted else "<th>ours</th>")
    body = []
    for m in models:
        of_model = [row for c in columns for row in cells.get((m, c), [])]
        shared = _shared(of_model)
        line = [f'<td class="text">{escape(m)}{_small([*_parameters(of_model), *shared])}</td>']
        for c in columns:
            here = cells.get((m, c), [])
            line += [f"<td>{'<br>'.join(map(_paper, here))}</td>"] if c in quoted else []
            line.append(f"<td>{'<br>'.join(_ours(row, shared, mixed) for row in here)}</td>")
        body.append(f"<tr>{''.join(line)}</tr>")
    head = f"<thead><tr>{''.join(first)}</tr><tr>{''.join(second)}</tr></thead>"
    return f'<div class="scroll"><table class="close">{head}<tbody>{"".join(body)}</tbody></table></div>'


def _parameters(rows: Sequence[_Row]) -> list[str]:
    counts = sorted({row["parameters"] for row in rows if row.get("parameters") is not None})
    return [f"{', '.join(f'{count:,}' for count in counts)} parameters"] if counts else []


def _epochs(row: _Row) -> list[str]:
    """Where the runs were best and where they stopped."""
    return [f"{name} {epochs}" for key, name in _EPOCHS.items() if (epochs := record.epochs(row, key))]


def _shared(rows: Sequence[_Row]) -> list[str]:
    """Of `_epochs` what has no other value in another column, to be shown once."""
    shared = []
    for key, name in _EPOCHS.items():
        values = {epochs for row in rows if (epochs := record.epochs(row, key))}
        shared += [f"{name} {epochs}" for epochs in values if len(values) == 1]
    return shared


def _small(lines: Sequence[str]) -> str:
    return "".join(f"<br><small>{escape(line)}</small>" for line in lines)


def _paper(row: _Row) -> str:
    return _marked(row.get("paper_mark"), escape(record.published(row)), row.get("source") or "")


def _ours(row: _Row, shared: Sequence[str], mixed: bool) -> str:
    shown = record.value(row["mean"])
    spread = record.spread(row)
    runs = ", ".join(record.value(run) for run in row["runs"])
    details = [line for line in _epochs(row) if line not in shared]
    details += ["reduced"] if mixed and row["status"] == "reduced" else []
    return _marked(row.get("mark"), escape(f"{shown} ± {spread}" if spread else shown), f"runs: {runs}") + _small(
        details
    )


def _marked(mark: str | None, text: str, title: str) -> str:
    kind = {"green": ' class="cell pass"', "red": ' class="cell fail"', None: ""}[mark]
    return f'<span{kind} title="{escape(title)}">{text}</span>' if text else ""
