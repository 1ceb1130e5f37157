"""The picture as PNG: the rendered scene, the usual signs at the ends of axes, labels and a legend."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon
from numpy.typing import NDArray

from symkern.pointgroup import render
from symkern.pointgroup.legend import rows, sign
from symkern.pointgroup.scene import DrawnAxis, DrawnPlane, Scene

_INK = "#1e293b"
_Array = NDArray[np.float64]


def png(scene: Scene, *, pixels: int = 900) -> bytes:
    """A picture of 1.42 `pixels` x `pixels`."""
    looking = render.view(*render.good_view(scene))
    extent = 1.55 * scene.radius
    canvas = render.render(scene, looking, pixels, extent)
    figure = Figure(figsize=(pixels * 1.42 / 150, pixels / 150), dpi=150, facecolor="white")
    axes = figure.add_axes((0.0, 0.0, 1 / 1.42, 1.0))
    axes.imshow(canvas.color, extent=(-extent, extent, -extent, extent), interpolation="nearest")
    axes.set_axis_off()
    axes.set_xlim(-extent, extent)
    axes.set_ylim(-extent, extent)
    names, few = len(scene.axes) <= render.NAMED, len(scene.axes) <= render.MANY
    taken: list[_Array] = []
    for axis in scene.axes:
        _axis(axes, canvas, axis, looking, scene.radius, names, few, taken)
    if len(scene.planes) <= render.MANY:
        for plane in scene.planes:
            _plane(axes, plane, looking, scene.radius, taken)
    if scene.inversion:
        size = 0.045 * scene.radius
        axes.add_patch(Circle((0, 0), size, facecolor="white", edgecolor=_INK, linewidth=1.6, zorder=8))
        axes.text(size * 1.3, size * 1.3, "$i$", fontsize=13, color=_INK, zorder=9, **_halo())
    _legend(figure.add_axes((1 / 1.42, 0.0, 1 - 1 / 1.42, 1.0)), scene)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def mathtext(name: str) -> str:
    """ "C6" as C with the index 6; "σv′", "C5²", "∞C2" likewise."""
    found = re.fullmatch(r"(∞?)([A-Zσi])([^′″¹²³⁴⁵⁶⁷⁸⁹⁰]*)([′″]*)([¹²³⁴⁵⁶⁷⁸⁹⁰]*)", name)
    if found is None:
        return name
    many, letter, below, primes, power = found.groups()
    below = below.replace("∞", r"\infty")
    power = power.translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789"))
    above = primes.replace("′", r"\prime").replace("″", r"\prime\prime") + power
    symbol = r"\sigma" if letter == "σ" else rf"\mathrm{{{letter}}}"
    index = rf"_{{\mathrm{{{below}}}}}" if below and "\\" not in below else f"_{{{below}}}" if below else ""
    times = r"\infty " if many else ""
    return f"${times}{symbol}{index}{'^{' + above + '}' if above else ''}$"


def group_mathtext(label: str) -> str:
    """ "D6h" as D with the index 6h."""
    below = label[1:].replace("inf", r"\infty ")
    return rf"$\mathrm{{{label[0]}}}_{{\mathrm{{{below}}}}}$" if below else rf"$\mathrm{{{label}}}$"


def _halo() -> dict[str, Any]:
    from matplotlib.patheffects import withStroke

    return {"path_effects": [withStroke(linewidth=3, foreground="white")]}


def _axis(
    axes: Axes,
    canvas: render.Canvas,
    axis: DrawnAxis,
    looking: _Array,
    radius: float,
    names: bool,
    few: bool,
    taken: list[_Array],
) -> None:
    """Signs at both ends, where no atom hides them; the name at the upper one."""
    d = looking @ axis.direction
    if d[1] < 0 or (abs(d[1]) < 1e-6 and d[0] < 0):
        d = -d
    for end in (d, -d):
        tip = end * render.AXIS_LENGTH * radius
        taken.append(tip[:2])
        column, row = (int((v + canvas.extent) / (2 * canvas.extent) * canvas.size) for v in (tip[0], -tip[1]))
        if canvas.depth[row, column] > tip[2] + 0.1 * radius:
            continue
        size = radius * (0.055 if few else 0.042)
        order = axis.order if axis.order != 1 else axis.improper
        hollow = axis.order == 1
        outline = sign(order) * size
        if order == 2:  # the lens lies across its axis
            turn = np.arctan2(end[1], end[0])
            c, s = np.cos(turn), np.sin(turn)
            outline = outline @ np.array([[c, s], [-s, c]])
        face = "white" if hollow else axis.color
        axes.add_patch(Polygon(tip[:2] + outline, facecolor=face, edgecolor=axis.color, linewidth=1.4, zorder=5))
        if axis.improper > 2 and not hollow:
            axes.add_patch(
                Polygon(
                    tip[:2] + sign(axis.improper) * size * 1.55,
                    fill=False,
                    edgecolor=axis.color,
                    linewidth=1.2,
                    zorder=5,
                )
            )
    if names:
        planar = np.linalg.norm(d[:2])
        away = d[:2] / planar if planar > 0.15 else np.array([0.0, 1.0])
        at = d[:2] * render.AXIS_LENGTH * radius + away * 0.13 * radius
        text = ", ".join(mathtext(name) for name in axis.names)
        taken.append(at)
        axes.text(
            at[0],
            at[1],
            text,
            color=axis.color,
            fontsize=12 if few else 9,
            ha="center",
            va="center",
            zorder=9,
            **_halo(),
        )


def _plane(axes: Axes, plane: DrawnPlane, looking: _Array, radius: float, taken: list[_Array]) -> None:
    """The name at the rim, on the side of the eye, away from other names."""
    ring = render.circle(looking @ plane.normal) * (1.2 * radius)
    near = ring[ring[:, 2] > -0.05 * radius]

    def room(point: _Array) -> float:
        others = min((float(np.linalg.norm(point[:2] - t)) for t in taken), default=radius)
        return min(others, 0.5 * radius) + 0.8 * float(np.linalg.norm(point[:2]))

    best = max(near, key=room)
    taken.append(best[:2])
    axes.text(
        best[0],
        best[1],
        mathtext(plane.name),
        color=plane.color,
        fontsize=12,
        ha="center",
        va="center",
        zorder=9,
        **_halo(),
    )


def _legend(axes: Axes, scene: Scene) -> None:
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1 / 0.42)
    top = 1 / 0.42
    axes.text(0.02, top - 0.26, group_mathtext(scene.label), fontsize=30, color=_INK)
    formula = re.sub(r"(\d+)", r"$_{\1}$", scene.formula)
    axes.text(0.02, top - 0.40, f"{formula}, {scene.operations}", fontsize=11, color="#475569")
    y = top - 0.56
    for row in rows(scene):
        if row.kind == "plane":
            axes.add_patch(Polygon([(0.02, y - 0.02), (0.08, y - 0.02), (0.1, y + 0.035), (0.04, y + 0.035)],
                                   facecolor=row.color + "66", edgecolor=row.color))  # fmt: skip
        elif row.kind == "inversion":
            axes.add_patch(Circle((0.06, y + 0.005), 0.02, facecolor="white", edgecolor=row.color, linewidth=1.4))
        else:
            face = "white" if row.kind == "improper" else row.color
            corners = np.array([0.06, y + 0.005]) + sign(row.order) * 0.03
            axes.add_patch(Polygon(corners, edgecolor=row.color, facecolor=face, linewidth=1.2))
        many = f"{row.count} " if row.count > 1 else ""
        name = "" if row.kind == "inversion" else mathtext(row.name) + " "
        axes.text(0.15, y - 0.02, f"{many}{name}{row.what}", fontsize=11, color=_INK)
        y -= 0.095
    y -= 0.05
    axes.text(0.02, y, "Classes", fontsize=10, color="#475569")
    for line in _lines([f"{size if size > 1 else ''}{mathtext(name)}" for size, name in scene.classes], 6):
        y -= 0.09
        axes.text(0.02, y, line, fontsize=10.5, color=_INK)
    if scene.order == 0:
        y -= 0.1
        axes.text(
            0.02, y, "∞: any turn about the axis" if scene.label != "Kh" else "any turn", fontsize=9, color="#475569"
        )


def _lines(words: list[str], per_line: int) -> list[str]:
    return [",  ".join(words[k : k + per_line]) for k in range(0, len(words), per_line)]
