"""The squared error to the best image of the target under the symmetry of each molecule."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from symkern._autograd import differentiable, fake
from symkern._reference import by_reference
from symkern.ops.symmetric_action import Kind, act, by_definition, first_of_equals, images, matched_backward
from symkern.stabilizer import Stabilizers


def symmetric_mse(pred: Tensor, target: Tensor, sym: Stabilizers, kind: Kind = "vector") -> tuple[Tensor, Tensor]:
    """min over the operations g of each molecule of sum_i |pred_p_g(i) - g target_i|^2.

    An output that breaks the symmetry of its input can do so in several equivalent ways, of which the label is one. The
    loss accepts all of them. g acts on a vector as R y, on a pseudovector as det(R) R y, on a point as R (y - c) + c
    with c = ``sym.centroid``; atom i becomes atom p_g(i).

    Ties: operations whose losses have the same root to within 2^-20 (float32) or 2^-40 (float64) of
    sqrt(sum |pred|^2 + |target|^2) of the molecule count as equal, since equal they are in exact arithmetic; the lowest
    index wins. The choice does not depend on threads, instruction sets or device.

    Continuous groups. Linear molecules: for each of their operations (E, and i where there is one) atoms are compared
    by (component along ``sym.axis``, distance from the axis), so that each atom may turn about the axis by itself: the
    relaxed metric of the paper's App. B. A mirror plane through the axis changes the sign of a pseudovector's component
    along it, so both signs, one for all atoms of a molecule, are allowed; `which` does not tell them apart. Atoms (Kh):
    norms are compared. A linear molecule with more operations than E and i, made with `samples`, is compared under
    these as any finite group.

    The gradient is that of the chosen operation: deterministic, of any order, zero where a norm is zero.

    Args:
        pred: (N, 3) float32 or float64; float16 and bfloat16 are computed in float32. In any unit, points in Å.
        target: (N, 3), dtype and device of `pred`. If one of the two is float16 or bfloat16, as under autocast, it is
            converted to the dtype of the other.
        sym: stabilizers of the N atoms of the inputs; converted to the dtype of `pred`.
        kind: what rows are: "vector", "pseudovector" or "point".

    Returns:
        (loss, which): (B,) in the wider dtype, sums over atoms in squared units, 0 for molecules without atoms, NaN
        where something is not finite; (B,) int64 index of the chosen operation in its molecule, 0 = identity.

    Raises:
        TypeError: an argument is not a tensor, or `sym` not Stabilizers.
        RuntimeError: forward-mode differentiation.
        ValueError: shapes, dtypes or devices that do not fit; stabilizers of another batch; an unknown `kind`.

    Source: Learning Molecular Symmetry Breaking via Symmetry-Adapted Neural Networks, eq. (3) with the squared error.
    """
    if by_reference():
        return by_definition("symmetric_mse", reference, pred, target, sym, kind, kind)
    action = act("symmetric_mse", pred, target, sym, kind)
    loss, choice, _ = torch.ops.symkern.symmetric_mse.default(
        action.pred,
        action.target,
        action.matrices,
        sym.op_ptr,
        sym.permutations,
        sym.perm_ptr,
        sym.ptr,
        action.copies,
    )
    return loss.to(action.dtype), action.which(choice)


def reference(pred: Tensor, target: Tensor, sym: Stabilizers, kind: Kind = "vector") -> tuple[Tensor, Tensor]:
    """The same for one molecule and operation after the other, in torch operations."""
    bounds, losses, chosen = sym.ptr.tolist(), [pred.new_zeros(0)], []
    for b, (begin, end) in enumerate(pairwise(bounds)):
        x, _, _ = images(pred[begin:end], sym, b, kind)
        y, moved, which = images(target[begin:end], sym, b, kind)
        first = int(sym.op_ptr[b])
        found = []
        for g, image in zip(which, moved, strict=True):
            start = int(sym.perm_ptr[first + g])
            partners = sym.permutations[start : start + end - begin] - begin
            found.append((x[partners] - image).square().sum())
        best = first_of_equals(torch.stack(found), x.square().sum() + y.square().sum())
        losses.append(found[best].reshape(1))
        chosen.append(which[best])
    return torch.cat(losses) + 0 * (pred.sum() + target.sum()), sym.ptr.new_tensor(chosen)


@fake("symmetric_mse")
def _(
    pred: Tensor,
    target: Tensor,
    matrices: Tensor,
    op_ptr: Tensor,
    permutations: Tensor,
    perm_ptr: Tensor,
    ptr: Tensor,
    copies: int,
) -> tuple[Tensor, Tensor, Tensor]:
    molecules = ptr.shape[0] - 1
    return pred.new_empty(molecules), ptr.new_empty(molecules), ptr.new_empty(pred.shape[0])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pred, target, matrices, _, _, _, ptr, _ = inputs
    _, choice, partners = output
    ctx.save_for_backward(pred, target, matrices, choice, ptr, partners)


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    pred, target, matrices, choice, ptr, partners = ctx.saved_tensors
    need_target = ctx.needs_input_grad[1]
    grads = matched_backward(grad, pred, target, matrices, choice, ptr, (None, partners), need_target)
    return (*grads, *[None] * 6)


differentiable("symmetric_mse", _backward, _save)
