"""The fused layers on a GPU: contestants, agreement with the CPU, floors of time, peak memory for benchmarks.gpu."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import symkern as sk

from . import layer_ops, message_ops
from .layer_ops import FORWARD, PASSES, STEP, Form, Graph, Layer, leaf
from .message_ops import CUTOFF, EAGER, FILTER_BASIS
from .peers import OURS, Entry

WIDTHS = (64, 128, 256)
# bytes per edge and feature that a force step of the peer takes, and what a channel of an edge takes of the units for
# special functions (two for exp and reciprocal, three with a logarithm), as few as a forward pass can do with
PEER_STEP = {"egnn_layer": 150, "cfconv": 110, "painn": 400, "schnet": 700}
SPECIAL = {"egnn_layer": 6, "cfconv": 3, "painn": 0, "schnet": 18}


def _eager_filter(d: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Gaussians and the cosine cutoff."""
    centers = torch.linspace(0, CUTOFF, FILTER_BASIS, dtype=d.dtype, device=d.device)
    gamma = 0.5 / (CUTOFF / (FILTER_BASIS - 1)) ** 2
    envelope = 0.5 * (torch.cos(d * (math.pi / CUTOFF)) + 1) * (d < CUTOFF)
    return torch.exp(-gamma * (d.unsqueeze(1) - centers).square()), envelope.unsqueeze(1)


def cfconv(graph: Graph, width: int, dtype: torch.dtype = torch.float32) -> Layer:
    """SchNet's convolution, features and distances in, features out."""
    torch.manual_seed(0)
    layer = sk.nn.CFConv(width, width, FILTER_BASIS, CUTOFF).to(graph.positions.device, dtype)
    nb = graph.nb
    senders, receivers = nb.senders.contiguous(), nb.receivers.contiguous()

    def eager(h: Tensor, d: Tensor) -> tuple[Tensor, ...]:
        basis, envelope = _eager_filter(d, width)
        messages = layer.input(h).index_select(0, senders) * (layer.filter(basis) * envelope)
        return (layer.output(torch.zeros_like(h).index_add(0, receivers, messages)),)

    vec = sk.edge_vectors(graph.positions, nb)
    inputs = [leaf(nb.num_nodes, width), vec.norm(dim=1)]
    inputs = [x.detach().to(graph.positions.device, dtype).requires_grad_() for x in inputs]
    weights = list(layer.parameters())
    forms = [
        Form(OURS, "fused", "", lambda h, d: (layer(h, d, nb),), weights),
        Form(EAGER, "rows per edge", "eager", eager, weights),
    ]
    return Layer("CFConv", graph, width, inputs, forms, 2 * nb.num_edges * (FILTER_BASIS * width + width**2))


def schnet(graph: Graph, width: int, dtype: torch.dtype = torch.float32) -> Layer:
    """SchNet with six interactions, positions in, energies out; its peer is itself in reference mode."""
    torch.manual_seed(0)
    model = sk.models.SchNet(1, width, width, 6, FILTER_BASIS, CUTOFF).to(graph.positions.device, dtype)
    nb = graph.nb
    z = torch.randint(1, 9, (nb.num_nodes,), generator=torch.Generator().manual_seed(0)).to(graph.positions.device)
    weights = list(model.parameters())

    def ours(x: Tensor) -> tuple[Tensor, ...]:
        return (model(z, x, nb.batch, nb=nb),)

    forms = [
        Form(OURS, "SchNet", "", ours, weights),
        Form(EAGER, "reference mode", "eager", sk.reference_mode()(ours), weights),
    ]
    inputs = [graph.positions.detach().to(dtype).requires_grad_()]
    flops = 2 * 6 * nb.num_edges * (FILTER_BASIS * width + width**2)
    return Layer("SchNet", graph, width, inputs, forms, flops)


LAYERS: dict[str, Callable[..., Layer]] = {
    "egnn_layer": message_ops.egnn_layer,
    "cfconv": cfconv,
    "painn": message_ops.painn,
    "schnet": schnet,
}


