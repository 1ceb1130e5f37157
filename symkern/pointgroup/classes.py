"""Axes, planes and classes of one molecule's operations, named as in character tables."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from symkern.elements import Element, elements_of
from symkern.stabilizer import Stabilizers, group_label

_Array = NDArray[np.float64]
_PARALLEL = 0.999  # |cosine| of directions that differ by what a tolerance allows, and by less than any two axes do


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
class Shown:
    """What the picture shows of one molecule."""

    label: str
    operations: list[Element]
    axes: list[Axis]
    planes: list[Plane]
    inversion: bool
    main: _Array | None  # direction of the main axis, if there is one
    classes: list[tuple[int, str]]  # conjugacy classes: (3, "C2′")


def shown(sym: Stabilizers, index: int = 0) -> Shown:
    """Axes, planes and conjugacy classes of molecule `index`."""
    code = int(sym.group[index])
    begin, end = sym.op_ptr[index : index + 2].tolist()
    first, last = sym.ptr[index : index + 2].tolist()
    matrices = sym.operations[begin:end].double().cpu().numpy()
    entries = sym.permutations[sym.perm_ptr[begin] : sym.perm_ptr[end]].cpu().numpy()
    operations = elements_of(matrices, entries.reshape(end - begin, last - first) - first, code)
    if int(sym.order[index]) == 0:
        return _continuous(group_label(code), operations, sym.axis[index].double().cpu().numpy())
    axes = _axes(operations)
    planes = [Plane(e.axis, e.name.removeprefix("sigma").lstrip("_")) for e in operations if kind(e) == "sigma"]
    main = _main(axes, planes)
    _prime(
        group_label(code), axes, planes, main, (sym.positions[first:last] - sym.centroid[index]).double().cpu().numpy()
    )
    inversion = any(e.name == "i" for e in operations)
    classes = _classes(operations, matrices, axes, planes)
    return Shown(group_label(code), operations, axes, planes, inversion, main, classes)


def kind(element: Element) -> str:
    """ "E", "C", "i", "sigma" or "S" """
    return "sigma" if element.name.startswith("sigma") else element.name[0]


def _continuous(label: str, operations: list[Element], axis: _Array) -> Shown:
    if label == "Kh":
        return Shown(label, operations, [], [], False, None, [(1, name) for name in ("E", "∞C∞", "i", "∞S∞", "∞σ")])
    symmetric = label == "Dinfh"
    planes = [Plane(axis, "h")] if symmetric else []
    names = ["E", "C∞", "∞σv"] + (["i", "S∞", "∞C2"] if symmetric else [])
    return Shown(label, operations, [Axis(axis, 0)], planes, symmetric, axis, [(1, name) for name in names])


def _parallel(a: _Array, b: _Array) -> bool:
    return abs(float(a @ b)) > _PARALLEL


def _axes(operations: list[Element]) -> list[Axis]:
    """Highest orders first."""
    axes: list[Axis] = []
    for e in operations:
        if kind(e) not in "CS":
            continue
        axis = next((a for a in axes if _parallel(a.direction, e.axis)), None)
        if axis is None:
            axes.append(axis := Axis(e.axis))
        if kind(e) == "C":
            axis.n = max(axis.n, e.order)
        else:
            axis.improper = max(axis.improper, e.order)
    return sorted(axes, key=lambda a: (-a.n, -a.improper))


def _main(axes: list[Axis], planes: list[Plane]) -> _Array | None:
    """The axis of highest order if it is the only one of this order; of Cs, the normal of its plane."""
    if not axes:
        return planes[0].normal if planes else None
    order = [(a.n, a.improper) for a in axes]
    return axes[0].direction if order.count(order[0]) == 1 else None


def _prime(label: str, axes: list[Axis], planes: list[Plane], main: _Array | None, x: _Array) -> None:
    """Marks the two-fold axes across the main one, where they are of two kinds, with ′ and ″: ′ for those that hold
    more atoms. Of the planes of C2v, σv′ holds fewer."""
    if label == "C2v":
        min(planes, key=lambda plane: _atoms_near((x @ plane.normal)[:, None])).kind = "v′"
    if label in ("O", "Oh"):  # beside those that are squares of four-fold rotations
        for axis in axes:
            axis.prime = "′" if axis.n == 2 else ""
    if main is None or not axes or axes[0].n % 2:
        return
    twofold = [a for a in axes if a.n == 2 and not _parallel(a.direction, main)]
    on_axis = [_atoms_near(x - np.outer(x @ a.direction, a.direction)) for a in twofold]
    first = _first_kind([a.direction for a in twofold], on_axis, axes[0].n)
    one_kind = label.endswith("d")
    for k, axis in enumerate(twofold):
        axis.prime = "′" if one_kind or k in first else "″"


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
    operations: list[Element], matrices: _Array, axes: list[Axis], planes: list[Plane]
) -> list[tuple[int, str]]:
    """Conjugacy classes: rotations, inversion, rotoreflections, planes; high orders first."""
    flat = matrices.reshape(len(matrices), 9)
    left = set(range(len(operations)))
    named = []
    taken: set[tuple[str, int, int]] = set()
    while left:
        g = min(left)
        # which operation is h g h^-1, for all h
        conjugates = np.einsum("hij,jk,hlk->hil", matrices, matrices[g], matrices).reshape(-1, 9)
        nearest = ((conjugates[:, None] - flat) ** 2).sum(-1).argmin(1)
        members = (set(nearest.tolist()) | {g}) & left
        left -= members
        e = min((operations[m] for m in members), key=lambda e: e.power)
        if (kind(e), e.order, e.power) in taken and e.order > 2:  # in T the other sense of turning, about other axes
            full = 2 * e.order if kind(e) == "S" and e.order % 2 else e.order
            e = replace(e, power=full - e.power)
        taken.add((kind(e), e.order, e.power))
        rank = ("E", "C", "i", "S", "sigma").index(kind(e))
        named.append(((rank, -e.order, e.power), len(members), _class_name(e, axes, planes)))
    return [(size, name) for _, size, name in sorted(named)]


def _class_name(e: Element, axes: list[Axis], planes: list[Plane]) -> str:
    if kind(e) in ("E", "i"):
        return e.name
    if kind(e) == "sigma":
        return max(planes, key=lambda p: abs(float(p.normal @ e.axis))).name
    axis = max(axes, key=lambda a: abs(float(a.direction @ e.axis)))
    prime = axis.prime if kind(e) == "C" and e.order == 2 else ""
    power = str(e.power).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")) if e.power > 1 else ""
    return f"{kind(e)}{e.order}{prime}{power}"
