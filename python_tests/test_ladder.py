"""How the fused ops take part in autograd: what a backward pass asks for, and how often it looks at what was kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import symkern as sk

Z = torch.tensor([6, 1, 1, 8, 1])
POS = torch.tensor([[0.0, 0, 0], [1.0, 0.1, 0], [-0.5, 0.9, 0], [0.2, -0.6, 1.1], [0.9, -0.2, 1.6]])
MODELS = {
    "SchNet": lambda: sk.models.SchNet(1, 16, 16, 2, 8, 3.0),
    "EGNN": lambda: sk.models.EGNN(1, 16, 2, cutoff=3.0),
    "PaiNN": lambda: sk.models.PaiNN(1, 16, 2, 8, 3.0),
}


def train_step(run: Any, model: torch.nn.Module) -> list[Tensor]:
    """Forces, and the gradients of a loss on them."""
    model.zero_grad()
    pos = POS.clone().requires_grad_()
    (forces,) = torch.autograd.grad(run(pos).sum(), pos, create_graph=True)
    forces.square().sum().backward()
    return [forces.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints(name: str, reentrant: bool) -> None:
    """Without reentrance what was kept may be looked at only once per backward pass."""
    torch.manual_seed(0)
    model = MODELS[name]()

    def energy(pos: Tensor) -> Tensor:
        return model(Z, pos)

    def kept(pos: Tensor) -> Tensor:
        return checkpoint(energy, pos, use_reentrant=reentrant)

    if reentrant:  # first derivatives only, says torch
        pos = POS.clone().requires_grad_()
        kept(pos).sum().backward()
        (expected,) = torch.autograd.grad(energy(pos).sum(), pos)
        assert torch.equal(pos.grad, expected)
        return
    plain, again = train_step(energy, model), train_step(kept, model)
    assert len(plain) == len(again)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_what_is_kept_is_looked_at_once(name: str) -> None:
    torch.manual_seed(0)
    model, counts = MODELS[name](), {"packed": 0, "unpacked": 0}

    def pack(x: Tensor) -> Tensor:
        counts["packed"] += 1
        return x

    def unpack(x: Tensor) -> Tensor:
        counts["unpacked"] += 1
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        model(Z, POS).sum().backward()
    assert 0 < counts["unpacked"] <= counts["packed"]


def test_gradients_of_frozen_and_chosen_weights() -> None:
    """Neither freezing weights nor naming those a pass is for changes the others' gradients."""
    torch.manual_seed(0)
    model = MODELS["EGNN"]()
    names = [n for n, p in model.named_parameters() if "coord_mlp" not in n or "layers.0" in n]
    weights = [dict(model.named_parameters())[n] for n in names]
    expected = torch.autograd.grad(model(Z, POS).sum(), weights)
    for k in range(0, len(weights), 3):
        (found,) = torch.autograd.grad(model(Z, POS).sum(), [weights[k]])
        assert torch.equal(found, expected[k]), names[k]
    for k, p in enumerate(weights):
        p.requires_grad_(k % 2 == 0)
    found = torch.autograd.grad(model(Z, POS).sum(), weights[::2])
    assert all(torch.equal(a, b) for a, b in zip(found, expected[::2], strict=True))


def test_softplus_of_large_values() -> None:
    """d^2/db^2 of the first bias where it is 20.66: 1.07e-9, not the 0 of a linear continuation."""
    graph = sk.Neighbors.from_edge_index(torch.tensor([[0], [1]]), 2)
    one = {"dtype": torch.float64}
    bias = torch.full((1,), 20.66, **one, requires_grad=True)
    weight = torch.zeros((1, 1), **one)
    for mode in (False, True):
        with sk.reference_mode(mode):
            out = sk.cfconv(
                torch.ones((2, 1), **one),
                torch.zeros(1, **one),
                graph,
                5.0,
                first_weight=weight,
                first_bias=bias,
                second_weight=weight + 1,
                second_bias=torch.zeros(1, **one),
            )
        (first,) = torch.autograd.grad(out.sum(), bias, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), bias)
        assert float(second) == pytest.approx(1.0655e-9, rel=1e-3)


def test_mixed_devices_are_refused() -> None:
    graph = sk.Neighbors.from_edge_index(torch.tensor([[0, 1], [1, 0]]), 2)
    h = torch.ones(2, 16)
    weights = {"first_weight": torch.ones(16, 1), "second_weight": torch.ones(16, 16), "second_bias": torch.ones(16)}
    with pytest.raises(ValueError, match="sent must be on cpu, as received is, got meta"):
        sk.egnn_message(h, h.to("meta"), torch.ones(2, 1), graph, **weights)
