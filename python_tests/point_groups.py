"""Structures whose symmetry is known because they were built from it: orbits of matrix groups, and ideal molecules."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
GOLDEN = (1 + 5**0.5) / 2
X, Y, Z = np.eye(3)
INVERSION = -np.eye(3)


@dataclass(frozen=True)
class Structure:
    """Positions (N, 3) in Å, numbers (N,), and what a search must find; order 0 = continuous.

    `operations` (order, 3, 3) are the matrices that made it, where it was made by matrices.
    """

    name: str
    label: str
    order: int
    positions: Array
    numbers: NDArray[np.int64]
    operations: Array | None = None

    def __str__(self) -> str:
        return self.name


# ---- groups as matrices ----------------------------------------------------------------------------------------------


def rotation(axis: ArrayLike, angle: float) -> Array:
    """Rodrigues' formula."""
    u = np.asarray(axis, dtype=np.float64)
    u = u / np.linalg.norm(u)
    k = np.cross(np.eye(3), -u)  # k @ v = u x v
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def mirror(normal: ArrayLike) -> Array:
    u = np.asarray(normal, dtype=np.float64)
    return np.eye(3) - 2 * np.outer(u, u) / (u @ u)


def turn(n: int) -> Array:
    return rotation(Z, 2 * np.pi / n)


def generators(label: str) -> list[Array]:
    """Matrices that generate a finite group, main axis along z."""
    polyhedral = {
        "T": [turn(2), rotation([1, 1, 1], 2 * np.pi / 3)],
        "O": [turn(4), rotation([1, 1, 1], 2 * np.pi / 3)],
        "I": [rotation([0, 1, GOLDEN], 2 * np.pi / 5), rotation([1, 1, 1], 2 * np.pi / 3)],
    }
    if label in polyhedral:
        return polyhedral[label]
    if label in ("Th", "Oh", "Ih"):
        return [*polyhedral[label[0]], INVERSION]
    if label == "Td":
        return [*polyhedral["T"], mirror([1, 1, 0])]
    if label in ("C1", "Ci", "Cs"):
        return {"C1": [np.eye(3)], "Ci": [INVERSION], "Cs": [mirror(Z)]}[label]
    kind, n, tail = label[0], int(label[1:].rstrip("hvd")), label.lstrip("CDS0123456789")
    if kind == "S":
        return [mirror(Z) @ turn(n)]
    half_way = np.pi / (2 * n)  # between two twofold axes
    more = {
        ("C", ""): [],
        ("C", "v"): [mirror(Y)],
        ("C", "h"): [mirror(Z)],
        ("D", ""): [rotation(X, np.pi)],
        ("D", "h"): [rotation(X, np.pi), mirror(Z)],
        ("D", "d"): [rotation(X, np.pi), mirror([-np.sin(half_way), np.cos(half_way), 0])],
    }
    return [turn(n), *more[kind, tail]]


@cache
def group(label: str) -> Array:
    """(order, 3, 3) all products of the generators."""
    found = [np.eye(3)]
    for matrix in found:  # grows while it is read
        for generator in generators(label):
            product = generator @ matrix
            if not any(np.abs(product - other).max() < 1e-6 for other in found):
                found.append(product)
                assert len(found) <= 240, f"{label} does not close"
    return np.array(found)


N_FOLD = range(2, 9)
ORDERS = (
    {f"C{n}": n for n in N_FOLD}
    | {f"C{n}{tail}": 2 * n for n in N_FOLD for tail in "vh"}
    | {f"D{n}": 2 * n for n in N_FOLD}
    | {f"D{n}{tail}": 4 * n for n in N_FOLD for tail in "hd"}
    | {f"S{n}": n for n in (4, 6, 8, 10, 12)}
    | {"T": 12, "Td": 24, "Th": 24, "O": 24, "Oh": 48, "I": 60, "Ih": 120, "C1": 1, "Cs": 2, "Ci": 2}
)


# ---- orbits ----------------------------------------------------------------------------------------------------------


def orbit(matrices: Array, point: Array) -> Array:
    """The different images of a point."""
    images = matrices @ point
    first = [i for i, r in enumerate(images) if (np.abs(images[:i] - r).max(1) > 1e-6).all()]
    return images[first]


