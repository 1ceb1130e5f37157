"""Symmetries of many structures, in few calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from symkern.ops.stabilizers import stabilizers
from symkern.pointgroup.inputs import Frame
from symkern.stabilizer import Stabilizers, group_label
from symkern.transforms import from_ase

_ATOMS = 20_000  # of one call: enough to keep all cores busy, few enough to show progress
_LARGER = (1.5, 2.0, 3.0, 5.0)  # tolerances to try, in units of the one asked for
_CLOSE = 0.2  # part of the tolerance; a margin below it deserves a second look


@dataclass
class Result:
    """Molecule `index` of `sym`; `changes`: what slightly different tolerances would give, as (tolerance, label)."""

    frame: Frame
    sym: Stabilizers
    index: int
    changes: list[tuple[float, str]]

    @property
    def label(self) -> str:
        return group_label(int(self.sym.group[self.index]))


def analyse(
    frames: Sequence[Frame],
    tolerance: float,
    policy: str,
    *,
    failed: Callable[[str], None],
    done: Callable[[int], None] = lambda count: None,
) -> list[Result]:
    """The symmetry of each frame, in order; those that cannot be computed are reported to `failed` instead."""
    results: list[Result] = []
    for chunk in _chunks(frames):
        try:
            found = [(chunk, from_ase([f.atoms for f in chunk], tolerance=tolerance, policy=policy))]
        except ValueError:  # one of them: which?
            found = []
            for frame in chunk:
                try:
                    found.append(([frame], from_ase(frame.atoms, tolerance=tolerance, policy=policy)))
                except ValueError as error:
                    failed(f"{frame.name}: {error}")
        for members, sym in found:
            hidden = _hidden(sym)
            for k, frame in enumerate(members):
                changes = _changes(sym, k)
                seen = {label for _, label in changes}
                changes += [change for change in hidden.get(k, []) if change[1] not in seen]
                results.append(Result(frame, sym, k, changes))
        done(len(chunk))
    return results


def _chunks(frames: Sequence[Frame]) -> Iterator[list[Frame]]:
    chunk: list[Frame] = []
    atoms = 0
    for frame in frames:
        if chunk and atoms + len(frame.atoms) > _ATOMS:
            yield chunk
            chunk, atoms = [], 0
        chunk.append(frame)
        atoms += len(frame.atoms)
    if chunk:
        yield chunk


def _hidden(sym: Stabilizers) -> dict[int, list[tuple[float, str]]]:
    """For molecules without symmetry the largest group that somewhat larger tolerances give, as noise may hide it."""
    none = (sym.order == 1) & sym.closed
    which = none.nonzero().flatten().tolist()
    if not which:
        return {}
    atoms = none[sym.batch]
    ptr = torch.cat([sym.ptr.new_zeros(1), sym.ptr.diff()[none].cumsum(0)])
    best: dict[int, tuple[int, float, str]] = {}
    for factor in _LARGER:
        tolerance = factor * sym.tolerance
        try:
            found = stabilizers(
                sym.positions[atoms], sym.numbers[atoms], ptr=ptr, tolerance=tolerance, policy=sym.policy
            )
        except ValueError:  # too large for one of them
            break
        for k, order, closed, label in zip(
            which, found.order.tolist(), found.closed.tolist(), found.labels, strict=True
        ):
            if closed and order > best.get(k, (1,))[0]:
                best[k] = order, tolerance, label
    return {k: [(tolerance, label)] for k, (_, tolerance, label) in best.items()}


def _changes(sym: Stabilizers, index: int) -> list[tuple[float, str]]:
    """Different answers at tolerances just beyond the value that came closest to deciding differently; where the
    operations form no group, also at the first larger tolerance where they do."""
    margin, tolerance, closed = float(sym.margin[index]), sym.tolerance, bool(sym.closed[index])
    atoms = slice(*sym.ptr[index : index + 2].tolist())
    order, group = sym.order[index : index + 1], sym.group[index : index + 1]

    def at(other: float) -> Stabilizers | None:
        """The answer at another tolerance, if it differs."""
        found = stabilizers(sym.positions[atoms], sym.numbers[atoms], tolerance=other, policy=sym.policy)
        return None if torch.equal(found.group, group) and torch.equal(found.order, order) else found

    changes = []
    if closed and margin <= _CLOSE * tolerance:
        step = margin * 1.01 + 1e-6 * tolerance
        for other in (tolerance - step, tolerance + step):
            found = at(other)
            if found is not None:
                changes.append((other, found.labels[0]))
    if not closed:
        for factor in _LARGER:
            found = at(factor * tolerance)
            if found is not None and bool(found.closed[0]):
                changes.append((factor * tolerance, found.labels[0]))
                break
    return changes
