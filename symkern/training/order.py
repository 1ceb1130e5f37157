"""Which structures make up which batch: a function of seed and epoch alone."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def derived_seed(*parts: int | str) -> int:
    """32 bits that depend on all parts (torch's CPU generator uses no more): neighboring seeds give unrelated ones."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "little")


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """(count,) int64: a random permutation of the structures, the same on every machine and for any batch size."""
    generator = torch.Generator().manual_seed(derived_seed("order", seed, epoch))
    return torch.randperm(count, generator=generator)


def split(order: Tensor, batch_size: int, *, drop_last: bool = False) -> list[Tensor]:
    """`order` in pieces of `batch_size`, the last one shorter or dropped."""
    pieces = list(order.split(batch_size))
    return pieces[:-1] if drop_last and len(pieces[-1]) < batch_size else pieces
