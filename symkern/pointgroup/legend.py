"""What the legends of both pictures list."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symkern.pointgroup.scene import Scene


@dataclass(frozen=True)
class Row:
    """`count` elements of one name; kind "axis", "improper", "plane" or "inversion"; order of axes, 0: continuous."""

    kind: str
    name: str
    count: int
    what: str
    color: str
    order: int = 0


def rows(scene: Scene) -> list[Row]:
    """Axes, rotoreflection axes, planes and the centre of inversion, each kind once."""
    found = []
    for name in dict.fromkeys(name for axis in scene.axes for name in axis.names):
        same = [axis for axis in scene.axes if name in axis.names]
        improper = name.startswith("S")
        words = ("rotoreflection axis", "rotoreflection axes") if improper else ("axis", "axes")
        order = same[0].improper if improper else same[0].order
        kind = "improper" if improper else "axis"
        found.append(Row(kind, name, len(same), words[len(same) > 1], same[0].color, order))
    for name in dict.fromkeys(plane.name for plane in scene.planes):
        alike = [plane for plane in scene.planes if plane.name == name]
        found.append(Row("plane", name, len(alike), "planes" if len(alike) > 1 else "plane", alike[0].color))
    if scene.inversion:
        found.append(Row("inversion", "i", 1, "inversion centre", "#1e293b"))
    return found


def sign(order: int) -> NDArray[np.float64]:
    """Corners of the usual sign of a rotation axis in a unit circle: lens, triangle, square, pentagon ..."""
    if order == 2:
        angle = np.linspace(-np.pi / 3.2, np.pi / 3.2, 12)
        arc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        arc = (arc - [arc[0, 0], 0]) / np.abs(arc[0, 1])
        return np.concatenate([arc, -arc])
    count = order if 2 < order <= 12 else 32
    angle = np.pi / 2 + 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)
