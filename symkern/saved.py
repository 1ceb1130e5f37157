"""Trained models as files that describe themselves: which network, its settings and weights, and what wraps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from symkern import _files

_FORMAT, _VERSION = "symkern model", 1


class ModelFileError(ValueError):
    """A file that holds no usable model; the message names it and says why."""


def save(path: Path | str, kind: str, network: nn.Module, settings: Mapping[str, Any]) -> None:
    """Write a network of `symkern.models` and the plain `settings` of the `kind` of wrapper around it, in one piece.

    Raises:
        ValueError: a network that is not one of `symkern.models`, or one with tabulated filters.
        OSError: `path` cannot be written to.
    """
    from symkern import models
    from symkern.nn import TabulatedCFConv

    name = type(network).__name__
    if any(isinstance(module, TabulatedCFConv) for module in network.modules()):
        raise ValueError("model is tabulated: save the network that it was made from, and tabulate after loading")
    if getattr(models, name, None) is not type(network):
        raise ValueError(f"model must be one of symkern.models ({', '.join(models.__all__)}) to be saved, got {name}")
    about = {"kind": kind, "network": name, "network_settings": dict(network.config)}  # type: ignore[arg-type]
    content = {"format": _FORMAT, "version": _VERSION, **about, "settings": dict(settings)}
    _files.write(Path(path), {**content, "weights": network.state_dict()})


def load(path: Path | str, kinds: Mapping[str, Callable[..., nn.Module]], device: torch.device | str) -> nn.Module:
    """What `save` wrote, as ``kinds[kind](network, **settings)``. Nothing in the file is executed.

    Raises:
        FileNotFoundError: no such file.
        ModelFileError: a damaged or truncated file, one of another kind or version, an unknown network, weights that
            do not fit or are not finite.
    """
    from symkern import models

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        content = _files.read(path)
    except _files.FileError as error:
        raise ModelFileError(str(error)) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ModelFileError(f"{path}: holds no model that symkern saved")
    if content.get("version") != _VERSION:
        raise ModelFileError(f"{path}: has version {content.get('version')!r}, this symkern reads version {_VERSION}")
    kind, name = str(content.get("kind")), content.get("network")
    if kind not in kinds:
        raise ModelFileError(f"{path}: holds a {kind}, expected {' or '.join(kinds)}")
    if name not in models.__all__:
        raise ModelFileError(f"{path}: unknown model {name!r}, known: {', '.join(models.__all__)}")
    try:
        weights = content["weights"]
        if not all(bool(value.isfinite().all()) for value in weights.values()):
            raise ValueError("weights that are not finite")
        network = getattr(models, name)(**content["network_settings"])
        network.to(next(iter(weights.values())).dtype).load_state_dict(weights)
        return kinds[kind](network, **content["settings"]).to(device).eval()
    except (KeyError, TypeError, ValueError, RuntimeError, StopIteration, AttributeError) as error:
        raise ModelFileError(f"{path}: settings and weights do not fit ({type(error).__name__}: {error})") from error
