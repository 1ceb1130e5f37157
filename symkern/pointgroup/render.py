"""Ray casting in NumPy: spheres, rods and translucent disks that cut each other correctly. Parallel projection.

viewer.js beside this file draws the same primitives in the browser.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from symkern.pointgroup.scene import Scene

_Array = NDArray[np.float64]
BOND, ROD, RIM = 0.1, 0.03, 0.022  # radii, Å; the last two for a scene of radius 3 Å
AXIS_LENGTH, DISK = 1.3, 1.12  # half length of axes and radius of disks, in radii of the scene
MANY = 10  # more axes than that get small signs, more planes thin rims and no names: the molecule must stay visible
NAMED = 13  # more axes than that, those of Oh, get no names
_LIGHT = np.array([-0.42, 0.55, 0.72]) / np.linalg.norm([-0.42, 0.55, 0.72])
RIM_PARTS = 72


def view(azimuth: float, elevation: float) -> _Array:
    """Rows: right, up, towards the eye; angles in degrees, z upright."""
    a, e = np.radians([azimuth, elevation])
    right = np.array([-np.sin(a), np.cos(a), 0.0])
    eye = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    return np.stack([right, np.cross(eye, right), eye])


class Canvas:
    """A square picture of `size` pixels, for up to `extent` Å from the centre, with the depth of each pixel."""

    def __init__(self, size: int, extent: float) -> None:
        self.size, self.extent = size, extent
        self.color = np.ones((size, size, 3))
        self.depth = np.full((size, size), -np.inf)
        self.at = np.linspace(-extent, extent, 2 * size + 1)[1::2]  # of columns; rows run downwards

    def window(self, low: _Array, high: _Array) -> tuple[slice, slice, _Array, _Array]:
        """Rows, columns, and their coordinates, of the pixels between two corners."""
        scale = self.size / (2 * self.extent)
        x0, y0 = np.floor((low[:2] + self.extent) * scale).astype(int)
        x1, y1 = np.ceil((high[:2] + self.extent) * scale).astype(int) + 1
        clip = [int(min(max(v, 0), self.size)) for v in (x0, x1, self.size - y1, self.size - y0 + 1)]
        columns, rows = slice(*clip[:2]), slice(*clip[2:])
        return rows, columns, self.at[columns][None, :], -self.at[rows][:, None]

    def put(
        self, rows: slice, columns: slice, hit: NDArray[np.bool_], z: _Array, normal: _Array, color: _Array
    ) -> None:
        """Shaded surface points where `hit` and nearer than what is there."""
        hit = hit & (z > self.depth[rows, columns])
        if not hit.any():
            return
        n = normal[hit]
        diffuse = np.clip(n @ _LIGHT, 0, 1)[:, None]
        half = _LIGHT + np.array([0, 0, 1])
        shine = np.clip(n @ (half / np.linalg.norm(half)), 0, 1)[:, None] ** 40
        edge = 0.6 + 0.4 * np.clip(n[:, 2:], 0, 1)
        base = color[hit] if color.ndim > 1 else color
        lit = np.clip(base * (0.42 + 0.62 * diffuse) * edge + 0.35 * shine, 0, 1)
        fog = np.clip(0.16 - 0.16 * z[hit] / self.extent, 0, 0.3)[:, None]
        self.color[rows, columns][hit] = lit + (1 - lit) * fog
        self.depth[rows, columns][hit] = z[hit]

    def sphere(self, center: _Array, radius: float, color: _Array) -> None:
        rows, columns, x, y = self.window(center - radius, center + radius)
        dx, dy = np.broadcast_arrays(x - center[0], y - center[1])
        left = radius**2 - dx**2 - dy**2
        dz = np.sqrt(np.maximum(left, 0))
        self.put(rows, columns, left >= 0, center[2] + dz, np.stack([dx, dy, dz], -1) / radius, color)

    def rod(
        self, a: _Array, b: _Array, radius: float, color: _Array, *, end: _Array | None = None, dash: float = 0
    ) -> None:
        """From a to b; its half at b has the colour `end`; `dash`: length of dashes and gaps."""
        length = float(np.linalg.norm(b - a))
        u = (b - a) / max(length, 1e-12)
        along = 1 - u[2] ** 2
        if along < 1e-6:  # seen from its end
            return
        rows, columns, x, y = self.window(np.minimum(a, b) - radius, np.maximum(a, b) + radius)
        dx, dy = np.broadcast_arrays(x - a[0], y - a[1])
        du = dx * u[0] + dy * u[1]
        root = (du * u[2]) ** 2 - along * (dx**2 + dy**2 - du**2 - radius**2)
        t = (du * u[2] + np.sqrt(np.maximum(root, 0))) / along
        s = du + t * u[2]
        hit = (root >= 0) & (s >= 0) & (s <= length)
        if dash:
            hit &= np.floor(s / dash).astype(int) % 2 == 0
        normal = (np.stack([dx, dy, t], -1) - s[..., None] * u) / radius
        colors = color if end is None else np.where((s < length / 2)[..., None], color, end)
        self.put(rows, columns, hit, a[2] + t, normal, colors)

    def disks(self, normals: _Array, colors: _Array, radius: float, opacity: float) -> None:
        """Translucent disks about the centre. All at once: their colours mix without regard to their order, so that no
        sorting is needed where they cross; what is before a disk hides it."""
        x, y = np.broadcast_arrays(self.at[None, :], -self.at[:, None])
        weight, total = np.zeros((self.size, self.size)), np.zeros((self.size, self.size, 3))
        clear = np.ones((self.size, self.size))
        for n, color in zip(normals, colors, strict=True):
            if abs(n[2]) < 1e-3:  # seen from its edge: its rim shows it
                continue
            z = -(n[0] * x + n[1] * y) / n[2]
            hit = (x**2 + y**2 + z**2 <= radius**2) & (z > self.depth)
            weight += hit
            total += hit[..., None] * color
            clear *= 1 - opacity * hit
        some = weight > 0
        mixed = total[some] / weight[some][:, None]
        self.color[some] = self.color[some] * clear[some][:, None] + mixed * (1 - clear[some][:, None])


def good_view(scene: Scene) -> tuple[float, float]:
    """Azimuth and elevation from which no plane is seen from its edge, and no axis from its end or before another;
    among those, one that spreads the atoms."""
    directions = np.array([a.direction for a in scene.axes]).reshape(-1, 3)
    normals = np.array([p.normal for p in scene.planes]).reshape(-1, 3)
    best, chosen = -np.inf, (24.0, 24.0)
    for elevation in (18.0, 22.0, 26.0, 34.0):
        for azimuth in np.arange(4.0, 88.0, 2.0):
            looking = view(float(azimuth), elevation)
            flat = directions @ looking[:2].T
            length = np.linalg.norm(flat, axis=1)
            unit = flat / np.maximum(length, 1e-9)[:, None]
            parallel = np.abs(unit @ unit.T)[~np.eye(len(unit), dtype=np.bool_)].max(initial=0)
            apart = np.sqrt(max(0.0, 1 - parallel**2))
            edge = np.abs(normals @ looking[2]).min(initial=1)
            wide = float((scene.positions @ looking[0]).std()) / scene.radius if len(scene.positions) else 0.0
            across = float(length.min(initial=1))
            score = min(float(edge), 0.5) + min(across, 0.4) + 0.7 * min(float(apart), 0.3) + 0.4 * wide
            if score > best + 1e-9:
                best, chosen = score, (float(azimuth), elevation)
    return chosen


def rgb(color: str) -> _Array:
    return np.array([int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)])


def opacity(planes: int) -> float:
    """Of one disk: many disks must not hide the molecule."""
    return float(np.clip(0.36 / max(planes, 1) ** 0.6, 0.05, 0.26))


def render(scene: Scene, looking: _Array, size: int, extent: float, *, samples: int = 2) -> Canvas:
    """The scene without its labels; each pixel is the mean of `samples` squared rays, its depth the nearest of them."""
    fine = Canvas(size * samples, extent)
    x = scene.positions @ looking.T
    colors = [rgb(c) for c in scene.colors]
    for position, radius, color in zip(x, scene.radii, colors, strict=True):
        fine.sphere(position, float(radius), color)
    for i, j in scene.bonds:
        fine.rod(x[i], x[j], BOND, colors[i], end=colors[j])
    scale = scene.radius / 3
    rim = RIM * scale * (1.0 if len(scene.planes) <= MANY else 0.5)
    for axis in scene.axes:
        tip = looking @ axis.direction * (AXIS_LENGTH * scene.radius)
        fine.rod(-tip, tip, ROD * scale, rgb(axis.color), dash=0.06 * scene.radius if axis.order == 1 else 0)
    normals = np.array([looking @ plane.normal for plane in scene.planes]).reshape(-1, 3)
    plane_colors = np.array([rgb(plane.color) for plane in scene.planes]).reshape(-1, 3)
    for n, color in zip(normals, plane_colors, strict=True):
        ring = circle(n) * (DISK * scene.radius)
        for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            fine.rod(a, b, rim, color)
    fine.disks(normals, plane_colors, DISK * scene.radius, opacity(len(normals)))
    coarse = Canvas(size, extent)
    coarse.color = fine.color.reshape(size, samples, size, samples, 3).mean(axis=(1, 3))
    coarse.depth = fine.depth.reshape(size, samples, size, samples).max(axis=(1, 3))
    return coarse


def circle(normal: _Array, parts: int = RIM_PARTS) -> _Array:
    """(parts, 3) unit vectors across `normal`."""
    u = np.cross(normal, np.eye(3)[np.abs(normal).argmin()])
    u /= np.linalg.norm(u)
    angle = np.linspace(0, 2 * np.pi, parts, endpoint=False)[:, None]
    return np.asarray(np.cos(angle) * u + np.sin(angle) * np.cross(normal, u))
