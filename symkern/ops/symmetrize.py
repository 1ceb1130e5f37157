"""Positions that have their symmetry exactly."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from symkern import _library as _library
from symkern._autograd import fake
from symkern._check import check_instance
from symkern._reference import by_reference
from symkern.stabilizer import Stabilizers

# Averaging and fitting in turns; what is left after a round is second order in what was left before.
_ROUNDS = 4


def symmetrize(sym: Stabilizers) -> tuple[Tensor, Stabilizers]:
    """The nearest positions for which the operations are exact, and the exact operations.

    Each position becomes the mean over the group of what the operations make of it, x_i <- mean_g R_g^T x_p_g(i) about
    the centroid; each matrix the best one for these positions; in turns, in fp64. Atoms of linear molecules go onto the
    axis, those of rank 0 to the centroid. Matrices of fp64 molecules multiply as the group does to 2e-14.

    Args:
        sym: of `stabilizers`.

    Returns:
        positions: (N, 3), in the dtype of `sym.positions`; no atom moves farther than the largest residual of its
            molecule (for linear molecules, than the tolerance).
        Stabilizers with these positions and their operations and residuals. The other fields are still those of the
        positions that were given: `tolerance` and `margin` say how sure the symmetry was before, not that of the
        result, whose residuals are rounding errors; for that call `stabilizers` again, with a small tolerance.

    Raises:
        TypeError: `sym` is not Stabilizers.
        ValueError: the operations of a molecule are no group (policy "raw").
    """
    check_instance("sym", sym, Stabilizers, "symkern.stabilizers")
    if sym.policy == "raw" and not bool(sym.closed.all()):
        at = int((~sym.closed).nonzero()[0])
        raise ValueError(f"sym must hold groups, but the operations of molecule {at} (policy 'raw') form none")
    # from the positions, as the centroid is rounded to their dtype
    x = sym.positions.double()
    batch = sym.batch
    counts = sym.ptr.diff().clamp(min=1).unsqueeze(1)
    first = x[sym.ptr[:-1].clamp(max=max(len(x) - 1, 0))] if len(x) else x.new_zeros((sym.num_structures, 3))
    x = x - first[batch]
    center = x.new_zeros((sym.num_structures, 3)).index_add(0, batch, x) / counts
    solve = reference if by_reference() else torch.ops.symkern.symmetrize.default
    y, operations, residuals = solve(
        x - center[batch],
        sym.operations.double(),
        sym.axis.double(),
        sym.ptr,
        sym.op_ptr,
        sym.permutations,
        sym.perm_ptr,
        sym.rank,
        _ROUNDS,
    )
    dtype = sym.positions.dtype
    positions = (y + (center + first)[batch]).to(dtype)
    return positions, replace(sym, positions=positions, operations=operations.to(dtype), residuals=residuals.to(dtype))


def reference(
    positions: Tensor,
    operations: Tensor,
    axis: Tensor,
    ptr: Tensor,
    op_ptr: Tensor,
    permutations: Tensor,
    perm_ptr: Tensor,
    rank: Tensor,
    rounds: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Averages, fits and residuals of centred positions, molecule by molecule."""
    x, matrices, residuals = positions.clone(), operations.clone(), positions.new_zeros(len(operations))
    for b, (begin, end) in enumerate(pairwise(ptr.tolist())):
        first, last = op_ptr[b : b + 2].tolist()
        partners = permutations[int(perm_ptr[first]) : int(perm_ptr[last])].reshape(last - first, end - begin)
        y, r, u = x[begin:end], matrices[first:last], axis[b]
        for _ in range(rounds):
            images = y[partners - begin]  # (G, n, 3)
            if rank[b] == 0:
                y = torch.zeros_like(y)
            elif rank[b] == 1:
                along = torch.where(((r @ u) @ u) < 0, -1, 1)[:, None] * (images @ u)
                y = along.mean(0)[:, None] * u
            else:
                y = (images @ r).mean(0)
                left, _, right = torch.linalg.svd(y[partners - begin].mT @ y)
                hand = (torch.linalg.det(r) * torch.linalg.det(left) * torch.linalg.det(right)).sign()
                r = left @ torch.diag_embed(torch.nn.functional.pad(hand[:, None], (2, 0), value=1.0)) @ right
            misses = (y @ r.mT - y[partners - begin]).norm(dim=-1)
            residuals[first:last] = misses.amax(1) if end > begin else 0
        x[begin:end], matrices[first:last] = y, r
    return x, matrices, residuals


@fake("symmetrize")
def _(
    positions: Tensor,
    operations: Tensor,
    axis: Tensor,
    ptr: Tensor,
    op_ptr: Tensor,
    permutations: Tensor,
    perm_ptr: Tensor,
    rank: Tensor,
    rounds: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(positions), torch.empty_like(operations), positions.new_empty(operations.shape[0])
