"""The models of SANN's tables, each as a module from prepared molecules to vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from symkern.canonical import Canonical
from symkern.models import EGNN, SANN, DimeNetPlusPlus, PaiNN, SchNet
from symkern.models._graph import complete_graph
from symkern.models.vector_outputs import (
    ChargeDipoles,
    DisplacementVectors,
    GradientVectors,
    MLPVectors,
    Noisy,
    SummedVectors,
)
from symkern.neighbors import Neighbors
from symkern.nn.basic import check_choice
from symkern.ops.canonical_frames import canonicalize
from symkern.ops.neighbor_list import neighbor_list
from symkern.sann import SannGraphs, sann_graphs

# name -> (network, what is added to it); named as in the paper, whose PaiNN is tensor-valued unless it says "vector"
_PARTS = {
    "SchNet": ("SchNet", ""),
    "DimeNet++": ("DimeNet++", ""),
    "EGNN": ("EGNN", ""),
    "PaiNN": ("PaiNN", ""),
    "PaiNN (vector)": ("PaiNN (vector)", ""),
    "EGNN+Noise": ("EGNN", "noise"),
    "PaiNN+Noise": ("PaiNN", "noise"),
    "PaiNN (vector)+Noise": ("PaiNN (vector)", "noise"),
    "SchNet+MLP": ("SchNet", "mlp"),
    "DimeNet+MLP": ("DimeNet++", "mlp"),
    "EGNN+MLP": ("EGNN", "mlp"),
    "PaiNN+MLP": ("PaiNN", "mlp"),
    "PaiNN (vector)+MLP": ("PaiNN (vector)", "mlp"),
    "SANN": ("SANN", ""),
}
MODELS = tuple(_PARTS)

# "all other hyperparameters are taken from the best-reported model for the QM9 dataset" (appendix C.3)
_DEFAULTS: dict[str, dict[str, Any]] = {
    "SchNet": {"layers": 6, "hidden": 128},
    "DimeNet++": {"layers": 4, "hidden": 128},
    "EGNN": {"layers": 7, "hidden": 128},
    "PaiNN": {"layers": 3, "hidden": 128},
    "PaiNN (vector)": {"layers": 3, "hidden": 128},
    "SANN": {"layers": 2, "hidden": 64, "num_spherical": 3, "num_radial": 3, "tolerance": 0.01},
}
_CUTOFFS = {"SchNet": 10.0, "DimeNet++": 5.0, "EGNN": None, "PaiNN": 5.0, "PaiNN (vector)": 5.0, "SANN": 8.0}
_GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "EGNN": {"layers": (1, 2, 3, 5, 7), "hidden": (32, 64, 128)},
    "SANN": {"layers": (1, 2, 3), "num_spherical": (3, 4, 6), "num_radial": (3, 4, 6)},
}
_NOISE = (1e-3, 1e-2, 1e-1)


@dataclass(eq=False, frozen=True)
class Prepared:
    """Molecules with all that models need of fixed positions; made by `VectorModel.prepare` for that model."""

    z: Tensor
    pos: Tensor
    nb: Neighbors | None = None
    canonical: Canonical | None = None
    graphs: SannGraphs | None = None
    features: tuple[Tensor, Tensor] | None = None

    def to(self, device: torch.device | str) -> Prepared:
        """A copy on `device`."""
        return Prepared(
            self.z.to(device),
            self.pos.to(device),
            None if self.nb is None else self.nb.to(device),
            None if self.canonical is None else self.canonical.to(device),
            None if self.graphs is None else self.graphs.to(device),
            None if self.features is None else (self.features[0].to(device), self.features[1].to(device)),
        )


class VectorModel(nn.Module):
    """Vectors of prepared molecules. The graph joins all atoms of a molecule, or those within `cutoff`.

    Args:
        vectors: called as ``vectors(z, pos, batch, nb=)``.
        cutoff: Å; None for complete graphs.
        margin: Å, added to the cutoff, for positions with noise.
    """

    def __init__(self, vectors: nn.Module, cutoff: float | None = None, margin: float = 0.0) -> None:
        super().__init__()
        self.vectors, self.cutoff, self.margin = vectors, cutoff, margin

    def prepare(self, z: Tensor, pos: Tensor, batch: Tensor, ptr: Tensor) -> Prepared:
        """What `forward` needs, found once for molecules whose positions stay.

        Args:
            z: (N,) int64 atomic numbers.
            pos: (N, 3) Å, converted to the dtype of the model.
            batch: (N,) int64, sorted.
            ptr: (B + 1,) int64.

        Raises:
            ValueError: shapes that do not fit, a `ptr` that does not belong to `batch`.
        """
        pos = pos.to(next(self.parameters()).dtype)
        if self.cutoff is None:
            nb = complete_graph(z, batch)
        else:
            nb = neighbor_list(pos, self.cutoff + self.margin, batch=batch)
        if not torch.equal(nb.ptr, ptr):
            raise ValueError(f"ptr must be that of batch, {nb.ptr.tolist()[:8]} ..., got {ptr.tolist()[:8]} ...")
        return Prepared(z, pos, nb)

    def forward(self, prepared: Prepared) -> Tensor:
        """(N, 3) vectors of atoms or (B, 3) of molecules."""
        assert prepared.nb is not None
        out: Tensor = self.vectors(prepared.z, prepared.pos, prepared.nb.batch, nb=prepared.nb)
        return out


class SannVectors(VectorModel):
    """SANN on prepared molecules: symmetries, frames, graphs and edge features are found once."""

    vectors: SANN

    def prepare(self, z: Tensor, pos: Tensor, batch: Tensor, ptr: Tensor) -> Prepared:
        """See `VectorModel.prepare`."""
        model = self.vectors
        pos = pos.to(model.first.weight.dtype)
        canonical = canonicalize(pos, z, batch=batch, tolerance=model.tolerance)
        if not torch.equal(canonical.sym.ptr, ptr):
            raise ValueError(f"ptr must be that of batch, got {ptr.tolist()[:8]} ...")
        graphs = sann_graphs(canonical, model.cutoff)
        with torch.no_grad():
            features = model.edge_features(canonical, graphs)
        return Prepared(z, pos, None, canonical, graphs, features)

    def forward(self, prepared: Prepared) -> Tensor:
        """See `VectorModel.forward`."""
        p = prepared
        out: Tensor = self.vectors(p.z, p.pos, canonical=p.canonical, graphs=p.graphs, features=p.features)
        return out


def make(name: str, *, per: str = "atom", seed: int, dtype: torch.dtype = torch.float32, **grid: Any) -> VectorModel:
    """One of `MODELS`, with weights that depend on `seed` alone.

    Args:
        name: of `MODELS`.
        per: "atom" for (N, 3) vectors of atoms, "molecule" for (B, 3) vectors such as dipoles: sums over atoms, of
            charges times positions in models without vectors of their own.
        seed: of weights and noise.
        dtype: of weights and positions.
        grid: settings other than the defaults: `layers`; `hidden`; `cutoff` in Å, of network and graph (None: that of
            the network's QM9 model, and graphs that join all atoms of a molecule); `noise` in Å for +Noise;
            `num_spherical`, `num_radial` and `tolerance` in Å for SANN.

    Raises:
        ValueError: an unknown name, `per` or setting.
    """
    check_choice("name", name, MODELS)
    check_choice("per", per, ("atom", "molecule"))
    network, added = _PARTS[name]
    settings = {**_DEFAULTS[network], "cutoff": None, **({"noise": 1e-2} if added == "noise" else {})}
    unknown = grid.keys() - settings.keys()
    if unknown:
        raise ValueError(f"settings of {name} are {', '.join(settings)}, got {', '.join(sorted(unknown))}")
    settings |= grid
    given = settings["cutoff"]
    settings["cutoff"] = _CUTOFFS[network] if given is None else given
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if network == "SANN":
            return SannVectors(_sann(settings, per)).to(dtype)
        vectors = _vectors(network, settings, per, added == "mlp")
    if added == "noise":
        vectors = Noisy(vectors, settings["noise"], seed=seed)
    # six standard deviations at either end of an edge; what lies beyond the cutoff adds nothing
    return VectorModel(vectors, given, 12 * settings.get("noise", 0.0)).to(dtype)


def grid(name: str) -> list[dict[str, Any]]:
    """The settings that the paper searches for a model (Tables 5 and 6, and section 6 for noise).

    Raises:
        ValueError: an unknown name.
    """
    check_choice("name", name, MODELS)
    network, added = _PARTS[name]
    axes = {**_GRIDS.get(network, {}), **({"noise": _NOISE} if added == "noise" else {})}
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def _sann(s: dict[str, Any], per: str) -> SANN:
    return SANN(
        1,
        s["hidden"],
        s["layers"],
        s["num_spherical"],
        s["num_radial"],
        output="vector" if per == "atom" else "dipole",
        cutoff=s["cutoff"],
        tolerance=s["tolerance"],
    )


def _vectors(network: str, s: dict[str, Any], per: str, with_mlp: bool) -> nn.Module:
    hidden, atoms = s["hidden"], per == "atom"
    if network == "PaiNN" and not with_mlp:
        return _painn(s, "vector" if atoms else "dipole")
    body = _BODIES[network](s, with_mlp or not atoms)
    if with_mlp:
        vectors = MLPVectors(body, hidden, tensors=network == "PaiNN")
        return vectors if atoms else SummedVectors(vectors)
    if not atoms:
        return ChargeDipoles(body, hidden)
    return DisplacementVectors(body) if isinstance(body, EGNN) else GradientVectors(body)


def _schnet(s: dict[str, Any], encoder: bool) -> nn.Module:
    return SchNet(1, s["hidden"], s["hidden"], s["layers"], 50, s["cutoff"])


def _dimenet(s: dict[str, Any], encoder: bool) -> nn.Module:
    hidden = s["hidden"]
    return DimeNetPlusPlus(
        hidden if encoder else 1,
        hidden,
        s["layers"],
        max(hidden // 2, 1),
        out_emb_channels=2 * hidden,
        cutoff=s["cutoff"],
    )


def _egnn(s: dict[str, Any], encoder: bool) -> nn.Module:
    # coordinates move by means over the other atoms, as in the paper (eq. 4)
    return EGNN(1, s["hidden"], s["layers"], cutoff=s["cutoff"], attention=True, aggregation="mean", decoder="linear")


def _painn(s: dict[str, Any], head: str) -> nn.Module:
    return PaiNN(1, s["hidden"], s["layers"], 20, s["cutoff"], head=head)


_BODIES: dict[str, Callable[[dict[str, Any], bool], nn.Module]] = {
    "SchNet": _schnet,
    "DimeNet++": _dimenet,
    "EGNN": _egnn,
    "PaiNN": lambda s, encoder: _painn(s, "scalar"),
    "PaiNN (vector)": lambda s, encoder: _painn(s, "scalar"),
}
