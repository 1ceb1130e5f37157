"""Batches of a dataset, gathered from precomputed graphs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from symkern.data import cache as cache_files
from symkern.data import graphs
from symkern.data.batch import Batch
from symkern.data.validation import finite

if TYPE_CHECKING:
    from symkern.data.augment import AugmentedLoader
    from symkern.data.dataset import Dataset


class Loader:
    """Makes batches of any structures of a dataset; what the training engine calls a source.

    The graphs are computed once for all structures, so a batch takes copies and additions only.

    Args:
        dataset: the structures.
        cutoff: Å; None for batches without graphs.
        dtype: of positions, cells and per-atom floats: float32 or float64. Floats of structures stay float64 as they
            are in datasets from files: totals need it and there are few.
        targets: the properties that batches hold; all of them by default.
        cache: a folder that keeps the graphs between runs.
        progress: True shows how many structures have their graph on stderr; or a function of the number done and the
            number of all.

    Attributes:
        dataset, cutoff, dtype: as given.

    Raises:
        ValueError: cutoff or dtype out of range; a target that is not there or not finite.
    """

    def __init__(
        self,
        dataset: Dataset,
        cutoff: float | None,
        *,
        dtype: torch.dtype = torch.float32,
        targets: Sequence[str] | None = None,
        cache: Path | str | None = None,
        progress: bool | Callable[[int, int], object] = False,
    ) -> None:
        if cutoff is not None and not (0 < cutoff < float("inf")):
            raise ValueError(f"cutoff must be positive and finite, or None for no graph, got {cutoff}")
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
        self.dataset, self.cutoff, self.dtype = dataset, cutoff, dtype
        data = dataset.to(dtype)
        names = _chosen(data, targets)
        # NumPy, whose calls cost less than torch's on batches of a few atoms
        self._z, self._pos, self._ptr = data.z.numpy(), data.pos.numpy(), data.ptr.numpy()
        self._cell = None if data.cell is None else data.cell.numpy()
        self._pbc = None if data.pbc is None else data.pbc.numpy()
        self._of_structures = {name: v.numpy() for name, v in data.per_structure.items() if name in names}
        self._of_atoms = {name: v.numpy() for name, v in data.per_atom.items() if name in names}
        self._graphs = None
        if cutoff is not None:
            folder = None if cache is None else Path(cache)
            self._graphs = _graphs(data, cutoff, folder, _show if progress is True else progress or None)

    def __len__(self) -> int:
        return len(self._ptr) - 1

    @property
    def tails(self) -> dict[str, tuple[int, ...]]:
        """The shape of each target's values for one structure or atom."""
        return {name: values.shape[1:] for name, values in {**self._of_structures, **self._of_atoms}.items()}

    @cached_property
    def fingerprint(self) -> str:
        """A digest of all structures, targets and settings; what a resumed run compares."""
        arrays = [self._z, self._pos, self._ptr, self._cell, self._pbc]
        arrays += [values for _, values in sorted({**self._of_structures, **self._of_atoms}.items())]
        text = f"{self.cutoff} {self.dtype} {self.dataset.energy_unit} {sorted(self.tails)}"
        return cache_files.digest([torch.from_numpy(x) for x in arrays if x is not None], text)

    def collate(self, index: Tensor | Sequence[int], *, graph: bool = True) -> Batch:
        """The structures at `index` (b,), in that order; none and repeated ones are allowed.

        Args:
            index: (b,) integers, on the CPU.
            graph: False leaves the graph out.

        Raises:
            ValueError: an index outside 0 .. len - 1.
        """
        which = self._checked(index)
        starts = self._ptr[which]
        counts = self._ptr[which + 1] - starts
        ptr = np.zeros(len(which) + 1, dtype=np.int64)
        np.cumsum(counts, out=ptr[1:])
        owner = np.repeat(np.arange(len(which)), counts)
        # atom k of the batch is atom k + offset of its structure's place in the dataset
        atoms = (starts - ptr[:-1])[owner]
        atoms += np.arange(len(owner))
        targets = {name: _taken(values, which) for name, values in self._of_structures.items()}
        targets.update((name, _taken(values, atoms)) for name, values in self._of_atoms.items())
        starts_of, batch = torch.from_numpy(ptr), torch.from_numpy(owner)
        nb = None
        if graph and self._graphs is not None:
            nb = self._graphs.gather(which, starts_of, atoms, batch, self.cutoff)
        return Batch(
            _taken(self._z, atoms),
            _taken(self._pos, atoms),
            batch,
            starts_of,
            None if self._cell is None else _taken(self._cell, which),
            None if self._pbc is None else _taken(self._pbc, which),
            nb,
            targets,
            torch.from_numpy(which),
            self.dataset.energy_unit,
        )

    def _checked(self, index: Tensor | Sequence[int]) -> NDArray[np.int64]:
        given = torch.as_tensor(index)
        if given.dim() != 1 or (len(given) and given.dtype not in (torch.int64, torch.int32)):
            raise ValueError(f"index must be (b,) integers, got {given.dtype} of shape {tuple(given.shape)}")
        # a copy: the batch keeps it
        which = np.array(given.numpy(), dtype=np.int64)
        if len(which) and (which.min() < 0 or which.max() >= len(self)):
            raise ValueError(f"index must lie in 0 .. {len(self) - 1}, got {which.min()} .. {which.max()}")
        return which

    def augmented(
        self,
        *,
        rotation: str | None = "so3",
        noise: float = 0.0,
        vectors: Sequence[str] | None = None,
        matrices: Sequence[str] | None = None,
        invariant: Sequence[str] = (),
        seed: int = 0,
    ) -> AugmentedLoader:
        """The same batches, rotated and jittered anew in each epoch; arguments as in `symkern.data.AugmentedLoader`."""
        from symkern.data.augment import AugmentedLoader

        return AugmentedLoader(
            self,
            rotation=rotation,
            noise=noise,
            vectors=vectors,
            matrices=matrices,
            invariant=invariant,
            seed=seed,
        )


def _taken(values: NDArray[Any], rows: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(values.take(rows, axis=0))


def _chosen(data: Dataset, targets: Sequence[str] | None) -> list[str]:
    """The names of the targets; ValueError for those that are not there or not finite."""
    if isinstance(targets, str):
        raise TypeError(f"targets must be a sequence of names, got the string {targets!r}")
    names = list(data.targets) if targets is None else list(targets)
    owner = torch.repeat_interleave(torch.arange(data.num_structures), data.ptr.diff())
    for name in names:
        if name not in data.targets:
            reason = f" ({data.left_out[name]})" if name in data.left_out else ""
            raise ValueError(f"no target {name!r}{reason}; found: {', '.join(data.targets) or 'none'}")
        rows = torch.arange(data.num_structures) if name in data.per_structure else owner
        finite(f"target {name!r} (see targets=)", data.targets[name], rows, data.names)
    return names


def _graphs(
    data: Dataset, cutoff: float, folder: Path | None, progress: Callable[[int, int], object] | None
) -> graphs.Graphs:
    path = None
    if folder is not None:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"cache must be a folder, got the file {folder}")
        path = cache_files.cached_path(folder, data.pos, cutoff, data.ptr, data.cell, data.pbc)
        stored = cache_files.load(path)
        if stored is not None:
            return stored
    built = graphs.build(data.pos, cutoff, data.ptr, data.cell, data.pbc, progress)
    if path is not None:
        cache_files.store(path, built)
    return built


def _show(done: int, count: int) -> None:
    end = "\n" if done == count else ""
    print(f"\rgraphs: {done} of {count} structures", end=end, file=sys.stderr, flush=True)
