"""What is learned: energies and forces, or any property."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from symkern.energy import energy_and_forces
from symkern.training.interfaces import Term


@dataclass(frozen=True)
class EnergyForces:
    """Energies and their derivatives, of a model that gives one energy per structure.

    Loss: energy_weight * error of the energies + forces_weight * that of the force components + stress_weight * that of
    the stress components, as mean squares or mean absolute values. What has weight 0 is not computed, apart from
    energies.

    Terms: energy_mse, energy_mae (per structure, or per atom with `per_atom`), forces_mse, forces_mae, stress_mse,
    stress_mae, in the units of the targets "energy" (B,), "forces" (N, 3) and "stress" (B, 3, 3) of the batch, which
    must be those of the model. Errors of energies are taken in fp64.

    Args:
        energy_weight, forces_weight, stress_weight: not negative, not all zero.
        per_atom: divide the error of an energy by the number of atoms.
        loss: "mse" or "mae".

    Raises:
        ValueError: weights out of range, an unknown loss; when called, a target that the batch lacks, that has
            another shape, or that is in another unit than the model.
    """

    energy_weight: float = 1.0
    forces_weight: float = 1.0
    stress_weight: float = 0.0
    per_atom: bool = False
    loss: str = "mse"

    def __post_init__(self) -> None:
        weights = (self.energy_weight, self.forces_weight, self.stress_weight)
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            raise ValueError(f"weights must be finite, not negative and not all zero, got {weights}")
        if self.loss not in ("mse", "mae"):
            raise ValueError(f"loss must be 'mse' or 'mae', got {self.loss!r}")

    @property
    def objective(self) -> dict[str, float]:
        weights = {"energy": self.energy_weight, "forces": self.forces_weight, "stress": self.stress_weight}
        return {f"{name}_{self.loss}": weight for name, weight in weights.items() if weight}

    def __call__(self, model: nn.Module, batch: Any) -> dict[str, Term]:
        place = {"cell": batch.cell, "pbc": batch.pbc, "nb": batch.nb}
        with_forces, with_stress = self.forces_weight > 0, self.stress_weight > 0
        if with_forces or with_stress:
            found = energy_and_forces(
                model,
                batch.z,
                batch.pos,
                batch.batch,
                **place,
                stress=with_stress,
                create_graph=torch.is_grad_enabled(),
            )
        else:
            found = (model(batch.z, batch.pos, batch.batch, **place).flatten(),)
        _check_unit(model, batch)
        error = found[0].double() - _target(batch, "energy", found[0].shape, self).double()
        if self.per_atom:
            error = error / batch.ptr.diff()
        terms = _mse_and_mae("energy", error)
        if with_forces:
            terms |= _mse_and_mae(
                "forces", found[1] - _target(batch, "forces", found[1].shape, self).to(found[1].dtype)
            )
        if with_stress:
            terms |= _mse_and_mae(
                "stress", found[2] - _target(batch, "stress", found[2].shape, self).to(found[2].dtype)
            )
        return terms


@dataclass(frozen=True)
class Property:
    """A property the model gives directly: of structures, (B,) or (B, out), or of atoms, (N, out).

    The models of symkern give properties of structures; `PaiNN` with head="vector", `SANN` and most of
    `symkern.models.vector_outputs` give vectors of atoms. Others of atoms need a module of yours around the model.
    `symkern.Normalized` takes care of mean and spread.

    Loss: the mean over all entries of "mse" (squared error), "mae" (absolute error) or "huber" (squared error / 2 up to
    `delta`, linear beyond). Terms: NAME_LOSS, and NAME_mae in the unit of the target.

    Args:
        name: of the target in the batch.
        loss: "mse", "mae" or "huber".
        delta: for "huber", in the unit of the target.

    Raises:
        ValueError: an unknown loss, a delta that is not positive; when called, a target that the batch lacks or whose
            shape is not that of the model's output ((B,) and (B, 1) are the same).
    """

    name: str
    loss: str = "mse"
    delta: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a string, one target, got {self.name!r}")
        if self.loss not in _ELEMENT_LOSSES:
            raise ValueError(f"loss must be one of {', '.join(map(repr, _ELEMENT_LOSSES))}, got {self.loss!r}")
        if not 0 < self.delta < math.inf:
            raise ValueError(f"delta must be positive and finite, got {self.delta}")

    @property
    def objective(self) -> Mapping[str, float]:
        return {f"{self.name}_{self.loss}": 1.0}

    def __call__(self, model: nn.Module, batch: Any) -> dict[str, Term]:
        output = model(batch.z, batch.pos, batch.batch, cell=batch.cell, pbc=batch.pbc, nb=batch.nb)
        if output.dim() == 2 and output.shape[1] == 1:
            output = output.squeeze(1)
        error = (output - _target(batch, self.name, output.shape, self)).double()
        terms = {f"{self.name}_mae": (error.abs().sum(), error.numel())}
        if self.loss == "mse":
            terms[f"{self.name}_mse"] = (error.square().sum(), error.numel())
        elif self.loss == "huber":
            huber = functional.huber_loss(error, torch.zeros_like(error), reduction="sum", delta=self.delta)
            terms[f"{self.name}_huber"] = (huber, error.numel())
        return terms


_ELEMENT_LOSSES = ("mse", "mae", "huber")


def _mse_and_mae(name: str, error: Tensor) -> dict[str, Term]:
    count = error.numel()
    return {f"{name}_mse": (error.square().sum(), count), f"{name}_mae": (error.abs().sum(), count)}


def _check_unit(model: nn.Module, batch: Any) -> None:
    """Raise ValueError if model and batch both know their unit of energy and disagree."""
    ours, theirs = getattr(model, "energy_unit", None), getattr(batch, "energy_unit", None)
    if None not in (ours, theirs) and ours != theirs:
        raise ValueError(
            f"the model is in {ours}, but the targets are in {theirs}: convert them with in_unit({ours!r})"
        )


def _target(batch: Any, name: str, shape: torch.Size, task: object) -> Tensor:
    """The target, as (B,) if it is (B, 1)."""
    if name not in batch.targets:
        raise ValueError(
            f"{type(task).__name__} needs the target {name!r}, but the batch has {sorted(batch.targets) or 'none'}"
        )
    target: Tensor = batch.targets[name]
    if target.dim() == 2 and target.shape[1] == 1:
        target = target.squeeze(1)
    if target.shape != shape:
        raise ValueError(
            f"target {name!r} must have the shape of the model's output, {tuple(shape)}, got {tuple(target.shape)}"
        )
    return target
