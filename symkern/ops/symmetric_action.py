"""How the operations of molecules act on rows of vectors, for the losses that take the minimum over operations.

Finite groups act by their matrices. Continuous ones are dealt with by coordinates that they do not change: a vector of
a linear molecule becomes (component along the axis, distance from the axis, 0), one of an atom (norm, 0, 0). What is
left of the group then acts by matrices too: the component along the axis changes its sign, or does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from symkern import _library as _library
from symkern._autograd import differentiable, fake
from symkern._check import HALF, check_instance, check_reverse_mode, check_tensor, same_precision
from symkern._reference import by_reference, compute
from symkern.ops.chamfer import _adjoint, _by_target
from symkern.ops.safe_norm import safe_norm
from symkern.stabilizer import Stabilizers, group_code

Kind = Literal["vector", "pseudovector", "point"]
KINDS = ("vector", "pseudovector", "point")


@dataclass(frozen=True, eq=False)
class Action:
    """The prediction and the target of a loss in the coordinates of the module, and the matrices that act on them.

    Attributes:
        dtype: of the loss.
        pred, target: (N, 3), differentiable; float32 or float64.
        matrices: (G * copies, 3, 3); those of operation g are g * copies .. (g + 1) * copies.
        copies: 2 where operations that act alike on the shape act with both signs on pseudovectors, else 1.
        finite: (B,) bool, molecules whose coordinates are the Cartesian ones; None if all are.
    """

    sym: Stabilizers
    dtype: torch.dtype
    pred: Tensor
    target: Tensor
    matrices: Tensor
    copies: int
    finite: Tensor | None

    def which(self, choice: Tensor) -> Tensor:
        """Index of the chosen operation within its molecule, from that of its matrix."""
        return torch.div(choice, self.copies, rounding_mode="floor") - self.sym.op_ptr[:-1]


def act(op: str, pred: Tensor, target: Tensor, sym: Stabilizers, kind: str) -> Action:
    """Check the arguments that all losses have in common, and prepare them."""
    pred, target = _checked(op, pred, target, sym, kind)
    dtype = pred.dtype
    if dtype in HALF:
        pred, target = pred.float(), target.float()
    batch = None
    if kind == "point":
        batch = sym.batch
        centroid = sym.centroid.detach().to(pred.dtype).index_select(0, batch)
        pred, target = pred - centroid, target - centroid
    matrices = sym.operations.detach().to(pred.dtype)
    if kind == "pseudovector":
        matrices = matrices * _determinant_sign(matrices)
    if not _may_be_continuous(sym):
        return Action(sym, dtype, pred, target, matrices, 1, None)
    finite = is_finite(sym)
    batch = sym.batch if batch is None else batch
    pred, target = _coordinates(pred, sym, finite, batch), _coordinates(target, sym, finite, batch)
    matrices, copies = _matrices(matrices, sym, finite, kind)
    return Action(sym, dtype, pred, target, matrices, copies, finite)


def is_finite(sym: Stabilizers) -> Tensor:
    """(B,) bool: the operations of the molecule are taken as they are, be they a group or samples of a continuous one.

    A linear molecule has the coset representatives E, or E and i. If it has more operations, they are samples.
    """
    representatives = 1 + (sym.group == group_code("Dinfh")).long()
    return (sym.order > 0) | ((sym.rank == 1) & (sym.op_ptr.diff() > representatives))


def _may_be_continuous(sym: Stabilizers) -> bool:
    if torch.compiler.is_compiling():
        return True
    # waits for the device: once
    found: bool | None = sym.__dict__.get("_continuous")
    if found is None:
        found = sym.__dict__["_continuous"] = bool((sym.order == 0).any())
    return found


def _coordinates(x: Tensor, sym: Stabilizers, finite: Tensor, batch: Tensor) -> Tensor:
    axis = sym.axis.detach().to(x.dtype).index_select(0, batch)
    along = (x * axis).sum(-1, keepdim=True)
    zero = torch.zeros_like(along)
    linear = torch.cat([along, safe_norm(x - along * axis).unsqueeze(-1), zero], 1)
    round = torch.cat([safe_norm(x).unsqueeze(-1), zero, zero], 1)
    reduced = torch.where((sym.rank == 1)[batch].unsqueeze(-1), linear, round)
    return torch.where(finite[batch].unsqueeze(-1), x, reduced)


def _matrices(matrices: Tensor, sym: Stabilizers, finite: Tensor, kind: str) -> tuple[Tensor, int]:
    of = sym.op_batch
    linear = (~finite & (sym.rank == 1))[of]
    axis = sym.axis.detach().to(matrices.dtype).index_select(0, of)
    image = (matrices * axis.unsqueeze(1)).sum(-1)  # of the axis
    sign = torch.where(linear, torch.where((image * axis).sum(-1) < 0, -1, 1), 1).to(matrices.dtype)
    one = torch.ones_like(sign)
    reduced = torch.diag_embed(torch.stack([sign, one, one], -1))
    matrices = torch.where(finite[of].reshape(-1, 1, 1), matrices, reduced)
    if kind != "pseudovector":
        return matrices, 1
    # a mirror plane through the axis turns the component of a pseudovector along it around
    flip = torch.stack([torch.where(linear, -one, one), one, one], -1).unsqueeze(-1)
    return torch.stack([matrices, flip * matrices], 1).reshape(-1, 3, 3), 2


def _determinant_sign(matrices: Tensor) -> Tensor:
    rows = matrices.unbind(1)
    volume = (torch.linalg.cross(rows[0], rows[1]) * rows[2]).sum(-1)
    return torch.where(volume < 0, -1, 1).to(matrices.dtype).reshape(-1, 1, 1)


def _checked(op: str, pred: Tensor, target: Tensor, sym: Stabilizers, kind: str) -> tuple[Tensor, Tensor]:
    """Prediction and target in one dtype."""
    check_tensor("pred", pred)
    check_tensor("target", target)
    check_instance("sym", sym, Stabilizers, "symkern.stabilizers")
    check_reverse_mode(op, pred, target)
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, got {kind!r}")
    if pred.dim() != 2 or pred.shape[1] != 3:
        raise ValueError(f"pred must have shape (N, 3), got {tuple(pred.shape)}")
    if pred.dtype not in (torch.float32, torch.float64, *HALF):
        raise ValueError(f"pred must be float32, float64, float16 or bfloat16, got {str(pred.dtype)[6:]}")
    if target.shape != pred.shape:
        raise ValueError(f"target must have the shape of pred, {tuple(pred.shape)}, got {tuple(target.shape)}")
    for name, value in (("target", target), ("sym", sym.operations)):
        if value.device != pred.device:
            raise ValueError(f"{name} must be on the device of pred ({pred.device}), got {value.device}")
    if sym.positions.shape[0] != pred.shape[0]:
        raise ValueError(
            f"sym must be the stabilizers of the {pred.shape[0]} atoms of pred, got those of {sym.positions.shape[0]}"
        )
    wide = same_precision(pred, target)
    if wide[0].dtype != wide[1].dtype:
        raise ValueError(f"target must be {str(pred.dtype)[6:]}, as pred is, got {str(target.dtype)[6:]}")
    return wide


# ---- rows under the chosen matrices ----------------------------------------------------------------------------------


def rotate_rows(x: Tensor, matrices: Tensor, choice: Tensor, ptr: Tensor) -> Tensor:
    """M x_i for each row of a molecule, with M = matrices[choice[molecule]]; linear in x, matrices are constant."""
    if by_reference():
        rows = choice[torch.repeat_interleave(ptr.diff(), output_size=len(x))]
        moved: Tensor = compute(lambda a, b: (b[rows] @ a.unsqueeze(-1)).squeeze(-1), x, matrices)
        return moved
    out: Tensor = torch.ops.symkern.rotate_rows.default(x, matrices, choice, ptr, False)
    return out


@fake("rotate_rows")
def _(x: Tensor, matrices: Tensor, choice: Tensor, ptr: Tensor, transposed: bool) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save_rotation(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, *tensors, ctx.transposed = inputs
    ctx.save_for_backward(*tensors)


def _rotate_back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    back = torch.ops.symkern.rotate_rows.default(grad, *ctx.saved_tensors, not ctx.transposed)
    return back, None, None, None, None


differentiable("rotate_rows", _rotate_back, _save_rotation)


def matched_backward(
    grad: Tensor,
    pred: Tensor,
    target: Tensor,
    matrices: Tensor,
    choice: Tensor,
    ptr: Tensor,
    pairs: tuple[Tensor | None, Tensor | None],
    need_target: bool,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of sum |pred_i - M target_j|^2 over pairs, as a function that is itself differentiable.

    `pairs` has for each prediction i the target j, and for each target j the prediction i; either may be None.
    """
    rotated = rotate_rows(target, matrices, choice, ptr)
    sides = ((pred, rotated, pairs[0]), (rotated, pred, pairs[1]))
    to_pred: list[Tensor] = []
    to_target: list[Tensor] = []
    for (x, y, index), (of_x, of_y) in zip(sides, ((to_pred, to_target), (to_target, to_pred)), strict=True):
        if index is not None:
            grad_x, grad_y = _adjoint(2 * grad, x, y, index, (ptr, ptr), _by_target(index, len(y)), len(y))
            of_x.append(grad_x)
            of_y.append(grad_y)  # type: ignore[arg-type]
    grad_pred, grad_rotated = sum(to_pred[1:], to_pred[0]), sum(to_target[1:], to_target[0])
    if not need_target:
        return grad_pred, None
    back: Tensor = torch.ops.symkern.rotate_rows.default(grad_rotated, matrices, choice, ptr, True)
    return grad_pred, back


