"""The fused message ops in half precision, under autocast and under torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import symkern as sk
from symkern._library import op_names
from symkern.models import EGNN, SchNet
from symkern.ops import _fused
from symkern.ops.cfconv import cfconv
from symkern.ops.egnn_message import egnn_message
from symkern.ops.painn_message import painn_message

ATOMS, WIDTH, BASIS, CUTOFF = 14, 24, 10, 3.0
Z = torch.randint(1, 9, (ATOMS,), generator=torch.Generator().manual_seed(1))
POS = torch.rand((ATOMS, 3), generator=torch.Generator().manual_seed(2)) * 3.5
BATCH = torch.arange(ATOMS) // 7
NB = sk.neighbor_list(POS, CUTOFF, batch=BATCH)
LENGTHS = sk.safe_norm(sk.edge_vectors(POS, NB))


def random(*shape: int) -> Tensor:
    return torch.randn(shape) * (0.3 if len(shape) > 1 else 1.0)


def egnn_arguments() -> dict[str, Any]:
    h = WIDTH
    return {
        "received": random(ATOMS, h), "sent": random(ATOMS, h), "attributes": LENGTHS[:, None].clone(),
        "first_weight": random(h, 1), "second_weight": random(h, h), "second_bias": random(h),
        "attention_weight": random(1, h), "attention_bias": random(1), "head_weight": random(h, h),
        "head_bias": random(h), "head_last": random(1, h), "edge_weight": torch.rand(NB.num_edges),
    }  # fmt: skip


def cfconv_arguments() -> dict[str, Any]:
    f = WIDTH
    return {
        "h": random(ATOMS, f), "d": LENGTHS.clone(), "first_weight": random(f, BASIS), "first_bias": random(f),
        "second_weight": random(f, f), "second_bias": random(f), "cutoff": CUTOFF,
    }  # fmt: skip


def painn_arguments() -> dict[str, Any]:
    f = WIDTH
    return {
        "phi": random(ATOMS, 3, f), "mu": random(ATOMS, 3, f), "d": LENGTHS.clone(),
        "directions": sk.edge_vectors(POS, NB) / LENGTHS[:, None], "filter_weight": random(3, f, BASIS),
        "filter_bias": random(3, f), "cutoff": CUTOFF,
    }  # fmt: skip


OPS: dict[str, tuple[Callable[..., Any], Callable[[], dict[str, Any]]]] = {
    "egnn_message": (egnn_message, egnn_arguments),
    "cfconv": (cfconv, cfconv_arguments),
    "painn_message": (painn_message, painn_arguments),
}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.manual_seed(0)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(params=list(OPS))
def op(request: pytest.FixtureRequest) -> tuple[Callable[..., tuple[Tensor, ...]], dict[str, Any]]:
    if request.param not in op_names():
        pytest.skip(f"this library has no {request.param}")
    function, make = OPS[request.param]

    def run(**arguments: Any) -> tuple[Tensor, ...]:
        found = function(nb=NB, **arguments)
        return found if isinstance(found, tuple) else (found,)

    return run, make()


def changed(arguments: dict[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    return {name: change(x) if isinstance(x, Tensor) else x for name, x in arguments.items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_fp32_and_rounded_once(op, dtype: torch.dtype) -> None:
    run, arguments = op
    low = changed(arguments, lambda x: x.to(dtype).requires_grad_())
    wide = changed(low, lambda x: x.detach().float().requires_grad_())
    found, expected = run(**low), run(**wide)
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == dtype
        assert torch.equal(x, y.to(dtype))
    weights = [torch.randn_like(x) for x in found]
    names = [name for name, x in low.items() if isinstance(x, Tensor)]
    grads = torch.autograd.grad(found, [low[n] for n in names], weights)
    wanted = torch.autograd.grad(expected, [wide[n] for n in names], [w.float() for w in weights])
    for name, x, y in zip(names, grads, wanted, strict=True):
        assert x.dtype == dtype, name
        assert torch.equal(x, y.to(dtype)), name


def test_second_derivatives_in_half_precision(op) -> None:
    run, arguments = op
    low = changed(arguments, lambda x: x.bfloat16().requires_grad_())
    name = "attributes" if "attributes" in low else "d"
    (slope,) = torch.autograd.grad(sum(x.sum() for x in run(**low)), low[name], create_graph=True)
    leaves = [x for x in low.values() if isinstance(x, Tensor)]
    grads = torch.autograd.grad(slope.square().sum(), leaves, allow_unused=True)
    assert all(g is None or (g.dtype == torch.bfloat16 and bool(g.isfinite().all())) for g in grads)


def test_mixed_dtypes_are_refused(op) -> None:
    run, arguments = op
    first = next(iter(arguments))
    with pytest.raises(ValueError, match=f"must be bfloat16, as {first} is, got float32"):
        run(**{**arguments, first: arguments[first].bfloat16()})


def test_tf32_only_where_torch_may_use_it(op) -> None:
    run, arguments = op
    assert _fused.precision(torch.zeros(1)) == 0
    assert _fused.precision(torch.zeros(1, dtype=torch.bfloat16)) == 1
    before = run(**arguments)
    try:
        torch.set_float32_matmul_precision("high")
        assert _fused.precision(torch.zeros(1)) == 0  # a matter of CUDA
        after = run(**arguments)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


def compiled_step(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Forward and first backward, compiled without graph breaks, against eager."""
    leaves = {n: x.detach().clone().requires_grad_() for n, x in arguments.items() if isinstance(x, Tensor)}
    rest = {n: x for n, x in arguments.items() if n not in leaves}

    def loss(given: dict[str, Tensor]) -> Tensor:
        found = function(**given, **rest)
        found = found if isinstance(found, tuple) else (found,)
        return sum((x.sin().sum() for x in found), torch.zeros(()))

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found, expected = compiled(leaves), loss(leaves)
    torch.testing.assert_close(found, expected)
    values = list(leaves.values())
    for x, y in zip(torch.autograd.grad(found, values), torch.autograd.grad(expected, values), strict=True):
        torch.testing.assert_close(x, y)


