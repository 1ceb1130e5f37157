"""Outputs and gradients of github.com/vgsatorras/egnn, the implementation of EGNN's authors, for tests without it.

    python make_egnn.py CHECKOUT        writes egnn_satorras.npz beside this file

CHECKOUT is a checkout of that repository (written from models/egnn_clean/egnn_clean.py, models/gcl.py, qm9/models.py).
All in fp64, with random weights larger than the initial ones, which barely move the coordinates. The archive holds for
each case <case>/setting (JSON), state/<parameter>, input/<name> and output/<name>; edges are in that repository's
order: [0] = receiver, [1] = sender.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

HIDDEN, ATOMS, EDGE_ATTR, NODE_ATTR = 6, 7, 2, 3
ELEMENTS = torch.tensor([1, 6, 7, 8, 9])
SIZES = (3, 5, 2)


def randomised(module: nn.Module) -> nn.Module:
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def record(
    name: str, setting: dict[str, Any], module: nn.Module, inputs: dict[str, Tensor], outputs: dict[str, Tensor]
) -> dict[str, Any]:
    """The arrays of one case; gradients of the outputs' squares join the outputs."""
    points = {key: value for key, value in inputs.items() if value.requires_grad}
    grads = torch.autograd.grad(sum(y.square().sum() for y in outputs.values()), list(points.values()))
    outputs = {**outputs, **{f"grad_{key}": grad for key, grad in zip(points, grads, strict=True)}}
    arrays: dict[str, Any] = {f"{name}/setting": json.dumps(setting)}
    for kind, tensors in (("state", module.state_dict()), ("input", inputs), ("output", outputs)):
        arrays |= {f"{name}/{kind}/{key}": value.detach().numpy() for key, value in tensors.items()}
    return arrays


def layers(clean: Any, gcl: Any) -> dict[str, Any]:
    """Single layers on a directed graph with repeated edges, in which the last atom receives none."""
    h, x, v = torch.randn(ATOMS, HIDDEN), torch.randn(ATOMS, 3), torch.randn(ATOMS, 3)
    edges = torch.stack([torch.randint(0, ATOMS - 1, (20,)), torch.randint(0, ATOMS, (20,))])
    edges = edges[:, edges[0] != edges[1]]
    attr, node_attr = torch.randn(edges.shape[1], EDGE_ATTR), torch.randn(ATOMS, NODE_ATTR)
    cases: dict[str, dict[str, Any]] = {
        "plain": {},
        "attention": {"attention": True},
        "normalize": {"normalize": True},
        "tanh": {"tanh": True},
        "mean_edge_attr": {"aggregation": "mean", "edge_attr": EDGE_ATTR},
        "no_residual": {"residual": False},
        "all": {"attention": True, "normalize": True, "tanh": True, "aggregation": "mean", "edge_attr": EDGE_ATTR},
        "velocity": {"velocity": True, "aggregation": "mean", "edge_attr": EDGE_ATTR},
        "velocity_attention": {"velocity": True, "aggregation": "mean", "attention": True},
        "node_attr": {"aggregation": "mean", "node_attr": NODE_ATTR},
    }
    arrays = {}
    for name, setting in cases.items():
        options = {key: setting.get(key, False) for key in ("attention", "tanh")}
        options["edges_in_d"] = setting.get("edge_attr", 0)
        sizes = (HIDDEN, HIDDEN, HIDDEN)
        if setting.get("velocity"):
            module = gcl.E_GCL_vel(*sizes, act_fn=nn.SiLU(), recurrent=True, **options)
        elif "node_attr" in setting:
            module = gcl.E_GCL(*sizes, act_fn=nn.SiLU(), recurrent=True, nodes_att_dim=NODE_ATTR, **options)
        else:
            options |= {"normalize": setting.get("normalize", False), "residual": setting.get("residual", True)}
            module = clean.E_GCL(*sizes, coords_agg=setting.get("aggregation", "sum"), **options)
        inputs = {"h": h.clone().requires_grad_(), "x": x.clone().requires_grad_(), "edges": edges}
        if "edge_attr" in setting:
            inputs["edge_attr"] = attr
        if "node_attr" in setting:
            inputs["node_attr"] = node_attr
        if setting.get("velocity"):
            inputs["v"] = v.clone().requires_grad_()
        moving = (inputs["x"] * 1, inputs["v"]) if setting.get("velocity") else (inputs["x"] * 1,)  # changed in place
        out = randomised(module)(
            inputs["h"], edges, *moving, edge_attr=inputs.get("edge_attr"), node_attr=inputs.get("node_attr")
        )
        arrays |= record(f"layer_{name}", setting, module, inputs, {"h": out[0], "x": out[1]})
    return arrays


