"""The blocks of PaiNN, on scalars q (N, F) and vectors mu (N, 3, F) of the atoms.

Vectors are mixed over their channels and multiplied by scalars, never over x, y and z: they turn with the molecule.
Source: Schütt, Unke, Gastegger, ICML 2021; sizes, order of the parts and initial weights as in SchNetPack. Under
autocast linear layers run in the narrow type, what they are added to stays fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from symkern.neighbors import Neighbors, check_neighbors
from symkern.nn.basic import check_dtype, check_features, check_positive, mlp, xavier
from symkern.nn.radial import RadialBasis
from symkern.ops.painn_message import painn_message
from symkern.ops.safe_norm import safe_norm

_COINCIDENT = 1e-10  # Å; second derivatives of a direction, 1 / d^2 and 1 / d^3 within, are still numbers in fp32


class PaiNNInteraction(nn.Module):
    """What the neighbors send (eq. 7 and 8).

        (s, r, v)_ij = phi(q_j) * (W b(d_ij) + c) u(d_ij)
        q_i' = q_i + sum_j s_ij,    mu_i' = mu_i + sum_j r_ij n_ij + v_ij mu_j

    Args:
        hidden: F.
        num_basis: functions of the radial basis b.
        cutoff: Å, where the cosine cutoff u ends.
        kind: "bessel" (the paper) or another of `symkern.radial_basis`.
        trainable_basis: learn the parameters of the basis.

    Raises:
        ValueError: a setting out of range.
    """

    def __init__(
        self, hidden: int, num_basis: int, cutoff: float, *, kind: str = "bessel", trainable_basis: bool = False
    ) -> None:
        super().__init__()
        check_positive(hidden=hidden)
        self.hidden = hidden
        self.context = _context(hidden, hidden, 3 * hidden)
        self.basis = RadialBasis(num_basis, cutoff, kind=kind, envelope="none", trainable=trainable_basis)
        self.filter = xavier(nn.Linear(num_basis, 3 * hidden))

    def forward(self, q: Tensor, mu: Tensor, d: Tensor, directions: Tensor, nb: Neighbors) -> tuple[Tensor, Tensor]:
        """One interaction.

        Args:
            q: (N, hidden).
            mu: (N, 3, hidden).
            d: (E,) Å, distances of the edges of `nb`; those beyond the cutoff contribute nothing.
            directions: (E, 3) from receiver to sender, see `unit_vectors`.
            nb: graph.

        Returns:
            q, mu of the same shapes.

        Raises:
            TypeError: an argument is not a tensor, or `nb` not a graph.
            ValueError: shapes or dtypes that do not fit.
        """
        check_neighbors(nb)
        check_features("q", q, nb.num_nodes, self.hidden)
        check_dtype(self.filter.weight.dtype, q=q)
        basis = self.basis
        dq, dmu = painn_message(
            self.context(q).to(q.dtype).unflatten(1, (3, self.hidden)),
            mu,
            d,
            directions,
            nb,
            basis.cutoff,
            filter_weight=self.filter.weight.unflatten(0, (3, self.hidden)),
            filter_bias=self.filter.bias.unflatten(0, (3, self.hidden)),
            kind=basis.kind,
            centers=basis.centers,
            gamma=basis.gamma,
            frequencies=basis.frequencies,
        )
        return q + dq, mu + dmu


class PaiNNMixing(nn.Module):
    """What scalars and vectors of one atom tell each other (eq. 9 and 10).

        (a, b, c) = net(q, |V mu|),    q' = q + a + c <V mu, W mu>,    mu' = mu + b W mu

    Args:
        hidden: F.
        epsilon: |x| is the root of x^2 + epsilon here, which has derivatives at 0.

    Raises:
        ValueError: a setting out of range.
    """

    def __init__(self, hidden: int, *, epsilon: float = 1e-8) -> None:
        super().__init__()
        check_positive(hidden=hidden, epsilon=epsilon)
        self.epsilon = epsilon
        self.context = _context(2 * hidden, hidden, 3 * hidden)
        self.mix = xavier(nn.Linear(hidden, 2 * hidden, bias=False))

    def forward(self, q: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        """(N, hidden) and (N, 3, hidden) to the same."""
        v, w = self.mix(mu).to(mu.dtype).chunk(2, -1)
        length = (v.square().sum(1) + self.epsilon).sqrt()
        a, b, c = self.context(torch.cat([q, length], 1)).to(q.dtype).chunk(3, 1)
        return q + a + c * (v * w).sum(1), mu + b.unsqueeze(1) * w


class GatedEquivariantBlock(nn.Module):
    """A nonlinear layer for scalars and vectors: s', g = net(s, |V v|),  v' = g W v (Weiler et al., NeurIPS 2018).

    Args:
        inputs: scalars and vectors per atom that come in, as many of either.
        outputs: the same of what goes out.
        hidden: width within the net; None for `inputs`.
        activate: SiLU on s', for blocks that another follows.

    Raises:
        ValueError: a setting out of range.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int | None = None, *, activate: bool = False) -> None:
        super().__init__()
        hidden = inputs if hidden is None else hidden
        check_positive(inputs=inputs, outputs=outputs, hidden=hidden)
        self.mix = xavier(nn.Linear(inputs, 2 * outputs, bias=False))
        self.context = _context(inputs + outputs, hidden, 2 * outputs)
        self.activation = nn.SiLU() if activate else nn.Identity()

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(N, inputs) and (N, 3, inputs) to (N, outputs) and (N, 3, outputs)."""
        of_length, of_output = self.mix(v).to(v.dtype).chunk(2, -1)
        # atoms without neighbors have no vectors: their lengths are 0, with gradient 0
        length = safe_norm(of_length.transpose(1, 2))
        scalars, gates = self.context(torch.cat([s, length], 1)).to(s.dtype).chunk(2, 1)
        return self.activation(scalars), gates.unsqueeze(1) * of_output


class GatedMLP(nn.Module):
    """`GatedEquivariantBlock` after another: (N, F) and (N, 3, F) to one scalar (N, 1) and one vector (N, 3) per atom.

    Args:
        hidden: F.
        widths: of the outputs of all blocks but the last, which has one.
    """

    def __init__(self, hidden: int, widths: Sequence[int]) -> None:
        super().__init__()
        sizes = list(pairwise([hidden, *widths, 1]))
        self.blocks = nn.ModuleList(
            GatedEquivariantBlock(inner, outer, activate=k + 1 < len(sizes)) for k, (inner, outer) in enumerate(sizes)
        )

    def forward(self, q: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        """See above."""
        for block in self.blocks:
            q, mu = block(q, mu)
        return q, mu.squeeze(2)


def unit_vectors(vec: Tensor, d: Tensor) -> Tensor:
    """vec / d for (E, 3) and (E,) Å; zero with zero gradients where d < 1e-10: padding edges and coincident atoms."""
    apart = d >= _COINCIDENT
    return vec * torch.where(apart, 1 / torch.where(apart, d, 1), 0).unsqueeze(1)


def _context(inner: int, hidden: int, outer: int) -> nn.Sequential:
    net = mlp([inner, hidden, outer], nn.SiLU)
    for layer in (net[0], net[2]):
        assert isinstance(layer, nn.Linear)
        xavier(layer)
    return net