def constructed(label: str, orbits: int = 4, species: int = 2, special: bool = False, seed: int = 0) -> Structure:
    """Orbits of random points, the first `species` - 1 of them elements of their own, at most 240 atoms.

    One generic orbit may have more symmetry than the group (an orbit of C5 is a pentagon); several at random radii and
    directions have not. With `special`, one more orbit lies on a symmetry element of the group, if it has any.
    """
    matrices = group(label)
    random = np.random.default_rng([seed, *label.encode()])
    orbits = max(4, orbits) if len(matrices) <= 2 else min(orbits, (240 - 120 * special) // len(matrices))
    for _ in range(10_000):
        points = [random.normal(size=3) for _ in range(orbits)]
        if special and len(matrices) > 1:
            fixing = matrices[random.integers(1, len(matrices))]
            powers = [np.linalg.matrix_power(fixing, k) for k in range(60)]
            points.append(np.mean(powers, 0) @ random.normal(size=3))  # zero if only the center is fixed
        radii = 2.0 + len(matrices) ** 0.5 * random.uniform(0.3, 0.8, len(points))
        rings = [
            orbit(matrices, r * p / np.linalg.norm(p)) if np.linalg.norm(p) > 1e-6 else np.zeros((1, 3))
            for r, p in zip(radii, points, strict=True)
        ]
        positions = np.concatenate(rings)
        distances = np.linalg.norm(positions[:, None] - positions, axis=-1) + 9 * np.eye(len(positions))
        if len(positions) <= 240 and distances.min() > 0.4:
            break
    else:
        raise RuntimeError(f"{label}: no room for {orbits} orbits")
    elements = [6] * len(rings)
    elements[: species - 1] = [7, 8, 9][: species - 1]
    numbers = np.repeat(elements, [len(ring) for ring in rings])
    name = f"{label}-{len(rings)}orbits-{species}species-{len(positions)}atoms"
    return Structure(name, label, len(matrices), positions, numbers, matrices)


@cache
def all_constructed() -> tuple[Structure, ...]:
    """The 57 groups, each with one element, with two, and with an orbit on a symmetry element."""
    made = []
    for label, order in ORDERS.items():
        assert len(group(label)) == order, label
        made += [constructed(label, 4, 1), constructed(label, 3, 2, seed=1), constructed(label, 3, 2, True, seed=2)]
    return tuple(made)


# ---- ideal molecules -------------------------------------------------------------------------------------------------


def ring(count: int, radius: float, height: float = 0.0, start: float = 0.0) -> Array:
    """A regular polygon about z; `start` in units of its angle."""
    angle = 2 * np.pi * (np.arange(count) + start) / count
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(count, height)], 1)


def signs(*point: float) -> Array:
    """All sign changes, and of those all cyclic permutations, without repetition."""
    images = {
        tuple(np.roll(np.multiply(point, s), k).tolist())
        for s in itertools.product((1, -1), repeat=3)
        for k in range(3)
    }
    return np.array(sorted({tuple(x + 0.0 for x in image) for image in images}))  # + 0.0 makes -0.0 zero


def molecule(name: str, label: str, order: int, **parts: ArrayLike) -> Structure:
    """Of arrays of positions by element; a trailing _ lets an element occur twice."""
    places = {element: np.reshape(np.asarray(r, dtype=np.float64), (-1, 3)) for element, r in parts.items()}
    numbers = [np.full(len(r), atomic_numbers[element.rstrip("_")]) for element, r in places.items()]
    return Structure(name, label, order, np.concatenate(list(places.values())), np.concatenate(numbers))


def _tetrahedron(length: float) -> Array:
    return np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * length / 3**0.5


def _ethane(twist: float) -> tuple[Array, Array]:
    hydrogen = np.concatenate([ring(3, 1.02, 1.16), ring(3, 1.02, -1.16, twist / 120)])
    return np.array([0.77 * Z, -0.77 * Z]), hydrogen


def _ethene(twist: float) -> tuple[Array, Array]:
    hydrogen = np.concatenate([ring(2, 0.93, 1.23), ring(2, 0.93, -1.23, twist / 180)])
    return np.array([0.665 * Z, -0.665 * Z]), hydrogen


def ferrocene(staggered: bool) -> Structure:
    rings = {
        element: np.concatenate([ring(5, radius, height), ring(5, radius, -height, 0.5 * staggered)])
        for element, radius, height in (("C", 1.21, 1.66), ("H", 2.29, 1.64))
    }
    return molecule(f"ferrocene D5{'hd'[staggered]}", f"D5{'hd'[staggered]}", 20, Fe=np.zeros(3), **rings)


def buckminsterfullerene() -> Structure:
    """Truncated icosahedron with edges of 1.42 Å."""
    corners = [signs(0, 1, 3 * GOLDEN), signs(1, 2 + GOLDEN, 2 * GOLDEN), signs(GOLDEN, 2, 2 * GOLDEN + 1)]
    return molecule("C60", "Ih", 120, C=0.71 * np.concatenate(corners))