def test_compiled_ops(op) -> None:
    compiled_step(*op)


def test_double_backward_under_compile_says_so(op) -> None:
    run, arguments = op
    name = "attributes" if "attributes" in arguments else "d"
    x = arguments.pop(name).requires_grad_()
    compiled = torch.compile(lambda x: sum(y.sum() for y in run(**{name: x}, **arguments)), backend="aot_eager")
    (slope,) = torch.autograd.grad(compiled(x), x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        slope.square().sum().backward()


LAYERS: dict[str, Callable[[], tuple[torch.nn.Module, dict[str, Any]]]] = {
    "CFConv": lambda: (sk.nn.CFConv(WIDTH, 20, BASIS, CUTOFF), {"h": random(ATOMS, WIDTH), "d": LENGTHS.clone()}),
    "TabulatedCFConv": lambda: (
        sk.nn.CFConv(WIDTH, 20, BASIS, CUTOFF).tabulate(1e-3, 1e-2),
        {"h": random(ATOMS, WIDTH), "d": LENGTHS.clone()},
    ),
    "EGNNLayer": lambda: (sk.nn.EGNNLayer(WIDTH, attention=True), {"h": random(ATOMS, WIDTH), "x": POS.clone()}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_compiled_layers(name: str) -> None:
    layer, arguments = LAYERS[name]()
    NB.reverse, NB.sender_order  # noqa: B018  # once, outside
    compiled_step(lambda **given: layer(**given, nb=NB), arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_under_autocast(name: str, dtype: torch.dtype) -> None:
    layer, arguments = LAYERS[name]()
    arguments = changed(arguments, lambda x: x.requires_grad_())
    expected = layer(**arguments, nb=NB)
    with torch.autocast("cpu", dtype):
        found = layer(**arguments, nb=NB)
    pairs = list(zip(*((x,) if isinstance(x, Tensor) else x for x in (found, expected)), strict=True))
    assert any(not torch.equal(x.float(), y) for x, y in pairs)
    for x, y in pairs:
        torch.testing.assert_close(x.float(), y, rtol=0.05, atol=0.05 * float(y.detach().abs().max()))
    grads = torch.autograd.grad(sum(x.float().sum() for x, _ in pairs), list(arguments.values()))
    wanted = torch.autograd.grad(sum(y.sum() for _, y in pairs), list(arguments.values()))
    for x, y in zip(grads, wanted, strict=True):
        assert x.dtype == y.dtype == torch.float32
        torch.testing.assert_close(x, y, rtol=0.1, atol=0.1 * float(y.abs().max()))


MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "SchNet": lambda: SchNet(1, 32, 24, 2, 16, CUTOFF),
    "tabulated SchNet": lambda: SchNet(1, 32, 24, 2, 16, CUTOFF).tabulate(1e-4, 1e-3),
    "EGNN": lambda: EGNN(1, 20, 2, cutoff=CUTOFF, num_basis=8, attention=True),
}
if hasattr(sk.models, "PaiNN"):
    MODELS["PaiNN"] = lambda: sk.models.PaiNN(1, 32, 2, 12, CUTOFF)


@pytest.mark.parametrize("name", MODELS)
def test_compiled_energies(name: str) -> None:
    model = MODELS[name]()
    NB.reverse, NB.sender_order  # noqa: B018
    compiled_step(lambda pos: model(Z, pos, BATCH, nb=NB), {"pos": POS})


@pytest.mark.parametrize("name", MODELS)
def test_models_under_autocast(name: str) -> None:
    model = MODELS[name]()
    training = any(p.requires_grad for p in model.parameters())
    energy, forces = sk.energy_and_forces(model, Z, POS, BATCH)
    with torch.autocast("cpu", torch.bfloat16):
        low, low_forces = sk.energy_and_forces(model, Z, POS, BATCH, create_graph=training)
    torch.testing.assert_close(low.float(), energy, rtol=0.05, atol=0.05 * float(energy.abs().max()))
    torch.testing.assert_close(low_forces.float(), forces, rtol=0.1, atol=0.1 * float(forces.abs().max()))
    if training:
        low_forces.square().sum().backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert grads
        assert all(g.dtype == torch.float32 and bool(g.isfinite().all()) for g in grads)
