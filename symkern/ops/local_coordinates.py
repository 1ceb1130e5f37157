"""Edges seen from the local frame of their receiver, and the dihedral angles between the frames of both ends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from symkern import _library as _library
from symkern._autograd import differentiable, fake, gradient_of
from symkern._check import check_reverse_mode, check_tensor
from symkern._reference import by_reference, compute
from symkern.neighbors import Neighbors
from symkern.ops.edge_angles import adjoint_of_gradient
from symkern.ops.edge_order import sender_order
from symkern.ops.reference_neighbors import check_graph


def local_coordinates(vec: Tensor, nb: Neighbors, references: Tensor) -> tuple[Tensor, Tensor]:
    """The vector of every edge j->i in the frame of node i, and the dihedral angle tau = n_i - i - j - n_j.

    With the references n and n' of node i (`reference_neighbors`) the frame has z along i->n and x towards n', and y
    such that the polar angle theta = angle(n, i, j) and the azimuth phi = dihedral(j, i, n, n') of the edge have their
    usual meaning, the latter with the sign of IUPAC and ASE; `local_angles` returns them. Coordinates rather than these
    angles, because the gradient of phi has no limit on the z axis, where symmetric molecules have atoms.

    Of tau's references, n'_i takes the place of n_i where n_i is j itself, and n'_j that of n_j where n_j is i. Nodes
    without references have n in direction z and n' in direction x of the frame that `vec` is given in. tau is 0, with
    zero gradient, where it is undetermined: for self loops, and where a reference is on the line through i and j (to 8
    ulp). The length of the local vector is the length of the edge.

    Source: Wang et al. (ComENet), NeurIPS 2022, section 3.

    Args:
        vec: (E, 3) vectors r_j - r_i of `edge_vectors`, Å, float32 or float64.
        nb: their graph, without a cell.
        references: (N, 2) int64 of `reference_neighbors`: for each node two edges of its row, or -1 twice.

    Returns:
        (E, 3) local vectors in Å and (E,) tau in radians, from -pi to pi; zero for padding. Differentiable to any
        order; gradients are summed in a fixed order.

    Raises:
        TypeError: `vec` or `references` is not a tensor, or `nb` not a graph.
        RuntimeError: forward-mode differentiation.
        ValueError: shapes, dtypes or devices that do not fit; a graph with a cell; on the CPU also references that are
            not two edges of the node's row (on CUDA their edges become NaN: an error would have to wait for the
            device).
    """
    check_graph(nb)
    check_tensor("vec", vec)
    check_tensor("references", references)
    check_reverse_mode("local_coordinates", vec)
    if by_reference():
        return compute(reference, vec, nb, references)
    recording = torch.is_grad_enabled() and vec.requires_grad
    order, start = nb._by_sender if recording else (None, None)
    result: tuple[Tensor, Tensor] = torch.ops.symkern.local_coordinates.default(
        vec, references, nb.edge_index, nb.row_ptr, order, start
    )
    return result


def local_angles(local: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Length d (Å), polar angle theta (0 to pi) and azimuth phi (-pi to pi) of (E, 3) local vectors.

    Zero for zero vectors. On the z axis (to 8 ulp) theta is 0 or pi, phi is 0, and their gradients are zero.
    """
    noise = (2e-15 if local.dtype == torch.float64 else 1e-6) ** 2
    across, square = local[:, :2].square().sum(-1), local.square().sum(-1)
    off, away = across > noise * square, square > 0
    radius = torch.where(off, across, 1).sqrt()
    phi = torch.where(off, torch.atan2(torch.where(off, local[:, 1], 0), torch.where(off, local[:, 0], 1)), 0)
    on_axis = torch.where(local[:, 2] < 0, torch.pi, 0.0).to(local.dtype)
    theta = torch.where(off, torch.atan2(radius, torch.where(off, local[:, 2], 1)), on_axis)
    return torch.where(away, torch.where(away, square, 1).sqrt(), 0), theta, phi


def reference(vec: Tensor, nb: Neighbors, references: Tensor) -> tuple[Tensor, Tensor]:
    """The same in torch operations, differentiable to any order."""
    return _formula(vec, references, nb.edge_index, nb.row_ptr)


