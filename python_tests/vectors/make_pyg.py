"""Outputs and forces of PyTorch Geometric's models, for tests where it is not installed.

    python make_pyg.py        writes dimenet_pyg.npz and schnet_pyg.npz beside this file

Written with torch_geometric 2.8.1, which needs neither torch-cluster nor torch-sparse here: graphs and triplets are
made below. The layout of the files is that of `pyg_vectors.read`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch_geometric
from torch import Tensor
from torch_geometric.nn.models import DimeNetPlusPlus, SchNet, dimenet, dimenet_utils

HERE = Path(__file__).resolve().parent
VERSION = "2.8.1"


# ---- what PyG takes from other packages ------------------------------------------------------------------------------


def radius_graph(pos: Tensor, r: float, batch: Tensor | None = None, **_: Any) -> Tensor:
    """All pairs closer than r, in PyG's order: [0] = sender, [1] = receiver."""
    batch = pos.new_zeros(len(pos), dtype=torch.int64) if batch is None else batch
    near = (torch.cdist(pos.detach(), pos.detach()) < r) & (batch[:, None] == batch[None, :])
    return torch.stack(near.fill_diagonal_(False).nonzero(as_tuple=True)).flip(0)


def triplets(edge_index: Tensor, num_nodes: int) -> tuple[Tensor, ...]:
    """i, j, idx_i, idx_j, idx_k, idx_kj, idx_ji of all k->j->i with k != i."""
    j, i = edge_index
    ji, kj = ((i[None, :] == j[:, None]) & (j[None, :] != i[:, None])).nonzero(as_tuple=True)
    return i, j, i[ji], j[ji], j[kj], kj, ji


def _roots(orders: int, count: int) -> np.ndarray[Any, Any]:
    """PyG's ``Jn_zeros``, which rounds the roots to fp32, in fp64."""
    from scipy.optimize import brentq
    from scipy.special import spherical_jn

    rows = [np.arange(1, count + orders) * math.pi]
    for order in range(1, orders):
        ends = rows[-1]
        rows.append(
            np.array(
                [
                    brentq(lambda x, n=order: float(spherical_jn(n, x)), a, b, xtol=1e-15)
                    for a, b in itertools.pairwise(ends)
                ]
            )
        )
    return np.stack([row[:count] for row in rows])


@contextlib.contextmanager
def standing_in(exact: bool = False) -> Iterator[None]:
    """PyG's DimeNet++ without its compiled dependencies; `exact`: with Bessel roots in fp64."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(dimenet, "radius_graph", radius_graph))
        stack.enter_context(mock.patch.object(dimenet, "triplets", triplets))
        if exact:
            stack.enter_context(mock.patch.object(dimenet_utils, "Jn_zeros", _roots))
        yield


# ---- models ----------------------------------------------------------------------------------------------------------

DIMENET = {
    "hidden_channels": 16,
    "out_channels": 1,
    "num_blocks": 2,
    "int_emb_size": 8,
    "basis_emb_size": 4,
    "out_emb_channels": 12,
    "num_spherical": 4,
    "num_radial": 3,
    "cutoff": 3.0,
    "max_num_neighbors": 1000,
    "envelope_exponent": 4,
    "num_before_skip": 2,
    "num_after_skip": 1,
    "num_output_layers": 2,
    "output_initializer": "glorot_orthogonal",
}
SCHNET = {
    "hidden_channels": 16,
    "num_filters": 12,
    "num_interactions": 2,
    "num_gaussians": 10,
    "cutoff": 4.0,
    "max_num_neighbors": 1000,
}
SCHNETS: dict[str, dict[str, Any]] = {
    "add": {"readout": "add"},
    "mean": {"readout": "mean"},
    "atomref": {"readout": "add", "mean": -0.7, "std": 1.9, "atomref": True},
}


def dimenet_model(seed: int = 0, exact: bool = False, **changes: Any) -> DimeNetPlusPlus:
    torch.manual_seed(seed)
    with standing_in(exact):
        return _disturbed(DimeNetPlusPlus(**{**DIMENET, **changes}).double())


def schnet_model(seed: int = 0, exact: bool = False, **changes: Any) -> SchNet:
    """`exact`: ln 2 of the shifted softplus and the centers of the Gaussians in fp64 (PyG: in fp32)."""
    torch.manual_seed(seed)
    settings = {**SCHNET, **changes}
    if settings.get("atomref"):
        settings["atomref"] = torch.linspace(-3, 2, 100).reshape(100, 1)

    def graph(pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        edge_index = radius_graph(pos, SCHNET["cutoff"], batch)
        return edge_index, (pos[edge_index[0]] - pos[edge_index[1]]).norm(dim=-1)

    model = _disturbed(SchNet(**settings, interaction_graph=graph).double())
    if exact:
        for module in model.modules():
            if hasattr(module, "shift"):
                module.shift = math.log(2)
        count, smearing = SCHNET["num_gaussians"], model.distance_expansion
        smearing.offset = torch.linspace(0, SCHNET["cutoff"], count, dtype=torch.float64)
        smearing.coeff = -0.5 / (SCHNET["cutoff"] / (count - 1)) ** 2
    return model


@torch.no_grad()
def _disturbed(model: Any) -> Any:
    """No parameter stays at a value that could hide an error, such as a bias of zero."""
    for parameter in model.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    return model


def evaluate(model: Any, z: Tensor, pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Output (B, 1) and minus its gradient (N, 3)."""
    pos = pos.detach().requires_grad_()
    with standing_in():
        out = model(z, pos, batch)
    (gradient,) = torch.autograd.grad(out.sum(), pos)
    return out.detach(), -gradient


