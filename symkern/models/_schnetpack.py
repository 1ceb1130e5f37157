"""Reading state dicts of PaiNN from SchNetPack 2."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from symkern.nn.heads import EQUIVARIANT
from symkern.ops.radial_basis import defaults

_FILTER = "filter_net.weight"
_RENAMED = (
    (re.compile(r"^(interactions\.\d+)\.interatomic_context_net\.([01])\."), r"\1.context.{}."),
    (re.compile(r"^(mixing\.\d+)\.intraatomic_context_net\.([01])\."), r"\1.context.{}."),
    (re.compile(r"^(mixing\.\d+)\.mu_channel_mix\.()"), r"\1.mix."),
)
_HEAD_RENAMED = (
    (re.compile(r"^(\d+)\.mix_vectors\.()"), r"head.net.blocks.\1.mix."),
    (re.compile(r"^(\d+)\.scalar_net\.([01])\."), r"head.net.blocks.\1.context.{}."),
    (re.compile(r"^()(\d+)\."), r"head.net.{}."),
)


@dataclass(frozen=True)
class Found:
    """What a state dict says: settings of `PaiNN`, parameters under our names, and those names to theirs."""

    config: dict[str, Any]
    dtype: torch.dtype
    parameters: dict[str, Tensor]
    theirs: dict[str, str]
    with_head: bool


def read(state: Mapping[str, Tensor], head: str | None, output: int | None) -> Found:
    """See `PaiNN.from_schnetpack`."""
    if isinstance(state, Mapping) and "state_dict" in state:
        raise TypeError('state_dict must be that of the model, got a checkpoint: give checkpoint["state_dict"]')
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise TypeError("state_dict must map names to tensors, as module.state_dict() does")
    prefix = _prefix(state)
    base = prefix.removesuffix("representation.")
    outnets = _outnets(state, base)
    outnet = _chosen(outnets, output)
    heads = tuple(key for name in outnets for key in state if key.startswith(name))
    body = {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix) and key not in heads}
    strange = [key for key in state if key not in heads and not key.startswith(prefix)]
    _refuse(strange, body)

    table = _embedding(body)
    cutoff = _cutoff(body)
    numbers = {int(key.split(".")[1]) for key in body if key.startswith("interactions.")}
    if not numbers or numbers != set(range(len(numbers))):
        raise ValueError(
            f"state_dict must have interactions.0, interactions.1 ... without a gap, got {sorted(numbers)}"
        )
    layers, hidden = len(numbers), table.shape[1]
    basis, factor = _basis(body, cutoff)
    filters, shared = _filters(body, layers, hidden, factor)
    own, config = _head({key.removeprefix(outnet): state[key] for key in heads if key.startswith(outnet)}, head)

    parameters, theirs = {"embedding.weight": table, **filters, **basis.parameters}, {}
    for key, value in body.items():
        name = _renamed(key, _RENAMED)
        if name is not None:
            parameters[name], theirs[name] = value, prefix + key
        elif not key.startswith(("embedding.", "filter_net.", "radial_basis.", "cutoff_fn.")):
            parameters[key], theirs[key] = value, prefix + key  # load says that it is unknown
    for key, value in own.items():
        name = _renamed(key, _HEAD_RENAMED) or f"head.{key}"
        parameters[name], theirs[name] = value, outnet + key
    config |= {
        "hidden": hidden,
        "num_layers": layers,
        "num_basis": basis.size,
        "cutoff": cutoff,
        "kind": basis.kind,
        "trainable_basis": bool(basis.parameters),
        "shared_filters": shared,
        "max_z": table.shape[0] - 1,
    }
    return Found(config, table.dtype, parameters, theirs, bool(own))


def load(model: nn.Module, found: Found) -> None:
    """Copy the parameters into `model`, all of them and nothing else (besides a head that the state dict lacks)."""
    own = dict(model.named_parameters())
    expected = {key for key in own if found.with_head or not key.startswith("head.")}
    problems = [f"missing {_their_name(key)}" for key in sorted(expected - found.parameters.keys())]
    problems += [f"unknown {found.theirs.get(key, key)}" for key in sorted(found.parameters.keys() - expected)]
    problems += [
        f"{found.theirs.get(key, key)} of shape {tuple(found.parameters[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(expected & found.parameters.keys())
        if found.parameters[key].shape != own[key].shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"state_dict is not that of SchNetPack's PaiNN: {'; '.join(problems[:5])}{more}")
    with torch.no_grad():
        for key in expected:
            own[key].copy_(found.parameters[key])


# ---- which keys ------------------------------------------------------------------------------------------------------


def _prefix(state: Mapping[str, Tensor]) -> str:
    found = [key.removesuffix(_FILTER) for key in state if key == _FILTER or key.endswith(f".{_FILTER}")]
    if len(found) != 1:
        some = ", ".join(sorted(state)[:4]) or "nothing"
        raise ValueError(
            f"state_dict must be of one PaiNN of SchNetPack, but has {len(found)} {_FILTER}; it holds {some} ..."
        )
    return found[0]


def _outnets(state: Mapping[str, Tensor], base: str) -> list[str]:
    """Prefixes of the networks of the output modules."""
    pattern = re.compile(re.escape(base) + r"(output_modules\.\d+\.)?outnet\.")
    return sorted({match.group(0) for match in map(pattern.match, state) if match})


def _chosen(outnets: list[str], output: int | None) -> str:
    chosen = [name for name in outnets if output is None or f"output_modules.{output}." in name]
    if len(chosen) > 1 or (output is not None and not chosen):
        raise ValueError(f"output must be the number of one output module, got {output} for {', '.join(outnets)}")
    return chosen[0] if chosen else "outnet."


def _refuse(strange: list[str], body: Mapping[str, Tensor]) -> None:
    """Parts of a model that change its outputs and have no place here."""
    post = [key for key in strange if "postprocessors." in key]
    if post:
        raise ValueError(
            f"state_dict must come without postprocessors, got {', '.join(post[:3])}: leave their keys out, and give "
            "their offsets and scale to symkern.Potential or symkern.Normalized"
        )
    if strange:
        raise ValueError(f"state_dict must hold a representation and output modules only, got {', '.join(strange[:3])}")
    if any(key.startswith("electronic_embeddings.") for key in body):
        raise ValueError("state_dict must come without electronic_embeddings: this PaiNN knows no charges and spins")
    if "cutoff_fn.eps" in body:
        raise ValueError("state_dict must be of a model with the cosine cutoff, got cutoff_fn.eps of a MollifierCutoff")


def _renamed(key: str, patterns: tuple[tuple[re.Pattern[str], str], ...]) -> str | None:
    for pattern, ours in patterns:
        match = pattern.match(key)
        if match:
            # their layers hold their activation: 0 and 1 instead of 0 and 2
            number = 2 * int(match.group(2)) if match.group(2) else ""
            return match.expand(ours).format(number) + key[match.end() :]
    return None


def _their_name(key: str) -> str:
    """The name that a parameter of ours has there, as far as messages need it."""
    net = {"interactions": "interatomic_context_net", "mixing": "intraatomic_context_net"}.get(key.split(".")[0])
    if net is not None:
        key = re.sub(r"\.context\.([02])\.", lambda m: f".{net}.{int(m.group(1)) // 2}.", key)
    key = re.sub(r"^head\.net\.blocks\.(\d+)\.context\.([02])\.", _gated, key)
    key = re.sub(r"^head\.net\.blocks\.(\d+)\.mix\.", r"outnet.\1.mix_vectors.", key)
    key = re.sub(r"^head\.net\.(\d+)\.", lambda m: f"outnet.{int(m.group(1)) // 2}.", key)
    return re.sub(r"^(mixing\.\d+)\.mix\.", r"\1.mu_channel_mix.", key)


def _gated(match: re.Match[str]) -> str:
    return f"outnet.{match.group(1)}.scalar_net.{int(match.group(2)) // 2}."


# ---- sizes and settings ----------------------------------------------------------------------------------------------


def _entry(body: Mapping[str, Tensor], key: str, dim: int) -> Tensor:
    if key not in body:
        raise ValueError(f"state_dict must be of a PaiNN of SchNetPack, but has no {key}")
    if body[key].dim() != dim or not body[key].numel():
        raise ValueError(f"state_dict must have {dim} axes in {key}, got shape {tuple(body[key].shape)}")
    return body[key]


def _embedding(body: Mapping[str, Tensor]) -> Tensor:
    """(max_z + 1, F); a NuclearEmbedding is a table plus a linear map of the electron configuration."""
    if "embedding.element_embedding" not in body:
        return _entry(body, "embedding.weight", 2)
    table, weight = _entry(body, "embedding.element_embedding", 2), _entry(body, "embedding.config_linear.weight", 2)
    configuration = _entry(body, "embedding.electron_config", 2)
    if configuration.shape[0] != table.shape[0] or configuration.shape[1] != weight.shape[1]:
        raise ValueError("state_dict must have a nuclear embedding whose electron_config fits its other tensors")
    return table + configuration.to(table) @ weight.T


def _cutoff(body: Mapping[str, Tensor]) -> float:
    """The decimal number that was meant: it is kept in fp32."""
    single = _entry(body, "cutoff_fn.cutoff", 1).float()
    short = float(f"{float(single):.6g}")
    return short if float(torch.tensor(short, dtype=torch.float32)) == float(single) else float(single)


@dataclass(frozen=True)
class _Basis:
    kind: str
    size: int
    parameters: dict[str, Tensor]


def _basis(body: Mapping[str, Tensor], cutoff: float) -> tuple[_Basis, float]:
    """The basis, with parameters if they are not the initial ones, and how much larger ours is than theirs."""
    if "radial_basis.freqs" in body:
        kind, found, factor = "bessel", {"frequencies": _entry(body, "radial_basis.freqs", 1)}, math.sqrt(2 / cutoff)
    else:
        widths = _entry(body, "radial_basis.widths", 1)
        kind, factor = "gaussian", 1.0
        found = {"centers": _entry(body, "radial_basis.offsets", 1), "gamma": 0.5 / widths.square()}
    size = next(iter(found.values())).shape[0]
    usual = defaults(cutoff, size, kind)
    # theirs are rounded to fp32 on the way
    same = all(torch.allclose(found[k].double().cpu(), usual[k], rtol=1e-5, atol=1e-6 * cutoff) for k in found)
    return _Basis(kind, size, {} if same else {f"interactions.0.basis.{k}": v for k, v in found.items()}), factor


def _filters(body: Mapping[str, Tensor], layers: int, hidden: int, factor: float) -> tuple[dict[str, Tensor], bool]:
    """The one linear layer of all interactions as one for each, or one for all."""
    weight, bias = _entry(body, _FILTER, 2) / factor, _entry(body, "filter_net.bias", 1)
    rows = (3 * hidden, 3 * hidden * layers)
    if weight.shape[0] not in rows or bias.shape[0] != weight.shape[0]:
        raise ValueError(
            f"state_dict must have {rows[1]} rows ({layers} interactions of 3 times {hidden}) or {rows[0]} in {_FILTER}"
            f", got {weight.shape[0]}"
        )
    parts = dict(_parts(weight, bias, 3 * hidden))
    return parts, weight.shape[0] < rows[1]


def _parts(weight: Tensor, bias: Tensor, rows: int) -> Iterator[tuple[str, Tensor]]:
    for k, (w, b) in enumerate(zip(weight.split(rows), bias.split(rows), strict=True)):
        yield f"interactions.{k}.filter.weight", w
        yield f"interactions.{k}.filter.bias", b


def _head(own: dict[str, Tensor], head: str | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The output network, and the settings of the head that it is."""
    if not own:
        return own, {"head": head or "scalar"}
    gated = "0.mix_vectors.weight" in own
    if gated and head not in EQUIVARIANT:
        raise ValueError(
            f"head must be one of {', '.join(EQUIVARIANT)} for a state_dict with gated equivariant blocks, whose keys "
            f"do not tell which, got {head!r}"
        )
    if not gated and head not in (None, "scalar"):
        raise ValueError(
            f"head must be 'scalar' for a state_dict whose output module has no vectors (DipoleMoment: "
            f"use_vector_representation=True), got {head!r}"
        )
    last = ".scalar_net.1.bias" if gated else ".bias"
    blocks = len({key.split(".")[0] for key in own})
    widths = [_entry(own, f"{k}{last}", 1).shape[0] // (2 if gated else 1) for k in range(blocks)]
    settings = {"head": head or "scalar", "head_hidden": widths[:-1]}
    if gated and widths[-1] != 1:
        raise ValueError(f"state_dict must have one scalar and one vector as output of its blocks, got {widths[-1]}")
    return own, settings if gated else {**settings, "out": widths[-1]}
