"""Result files: rows, their schema, and the table made from them.

A result is written by a run, never by hand: `problems` recomputes everything that follows from other fields, and
python_tests/test_benchmarks.py applies it to every file in results/.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SCHEMA = 1
PASSES = ("forward", "forward + gradient", "force step")  # of a layer, in the name of an op


@dataclass
class Row:
    """One measurement.

    Attributes:
        output: "fresh" (allocated in the call), "reused" or "-"; pages: page size under a fresh output, "-" otherwise.
        median, iqr: in `unit`.
        inner: calls averaged in one of the `repeats` samples.
        ratio: median over symkern's median of the same interleaved rounds; None for symkern itself and where alone.
        bytes, flops: the fewest that the operation needs, the same for all contestants.
        copy_gbs, matmul_gflops: rates of the machine measured directly before, on the same number of threads.
        target, target_kind: what was promised: `reached` is "at_least" or "at_most" that.
    """

    op: str
    system: str
    who: str
    form: str
    threads: int
    isa: str
    dtype: str
    output: str
    pages: str
    unit: str
    median: float
    iqr: float
    repeats: int
    inner: int = 1
    ratio: float | None = None
    bytes: float | None = None
    flops: float | None = None
    copy_gbs: float | None = None
    matmul_gflops: float | None = None
    target: float | None = None
    target_kind: str | None = None
    reached: float | None = None
    met: bool | None = None
    note: str = ""

    def __post_init__(self) -> None:
        self.met = judge(self.target, self.target_kind, self.reached)


HEAD: dict[str, tuple[type, ...]] = {
    "machine": (str,),
    "device": (str,),
    "model": (str,),
    "cores": (int,),
    "isa": (str,),
    "thp": (str,),
    "commit": (str,),
    "dirty": (bool,),
    "date": (str,),
    "python": (str,),
    "torch": (str,),
    "symkern": (str,),
    "peers": (dict,),
    "driver": (str, type(None)),
    "cuda": (str, type(None)),
}
_NUMBER = (int, float)
_MAYBE = (int, float, type(None))
FIELDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("op", "system", "who", "form", "isa", "dtype", "output", "pages", "unit", "note"), (str,)),
    **dict.fromkeys(("threads", "repeats", "inner"), (int,)),
    **dict.fromkeys(("median", "iqr"), _NUMBER),
    **dict.fromkeys(("ratio", "bytes", "flops", "copy_gbs", "matmul_gflops", "target", "reached"), _MAYBE),
    "target_kind": (str, type(None)),
    "met": (bool, type(None)),
}
SECONDS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}


def judge(target: float | None, kind: str | None, reached: float | None) -> bool | None:
    """Whether a target is met; None where there is none."""
    if target is None or reached is None:
        return None
    if kind not in ("at_least", "at_most"):
        raise ValueError(f"target_kind must be 'at_least' or 'at_most', got {kind!r}")
    return reached >= target if kind == "at_least" else reached <= target


def problems(result: Any) -> list[str]:
    """What is wrong with a result file; empty if nothing."""
    if not isinstance(result, dict) or result.get("schema") != SCHEMA:
        return [f"schema must be {SCHEMA}"]
    found = _types("result", result, {**HEAD, "schema": (int,), "rows": (list,)})
    rows = result.get("rows")
    if not isinstance(rows, list) or not rows:
        return [*found, "rows must be a list that is not empty"]
    for number, row in enumerate(rows):
        wrong = _types(f"row {number}", row, FIELDS)
        if not wrong:
            if row["met"] is not judge(row["target"], row["target_kind"], row["reached"]):
                wrong.append(f"row {number}: met does not follow from target and reached")
            if row["median"] <= 0 or row["iqr"] < 0 or row["repeats"] < 1:
                wrong.append(f"row {number}: median, iqr or repeats out of range")
        found += wrong
    return found + [f"a path: {text!r}" for text in _strings(result) if re.search(r"(^|[\s:=])/\w", text)]


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return [value] if isinstance(value, str) else []


def _types(where: str, value: dict[str, Any], fields: dict[str, tuple[type, ...]]) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where}: not an object"]
    wrong = [f"{where}: {key} is missing" for key in fields if key not in value]
    wrong += [f"{where}: {key} is unknown" for key in value if key not in fields]
    for key, types in fields.items():
        if key in value and (not isinstance(value[key], types) or (isinstance(value[key], bool) and bool not in types)):
            wrong.append(f"{where}: {key} is {value[key]!r}")
    return wrong


def write(
    head: dict[str, Any], rows: list[Row], folder: Path, suffix: str = "", readme: Path | None = None
) -> tuple[Path, str]:
    """Write FOLDER/<machine>SUFFIX.json and .md, and the table in `readme`; the first path and the second's text."""
    result = {"schema": SCHEMA, **head, "rows": [_rounded(asdict(row)) for row in rows]}
    wrong = problems(result)
    if wrong:
        raise ValueError("this run made a result that breaks the schema: " + "; ".join(wrong))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{head['machine']}{suffix}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    text = render(result)
    path.with_suffix(".md").write_text(text)
    if readme is not None:
        readme.write_text(update_readme(readme.read_text(), result))
    return path, text


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    digits = {key: float(f"{value:.4g}") for key, value in row.items() if isinstance(value, float)}
    # judged again from what is stored, so that a file agrees with itself
    row = row | digits
    return row | {"met": judge(row["target"], row["target_kind"], row["reached"])}


