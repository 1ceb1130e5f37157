"""Checkpoint files: written whole or not at all, read without executing anything, refused with a reason."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from symkern import _files
from symkern.training.settings import Settings

_FORMAT, _VERSION = "symkern training", 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and says why."""


def write(path: Path, content: Any) -> None:
    """Save tensors and plain values; `path` has either the old content or the new one at any moment."""
    _files.write(path, content)


def read(path: Path) -> Any:
    """What `write` saved, on the CPU.

    Raises:
        CheckpointError: no such file; truncated, corrupted, or holding more than tensors and plain values.
    """
    try:
        return _files.read(path)
    except _files.FileError as error:
        raise CheckpointError(str(error)) from error


def write_run(path: Path, content: dict[str, Any]) -> None:
    """Save the state of a run."""
    write(path, {"format": _FORMAT, "version": _VERSION, **content})


def read_run(path: Path) -> dict[str, Any]:
    """The state of a run.

    Raises:
        CheckpointError: as `read`; or the file is of another kind or version.
    """
    content = read(path)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: no checkpoint of a symkern training run")
    if content.get("version") != _VERSION:
        raise CheckpointError(f"{path}: has version {content.get('version')}, this symkern reads version {_VERSION}")
    return content


def check_same_run(path: Path, content: dict[str, Any], settings: Settings, facts: dict[str, Any]) -> None:
    """Raise CheckpointError, naming what differs, unless the checkpoint is of a run with these settings and facts."""
    saved, given = {**content["settings"], **content["run"]}, {**settings.to_dict(), **facts}
    before, now = saved.pop("epochs"), given.pop("epochs")
    differing = [name for name in {**saved, **given} if saved.get(name) != given.get(name)]
    if differing:
        listed = "; ".join(f"{name} was {saved.get(name)!r}, now {given.get(name)!r}" for name in differing)
        raise CheckpointError(f"{path}: of another run: {listed}")
    if now < before:
        raise CheckpointError(f"{path}: epochs was {before}, now {now}: it may only grow")
    if now > before and settings.schedule in ("cosine", "linear") and settings.decay_epochs is None:
        raise CheckpointError(
            f"{path}: epochs was {before}, now {now}, but the schedule {settings.schedule!r} ended there; "
            "only a run with decay_epochs can be prolonged"
        )


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of parameters and buffers on the CPU."""
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


def check_weights(model: nn.Module, weights: Any, path: Path) -> None:
    """Raise CheckpointError unless `weights` fit `model`, listing what does not."""
    own = model.state_dict()
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{path}: no weights: expected a dict from names to tensors")
    problems = []
    if missing := [name for name in own if name not in weights]:
        problems.append(f"missing {', '.join(missing)}")
    if unexpected := [name for name in weights if name not in own]:
        problems.append(f"unexpected {', '.join(map(str, unexpected))}")
    for name in own:
        if name in weights and weights[name].shape != own[name].shape:
            problems.append(f"{name} has shape {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}")
    if problems:
        raise CheckpointError(f"{path}: weights of another model than {type(model).__name__}: {'; '.join(problems)}")


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a file of weights, such as ``best.pt``, into a model.

    Raises:
        CheckpointError: no such file; truncated, corrupted or foreign; or weights of another model (the missing and
            unexpected names and the shapes are listed). The model is then as before.
    """
    path = Path(path)
    weights = read(path)
    if isinstance(weights, dict) and weights.get("format") == _FORMAT:
        raise CheckpointError(f"{path}: the state of a training run; the weights to use are in best.pt beside it")
    check_weights(model, weights, path)
    model.load_state_dict(dict(weights))
