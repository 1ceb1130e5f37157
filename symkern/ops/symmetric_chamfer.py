"""The Chamfer distance to the best image of the target under the symmetry of each molecule."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from symkern._autograd import differentiable, fake
from symkern._reference import by_reference
from symkern.ops.symmetric_action import Kind, act, by_definition, first_of_equals, images, matched_backward
from symkern.stabilizer import Stabilizers

_DIRECTIONS = ("x_to_y", "y_to_x", "both")


def symmetric_chamfer(
    pred: Tensor,
    target: Tensor,
    sym: Stabilizers,
    direction: Literal["x_to_y", "y_to_x", "both"] = "x_to_y",
    kind: Kind = "vector",
    typed: bool = False,
) -> tuple[Tensor, Tensor]:
    """min over the operations g of each molecule of the Chamfer distance of pred (x) and g target (y).

    The Chamfer distance is the sum over one set of rows of the squared distance to the nearest of the other set, see
    `symkern.chamfer`. Atoms are compared by their values alone, whatever their places in the molecule, so one direction
    has trivial minima: "x_to_y" is zero for a prediction that repeats any one target.

    Operations, kinds, ties, continuous groups (where rows are compared by the coordinates named there) and gradients
    are as in `symmetric_mse`. Nearest rows are those of `symkern.chamfer`: the smallest direct difference in fp64, ties
    to the lowest index.

    Args:
        pred: (N, 3) float32 or float64; float16 and bfloat16 are computed in float32. In any unit, points in Å.
        target: (N, 3), dtype and device of `pred`. If one of the two is float16 or bfloat16, as under autocast, it is
            converted to the dtype of the other.
        sym: stabilizers of the N atoms of the inputs; converted to the dtype of `pred`.
        direction: "x_to_y" sums over the rows of `pred`, "y_to_x" over those of `target`, "both" is the sum of the two
            (under one operation).
        kind: what rows are: "vector", "pseudovector" or "point".
        typed: compare only rows of atoms of one element, by ``sym.numbers``.

    Returns:
        (loss, which): (B,) in the wider dtype, in squared units, 0 for molecules without atoms, NaN where something
        is not finite; (B,) int64 index of the chosen operation in its molecule, 0 = identity.

    Raises:
        TypeError: an argument is not a tensor, or `sym` not Stabilizers.
        RuntimeError: forward-mode differentiation.
        ValueError: shapes, dtypes or devices that do not fit; stabilizers of another batch; an unknown `kind` or
            `direction`.

    Source: Learning Molecular Symmetry Breaking via Symmetry-Adapted Neural Networks, eq. (3) with the Chamfer distance
    of section 5 (there called SBCD, with "x_to_y").
    """
    if direction not in _DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(map(repr, _DIRECTIONS))}, got {direction!r}")
    if by_reference():
        return by_definition("symmetric_chamfer", reference, pred, target, sym, kind, direction, kind, typed)
    action = act("symmetric_chamfer", pred, target, sym, kind)
    loss, choice, _, _ = torch.ops.symkern.symmetric_chamfer.default(
        action.pred,
        action.target,
        action.matrices,
        sym.op_ptr,
        sym.permutations,
        sym.perm_ptr,
        sym.ptr,
        sym.numbers if typed else None,
        action.copies,
        _DIRECTIONS.index(direction),
    )
    return loss.to(action.dtype), action.which(choice)


def reference(
    pred: Tensor,
    target: Tensor,
    sym: Stabilizers,
    direction: str = "x_to_y",
    kind: Kind = "vector",
    typed: bool = False,
) -> tuple[Tensor, Tensor]:
    """The same for one molecule and operation after the other, from all pairs of rows, in torch operations."""
    bounds, losses, chosen = sym.ptr.tolist(), [pred.new_zeros(0)], []
    for b, (begin, end) in enumerate(pairwise(bounds)):
        x, _, _ = images(pred[begin:end], sym, b, kind)
        y, moved, which = images(target[begin:end], sym, b, kind)
        numbers = sym.numbers[begin:end]
        other = (numbers[:, None] != numbers) & typed
        found = [_distance(x, image, other, direction) for image in moved]
        best = first_of_equals(torch.stack(found), x.square().sum() + y.square().sum())
        losses.append(found[best].reshape(1))
        chosen.append(which[best])
    return torch.cat(losses) + 0 * (pred.sum() + target.sum()), sym.ptr.new_tensor(chosen)


def _distance(x: Tensor, y: Tensor, other: Tensor, direction: str) -> Tensor:
    if len(x) == 0:
        return x.sum()
    with torch.no_grad():
        squares = (x[:, None].double() - y.double()).square().sum(-1).masked_fill(other, torch.inf)
    there = (x - y[squares.argmin(1)]).square().sum()
    back = (y - x[squares.argmin(0)]).square().sum()
    return {"x_to_y": there, "y_to_x": back, "both": there + back}[direction]


@fake("symmetric_chamfer")
def _(
    pred: Tensor,
    target: Tensor,
    matrices: Tensor,
    op_ptr: Tensor,
    permutations: Tensor,
    perm_ptr: Tensor,
    ptr: Tensor,
    types: Tensor | None,
    copies: int,
    direction: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    atoms, molecules = pred.shape[0], ptr.shape[0] - 1
    there, back = ptr.new_empty(0 if direction == 1 else atoms), ptr.new_empty(0 if direction == 0 else atoms)
    return pred.new_empty(molecules), ptr.new_empty(molecules), there, back


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pred, target, matrices, _, _, _, ptr, _, _, ctx.direction = inputs
    _, choice, there, back = output
    ctx.save_for_backward(pred, target, matrices, choice, ptr, there, back)


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    pred, target, matrices, choice, ptr, there, back = ctx.saved_tensors
    pairs = (None if ctx.direction == 1 else there, None if ctx.direction == 0 else back)
    grads = matched_backward(grad, pred, target, matrices, choice, ptr, pairs, ctx.needs_input_grad[1])
    return (*grads, *[None] * 8)


differentiable("symmetric_chamfer", _backward, _save)
