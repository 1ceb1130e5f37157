"""What the command prints: a table for people, JSON for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from symkern.elements import Element
from symkern.pointgroup.analysis import Result
from symkern.pointgroup.classes import shown

COLUMNS = ("file", "frame", "formula", "group", "order", "orbits", "residual\nÅ", "margin\nÅ")
PERIODIC = "periodic: the cell is ignored, this is the point group of the atoms as a molecule"


def cells(result: Result) -> list[str]:
    """One row of the table, without its notes."""
    sym, k = result.sym, result.index
    order = int(sym.order[k])
    return [
        result.frame.file,
        str(result.frame.number),
        result.frame.atoms.get_chemical_formula() or "no atoms",
        result.label,
        str(order) if order else "∞",
        str(len(_orbits(result))),
        _length(_residual(result)),
        _length(float(sym.margin[k])),
    ]


def notes(result: Result) -> dict[str, str]:
    """What the reader of a point group should know: in two or three words, and in full."""
    sym, k = result.sym, result.index
    found = {
        f"{label} at {_length(tolerance)}": f"with a tolerance of {_length(tolerance)} Å it would be {label}"
        for tolerance, label in result.changes
    }
    if not bool(sym.closed[k]):
        what = {
            "closed": "a group of some of them is given",
            "raw": "all of them are given",
            "generate": "the group that they generate is given",
        }[sym.policy]
        found["not closed"] = f"the operations within the tolerance form no group; {what} (--policy {sym.policy})"
    if bool(sym.ambiguous[k]):
        found["ambiguous"] = "atoms of one element are closer than twice the tolerance: permutations need not be unique"
    return found


def record(result: Result) -> dict[str, Any]:
    """Everything about one structure, as JSON-ready values; atoms are numbered from 0 within the structure."""
    sym, k, atoms = result.sym, result.index, result.frame.atoms
    first = int(sym.ptr[k])
    begin, end = sym.op_ptr[k : k + 2].tolist()
    starts = sym.perm_ptr[begin : end + 1].tolist()
    found = shown(sym, k)
    sites = {orbit - first: label for orbit, label in sym.site_symmetry[k]}
    return {
        "file": result.frame.file,
        "frame": result.frame.number,
        "formula": atoms.get_chemical_formula(),
        "numbers": atoms.get_atomic_numbers().tolist(),
        "periodic": bool(atoms.get_pbc().any()),
        "point_group": result.label,
        "continuous": int(sym.order[k]) == 0,
        "order": int(sym.order[k]),
        "rank": int(sym.rank[k]),
        "tolerance": sym.tolerance,
        "policy": sym.policy,
        "max_residual": _residual(result),
        "margin": float(sym.margin[k]),
        "closed": bool(sym.closed[k]),
        "ambiguous": bool(sym.ambiguous[k]),
        "other_tolerances": [{"tolerance": t, "point_group": label} for t, label in result.changes],
        "centroid": sym.centroid[k].tolist(),
        "axis": sym.axis[k].tolist() if int(sym.rank[k]) == 1 else None,
        "orbits": _orbits(result),
        "site_symmetries": [sites[orbit - first] for orbit in sym.orbits[first : first + len(atoms)].tolist()],
        "operations": [
            {
                "matrix": sym.operations[g].tolist(),
                "permutation": (sym.permutations[a:b] - first).tolist(),
                "residual": float(sym.residuals[g]),
                **_element(element),
            }
            for g, a, b, element in zip(range(begin, end), starts[:-1], starts[1:], found.operations, strict=True)
        ],
        "elements": {
            "axes": [{"names": axis.names, "direction": axis.direction.tolist()} for axis in found.axes],
            "planes": [{"name": plane.name, "normal": plane.normal.tolist()} for plane in found.planes],
            "inversion": found.inversion,
        },
        "classes": [{"name": name, "size": size} for size, name in found.classes],
        "notes": [*notes(result).values(), *([PERIODIC] if atoms.get_pbc().any() else [])],
    }


def table(results: Sequence[Result], moved: dict[int, float]) -> Any:
    """A rich table; `moved`: how far symmetrisation moved the atoms of some results, Å."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    made = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)  # leaves the most room for names of files
    for name in (*COLUMNS, *(["moved\nÅ"] if moved else [])):
        made.add_column(name, justify="left" if name in ("file", "formula", "group") else "right", overflow="fold",
                        no_wrap=name != "file")  # fmt: skip
    said = [notes(result) for result in results]
    if any(said):
        made.add_column("notes")
    for k, (result, remarks) in enumerate(zip(results, said, strict=True)):
        row = [escape(cell) for cell in cells(result)]
        row[3] = f"[bold]{row[3]}[/bold]"
        if moved:
            row.append(_length(moved[k]) if k in moved else "")
        if any(said):
            row.append("[yellow]" + escape(", ".join(remarks)) + "[/yellow]" if remarks else "")
        made.add_row(*row)
    return made


def explanations(results: Sequence[Result]) -> list[str]:
    """What the notes in the table mean; each once."""
    said = {short: text for result in results for short, text in notes(result).items() if " at " not in short}
    return [f"{short}: {text}" for short, text in said.items()]


def summary(results: Sequence[Result]) -> str:
    """ "120 structures: 80 C1, 30 Cs, 10 C2v" """
    counts = Counter(result.label for result in results)
    return f"{len(results):,} structures: " + ", ".join(f"{count:,} {label}" for label, count in counts.most_common())


def _element(element: Element) -> dict[str, Any]:
    axis = element.axis.tolist() if np.any(element.axis) else None
    return {"name": element.name, "n": element.order, "power": element.power, "axis": axis}


def _orbits(result: Result) -> list[list[int]]:
    a, b = result.sym.ptr[result.index : result.index + 2].tolist()
    members: dict[int, list[int]] = {}
    for atom, orbit in enumerate(result.sym.orbits[a:b].tolist()):
        members.setdefault(orbit, []).append(atom)
    return list(members.values())


def _residual(result: Result) -> float:
    a, b = result.sym.op_ptr[result.index : result.index + 2].tolist()
    return float(result.sym.residuals[a:b].max()) if b > a else 0.0


def _length(value: float) -> str:
    """Å, to four digits after the point, or three that count."""
    return f"{value:.4f}" if value == 0 or value >= 1e-3 else f"{value:.1e}"