# ---- for references --------------------------------------------------------------------------------------------------


def by_definition(
    op: str,
    reference: Callable[..., tuple[Tensor, Tensor]],
    pred: Tensor,
    target: Tensor,
    sym: Stabilizers,
    kind: str,
    *options: Any,
) -> tuple[Tensor, Tensor]:
    """reference(pred, target, sym, *options) of checked arguments, half precision in fp32."""
    x, y = _checked(op, pred, target, sym, kind)
    wide = (x.float(), y.float()) if x.dtype in HALF else (x, y)
    loss, which = compute(reference, *wide, sym, *options)
    return loss.to(x.dtype), which


def first_of_equals(losses: Tensor, size: Tensor) -> int:
    """The rule of csrc/ops/symmetric_search.h: the first whose root is within rounding of the smallest."""
    tie = 2.0**-20 if losses.dtype == torch.float32 else 2.0**-40
    roots = losses.detach().double().sqrt()
    equal = roots <= roots.min() + tie * size.detach().double().sqrt()
    return int(equal.long().argmax()) if bool(size.isfinite()) else 0


def images(x: Tensor, sym: Stabilizers, molecule: int, kind: str) -> tuple[Tensor, Tensor, list[int]]:
    """Of one molecule's rows x: (n, d) comparable coordinates, (K, n, d) those of all images, and their operations.

    Straight from the definition, molecule by molecule, for references and tests.
    """
    b = molecule
    operations = sym.operations[sym.op_ptr[b] : sym.op_ptr[b + 1]].to(x.dtype)
    if kind == "point":
        x = x - sym.centroid[b].to(x.dtype)
    if kind == "pseudovector":
        operations = operations * torch.linalg.det(operations.double()).sign().to(x.dtype).reshape(-1, 1, 1)
    moved = torch.einsum("gij,nj->gni", operations, x)
    which = list(range(len(operations)))
    if bool(is_finite(sym)[b]):
        return x, moved, which

    def norm(v: Tensor) -> Tensor:
        positive = v.square().sum(-1) > 0
        return torch.where(positive, torch.where(positive.unsqueeze(-1), v, 1).square().sum(-1).sqrt(), 0)

    if int(sym.rank[b]) == 0:
        return norm(x).unsqueeze(-1), norm(moved).unsqueeze(-1), which
    axis = sym.axis[b].to(x.dtype)

    def cylindrical(v: Tensor) -> Tensor:
        along = v @ axis
        return torch.stack([along, norm(v - along.unsqueeze(-1) * axis)], -1)

    rows = cylindrical(moved)
    if kind == "pseudovector":
        mirrored = rows * torch.tensor([-1.0, 1.0], dtype=x.dtype, device=x.device)
        return cylindrical(x), torch.stack([rows, mirrored], 1).flatten(0, 1), [g for g in which for _ in range(2)]
    return cylindrical(x), rows, which