def agree_with_cpu(name: str, graph: Graph, width: int, device: torch.device, tf32: bool) -> None:
    """Every pass gives on `device` what it gives on the CPU.

    Raises:
        AssertionError: it does not.
    """
    on_host, here = LAYERS[name](graph, width), LAYERS[name](graph.to(device), width)
    for passed in PASSES:
        expected = layer_ops.runner(on_host, on_host.forms[0], passed)()
        found = layer_ops.runner(here, here.forms[0], passed)()
        for k, (y, e) in enumerate(zip(found, expected, strict=True)):
            error = float((y.detach().cpu() - e.detach()).norm() / (e.detach().norm() + 1e-30))
            limit = 1e-2 if tf32 else 1e-4
            assert error < limit, f"{here.name}, {passed}, H = {width}: result {k} is {error:.1e} from the CPU's"


@dataclass(frozen=True)
class Rates:
    """Of a device, per second: bytes of a copy, operations of products (fp32, TF32), special functions."""

    bytes: float
    fp32: float
    tf32: float
    special: float


def special_rate(device: torch.device) -> float:
    """16 of them per multiprocessor and clock, as on every NVIDIA GPU since 2018."""
    if device.type == "cpu":
        return 1e9
    properties = torch.cuda.get_device_properties(device)
    clock = getattr(properties, "clock_rate", 1.5e6)  # kHz
    return 16.0 * properties.multi_processor_count * clock * 1e3


def floors(name: str, layer: Layer, passed: str, tf32: bool, rates: Rates) -> dict[str, float]:
    """Seconds below which a pass cannot come, each unit on its own: the largest is the roofline.

    Products of full fp32 take three TF32 products where these are faster than the fp32 units.
    """
    work = layer.work(passed)
    product = rates.tf32 if tf32 else max(rates.fp32, rates.tf32 / 3)
    special = SPECIAL[name] * layer.graph.nb.num_edges * layer.width
    return {
        "matrix units": work.flops / product,
        "special functions": special / rates.special,
        "bytes": work.bytes / rates.bytes,
    }


def entries(name: str, layer: Layer, passed: str, compiled: bool) -> list[Entry]:
    """Contestants whose results agree; symkern alone where its peer has not the memory."""
    if layer.graph.positions.is_cuda:
        free = torch.cuda.mem_get_info(layer.graph.positions.device)[0]
        share = {FORWARD: 0.3, STEP: 1.0}.get(passed, 0.6)
        if share * PEER_STEP[name] * layer.graph.nb.num_edges * layer.width > 0.8 * free:
            layer = replace(layer, forms=layer.forms[:1])
    return layer_ops.entries(layer, passed, compiled and name != "schnet", promised=False)


def peaks(device: torch.device, made: list[Entry]) -> dict[str, int]:
    """Bytes that each contestant allocates at most beyond what was there, by its name; empty on the CPU."""
    found: dict[str, int] = {}
    for entry in made if device.type == "cuda" else []:
        entry.call()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        entry.call()
        torch.cuda.synchronize(device)
        found[entry.name] = torch.cuda.max_memory_allocated(device) - before
    return found


def stages(bench: Any) -> list[tuple[str, Callable[[], None]]]:
    """What `benchmarks.gpu` runs of a device: every layer and width in both precisions on two graphs."""
    made: list[tuple[str, Callable[[], None]]] = []
    for name in LAYERS:
        for width in WIDTHS[:1] if bench.tiny else WIDTHS:
            for tf32 in (False,) if bench.tiny else (False, True):
                title = f"{name}, H = {width}{', TF32' if tf32 else ''}"
                made.append((title, partial(run, bench, name, width, tf32)))
    return made


def run(bench: Any, name: str, width: int, tf32: bool) -> None:
    """Agreement with the CPU, then the passes of one layer, with their share of the roofline."""
    rates = bench.layer_rates()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        counts = (1,) if bench.tiny else (128, 3268)
        agree_with_cpu(name, layer_ops.molecules(counts[0]), width, bench.device, tf32)
        for count in counts:
            layer = LAYERS[name](layer_ops.molecules(count).to(bench.device), width)
            compiled = not bench.tiny and width == 128 and not tf32 and count == counts[0]
            for passed in PASSES:
                made = entries(name, layer, passed, compiled)
                limits = floors(name, layer, passed, tf32, rates)
                peak = peaks(bench.device, made)
                bench.add_layer(layer, passed, tf32, made, limits, peak)
    finally:
        torch.set_float32_matmul_precision(before)
