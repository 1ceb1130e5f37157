"""SchNet: continuous-filter convolutions on a molecule's distances."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from symkern.models._config import keeps_config
from symkern.models._graph import graph_of
from symkern.neighbors import Neighbors
from symkern.nn.basic import ShiftedSoftplus, check_choice, check_positive, mlp, xavier
from symkern.nn.cfconv import CFConv
from symkern.nn.tabulated import TabulatedCFConv
from symkern.ops.edge_vectors import edge_vectors
from symkern.ops.safe_norm import safe_norm
from symkern.ops.segment_sum import segment_mean, segment_sum

_LARGEST_Z = 99


class SchNet(nn.Module):
    """Schütt et al., J. Chem. Phys. 148, 241722 (2018), with the cosine cutoff; invariant under O(3) and translations.

    Each interaction is h + W2 ssp(CFConv(h)); the output is the sum (or mean) over atoms of an MLP of their features.

    Args:
        out: width of the output.
        hidden: features per atom.
        num_filters: width of the filters.
        num_interactions: how many interactions.
        num_basis: functions of the radial basis.
        cutoff: Å.
        readout: "sum" (extensive, as energies are) or "mean".
        kind: radial basis, see `symkern.radial_basis`.
        trainable_basis: learn the parameters of the basis.
        atom_offsets: learn an output per element, added to that of the atom's MLP.

    Raises:
        ValueError: a setting out of range.
    """

    config: dict[str, Any]

    @keeps_config
    def __init__(
        self,
        out: int = 1,
        hidden: int = 128,
        num_filters: int = 128,
        num_interactions: int = 6,
        num_basis: int = 50,
        cutoff: float = 5.0,
        *,
        readout: str = "sum",
        kind: str = "gaussian",
        trainable_basis: bool = False,
        atom_offsets: bool = False,
    ) -> None:
        super().__init__()
        check_positive(out=out, hidden=hidden, num_interactions=num_interactions)
        check_choice("readout", readout, ("sum", "mean"))
        self.cutoff, self.readout = float(cutoff), readout
        self.embedding = nn.Embedding(_LARGEST_Z + 1, hidden, padding_idx=0)
        self.interactions = nn.ModuleList(
            Interaction(hidden, num_filters, num_basis, cutoff, kind, trainable_basis) for _ in range(num_interactions)
        )
        self.head = mlp([hidden, max(hidden // 2, 1), out], ShiftedSoftplus)
        for layer in (self.head[0], self.head[2]):
            assert isinstance(layer, nn.Linear)
            xavier(layer)
        self.offsets = nn.Embedding(_LARGEST_Z + 1, out, padding_idx=0) if atom_offsets else None
        if self.offsets is not None:
            nn.init.zeros_(self.offsets.weight)

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
            z: (N,) int64 atomic numbers, 1 to 99.
            pos: (N, 3) Å, dtype of the parameters.
            batch: (N,) int64, sorted; None for one structure.
            cell, pbc: see `symkern.neighbor_list`.
            nb: graph of these atoms; pairs beyond the cutoff do no harm.

        Returns:
            (B, out).

        Raises:
            TypeError, ValueError: arguments that do not fit, an atomic number outside the embedding.
        """
        nb = graph_of(z, pos, batch, cell, pbc, nb, self.cutoff, _LARGEST_Z, self.embedding.weight.dtype)
        y = self.head(self._layers(z, pos, cell, nb)).to(
            pos.dtype
        )  # autocast leaves bf16, which is no type to add up in
        if self.offsets is not None:
            y = y + self.offsets(z)
        return (segment_sum if self.readout == "sum" else segment_mean)(y, nb.ptr)

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
        """(N, hidden) features after the last interaction, invariant; arguments and errors as in `forward`."""
        nb = graph_of(z, pos, batch, cell, pbc, nb, self.cutoff, _LARGEST_Z, self.embedding.weight.dtype)
        return self._layers(z, pos, cell, nb)

    def _layers(self, z: Tensor, pos: Tensor, cell: Tensor | None, nb: Neighbors) -> Tensor:
        d = safe_norm(edge_vectors(pos, nb, cell))
        h: Tensor = self.embedding(z)
        for interaction in self.interactions:
            h = h + interaction(h, d, nb)
        return h

    def tabulate(self, tolerance: float = 1e-5, slope_tolerance: float = 1e-4) -> SchNet:
        """A copy for inference and dynamics whose filters are tables; see `symkern.nn.CFConv.tabulate`.

        It is no longer the network that `config` describes: save this one, and tabulate after loading.
        """
        model = copy.deepcopy(self)
        for interaction, own in zip(model.interactions, self.interactions, strict=True):
            assert isinstance(interaction, Interaction)
            if not isinstance(own.conv, CFConv):
                raise RuntimeError("this network is tabulated already: tabulate the one that it was made from")
            interaction.conv = own.conv.tabulate(tolerance, slope_tolerance)
        return model.requires_grad_(False).eval()

    @classmethod
    def from_pyg(cls, module: nn.Module) -> SchNet:
        """The same network as a `torch_geometric.nn.models.SchNet`, with its weights.

        PyG keeps at most `max_num_neighbors` = 32 neighbors of an atom and drops the others without a word: raise
        that number where the two are compared.

        Raises:
            TypeError: `module` is no such SchNet.
            ValueError: it predicts dipoles, which this class does not.
        """
        names = ("embedding", "interactions", "distance_expansion", "lin1", "lin2", "cutoff", "readout")
        if any(not hasattr(module, name) for name in names):
            raise TypeError(f"module must be torch_geometric.nn.models.SchNet, got {type(module)}")
        if getattr(module, "dipole", False):
            raise ValueError("module must have dipole=False: symkern's SchNet has scalar outputs")
        state = module.state_dict()
        # a name, or a module such as SumAggregation()
        given = module.readout if isinstance(module.readout, str) else type(module.readout).__name__
        readout = _READOUTS.get(given.removesuffix("Aggregation").lower())
        if readout is None:
            raise ValueError(f"module must have readout add, sum or mean, got {module.readout}")
        model = cls(
            out=state["lin2.weight"].shape[0],
            hidden=state["embedding.weight"].shape[1],
            num_filters=state["interactions.0.mlp.0.weight"].shape[0],
            num_interactions=len(module.interactions),  # type: ignore[arg-type]
            num_basis=state["distance_expansion.offset"].shape[0],
            cutoff=float(module.cutoff),  # type: ignore[arg-type]
            readout=readout,
            atom_offsets="atomref.weight" in state,
        )
        model = model.to(state["lin2.weight"].dtype)
        model.load_state_dict(_renamed(state, module))
        return model


