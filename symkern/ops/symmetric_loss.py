"""Any metric, at the best image of the target under the symmetry of each molecule."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from symkern._reference import by_reference
from symkern.ops.symmetric_action import Action, Kind, act, by_definition, images, rotate_rows
from symkern.stabilizer import Stabilizers

Metric = Callable[[Tensor, Tensor, Tensor], Tensor]


def symmetric_loss(
    pred: Tensor, target: Tensor, sym: Stabilizers, metric: Metric, kind: Kind = "vector"
) -> tuple[Tensor, Tensor]:
    """min over the operations g of each molecule of metric(pred, g target), for any metric.

    The metric gets ``(pred (M, 3), target (M, 3), ptr (K + 1,))``: K segments of rows, one for each operation, and
    returns (K,) numbers. Rows of a segment are the atoms of the molecule in their order; `pred` is repeated, `target`
    is transformed and permuted, so that row j has the prediction for atom j and the image of the target that the
    operation puts there: g target_i with p_g(i) = j. For example, the sum of squares is ``lambda x, y, ptr:
    symkern.segment_sum((x - y).square().sum(-1), ptr)``.

    It is called at most three times: without gradients for all operations (a second time for pseudovectors where
    groups are continuous), then with gradients for the chosen operation of each molecule, K = B. The first call has
    sum_b G_b N_b rows. For continuous groups rows are the coordinates that `symmetric_mse` compares: (component along
    the axis, distance from the axis, 0), or (norm, 0, 0). Points of other molecules are as given, not centred.

    Ties: operations within a relative 2^-20 (float32) or 2^-40 (float64) of the smallest value count as equal, and the
    lowest index wins.

    Args:
        pred: (N, 3) float32 or float64; float16 and bfloat16 are computed in float32.
        target: (N, 3), dtype and device of `pred`. If one of the two is float16 or bfloat16, as under autocast, it is
            converted to the dtype of the other.
        sym: stabilizers of the N atoms of the inputs; converted to the dtype of `pred`.
        metric: see above; differentiable wherever a gradient is wanted.
        kind: what rows are: "vector", "pseudovector" or "point".

    Returns:
        (loss, which): (B,) in the wider dtype, 0 for molecules without atoms; (B,) int64 index of the chosen
        operation in its molecule, 0 = identity.

    Raises:
        TypeError: an argument is not a tensor, `sym` not Stabilizers, or `metric` not callable.
        RuntimeError: forward-mode differentiation.
        ValueError: shapes, dtypes or devices that do not fit; stabilizers of another batch; an unknown `kind`; a metric
            that does not return one number per segment.

    Source: Learning Molecular Symmetry Breaking via Symmetry-Adapted Neural Networks, eq. (3).
    """
    if not callable(metric):
        raise TypeError(f"metric must be callable, got {type(metric)}")
    if by_reference():
        return by_definition("symmetric_loss", reference, pred, target, sym, kind, metric, kind)
    action = act("symmetric_loss", pred, target, sym, kind)
    x, y = _shown(action, action.pred, kind), action.target
    origins = _origins(sym)
    with torch.no_grad():
        molecule = sym.op_batch
        operation = _owners(sym.perm_ptr, len(sym.permutations))
        row = torch.arange(len(operation), device=x.device) - sym.perm_ptr[operation]
        atom = row + sym.ptr[molecule[operation]]
        values = []
        for copy in range(action.copies):
            matrices = action.matrices[copy :: action.copies]
            image = (matrices[operation] * y.detach()[origins].unsqueeze(1)).sum(-1)
            batch = molecule[operation]
            values.append(_call(metric, x.detach()[atom], _shown(action, image, kind, batch), sym.perm_ptr))
        choice = _first_of_equals(torch.stack(values, 1).flatten(), sym.op_ptr * action.copies)
        chosen = torch.div(choice, action.copies, rounding_mode="floor")
        # where each atom's partner stands among the rows of the chosen operation
        place = sym.perm_ptr[chosen][sym.batch] + torch.arange(len(x), device=x.device) - sym.ptr[sym.batch]
    image = rotate_rows(y, action.matrices, choice, sym.ptr).index_select(0, origins[place])
    loss = _call(metric, x, _shown(action, image, kind), sym.ptr)
    return torch.where(sym.ptr.diff() > 0, loss, 0).to(action.dtype), action.which(choice)


def _shown(action: Action, x: Tensor, kind: str, batch: Tensor | None = None) -> Tensor:
    """Points as they were given, unless their coordinates are others."""
    if kind != "point":
        return x
    batch = action.sym.batch if batch is None else batch
    centroid = action.sym.centroid.to(x.dtype)
    if action.finite is not None:
        centroid = torch.where(action.finite.unsqueeze(-1), centroid, 0)
    return x + centroid[batch]


def _owners(ptr: Tensor, rows: int) -> Tensor:
    """Segment of each row."""
    segments = torch.arange(len(ptr) - 1, device=ptr.device)
    return torch.repeat_interleave(segments, ptr.diff(), output_size=rows)


def _origins(sym: Stabilizers) -> Tensor:
    """For each row of ``sym.permutations`` the atom that its operation sends to the row's atom: the inverses."""
    operation = _owners(sym.perm_ptr, len(sym.permutations))
    first = sym.ptr[sym.op_batch][operation]
    atom = torch.arange(len(operation), device=first.device) - sym.perm_ptr[operation] + first
    return torch.empty_like(atom).scatter_(0, sym.perm_ptr[operation] + sym.permutations - first, atom)


