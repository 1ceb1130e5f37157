"""Rotations, reflections and noise of batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ase.build import bulk
from example_data import (
    assert_same_graph,
    crystals,
    labelled,
    molecules,
    searched,
)
from torch import Tensor

import symkern as sk
from symkern.data import Dataset
from symkern.data.augment import random_rotations, turn

# augmentation


def test_random_rotations_are_uniform():
    count = 20000
    for reflect in (False, True):
        R = random_rotations(count, np.random.default_rng(0), reflect=reflect)
        np.testing.assert_allclose(R @ R.transpose(0, 2, 1), np.broadcast_to(np.eye(3), R.shape), atol=1e-12)
        signs = np.linalg.det(R)
        np.testing.assert_allclose(np.abs(signs), 1, atol=1e-12)
        assert (signs > 0).all() == (not reflect)
        assert abs(signs.mean() - (not reflect)) < 5 / math.sqrt(count)
        # over the group <R_ij> = 0 and <R_ij R_kl> = d_ik d_jl / 3
        assert np.abs(R.mean(0)).max() < 5 / math.sqrt(3 * count)
        second = np.einsum("nij,nkl->ijkl", R, R) / count
        expected = np.einsum("ik,jl->ijkl", np.eye(3), np.eye(3)) / 3
        assert np.abs(second - expected).max() < 0.02
        # angles of SO(3) have density (1 - cos a) / pi, so <cos a> = -1/2
        proper = R * signs[:, None, None]
        assert abs(((np.trace(proper, axis1=1, axis2=2) - 1) / 2).mean() + 0.5) < 0.02


def rotation_of(plain: Tensor, turned: Tensor) -> Tensor:
    return torch.linalg.lstsq(plain, turned).solution.mT


@pytest.mark.parametrize("rotation", ["so3", "o3"])
def test_everything_turns_together(rotation):
    data = labelled(crystals())
    plain = data.loader(3.0, dtype=torch.float64)
    augmented = plain.augmented(rotation=rotation, seed=1)
    a, b = plain.collate(range(len(data))), augmented.collate(range(len(data)))
    kinds = set()
    for k in range(len(data)):
        atoms = slice(int(a.ptr[k]), int(a.ptr[k + 1]))
        if not bool(a.pbc[k].all()):
            continue
        R = rotation_of(a.cell[k], b.cell[k])
        kinds.add(round(float(torch.linalg.det(R))))
        close = {"rtol": 0, "atol": 1e-6}
        torch.testing.assert_close(R @ R.mT, torch.eye(3, dtype=torch.float64), **close)
        torch.testing.assert_close(b.pos[atoms], a.pos[atoms] @ R.mT, **close)
        torch.testing.assert_close(b.targets["forces"][atoms], a.targets["forces"][atoms] @ R.mT, **close)
        torch.testing.assert_close(b.targets["dipole"][k], (R @ a.targets["dipole"][k].double()).float(), **close)
        torch.testing.assert_close(
            b.targets["stress"][k], (R @ a.targets["stress"][k].double() @ R.mT).float(), **close
        )
    assert kinds == ({1} if rotation == "so3" else {1, -1})
    assert torch.equal(a.targets["energy"], b.targets["energy"])
    assert_same_graph(b.nb, a.nb)
    before = sk.safe_norm(sk.edge_vectors(a.pos, a.nb, a.cell))
    after = sk.safe_norm(sk.edge_vectors(b.pos, b.nb, b.cell))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-12)


def test_augmentation_depends_on_seed_epoch_and_structure_only():
    data = labelled(molecules())
    plain = data.loader(3.0)
    source = plain.augmented(rotation="o3", noise=0.05, seed=7)
    whole = source.collate(range(len(data)))
    part = source.collate([5, 2])  # another batch
    other = data.loader(3.0).augmented(rotation="o3", noise=0.05, seed=7)  # another process
    other.set_epoch(3)
    other.set_epoch(0)
    assert torch.equal(other.collate(range(len(data))).pos, whole.pos)
    at = [slice(int(data.ptr[k]), int(data.ptr[k + 1])) for k in (5, 2)]
    assert torch.equal(part.pos, torch.cat([whole.pos[rows] for rows in at]))
    other.set_epoch(1)
    assert not torch.allclose(other.collate([2]).pos, whole.pos[at[1]], atol=0.01)
    assert not torch.allclose(plain.augmented(seed=8).collate([2]).pos, plain.augmented(seed=7).collate([2]).pos)
    assert len(source) == len(data)


def test_noise_moves_atoms_and_gets_its_own_graph():
    frames = [bulk("Cu", cubic=True) * (3, 3, 3) for _ in range(20)]
    data = Dataset.from_atoms(frames)
    cutoff = 3.61  # just beyond the second shell: noise moves pairs across
    plain = data.loader(cutoff, dtype=torch.float64)
    a, b = plain.collate(range(20)), plain.augmented(rotation=None, noise=0.02).collate(range(20))
    moved = b.pos - a.pos
    assert float(moved.mean().abs()) < 5 * 0.02 / math.sqrt(moved.numel())
    assert float(moved.std()) == pytest.approx(0.02, rel=0.03)
    assert not torch.equal(moved[:108], moved[108:216])
    assert_same_graph(b.nb, searched(b, cutoff))
    assert b.nb.num_edges != a.nb.num_edges
    turned = plain.augmented(rotation="o3", noise=0.02).collate([3, 1])
    assert_same_graph(turned.nb, searched(turned, cutoff))
    assert data.loader(None).augmented(noise=0.1).collate([0]).nb is None
    assert plain.augmented(noise=0.1).collate([]).num_structures == 0


def test_targets_must_say_how_they_turn():
    data = labelled(molecules())
    modes = {"modes": torch.randn(data.num_atoms, 4, 3), "counts": torch.randn(data.num_atoms, 3)}
    data = Dataset(data.z, data.pos, data.ptr, per_atom=modes)
    loader = data.loader(3.0, dtype=torch.float64)
    with pytest.raises(
        ValueError, match="say how these targets turn, in vectors, matrices or invariant: counts, modes"
    ):
        loader.augmented()
    loader.augmented(rotation=None, noise=0.1)
    source = loader.augmented(vectors=["modes"], invariant=["counts"])
    a, b = loader.collate([5]), source.collate([5])
    assert torch.equal(a.targets["counts"], b.targets["counts"])
    expected = torch.einsum("ij,nkj->nki", rotation_of(a.pos, b.pos), a.targets["modes"])
    torch.testing.assert_close(b.targets["modes"], expected)
    for arguments, reason in (
        ({"rotation": "su2"}, 'rotation must be "so3", "o3" or None'),
        ({"noise": -1.0}, "noise must be finite and not negative"),
        ({"vectors": ["nothing"]}, "vectors names 'nothing'; the loader's targets: modes, counts"),
        ({"matrices": ["counts"]}, r"matrices names 'counts', but each value of it has shape \(3,\)"),
    ):
        with pytest.raises(ValueError, match=reason):
            loader.augmented(**arguments)
    with pytest.raises(TypeError, match="vectors must be a sequence of names"):
        loader.augmented(vectors="modes")


def test_turn_of_matrices_and_many_vectors():
    R = torch.from_numpy(random_rotations(4, np.random.default_rng(2), reflect=True))
    m, v = torch.randn(4, 2, 3, 3).double(), torch.randn(4, 5, 2, 3).double()
    torch.testing.assert_close(turn(m, R, rank=2), torch.einsum("nab,nkbc,ndc->nkad", R, m, R))
    torch.testing.assert_close(turn(v, R, rank=1), torch.einsum("nab,nklb->nkla", R, v))
    assert turn(torch.ones(4, 3, dtype=torch.int64), R, rank=1).dtype == torch.float64