class Interaction(nn.Module):
    """W2 ssp(CFConv(h)) + b2, what an interaction adds to the features."""

    def __init__(
        self, hidden: int, num_filters: int, num_basis: int, cutoff: float, kind: str, trainable_basis: bool
    ) -> None:
        super().__init__()
        self.conv: CFConv | TabulatedCFConv = CFConv(
            hidden, num_filters, num_basis, cutoff, kind=kind, trainable_basis=trainable_basis
        )
        self.activation = ShiftedSoftplus()
        self.linear = xavier(nn.Linear(hidden, hidden))

    def forward(self, h: Tensor, d: Tensor, nb: Neighbors) -> Tensor:
        out: Tensor = self.linear(self.activation(self.conv(h, d, nb)))
        return out


_READOUTS = {"add": "sum", "sum": "sum", "mean": "mean"}
_NAMES = {
    "mlp.0": "conv.filter.0",
    "mlp.2": "conv.filter.2",
    "conv.lin1": "conv.input",
    "conv.lin2": "conv.output",
    "lin": "linear",
}


def _renamed(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """PyG's parameters under our names; its scaling of the outputs (mean, std, scale) goes into the last layer."""
    found: dict[str, Tensor] = {"embedding.weight": state["embedding.weight"]}
    for key, value in state.items():
        if key.startswith("interactions."):
            _, index, rest = key.split(".", 2)
            layer, _, kind = rest.rpartition(".")
            if rest.startswith("conv.nn."):
                continue  # the same tensors as mlp, listed twice
            found[f"interactions.{index}.{_NAMES[layer]}.{kind}"] = value
    for ours, theirs in (("head.0", "lin1"), ("head.2", "lin2")):
        for kind in ("weight", "bias"):
            found[f"{ours}.{kind}"] = state[f"{theirs}.{kind}"]
    mean, std, scale = (getattr(module, name, None) for name in ("mean", "std", "scale"))
    if mean is not None and std is not None:
        found["head.2.weight"] = found["head.2.weight"] * std
        found["head.2.bias"] = found["head.2.bias"] * std + mean
    if "atomref.weight" in state:
        found["offsets.weight"] = state["atomref.weight"]
    if scale is not None:
        for key in ("head.2.weight", "head.2.bias", "offsets.weight"):
            if key in found:
                found[key] = found[key] * scale
    with torch.no_grad():
        return {key: value.detach().clone() for key, value in found.items()}