def models(clean: Any, qm9: Any) -> dict[str, Any]:
    """Whole models on three molecules, every pair of atoms joined."""
    kinds = torch.randint(0, len(ELEMENTS), (sum(SIZES),))
    batch = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))
    pos = torch.randn(sum(SIZES), 3) * 1.5
    edges = ((batch[:, None] == batch[None, :]) & ~torch.eye(len(batch), dtype=torch.bool)).nonzero().t()
    one_hot = nn.functional.one_hot(kinds, len(ELEMENTS)).double()
    arrays = {}
    for name, setting in {
        "plain": {},
        "options": {"attention": True, "normalize": True, "tanh": True, "residual": False},
    }.items():
        module = randomised(clean.EGNN(len(ELEMENTS), HIDDEN, 2, n_layers=2, **setting))
        inputs = {"z": ELEMENTS[kinds], "pos": pos.clone().requires_grad_(), "batch": batch}
        h, x = module(one_hot, inputs["pos"], edges, None)
        out = torch.zeros(len(SIZES), 2).index_add(0, batch, h)
        arrays |= record(f"model_{name}", setting, module, inputs, {"h": h, "x": x, "out": out})
    for name, setting in {"qm9": {"attention": True, "node_attr": 0}, "qm9_node_attr": {"node_attr": 1}}.items():
        module = randomised(qm9.EGNN(15, 0, HIDDEN, n_layers=2, **setting))
        inputs = {"z": ELEMENTS[kinds], "pos": pos.clone().requires_grad_(), "batch": batch}
        arrays |= record(f"model_{name}", {}, module, inputs, {"out": padded(module, kinds, inputs["pos"], batch)})
    return arrays


def padded(module: nn.Module, kinds: Tensor, pos: Tensor, batch: Tensor) -> Tensor:
    """(B, 1) outputs of the QM9 model, which takes padded molecules, with the features of main_qm9.py."""
    largest, count = max(SIZES), len(SIZES)
    rows = torch.cat([torch.arange(size) + structure * largest for structure, size in enumerate(SIZES)])
    charges = ELEMENTS[kinds].double() / ELEMENTS.max()
    powers = charges[:, None] ** torch.arange(3.0)
    features = (nn.functional.one_hot(kinds, len(ELEMENTS)).double()[:, :, None] * powers[:, None, :]).flatten(1)
    h0 = torch.zeros(count * largest, features.shape[1]).index_copy(0, rows, features)
    x = torch.zeros(count * largest, 3).index_copy(0, rows, pos)
    mask = torch.zeros(count * largest, 1).index_fill(0, rows, 1.0)
    nodes = torch.arange(count * largest).view(count, largest)
    edges = torch.stack([nodes.repeat_interleave(largest, 1).flatten(), nodes.repeat(1, largest).flatten()])
    edge_mask = (mask[edges[0]] * mask[edges[1]]) * (edges[0] != edges[1])[:, None]
    out: Tensor = module(h0, x, edges, None, mask, edge_mask, largest)
    return out[:, None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    sys.path.insert(0, str(parser.parse_args().checkout.resolve()))
    clean, gcl, qm9 = (importlib.import_module(n) for n in ("models.egnn_clean.egnn_clean", "models.gcl", "qm9.models"))
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    np.savez_compressed(
        Path(__file__).resolve().parent / "egnn_satorras.npz", **layers(clean, gcl), **models(clean, qm9)
    )


if __name__ == "__main__":
    main()
