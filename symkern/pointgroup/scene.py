"""What a picture of one molecule shows, ready to draw: atoms, bonds, axes and planes in a frame that looks good."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symkern.host import neighbor_list
from symkern.pointgroup.classes import Axis, Shown, shown
from symkern.stabilizer import Stabilizers

_Array = NDArray[np.float64]
AXIS_COLORS = {2: "#2563a8", 3: "#0f8a5f", 4: "#8b3fd1", 5: "#d97706", 6: "#c81e4b", 0: "#334155"}
TWOFOLD = {"": AXIS_COLORS[2], "′": "#45a5ea", "″": "#14305a"}  # shades that tell C2, C2′ and C2″ apart
PLANE_COLORS = {"h": "#0ea5b7", "v": "#e0a100", "v′": "#b0762b", "d": "#d946a0", "": "#7c6ce0"}
OTHER = "#475569"
# distinct colours of orbits, repeated where there are more
ORBIT_COLORS = (
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#edc948", "#76b7b2", "#ff9da7", "#9c755f", "#8cd17d",
)  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """Lengths in Å, about the centroid; z is the main axis.

    Attributes:
        positions: (N, 3).
        radii: (N,) of the drawn spheres.
        colors, orbit_colors: of each atom, "#rrggbb".
        symbols: chemical symbol of each atom.
        orbits: (N,) number of the orbit of each atom, from 0.
        bonds: (M, 2) atoms.
        axes: (direction, order, names, colour) of each axis; order 0: continuous; improper: no rotation, S_n only.
        planes: (normal, name, colour).
        inversion: is the centroid a centre of inversion.
        radius: of a sphere around the molecule.
    """

    formula: str
    label: str
    order: int
    classes: list[tuple[int, str]]
    positions: _Array
    radii: _Array
    colors: list[str]
    orbit_colors: list[str]
    symbols: list[str]
    orbits: NDArray[np.int64]
    bonds: NDArray[np.int64]
    axes: list[DrawnAxis]
    planes: list[DrawnPlane]
    inversion: bool
    radius: float

    @property
    def operations(self) -> str:
        """ "24 operations" """
        return (
            "continuous group" if self.order == 0 else "1 operation" if self.order == 1 else f"{self.order} operations"
        )

    @property
    def class_list(self) -> str:
        """ "E, 2 C3, 3 σv" """
        return ", ".join(name if size == 1 else f"{size} {name}" for size, name in self.classes)


@dataclass(frozen=True)
class DrawnAxis:
    direction: _Array
    order: int
    improper: int
    names: list[str]
    color: str


@dataclass(frozen=True)
class DrawnPlane:
    normal: _Array
    name: str
    color: str


def scene(sym: Stabilizers, index: int = 0) -> Scene:
    """The picture of molecule `index`.

    Raises:
        IndexError: there is no such molecule.
        ModuleNotFoundError: ASE is not installed.
    """
    from ase.data import chemical_symbols, covalent_radii
    from ase.data.colors import jmol_colors
    from ase.formula import Formula

    if not 0 <= index < sym.num_structures:
        raise IndexError(f"index must be 0 .. {sym.num_structures - 1}, got {index}")
    atoms = slice(*sym.ptr[index : index + 2].tolist())
    z = sym.numbers[atoms].cpu().numpy()
    known = np.where(z < len(chemical_symbols), z, 0)  # 0 is ASE's unknown atom
    x = (sym.positions[atoms] - sym.centroid[index]).double().cpu().numpy()
    found = shown(sym, index)
    frame = _frame(found, x)
    x = x @ frame
    covalent = np.array([covalent_radii[k] for k in known])
    _, orbits = np.unique(sym.orbits[atoms].cpu().numpy(), return_inverse=True)
    symbols = [chemical_symbols[k] for k in known]
    return Scene(
        formula=str(Formula.from_list(symbols).format("hill")),
        label=found.label,
        order=int(sym.order[index]),
        classes=found.classes,
        positions=x,
        radii=0.18 + 0.22 * covalent,
        colors=[_hex(jmol_colors[k % len(jmol_colors)]) for k in known],
        orbit_colors=[ORBIT_COLORS[k % len(ORBIT_COLORS)] for k in orbits],
        symbols=symbols,
        orbits=orbits,
        bonds=_bonds(x, covalent),
        axes=[DrawnAxis(a.direction @ frame, a.n, a.improper, a.names, _axis_color(a)) for a in found.axes],
        planes=[DrawnPlane(p.normal @ frame, p.name, PLANE_COLORS[p.kind]) for p in found.planes],
        inversion=found.inversion,
        radius=float(np.linalg.norm(x, axis=1).max(initial=0)) + 0.5,
    )


def _axis_color(axis: Axis) -> str:
    return TWOFOLD[axis.prime] if axis.n == 2 else AXIS_COLORS.get(axis.n if axis.n != 1 else axis.improper, OTHER)


def _frame(found: Shown, x: _Array) -> _Array:
    """Columns: z along the main axis (else an axis of highest order), x along a second one, else the longest extent."""
    directions = [a.direction for a in found.axes] + [p.normal for p in found.planes]
    if found.main is not None:
        directions.insert(0, found.main)
    if len(x):
        directions += list(np.linalg.eigh(x.T @ x)[1].T[::-1])  # longest extent first
    directions += list(np.eye(3))
    z = directions[0] if found.axes or found.main is not None else directions[min(2, len(directions) - 1)]
    across = [d - (d @ z) * z for d in directions[1:] + directions[:1]]
    best = next(d for d in across if np.linalg.norm(d) > 0.3)
    first = best / np.linalg.norm(best)
    return np.stack([first, np.cross(z, first), z], axis=1)


def _bonds(x: _Array, covalent: _Array) -> NDArray[np.int64]:
    """Pairs no farther apart than 1.2 times the sum of their covalent radii, and not on top of each other."""
    if len(x) < 2:
        return np.zeros((0, 2), np.int64)
    edges = neighbor_list(x, 2.4 * float(covalent.max()) + 1e-3, full=False)
    i, j = edges.edge_index
    keep = (edges.distances <= 1.2 * (covalent[i] + covalent[j])) & (edges.distances > 0.1)
    return np.asarray(np.stack([i, j], axis=1)[keep])


def _hex(color: _Array) -> str:
    return "#" + "".join(f"{round(255 * float(c)):02x}" for c in color)
