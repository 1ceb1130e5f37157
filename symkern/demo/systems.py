"""What the demo computes on, built with ASE and seeded; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import ase.build
import numpy as np
from ase.collections import g2
from ase.spacegroup import crystal
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from symkern.data import Structures

_molecule: Any = ase.build.molecule

# molecules per Å^3 of liquid water at room temperature
WATER_DENSITY = 0.0334


def g2_molecules() -> Structures:
    """The 162 molecules of the G2 set."""
    molecules = [g2[name] for name in g2.names]
    return Structures(
        "G2 molecules",
        np.concatenate([m.numbers for m in molecules]).astype(np.int64),
        np.concatenate([m.positions for m in molecules]),
        np.cumsum([0, *map(len, molecules)]),
        None,
        None,
        tuple(g2.names),
    )


def water_grid(counts: tuple[int, int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centers (M, 3) of molecules on a cubic grid at the density of water, and the cell (3, 3); Å."""
    spacing = WATER_DENSITY ** (-1 / 3)
    grid = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1).reshape(-1, 3)
    return (grid + 0.5) * spacing, np.diag(np.array(counts, dtype=np.float64)) * spacing


def water_box(centers: NDArray[np.float64], cell: NDArray[np.float64], seed: int = 0) -> Structures:
    """A water molecule with its oxygen on each of `centers`, in random orientation; molecules are kept whole."""
    water = _molecule("H2O")
    arms = water.positions - water.positions[0]
    quaternions = np.random.default_rng(seed).normal(size=(len(centers), 4))
    rotations = Rotation.from_quat(quaternions).as_matrix()
    positions = centers[:, None] + np.einsum("mxy,ay->max", rotations, arms)
    return one("water box", np.tile(water.numbers, len(centers)), positions.reshape(-1, 3), cell)


def quartz(repeat: int, seed: int = 0) -> Structures:
    """Alpha quartz, sheared until every angle of its cell is oblique, with random displacements of 0.05 Å."""
    unit: Any = crystal(
        ["Si", "O"],
        [(0.4697, 0, 2 / 3), (0.4135, 0.2669, 0.7858)],
        spacegroup=154,
        cellpar=[4.916, 4.916, 5.4054, 90, 90, 120],
    )
    atoms = unit.repeat(repeat)
    shear = np.array([[1.0, 0.05, 0.1], [0.0, 1.0, -0.15], [0.0, 0.0, 1.0]])
    cell = np.asarray(atoms.get_cell()) @ shear
    noise = np.random.default_rng(seed).normal(scale=0.05, size=(len(atoms), 3))
    return one("quartz, triclinic", atoms.numbers, atoms.positions @ shear + noise, cell)


def one(name: str, numbers: NDArray[Any], positions: NDArray[np.float64], cell: NDArray[np.float64]) -> Structures:
    """A single structure, periodic in every direction."""
    ptr = np.array([0, len(positions)])
    return Structures(
        name, numbers.astype(np.int64), positions, ptr, cell[None], np.ones((1, 3), dtype=np.bool_), (name,)
    )
