"""Cross-validation."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from symkern.training.interfaces import Source, Task
from symkern.training.loop import fit
from symkern.training.order import derived_seed
from symkern.training.run import Result
from symkern.training.settings import Settings


def k_folds(n: int, k: int, seed: int = 0, groups: Tensor | Sequence[Any] | None = None) -> list[tuple[Tensor, Tensor]]:
    """Split n structures k times, so that each one is in exactly one validation part.

    Args:
        n: number of structures.
        k: number of folds, 2 .. n.
        seed: of the random assignment.
        groups: n labels; structures of one label (one molecule, one trajectory) stay together. The largest groups are
            assigned first, each to the smallest fold, so that fold sizes differ by no more than the largest group.

    Returns:
        k pairs of training and validation indices, int64 and ascending; without groups, sizes differ by one at most.

    Raises:
        ValueError: k out of range, fewer groups than folds, or not n labels.
    """
    if not 2 <= k <= n:
        raise ValueError(f"k must lie in 2 .. n = {n}, got {k}")
    labels = list(range(n)) if groups is None else groups.tolist() if isinstance(groups, Tensor) else list(groups)
    if len(labels) != n:
        raise ValueError(f"groups must have one label for each of the {n} structures, got {len(labels)}")
    members: dict[Any, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    if len(members) < k:
        raise ValueError(f"k = {k} folds need at least as many groups, got {len(members)}")
    generator = torch.Generator().manual_seed(derived_seed("folds", seed))
    shuffled = [list(members.values())[i] for i in torch.randperm(len(members), generator=generator).tolist()]
    folds: list[list[int]] = [[] for _ in range(k)]
    for group in sorted(shuffled, key=len, reverse=True):  # stable: equal sizes stay shuffled
        min(folds, key=len).extend(group)
    inside = torch.zeros(k, n, dtype=torch.bool)
    for row, fold in zip(inside, folds, strict=True):
        row[fold] = True
    return [((~row).nonzero().flatten(), row.nonzero().flatten()) for row in inside]


def cross_validate(
    make_model: Callable[[Tensor], nn.Module],
    task: Task,
    source_of: Callable[[Tensor], Source],
    n: int,
    k: int,
    settings: Settings,
    *,
    groups: Tensor | Sequence[Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    **options: Any,
) -> list[Result]:
    """`fit` once per fold of `k_folds` (with the seed of `settings`); each fold starts with a model of its own.

    Args:
        make_model: called once per fold with the indices of its training structures, which alone may decide reference
            energies and scales; torch's random numbers are seeded by `settings.seed` and the fold.
        source_of: the source of structures `index`, (b,) int64; called for training and validation parts.
        n: number of structures.
        out: folder; fold i goes to its subfolder ``fold_i``. With ``resume=True`` finished folds are not repeated.
        options: further arguments of `fit`.

    Returns:
        the results of the folds, in order.

    Raises:
        what `k_folds` and `fit` raise.
    """
    results = []
    for fold, (train, valid) in enumerate(k_folds(n, k, settings.seed, groups)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed("fold", settings.seed, fold))
            model = make_model(train)
        folder = None if out is None else Path(out) / f"fold_{fold}"
        results.append(fit(model, task, source_of(train), source_of(valid), settings, out=folder, **options))
    return results
