"""PaiNN: equivariant message passing on scalars and vectors of the atoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from symkern.models import _schnetpack
from symkern.models._config import keeps_config
from symkern.models._graph import graph_of
from symkern.neighbors import Neighbors
from symkern.nn.basic import check_choice, check_positive
from symkern.nn.heads import EQUIVARIANT, ScalarHead
from symkern.nn.painn import PaiNNInteraction, PaiNNMixing, unit_vectors
from symkern.ops.edge_vectors import edge_vectors
from symkern.ops.safe_norm import safe_norm


class PaiNN(nn.Module):
    """Schütt, Unke, Gastegger, ICML 2021: scalars (N, F) and vectors (N, 3, F) of the atoms, and heads for tensors.

    What `forward` gives depends on `head`; all of it turns with the molecule and does not depend on where it lies:

    - "scalar": (B, out), the sum or mean over atoms of an MLP of their scalars, as for energies;
    - "vector": (N, 3), a vector of each atom, by gated equivariant blocks;
    - "dipole": (B, 3), charges times positions from the centroid, plus dipoles of the atoms. Structures are taken to be
      neutral: the dipole of a charged one depends on the origin. In e Å where charges are to be in e;
    - "polarizability": (B, 3, 3), symmetric, from scalars, and vectors times positions from the centroid.

    The last two need molecules, not periodic structures. The mean and spread of a target belong to "scalar" only:
    adding the same vector to every output would make it depend on how a molecule lies.

    Args:
        out: width of the output, for "scalar".
        hidden: F.
        num_layers: how many interactions, each with its mixing.
        num_basis: functions of the radial basis.
        cutoff: Å.
        kind: radial basis, see `symkern.radial_basis`.
        head: see above.
        head_hidden: widths of the hidden layers of the head; None for one of hidden / 2.
        readout: "sum" (extensive, as energies are) or "mean", for "scalar".
        shared_filters: one filter network for all interactions, instead of one for each.
        trainable_basis: learn the parameters of the basis, which all interactions share.
        epsilon: of the lengths in the mixing blocks, see `symkern.nn.PaiNNMixing`.
        max_z: the largest atomic number.

    Raises:
        ValueError: a setting out of range, or one that the head does not use.
    """

    config: dict[str, Any]

    @keeps_config
    def __init__(
        self,
        out: int = 1,
        hidden: int = 128,
        num_layers: int = 3,
        num_basis: int = 20,
        cutoff: float = 5.0,
        *,
        kind: str = "bessel",
        head: str = "scalar",
        head_hidden: Sequence[int] | None = None,
        readout: str = "sum",
        shared_filters: bool = False,
        trainable_basis: bool = False,
        epsilon: float = 1e-8,
        max_z: int = 99,
    ) -> None:
        super().__init__()
        check_positive(out=out, hidden=hidden, num_layers=num_layers, max_z=max_z)
        check_choice("head", head, ("scalar", *EQUIVARIANT))
        if head in EQUIVARIANT and (out, readout) != (1, "sum"):
            raise ValueError(f"out and readout are settings of head='scalar', got {out} and {readout!r} for {head!r}")
        self.cutoff, self.max_z, self.turns = float(cutoff), max_z, head in EQUIVARIANT
        self.embedding = nn.Embedding(max_z + 1, hidden, padding_idx=0)
        self.interactions = nn.ModuleList(
            PaiNNInteraction(hidden, num_basis, cutoff, kind=kind, trainable_basis=trainable_basis)
            for _ in range(num_layers)
        )
        first = self.interactions[0]
        for other in self.interactions[1:]:
            other.basis = first.basis
            if shared_filters:
                other.filter = first.filter
        self.mixing = nn.ModuleList(PaiNNMixing(hidden, epsilon=epsilon) for _ in range(num_layers))
        widths = [max(hidden // 2, 1)] if head_hidden is None else list(head_hidden)
        for width in widths:
            check_positive(head_hidden=width)
        self.head = EQUIVARIANT[head](hidden, widths) if self.turns else ScalarHead(hidden, widths, out, readout)

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
        """Outputs of B structures, or of their N atoms.

        Args:
            z: (N,) int64 atomic numbers, 1 to `max_z`.
            pos: (N, 3) Å, dtype of the parameters.
            batch: (N,) int64, sorted; None for one structure.
            cell, pbc: see `symkern.neighbor_list`.
            nb: graph of these atoms; pairs beyond the cutoff do no harm.

        Returns:
            (B, out), (N, 3), (B, 3) or (B, 3, 3), depending on the head.

        Raises:
            TypeError, ValueError: arguments that do not fit, an atomic number outside the embedding, a periodic
                structure for a head that needs molecules.
        """
        head = self.config["head"]
        if head in ("dipole", "polarizability") and cell is not None and (pbc is None or bool(pbc.any())):
            raise ValueError(f"cell must be None: head={head!r} needs positions from a center, which a crystal lacks")
        nb = self._graph(z, pos, batch, cell, pbc, nb)
        out: Tensor = self.head(*self._layers(z, pos, cell, nb), pos, nb)
        return out

    def encode(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        *,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        nb: Neighbors | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Features after the last layer; arguments and errors as in `forward`.

        Returns:
            q (N, hidden), invariant; mu (N, 3, hidden), vectors.
        """
        return self._layers(z, pos, cell, self._graph(z, pos, batch, cell, pbc, nb))

    def _graph(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None,
        cell: Tensor | None,
        pbc: Tensor | None,
        nb: Neighbors | None,
    ) -> Neighbors:
        return graph_of(z, pos, batch, cell, pbc, nb, self.cutoff, self.max_z, self.embedding.weight.dtype)

    def _layers(self, z: Tensor, pos: Tensor, cell: Tensor | None, nb: Neighbors) -> tuple[Tensor, Tensor]:
        vec = edge_vectors(pos, nb, cell)
        d = safe_norm(vec)
        directions = unit_vectors(vec, d)
        q = self.embedding(z)
        mu = q.new_zeros((q.shape[0], 3, q.shape[1]))
        for interaction, mixing in zip(self.interactions, self.mixing, strict=True):
            q, mu = mixing(*interaction(q, mu, d, directions, nb))
        return q, mu

    @classmethod
    def from_schnetpack(
        cls,
        state_dict: Mapping[str, Tensor],
        *,
        head: str | None = None,
        readout: str = "sum",
        output: int | None = None,
        epsilon: float = 1e-8,
    ) -> PaiNN:
        """The network of a state dict of SchNetPack 2: of `schnetpack.representation.PaiNN` or a model around it.

        Sizes, radial basis (GaussianRBF, GaussianRBFCentered, BesselRBF), cutoff, shared filters and nuclear embedding
        follow from the keys; with them come the weights of the output module, if there is one. Layers shared between
        interactions become equal copies. A basis whose centers or widths are not the initial ones becomes trainable.

        What leaves no trace in the keys is taken to be as SchNetPack has it by default: SiLU, the cosine cutoff,
        charges corrected to add up to zero. Its polarizabilities depend on the origin: those of `forward` are its
        own for positions from the centroid (SubtractCenterOfGeometry).

        Args:
            state_dict: as saved, with or without the prefixes ``representation.`` and ``model.representation.``.
            head: what the output module gives: "scalar" (Atomwise), "dipole" (DipoleMoment with
                use_vector_representation), "polarizability" (Polarizability) or "vector" (the vectors of its gated
                blocks). None: "scalar", as far as the keys agree. Without an output module: the head to start anew.
            readout: "sum", or "mean" for an Atomwise with aggregation_mode="avg".
            output: which of the ``output_modules`` to take, where several have weights.
            epsilon: of the mixing blocks.

        Returns:
            PaiNN in the dtype of the state dict.

        Raises:
            TypeError: the state dict is no mapping of tensors.
            ValueError: keys or shapes that are not such a model's, or that this class has no place for: electronic
                embeddings, other cutoff functions, postprocessors.
        """
        found = _schnetpack.read(state_dict, head, output)
        model = cls(**found.config, readout=readout, epsilon=epsilon).to(found.dtype)
        _schnetpack.load(model, found)
        return model