@cache
def ideal_molecules() -> tuple[Structure, ...]:
    icosahedron = signs(0, 1, GOLDEN) / (1 + GOLDEN**2) ** 0.5
    dodecahedron = np.concatenate([signs(1, 1, 1), signs(0, 1 / GOLDEN, GOLDEN)]) / 3**0.5
    cube, octahedron = signs(1, 1, 1) / 3**0.5, signs(0, 0, 1)
    peroxide = ring(2, 0.9, 0.25, 111.5 / 360), ring(2, 0.7)
    made = [
        molecule("helium", "Kh", 0, He=np.zeros(3)),
        molecule("HCl", "Cinfv", 0, H=np.zeros(3), Cl=1.27 * Z),
        molecule("N2", "Dinfh", 0, N=[-0.55 * X, 0.55 * X]),
        molecule("CO2", "Dinfh", 0, C=np.zeros(3), O=[1.16 * Y, -1.16 * Y]),
        molecule("acetylene", "Dinfh", 0, C=[0.6 * Z, -0.6 * Z], H=[1.66 * Z, -1.66 * Z]),
        molecule("HCN", "Cinfv", 0, C=np.zeros(3), N=1.16 * Z, H=-1.07 * Z),
        molecule("CHFClBr", "C1", 1, C=np.zeros(3), **dict(zip(("H", "F", "Cl", "Br"), _tetrahedron(1.5), strict=True))),
        molecule("HOF", "Cs", 2, O=np.zeros(3), H=0.96 * X, F=0.96 * (np.cos(1.8) * X + np.sin(1.8) * Y)),
        molecule("H2O", "C2v", 4, O=np.zeros(3), H=ring(2, 0.76, 0.59)),
        molecule("H2O2", "C2", 2, O=peroxide[1], H=peroxide[0]),
        molecule("trans-C2H2Cl2", "C2h", 4, C=ring(2, 0.66), H=_pair(1.23, 0.93), Cl=_pair(1.64, -1.4)),
        molecule("meso-C2H2F2Cl2", "Ci", 2, C=_pair(0.75, 0.1), H=_pair(1, -1, 0.3), F=_pair(1.2, 1, 0.9), Cl=_pair(1.4, 0.2, -1.6)),
        molecule("NH3", "C3v", 6, N=np.zeros(3), H=ring(3, 0.94, -0.38)),
        molecule("boric acid", "C3h", 6, B=np.zeros(3), O=ring(3, 1.37), H=ring(3, 1.9, 0, 0.21)),
        molecule("allene", "D2d", 8, C=[np.zeros(3), 1.31 * Z, -1.31 * Z], H=np.concatenate([ring(2, 0.93, 1.87), ring(2, 0.93, -1.87, 0.5)])),
        *(molecule(f"ethene {t}", label, order, C=_ethene(t)[0], H=_ethene(t)[1]) for t, label, order in ((0, "D2h", 8), (30, "D2", 4), (90, "D2d", 8))),
        *(molecule(f"ethane {t}", label, order, C=_ethane(t)[0], H=_ethane(t)[1]) for t, label, order in ((0, "D3h", 12), (25, "D3", 6), (60, "D3d", 12))),
        molecule("PF5", "D3h", 12, P=np.zeros(3), F=np.concatenate([ring(3, 1.53), [1.58 * Z, -1.58 * Z]])),
        molecule("XeF4", "D4h", 16, Xe=np.zeros(3), F=ring(4, 1.95)),
        molecule("S8", "D4d", 16, S=np.concatenate([ring(4, 2.34, 0.5), ring(4, 2.34, -0.5, 0.5)])),
        molecule("benzene", "D6h", 24, C=ring(6, 1.39), H=ring(6, 2.48)),
        molecule("ring of 100", "D100h", 400, C=ring(100, 22.3)),
        ferrocene(False),
        ferrocene(True),
        molecule("methane", "Td", 24, C=np.zeros(3), H=_tetrahedron(1.09)),
        molecule("SF6", "Oh", 48, S=np.zeros(3), F=1.56 * octahedron),
        molecule("cubane", "Oh", 48, C=1.36 * cube, H=2.46 * cube),
        molecule("B12H12 2-", "Ih", 120, B=1.7 * icosahedron, H=2.9 * icosahedron),
        molecule("dodecahedrane", "Ih", 120, C=2.16 * dodecahedron, H=3.25 * dodecahedron),
        buckminsterfullerene(),
    ]  # fmt: skip
    return tuple(made)


def _pair(x: float, y: float, z: float = 0.0) -> Array:
    """A point and its image under inversion."""
    return np.array([[x, y, z], [-x, -y, -z]])


def cubic_cluster(edge: int = 10, spacing: float = 2.5) -> Structure:
    """A piece of the simple cubic lattice in the shape of a cube."""
    lattice = np.array(list(itertools.product(range(edge), repeat=3))) * spacing
    return molecule(f"cube of {edge**3} atoms", "Oh", 48, Po=lattice)


def sphere(count: int, radius: float = 10.0) -> Array:
    """Fibonacci lattice on a sphere: all radii equal, distances nearly, and hardly any symmetry."""
    k = np.arange(count) + 0.5
    height, angle = 1 - 2 * k / count, 2 * np.pi * k / GOLDEN
    around = np.sqrt(1 - height**2)
    return radius * np.stack([around * np.cos(angle), around * np.sin(angle), height], 1)


# ---- changes that keep the symmetry ----------------------------------------------------------------------------------


def random_orthogonal(random: np.random.Generator, det: int = 1) -> Array:
    """Uniform in SO(3), or in its other half."""
    q, r = np.linalg.qr(random.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * (np.sign(np.linalg.det(q)) * det)


def moved(positions: Array, q: Array, shift: ArrayLike = 0.0) -> Array:
    return positions @ q.T + np.asarray(shift)


def noise(count: int, radius: float, random: np.random.Generator) -> Array:
    """(count, 3) displacements, uniform in a ball."""
    direction = random.normal(size=(count, 3))
    length = radius * random.random((count, 1)) ** (1 / 3)
    return length * direction / np.linalg.norm(direction, axis=1, keepdims=True)
