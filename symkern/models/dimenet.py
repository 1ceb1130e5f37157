"""DimeNet++: directional message passing with distances and angles."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from symkern.models._config import keeps_config
from symkern.models._graph import graph_of
from symkern.neighbors import Neighbors
from symkern.nn.basic import check_choice, check_positive
from symkern.nn.dimenet import EdgeEmbedding, EdgeReadout, TripletInteraction
from symkern.nn.radial import RadialBasis
from symkern.ops.edge_angles import edge_angles
from symkern.ops.edge_vectors import edge_vectors
from symkern.ops.safe_norm import safe_norm
from symkern.ops.segment_sum import segment_sum
from symkern.ops.spherical_basis import spherical_basis
from symkern.ops.triplets import triplets

_LARGEST_Z = 94


class DimeNetPlusPlus(nn.Module):
    """Gasteiger et al., arXiv:2011.14115 (2020), the faster form of their DimeNet (ICLR 2020).

    Messages m_ji live on edges; each block updates them from the messages k->j by their distance d_kj and the angle
    between k, j and i. The output is a sum over atoms, invariant under O(3) and translations; it and its first two
    derivatives are continuous where atoms cross the cutoff. An atom without neighbors receives no message: what it adds
    to the output does not depend on its element.

    Conventions: the angle is the paper's, the bond angle at j. The published code and PyG take pi minus this angle,
    which only changes the signs of the basis functions of odd order; `from_pyg` converts. The bases are scaled as in
    the code, sin(f_n x) u(x) / x with x = d / cutoff, not as in the paper, which has a constant in front. In periodic
    systems triplets are those of `symkern.triplets`: k may be an image of i, which PyG leaves out.

    Derivatives: at exactly collinear triplets energies and forces are right, but second derivatives in positions lack
    the bending terms of these triplets, see `symkern.edge_angles`: displace such atoms by 1e-4 Å for vibrations.

    Args:
        out: width of the output.
        hidden: width of a message.
        num_blocks: interactions.
        int_emb_size: width of a message within a triplet.
        basis_emb_size: width between the two layers that embed a basis.
        out_emb_channels: width within the output blocks.
        num_spherical: orders of the angular basis.
        num_radial: functions of the radial basis, and of the spherical one for each order.
        cutoff: Å.
        envelope_exponent: as in PyG; the envelope of `symkern.radial_basis` has p one larger.
        num_before_skip, num_after_skip: residual layers before and after the skip connection of an interaction.
        num_output_layers: dense layers of an output block.
        output_initializer: "zeros" (output 0 before training) or "glorot_orthogonal", better for energies and forces.

    Raises:
        ValueError: a setting out of range.
    """

    config: dict[str, Any]

    @keeps_config
    def __init__(
        self,
        out: int = 1,
        hidden: int = 128,
        num_blocks: int = 4,
        int_emb_size: int = 64,
        basis_emb_size: int = 8,
        out_emb_channels: int = 256,
        num_spherical: int = 7,
        num_radial: int = 6,
        cutoff: float = 5.0,
        envelope_exponent: int = 5,
        num_before_skip: int = 1,
        num_after_skip: int = 2,
        num_output_layers: int = 3,
        *,
        output_initializer: str = "zeros",
    ) -> None:
        super().__init__()
        check_choice("output_initializer", output_initializer, ("zeros", "glorot_orthogonal"))
        may_be_zero = ("envelope_exponent", "num_before_skip", "num_after_skip", "num_output_layers")
        for name in may_be_zero:
            if self.config[name] < 0:
                raise ValueError(f"{name} must not be negative, got {self.config[name]}")
        check_positive(**{k: v for k, v in self.config.items() if k not in (*may_be_zero, "output_initializer")})
        self.cutoff, self.num_spherical, self.num_radial = float(cutoff), num_spherical, num_radial
        self.exponent = envelope_exponent + 1

        # in units of the cutoff: its frequencies start at n pi
        self.rbf = RadialBasis(
            num_radial, 1.0, kind="bessel", envelope="polynomial", exponent=self.exponent, trainable=True
        )
        self.emb = EdgeEmbedding(_LARGEST_Z + 1, num_radial, hidden)
        readout = (num_radial, hidden, out_emb_channels, out, num_output_layers, output_initializer == "zeros")
        self.output_blocks = nn.ModuleList(EdgeReadout(*readout) for _ in range(num_blocks + 1))
        sizes = (hidden, int_emb_size, basis_emb_size, num_radial, num_spherical, num_before_skip, num_after_skip)
        self.interaction_blocks = nn.ModuleList(TripletInteraction(*sizes) for _ in range(num_blocks))

    def forward(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        *,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        nb: Neighbors | None = None,
    ) -> Tensor:
        """Outputs of B structures.

        Args:
            z: (N,) int64 atomic numbers, 1 to 94.
            pos: (N, 3) Å, dtype of the parameters.
            batch: (N,) int64, sorted; None for one structure.
            cell, pbc: see `symkern.neighbor_list`.
            nb: full graph of these atoms. Pairs beyond the cutoff change nothing but cost triplets: with a Verlet skin
                s about (1 + s / cutoff)^6 times as many. A self loop counts as a neighbor at distance 0.

        Returns:
            (B, out).

        Raises:
            TypeError, ValueError: arguments that do not fit, an atomic number outside the embedding.
        """
        nb = graph_of(z, pos, batch, cell, pbc, nb, self.cutoff, _LARGEST_Z, self.emb.emb.weight.dtype)
        return segment_sum(self._layers(z, pos, cell, nb), nb.ptr)

    def encode(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        *,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        nb: Neighbors | None = None,
    ) -> Tensor:
        """(N, out): what each atom adds to the output, invariant; arguments and errors as in `forward`."""
        nb = graph_of(z, pos, batch, cell, pbc, nb, self.cutoff, _LARGEST_Z, self.emb.emb.weight.dtype)
        return self._layers(z, pos, cell, nb)

    def _layers(self, z: Tensor, pos: Tensor, cell: Tensor | None, nb: Neighbors) -> Tensor:
        tri = triplets(nb)
        vec = edge_vectors(pos, nb, cell)
        d = safe_norm(vec)
        rbf = self.rbf(d / self.cutoff) / math.sqrt(2)  # the code leaves out the factor of the paper
        sbf = spherical_basis(
            d, edge_angles(vec, tri), tri, self.cutoff, self.num_spherical, self.num_radial, exponent=self.exponent
        )
        message = self.emb(z, rbf, nb)
        atoms: Tensor = self.output_blocks[0](message, rbf, nb)
        for interaction, readout in zip(self.interaction_blocks, self.output_blocks[1:], strict=True):
            message = interaction(message, rbf, sbf, tri)
            atoms = atoms + readout(message, rbf, nb)
        return atoms

    @classmethod
    def from_pyg(cls, module: nn.Module) -> DimeNetPlusPlus:
        """The same network as a `torch_geometric.nn.models.DimeNetPlusPlus`, with a copy of its weights.

        Outputs agree to rounding in fp32; in fp64 to about 1e-7, because PyG rounds the roots of the spherical Bessel
        functions to fp32. PyG keeps at most `max_num_neighbors` = 32 neighbors of an atom and drops the others without
        a word: raise that number where the two are compared.

        Raises:
            TypeError: `module` is no such DimeNetPlusPlus.
            ValueError: its activation is not "swish".
        """
        state = {key: value.detach().clone() for key, value in module.state_dict().items()}
        first, output = "interaction_blocks.0", "output_blocks.0"
        if not {"rbf.freq", "emb.emb.weight", f"{first}.lin_sbf1.weight", f"{output}.lin_up.weight"} <= state.keys():
            raise TypeError(f"module must be torch_geometric.nn.models.DimeNetPlusPlus, got {type(module)}")
        _check_activation(module)
        num_radial = len(state["rbf.freq"])
        model = cls(
            out=state[f"{output}.lin.weight"].shape[0],
            hidden=state["emb.emb.weight"].shape[1],
            num_blocks=_count(state, "interaction_blocks"),
            int_emb_size=state[f"{first}.lin_down.weight"].shape[0],
            basis_emb_size=state[f"{first}.lin_rbf1.weight"].shape[0],
            out_emb_channels=state[f"{output}.lin_up.weight"].shape[0],
            num_spherical=state[f"{first}.lin_sbf1.weight"].shape[1] // num_radial,
            num_radial=num_radial,
            cutoff=float(module.cutoff),  # type: ignore[arg-type]
            envelope_exponent=int(module.rbf.envelope.p) - 1,  # type: ignore[union-attr, arg-type]
            num_before_skip=_count(state, f"{first}.layers_before_skip"),
            num_after_skip=_count(state, f"{first}.layers_after_skip"),
            num_output_layers=_count(state, f"{output}.lins"),
        )
        state["rbf.frequencies"] = state.pop("rbf.freq")
        for key, value in state.items():
            if key.endswith("lin_sbf1.weight"):
                # P_l(cos(pi - angle)) = (-1)^l P_l(cos(angle))
                value.view(len(value), -1, num_radial)[:, 1::2].neg_()
        model = model.to(state["emb.emb.weight"])
        model.load_state_dict(state)
        return model


def _count(state: dict[str, Tensor], name: str) -> int:
    """Members of the module list `name`."""
    return len({key[len(name) + 1 :].split(".")[0] for key in state if key.startswith(f"{name}.")})


def _check_activation(module: nn.Module) -> None:
    activation = module.emb.act  # type: ignore[union-attr]
    x = torch.linspace(-3, 3, 7)
    if not torch.allclose(activation(x), nn.functional.silu(x)):  # type: ignore[operator]
        raise ValueError(f'module must have act="swish", the activation of DimeNet++, got {activation}')
