"""Batches of a source, on the CUDA device ahead of time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch import Tensor

from symkern.training.interfaces import Source


def batches(
    source: Source, indices: Sequence[Tensor], prepare: Callable[[Any], Any], *, ahead: bool
) -> Iterator[Any | None]:
    """``prepare(source.collate(index))`` for each index; None for an empty one.

    Args:
        ahead: collate the next batch in a thread while the caller works on this one. It pays where the caller waits for
            a GPU; on the CPU both would want the same cores. Errors come out where the batch would have.
    """

    def load(index: Tensor) -> Any | None:
        return prepare(source.collate(index)) if len(index) else None

    if not ahead:
        yield from map(load, indices)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="symkern-collate") as pool:
        waiting = pool.submit(load, indices[0]) if indices else None
        for following in [*indices[1:], None]:
            if waiting is None:
                return
            batch = waiting.result()
            waiting = None if following is None else pool.submit(load, following)
            yield batch
