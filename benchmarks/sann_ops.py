"""Contestants for SANN's edge features, on any device."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import symkern as sk
from symkern.ops.spherical_features import _constants

from .contest import Work
from .peers import OURS
from .systems import System

CUTOFF, SPHERICAL, RADIAL = 8.0, 4, 4


def eager_features(nb: sk.Neighbors, references: Tensor) -> Callable[[Tensor], Tensor]:
    """The same formulas as a careful user writes them: indices are made beforehand, recurrences shared by all columns.

    Like the usual code it divides by d and by sines, so it has no self loops and no collinear references.
    """
    sender, receiver = nb.senders, nb.receivers
    edge = torch.arange(nb.num_edges, device=sender.device)
    own, theirs = references[receiver], references[sender]
    s_edge = torch.where(own[:, 0] == edge, own[:, 1], own[:, 0])
    t_edge = torch.where(sender[theirs[:, 0]] == receiver, theirs[:, 1], theirs[:, 0])
    radial, _, harmonic, _ = _constants(CUTOFF, SPHERICAL, RADIAL, torch.float32, sender.device)
    orders = torch.arange(SPHERICAL, device=sender.device)[:, None]
    wave, norms, factors = radial[0].float(), (radial[1] / radial[0] ** orders).float(), harmonic.tolist()

    def bessel(d: Tensor) -> list[Tensor]:
        found = []
        for order in range(SPHERICAL):
            y = d[:, None] * wave[order]
            below, here = torch.cos(y) / y, torch.sin(y) / y
            for k in range(order):
                below, here = here, (2 * k + 1) / y * here - below
            found.append(norms[order] * here)
        return found

    def legendre(z: Tensor, m: int) -> list[Tensor]:
        """P_l^m over sin^m for l = m, m + 1, ..."""
        columns = [torch.full_like(z, float(math.prod(range(1, 2 * m, 2))))]
        for order in range(m + 1, SPHERICAL):
            column = (2 * order - 1) * z * columns[-1]
            if order > m + 1:
                column = column - (order + m - 1) * columns[-2]
            columns.append(column / (order - m))
        return columns

    def forward(r: Tensor) -> Tensor:
        vec = r.index_select(0, sender) - r.index_select(0, receiver)
        p, q, s, t = (vec.index_select(0, index) for index in (own[:, 0], own[:, 1], s_edge, t_edge))
        d = vec.norm(dim=1)
        e3 = torch.nn.functional.normalize(p, dim=1)
        e2 = torch.nn.functional.normalize(torch.linalg.cross(q, p), dim=1)
        e1 = torch.linalg.cross(e3, e2)
        x, y, z = ((vec * e).sum(1) / d for e in (e1, e2, e3))
        m, n = torch.linalg.cross(vec, s), torch.linalg.cross(vec, t)
        tau = torch.atan2(d * (t * m).sum(1), (m * n).sum(1))
        waves = bessel(d)
        cosines, sines = [torch.ones_like(x)], [torch.zeros_like(x)]
        for _ in range(1, SPHERICAL):
            real, imaginary = x * cosines[-1] - y * sines[-1], x * sines[-1] + y * cosines[-1]
            cosines, sines = [*cosines, real], [*sines, imaginary]
        columns = [legendre(z, k) for k in range(SPHERICAL)]
        parts = []
        for order in range(SPHERICAL):
            for k in range(-order, order + 1):
                angular = factors[order][abs(k)] * columns[abs(k)][order - abs(k)]
                parts.append(waves[order] * (angular * (sines[-k] if k < 0 else cosines[k]))[:, None])
        polynomials = legendre(torch.cos(tau), 0)
        parts += [waves[order] * (factors[order][0] * polynomials[order])[:, None] for order in range(SPHERICAL)]
        return torch.cat(parts, 1)

    return forward


def contestants(system: System, nb: sk.Neighbors) -> dict[str, Callable[[Tensor], Tensor]]:
    references = sk.reference_neighbors(system.positions, nb)
    assert (references >= 0).all()

    def ours(r: Tensor) -> Tensor:
        return torch.cat(sk.sann_edge_features(r, nb, CUTOFF, SPHERICAL, RADIAL, references=references), 1)

    return {OURS: ours, "eager, same formulas": eager_features(nb, references)}


def features_work(nb: sk.Neighbors, backward: bool) -> Work:
    # graph, references and positions in, rows out; with the gradient the rows' gradient in as well
    rows = 4 * nb.num_edges * (SPHERICAL**2 + SPHERICAL) * RADIAL
    graph = 16 * nb.num_edges + (28 + 12 * backward) * nb.num_nodes
    return Work((2 if backward else 1) * rows + graph, (1 + backward) * rows / 2, rows)
