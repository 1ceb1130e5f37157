"""Structures with labels, as ragged tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from symkern.data import ase_files, selection
from symkern.data.archive_labels import read_labelled
from symkern.data.ase_labels import check_current, labels_of, stated_unit
from symkern.data.export import to_atoms, write_archive
from symkern.data.files import existing
from symkern.data.labels import IN_ENERGY_UNIT, Labels, Request
from symkern.data.structures import DataError, Structures
from symkern.data.validation import validate
from symkern.units import check_energy_unit, energy_factor

if TYPE_CHECKING:
    from symkern.data.loader import Loader


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """B structures with N atoms in all, and what is known about them. Checked on creation, on the CPU.

    Attributes:
        z: (N,) int64 atomic numbers.
        pos: (N, 3) Å; float64 from files.
        ptr: (B + 1,) int64; structure b owns the atoms ptr[b] .. ptr[b + 1].
        cell: (B, 3, 3), rows are lattice vectors, Å, dtype of `pos`; None where nothing is periodic.
        pbc: (B, 3) bool; None exactly where `cell` is. True everywhere if only a cell is given.
        names: B names; numbers by default.
        per_structure: properties (B, ...). "energy" (B,) is float64 in any case, as total energies of large molecules
            do not fit into float32; "stress" is (B, 3, 3) with ASE's sign, dE/dstrain over volume.
        per_atom: properties (N, ...), such as "forces" (N, 3).
        energy_unit: unit of energy, of forces per Å, of stress per Å^3; a name out of `symkern.units.ENERGY_IN_EV`.
            None where there is none of them. Other properties are in the unit of their source.
        left_out: what a file held but this does not, and why.

    Raises:
        TypeError: an argument that is not a tensor.
        ValueError: wrong shapes or dtypes, values that are not finite, an energy without unit.
    """

    z: Tensor
    pos: Tensor
    ptr: Tensor
    cell: Tensor | None = None
    pbc: Tensor | None = None
    names: Sequence[str] = ()
    per_structure: Mapping[str, Tensor] = field(default_factory=dict)
    per_atom: Mapping[str, Tensor] = field(default_factory=dict)
    energy_unit: str | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in validate(self).items():
            object.__setattr__(self, name, value)

    @classmethod
    def read(
        cls,
        path: Path | str,
        *,
        split: str | None = None,
        energy: str | None = None,
        forces: str | None = None,
        stress: str | None = None,
        energy_unit: str | None = None,
        per_structure: Sequence[str] = (),
        per_atom: Sequence[str] = (),
    ) -> Dataset:
        """Structures and every numeric property of one file: ``.npz``, ASE databases, any other format of ASE.

        Nothing that could run code is loaded. What cannot be used is listed in `left_out`.

        Args:
            path: the file. For archives see the layouts in `symkern.data.archive` and `symkern.data.archive_labels`.
            split: which trajectory of an archive that holds several, such as "train" for ``train_pos``.
            energy, forces, stress: what these targets are called in the file, if not just so: ``energy="u0"``.
            energy_unit: their unit. Needed where the file does not state it, as archives do with an array
                ``energy_unit`` and other formats in ``info``. Calculator results read through ASE count as eV.
            per_structure, per_atom: names of properties whose shape leaves open which they are.

        Raises:
            DataError: the file is missing, damaged, of a foreign layout, or holds values that make no sense.
            ModuleNotFoundError: the file needs ASE, which is not installed.
        """
        path = existing(path)
        request = Request(energy, forces, stress, per_structure, per_atom)
        try:
            if path.suffix == ".npz":
                found, labels, stated = read_labelled(path, split, request)
                if stated is not None and energy_unit not in (None, stated):
                    raise ValueError(f"energies are in {stated} by the file, but energy_unit={energy_unit!r} was given")
                return cls._from_labels(found, labels, energy_unit or stated)
            if split is not None:
                raise ValueError(f"only .npz archives have splits, got split={split!r}")
            return cls._from_frames(path.stem, ase_files.read(path), request, energy_unit)
        except DataError:
            raise
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error

    @classmethod
    def from_atoms(
        cls,
        frames: Sequence[Any],
        *,
        energy: str | None = None,
        forces: str | None = None,
        stress: str | None = None,
        energy_unit: str | None = None,
        per_structure: Sequence[str] = (),
        per_atom: Sequence[str] = (),
    ) -> Dataset:
        """From ase.Atoms: results of their calculators (nothing is calculated), `info` and `arrays`.

        Arguments as in `read`. Forces are as the calculator gave them: constraints are not applied.

        Raises:
            ValueError: labels that are ambiguous or not finite; energies or forces that only some frames have; results
                that belong to other positions than the frame's.
        """
        check_current(frames)
        request = Request(energy, forces, stress, per_structure, per_atom)
        return cls._from_frames("atoms", frames, request, energy_unit)

    @classmethod
    def from_structures(
        cls,
        structures: Structures,
        *,
        per_structure: Mapping[str, Any] | None = None,
        per_atom: Mapping[str, Any] | None = None,
        energy_unit: str | None = None,
        left_out: Mapping[str, str] | None = None,
    ) -> Dataset:
        """From what `symkern.data.read` returns, with tensors or arrays of properties."""
        return cls(
            _tensor(structures.numbers),
            _tensor(structures.positions),
            _tensor(structures.ptr),
            None if structures.cell is None else _tensor(structures.cell),
            None if structures.pbc is None else _tensor(structures.pbc),
            structures.names,
            {name: _tensor(value) for name, value in (per_structure or {}).items()},
            {name: _tensor(value) for name, value in (per_atom or {}).items()},
            energy_unit,
            left_out or {},
        )

    @classmethod
    def _from_labels(cls, found: Structures, labels: Labels, energy_unit: str | None) -> Dataset:
        return cls.from_structures(
            found,
            per_structure=labels.per_structure,
            per_atom=labels.per_atom,
            energy_unit=energy_unit,
            left_out=labels.left_out,
        )

    @classmethod
    def _from_frames(cls, source: str, frames: Sequence[Any], request: Request, energy_unit: str | None) -> Dataset:
        labels, in_ev = labels_of(frames, request)
        labelled = any(name in {*labels.per_structure, *labels.per_atom} for name in IN_ENERGY_UNIT)
        stated = stated_unit(frames)
        if stated is not None and energy_unit not in (None, stated):
            raise ValueError(f"energies are in {stated} by the frames, but energy_unit={energy_unit!r} was given")
        unit = energy_unit or stated or ("eV" if in_ev and labelled else None)
        return cls._from_labels(ase_files.structures(source, frames), labels, unit)

    def __len__(self) -> int:
        return self.num_structures

    @property
    def num_structures(self) -> int:
        return self.ptr.shape[0] - 1

    @property
    def num_atoms(self) -> int:
        return self.z.shape[0]

    @property
    def targets(self) -> dict[str, Tensor]:
        """All properties, of structures and of atoms."""
        return {**self.per_structure, **self.per_atom}

    def __repr__(self) -> str:
        text = f"{self.num_structures} structures, {self.num_atoms} atoms"
        text += "" if self.cell is None else ", with cells"
        labels = [name for name in IN_ENERGY_UNIT if name in self.targets]
        text += f"; {', '.join(labels)} in {self.energy_unit}" if labels else ""
        others = [name for name in self.targets if name not in labels]
        text += f"; {', '.join(others)}" if others else ""
        return f"Dataset({text}{'; left out: ' + ', '.join(self.left_out) if self.left_out else ''})"

    def subset(self, index: Tensor | np.ndarray[Any, Any] | Sequence[int] | slice) -> Dataset:
        """The structures at `index` (integers, a bool mask, or a slice), in that order.

        Raises:
            ValueError: an index outside -B .. B - 1, or a mask of another length.
        """
        return selection.subset(self, index)

    def split(self, sizes: Sequence[float | int | str], seed: int = 0) -> list[Dataset]:
        """Random, disjoint parts that together are the whole: ``ds.split([950, 50, "rest"], seed=0)``.

        Args:
            sizes: fractions (floats) that add up to 1, or numbers of structures; one of them may be "rest".
            seed: other seeds give other parts.

        Raises:
            ValueError: more is asked for than there is, or structures would be left over.
        """
        return [self.subset(part) for part in selection.parts(self.num_structures, sizes, seed)]

    @staticmethod
    def concatenate(datasets: Sequence[Dataset]) -> Dataset:
        """One after the other. Where only some have cells, the others count as not periodic.

        Raises:
            ValueError: no datasets; other properties or another energy unit in one of them.
        """
        return selection.concatenate(datasets)

    def to(self, dtype: torch.dtype) -> Dataset:
        """Positions, cells and per-atom floats in `dtype`; properties of structures stay as they are."""
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point type, got {dtype}")

        def cast(x: Tensor) -> Tensor:
            return x.to(dtype) if x.is_floating_point() else x

        return replace(
            self,
            pos=cast(self.pos),
            cell=None if self.cell is None else cast(self.cell),
            per_atom={name: cast(value) for name, value in self.per_atom.items()},
        )

    def in_unit(self, unit: str, *, also: Sequence[str] = ()) -> Dataset:
        """Energy, forces and stress in another unit of energy, and the properties named in `also` by the same factor.

        Raises:
            ValueError: an unknown unit, a property that is not there, or no unit to convert from.
        """
        check_energy_unit(unit, "unit")
        if isinstance(also, str):
            raise TypeError(f"also must be a sequence of names, got the string {also!r}")
        for name in also:
            if name not in self.targets:
                raise ValueError(f"also names {name!r}, found: {', '.join(self.targets) or 'no properties'}")
        if self.energy_unit is None:
            raise ValueError("the unit of energy of this dataset is not known: give energy_unit when creating it")
        factor = energy_factor(self.energy_unit, unit)
        scaled = {*IN_ENERGY_UNIT, *also}

        def convert(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: value * factor if name in scaled else value for name, value in values.items()}

        return replace(
            self, per_structure=convert(self.per_structure), per_atom=convert(self.per_atom), energy_unit=unit
        )

    def atoms(self, index: int) -> Any:
        """Structure `index` as ase.Atoms; energy, forces and stress as calculator results, in eV and Å.

        Other properties are in `info` and `arrays`, in their own units.
        """
        return to_atoms(self, index)

    def save(self, path: Path | str) -> None:
        """An ``.npz`` archive that `read` reads back; whole or not at all.

        Raises:
            ValueError: another suffix.
        """
        write_archive(self, Path(path))

    def loader(
        self,
        cutoff: float | None,
        *,
        dtype: torch.dtype = torch.float32,
        targets: Sequence[str] | None = None,
        cache: Path | str | None = None,
        progress: bool | Callable[[int, int], object] = False,
    ) -> Loader:
        """Batches of this dataset with precomputed graphs; arguments as in `symkern.data.Loader`."""
        from symkern.data.loader import Loader

        return Loader(self, cutoff, dtype=dtype, targets=targets, cache=cache, progress=progress)


def _tensor(value: Any) -> Tensor:
    """A tensor of int64, bool or float64, which NumPy's and torch's many number types all fit into."""
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value)
    wanted = {"f": np.float64, "i": np.int64, "u": np.int64, "b": np.bool_}.get(array.dtype.kind, array.dtype)
    return torch.from_numpy(np.array(array, dtype=wanted))
