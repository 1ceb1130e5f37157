"""Vectors of atoms and molecules from models that predict scalars, features or moved atoms; what breaks their symmetry.

All are called as ``module(z, pos, batch, cell=, pbc=, nb=)``, like the model inside, and raise what it raises;
`MLPVectors` and `ChargeDipoles` also refuse periodic structures, which have no centroid.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from symkern._check import check_tensor
from symkern.energy import energy_and_forces
from symkern.models._dense import check_molecules
from symkern.models.egnn import EGNN
from symkern.neighbors import Neighbors, _checked_ptr
from symkern.nn.basic import check_positive, mlp
from symkern.nn.heads import centred
from symkern.ops.segment_sum import segment_sum


class _Vectors(nn.Module):
    """`turns`: what is to be learned turns with the molecule, even if the output does not quite; see `Normalized`."""

    turns = True


class GradientVectors(_Vectors):
    """v_i = -ds / dx_i of the one invariant number s that a model predicts for a structure, as forces are.

    Equivariant under O(3); the vectors of a molecule add up to zero. Source: SANN, section 6.2, for invariant models.

    Args:
        model: gives (B, 1), differentiable twice.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor, pos: Tensor, batch: Tensor | None = None, **graph: Any) -> Tensor:
        """(N, 3) in the unit of s per Å; can be trained where gradients are recorded."""
        return energy_and_forces(self.model, z, pos, batch, **graph, create_graph=torch.is_grad_enabled())[1]


class DisplacementVectors(_Vectors):
    """v_i = how far EGNN moves atom i: coordinates after the last layer minus those given. Equivariant under O(3).

    Args:
        model: EGNN; its output layers are not used.
    """

    def __init__(self, model: EGNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor, pos: Tensor, batch: Tensor | None = None, **graph: Any) -> Tensor:
        """(N, 3) Å."""
        _, x = self.model.encode(z, pos, batch, **graph)
        return x - pos


class MLPVectors(_Vectors):
    """v_i = an MLP of two layers of (x_i - c, the features of atom i): no longer equivariant, on purpose.

    c is the centroid, so that translations still change nothing. Source: SANN, section 6, "+MLP".

    Args:
        model: with ``encode``; its output layers are not used.
        width: of its features.
        hidden: width of the MLP.
        tensors: take PaiNN's vectors, 3 width more numbers, besides its scalars.
    """

    def __init__(self, model: nn.Module, width: int, hidden: int = 64, *, tensors: bool = False) -> None:
        super().__init__()
        check_positive(width=width, hidden=hidden)
        self.model, self.tensors = model, tensors
        self.mlp = mlp([3 + (4 if tensors else 1) * width, hidden, 3], nn.SiLU)

    def forward(self, z: Tensor, pos: Tensor, batch: Tensor | None = None, **graph: Any) -> Tensor:
        """(N, 3)."""
        check_molecules(graph.get("cell"), graph.get("pbc"))
        h, vectors = _features(self.model, z, pos, batch, graph)
        inputs = [centred(pos, _ptr(pos, batch, graph.get("nb"))), h]
        if self.tensors:
            if vectors is None:
                raise TypeError(f"tensors=True needs a model with vectors, got {type(self.model)}")
            inputs.append(vectors.flatten(1))
        out: Tensor = self.mlp(torch.cat(inputs, 1)).to(pos.dtype)
        return out


class ChargeDipoles(_Vectors):
    """d = sum_i q_i (x_i - c), with charges q_i linear in the features of the atoms: a dipole from an invariant model.

    For EGNN the displacements of the atoms are added. Equivariant under O(3), and independent of the origin. Gradients
    of an invariant, which add up to zero, could not do this.

    Args:
        model: with ``encode``; its output layers are not used.
        width: of its features.
    """

    def __init__(self, model: nn.Module, width: int) -> None:
        super().__init__()
        check_positive(width=width)
        self.model = model
        self.charge = nn.Linear(width, 1)

    def forward(self, z: Tensor, pos: Tensor, batch: Tensor | None = None, **graph: Any) -> Tensor:
        """(B, 3), in e Å where charges are to be in e."""
        check_molecules(graph.get("cell"), graph.get("pbc"))
        h, vectors = _features(self.model, z, pos, batch, graph)
        ptr = _ptr(pos, batch, graph.get("nb"))
        terms = self.charge(h).to(pos.dtype) * centred(pos, ptr)
        if isinstance(self.model, EGNN):
            assert vectors is not None
            terms = terms + vectors
        return segment_sum(terms, ptr)


class SummedVectors(_Vectors):
    """The sum over the atoms of each molecule of what a module gives for them.

    Args:
        vectors: gives (N, 3).
    """

    def __init__(self, vectors: nn.Module) -> None:
        super().__init__()
        self.vectors = vectors

    def forward(self, z: Tensor, pos: Tensor, batch: Tensor | None = None, **graph: Any) -> Tensor:
        """(B, 3)."""
        return segment_sum(self.vectors(z, pos, batch, **graph), _ptr(pos, batch, graph.get("nb")))


class Noisy(nn.Module):
    """A module that sees positions with Gaussian noise: equivariant on average only. Source: SANN, section 6, "+Noise".

    The paper does not say whether noise is on when models are tested. It is here, since without it the output would be
    exactly equivariant, and the paper's figures for EGNN+Noise are not those of EGNN. In training mode noise is drawn
    anew at each call, from a generator of the module's own, whose state is part of the state dict; in evaluation mode
    it is the same at each call, so that results can be repeated.

    Args:
        model: any module called as above.
        sd: Å, standard deviation of each coordinate.
        seed: of the noise.

    Raises:
        ValueError: an sd that is not positive, a negative seed.
    """

    def __init__(self, model: nn.Module, sd: float, *, seed: int = 0) -> None:
        super().__init__()
        check_positive(sd=sd)
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.model, self.sd, self.seed = model, sd, seed
        self.turns = bool(getattr(model, "turns", False))
        self._generator = torch.Generator().manual_seed(2 * seed)

    def forward(self, z: Tensor, pos: Tensor, batch: Tensor | None = None, **graph: Any) -> Tensor:
        """What the model gives for the moved atoms."""
        check_tensor("pos", pos)
        generator = self._generator if self.training else torch.Generator().manual_seed(2 * self.seed + 1)
        noise = torch.randn(pos.shape, generator=generator, dtype=pos.dtype).to(pos.device)
        out: Tensor = self.model(z, pos + self.sd * noise, batch, **graph)
        return out

    def get_extra_state(self) -> Tensor:
        return self._generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self._generator.set_state(state.cpu())

    def extra_repr(self) -> str:
        return f"sd={self.sd:g} Å, seed={self.seed}"


def _features(
    model: nn.Module, z: Tensor, pos: Tensor, batch: Tensor | None, graph: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """Invariant features (N, F), and vectors (N, 3) of EGNN or (N, 3, F) of PaiNN."""
    found = model.encode(z, pos, batch, **graph)  # type: ignore[operator]
    if isinstance(found, Tensor):
        return found, None
    h, vectors = found
    return h, vectors - pos if isinstance(model, EGNN) else vectors


def _ptr(pos: Tensor, batch: Tensor | None, nb: Neighbors | None) -> Tensor:
    if nb is not None:
        return nb.ptr
    return _checked_ptr(None, batch, len(pos), torch.empty((2, 0), dtype=torch.int64, device=pos.device))
