"""A potential: a network with what turns its output into energies: references, scale and unit, in one file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from symkern import saved
from symkern.neighbors import Neighbors
from symkern.nn.basic import check_positive
from symkern.ops.segment_sum import segment_sum
from symkern.units import check_energy_unit

if TYPE_CHECKING:
    from symkern.data import Dataset

_ELEMENTS = 119


class Potential(nn.Module):
    """E = sum_i reference(z_i) + scale * model(...), in `energy_unit`.

    Networks learn numbers around 1; total energies are thousands of times larger and mostly a sum over elements.
    The sum is taken in fp64, since fp32 resolves -97,000 kcal/mol only to 0.01. Called as the model is.

    Args:
        model: a network of `symkern.models` with one output.
        references: energy of each element (atomic number to energy); elements not listed are refused, and without a
            list nothing is added.
        scale: unit of the network's output.
        energy_unit: "eV", "Ha", "kcal/mol" or another of `symkern.units`. Lengths are Å.

    Attributes:
        config: all that is not a weight, as plain values.
        scale: () float64, and table: (119,) float64 energies by atomic number, NaN where there is none, or None. They
            are buffers: weights of a potential bring them along.

    Raises:
        ValueError: a model whose outputs turn with the molecule (`PaiNN` with other heads than "scalar"), a scale that
            is not positive, a reference that is not finite, an unknown unit.
    """

    scale: Tensor
    table: Tensor | None

    def __init__(
        self,
        model: nn.Module,
        *,
        references: Mapping[int, float] | None = None,
        scale: float = 1.0,
        energy_unit: str = "eV",
    ) -> None:
        super().__init__()
        if getattr(model, "turns", False):
            raise ValueError(
                "model must give energies, not vectors (PaiNN with head='scalar', SANN with output='scalar'): "
                "symkern.Normalized takes the others"
            )
        check_positive(scale=scale)
        check_energy_unit(energy_unit, "energy_unit")
        for z, energy in (references or {}).items():
            if not 1 <= z < _ELEMENTS or not math.isfinite(energy):
                raise ValueError(f"references must map atomic numbers to finite energies, got {z}: {energy}")
        self.model, self.energy_unit = model, energy_unit
        self.register_buffer("scale", torch.tensor(float(scale), dtype=torch.float64))
        self.register_buffer("table", None if references is None else _table(references))

    @property
    def cutoff(self) -> float:
        """Å."""
        return float(self.model.cutoff)  # type: ignore[arg-type]

    @property
    def references(self) -> dict[int, float] | None:
        """Energy of each element, or None."""
        if self.table is None:
            return None
        return {z: energy for z, energy in enumerate(self.table.tolist()) if math.isfinite(energy)}

    @property
    def config(self) -> dict[str, Any]:
        return {
            "model": type(self.model).__name__,
            "model_config": dict(self.model.config),  # type: ignore[arg-type]
            **self._settings(),
        }

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
        """(B, 1) float64 energies in `energy_unit`; arguments and errors as of the model.

        Raises:
            ValueError: also for an element without a reference energy.
        """
        energy: Tensor = self.scale * self.model(z, pos, batch, cell=cell, pbc=pbc, nb=nb).double()
        if energy.dim() != 2 or energy.shape[1] != 1:
            raise ValueError(f"model must have one output, (B, 1), got {tuple(energy.shape)}")
        if self.table is None:
            return energy
        own = self.table[z]
        if not torch.compiler.is_compiling() and not own.is_cuda and not bool(own.isfinite().all()):
            missing = sorted(set(z[~own.isfinite()].tolist()))
            known = list(self.references or {})
            raise ValueError(f"z holds elements without a reference energy: {missing}; known: {known}")
        owner = torch.zeros_like(z) if batch is None else batch
        ptr = torch.searchsorted(owner, torch.arange(len(energy) + 1, device=z.device))
        total: Tensor = energy + segment_sum(own.unsqueeze(1), ptr)
        return total

    @classmethod
    def fit(cls, model: nn.Module, dataset: Dataset, *, references: Mapping[int, float] | None = None) -> Potential:
        """A potential normalised for a training set.

        Reference energies are the least-squares fit of the energies by composition (the shortest solution where
        compositions are linearly dependent, as for frames of one molecule). The scale is the root mean square of the
        force components, so that the network's forces are of order 1 / Å; without forces it is the standard deviation
        of the energies left.

        Args:
            dataset: with energies, and with forces if there are any; its unit becomes that of the potential.
            references: use these instead of a fit.

        Raises:
            ValueError: an empty dataset, one without energies or without their unit, an element that the given
                `references` lack.
        """
        energy, forces = dataset.per_structure.get("energy"), dataset.per_atom.get("forces")
        if energy is None or not len(energy):
            found = ", ".join(dataset.per_structure) or "nothing"
            raise ValueError(
                f"dataset must hold at least one energy to fit reference energies; it has, per structure: {found}"
            )
        if dataset.energy_unit is None:
            raise ValueError(
                "dataset must state its energy_unit, for example Dataset.read(path, energy_unit='kcal/mol')"
            )
        elements, column = torch.unique(dataset.z, return_inverse=True)
        owner = torch.repeat_interleave(torch.arange(len(energy)), dataset.ptr.diff())
        counts = torch.zeros(len(energy), len(elements), dtype=torch.float64)
        counts.index_put_((owner, column), torch.ones(len(column), dtype=torch.float64), accumulate=True)
        if references is None:
            found = torch.linalg.lstsq(counts, energy.double().unsqueeze(1), driver="gelsd").solution.squeeze(1)
            references = dict(zip(elements.tolist(), found.tolist(), strict=True))
        missing = [z for z in elements.tolist() if z not in references]
        if missing:
            raise ValueError(f"references must hold every element of the dataset, missing: {missing}")
        left = energy.double() - counts @ torch.tensor([references[z] for z in elements.tolist()], dtype=torch.float64)
        spread = forces.double().square().mean().sqrt() if forces is not None else left.std(correction=0)
        scale = float(spread) if spread > 0 else 1.0
        return cls(model, references=references, scale=scale, energy_unit=dataset.energy_unit)

    def tabulate(self, tolerance: float = 1e-5, slope_tolerance: float = 1e-4) -> Potential:
        """The same potential for inference and dynamics, its filters in tables; see `symkern.nn.CFConv.tabulate`.

        Save this one, and tabulate after loading: tables are not saved.

        Args:
            tolerance, slope_tolerance: largest errors of the filters and of their derivatives, relative to the largest.

        Raises:
            ValueError: a network without filters to tabulate (only SchNet has them), tolerances out of reach.
            RuntimeError: tabulated already.
        """
        if not hasattr(self.model, "tabulate"):
            raise ValueError(f"model must have filters to tabulate, as SchNet has, got {type(self.model).__name__}")
        network = self.model.tabulate(tolerance, slope_tolerance)  # type: ignore[operator]
        made = type(self)(network, **self._settings())
        return made.to(self.scale.device).eval()

    def save(self, path: Path | str) -> None:
        """Write weights and settings to one file, which `load_potential` reads on any machine.

        Raises:
            ValueError, OSError: as `symkern.saved.save`.
        """
        saved.save(path, "Potential", self.model, self._settings())

    def _settings(self) -> dict[str, Any]:
        return {"references": self.references, "scale": float(self.scale), "energy_unit": self.energy_unit}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Potential:
        with exact_buffers(self, "scale", "table"):
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def extra_repr(self) -> str:
        return f"scale={self.scale:g} {self.energy_unit}, elements={list(self.references or {})}"


def _table(references: Mapping[int, float]) -> Tensor:
    table = torch.full((_ELEMENTS,), math.nan, dtype=torch.float64)
    for z, energy in references.items():
        table[int(z)] = float(energy)
    return table


@contextmanager
def exact_buffers(module: nn.Module, *names: str) -> Iterator[None]:
    """Keep these buffers in fp64 through module.float() and module.half(), which would round energies."""
    exact = {name: getattr(module, name) for name in names}
    yield
    for name, value in exact.items():
        if value is not None:
            setattr(module, name, value.to(getattr(module, name).device))


def load_potential(path: Path | str, *, device: torch.device | str = "cpu") -> Potential:
    """The potential that `Potential.save` wrote. Nothing in the file is executed.

    Raises:
        FileNotFoundError: no such file.
        ModelFileError: a damaged or truncated file, one of another kind or version, an unknown network, weights that
            do not fit or are not finite.
    """
    return cast(Potential, saved.load(path, {"Potential": Potential}, device))
