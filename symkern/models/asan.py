"""ASAN: a learned rotation, second-order pooling and a small network; its published code; one without its limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from symkern.models._config import keeps_config
from symkern.models._dense import (
    LARGEST_Z,
    centered,
    check_molecules,
    check_sizes,
    molecules_of,
    padded,
    regressed,
    regressor,
)
from symkern.models._graph import graph_of
from symkern.neighbors import Neighbors
from symkern.nn.asan import LearnedRotation, ScaledAngles
from symkern.nn.basic import check_choice, check_positive, mlp
from symkern.nn.cfconv import CFConv
from symkern.ops.edge_vectors import edge_vectors
from symkern.ops.safe_norm import safe_norm
from symkern.ops.second_order_pool import second_order_pool
from symkern.ops.segment_sum import segment_sum

MAX_ATOMS = 15
POOLED = {"outer": 225, "gram": 225, "moment": 9}
_MASKED: dict[str, Any] = {"features": 32, "channels": 16, "num_basis": 16, "cutoff": 5.0}


class ASAN(nn.Module):
    """Adaptive Symmetry-Aware Network (Nelaka, 2025): features of centred coordinates, and an MLP 225-128-64-out.

    - variant="paper": the text. Coordinates are multiplied by one learned rotation (`symkern.nn.LearnedRotation`), and
      `symkern.second_order_pool` makes features of them. The text can be read in three ways (`pooling`): "outer", the
      first 225 entries of the upper triangle of the outer product of all coordinates, which depends on orientation and
      order of atoms; "gram", all scalar products between atoms, which the rotation leaves as they are; "moment", the
      3 x 3 matrix of its eq. (1).
    - variant="released": the code published with it. Five learned factors of polar and azimuthal angle
      (`symkern.nn.ScaledAngles`) give 5 x 45 coordinates.
    - variant="masked": without the limits that the paper names in section 9, at no more parameters. Each atom has
      learned weights, of its element and its neighborhood; pooled are their sums (C) and the weighted 3 x 3 moments of
      the rotated coordinates (9 C). Any number of atoms, in any order; sums run over atoms that are there, so that no
      padding needs a mask.

    The first two know coordinates only, not elements, and at most 15 atoms ("moment": any number). None is invariant
    under rotations, except with pooling="gram".

    Args:
        out: width of the output.
        variant: see above.
        pooling: "outer" (also where None), "gram" or "moment", for variant="paper" only.
        num_angles: d, angles of the rotation (0 for none), or factors for "released".
        hidden: widths of the MLP; batch norm, ReLU and dropout follow each.
        dropout: its rate.
        features, channels, num_basis, cutoff: of "masked": width of an atom's embedding and of the filters of its
            neighborhood (by default 32), weights C per atom (16), functions of the radial basis (16), Å (5).

    Raises:
        ValueError: a setting out of range, or one that the variant does not use.
    """

    config: dict[str, Any]

    @keeps_config
    def __init__(
        self,
        out: int = 1,
        *,
        variant: str = "paper",
        pooling: str | None = None,
        num_angles: int = 5,
        hidden: Sequence[int] = (128, 64),
        dropout: float = 0.2,
        features: int | None = None,
        channels: int | None = None,
        num_basis: int | None = None,
        cutoff: float | None = None,
    ) -> None:
        super().__init__()
        check_choice("variant", variant, ("paper", "released", "masked"))
        if variant != "paper" and pooling is not None:
            raise ValueError(f"pooling is a setting of variant='paper', got {pooling!r} for {variant!r}")
        own = {"features": features, "channels": channels, "num_basis": num_basis, "cutoff": cutoff}
        for name, value in own.items():
            if variant != "masked" and value is not None:
                raise ValueError(f"{name} is a setting of variant='masked', got {value!r} for {variant!r}")
        pooling = pooling or "outer"
        check_choice("pooling", pooling, tuple(POOLED))
        self.variant, self.pooling = variant, pooling
        self.cutoff: float | None = None
        if variant == "released":
            self.angles = ScaledAngles(num_angles)
            width = 3 * MAX_ATOMS * num_angles
        else:
            self.rotation = LearnedRotation(num_angles)
            width = POOLED[pooling]
        if variant == "masked":
            used = _MASKED | {name: value for name, value in own.items() if value is not None}
            check_positive(channels=used["channels"])
            self.weights = AtomWeights(**used)
            self.cutoff, width = used["cutoff"], 10 * used["channels"]
        self.regressor = regressor(width, out, hidden, dropout)

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
        """Outputs of B molecules; those of a training step share the statistics of batch norm.

        Args:
            z: (N,) int64 atomic numbers, 1 to 99; only "masked" tells them apart.
            pos: (N, 3) Å, dtype of the parameters.
            batch: (N,) int64, sorted; None for one molecule.
            cell, pbc: for calls like those of other models; periodic structures are refused.
            nb: graph of these atoms, used by "masked"; the others take only from it which atom is in which molecule.

        Returns:
            (B, out).

        Raises:
            TypeError, ValueError: arguments that do not fit, a periodic structure, more than 15 atoms in a molecule
                unless "masked" or with pooling="moment", a single molecule in training mode.
        """
        dtype = next(self.regressor.parameters()).dtype
        if self.cutoff is None:
            ptr, batch = molecules_of(z, pos, batch, cell, pbc, nb, dtype)
            features = self._of_coordinates(centered(pos, ptr, batch), ptr, batch)
        else:
            check_molecules(cell, pbc)
            nb = graph_of(z, pos, batch, None, None, nb, self.cutoff, LARGEST_Z, dtype)
            features = self._of_atoms(z, centered(pos, nb.ptr, nb.batch), nb)
        return regressed(self.regressor, features).to(pos.dtype)

    def _of_coordinates(self, x: Tensor, ptr: Tensor, batch: Tensor) -> Tensor:
        if self.variant == "released":
            return padded(self.angles(x), ptr, batch, MAX_ATOMS).transpose(1, 2).flatten(1)
        if self.pooling != "moment":
            check_sizes(ptr, MAX_ATOMS)
        return second_order_pool(x, self.rotation(), ptr, self.pooling)

    def _of_atoms(self, z: Tensor, x: Tensor, nb: Neighbors) -> Tensor:
        weights = self.weights(z, safe_norm(edge_vectors(x, nb)), nb)
        moments = second_order_pool(x, self.rotation(), nb.ptr, "moment", weights=weights)
        return torch.cat([segment_sum(weights, nb.ptr), moments], 1)


class AtomWeights(nn.Module):
    """(N, channels) weights of atoms, of their element and of elements and distances around them."""

    def __init__(self, channels: int, features: int, num_basis: int, cutoff: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(LARGEST_Z + 1, features, padding_idx=0)
        self.neighborhood = CFConv(features, features, num_basis, cutoff)
        self.weigh = mlp([features, features, channels], nn.SiLU)

    def forward(self, z: Tensor, d: Tensor, nb: Neighbors) -> Tensor:
        h = self.embedding(z)
        weights: Tensor = self.weigh(h + self.neighborhood(h, d, nb))
        return weights
