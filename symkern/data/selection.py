"""Parts of datasets, and datasets put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from symkern.data.dataset import Dataset


def subset(data: Dataset, index: Tensor | np.ndarray[Any, Any] | Sequence[int] | slice) -> Dataset:
    """See `Dataset.subset`."""
    chosen = _resolved(index, data.num_structures)
    counts = data.ptr.diff()[chosen]
    ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    # atom k of the result is atom k + offset of its structure's old place
    offsets = torch.repeat_interleave(data.ptr[chosen] - ptr[:-1], counts)
    rows = torch.arange(int(ptr[-1])) + offsets
    return replace(
        data,
        z=data.z[rows],
        pos=data.pos[rows],
        ptr=ptr,
        cell=None if data.cell is None else data.cell[chosen],
        pbc=None if data.pbc is None else data.pbc[chosen],
        names=tuple(data.names[k] for k in chosen.tolist()),
        per_structure={name: value[chosen] for name, value in data.per_structure.items()},
        per_atom={name: value[rows] for name, value in data.per_atom.items()},
    )


def _resolved(index: Tensor | np.ndarray[Any, Any] | Sequence[int] | slice, count: int) -> Tensor:
    """Indices 0 .. count - 1 from whatever selects structures."""
    if isinstance(index, slice):
        return torch.from_numpy(np.arange(count)[index].copy())
    chosen = torch.as_tensor(index)
    if chosen.numel() == 0 and chosen.dtype != torch.bool:
        return torch.zeros(0, dtype=torch.int64)
    if chosen.dim() != 1 or chosen.is_floating_point() or chosen.is_complex():
        raise ValueError(f"index must be integers or a mask in one dimension, got {chosen.dtype} {tuple(chosen.shape)}")
    if chosen.dtype == torch.bool:
        if len(chosen) != count:
            raise ValueError(f"a mask must have one value for each of the {count} structures, got {len(chosen)}")
        return chosen.nonzero().squeeze(1)
    chosen = chosen.long()
    if int(chosen.min()) < -count or int(chosen.max()) >= count:
        raise ValueError(f"index must lie in 0 .. {count - 1}, got {int(chosen.min())} .. {int(chosen.max())}")
    return torch.where(chosen < 0, chosen + count, chosen)


def parts(count: int, sizes: Sequence[float | int | str], seed: int) -> list[Tensor]:
    """A random partition of 0 .. count - 1 into parts of these sizes, see `Dataset.split`."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(count))
    return list(torch.split(order, _lengths(count, sizes)))


def _lengths(count: int, sizes: Sequence[float | int | str]) -> list[int]:
    numbers = [size for size in sizes if not isinstance(size, str)]
    rests = len(sizes) - len(numbers)
    if not sizes or rests > 1 or any(isinstance(size, str) and size != "rest" for size in sizes):
        raise ValueError(f'sizes must be numbers and at most one "rest", got {list(sizes)}')
    fractions = bool(numbers) and all(isinstance(number, float) for number in numbers)
    if not fractions and not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in numbers):
        raise ValueError(f"sizes must be all fractions (floats) or all numbers of structures (ints), got {list(sizes)}")
    if any(not number >= 0 for number in numbers):
        raise ValueError(f"sizes must not be negative, got {list(sizes)}")
    total = float(sum(numbers))
    whole = 1.0 if fractions else float(count)
    if total > whole * (1 + 1e-9):
        raise ValueError(f"sizes {list(sizes)} ask for more than there is: {total:g} of {whole:g}")
    if not rests and total < whole * (1 - 1e-9):
        raise ValueError(f'sizes {list(sizes)} leave structures over ({total:g} of {whole:g}): add "rest"')
    shares = [whole - total if isinstance(size, str) else size for size in sizes]
    # rounding the ends rather than the lengths makes them add up
    ends = [round(end / whole * count) if whole else 0 for end in np.cumsum(shares).tolist()]
    return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def concatenate(datasets: Sequence[Dataset]) -> Dataset:
    """See `Dataset.concatenate`."""
    datasets = list(datasets)
    if not datasets:
        raise ValueError("datasets must hold at least one")
    first = datasets[0]
    for k, other in enumerate(datasets[1:], 1):
        for kind in ("per_structure", "per_atom"):
            own, wanted = {name: value.shape[1:] for name, value in getattr(other, kind).items()}, getattr(first, kind)
            differing = sorted(name for name in {*own, *wanted} if own.get(name) != _tail(wanted.get(name)))
            if differing:
                raise ValueError(f"{kind} of dataset {k} differs from that of dataset 0 in: {', '.join(differing)}")
        if other.energy_unit != first.energy_unit:
            raise ValueError(
                f"dataset {k} has energies in {other.energy_unit}, dataset 0 in {first.energy_unit}: use in_unit first"
            )
    starts = np.cumsum([0, *(data.num_atoms for data in datasets)]).tolist()
    periodic = any(data.cell is not None for data in datasets)
    return replace(
        first,
        z=torch.cat([data.z for data in datasets]),
        pos=torch.cat([data.pos for data in datasets]),
        ptr=torch.cat([first.ptr[:1], *(data.ptr[1:] + start for data, start in zip(datasets, starts, strict=False))]),
        cell=torch.cat([_cell(data) for data in datasets]) if periodic else None,
        pbc=torch.cat([_pbc(data) for data in datasets]) if periodic else None,
        names=tuple(name for data in datasets for name in data.names),
        per_structure={n: torch.cat([data.per_structure[n] for data in datasets]) for n in first.per_structure},
        per_atom={n: torch.cat([data.per_atom[n] for data in datasets]) for n in first.per_atom},
        left_out={name: reason for data in datasets for name, reason in data.left_out.items()},
    )


def _tail(value: Tensor | None) -> torch.Size | None:
    return None if value is None else value.shape[1:]


def _cell(data: Dataset) -> Tensor:
    return data.pos.new_zeros((data.num_structures, 3, 3)) if data.cell is None else data.cell


def _pbc(data: Dataset) -> Tensor:
    return torch.zeros((data.num_structures, 3), dtype=torch.bool) if data.pbc is None else data.pbc
