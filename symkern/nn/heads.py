"""From scalars and vectors of atoms to scalars, vectors and tensors: the heads of PaiNN.

A head is called as ``head(q, mu, pos, nb)`` with q (N, F), mu (N, 3, F), positions (N, 3) Å and their graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from symkern.neighbors import Neighbors
from symkern.nn.basic import check_choice, mlp, xavier
from symkern.nn.gather import gather_segments
from symkern.nn.painn import GatedMLP
from symkern.ops.segment_sum import segment_mean, segment_sum


class ScalarHead(nn.Module):
    """(B, out): the sum or mean over atoms of an MLP of q."""

    def __init__(self, hidden: int, widths: Sequence[int], out: int, readout: str) -> None:
        super().__init__()
        check_choice("readout", readout, ("sum", "mean"))
        self.pool = segment_sum if readout == "sum" else segment_mean
        self.net = mlp([hidden, *widths, out], nn.SiLU)
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                xavier(layer)

    def forward(self, q: Tensor, mu: Tensor, pos: Tensor, nb: Neighbors) -> Tensor:
        """See above."""
        return self.pool(self.net(q).to(q.dtype), nb.ptr)


class VectorHead(nn.Module):
    """(N, 3): a vector of every atom."""

    def __init__(self, hidden: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.net = GatedMLP(hidden, widths)

    def forward(self, q: Tensor, mu: Tensor, pos: Tensor, nb: Neighbors) -> Tensor:
        """See above."""
        vector: Tensor = self.net(q, mu)[1]
        return vector


class DipoleHead(nn.Module):
    """(B, 3): sum_i q_i (r_i - c) + mu_i, with charges and dipoles of the atoms and the centroid c.

    With c the dipole does not depend on where the molecule lies: as if the charges were corrected to add up to zero.
    Source: Schütt et al. (PaiNN), ICML 2021; Veit et al., J. Chem. Phys. 153, 024113 (2020).
    """

    def __init__(self, hidden: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.net = GatedMLP(hidden, widths)

    def forward(self, q: Tensor, mu: Tensor, pos: Tensor, nb: Neighbors) -> Tensor:
        """See above."""
        charge, dipole = self.net(q, mu)
        return segment_sum(charge * centred(pos, nb.ptr) + dipole, nb.ptr)


class PolarizabilityHead(nn.Module):
    """(B, 3, 3), symmetric: sum_i a_i 1 + v_i (r_i - c)^T + (r_i - c) v_i^T, with the centroid c.

    Source: Schütt et al. (PaiNN), ICML 2021.
    """

    def __init__(self, hidden: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.net = GatedMLP(hidden, widths)

    def forward(self, q: Tensor, mu: Tensor, pos: Tensor, nb: Neighbors) -> Tensor:
        """See above."""
        isotropic, v = self.net(q, mu)
        outer = v.unsqueeze(2) * centred(pos, nb.ptr).unsqueeze(1)
        own = isotropic.unsqueeze(2) * torch.eye(3, dtype=pos.dtype, device=pos.device) + outer + outer.transpose(1, 2)
        out: Tensor = segment_sum(own.flatten(1), nb.ptr).unflatten(1, (3, 3))
        return out


EQUIVARIANT: dict[str, Callable[[int, Sequence[int]], nn.Module]] = {
    "vector": VectorHead,
    "dipole": DipoleHead,
    "polarizability": PolarizabilityHead,
}


def centred(pos: Tensor, ptr: Tensor) -> Tensor:
    """(N, 3) positions from the centroid of their structure, which has the atoms ptr[b] .. ptr[b + 1]."""
    return pos - gather_segments(segment_mean(pos, ptr), ptr, len(pos))
