"""A network for any property of structures, with the mean and spread of its target."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from symkern import saved
from symkern.potential import exact_buffers

if TYPE_CHECKING:
    from symkern.data import Dataset


class Normalized(nn.Module):
    """mean + std * model(...): networks learn numbers around 1, properties come in any unit. Called as the model is.

    Args:
        model: a network of `symkern.models`.
        mean, std: numbers, or one for each output.
        target: name of the property, for whoever loads it later.

    Attributes:
        config: all that is not a weight, as plain values.

    Raises:
        ValueError: a mean that is not finite, a std that is not positive, unequal lengths.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: nn.Module, *, mean: Sequence[float] | float, std: Sequence[float] | float, target: str = ""
    ) -> None:
        super().__init__()
        of, by = (torch.tensor(x, dtype=torch.float64).reshape(-1) for x in (mean, std))
        if of.shape != by.shape or not bool(of.isfinite().all()) or not bool(((by > 0) & (by < math.inf)).all()):
            raise ValueError(f"mean must be finite and std positive, of equal lengths, got {mean} and {std}")
        self.model, self.target = model, target
        self.register_buffer("mean", of)
        self.register_buffer("std", by)

    @property
    def cutoff(self) -> float:
        """Å."""
        return float(self.model.cutoff)  # type: ignore[arg-type]

    @property
    def config(self) -> dict[str, Any]:
        return {
            "model": type(self.model).__name__,
            "model_config": dict(self.model.config),  # type: ignore[arg-type]
            **self._settings(),
        }

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """(B, out) float64 in the unit of the target; arguments and errors as of the model."""
        out: Tensor = self.mean + self.std * self.model(*args, **kwargs).double()
        return out

    @classmethod
    def fit(cls, model: nn.Module, dataset: Dataset, target: str) -> Normalized:
        """Mean and standard deviation of a property of the training set, for each of its components.

        The output of a network that sums over atoms grows with their number: for a property that does not, such as an
        orbital energy, use ``readout="mean"``.

        Where outputs turn with the molecule (an attribute ``turns`` of the model says so: `PaiNN` and `SANN` unless
        they give scalars, and all of `models.vector_outputs`), the mean is 0 and all components share one spread, their
        root mean square: anything else would prefer directions. Their target may also be one of atoms.

        Raises:
            ValueError: no such property of structures, or an empty dataset.
        """
        turns = getattr(model, "turns", False)
        known = dataset.targets if turns else dataset.per_structure
        if target not in known or not len(dataset):
            found = ", ".join(known) or "none"
            raise ValueError(f"target must be a property of the dataset's structures, got {target!r}; found: {found}")
        if turns:
            size = float(known[target].double().square().mean().sqrt())
            return cls(model, mean=0.0, std=size if size > 0 else 1.0, target=target)
        values = known[target].double().reshape(len(dataset), -1)
        spread = values.std(0, correction=0)
        spread = torch.where(spread > 0, spread, 1.0)
        return cls(model, mean=values.mean(0).tolist(), std=spread.tolist(), target=target)

    def save(self, path: Path | str) -> None:
        """Write weights and settings to one file, which `symkern.load_model` reads.

        Raises:
            ValueError, OSError: as `symkern.saved.save`.
        """
        saved.save(path, "Normalized", self.model, self._settings())

    def _settings(self) -> dict[str, Any]:
        return {"mean": self.mean.tolist(), "std": self.std.tolist(), "target": self.target}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Normalized:
        with exact_buffers(self, "mean", "std"):
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def extra_repr(self) -> str:
        return f"{self.target}, mean={self.mean.tolist()}, std={self.std.tolist()}"


def load_model(path: Path | str, *, device: torch.device | str = "cpu") -> nn.Module:
    """The `Potential` or `Normalized` that a `save` wrote. Nothing in the file is executed.

    Raises:
        FileNotFoundError, ModelFileError: as `symkern.saved.load`.
    """
    from symkern.potential import Potential

    return saved.load(path, {"Potential": Potential, "Normalized": Normalized}, device)
