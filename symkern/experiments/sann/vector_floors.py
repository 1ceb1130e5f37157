"""The least error that outputs of a given symmetry can have: no training comes below it.

An equivariant model's vectors are mapped to themselves by every operation of the molecule: they lie in a linear space.
The least Chamfer distance to the labels over that space is found exactly, by least squares for each way to assign rows
to each other: fit for molecules of few atoms.
"""

from __future__ import annotations

from itertools import pairwise, product

import torch
from torch import Tensor

from symkern.experiments.sann.vector_metrics import measure
from symkern.experiments.sann.vector_task import VectorTask
from symkern.stabilizer import Stabilizers

LARGEST = 6  # atoms: 6^6 assignments


def invariant_vectors(sym: Stabilizers) -> Tensor:
    """Orthonormal basis (3N, k) of the vectors at the N atoms of one molecule that all its operations leave alone.

    Args:
        sym: ``stabilizers(...)[b]``, of a finite group.
    """
    atoms = len(sym.numbers)
    mean = torch.zeros(atoms, 3, atoms, 3, dtype=torch.float64)
    for matrix, image in zip(sym.operations.double(), sym.permutations.reshape(-1, atoms), strict=True):
        mean[image, :, torch.arange(atoms), :] += matrix
    values, vectors = torch.linalg.eigh(mean.reshape(3 * atoms, 3 * atoms) / len(sym.operations))
    basis: Tensor = vectors[:, values > 0.5]
    return basis


def balanced(vectors: Tensor) -> Tensor:
    """Orthonormal basis of those in the space of `vectors` (3N, k) that add up to zero over atoms.

    Gradients of a number that no translation changes do: -ds/dx of an invariant model can be nothing else.
    """
    total = vectors.reshape(-1, 3, vectors.shape[1]).sum(0)
    _, values, turn = torch.linalg.svd(total)
    rank = int((values > 1e-9).sum())
    basis: Tensor = vectors @ turn[rank:].T
    return basis


def equivariant_floor(task: VectorTask, metric: str, *, gradient: bool = False) -> float:
    """The mean over molecules of the least "sbcd", "sbcd-reverse" or "matched" of any O(3)-equivariant output.

    An invariant output is as far from every image of the labels, so the minimum over operations changes nothing.

    Args:
        gradient: of outputs that are gradients of an invariant, see `balanced`.

    Raises:
        ValueError: another metric; molecules of more than `LARGEST` atoms.
    """
    floors = []
    for b, (begin, end) in enumerate(pairwise(task.ptr.tolist())):
        rows, atoms = slice(begin, end), end - begin
        if atoms > LARGEST:
            raise ValueError(f"task must have at most {LARGEST} atoms in each molecule, got {atoms}")
        vectors = invariant_vectors(task.sym[b])
        basis = (balanced(vectors) if gradient else vectors).reshape(atoms, 3, -1)
        label = task.target[rows].double()
        start = task.output(torch.zeros_like(task.pos))[rows].double()
        others = torch.tensor(list(product(range(atoms), repeat=atoms)))
        own = torch.arange(atoms).expand_as(others)
        pairs = {"sbcd": (own, others), "sbcd-reverse": (others, own), "matched": (own[:1], own[:1])}
        if metric not in pairs:
            raise ValueError(f"metric must be one of {', '.join(pairs)}, got {metric!r}")
        predicted, wanted = pairs[metric]
        space = basis[predicted].flatten(1, 2)  # (assignments, 3N, k)
        miss = (label[wanted] - start[predicted]).flatten(1)
        left = miss - (space @ (torch.linalg.pinv(space) @ miss.unsqueeze(-1))).squeeze(-1)
        floors.append(float(left.square().sum(1).min()))
    return sum(floors) / len(floors)


def single_output_floor(task: VectorTask) -> float:
    """The least "cd" of any model for molecules that are all alike, whose labels are not: it answers the same to each.

    Raises:
        ValueError: the molecules differ.
    """
    molecules = len(task.ptr) - 1
    if len(task.z) % molecules or not (
        (task.z.reshape(molecules, -1) == task.z.reshape(molecules, -1)[:1]).all()
        and (task.pos.reshape(molecules, -1) == task.pos.reshape(molecules, -1)[:1]).all()
    ):
        raise ValueError("task must have molecules that are all alike")
    labels = task.target.double().reshape(molecules, -1, 3)
    atoms = labels.shape[1]
    # each predicted point serves one label of every molecule, best from their middle
    each = torch.arange(molecules)
    chosen = torch.stack([labels[each, list(j)] for j in product(range(atoms), repeat=molecules)])
    spread = (chosen - chosen.mean(1, keepdim=True)).square().sum((1, 2)) / molecules
    return atoms * float(spread.min())


def descend(task: VectorTask, metric: str, *, scale: float, seed: int = 0, steps: int = 60) -> Tensor:
    """The vectors (N, 3) that gradient descent on a metric ends at where there is no network: the vectors themselves.

    Args:
        scale: standard deviation of the vectors at the start; outputs of untrained networks are small.
    """
    random = torch.Generator().manual_seed(seed)
    vectors = scale * torch.randn(task.pos.shape, generator=random, dtype=torch.float64)
    for _ in range(steps):
        vectors.requires_grad_()
        error = measure(metric, task.output(vectors), task.target, task.sym, task.kind).sum()
        (gradient,) = torch.autograd.grad(error, vectors)
        vectors = (vectors - 0.25 * gradient).detach()
    return vectors
