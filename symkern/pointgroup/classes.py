"""Axes, planes and classes of one molecule's operations, named as in character tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symkern.elements import classify
from symkern.stabilizer import Stabilizers, group_label

_Array = NDArray[np.float64]
_PARALLEL = 0.999  # |cosine| of directions that differ by what a tolerance allows, and by less than any two axes do


@dataclass(frozen=True)
class Operation:
    """One operation: kind "E", "C", "i", "sigma" or "S", turn k/n of a full circle about `axis` (zero for E and i)."""

    kind: str
    n: int
    k: int
    axis: _Array


@dataclass
class Axis:
    """A line through the centroid: the highest orders of its rotations and of its rotoreflections (1: none; 0: any)."""

    direction: _Array
    n: int = 1
    improper: int = 1
    prime: str = ""

    @property
    def names(self) -> list[str]:
        """["C6", "S6"]; C∞ for continuous ones, C2′ where kinds of two-fold axes differ."""
        proper = [f"C{self.n or '∞'}{self.prime}"] if self.n != 1 else []
        return proper + ([f"S{self.improper}"] if self.improper > 2 else [])


@dataclass
class Plane:
    normal: _Array
    kind: str = ""  # "h", "v", "v′", "d"; or "" where the group has no main axis

    @property
    def name(self) -> str:
        return f"σ{self.kind}"


@dataclass(frozen=True)
class Elements:
    """What the picture shows of one molecule."""

    label: str
    operations: list[Operation]
    axes: list[Axis]
    planes: list[Plane]
    inversion: bool
    main: _Array | None  # direction of the main axis, if there is one
    classes: list[tuple[int, str]]  # conjugacy classes: (3, "C2′")


def elements(sym: Stabilizers, index: int = 0) -> Elements:
    """Axes, planes and conjugacy classes of molecule `index`."""
    label = group_label(int(sym.group[index]))
    begin, end = sym.op_ptr[index : index + 2].tolist()
    matrices = sym.operations[begin:end].double().cpu().numpy()
    operations = [Operation(*classify(m)) for m in matrices]
    atoms = slice(*sym.ptr[index : index + 2].tolist())
    x = (sym.positions[atoms] - sym.centroid[index]).double().cpu().numpy()
    if int(sym.order[index]) == 0:
        return _continuous(label, operations, sym.axis[index].double().cpu().numpy())
    axes = _axes(operations)
    planes = [Plane(o.axis) for o in operations if o.kind == "sigma"]
    main = _main(label, axes, planes)
    _name(label, axes, planes, main, x)
    inversion = any(o.kind == "i" for o in operations)
    return Elements(label, operations, axes, planes, inversion, main, _classes(operations, matrices, axes, planes))


def _continuous(label: str, operations: list[Operation], axis: _Array) -> Elements:
    if label == "Kh":
        return Elements(label, operations, [], [], False, None, [(1, name) for name in ("E", "∞C∞", "i", "∞S∞", "∞σ")])
    symmetric = label == "Dinfh"
    planes = [Plane(axis, "h")] if symmetric else []
    names = ["E", "C∞", "∞σv"] + (["i", "S∞", "∞C2"] if symmetric else [])
    return Elements(label, operations, [Axis(axis, 0)], planes, symmetric, axis, [(1, name) for name in names])


def _parallel(a: _Array, b: _Array) -> bool:
    return abs(float(a @ b)) > _PARALLEL


def _axes(operations: list[Operation]) -> list[Axis]:
    """Highest orders first."""
    axes: list[Axis] = []
    for o in operations:
        if o.kind not in "CS":
            continue
        axis = next((a for a in axes if _parallel(a.direction, o.axis)), None)
        if axis is None:
            axes.append(axis := Axis(o.axis))
        if o.kind == "C":
            axis.n = max(axis.n, o.n)
        else:
            axis.improper = max(axis.improper, o.n)
    return sorted(axes, key=lambda a: (-a.n, -a.improper))


def _main(label: str, axes: list[Axis], planes: list[Plane]) -> _Array | None:
    """The axis of highest order if it is the only one of this order; of Cs, the normal of its plane."""
    if label == "Cs":
        return planes[0].normal
    order = [(a.n, a.improper) for a in axes]
    return axes[0].direction if axes and order.count(order[0]) == 1 else None


def _name(label: str, axes: list[Axis], planes: list[Plane], main: _Array | None, x: _Array) -> None:
    """h: planes across the main axis. Planes along it are v and d, two-fold axes across it ′ and ″, where they are of
    two kinds: first those that hold more atoms."""
    if main is None:
        _name_cubic(label, axes, planes)
        return
    vertical = [p for p in planes if not _parallel(p.normal, main)]
    for plane in planes:
        plane.kind = "h"
    n = axes[0].n if axes else 1
    staggered = label.startswith("D") and label.endswith("d")
    kinds = ["d" if staggered else "v"] * len(vertical)
    if n % 2 == 0 and not staggered:
        first = _first_kind([p.normal for p in vertical], [_atoms_near((x @ p.normal)[:, None]) for p in vertical], n)
        kinds = ["v" if k in first else "v′" if n == 2 else "d" for k in range(len(vertical))]
    for plane, kind in zip(vertical, kinds, strict=True):
        plane.kind = kind
    twofold = [a for a in axes if a.n == 2 and not _parallel(a.direction, main)]
    if n % 2 == 0:
        on_axis = [_atoms_near(x - np.outer(x @ a.direction, a.direction)) for a in twofold]
        first = _first_kind([a.direction for a in twofold], on_axis, n)
        for k, axis in enumerate(twofold):
            axis.prime = "′" if staggered or k in first else "″"


def _name_cubic(label: str, axes: list[Axis], planes: list[Plane]) -> None:
    """Also D2h and others with several axes of the highest order; their planes and axes get no marks."""
    four = [a.direction for a in axes if a.n == 4]
    for axis in axes:
        axis.prime = "′" if four and axis.n == 2 else ""
    for plane in planes:
        across_four = any(_parallel(a, plane.normal) for a in four)
        plane.kind = {"Td": "d", "Th": "h", "Oh": "h" if across_four else "d"}.get(label, "")


def _atoms_near(offsets: _Array) -> int:
    return int((np.linalg.norm(offsets, axis=1) < 0.1).sum())


def _first_kind(directions: list[_Array], atoms: list[int], n: int) -> set[int]:
    """Half of n directions at equal angles: every second one from that with the most atoms."""
    if not directions:
        return set()
    start = int(np.argmax(atoms))
    step = 2 * np.pi / n
    angles = [np.arccos(min(1.0, abs(float(d @ directions[start])))) for d in directions]
    return {k for k, angle in enumerate(angles) if abs(angle / step - round(angle / step)) < 0.25}


def _classes(
    operations: list[Operation], matrices: _Array, axes: list[Axis], planes: list[Plane]
) -> list[tuple[int, str]]:
    """Conjugacy classes in the order of the operations' kinds; operations that form no group: by kind."""
    count = len(operations)
    classes: list[list[int]] = []
    left = set(range(count))
    while left:
        g = min(left)
        # distances of h g h^-1 for all h from every operation
        conjugates = np.einsum("hij,jk,hlk->hil", matrices, matrices[g], matrices).reshape(count, 9)
        squared = ((conjugates[:, None] - matrices.reshape(count, 9)) ** 2).sum(-1)
        found = sorted((set(squared.argmin(1).tolist()) | {g}) & left)
        left -= set(found)
        classes.append(found)
    named = []
    for members in classes:
        o = min((operations[m] for m in members), key=_power)
        named.append((_sort_key(o), len(members), _class_name(o, axes, planes)))
    return [(size, name) for _, size, name in sorted(named)]


def _sort_key(o: Operation) -> tuple[int, int, int]:
    return ("E", "C", "i", "S", "sigma").index(o.kind), -o.n, o.k


def _class_name(o: Operation, axes: list[Axis], planes: list[Plane]) -> str:
    if o.kind in ("E", "i"):
        return o.kind
    if o.kind == "sigma":
        return max(planes, key=lambda p: abs(float(p.normal @ o.axis))).name
    axis = max(axes, key=lambda a: abs(float(a.direction @ o.axis)))
    k = _power(o)
    prime = axis.prime if o.kind == "C" and o.n == 2 else ""
    return f"{o.kind}{o.n}{prime}{_superscript(k) if k > 1 else ''}"


def _power(o: Operation) -> int:
    """m of C_n^m or S_n^m: for odd n, sigma times a turn by k/n is an odd power of S_n."""
    return o.k + o.n if o.kind == "S" and o.n % 2 and o.k % 2 == 0 else o.k


def _superscript(k: int) -> str:
    return str(k).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
