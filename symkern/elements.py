"""Names of point groups and of their elements, from matrices and permutations; NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

# Schoenflies families; a group is coded as family * 65536 + n, the number in its name
FAMILIES = (
    "C1", "Cs", "Ci", "C{n}", "C{n}v", "C{n}h", "D{n}", "D{n}h", "D{n}d", "S{n}",
    "T", "Td", "Th", "O", "Oh", "I", "Ih", "Cinfv", "Dinfh", "Kh",
)  # fmt: skip

# what to return where the accepted operations form no group, in the order of csrc/ops/stabilizers.h
POLICIES = ("closed", "raw", "generate")

_Array = NDArray[np.float64]
_Whole = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Element:
    """One operation of a point group.

    Attributes:
        name: "E", "C3", "C3^2", "i", "sigma_h", "sigma_v", "sigma_d", "sigma", "S6", "S6^5", "S3^5", ... Mirror planes
            perpendicular to the principal axis are sigma_h (in Oh those perpendicular to a C4, in Th to a C2; the plane
            of Cs); the six of Td, the other six of Oh and those of Dnd that hold the principal axis are sigma_d. In Cnv
            and Dnh with even n > 2 the planes that hold the axis form two classes: the one whose planes hold fewer
            atoms is sigma_d, the other sigma_v (if they hold equally many, that of the first plane in the order of
            operations is sigma_v). Others with the axis in the plane are sigma_v. In D2h and Ih all are sigma.
        axis: (3,) unit vector of the rotation or rotation-reflection, normal of a mirror plane; zero for E and i. Its z
            is positive, or z is zero and y positive, or both are and x is positive (zero: within 1e-6).
        order: n of C_n^k or S_n^k; 1 for E and mirror planes, 2 for i.
        power: k of C_n^k or S_n^k, without common factors: a turn by 2 pi k / n about `axis`, counterclockwise when
            looking against it. For S_n^k with odd n, k is odd, between 1 and 2n.
    """

    name: str
    axis: _Array
    order: int
    power: int

    def __repr__(self) -> str:
        x, y, z = self.axis
        return f"Element({self.name}, axis=({x:.3f}, {y:.3f}, {z:.3f}))"


def group_label(code: int) -> str:
    """Schoenflies symbol of a group code."""
    return FAMILIES[code >> 16].format(n=code & 0xFFFF)


def group_code(family: str, n: int = 0) -> int:
    """Code of a family such as "C{n}v" and its number."""
    return FAMILIES.index(family) << 16 | n


def group_of_counts(order: int, proper: int, top: int, mirrors: int, inversions: int) -> int:
    """Code of the finite group with so many operations in all, proper ones, mirror planes and inversions.

    Args:
        top: highest order of a proper rotation.
    """
    pure = order == proper
    rotations = {(12, 3): "T", (24, 4): "O", (60, 5): "I"}.get((proper, top))
    if rotations is not None:
        return group_code(rotations if pure else "Td" if rotations == "T" and not inversions else rotations + "h")
    if proper == 1:
        return group_code("C1" if pure else "Cs" if mirrors else "Ci")
    if proper == top:
        if pure:
            return group_code("C{n}", top)
        if not mirrors:
            return group_code("S{n}", 2 * top)
        return group_code("C{n}v" if mirrors == top else "C{n}h", top)
    return group_code("D{n}" if pure else "D{n}d" if mirrors == top else "D{n}h", top)


def elements_of(operations: _Array, permutations: _Whole, code: int) -> list[Element]:
    """The element of each operation of one molecule.

    Args:
        operations: (G, 3, 3), a group.
        permutations: (G, N) local indices.
        code: of the group.
    """
    if len(operations) == 1:  # most molecules of most sets
        return [Element("E", np.zeros(3), 1, 0)]
    turns = [_turn(r) for r in np.asarray(operations, dtype=np.float64)]
    family, fold = FAMILIES[code >> 16], code & 0xFFFF
    if family in ("Cinfv", "Dinfh"):
        fold = max(1, len(turns) // (2 if family == "Cinfv" else 4))
    # two axes of one group are farther apart than this
    apart = min(0.15, np.pi / (4 * max(fold, 1)))
    lines = _lines([axis for _, axis, _ in turns], apart)
    on_line = np.bincount([line for line, (det, axis, _) in zip(lines, turns, strict=True) if det > 0 and axis.any()]
                          or [0], minlength=max(lines, default=0) + 1)  # fmt: skip
    found = []
    for line, (det, axis, angle) in zip(lines, turns, strict=True):
        proper = 1 + int(on_line[line]) if axis.any() else 1
        found.append(_element(det, axis, angle, proper))
    return _name_planes(found, lines, permutations, family, fold)


def _turn(r: _Array) -> tuple[int, _Array, float]:
    """Determinant, axis (zero for E and i) and angle in 0 .. 2 pi of the rotation before a reflection, if any."""
    det = 1 if np.linalg.det(r) > 0 else -1
    # an improper matrix is minus a rotation, by half a turn more
    rotation = det * r
    cosine = float(np.clip((np.trace(rotation) - 1) / 2, -1, 1))
    skew = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]])
    angle = float(np.arctan2(np.linalg.norm(skew) / 2, cosine))
    if angle < 1e-2 and np.linalg.norm(skew) < 1e-2:
        return det, np.zeros(3), 0.0
    # the axis spans what is left of the symmetric part; the larger column is far from zero
    square = (rotation + rotation.T) / 2 - cosine * np.eye(3)
    axis = square[:, np.argmax(np.abs(np.diagonal(square)))] if angle > 1 else skew
    axis = axis / np.linalg.norm(axis)
    if axis @ skew < 0:
        axis = -axis
    lead = next(c for c in axis[::-1] if abs(c) > 1e-6)
    if lead < 0:
        axis, angle = -axis, 2 * np.pi - angle
    return det, axis, angle if det > 0 else (angle + np.pi) % (2 * np.pi)


def _lines(axes: list[_Array], apart: float) -> list[int]:
    """Number of the line that each axis is on."""
    known: list[_Array] = []
    numbers = []
    for axis in axes:
        if known and axis.any():
            sines = np.linalg.norm(np.cross(np.stack(known), axis), axis=1)
            nearest = int(sines.argmin())
            if sines[nearest] < apart:
                numbers.append(nearest)
                continue
        elif not axis.any():
            numbers.append(0)
            continue
        known.append(axis)
        numbers.append(len(known) - 1)
    return numbers


def _element(det: int, axis: _Array, angle: float, proper: int) -> Element:
    """`proper`: how many proper operations, E among them, turn about this axis."""
    if not axis.any():
        return Element("E", axis, 1, 0) if det > 0 else Element("i", axis, 2, 1)
    steps = proper if det > 0 else 2 * proper
    step = round(angle / (2 * np.pi) * steps) % steps
    common = gcd(step, steps)
    n, k = steps // common, step // common
    if det > 0:
        return Element(f"C{n}" if k == 1 else f"C{n}^{k}", axis, n, k)
    if step == 0:
        return Element("sigma", axis, 1, 1)
    if k % 2 == 0:
        k += n
    return Element(f"S{n}" if k == 1 else f"S{n}^{k}", axis, n, k)


def _name_planes(found: list[Element], lines: list[int], permutations: _Whole, family: str, fold: int) -> list[Element]:
    planes = [g for g, e in enumerate(found) if e.name == "sigma"]
    if not planes or family in ("I", "Ih") or (family == "D{n}h" and fold == 2):
        return found
    names = dict.fromkeys(planes, "sigma_v")
    if family in ("Td", "D{n}d"):
        names = dict.fromkeys(planes, "sigma_d")
    elif family in ("Cs", "C{n}h", "Th"):
        names = dict.fromkeys(planes, "sigma_h")
    elif family == "Oh":
        fourfold = {lines[g] for g, e in enumerate(found) if e.name == "C4"}
        names = {g: "sigma_h" if lines[g] in fourfold else "sigma_d" for g in planes}
    else:  # Cnv, Dnh, and linear molecules with samples
        turns = [g for g, e in enumerate(found) if e.name.startswith("C") and e.order == max(fold, 2)]
        if turns:
            principal = found[turns[0]].axis
            upright = [g for g in planes if abs(found[g].axis @ principal) < 0.5]
            names.update((g, "sigma_h") for g in planes if g not in upright)
            if fold % 2 == 0 and fold > 2 and "{n}" in family:
                names.update(_two_classes([found[g].axis for g in upright], upright, principal, permutations, fold))
    return [Element(names.get(g, e.name), e.axis, e.order, e.power) for g, e in enumerate(found)]


def _two_classes(
    normals: list[_Array], planes: list[int], principal: _Array, permutations: _Whole, fold: int
) -> dict[int, str]:
    """Planes through the principal axis alternate between the classes."""
    u = normals[0]
    v = np.cross(principal, u)
    kinds = [round(float(np.arctan2(m @ v, m @ u)) / (np.pi / fold)) % 2 for m in normals]
    if len(set(kinds)) < 2:
        return {}
    held = [int((permutations[g] == np.arange(permutations.shape[1])).sum()) for g in planes]
    first, second = (max(h for h, kind in zip(held, kinds, strict=True) if kind == c) for c in (0, 1))
    fewer = 1 if second <= first else 0
    return {g: "sigma_d" if kind == fewer else "sigma_v" for g, kind in zip(planes, kinds, strict=True)}


def site_symmetry_of(elements: list[Element], permutations: _Whole, orbits: _Whole, code: int) -> list[tuple[int, str]]:
    """(smallest atom, Schoenflies symbol of the operations that keep this atom) for each orbit of one molecule."""
    family = FAMILIES[code >> 16]
    if family == "C1" and len(elements) == 1:
        return [(atom, "C1") for atom in range(len(orbits))]
    sites = []
    for atom in np.unique(orbits).tolist():
        kept = [e for e, p in zip(elements, permutations, strict=True) if p[atom] == atom]
        if family in ("Cinfv", "Dinfh", "Kh"):
            centered = family != "Cinfv" and any(e.name == "i" for e in kept)
            label = "Kh" if family == "Kh" else "Dinfh" if centered else "Cinfv"
        else:
            rotations = [e for e in kept if e.name == "E" or e.name.startswith("C")]
            mirrors = sum(e.name.startswith("sigma") for e in kept)
            inversions = sum(e.name == "i" for e in kept)
            top = max(e.order for e in rotations)
            label = group_label(group_of_counts(len(kept), len(rotations), top, mirrors, inversions))
        sites.append((atom, label))
    return sites
