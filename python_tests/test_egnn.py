"""The layer of EGNN: symmetry, graphs of every kind, derivatives, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from egnn_tools import DOUBLE, close, lively, rotation
from torch import Tensor

import symkern as sk
from symkern.nn import EGNNLayer

# every option of a layer at least once, coordinates summed and averaged
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "attention": {"attention": True, "residual": False},
    "normalize": {"normalize": True},
    "tanh mean": {"tanh": True, "aggregation": "mean"},
    "edge_attr": {"edge_attr": 2, "aggregation": "mean"},
    "velocity": {"velocity": True, "attention": True},
    "h only": {"update_coordinates": False},
    "node_attr": {"node_attr": 3},
}


class Inputs:
    """A layer's inputs on a random graph with padding, in which the last atom has no edges."""

    def __init__(self, setting: dict[str, Any], atoms: int = 6, hidden: int = 4) -> None:
        torch.manual_seed(7)
        self.x, self.h = torch.randn(atoms, 3, dtype=DOUBLE), torch.randn(atoms, hidden, dtype=DOUBLE)
        self.x[-1] += 100
        self.nb = sk.neighbor_list(self.x, 2.5, max_edges=40)
        assert 6 <= int(self.nb.row_ptr[-1]) < 36
        self.layer = lively(EGNNLayer(hidden, **setting))
        attr, node_attr = setting.get("edge_attr", 0), setting.get("node_attr", 0)
        self.extra: dict[str, Tensor] = {"edge_weight": torch.rand(40, dtype=DOUBLE)}
        if attr:
            self.extra["edge_attr"] = torch.randn(40, attr, dtype=DOUBLE)
        if node_attr:
            self.extra["node_attr"] = torch.randn(atoms, node_attr, dtype=DOUBLE)
        if setting.get("velocity"):
            self.extra["v"] = torch.randn(atoms, 3, dtype=DOUBLE)

    def __call__(self, **changed: Any) -> tuple[Tensor, ...]:
        inputs = {"h": self.h, "x": self.x, "nb": self.nb, **self.extra, **changed}
        out: tuple[Tensor, ...] = self.layer(**inputs)
        return out


@pytest.fixture(params=OPTIONS)
def inputs(request: pytest.FixtureRequest) -> Inputs:
    return Inputs(OPTIONS[request.param])


@pytest.mark.parametrize("determinant", [1, -1])
def test_layer_is_equivariant(inputs: Inputs, determinant: int) -> None:
    r, t = rotation(determinant), torch.tensor([3.0, -2.0, 1.0], dtype=DOUBLE)
    h, x, *v = inputs()
    turned = {"v": inputs.extra["v"] @ r.T} if "v" in inputs.extra else {}
    h2, x2, *v2 = inputs(x=inputs.x @ r.T + t, **turned)
    close(h2, h)
    close(x2, x @ r.T + t)
    if v:
        close(v2[0], v[0] @ r.T)


def test_padding_and_isolated_atoms(inputs: Inputs) -> None:
    real = int(inputs.nb.row_ptr[-1])
    cut = sk.Neighbors(inputs.nb.edge_index[:, :real], inputs.nb.row_ptr, inputs.nb.ptr)
    exact = {key: inputs.extra[key][:real] for key in ("edge_weight", "edge_attr") if key in inputs.extra}
    padded, plain = inputs(), inputs(nb=cut, **exact)
    for a, b in zip(padded, plain, strict=True):
        close(a, b, 1e-13)
    if "v" not in inputs.extra:
        close(padded[1][-1], inputs.x[-1])
    assert padded[0].isfinite().all()


def test_layer_without_edges_or_atoms(inputs: Inputs) -> None:
    for atoms in (0, 3):
        nb = sk.Neighbors.from_edge_index(torch.empty(2, 0, dtype=torch.int64), atoms)
        few = {key: inputs.extra[key][:atoms] for key in ("node_attr", "v") if key in inputs.extra}
        none = {key: inputs.extra[key][:0] for key in ("edge_attr", "edge_weight") if key in inputs.extra}
        h, x, *_ = inputs(h=inputs.h[:atoms], x=inputs.x[:atoms], nb=nb, **few, **none)
        assert h.shape == (atoms, 4)
        assert x.shape == (atoms, 3)
        assert h.isfinite().all()


def test_weights_of_zero_and_one_remove_and_keep_edges(inputs: Inputs) -> None:
    keep = torch.rand(40) < 0.5
    real = inputs.nb.edge_mask & keep
    cut = sk.Neighbors.from_edge_index(inputs.nb.edge_index[:, real], len(inputs.h))
    fewer = {"edge_attr": inputs.extra["edge_attr"][real]} if "edge_attr" in inputs.extra else {}
    without_edges = inputs(nb=cut, edge_weight=None, **fewer)
    for a, b in zip(inputs(edge_weight=keep.double()), without_edges, strict=True):
        close(a, b, 1e-13)


