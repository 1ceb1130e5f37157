"""Positions that have their symmetry exactly."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from symkern import _library as _library
from symkern._autograd import fake
from symkern._check import check_instance
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
    y, operations, residuals = torch.ops.symkern.symmetrize.default(
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