# ---- molecules -------------------------------------------------------------------------------------------------------


def molecules() -> dict[str, Tensor]:
    """CO2 along z, acetylene along a skew line, a water molecule, and a deformed benzene: z, pos in Å, batch."""
    skew = np.array([2, -1, 2]) / 3
    ring = np.array([[math.cos(k * math.pi / 3), math.sin(k * math.pi / 3), 0] for k in range(6)])
    deformed = np.concatenate([1.39 * ring, 2.48 * ring]) + np.random.default_rng(0).normal(0, 0.08, (12, 3))
    parts = [
        ([6, 8, 8], np.array([[0, 0, 0], [0, 0, 1.16], [0, 0, -1.16]])),
        ([1, 6, 6, 1], np.outer([-1.66, -0.6, 0.6, 1.66], skew)),
        ([8, 1, 1], np.array([[0, 0, 0.12], [0, 0.76, -0.47], [0.02, -0.75, -0.48]])),
        ([6] * 6 + [1] * 6, deformed),
    ]
    return {
        "z": torch.tensor([number for z, _ in parts for number in z]),
        "pos": torch.from_numpy(np.concatenate([pos for _, pos in parts])),
        "batch": torch.repeat_interleave(torch.tensor([len(z) for z, _ in parts])),
    }


# ---- files -----------------------------------------------------------------------------------------------------------


def case(attributes: dict[str, Any], model: Any, exact: Any) -> dict[str, Any]:
    systems = molecules()
    found = {"attributes": np.array(json.dumps(attributes))}
    found |= {f"state/{name}": value.numpy() for name, value in model.state_dict().items()}
    for suffix, which in (("", model), ("_exact", exact)):
        out, forces = evaluate(which, **systems)
        found |= {f"out{suffix}": out.numpy(), f"forces{suffix}": forces.numpy()}
    return found


def write(name: str, cases: dict[str, dict[str, Any]]) -> None:
    arrays = {"made_with": np.array(f"torch_geometric {torch_geometric.__version__}")}
    arrays |= {key: value.numpy() for key, value in molecules().items()}
    arrays |= {f"{case}/{key}": value for case, found in cases.items() for key, value in found.items()}
    np.savez_compressed(HERE / name, **arrays)


def main() -> None:
    if torch_geometric.__version__ != VERSION:
        print(f"note: torch_geometric {torch_geometric.__version__}; the files were last written with {VERSION}")
    attributes = {
        "cutoff": DIMENET["cutoff"],
        "sbf": {"num_spherical": DIMENET["num_spherical"], "num_radial": DIMENET["num_radial"]},
        "rbf": {"envelope": {"p": DIMENET["envelope_exponent"] + 1}},
    }
    write("dimenet_pyg.npz", {"default": case(attributes, dimenet_model(), dimenet_model(exact=True))})

    cases = {}
    for name, changes in SCHNETS.items():
        model = schnet_model(**changes)
        attributes = {
            **{key: getattr(model, key) for key in ("cutoff", "dipole", "mean", "std", "scale", "num_gaussians")},
            "readout": changes["readout"],  # a string here, an aggregation in PyG
            "interactions": [None] * model.num_interactions,
            **dict.fromkeys(("embedding", "lin1", "lin2")),
            "distance_expansion": {"coeff": model.distance_expansion.coeff},
        }
        cases[name] = case(attributes, model, schnet_model(exact=True, **changes))
    write("schnet_pyg.npz", cases)


if __name__ == "__main__":
    main()