# ---- derivatives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIONS)
def test_first_and_second_derivatives(name: str) -> None:
    inputs = Inputs(OPTIONS[name], atoms=5, hidden=2)
    chosen = ["h", "x", "edge_weight", *(key for key in ("edge_attr", "v", "node_attr") if key in inputs.extra)]
    if inputs.layer.normalize:
        chosen.remove("x")  # its length is detached: by design not the derivative
    weights = dict(inputs.layer.named_parameters())
    base = {"h": inputs.h, "x": inputs.x, **inputs.extra}
    points = [base[key].clone().requires_grad_() for key in chosen] + [
        p.detach().requires_grad_() for p in weights.values()
    ]

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        given = {**base, **dict(zip(chosen, values, strict=False)), "nb": inputs.nb}
        parameters = dict(zip(weights, values[len(chosen) :], strict=True))
        out: tuple[Tensor, ...] = torch.func.functional_call(inputs.layer, parameters, (), given)
        return out

    assert torch.autograd.gradcheck(run, points, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, points, fast_mode=True)


@pytest.mark.parametrize("name", OPTIONS)
def test_coincident_atoms_have_finite_derivatives(name: str) -> None:
    inputs = Inputs(OPTIONS[name])
    x = inputs.x.clone()
    x[1] = x[0]
    edge = torch.tensor([[0, 1, 2], [1, 0, 2]])  # and a self loop
    nb = sk.Neighbors.from_edge_index(edge, len(x))
    few = {key: inputs.extra[key][:3] for key in ("edge_attr", "edge_weight") if key in inputs.extra}
    x.requires_grad_()
    out = inputs(x=x, nb=nb, **few)
    (first,) = torch.autograd.grad(sum(y.square().sum() for y in out), x, create_graph=True)
    second = torch.autograd.grad(first.square().sum(), [x, *inputs.layer.parameters()], allow_unused=True)
    assert first.isfinite().all()
    assert all(g is None or g.isfinite().all() for g in second)


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"hidden": 0}, "hidden must be positive"),
        ({"aggregation": "max"}, "aggregation must be one of sum, mean"),
        ({"edge_attr": -1}, "edge_attr must be"),
        ({"node_attr": -1}, "node_attr must be"),
        ({"velocity": True, "update_coordinates": False}, "velocity needs update_coordinates"),
    ],
)
def test_bad_settings_of_a_layer(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EGNNLayer(**{"hidden": 4, **setting})


@pytest.mark.parametrize(
    ("option", "changed", "message"),
    [
        ("plain", {"h": torch.zeros(6, 5, dtype=DOUBLE)}, r"h must be floats of shape \(6, 4\)"),
        ("plain", {"x": torch.zeros(6, 2, dtype=DOUBLE)}, r"x must be floats of shape \(6, 3\)"),
        ("plain", {"x": torch.zeros(6, 3)}, "x must be torch.float64, as h is"),
        ("plain", {"edge_attr": torch.zeros(40, 1, dtype=DOUBLE)}, "made without edge_attr > 0"),
        ("plain", {"v": torch.zeros(6, 3, dtype=DOUBLE)}, "made without velocity=True"),
        ("plain", {"edge_weight": torch.zeros(40, 1, dtype=DOUBLE)}, r"edge_weight must have shape \(40,\)"),
        ("plain", {"edge_weight": torch.zeros(40)}, "edge_weight must be torch.float64"),
        ("edge_attr", {"edge_attr": None}, "edge_attr must be given"),
        ("edge_attr", {"edge_attr": torch.zeros(40, 3, dtype=DOUBLE)}, r"edge_attr must be floats of shape \(40, 2\)"),
        ("velocity", {"v": None}, "v must be given"),
        ("node_attr", {"node_attr": None}, "node_attr must be given"),
    ],
)
def test_bad_inputs_of_a_layer(option: str, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Inputs(OPTIONS[option])(**changed)


def test_wrong_types() -> None:
    inputs = Inputs({})
    with pytest.raises(TypeError, match=r"nb must be symkern\.Neighbors"):
        inputs(nb=inputs.nb.edge_index)
    with pytest.raises(TypeError, match=r"h must be a torch\.Tensor"):
        inputs(h=[1.0])
    with pytest.raises(TypeError, match="edge_weight"):
        inputs(edge_weight=1.0)
    with pytest.raises(ValueError, match="x must be float32 or float64"):
        inputs(h=inputs.h.bfloat16(), x=inputs.x.bfloat16())
