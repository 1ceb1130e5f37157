"""The labels of ase.Atoms: calculator results, `info` (with a database's pairs and data) and `arrays`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symkern.data.labels import PER_ATOM, PER_STRUCTURE, Labels, Request, ambiguous, full_stress, is_numeric

_GEOMETRY = {"numbers", "positions"}
_BOOKKEEPING = {"unique_id", "name", "energy_unit"}


def labels_of(frames: Sequence[Any], request: Request) -> tuple[Labels, bool]:
    """The labels, and whether energy, forces and stress are all calculator results, which ASE keeps in eV and Å.

    Raises:
        ValueError: labels that are ambiguous, missing, or energies or forces that only some of the frames have.
    """
    values: dict[str, list[Any]] = {}
    kinds: dict[str, str | None] = {}
    owners: dict[str, list[int]] = {}
    from_calculator: dict[str, bool] = {}
    labels = Labels()
    for k, atoms in enumerate(frames):
        for name, value, kind, calculated in _properties(atoms):
            if owners.setdefault(name, [-1])[-1] == k:
                labels.left_out[f"{name} (info)"] = "the frames have another property of that name"
                continue
            owners[name].append(k)
            values.setdefault(name, []).append(value)
            kinds.setdefault(name, kind)
            from_calculator[name] = from_calculator.get(name, True) and calculated
    counts = [len(atoms) for atoms in frames]
    in_ev = True
    for name in sorted(values):
        target = request.target(name)
        reason = None
        if target is None:
            reason = f"{getattr(request, name)} takes its place"
        elif len(values[name]) < len(frames):
            reason = _missing(name, owners[name][1:], len(frames))
            if target in ("energy", "forces") or name in request.names:
                raise ValueError(f"{name} {reason}")
        else:
            reason = _add(labels, name, target, values[name], counts, request.kind(name) or kinds[name])
        if reason:
            labels.left_out[name] = reason
        elif target in ("energy", "forces", "stress"):
            in_ev = in_ev and from_calculator[name]
    labels.check(request)
    return labels, in_ev


def stated_unit(frames: Sequence[Any]) -> str | None:
    """The unit of energy that the frames state in ``info["energy_unit"]``, if they do.

    Raises:
        ValueError: they state different ones.
    """
    stated = {str(unit) for atoms in frames if (unit := atoms.info.get("energy_unit")) is not None}
    if len(stated) > 1:
        raise ValueError(f"the frames state different units of energy: {', '.join(sorted(stated))}")
    return next(iter(stated), None)


def check_current(frames: Sequence[Any]) -> None:
    """ValueError where a calculator's results are not those of its frame: one calculator cannot serve several."""
    for k, atoms in enumerate(frames):
        changes = atoms.calc.check_state(atoms) if getattr(atoms.calc, "results", None) else []
        if changes:
            raise ValueError(
                f"frame {k}: its calculator holds results of an earlier state ({', '.join(changes)} differ); keep "
                "those of each frame in an ase.calculators.singlepoint.SinglePointCalculator"
            )


def _properties(atoms: Any) -> Iterator[tuple[str, Any, str | None, bool]]:
    """(name, value, kind if it is certain, from the calculator); the first of a name counts."""
    results = {} if atoms.calc is None else atoms.calc.results
    for name, value in results.items():
        kind = "atom" if name in PER_ATOM else "structure" if name in PER_STRUCTURE else None
        if value is not None:
            yield name, full_stress(np.asarray(value)[None])[0] if name == "stress" else value, kind, True
    for name, value in atoms.arrays.items():
        if name not in _GEOMETRY:
            yield name, value, "atom", False
    info = {name: value for name, value in atoms.info.items() if name not in _BOOKKEEPING}
    pairs, data = info.pop("key_value_pairs", {}), info.pop("data", {})
    for name, value in {**info, **pairs}.items():
        yield name, value, "structure", False
    for name, value in (data if isinstance(data, dict) else {"data": data}).items():
        yield name, value, None, False


def _missing(name: str, owners: list[int], count: int) -> str:
    first = next(k for k in range(count) if k >= len(owners) or owners[k] != k)
    return f"is missing in {count - len(owners)} of {count} frames, first in frame {first}"


def _add(labels: Labels, name: str, target: str, values: list[Any], counts: list[int], kind: str | None) -> str | None:
    """Adds the property that every frame has, or says why that is not possible."""
    try:
        arrays: list[NDArray[Any]] = [np.asarray(value) for value in values]
    except ValueError:
        return "not numbers: lists of unequal lengths"
    if not all(map(is_numeric, arrays)):
        return f"not numbers: {next(a.dtype for a in arrays if not is_numeric(a))}"
    same_shape = len({array.shape for array in arrays}) == 1
    each_atom = all(a.ndim and len(a) == n for a, n in zip(arrays, counts, strict=True))
    each_atom = each_atom and len({array.shape[1:] for array in arrays}) == 1
    if kind is None and same_shape and each_atom:
        raise ambiguous(name, f"has shape {arrays[0].shape} in frames of {counts[0]} atoms each")
    kind = kind or ("atom" if each_atom else "structure")
    if not (each_atom if kind == "atom" else same_shape):
        return f"{name} has other shapes in other frames" + (
            f"; per_atom=({name!r},) takes one row per atom" if each_atom else ""
        )
    labels.add(target, kind, np.concatenate(arrays) if kind == "atom" else np.stack(arrays))
    return None
