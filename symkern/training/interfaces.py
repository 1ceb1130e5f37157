"""What the engine needs of data and tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

Term = tuple[Tensor, int]
"""Sum over the items of a batch, a tensor without dimensions, and the number of items."""


@runtime_checkable
class Source(Protocol):
    """Structures that can be put together to batches.

    What `collate` gives must depend on the index and the epoch only, not on calls made before nor on torch's random
    numbers: it is called ahead in another thread on CUDA, and again on resuming. A source may also have
    ``set_epoch(epoch: int)``, called before each training epoch (the first is 0), to seed augmentation and noise.
    """

    def __len__(self) -> int:
        """Number of structures."""
        ...

    def collate(self, index: Tensor) -> Any:
        """The batch of structures `index`, (b,) int64 on the CPU, b >= 1.

        A batch has ``to(device)``; with ``pin_memory()`` also ``to(device, non_blocking=True)``, used for CUDA.
        """
        ...


@runtime_checkable
class Task(Protocol):
    """What is learned. The loss of a batch is the sum over `objective` of weight * (sum / count) of that term.

    Sums and counts are those of the whole batch, over all processes: see `symkern.training.parallel`.
    """

    @property
    def objective(self) -> Mapping[str, float]:
        """Weight of each term of the loss. Terms that are not in it are logged only."""
        ...

    def __call__(self, model: nn.Module, batch: Any) -> dict[str, Term]:
        """Terms of a batch, the same names each time. Gradients are wanted where ``torch.is_grad_enabled()``."""
        ...