def _formula(vec: Tensor, references: Tensor, edge_index: Tensor, row_ptr: Tensor) -> tuple[Tensor, Tensor]:
    if not vec.shape[0] or not references.shape[0]:
        return vec * 0, vec.sum(-1) * 0
    edge = torch.arange(vec.shape[0], device=vec.device)
    real = (edge < row_ptr[-1])[:, None]
    sender, receiver = edge_index
    own, theirs = references[receiver], references[sender]
    x, z = vec.new_tensor([1.0, 0, 0]).expand_as(vec), vec.new_tensor([0.0, 0, 1]).expand_as(vec)

    def of(reference: Tensor, known: Tensor, otherwise: Tensor) -> Tensor:
        return torch.where(known[:, None], vec[torch.where(known, reference, 0)], otherwise)

    noise = (2e-15 if vec.dtype == torch.float64 else 1e-6) ** 2
    known = own[:, 0] >= 0
    s = of(torch.where(own[:, 0] == edge, own[:, 1], own[:, 0]), known, z)
    back = sender[theirs[:, 0]] == receiver
    t = of(torch.where(back, theirs[:, 1], theirs[:, 0]), theirs[:, 0] >= 0, z)
    p, q = of(own[:, 0], known, z), of(own[:, 1], known, x)
    area = torch.linalg.cross(p, q).square().sum(-1)
    known = known & (area > noise * p.square().sum(-1) * q.square().sum(-1))
    p, q = of(own[:, 0], known, z), of(own[:, 1], known, x)

    e3 = p / p.norm(dim=-1, keepdim=True)
    e1 = q - (q * e3).sum(-1, keepdim=True) * e3
    e1 = e1 / e1.norm(dim=-1, keepdim=True)
    e2 = torch.linalg.cross(e1, e3)
    local = torch.stack([(vec * e).sum(-1) for e in (e1, e2, e3)], -1)

    m, n, size = torch.linalg.cross(vec, s), torch.linalg.cross(vec, t), vec.square().sum(-1)
    plain = (m.square().sum(-1) > noise * size * s.square().sum(-1)) & (
        n.square().sum(-1) > noise * size * t.square().sum(-1)
    )
    plain = (plain & (size > 0) & real[:, 0]).detach()
    sine = torch.where(plain, size, 1).sqrt() * (t * m).sum(-1)
    tau = torch.atan2(torch.where(plain, sine, 0), torch.where(plain, (m * n).sum(-1) + 0, 1))
    return torch.where(real, local, 0), tau


@fake("local_coordinates")
def _(vec: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return vec.new_empty(vec.shape), vec.new_empty(vec.shape[0])


@fake("local_coordinates_backward")
def _(grad_local: Tensor, grad_tau: Tensor, vec: Tensor, *rest: Any) -> Tensor:
    return vec.new_empty(vec.shape)


@fake("local_coordinates_double_backward")
def _(
    direction: Tensor, grad_local: Tensor, grad_tau: Tensor, vec: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return vec.new_empty(vec.shape), vec.new_empty(vec.shape[0]), vec.new_empty(vec.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_local: Tensor, grad_tau: Tensor) -> tuple[Tensor | None, ...]:
    vec, references, edge_index, row_ptr, order, start = ctx.saved_tensors
    if order is None:
        order, start = sender_order(edge_index, row_ptr)
    grad = torch.ops.symkern.local_coordinates_backward.default(
        grad_local, grad_tau, vec, references, edge_index, row_ptr, order, start
    )
    return (grad, *[None] * 5)


def _double_backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.symkern.local_coordinates_double_backward.default(direction, *ctx.saved_tensors)
    return (*grads, *[None] * 5)


def _triple_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    direction, grad_local, grad_tau, vec, references, edge_index, row_ptr, _, _ = ctx.saved_tensors
    # the gradients of both outputs as those of one
    grad = torch.cat([grad_local, grad_tau[:, None]], 1)

    def formula(direction: Tensor, grad: Tensor, vec: Tensor) -> tuple[Tensor, ...]:
        def joined(vec: Tensor) -> Tensor:
            local, tau = _formula(vec, references, edge_index, row_ptr)
            return torch.cat([local, tau[:, None]], 1)

        by_grad, by_vec = adjoint_of_gradient(joined, (vec,), grad, (direction,))
        return by_grad[:, :3], by_grad[:, 3], by_vec

    by_direction, by_grad, by_vec = gradient_of(formula, (direction, grad, vec), grads)
    by_local, by_tau = (None, None) if by_grad is None else (by_grad[:, :3], by_grad[:, 3])
    return (by_direction, by_local, by_tau, by_vec, *[None] * 5)


differentiable("local_coordinates", _backward, _save)
differentiable("local_coordinates_backward", _double_backward, _save)
differentiable("local_coordinates_double_backward", _triple_backward, _save)
