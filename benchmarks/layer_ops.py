"""Fused layers beside the code that users write: graphs, passes, contestants and targets. CPU, one thread, float32.

`benchmarks.gpu_layers` has them on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import symkern as sk

from . import machine, systems
from .contest import Work
from .peers import Entry
from .report import PASSES

Function = Callable[..., tuple[Tensor, ...]]

FORWARD, GRADIENT, STEP = PASSES
# The fewest products, in units of those of the forward pass: reverse mode takes two more for each, one of them for the
# weights; a force step takes the forward pass and the gradient without weights, then two more for each of these.
# symkern's passes compute again instead of keeping rows, 1, 4 and 12 in all.
PRODUCTS = {FORWARD: 1, GRADIENT: 3, STEP: 6}
NO_COMPILE = "no torch.compile: it has no double backward"

# How many times slower peers have to be, by instruction set; a pair is for H = 64 and 128. For the products alone it is
# the share of their rate that symkern reaches.
TARGETS: dict[str, dict[tuple[str, str], float | tuple[float, float]]] = {
    "avx512": {
        (FORWARD, "eager"): 5.0,
        (FORWARD, "compile"): 3.0,
        (FORWARD, "matmul"): 0.6,
        (GRADIENT, "eager"): (4.0, 3.3),
        (STEP, "eager"): (3.0, 2.5),
    },
    "avx2": {(FORWARD, "eager"): 3.0, (GRADIENT, "eager"): 2.0},
}


def target(kind: str, passed: str, width: int) -> float | None:
    """What was promised for this pass against a peer of `kind` on the instruction set in use."""
    found = TARGETS.get(machine.isa(), {}).get((passed, kind))
    return found[width > 64] if isinstance(found, tuple) else found


@dataclass(frozen=True)
class Graph:
    name: str
    nb: sk.Neighbors
    positions: Tensor
    local: bool = True  # senders are near their receivers in memory: what targets are for

    def to(self, device: torch.device) -> Graph:
        return replace(self, nb=self.nb.to(device), positions=self.positions.to(device))


def molecules(count: int) -> Graph:
    """Molecules of 18 atoms with an edge for each ordered pair, as EGNN uses them."""
    system = systems.molecules(count, cutoff=100.0)
    nb = system.edges()
    assert nb.num_edges == count * 18 * 17
    return Graph(f"{nb.num_edges:,} edges of {count:,} x 18 atoms", nb, system.positions)


def random_senders(count: int) -> Graph:
    """As many nodes and edges, with senders anywhere."""
    local = molecules(count)
    rng = torch.Generator().manual_seed(1)
    senders = torch.randint(local.nb.num_nodes, (local.nb.num_edges,), generator=rng)
    nb = sk.Neighbors.from_edge_index(torch.stack([senders, local.nb.receivers]), local.nb.num_nodes)
    return Graph(f"{nb.num_edges:,} edges, random senders", nb, local.positions, local=False)


GRAPHS: dict[str, Callable[[], Graph]] = {
    "one": lambda: molecules(1),
    "small": lambda: molecules(8),
    "batch": lambda: molecules(128),
    "million": lambda: molecules(3268),
    "random": lambda: random_senders(3268),
}


@dataclass(frozen=True)
class Form:
    """One way to compute a layer.

    Attributes:
        who, form: as in `Entry`; kind: key of TARGETS.
        function: of the layer's inputs.
        weights: those with a gradient, in the same order in every form.
    """

    who: str
    form: str
    kind: str
    function: Function
    weights: Sequence[Tensor]


@dataclass(frozen=True)
class Layer:
    """A layer on a graph.

    Attributes:
        inputs: tensors that depend on the positions in a model of several layers, so that forces need their gradients.
        forms: symkern's first, all with the same weights.
        flops: of the forward pass' products, as few as possible.
        matmul: rows, width and number of these products, where they can be a contestant of their own.
        whole: a model, whose training asks for the gradients of its weights alone; layers pass theirs on.
    """

    name: str
    graph: Graph
    width: int
    inputs: Sequence[Tensor]
    forms: Sequence[Form]
    flops: float
    matmul: tuple[int, int, int] | None = None
    whole: bool = False

    @property
    def system(self) -> str:
        return f"{self.graph.name}, H = {self.width}"

    def work(self, passed: str) -> Work:
        """Inputs, graph and weights read once, outputs written once; gradients likewise."""
        own = self.forms[0]
        floats = sum(x.numel() for x in [*self.inputs, *own.weights])
        with torch.no_grad():
            outputs = [y.numel() for y in own.function(*self.inputs)]
        times = {FORWARD: 1, GRADIENT: 2, STEP: 3}[passed]
        moved = 16 * self.graph.nb.num_edges + 4 * times * (floats + sum(outputs))
        return Work(moved, PRODUCTS[passed] * self.flops, 4 * max(outputs))


def leaf(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def runner(layer: Layer, form: Form, passed: str) -> Callable[[], tuple[Tensor, ...]]:
    """One pass: the outputs; the gradients of inputs and weights; or those of a loss of energy and forces.

    A force step takes a weighted sum of the outputs for the energy, the gradients of the inputs for the forces, and
    the sum of all squares for the loss.
    """
    function, wanted = form.function, [*layer.inputs, *form.weights]
    with torch.no_grad():
        outputs = layer.forms[0].function(*layer.inputs)
    along = [leaf(*y.shape, seed=7 + k).detach().to(y) for k, y in enumerate(outputs)]

    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return function(*layer.inputs)

    def gradient() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(*layer.inputs), wanted, along)

    def step() -> tuple[Tensor, ...]:
        energy = sum(((y * c).sum() for y, c in zip(function(*layer.inputs), along, strict=True)), torch.zeros(()))
        slopes = torch.autograd.grad(energy, layer.inputs, create_graph=True)
        loss = sum((slope.square().sum() for slope in slopes), energy.square())
        return torch.autograd.grad(loss, form.weights if layer.whole else wanted)

    return {FORWARD: forward, GRADIENT: gradient, STEP: step}[passed]


def entries(layer: Layer, passed: str, compiled: bool, promised: bool = True) -> list[Entry]:
    """Contestants of one pass, after comparing their results: symkern, peers, peers compiled, the products alone."""
    runs = [(form, runner(layer, form, passed)) for form in layer.forms]
    if compiled and passed != STEP:
        for form in layer.forms[1:]:
            function = torch.compile(form.function, fullgraph=True, dynamic=False)
            other = Form(f"{form.who} compile".replace("eager ", ""), form.form, "compile", function, form.weights)
            runs.append((other, runner(layer, other, passed)))
    check(layer, passed, runs)
    promised = promised and layer.graph.local
    made = [
        Entry(form.who, form.form, run, target=target(form.kind, passed, layer.width) if promised else None)
        for form, run in runs
    ]
    if layer.matmul is not None:
        made.append(
            products(
                *layer.matmul,
                PRODUCTS[passed],
                target("matmul", passed, layer.width) if promised else None,
                layer.graph.positions.device,
            )
        )
    return made


def products(
    rows: int, width: int, count: int, times: int, share: float | None, device: torch.device | None = None
) -> Entry:
    """torch's matrix products of this size alone: "x symkern" is then the share of their rate that symkern reaches."""
    a, b = torch.rand(rows, width, device=device), torch.rand(width, width, device=device)
    out = torch.empty_like(a)

    def call() -> None:
        for _ in range(count * times):
            torch.mm(a, b, out=out)

    return Entry("torch matmul", "(E, H) by (H, H), as often", call, output="reused", target=share)


