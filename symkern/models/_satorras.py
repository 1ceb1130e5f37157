"""Reading state dicts of github.com/vgsatorras/egnn."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_LAYER = re.compile(r"gcl_(\d+)\.")


@dataclass(frozen=True)
class Found:
    """What a state dict says: settings of `EGNN`, input features per element, and parameters under our names."""

    config: dict[str, Any]
    dtype: torch.dtype
    features: Tensor
    embedded: Tensor
    parameters: dict[str, Tensor]


def read(state: Mapping[str, Tensor], elements: Sequence[int], features: Tensor | None) -> Found:
    """See `EGNN.from_satorras`."""
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise TypeError("state_dict must map names to tensors, as module.state_dict() does")
    clean = "embedding_in.weight" in state
    if not clean and "embedding.weight" in state and "graph_dec.0.weight" not in state:
        raise ValueError(
            "state_dict has an embedding and layers but no readout (graph_dec), as the n-body models of that code: "
            "load its layers into symkern.nn.EGNNLayer"
        )
    embedding, last = ("embedding_in", "embedding_out") if clean else ("embedding", "graph_dec.2")
    weight, bias = _matrix(state, f"{embedding}.weight"), _entry(state, f"{embedding}.bias")
    hidden, inputs = weight.shape
    table = _features(elements, features, inputs).to(weight)
    node_attr = _matrix(state, "gcl_0.node_mlp.0.weight").shape[1] - 2 * hidden
    if node_attr not in (0, inputs):
        raise ValueError(
            f"state_dict must have gcl_0.node_mlp.0.weight of {2 * hidden} or {2 * hidden + inputs} columns (2 hidden, "
            f"plus the input features with node_attr), got {2 * hidden + node_attr}"
        )
    config = {
        "out": _matrix(state, f"{last}.weight").shape[0],
        "hidden": hidden,
        "num_layers": _num_layers(state),
        "edge_attr": max(_matrix(state, "gcl_0.edge_mlp.0.weight").shape[1] - 2 * hidden - 1, 0),
        "attention": "gcl_0.att_mlp.0.weight" in state,
        "update_coordinates": "gcl_0.coord_mlp.0.weight" in state,
        "velocity": "gcl_0.coord_mlp_vel.0.weight" in state,
        "node_attr": node_attr,
        "decoder": "linear" if clean else "structure",
    }
    parameters = {_ours(key): value for key, value in state.items() if not key.startswith(f"{embedding}.")}
    return Found(config, weight.dtype, table, nn.functional.linear(table, weight, bias), parameters)


def load(model: nn.Module, found: Found, elements: Sequence[int]) -> None:
    """Copy what was found into `model`: all parameters and nothing else, and the tables of `elements`."""
    parameters = found.parameters
    own = dict(model.named_parameters())
    expected = {key for key in own if not key.startswith(("embedding.", "attributes."))}
    problems = [f"missing {_theirs(key, parameters)}" for key in sorted(expected - parameters.keys())]
    problems += [f"unknown {_theirs(key, parameters)}" for key in sorted(parameters.keys() - expected)]
    problems += [
        f"{_theirs(key, parameters)} of shape {tuple(parameters[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(expected & parameters.keys())
        if parameters[key].shape != own[key].shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"state_dict is not that of an EGNN of vgsatorras/egnn: {'; '.join(problems[:5])}{more}")
    with torch.no_grad():
        for key in expected:
            own[key].copy_(parameters[key])
        own["embedding.weight"].zero_()[list(elements)] = found.embedded
        if "attributes.weight" in own:
            own["attributes.weight"].zero_()[list(elements)] = found.features


def _ours(key: str) -> str:
    return _LAYER.sub(r"layers.\1.", key).replace("embedding_out.", "node_dec.")


def _theirs(key: str, parameters: Mapping[str, Tensor]) -> str:
    key = re.sub(r"^layers\.(\d+)\.", r"gcl_\1.", key)
    return key if "graph_dec.2.weight" in parameters else key.replace("node_dec.", "embedding_out.")


def _entry(state: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in state:
        some = ", ".join(sorted(state)[:4]) or "nothing"
        raise ValueError(f"state_dict must be of an EGNN of vgsatorras/egnn, but has no {key}; it holds {some} ...")
    return state[key]


def _matrix(state: Mapping[str, Tensor], key: str) -> Tensor:
    value = _entry(state, key)
    if value.dim() != 2:
        raise ValueError(f"state_dict must have a matrix as {key}, got shape {tuple(value.shape)}")
    return value


def _num_layers(state: Mapping[str, Tensor]) -> int:
    found = {int(match.group(1)) for match in map(_LAYER.match, state) if match}
    if found != set(range(len(found))):
        raise ValueError(f"state_dict must have layers gcl_0, gcl_1 ... without a gap, got {sorted(found)}")
    return len(found)


def _features(elements: Sequence[int], features: Tensor | None, inputs: int) -> Tensor:
    """(elements, inputs) input features."""
    count = len(elements)
    if features is not None:
        if not isinstance(features, Tensor):
            raise TypeError(f"features must be a torch.Tensor, got {type(features)}")
        if features.shape != (count, inputs):
            raise ValueError(
                f"features must have shape ({count}, {inputs}), elements by inputs of the model, got "
                f"{tuple(features.shape)}"
            )
        return features
    if not count or inputs % count:
        raise ValueError(
            f"features must be given: the model has {inputs} inputs, not a multiple of the {count} elements "
            f"{list(elements)}"
        )
    numbers = torch.tensor(elements, dtype=torch.float64)
    powers = (numbers / numbers.max()).unsqueeze(1) ** torch.arange(inputs // count, dtype=torch.float64)
    table: Tensor = torch.block_diag(*powers)
    return table