def _call(metric: Metric, x: Tensor, y: Tensor, ptr: Tensor) -> Tensor:
    values = metric(x, y, ptr)
    if not isinstance(values, Tensor) or values.shape != (len(ptr) - 1,):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values)
        raise ValueError(f"metric must return one number per segment, ({len(ptr) - 1},), got {got}")
    return values


def _first_of_equals(values: Tensor, ptr: Tensor) -> Tensor:
    """In each segment the first value within rounding of the smallest; the first of all if one is NaN."""
    tie = 2.0**-20 if values.dtype == torch.float32 else 2.0**-40
    segment = _owners(ptr, len(values))
    least = values.new_full((len(ptr) - 1,), torch.inf).scatter_reduce(0, segment, values, "amin")
    bound = (least + tie * least.abs())[segment]
    number = torch.arange(len(values), device=ptr.device)
    number = torch.where((values <= bound) | bound.isnan(), number, len(values))
    return ptr.new_full((len(ptr) - 1,), len(values)).scatter_reduce(0, segment, number, "amin")


def reference(
    pred: Tensor, target: Tensor, sym: Stabilizers, metric: Metric, kind: Kind = "vector"
) -> tuple[Tensor, Tensor]:
    """The same for one molecule and operation after the other."""
    bounds, losses, chosen = sym.ptr.tolist(), [pred.new_zeros(0)], []
    for b, (begin, end) in enumerate(pairwise(bounds)):
        x, _, _ = images(pred[begin:end], sym, b, kind)
        _, moved, which = images(target[begin:end], sym, b, kind)
        found = []
        for g, image in zip(which, moved, strict=True):
            start = int(sym.perm_ptr[int(sym.op_ptr[b]) + g])
            partners = sym.permutations[start : start + end - begin] - begin
            rows = torch.nn.functional.pad(torch.stack([x, image[partners.argsort()]]), (0, 3 - x.shape[1]))
            if kind == "point" and x.shape[1] == 3:
                rows = rows + sym.centroid[b].to(x.dtype)
            found.append(metric(rows[0], rows[1], sym.ptr.new_tensor([0, end - begin]))[0] if end > begin else x.sum())
        values = torch.stack(found).detach()
        tie = 2.0**-20 if values.dtype == torch.float32 else 2.0**-40
        best = int((values <= values.min() + tie * values.min().abs()).long().argmax())
        losses.append(found[best].reshape(1))
        chosen.append(which[best])
    return torch.cat(losses) + 0 * (pred.sum() + target.sum()), sym.ptr.new_tensor(chosen)
