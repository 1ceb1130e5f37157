"""SANN: a network that can break the symmetry of a molecule."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from symkern._check import check_instance
from symkern.canonical import Canonical
from symkern.models._config import keeps_config
from symkern.models._graph import check_atoms
from symkern.neighbors import Neighbors, check_neighbors
from symkern.nn.basic import check_choice, check_positive, mlp
from symkern.nn.sann import SANNLayer
from symkern.ops.canonical_frames import canonicalize
from symkern.ops.segment_sum import segment_sum
from symkern.sann import SannGraphs, sann_edge_features, sann_graphs

_OUTPUTS = ("vector", "dipole", "scalar")


class SANN(nn.Module):
    """Learning Molecular Symmetry Breaking via Symmetry-Adapted Neural Networks, section 5: messages within and across
    classes of equivalent atoms, in the canonical frame F of each molecule.

    f_i starts from canonical coordinates and species, passes `symkern.nn.SANNLayer`s, and ends in an MLP phi:

    - "vector": (N, 3), the vectors F phi(f_i) of the atoms;
    - "dipole": (B, 3), sum_i q_i (x_i - c) + F phi(f_i), with charges q_i of the same MLP and the centroid c;
    - "scalar": (B, out), sum_i phi(f_i).

    Vectors are relaxed equivariant under O(3): v(g x) = g s v(x) with an operation s of the molecule, so that they may
    have less symmetry than the molecule; train them with `symkern.symmetric_mse` or another symmetric loss. Scalars are
    invariant. Where canonical frames jump, so do outputs; the ``gap`` of `symkern.Canonical` says how near that is.

    The paper leaves open: how x and species are joined (here one linear map of [x, embedding] to `hidden`), the maps in
    the layers, and the scale of the edge features (here without unit: those of `symkern.spherical_features` times
    cutoff^(3/2), as ComENet's code has them).

    Args:
        out: width of the output, for "scalar".
        hidden: features per atom, class and molecule.
        num_layers: how many layers.
        num_spherical, num_radial: orders and radial functions of the edge features.
        output: see above.
        cutoff: Å, length scale of the radial functions, and the radius of the graph of molecules without symmetry.
        tolerance: Å, of the symmetry operations, see `symkern.stabilizers`.
        max_z: the largest atomic number.

    Raises:
        ValueError: a setting out of range, or one that the output does not use.
    """

    config: dict[str, Any]

    @keeps_config
    def __init__(
        self,
        out: int = 1,
        hidden: int = 64,
        num_layers: int = 2,
        num_spherical: int = 3,
        num_radial: int = 3,
        *,
        output: str = "vector",
        cutoff: float = 8.0,
        tolerance: float = 0.01,
        max_z: int = 99,
    ) -> None:
        super().__init__()
        check_positive(out=out, hidden=hidden, num_layers=num_layers, cutoff=cutoff, tolerance=tolerance, max_z=max_z)
        check_choice("output", output, _OUTPUTS)
        if output != "scalar" and out != 1:
            raise ValueError(f"out is a setting of output='scalar', got {out} for {output!r}")
        for name, value in (("num_spherical", num_spherical), ("num_radial", num_radial)):
            if not 1 <= value <= 8:
                raise ValueError(f"{name} must be in 1 .. 8, got {value}")
        self.turns = output != "scalar"
        self.output, self.cutoff, self.tolerance, self.max_z = output, float(cutoff), float(tolerance), max_z
        self.num_spherical, self.num_radial = num_spherical, num_radial
        self.embedding = nn.Embedding(max_z + 1, hidden, padding_idx=0)
        self.first = nn.Linear(3 + hidden, hidden)
        width = num_radial * num_spherical * (num_spherical + 1)
        self.layers = nn.ModuleList(SANNLayer(hidden, width) for _ in range(num_layers))
        self.head = mlp([hidden, hidden, {"vector": 3, "dipole": 4, "scalar": out}[output]], nn.SiLU)

    def forward(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        *,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
        nb: Neighbors | None = None,
        canonical: Canonical | None = None,
        graphs: SannGraphs | None = None,
        features: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Outputs of B molecules, or of their N atoms. Differentiable in `pos` with frames and graphs held fixed.

        Finding symmetries, frames and graphs takes most of the time: make them once for molecules that come again.

        Args:
            z: (N,) int64 atomic numbers, 1 to `max_z`.
            pos: (N, 3) Å, dtype of the parameters.
            batch: (N,) int64, sorted; None for one molecule.
            cell, pbc: None, or not periodic: SANN is for molecules.
            nb: what other models need; SANN has graphs of its own. Without `batch` it tells the molecules apart.
            canonical: `symkern.canonicalize` of these atoms; made here with the model's tolerance if it is not given.
                Without `batch` it tells the molecules apart, too.
            graphs: `symkern.sann_graphs` of `canonical`; if given, with `canonical`.
            features: `edge_features` of both; no gradient flows through them into `pos`.

        Returns:
            (N, 3), (B, 3) or (B, out), depending on the output.

        Raises:
            TypeError, ValueError: arguments that do not fit, an atomic number outside the embedding, a periodic
                structure; what `symkern.stabilizers` raises.
        """
        check_atoms(z, pos, batch, self.max_z, self.embedding.weight.dtype)
        if cell is not None and (pbc is None or bool(pbc.any())):
            raise ValueError("cell must be None: SANN knows the symmetries of molecules, not of crystals")
        canonical, graphs = self._graphs(z, pos, batch, nb, canonical, graphs)
        within, across = self.edge_features(canonical, graphs) if features is None else features
        f = self.first(torch.cat([canonical.positions, self.embedding(z)], 1)).to(pos.dtype)
        for layer in self.layers:
            f = layer(f, within, across, graphs)
        found = self.head(f).to(pos.dtype)
        if self.output == "vector":
            return canonical.restore(found)
        if self.output == "dipole":
            found = canonical.restore(found[:, :1] * canonical.positions + found[:, 1:])
        return segment_sum(found, canonical.sym.ptr)

    def edge_features(self, canonical: Canonical, graphs: SannGraphs) -> tuple[Tensor, Tensor]:
        """Features of the edges of ``graphs.within`` and ``graphs.across``, (E, R L (L + 1)) each."""
        x = canonical.positions
        settings = (self.cutoff, self.num_spherical, self.num_radial)
        within = sann_edge_features(x, graphs.within, *settings, references=graphs.within_references)
        across = sann_edge_features(
            x[graphs.representatives], graphs.across, *settings, references=graphs.across_references
        )
        scale = self.cutoff**1.5
        return scale * torch.cat(within, 1), scale * torch.cat(across, 1)

    def _graphs(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None,
        nb: Neighbors | None,
        canonical: Canonical | None,
        graphs: SannGraphs | None,
    ) -> tuple[Canonical, SannGraphs]:
        # comparisons would have to wait for the device
        comparable = not (pos.is_cuda or torch.compiler.is_compiling())
        if nb is not None:
            check_neighbors(nb)
            if nb.num_nodes != len(z):
                raise ValueError(f"nb must be a graph of the {len(z)} atoms of z, got one of {nb.num_nodes}")
            if batch is not None and comparable and not torch.equal(nb.batch, batch):
                raise ValueError("nb must have the molecules of batch, but its ptr says otherwise")
            batch = nb.batch if batch is None else batch
        if canonical is None:
            if graphs is not None:
                raise ValueError("canonical must be given with graphs, which were made from it")
            canonical = canonicalize(pos, z, batch=batch, tolerance=self.tolerance)
        check_instance("canonical", canonical, Canonical, "symkern.canonicalize")
        if graphs is None:
            graphs = sann_graphs(canonical, self.cutoff)
        check_instance("graphs", graphs, SannGraphs, "symkern.sann_graphs")
        for name, atoms in (("canonical", len(canonical.positions)), ("graphs", graphs.within.num_nodes)):
            if atoms != len(z):
                raise ValueError(f"{name} must be of the {len(z)} atoms of z, got of {atoms}")
        if canonical.positions.dtype != pos.dtype:
            raise ValueError(f"canonical must be {pos.dtype}, as pos is, got {canonical.positions.dtype}")
        if comparable:
            sym = canonical.sym
            for what, own, given in (
                ("these positions", sym.positions, pos.detach()),
                ("these species", sym.numbers, z),
                ("the molecules of batch", sym.batch, sym.batch if batch is None else batch),
            ):
                if not torch.equal(own, given):
                    raise ValueError(f"canonical must be of {what}, got that of others: make it anew when they change")
            if not torch.equal(graphs.within.ptr, sym.ptr):
                raise ValueError("graphs must be those of canonical, got those of other molecules")
        return canonical, graphs
