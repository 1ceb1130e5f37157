"""EGNN as a model: from atoms to properties of structures and vectors of atoms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from symkern.models import _satorras
from symkern.models._config import keeps_config
from symkern.models._graph import _require, complete_graph, graph_of, known_elements
from symkern.neighbors import Neighbors
from symkern.nn.basic import check_choice, check_positive, mlp
from symkern.nn.egnn import EGNNLayer
from symkern.nn.radial import RadialBasis, cosine_cutoff
from symkern.ops.edge_vectors import edge_vectors
from symkern.ops.safe_norm import safe_norm
from symkern.ops.segment_sum import segment_mean, segment_sum

_LARGEST_Z = 99
# settings that layers take over as they are
_SHARED = ("attention", "normalize", "tanh", "aggregation", "update_coordinates", "velocity", "residual", "node_attr")


class EGNN(nn.Module):
    """Satorras, Hoogeboom, Welling, ICML 2021: layers of `symkern.nn.EGNNLayer` on embedded atomic numbers.

    Outputs of `forward` are invariant under E(3); the vectors ``x - pos`` of `encode` are equivariant. `forward` does
    not compute the last layer's coordinates: with update_coordinates, its coord_mlp then gets no gradient.

    Args:
        out: width of the output.
        hidden: features per atom.
        num_layers: how many layers.
        cutoff: Å; pairs beyond it contribute nothing. None joins all atoms of a structure, as the paper does for
            molecules; for periodic structures it is an error.
        smooth: multiply each edge by the cosine cutoff of its length in the input, which makes energies and forces
            continuous; the paper has no such factor. No effect without a cutoff.
        num_basis: functions of a radial basis of each edge's length in the input, which every layer gets as further
            edge attributes; 0 for none, as in the paper. It needs a cutoff. Forces of vibrating molecules gain much:
            |x_i - x_j|^2 alone resolves bonds poorly.
        kind: radial basis, see `symkern.radial_basis`.
        edge_attr, attention, normalize, tanh, aggregation, update_coordinates, velocity, residual: see `EGNNLayer`.
            Forces that are to be the derivative of an energy need normalize=False, and aggregation="sum" to be
            continuous.
        node_attr: width of learned attributes per element that every layer's phi_h sees besides h.
        decoder: "mlp" (hidden, hidden, out per atom, then pooled), "linear" (one map per atom, then pooled) or
            "structure" (an MLP per atom, pooled, and an MLP per structure: QM9 in the paper; not extensive).
        readout: "sum" (extensive, as energies are) or "mean" over atoms.
        elements: atomic numbers the model accepts; None for 1 to 99.

    Raises:
        ValueError: a setting out of range.
    """

    config: dict[str, Any]

    @keeps_config
    def __init__(
        self,
        out: int = 1,
        hidden: int = 64,
        num_layers: int = 4,
        *,
        cutoff: float | None = 5.0,
        smooth: bool = True,
        num_basis: int = 0,
        kind: str = "gaussian",
        edge_attr: int = 0,
        attention: bool = False,
        normalize: bool = False,
        tanh: bool = False,
        aggregation: str = "sum",
        update_coordinates: bool = True,
        velocity: bool = False,
        residual: bool = True,
        node_attr: int = 0,
        decoder: str = "mlp",
        readout: str = "sum",
        elements: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_positive(out=out, hidden=hidden, num_layers=num_layers)
        if cutoff is not None:
            check_positive(cutoff=cutoff)
        if num_basis and cutoff is None:
            raise ValueError("num_basis needs a cutoff, which the radial basis ends at")
        check_choice("decoder", decoder, ("mlp", "linear", "structure"))
        check_choice("readout", readout, ("sum", "mean"))
        self.cutoff, self.smooth, self.readout = math.inf if cutoff is None else float(cutoff), smooth, readout
        self.register_buffer("_known", known_elements(elements, _LARGEST_Z), persistent=False)
        self.embedding = nn.Embedding(_LARGEST_Z + 1, hidden, padding_idx=0)
        self.attributes = nn.Embedding(_LARGEST_Z + 1, node_attr, padding_idx=0) if node_attr else None
        self.basis = RadialBasis(num_basis, float(cutoff), kind=kind, envelope="none") if num_basis and cutoff else None
        options = {name: self.config[name] for name in _SHARED} | {"edge_attr": edge_attr + num_basis}
        self.layers = nn.ModuleList(EGNNLayer(hidden, **options) for _ in range(num_layers))
        if decoder == "structure":
            self.node_dec: nn.Module = mlp([hidden, hidden, hidden], nn.SiLU)
            self.graph_dec: nn.Module = mlp([hidden, hidden, out], nn.SiLU)
        else:
            self.node_dec = nn.Linear(hidden, out) if decoder == "linear" else mlp([hidden, hidden, out], nn.SiLU)
            self.graph_dec = nn.Identity()

    def forward(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        *,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        nb: Neighbors | None = None,
        edge_attr: Tensor | None = None,
        v: Tensor | None = None,
    ) -> Tensor:
        """Outputs of B structures.

        Args:
            z: (N,) int64 atomic numbers, 1 to 99 or one of `elements`.
            pos: (N, 3) Å, dtype of the parameters.
            batch: (N,) int64, sorted; None for one structure.
            cell, pbc: see `symkern.neighbor_list`.
            nb: graph of these atoms; pairs beyond the cutoff do no harm. Without a cutoff every edge counts.
            edge_attr: (E, edge_attr), only if the model has them; in the order of the edges of `nb`, which is needed.
            v: (N, 3) initial velocities, only with velocity; every layer gets them (paper, eq. 7).

        Returns:
            (B, out).

        Raises:
            TypeError, ValueError: arguments that do not fit, an atomic number that the model does not know.
        """
        h, _, graph = self._run(z, pos, batch, cell, pbc, nb, edge_attr, v, coordinates=False)
        pooled = (segment_sum if self.readout == "sum" else segment_mean)(self.node_dec(h).to(h.dtype), graph.ptr)
        out: Tensor = self.graph_dec(pooled).to(pos.dtype)
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
        edge_attr: Tensor | None = None,
        v: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Features and coordinates after the last layer; arguments and errors as in `forward`.

        Returns:
            h (N, hidden), invariant; x (N, 3) Å. ``x - pos`` is a predicted vector per atom.
        """
        h, x, _ = self._run(z, pos, batch, cell, pbc, nb, edge_attr, v, coordinates=True)
        return h, x

    def _run(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None,
        cell: Tensor | None,
        pbc: Tensor | None,
        nb: Neighbors | None,
        edge_attr: Tensor | None,
        v: Tensor | None,
        *,
        coordinates: bool,
    ) -> tuple[Tensor, Tensor, Neighbors]:
        """h, x and the graph; `coordinates`: whether those after the last layer are used."""
        if edge_attr is not None and nb is None:
            raise ValueError("nb must be given with edge_attr: they follow the order of its edges")
        # a list of our own holds no pairs beyond the cutoff
        weighted = self.cutoff != math.inf and (self.smooth or nb is not None)
        if nb is None and self.cutoff == math.inf:
            nb = complete_graph(z, batch, cell, pbc)
        nb = graph_of(z, pos, batch, cell, pbc, nb, self.cutoff, _LARGEST_Z, self.embedding.weight.dtype)
        known = self.get_buffer("_known")
        _require(lambda: known[z].all(), z, lambda: f"z must hold only the elements {self.config['elements']}")
        weight = None
        if weighted or self.basis is not None:
            d = safe_norm(edge_vectors(pos, nb, cell))
            if self.basis is not None:
                edge_attr = self.basis(d) if edge_attr is None else torch.cat([edge_attr, self.basis(d)], 1)
            if weighted:
                weight = cosine_cutoff(d, self.cutoff).squeeze(1) if self.smooth else (d < self.cutoff).to(d.dtype)
        h, x = self.embedding(z), pos
        attributes = None if self.attributes is None else self.attributes(z)
        for k, layer in enumerate(self.layers, 1):
            moves = coordinates or k < len(self.layers)
            h, x, *_ = layer(h, x, nb, edge_attr, v, cell, weight, attributes, coordinates=moves)
        return h, x, nb

    @classmethod
    def from_satorras(
        cls,
        state_dict: Mapping[str, Tensor],
        *,
        elements: Sequence[int] = (1, 6, 7, 8, 9),
        features: Tensor | None = None,
        cutoff: float | None = None,
        normalize: bool = False,
        tanh: bool = False,
        aggregation: str = "mean",
        residual: bool = True,
        readout: str = "sum",
    ) -> EGNN:
        """The network of a state dict of github.com/vgsatorras/egnn: EGNN of models/egnn_clean or of qm9/models.

        Widths, number of layers, attention and whether coordinates move follow from the keys; `normalize`, `tanh`,
        `aggregation` and `residual` leave no trace there: give them as that model had them (the defaults are its own).
        Its input features become a table per element. `forward` is the sum over atoms (`readout`) of the outputs that
        egnn_clean gives per atom, and ``model.node_dec(model.encode(...)[0])`` are those outputs; for QM9 it is that
        model's output, before the property's mean and deviation.

        Args:
            state_dict: as saved, keys without prefix.
            elements: atomic numbers that the model was trained on, in the order of its one-hot input.
            features: (elements, in_node_nf) input features of each element. None: one-hot if in_node_nf is the number
                of elements; if it is p times that, one-hot times the powers 0 .. p - 1 of z / max(elements), as for
                QM9 with p = 3.
            cutoff: Å, without a smooth factor; None joins all atoms of a structure, as that code does.
            readout: "sum" or "mean".

        Returns:
            EGNN in the dtype of the state dict, with smooth=False.

        Raises:
            TypeError: the state dict is no mapping of tensors.
            ValueError: keys or shapes that are not such a model's, and features that do not fit it.
        """
        found = _satorras.read(state_dict, elements, features)
        model = cls(
            **found.config,
            cutoff=cutoff,
            smooth=False,
            normalize=normalize,
            tanh=tanh,
            aggregation=aggregation,
            residual=residual,
            readout=readout,
            elements=elements,
        ).to(found.dtype)
        _satorras.load(model, found, elements)
        return model
