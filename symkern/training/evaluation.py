"""Terms of a task over a whole source."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from symkern.training.interfaces import Source, Task
from symkern.training.interrupts import Interrupts, Stopped
from symkern.training.loader import batches
from symkern.training.objective import NonFiniteError, Objective, Totals
from symkern.training.order import split
from symkern.training.parallel import Group, join
from symkern.training.precision import Precision


def evaluate(
    model: nn.Module,
    task: Task,
    source: Source,
    *,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
) -> dict[str, float]:
    """Mean of each term over all structures, and "loss". The model is in eval mode meanwhile.

    The model is moved to `device`, and with precision "fp64" converted, and stays so.

    Raises:
        NonFiniteError: the loss of a batch is not finite.
        TypeError, ValueError: what task and model raise; a model with parameters of another dtype than `precision`.
    """
    group = join(device)
    number_format = Precision(precision, group.device)
    model.to(group.device)
    number_format.convert_model(model)
    objective = Objective(model, task, source, group, number_format)
    return mean_terms(model, objective, source, batch_size, group, None, "evaluation")


def mean_terms(
    model: nn.Module,
    objective: Objective,
    source: Source,
    batch_size: int,
    group: Group,
    interrupts: Interrupts | None,
    what: str,
) -> dict[str, float]:
    """Mean of each term over all structures, and "loss"; `what` is what error messages call it.

    Raises:
        Stopped: `interrupts` of any process has a request.
    """
    totals = Totals.zero(objective.names)
    training = model.training
    model.eval()
    pieces = split(torch.arange(len(source)), batch_size)
    loaded = batches(source, [group.share(p) for p in pieces], objective.prepare, ahead=group.device.type == "cuda")
    try:
        for index, batch in zip(pieces, loaded, strict=True):
            with torch.no_grad():
                _, packed = objective(batch, stop=interrupts is not None and interrupts.requested is not None)
            found, stop = objective.read(packed.tolist())
            check_finite(found.means(objective.weights), 0.0, what, index)
            totals += found
            if stop:
                raise Stopped
    finally:
        model.train(training)
    return totals.means(objective.weights)


def check_finite(means: Mapping[str, float], norm: float, where: str, index: Tensor) -> None:
    """Raise NonFiniteError unless all terms and the norm of the gradient are finite."""
    if not all(map(math.isfinite, means.values())):
        raise NonFiniteError(f"{where}: the loss or a term is not finite: {dict(means)}", index)
    if not math.isfinite(norm):
        raise NonFiniteError(f"{where}: the loss is {means['loss']}, but its gradient is not finite", index)
