"""ASUN, the frame of Baker et al., for comparison.

Baker, Wang, de Fernex, Wang, "An explicit frame construction for normalizing 3D point clouds", ICML 2024, by its
description: points on the unit sphere, their convex hull as an automaton, its states partitioned and sorted. Everything
that is compared is first rounded to the tolerance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

_Array = NDArray[np.float64]
_Edge = tuple[int, int]


def asun_frame(x: _Array, types: Sequence[int], tolerance: float = 0.01) -> _Array:
    """(3, 3) orthogonal; canonical positions are (x - mean) @ F.

    Args:
        x: (N, 3) positions, Å.
        types: (N,) what tells atoms apart, such as atomic numbers.
        tolerance: Å and radian: grid to which radii, angles and distances are rounded.

    Raises:
        Exception: the construction breaks down, in more than one way: scipy's hull may fail, a point may be no vertex
            of it. Whoever compares counts these.
    """
    y = x - x.mean(0)
    radius = np.linalg.norm(y, axis=1)
    kept = np.flatnonzero(radius > tolerance).tolist()
    if not kept:
        return np.eye(3)
    points, radial = _sphere(y[kept], [types[i] for i in kept], tolerance)
    rank = int(np.linalg.matrix_rank(points, tol=tolerance))
    around = _hull(points, rank)
    local = [_surroundings(points, i, around[i], tolerance) for i in range(len(points))]
    codes = [(radial[i], local[i]) for i in range(len(points))]
    edges = _sorted_edges(codes, around)
    return _align(points, edges, rank, tolerance)


def _round(value: float, tolerance: float) -> int:
    return round(float(value) / tolerance)


def _angle(a: _Array, b: _Array) -> float:
    return float(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b))


def _sphere(y: _Array, types: list[int], tolerance: float) -> tuple[_Array, list[Any]]:
    """Directions, those within the tolerance as one, each with the sorted radii and types of its atoms."""
    radius = np.linalg.norm(y, axis=1)
    unit = y / radius[:, None]
    groups: list[list[int]] = []
    for i in range(len(unit)):
        for group in groups:
            if _angle(unit[group[0]], unit[i]) < tolerance:
                group.append(i)
                break
        else:
            groups.append([i])
    codes = [tuple(sorted((_round(radius[i], tolerance), types[i]) for i in group)) for group in groups]
    return np.stack([unit[group[0]] for group in groups]), codes


def _hull(points: _Array, rank: int) -> list[list[int]]:
    """Neighbors of each point on the convex hull, in cyclic order as seen from outside."""
    n = len(points)
    near: list[set[int]] = [set() for _ in range(n)]
    if n <= 3:
        near = [set(range(n)) - {i} for i in range(n)]
    elif rank <= 2:  # all on a great circle
        u, v = np.linalg.svd(points)[2][:2]
        order = np.argsort(np.arctan2(points @ v, points @ u)).tolist()
        for a, b in zip(order, order[1:] + order[:1], strict=True):
            near[a].add(b)
            near[b].add(a)
    else:
        # joggled as in the authors' code: facets with more than three corners are cut in some way
        for corners in ConvexHull(points, qhull_options="QJ").simplices.tolist():
            for i in corners:
                near[i] |= set(corners) - {i}
    if n > 1 and not all(near):
        raise ValueError("a point is not on the hull")
    return [_cyclic(points, i, sorted(near[i])) for i in range(n)]


def _cyclic(points: _Array, i: int, near: list[int]) -> list[int]:
    if len(near) < 2:
        return near
    z = points[i]
    x = points[near[0]] - (points[near[0]] @ z) * z
    if np.linalg.norm(x) < 1e-12:
        x = points[near[1]] - (points[near[1]] @ z) * z
    y = np.cross(z, x)
    return sorted(near, key=lambda j: float(np.arctan2(points[j] @ y, points[j] @ x)))


def _surroundings(points: _Array, i: int, near: list[int], tolerance: float) -> tuple[Any, ...]:
    """Rounded (angle to the neighbor before, distance) of the neighbors, from where that is smallest."""
    z = points[i]
    flat = [points[j] - (points[j] @ z) * z for j in near]
    pairs = [
        (_round(_angle(flat[k - 1], flat[k]), tolerance), _round(_angle(z, points[j]), tolerance))
        for k, j in enumerate(near)
    ]
    return min((tuple(pairs[k:] + pairs[:k]) for k in range(len(pairs))), default=())


def _sorted_edges(codes: list[Any], around: list[list[int]]) -> list[_Edge]:
    """Directed edges of the hull in order of their class.

    Edges are the states of an automaton whose transitions go to the reversed edge and to the next edge of the face.
    Partition refinement (the result of Hopcroft's algorithm) splits them until all of a class have successors in the
    same classes.
    """
    edges = [(i, j) for i, near in enumerate(around) for j in near]
    follow = {}
    for i, j in edges:
        ring = around[j]
        follow[i, j] = (j, ring[(ring.index(i) + 1) % len(ring)])
    label = _ranked({(i, j): (codes[i], codes[j]) for i, j in edges})
    while True:
        finer = _ranked({(i, j): (label[i, j], label[j, i], label[follow[i, j]]) for i, j in edges})
        if len(set(finer.values())) == len(set(label.values())):
            return sorted(edges, key=lambda e: label[e])
        label = finer


def _ranked(keys: dict[_Edge, Any]) -> dict[_Edge, int]:
    place = {key: k for k, key in enumerate(sorted(set(keys.values())))}
    return {edge: place[key] for edge, key in keys.items()}


def _align(points: _Array, edges: list[_Edge], rank: int, tolerance: float) -> _Array:
    """v0 to z, v1 into the half-plane of z and y, v2 to positive x."""
    z = points[edges[0][0]] if edges else points[0]
    start = next(((i, j) for i, j in edges if np.linalg.norm(np.cross(points[i], points[j])) > tolerance), None)
    if rank < 2 or start is None:
        y = np.cross(z, np.eye(3)[np.abs(z).argmin()])
    else:
        z = points[start[0]]
        y = points[start[1]] - (points[start[1]] @ z) * z
    y = y / np.linalg.norm(y)
    x = np.cross(y, z)
    if rank == 3 and start is not None:
        candidates = [j for i, j in edges if i == start[1]] + [i for i, _ in edges]
        v2 = next((j for j in candidates if abs(points[j] @ x) > tolerance), None)
        if v2 is None:
            raise ValueError("no point off the plane of the first two")
        x = x * np.sign(points[v2] @ x)
    return np.stack([x, y, z], 1)
