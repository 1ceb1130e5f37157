"""EGNN equals its authors' code (vectors/make_egnn.py recorded it) and takes over its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from egnn_tools import DOUBLE, close
from torch import Tensor

import symkern as sk
from symkern.models import EGNN
from symkern.nn import EGNNLayer

VECTORS = Path(__file__).resolve().parent / "vectors" / "egnn_satorras.npz"


class Case:
    def __init__(self, arrays: dict[str, Any]) -> None:
        self.setting: dict[str, Any] = json.loads(str(arrays["setting"]))
        self.state, self.input, self.output = (
            {
                key.removeprefix(f"{kind}/"): torch.from_numpy(value)
                for key, value in arrays.items()
                if key.startswith(f"{kind}/")
            }
            for kind in ("state", "input", "output")
        )


def cases(kind: str) -> dict[str, Case]:
    with np.load(VECTORS, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files if key.startswith(kind)}
    names = sorted({key.split("/")[0] for key in arrays})
    return {
        name: Case({key.removeprefix(f"{name}/"): value for key, value in arrays.items() if key.startswith(f"{name}/")})
        for name in names
    }


LAYERS, MODELS = cases("layer_"), cases("model_")


@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_the_authors_code(name: str) -> None:
    case = LAYERS[name]
    layer = EGNNLayer(6, **case.setting).double()
    state = dict(case.state)
    layer.load_state_dict(state)
    nb = sk.Neighbors.from_edge_index(case.input["edges"].flip(0), len(case.input["x"]))  # there: [0] = receiver
    assert nb.order is not None
    points = {key: case.input[key].clone().requires_grad_() for key in ("h", "x", "v") if key in case.input}
    attr = case.input["edge_attr"][nb.order] if "edge_attr" in case.input else None
    out = layer(points["h"], points["x"], nb, edge_attr=attr, v=points.get("v"), node_attr=case.input.get("node_attr"))
    close(out[0], case.output["h"])
    close(out[1], case.output["x"])
    if "v" in points:
        close(out[1] - points["x"], out[2])
    loss = out[0].square().sum() + out[1].square().sum()
    for key, grad in zip(points, torch.autograd.grad(loss, list(points.values())), strict=True):
        close(grad, case.output[f"grad_{key}"])
    moved = (case.output["x"] - case.input["x"]).abs().amax(1)
    assert (moved > 1e-3).sum() >= 5  # the coordinates are put to the test


@pytest.mark.parametrize("name", MODELS)
def test_model_equals_the_authors_code(name: str) -> None:
    case = MODELS[name]
    setting = {key: value for key, value in case.setting.items() if key != "attention"}
    model = EGNN.from_satorras(case.state, **setting)
    pos = case.input["pos"].clone().requires_grad_()
    out = model(case.input["z"], pos, case.input["batch"])
    close(out, case.output["out"])
    loss = out.square().sum()
    if "h" in case.output:
        h, x = model.encode(case.input["z"], pos, case.input["batch"])
        close(model.node_dec(h), case.output["h"])
        close(x, case.output["x"])
        loss = loss + model.node_dec(h).square().sum() + x.square().sum()
    close(torch.autograd.grad(loss, pos)[0], case.output["grad_pos"])
    assert model.config["attention"] == case.setting.get("attention", name == "model_qm9")


def test_a_cutoff_removes_pairs_and_weighs_no_others() -> None:
    case = MODELS["model_plain"]
    system = case.input["z"], case.input["pos"], case.input["batch"]
    close(EGNN.from_satorras(case.state, cutoff=50.0)(*system), case.output["out"])
    short = EGNN.from_satorras(case.state, cutoff=1.5)(*system)
    assert (short - case.output["out"]).abs().max() > 1e-3


def test_model_of_the_authors_rebuilds_from_its_config() -> None:
    case = MODELS["model_qm9_node_attr"]
    model = EGNN.from_satorras(case.state)
    again = EGNN(**json.loads(json.dumps(model.config))).double()
    again.load_state_dict(model.state_dict())
    close(again(case.input["z"], case.input["pos"], case.input["batch"]), case.output["out"])


def test_features_of_the_elements_may_be_given() -> None:
    case = MODELS["model_plain"]
    order = torch.tensor([3, 0, 4, 1, 2])
    elements = torch.tensor([1, 6, 7, 8, 9])[order].tolist()
    model = EGNN.from_satorras(case.state, elements=elements, features=torch.eye(5)[order])
    close(model(case.input["z"], case.input["pos"], case.input["batch"]), case.output["out"])


def test_initial_weights_are_those_of_the_authors() -> None:
    torch.manual_seed(3)
    layer = EGNNLayer(64, attention=True)
    last = layer.coord_mlp[2].weight
    assert layer.coord_mlp[2].bias is None
    bound = 0.001 * (6 / 65) ** 0.5
    assert 0.5 * bound < last.abs().max() <= bound
    names = {"edge_mlp.0", "edge_mlp.2", "node_mlp.0", "node_mlp.2", "coord_mlp.0", "coord_mlp.2", "att_mlp.0"}
    assert {key.rsplit(".", 1)[0] for key in layer.state_dict()} == names


def without(state: dict[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key not in keys}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {}, "no embedding.weight"),
        (lambda s: without(s, "gcl_1.edge_mlp.2.bias"), "missing gcl_1.edge_mlp.2.bias"),
        (lambda s: without(s, "embedding_out.bias"), "missing embedding_out.bias"),
        (lambda s: without(s, "gcl_0.node_mlp.0.weight"), "no gcl_0.node_mlp.0.weight"),
        (lambda s: {**s, "gcl_0.extra": torch.zeros(1)}, "unknown gcl_0.extra"),
        (lambda s: {**s, "gcl_1.edge_mlp.0.weight": torch.zeros(6, 15)}, r"shape \(6, 15\) instead of \(6, 13\)"),
        (lambda s: {**s, "gcl_0.node_mlp.0.weight": torch.zeros(6, 14)}, "got 14"),
        (lambda s: {**s, "gcl_0.edge_mlp.0.weight": torch.zeros(6, 4)}, "instead of"),
        (lambda s: {**s, "embedding_in.weight": torch.zeros(6)}, "matrix"),
        (lambda s: {**s, "embedding_in.weight": torch.zeros(6, 7)}, "features must be given"),
        (lambda s: {key.replace("gcl_0", "gcl_5"): v for key, v in s.items()}, "no gcl_0"),
        (lambda s: {**s, "gcl_7.edge_mlp.0.bias": torch.zeros(6)}, "without a gap"),
        (lambda s: {key.replace("_in", ""): v for key, v in s.items() if "_out" not in key}, "no readout"),
    ],
)
def test_a_state_dict_of_another_model_is_refused(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EGNN.from_satorras(change(MODELS["model_plain"].state))


def test_from_satorras_refuses_other_mistakes() -> None:
    state = MODELS["model_plain"].state
    with pytest.raises(TypeError, match="state_dict must map"):
        EGNN.from_satorras({"embedding_in.weight": 1.0})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="features"):
        EGNN.from_satorras(state, features=[[1.0]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"features must have shape \(5, 5\)"):
        EGNN.from_satorras(state, features=torch.zeros(4, 5))
    with pytest.raises(ValueError, match="elements must be different"):
        EGNN.from_satorras(state, elements=(1, 6, 6, 7, 8))
    model = EGNN.from_satorras(state)
    with pytest.raises(ValueError, match="only the elements"):
        model(torch.tensor([1, 14]), torch.randn(2, 3, dtype=DOUBLE))