def render(result: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = [_headline(result), ""]
    for op in dict.fromkeys(row["op"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["op"] == op]
        lines += [f"**{op}**", "", *_table(rows), ""]
    judged = [row for row in result["rows"] if row["met"] is not None]
    if judged:
        lines += [f"Targets: {sum(row['met'] for row in judged)} of {len(judged)} met.", ""]
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> str:
    """What the README shows: the rows that carry a target, one line each; for layers one line for all passes."""
    lines = [
        _headline(result),
        "",
        "| op | system | measured | median | symkern | target | reached |",
        "|" + "---|" * 7,
    ]
    layers = {_layer(row) for row in result["rows"] if row["op"].endswith(f", {PASSES[-1]}")}
    for row in result["rows"]:
        if row["met"] is None or _layer(row) in layers:
            continue
        same = ("op", "system", "threads")
        own = [r for r in result["rows"] if r["who"] == "symkern" and all(r[key] == row[key] for key in same)]
        ours = (
            f"{_short(row['median'] / row['ratio'])} {row['unit']}" if row["ratio"] and own and row not in own else ""
        )
        threads = f", {row['threads']} threads" if row["threads"] > 1 else ""
        cells = [row["op"], row["system"] + threads, f"{row['who']}: {row['form']}", _cell(row, "median"), ours]
        verdict = _cell(row, "reached") + ("" if row["met"] else " (**not met**)")
        lines.append("| " + " | ".join([*cells, _cell(row, "target"), verdict]) + " |")
    return "\n".join(lines + _passes([row for row in result["rows"] if _layer(row) in layers])) + "\n"


def _layer(row: dict[str, Any]) -> str:
    """The name of a layer, where an op is a pass of one."""
    name, _, passed = row["op"].rpartition(", ")
    return name if passed in PASSES else ""


def _passes(rows: list[dict[str, Any]]) -> list[str]:
    """One line for each contestant that something was promised about, with what its passes reached."""
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    promised = set()
    for row in rows:
        key = (_layer(row), row["system"], f"{row['who']}: {row['form']}")
        if row["met"] is not None:
            promised.add(key)
            text = _cell(row, "reached") if row["met"] else f"**{_cell(row, 'reached')}**"
            text += f" ({_cell(row, 'target')})"
        else:
            text = _cell(row, "x symkern")
        lines.setdefault(key, {})[row["op"].rpartition(", ")[2]] = text
    if not promised:
        return []
    head = ["layer", "system", "measured", *PASSES]
    table = ["", "Layers, x symkern (target); **bold** where it is not met:", ""]
    table += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for key, found in lines.items():
        if key in promised:
            table.append("| " + " | ".join([*key, *(found.get(passed, "") for passed in PASSES)]) + " |")
    return table


def update_readme(text: str, result: dict[str, Any]) -> str:
    """The README with its table replaced by that of `result`."""
    begin, end = "<!-- bench -->\n", "<!-- /bench -->"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"README has no {begin.strip()} ... {end}")
    return head + begin + summary(result) + end + tail


def _headline(result: dict[str, Any]) -> str:
    peers = ", ".join(f"{name} {version}" for name, version in result["peers"].items() if version)
    state = " with local changes (not a clean commit)" if result["dirty"] else ""
    version = f"symkern {result['symkern']} at {result['commit']}{state}"
    if result["commit"] == "unknown":
        version = f"symkern {result['symkern']}, commit unknown"
    parts = [
        f"{result['model']}, {result['cores']} CPU cores, {result['isa']}",
        f"driver {result['driver']}, CUDA {result['cuda']}" if result["driver"] else f"huge pages: {result['thp']}",
        f"torch {result['torch']}",
        f"peers: {peers}" if peers else "no peers",
        version,
        result["date"],
    ]
    return "; ".join(parts) + "."


def _table(rows: list[dict[str, Any]]) -> list[str]:
    header = [
        *("system", "who", "threads", "ISA", "dtype", "output", "median", "IQR", "n"),
        *("x symkern", "target", "reached", "met", "of copy rate (GB/s)", "of matmul rate (GFLOP/s)", "note"),
    ]
    cells = [[_cell(row, column) for column in header] for row in rows]
    used = [k for k, name in enumerate(header) if name in ("system", "who", "median") or any(c[k] for c in cells)]
    lines = ["| " + " | ".join(header[k] for k in used) + " |", "|" + "---|" * len(used)]
    return lines + ["| " + " | ".join(line[k] for k in used) + " |" for line in cells]


def _cell(row: dict[str, Any], column: str) -> str:
    unit = "x" if row["unit"] not in SECONDS or row["target_kind"] == "at_least" else row["unit"]
    sign = {"at_least": "≥", "at_most": "≤", None: ""}[row["target_kind"]]
    match column:
        case "who":
            return f"{row['who']}: {row['form']}"
        case "ISA":
            return str(row["isa"])
        case "output":
            return row["output"] + (f", {row['pages']}" if row["pages"] != "-" else "")
        case "median" | "IQR":
            return f"{_short(row[column.lower()])} {row['unit']}"
        case "n":
            return str(row["repeats"]) + (f" x {row['inner']}" if row["inner"] > 1 else "")
        case "x symkern":
            return "" if row["ratio"] is None else f"{_short(row['ratio'])}x"
        case "target":
            return "" if row["target"] is None else f"{sign} {_short(row['target'])}{_unit(row, unit)}"
        case "reached":
            return "" if row["target"] is None else f"{_short(row['reached'])}{_unit(row, unit)}"
        case "met":
            return {True: "met", False: "**not met**", None: ""}[row["met"]]
        case "of copy rate (GB/s)":
            return _share(row, "bytes", "copy_gbs")
        case "of matmul rate (GFLOP/s)":
            return _share(row, "flops", "matmul_gflops")
    return str(row[column])


def _unit(row: dict[str, Any], unit: str) -> str:
    # a target on another quantity than the median (memory over output, time over time) is a ratio
    return f" {unit}" if unit in SECONDS and row["reached"] == row["median"] else "x"


def _share(row: dict[str, Any], amount: str, rate: str) -> str:
    if row[amount] is None or not row[rate] or row["unit"] not in SECONDS:
        return ""
    reached = row[amount] / (row["median"] * SECONDS[row["unit"]]) / 1e9
    return f"{100 * reached / row[rate]:.2g} % of {row[rate]:.3g}"


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
