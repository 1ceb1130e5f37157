"""`symkern.host`: the same lists for NumPy users, without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import peers
import pytest
import torch
from ase import Atoms
from ase.build import bulk, graphene, molecule
from ase.neighborlist import neighbor_list as ase_list

import symkern as sk
from symkern import host

PTR = np.array([0, 5, 5, 12])
BATCH = np.array([0] * 5 + [2] * 7)


def system(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.uniform(-1, 6, (12, 3)), 4 * np.eye(3) + random.uniform(0, 0.8, (3, 3, 3))


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("self_loops", [True, False])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"ptr": PTR},
        {"batch": BATCH},
        {"cell": "shared"},
        {"cell": "shared", "pbc": np.array([True, False, True])},
        {"ptr": PTR, "cell": "shared"},
        {"ptr": PTR, "cell": "each"},
        {"batch": BATCH, "cell": "each", "pbc": np.array([[True] * 3, [False] * 3, [False, True, True]])},
        {"batch": BATCH, "cell": "each", "pbc": False},
    ],
    ids=lambda given: "-".join(given) or "plain",
)
def test_same_as_the_torch_op(given: dict[str, Any], full: bool, self_loops: bool) -> None:
    positions, cells = system()
    options = dict(given)
    if "cell" in options:
        options["cell"] = cells if options["cell"] == "each" else cells[0]
    nb = host.neighbor_list(positions, 3.1, full=full, self_loops=self_loops, **options)
    tensors = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    expected = sk.neighbor_list(torch.from_numpy(positions), 3.1, full=full, self_loops=self_loops, **tensors)
    np.testing.assert_array_equal(nb.edge_index, expected.edge_index)
    np.testing.assert_array_equal(nb.shifts, expected.shifts)
    np.testing.assert_array_equal(nb.row_ptr, expected.row_ptr)
    assert (nb.edge_index.dtype, nb.shifts.dtype, nb.row_ptr.dtype) == (np.int64, np.int32, np.int64)
    vectors = sk.edge_vectors(torch.from_numpy(positions), expected, tensors.get("cell"))
    np.testing.assert_allclose(nb.vectors, vectors, atol=1e-13)
    np.testing.assert_allclose(nb.distances, np.linalg.norm(vectors, axis=1), atol=1e-13)


@pytest.mark.parametrize(
    "atoms",
    [
        molecule("C6H6"),
        bulk("Cu", cubic=True) * (2, 2, 2),
        graphene(vacuum=5.0),
        Atoms(),
        Atoms("H", pbc=True, cell=[2] * 3),
    ],
    ids=["molecule", "crystal", "sheet", "nothing", "one atom"],
)
def test_atoms_objects(atoms: Atoms) -> None:
    nb = host.neighbor_list(atoms, 3.9)
    np.testing.assert_array_equal(peers.ours(nb), peers.by_ase(atoms.positions, 3.9, atoms.cell, atoms.pbc))
    if len(atoms):
        i, j, shifts, vectors, d = ase_list("ijSDd", atoms, 3.9)
        order = np.lexsort((*shifts.T[::-1], j, i))
        np.testing.assert_allclose(nb.vectors, vectors[order], atol=1e-12)
        np.testing.assert_allclose(nb.distances, d[order], atol=1e-12)


def test_array_likes() -> None:
    """Lists, fp32, arrays that are not contiguous, Fortran order, int32 indices."""
    positions, cells = system()
    positions = positions.astype(np.float32).astype(np.float64)
    expected = peers.ours(host.neighbor_list(positions, 3.1, ptr=PTR, cell=cells))
    wide = np.zeros((12, 6))
    wide[:, ::2] = positions
    for r in (positions.tolist(), positions.astype(np.float32), wide[:, ::2], np.asfortranarray(positions)):
        got = host.neighbor_list(r, 3.1, ptr=PTR.astype(np.int32), cell=np.asfortranarray(cells))
        np.testing.assert_array_equal(peers.ours(got), expected)


def test_threads_do_not_matter() -> None:
    random = np.random.default_rng(4)
    sizes = [300, 0, 5000, 1600, 1] + [20] * 200
    ptr = np.concatenate([[0], np.cumsum(sizes)])
    positions = np.concatenate([random.uniform(0, (n / 0.1) ** (1 / 3), (n, 3)) for n in sizes])
    for options in ({"ptr": ptr}, {"cell": 48 * np.eye(3)}):
        expected = host.neighbor_list(positions, 3.0, **options)
        for threads in (2, 3, 8):
            got = host.neighbor_list(positions, 3.0, threads=threads, **options)
            for name in ("edge_index", "shifts", "row_ptr"):
                np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))


def test_errors_do_not_depend_on_threads() -> None:
    positions = np.random.default_rng(5).uniform(0, 30, (6000, 3))
    positions[[1234, 5000]] = np.nan
    for threads in (1, 4):
        for options in ({}, {"ptr": np.arange(0, 6001, 20)}, {"cell": 30 * np.eye(3)}):
            with pytest.raises(ValueError, match="positions must be finite, but atom 1234"):
                host.neighbor_list(positions, 3.0, threads=threads, **options)


def test_import_leaves_torch_alone() -> None:
    code = (
        "import sys; from symkern import host; host.neighbor_list([[0.0, 0, 0], [1.0, 0, 0]], 2.0); host.build_info();"
        "assert 'torch' not in sys.modules, 'torch was imported'; assert 'ase' not in sys.modules, 'ase was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_build_info() -> None:
    info = host.build_info()
    assert info["version"] == info["package_version"] == sk.__version__
    assert info["isa"] in ("baseline", "avx2", "avx512")


R = np.zeros((4, 3))
CELL = np.eye(3)


@pytest.mark.parametrize(
    ("positions", "options", "match"),
    [
        (R[:, :2], {}, r"positions must have shape \(N, 3\), got \(4, 2\)"),
        (R.ravel(), {}, r"positions must have shape \(N, 3\), got \(12,\)"),
        (R.astype(int), {}, "positions must be floating point, got int64"),
        (R + np.nan, {}, "positions must be finite, but atom 0"),
        (R + np.inf, {"cell": CELL}, "positions must be finite, but atom 0"),
        (R, {"cutoff": 0.0}, "cutoff must be positive and finite, got 0"),
        (R, {"cutoff": float("nan")}, "cutoff must be positive and finite, got nan"),
        (R, {"cutoff": float("inf")}, "cutoff must be positive and finite, got inf"),
        (R, {"threads": 0}, r"threads must be 1 \.\. 1024, got 0"),
        (R, {"cell": CELL.astype(int)}, "cell must be floating point"),
        (R, {"cell": CELL[:2]}, r"cell must have shape \(3, 3\) or \(B, 3, 3\), got \(2, 3\)"),
        (R, {"cell": np.stack([CELL, CELL])}, r"cell must have shape .* B = 1, got \(2, 3, 3\)"),
        (R, {"cell": np.ones((3, 3))}, "cell of structure 0 is singular"),
        (R, {"cell": CELL * np.nan}, "cell of structure 0 is singular"),
        (R, {"cell": CELL, "pbc": [1, 2, 1]}, "pbc must be bool, got int64"),
        (R, {"cell": CELL, "pbc": [True, False]}, r"pbc must be one bool, \(3,\) or \(B, 3\) with B = 1, got \(2,\)"),
        (R, {"pbc": True}, "pbc needs a cell"),
        (R, {"ptr": [0, 4], "batch": [0] * 4}, "give one of them"),
        (R, {"ptr": [0, 3]}, "ptr must rise from 0 to N = 4"),
        (R, {"ptr": [0, 5, 4]}, "ptr must rise from 0 to N = 4"),
        (R, {"ptr": [1, 4]}, "ptr must rise from 0 to N = 4"),
        (R, {"ptr": [0.0, 4.0]}, "ptr must be integers"),
        (R, {"batch": [0, 0, 0]}, r"batch must be integers of shape \(4,\)"),
        (R, {"batch": [0.0] * 4}, r"batch must be integers of shape \(4,\)"),
        (R, {"batch": [-1, 0, 0, 0]}, r"batch must not be negative, but batch\[0\] = -1"),
        (R, {"batch": [0, 1, 0, 1]}, "batch must be sorted; numpy.argsort"),
        (Atoms("H4", positions=R), {"cell": CELL}, "brings its own cell and pbc"),
    ],
)
def test_bad_input(positions: Any, options: dict[str, Any], match: str) -> None:
    options = {"cutoff": 1.0, **options}
    with pytest.raises(ValueError, match=match):
        host.neighbor_list(positions, options.pop("cutoff"), **options)


def test_batch_numbers_that_are_ids() -> None:
    """A ptr for labels in the billions would only fill memory."""
    with pytest.raises(ValueError, match="batch names structure 1000000000000 of 4 atoms"):
        host.neighbor_list(R, 1.0, batch=[0, 0, 10**12, 10**12])


@pytest.mark.parametrize(
    "given",
    [
        {"ptr": np.array([0, 2**62, -(2**62) - 10, 20])},
        {"ptr": np.array([0, 100, -100, 20], "i1")},
        {"batch": np.array([100] * 10 + [-100] * 10, "i1")},
        {"batch": np.array([2**62] * 10 + [-(2**62) - 5] * 10)},
    ],
)
def test_extreme_labels_do_not_pass_by_overflow(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"ptr must rise|batch must be sorted"):
        host.neighbor_list(np.zeros((20, 3)), 1.5, **given)


def test_results_keep_their_own_positions() -> None:
    r = np.random.default_rng(0).random((20, 3))
    nb = host.neighbor_list(r, 0.5)
    before = nb.distances
    r += 7.0
    assert np.array_equal(nb.distances, before)
