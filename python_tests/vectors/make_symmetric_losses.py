"""Losses under the symmetry operations that pymatgen finds, for tests without it.

    python make_symmetric_losses.py        writes symmetric_losses.json beside this file

Written with pymatgen's PointGroupAnalyzer (all operations, not the generators) and plain NumPy in fp64: each operation
is tried, atoms are matched by the nearest image. Predictions and targets are random.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Molecule
from pymatgen.symmetry.analyzer import PointGroupAnalyzer

Array = NDArray[np.float64]
C = 0.63
MOLECULES: dict[str, tuple[list[int], list[list[float]]]] = {
    "water": ([8, 1, 1], [[0, 0, 0.1173], [0, 0.7572, -0.4692], [0, -0.7572, -0.4692]]),
    "ammonia": ([7, 1, 1, 1], [[0, 0, 0.28], *([0.94 * np.cos(k * np.pi / 3), 0.94 * np.sin(k * np.pi / 3), -0.1]
                                               for k in (0, 2, 4))]),
    "methane": ([6, 1, 1, 1, 1], [[0, 0, 0], [C, C, C], [C, -C, -C], [-C, C, -C], [-C, -C, C]]),
    "peroxide": ([8, 8, 1, 1], [[0, 0.73, -0.05], [0, -0.73, -0.05], [0.84, 0.88, 0.42], [-0.84, -0.88, 0.42]]),
    "ethene, twisted": ([6, 6, 1, 1, 1, 1], [[0, 0, 0.66], [0, 0, -0.66], [0.9, 0.2, 1.2], [-0.9, -0.2, 1.2],
                                             [0.9, -0.2, -1.2], [-0.9, 0.2, -1.2]]),
    "benzene": ([6] * 6 + [1] * 6, [[r * np.cos(k * np.pi / 3), r * np.sin(k * np.pi / 3), 0] for r in (1.39, 2.48)
                                    for k in range(6)]),
    "octahedron": ([16] + [9] * 6, [[0, 0, 0], [1.56, 0, 0], [-1.56, 0, 0], [0, 1.56, 0], [0, -1.56, 0], [0, 0, 1.56],
                                    [0, 0, -1.56]]),
}  # fmt: skip


def operations(numbers: list[int], positions: Array) -> tuple[str, list[Array]]:
    analyzer = PointGroupAnalyzer(Molecule(numbers, positions), tolerance=0.05)
    return str(analyzer.sch_symbol), [np.array(g.rotation_matrix) for g in analyzer.get_symmetry_operations()]


def chamfer(x: Array, y: Array, allowed: Array) -> tuple[float, float]:
    square = np.where(allowed, ((x[:, None] - y) ** 2).sum(-1), np.inf)
    return float(square.min(1).sum()), float(square.min(0).sum())


def losses(numbers: list[int], positions: Array, group: list[Array], pred: Array, target: Array) -> dict[str, float]:
    centred = positions - positions.mean(0)
    same = np.equal.outer(numbers, numbers)
    found: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for g in group:
        distance = np.linalg.norm((centred @ g.T)[:, None] - centred, axis=-1)
        image = np.where(same, distance, np.inf).argmin(1)
        assert distance[range(len(image)), image].max() < 0.05
        for kind, sign in (("vector", 1.0), ("pseudovector", float(np.sign(np.linalg.det(g))))):
            moved = sign * target @ g.T
            add(f"mse {kind}", float(((pred[image] - moved) ** 2).sum()))
            for typed in (False, True):
                there, back = chamfer(pred, moved, same | (not typed))
                suffix = f" {kind}{' typed' if typed else ''}"
                for name, value in (("x_to_y", there), ("y_to_x", back), ("both", there + back)):
                    add(name + suffix, value)
    return {name: min(values) for name, values in found.items()}


def main() -> None:
    random = np.random.default_rng(0)
    made: dict[str, Any] = {"pymatgen": version("pymatgen"), "molecules": {}}
    for name, (numbers, rows) in MOLECULES.items():
        turn, _ = np.linalg.qr(random.normal(size=(3, 3)))
        positions = np.array(rows) @ turn.T + random.normal(size=3)
        label, group = operations(numbers, positions)
        pred, target = random.normal(size=(2, len(numbers), 3))
        made["molecules"][name] = {
            "numbers": numbers,
            "positions": positions.tolist(),
            "group": label,
            "operations": len(group),
            "pred": pred.tolist(),
            "target": target.tolist(),
            "losses": losses(numbers, positions, group, pred, target),
        }
        print(name, label, len(group))
    (Path(__file__).parent / "symmetric_losses.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
