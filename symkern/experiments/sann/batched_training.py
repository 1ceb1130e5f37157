"""Training of a vector model on many molecules, in batches that are prepared once.

Finding the symmetries, frames and graphs of molecules costs more than a step, so batches keep their molecules: which
are together is drawn once, the order of the batches in each epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import symkern as sk
from symkern.data import Dataset
from symkern.experiments.sann.vector_models import VectorModel
from symkern.nn.basic import check_positive
from symkern.stabilizer import Stabilizers


@dataclass(frozen=True)
class Recipe:
    """Adam with a learning rate that falls to 0 along half a cosine; the weights of the best epoch are kept.

    The defaults are those of EGNN's QM9 models (Satorras et al. 2021, appendix), but for the number of epochs.
    """

    epochs: int = 1000
    batch_size: int = 96
    lr: float = 5e-4
    weight_decay: float = 1e-16

    def __post_init__(self) -> None:
        check_positive(epochs=self.epochs, batch_size=self.batch_size, lr=self.lr)

    def rate(self, epoch: int) -> float:
        """Learning rate of epoch number `epoch`, the first being 0."""
        return self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2


@dataclass(frozen=True, eq=False)
class Batch:
    """Molecules as a model wants them.

    Attributes:
        prepared: what `VectorModel.prepare` returned.
        target: (N, 3) of atoms or (B, 3) of molecules, dtype of the model.
        size: number of molecules, B.
        sym: their stabilizers, where the loss needs them.
    """

    prepared: Any
    target: Tensor
    size: int
    sym: Stabilizers | None = None

    @property
    def symmetry(self) -> Stabilizers:
        """`sym`, where it is known to be there."""
        assert self.sym is not None
        return self.sym


Loss = Callable[[Tensor, Batch], Tensor]  # (prediction, batch) -> (B,)


def batches(
    module: VectorModel,
    data: Dataset,
    label: str,
    size: int,
    *,
    tolerance: float | None = None,
    seed: int | None = None,
) -> list[Batch]:
    """The structures of `data` in batches of at most `size`.

    Args:
        module: of `vector_models.make`.
        label: name of the property that is predicted, of atoms or structures.
        tolerance: Å, of stabilizers; without it batches have none.
        seed: which structures are together; without it they stay in their order.
    """
    check_positive(size=size)
    order = torch.arange(data.num_structures)
    if seed is not None:
        order = torch.randperm(data.num_structures, generator=torch.Generator().manual_seed(seed))
    weight = next(module.parameters())
    found = []
    for index in order.split(size):
        part = data.subset(index)
        z, pos, ptr = (x.to(weight.device) for x in (part.z, part.pos.to(weight.dtype), part.ptr))
        batch = torch.repeat_interleave(ptr.diff(), output_size=len(z))
        sym = None if tolerance is None else sk.stabilizers(pos, z, ptr=ptr, tolerance=tolerance)
        target = part.targets[label].to(weight.device, weight.dtype)
        found.append(Batch(module.prepare(z, pos, batch, ptr), target, len(index), sym))
    return found


def mean(module: VectorModel, members: Sequence[Batch], loss: Loss) -> float:
    """Mean of a loss over the molecules of all batches, in fp64, in evaluation mode."""
    module.eval()
    # models whose vectors are gradients need autograd, though nothing is trained
    sums = [float(loss(module(batch.prepared).detach().double(), _double(batch)).sum()) for batch in members]
    return sum(sums) / sum(batch.size for batch in members)


def _double(batch: Batch) -> Batch:
    return replace(batch, target=batch.target.double())


def fit(
    module: VectorModel, train: Sequence[Batch], valid: Sequence[Batch], loss: Loss, recipe: Recipe, seed: int
) -> dict[str, Any]:
    """Train `module` in place; it ends with the weights of the epoch with the least validation loss.

    Returns:
        "best_epoch", counted from 1; "valid_loss": the mean over molecules there; "train_loss": that of the last epoch;
        "parameters": how many.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    random = torch.Generator().manual_seed(seed)
    weights: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=recipe.lr, weight_decay=recipe.weight_decay, foreach=True)
    best_epoch, least, kept = 0, math.inf, [p.detach().clone() for p in weights]
    molecules = sum(batch.size for batch in train)
    for epoch in range(recipe.epochs):
        module.train()
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(epoch)
        total = 0.0
        for k in torch.randperm(len(train), generator=random).tolist():
            optimizer.zero_grad()
            value = loss(module(train[k].prepared), train[k]).sum()
            (value / train[k].size).backward()
            optimizer.step()
            total += float(value.detach()) / molecules
        found = mean(module, valid, loss)
        if not (math.isfinite(total) and math.isfinite(found)):
            raise FloatingPointError(f"losses must be finite, got {total} and {found} in epoch {epoch + 1}")
        if found < least:
            best_epoch, least = epoch + 1, found
            torch._foreach_copy_(kept, [p.detach() for p in weights])
    with torch.no_grad():
        torch._foreach_copy_(weights, kept)
    count = sum(p.numel() for p in weights)
    return {"best_epoch": best_epoch, "valid_loss": least, "train_loss": total, "parameters": count}
