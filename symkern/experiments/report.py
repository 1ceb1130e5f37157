"""All results of a folder as one page: ``report.html``."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from symkern import experiments
from symkern._page import figure, page
from symkern.experiments import record

_Row = Mapping[str, Any]
_WIDEST = 6  # columns of one table

_LEGEND = (
    "Published figure beside ours: mean ± standard deviation over the runs; the runs themselves appear under the "
    "pointer and as dots in the plots. Green: no run reached the limit that the paper sets; red: no run stayed below "
    "it. Reduced: not the whole protocol."
)


def build(folder: Path) -> Path:
    """Write ``folder/report.html`` from all ``*.json`` of experiments in `folder` and its subfolders; returns its path.

    Each table shows the settings, the findings (``settings["findings"]``, sentences), its rows and the plots that lie
    beside it (``NAME*.png``). The page fetches nothing from elsewhere.

    Raises:
        FileNotFoundError: there are no results in `folder`.
        OSError: the page cannot be written.
    """
    found = sorted(_results(folder), key=lambda item: _place(item[1]["name"], item[0]))
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
    target.write_text(page("symkern: published results, rerun", "\n".join(body)), encoding="utf-8")
    return target


def _results(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    found = []
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            warnings.warn(f"symkern: {path} is left out of the report: {error}", stacklevel=3)
            continue
        if isinstance(content, dict) and {"name", "commit", "settings", "rows"} <= set(content):
            found.append((path, content))
    return found


def _place(name: str, path: Path) -> tuple[int, str, str]:
    """In the order of `experiments.NAMES`; a variant of a table after the table itself."""
    base = max((k for k in experiments.NAMES if name.startswith(k)), key=len, default="")
    return list(experiments.NAMES).index(base) if base else len(experiments.NAMES), name, str(path)


def _title(path: Path, content: Mapping[str, Any]) -> str:
    name = str(content["name"])
    base = max((k for k in experiments.TITLES if name.startswith(k)), key=len, default=None)
    title = name if base is None else experiments.TITLES[base]
    variant = path.stem.removeprefix(base or name).strip("-")
    return f"{title} ({variant})" if variant else title


def _anchor(k: int) -> str:
    return f"table-{k}"


def _status(content: Mapping[str, Any]) -> str:
    return ", ".join(sorted({row["status"] for row in content["rows"]}))


# ---- one experiment --------------------------------------------------------------------------------------------------


def _section(anchor: str, path: Path, content: Mapping[str, Any]) -> str:
    settings = dict(content["settings"])
    findings = "".join(f"<li>{escape(text)}</li>" for text in settings.pop("findings", []))
    notes = settings.pop("notes", [])
    tables = "".join(
        _section_table(section, [row for row in content["rows"] if row.get("section") == section])
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
    others = [other.stem for other in path.parent.glob(f"{path.stem}?*.json")]
    return [p for p in sorted(path.parent.glob(f"{path.stem}*.png")) if not any(p.stem.startswith(o) for o in others)]


def _details(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>{body}</details>"


def _text(notes: Any) -> str:
    return "\n".join(map(str, notes)) if isinstance(notes, list) else str(notes)


def _settings(settings: Mapping[str, Any]) -> str:
    """Plain values as a list, what has parts as JSON."""
    items = []
    for name, value in settings.items():
        nested = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict | list) for v in value))
        shown = json.dumps(value, indent=1, ensure_ascii=False) if nested else _plain(value)
        items.append(f"<dt>{escape(name)}</dt><dd>{f'<pre>{escape(shown)}</pre>' if nested else escape(shown)}</dd>")
    return f"<dl>{''.join(items)}</dl>"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# ---- tables ----------------------------------------------------------------------------------------------------------


def _section_table(section: str | None, rows: Sequence[_Row]) -> str:
    heading = "" if section is None else f"<h3>{escape(section)}</h3>"
    return heading + "".join(_table(columns, rows) for columns in _grouped(list(dict.fromkeys(r["column"] for r in rows))))


def _grouped(columns: list[str]) -> list[list[str]]:
    """Columns "task/metric" as few tables that are not too wide: all, by metric, or by task."""
    if len(columns) <= _WIDEST:
        return [columns]

    def by(part: int) -> list[list[str]]:
        groups: dict[str, list[str]] = {}
        for column in columns:
            groups.setdefault(column.rpartition("/")[part], []).append(column)
        return list(groups.values())

    return min(by(2), by(0), key=lambda groups: (max(max(map(len, groups)), _WIDEST), len(groups)))


def _table(columns: Sequence[str], rows: Sequence[_Row]) -> str:
    cells: dict[tuple[str, str], list[_Row]] = {}
    for row in rows:
        cells.setdefault((record.full_name(row), row["column"]), []).append(row)
    models = [m for m in dict.fromkeys(map(record.full_name, rows)) if any((m, c) in cells for c in columns)]
    quoted = [c for c in columns if any(row["paper"] is not None for m in models for row in cells.get((m, c), []))]
    first, second = ['<th class="text" rowspan="2">model</th>'], []
    for c in columns:
        name = next(record.heading(row) for m in models for row in cells.get((m, c), []))
        first.append(f'<th colspan="{2 if c in quoted else 1}">{escape(name)}</th>')
        second.append("<th>paper</th><th>ours</th>" if c in quoted else "<th>ours</th>")
    body = []
    for m in models:
        line = [f'<td class="text">{escape(m)}{_parameters(m, cells)}</td>']
        for c in columns:
            here = cells.get((m, c), [])
            line += [f"<td>{'<br>'.join(map(_paper, here))}</td>"] if c in quoted else []
            line.append(f"<td>{'<br>'.join(map(_ours, here))}</td>")
        body.append(f"<tr>{''.join(line)}</tr>")
    head = f"<thead><tr>{''.join(first)}</tr><tr>{''.join(second)}</tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>{"".join(body)}</tbody></table></div>'


def _parameters(model: str, cells: Mapping[tuple[str, str], Sequence[_Row]]) -> str:
    counts = {row["parameters"] for (m, _), here in cells.items() if m == model for row in here if "parameters" in row}
    return f'<br><small>{", ".join(f"{n:,}" for n in sorted(counts))} parameters</small>' if counts else ""


def _paper(row: _Row) -> str:
    return _marked(row.get("paper_mark"), escape(record.published(row)), "")


def _ours(row: _Row) -> str:
    shown = record.value(row["mean"])
    spread = record.spread(row)
    text = escape(f"{shown} ± {spread}" if spread else shown)
    small = [f"best epoch {epochs}" if (epochs := record.best_epochs(row)) else "", *_reduced(row)]
    runs = ", ".join(record.value(run) for run in row["runs"])
    detail = "".join(f"<br><small>{escape(s)}</small>" for s in small if s)
    return _marked(row.get("mark"), text, f"runs: {runs}") + detail


def _reduced(row: _Row) -> list[str]:
    return ["reduced"] if row["status"] == "reduced" else []


def _marked(mark: str | None, text: str, title: str) -> str:
    kind = {"green": ' class="cell pass"', "red": ' class="cell fail"', None: ""}[mark]
    return f'<span{kind} title="{escape(title)}">{text}</span>' if text else ""