def check(layer: Layer, passed: str, runs: Sequence[tuple[Form, Callable[[], tuple[Tensor, ...]]]]) -> None:
    """All forms give the same numbers, as far as float32 can tell."""
    expected = [y.detach() for y in runs[0][1]()]
    for form, run in runs[1:]:
        found = run()
        assert len(found) == len(expected)
        for k, (y, e) in enumerate(zip(found, expected, strict=True)):
            error = (y.detach() - e).abs().max() / e.abs().max()
            assert error < 1e-3, (
                f"{layer.name}, {passed}: result {k} of {form.who} and symkern differ by {float(error):.1e} of its top"
            )


def weight_errors(layer: Layer, exact: Layer) -> list[list[float]]:
    """For symkern's form and its peer's: root mean square error of each weight's gradient, of its largest element.

    `exact` is the same layer in float64, of which the peer's form counts.
    """
    skip = len(layer.inputs)
    expected = runner(exact, exact.forms[1], GRADIENT)()[skip:]
    found = []
    for form in layer.forms[:2]:
        gradients = runner(layer, form, GRADIENT)()[skip:]
        errors = [(g - e).square().mean().sqrt() / e.abs().max() for g, e in zip(gradients, expected, strict=True)]
        found.append([float(error) for error in errors])
    return found
