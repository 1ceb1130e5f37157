"""EGNN's fused messages: beside the layer as the paper writes it, all options, determinism, memory, what is skipped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import pytest
import torch
from egnn_tools import DOUBLE, EagerLayer, close, complete, force_step, lively
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import symkern as sk
from symkern.nn import EGNNLayer
from symkern.ops.egnn_message import egnn_message, reference

PARTS = ("edge_weight", "attention", "head")


class Inputs:
    """Random arguments of the op for a graph; `parts` of `PARTS` are given."""

    def __init__(
        self, nb: sk.Neighbors, hidden: int, attributes: int, parts: tuple[str, ...], dtype: torch.dtype = DOUBLE
    ) -> None:
        random = torch.Generator().manual_seed(3)

        def draw(*shape: int) -> Tensor:
            return (0.5 * torch.randn(shape, generator=random, dtype=DOUBLE)).to(dtype).requires_grad_()

        n, e, h = nb.num_nodes, nb.num_edges, hidden
        self.nb = nb
        self.named = {"received": draw(n, h), "sent": draw(n, h), "attributes": draw(e, attributes)}
        if "edge_weight" in parts:
            self.named["edge_weight"] = draw(e)
        self.directed = list(self.named)
        self.named |= {"first_weight": draw(h, attributes), "second_weight": draw(h, h), "second_bias": draw(h)}
        if "attention" in parts:
            self.named |= {"attention_weight": draw(1, h), "attention_bias": draw(1)}
        if "head" in parts:
            self.named |= {"head_weight": draw(h, h), "head_bias": draw(h), "head_last": draw(1, h)}

    def run(self, function: Any = egnn_message, **changed: Tensor) -> tuple[Tensor, ...]:
        return tuple(x for x in function(nb=self.nb, **{**self.named, **changed}) if x is not None)

    def ladder(self, function: Any = egnn_message) -> list[Tensor]:
        """Outputs, all first derivatives, and the second derivatives that training on forces takes."""
        out = self.run(function)
        points = list(self.named.values())
        grads = torch.autograd.grad(sum(weighted(y) for y in out), points, create_graph=True)
        along = [weighted(g) for name, g in zip(self.named, grads, strict=True) if name in self.directed]
        second = torch.autograd.grad(sum(along), points, allow_unused=True, materialize_grads=True)
        return [*(y.detach() for y in out), *(g.detach() for g in grads), *second]


def weighted(x: Tensor) -> Tensor:
    return (x * torch.arange(1, x.numel() + 1, dtype=x.dtype).cos().view_as(x) + 0.2 * x.square()).sum()


def random_graph(atoms: int, edges: int, receivers: int | None = None) -> sk.Neighbors:
    random = torch.Generator().manual_seed(4)
    senders = torch.randint(atoms, (edges,), generator=random)
    return sk.Neighbors.from_edge_index(
        torch.stack([senders, torch.randint(receivers or atoms, (edges,), generator=random)]), atoms
    )


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---- values and derivatives ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [16, 20])
@pytest.mark.parametrize("attributes", [0, 1, 6])
def test_ladder_of_all_options(hidden: int, attributes: int) -> None:
    nb = random_graph(7, 60, receivers=5)  # self loops, repeated edges, atoms without edges
    for count in range(len(PARTS) + 1):
        for parts in combinations(PARTS, count):
            inputs = Inputs(nb, hidden, attributes, parts)
            for got, expected in zip(inputs.ladder(), inputs.ladder(reference), strict=True):
                close(got, expected)


@pytest.mark.parametrize("parts", [("edge_weight", "attention"), ("edge_weight", "attention", "head")])
def test_gradcheck_in_all_arguments(parts: tuple[str, ...]) -> None:
    inputs = Inputs(random_graph(4, 9), 3, 2, parts)

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        return inputs.run(**dict(zip(inputs.named, values, strict=True)))

    points = tuple(inputs.named.values())
    assert torch.autograd.gradcheck(run, points, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, points, fast_mode=True)


@pytest.mark.parametrize("hidden", [20, 64])
def test_layer_of_the_paper(hidden: int) -> None:
    """Values, forces and gradients of a training step: equal in fp64, and in fp32 no less exact than eager torch."""
    nb = complete(3, 9)
    layer = lively(EGNNLayer(hidden))
    h, x = torch.randn(27, hidden, dtype=DOUBLE), torch.randn(27, 3, dtype=DOUBLE)
    exact = force_step(EagerLayer(layer), h, x, nb.edge_index)
    for got, expected in zip(force_step(layer, h, x, nb), exact, strict=True):
        close(got, expected, 1e-9)
    layer.float()
    eager = force_step(EagerLayer(layer), h.float(), x.float(), nb.edge_index)
    fused = force_step(layer, h.float(), x.float(), nb)
    # weights were rounded: the eager layer in fp64 with those is the truth
    exact = force_step(EagerLayer(layer.double()), h.float().double(), x.float().double(), nb.edge_index)
    for a, b, truth in zip(fused, eager, exact, strict=True):
        error, peer = float((a - truth).norm()), float((b - truth).norm())
        assert error <= 2 * peer + 4e-7 * float(truth.norm())


def test_five_thousand_neighbors() -> None:
    """One receiver cannot be shared out: a chunk of its own."""
    edges = torch.stack([torch.arange(5001), torch.zeros(5001, dtype=torch.int64)])
    others = random_graph(5001, 9000).edge_index
    nb = sk.Neighbors.from_edge_index(torch.cat([edges, others], 1), 5001)
    inputs = Inputs(nb, 16, 1, PARTS)
    for got, expected in zip(inputs.ladder(), inputs.ladder(reference), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_no_edges() -> None:
    for atoms in (0, 3):
        inputs = Inputs(random_graph(max(atoms, 1), 0), 20, 1, PARTS)
        total, head = inputs.run()
        assert total.shape == (max(atoms, 1), 20)
        assert not total.any()
        assert head.shape == (0,)
        assert all(not g.any() for g in inputs.ladder())


# ---- determinism -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("nb", [random_graph(900, 30_000), complete(80, 12)], ids=["random", "molecules"])
def test_bits_do_not_depend_on_threads(nb: sk.Neighbors, dtype: torch.dtype) -> None:
    inputs = Inputs(nb, 20, 1, PARTS, dtype)
    first = None
    for count in (1, 1, 2, 3, 7):
        with threads(count):
            found = inputs.ladder()
        first = first or found
        assert all(torch.equal(a, b) for a, b in zip(found, first, strict=True))
    for got, expected in zip(found, inputs.ladder(reference), strict=True):
        rounding = 2e-5 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(got, expected, rtol=0, atol=rounding * float(expected.abs().max()))


# ---- what is computed, and what is not -------------------------------------------------------------------------------


class Calls(TorchDispatchMode):
    """The ops of symkern that run, with the last argument of each (the mask of what is asked for)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, Any]] = []
        self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name.startswith("symkern::egnn_message"):
            self.seen.append((name.removeprefix("symkern::egnn_message"), args[-1]))
        return func(*args, **(kwargs or {}))


def test_forces_ask_for_no_gradient_of_weights() -> None:
    layer, nb = lively(EGNNLayer(16)), complete(2, 5)
    h, x = torch.randn(10, 16, dtype=DOUBLE), torch.randn(10, 3, dtype=DOUBLE, requires_grad=True)
    out, moved = layer(h, x, nb)
    energy = out.square().sum() + moved.square().sum()
    with Calls() as calls:
        (force,) = torch.autograd.grad(energy, x, create_graph=True)
    assert calls.seen == [("_backward", 0b100)]  # the squared distances alone: h has no gradient
    with Calls() as calls:
        (force.square().sum() + energy).backward()
    assert [name for name, _ in calls.seen] == ["_double_backward", "_backward"]
    weights = 0b1110_0111_0000  # no attention
    assert calls.seen[0][1] >> 2 & weights == weights
    assert calls.seen[1][1] & weights == weights
    # and nothing is lost: all gradients are those of the eager layer
    found = [p.grad for p in layer.parameters()]
    for p in layer.parameters():
        p.grad = None
    out, moved = EagerLayer(layer)(h, x, nb.edge_index)
    energy = out.square().sum() + moved.square().sum()
    (force,) = torch.autograd.grad(energy, x, create_graph=True)
    (force.square().sum() + energy).backward()
    for g, p in zip(found, layer.parameters(), strict=True):
        assert g is not None
        assert p.grad is not None
        close(g, p.grad, 1e-9)


def test_weights_asked_for_beside_forces() -> None:
    """One pass for both, by names of leaves, and a pass for the weights alone."""
    layer, nb = lively(EGNNLayer(16)), complete(2, 5)
    h, x = torch.randn(10, 16, dtype=DOUBLE), torch.randn(10, 3, dtype=DOUBLE, requires_grad=True)
    points = [x, *layer.parameters()]
    out, moved = layer(h, x, nb)
    loss = out.square().sum() + moved.square().sum()
    together = torch.autograd.grad(loss, points, retain_graph=True)
    for k, point in enumerate(points):
        (alone,) = torch.autograd.grad(loss, point, retain_graph=True)
        close(alone, together[k], 1e-12)
    out, moved = EagerLayer(layer)(h, x, nb.edge_index)
    for got, expected in zip(
        together, torch.autograd.grad(out.square().sum() + moved.square().sum(), points), strict=True
    ):
        close(got, expected, 1e-9)


def test_training_on_forces_does_not_use_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    from symkern._ladder import Ladder

    def fail(*_: Any) -> Any:
        raise AssertionError("the reference ran")

    monkeypatch.setattr(Ladder, "_by_reference", fail)
    layer = EGNNLayer(16, attention=True, edge_attr=2)
    nb = complete(2, 5)
    x = torch.randn(10, 3, requires_grad=True)
    out, moved = layer(torch.randn(10, 16), x, nb, torch.randn(40, 2), None, None, torch.rand(40))
    energy = out.square().sum() + moved.square().sum()
    (force,) = torch.autograd.grad(energy, x, create_graph=True)
    force.square().sum().backward()
    assert layer.edge_mlp[0].weight.grad is not None


def test_coordinates_that_no_one_reads_are_not_computed() -> None:
    layer, nb = lively(EGNNLayer(16, tanh=True)), complete(2, 5)
    h, x = torch.randn(10, 16, dtype=DOUBLE), torch.randn(10, 3, dtype=DOUBLE)
    out, same = layer(h, x, nb, coordinates=False)
    assert same is x
    assert torch.equal(out, layer(h, x, nb)[0])
    out.sum().backward()
    assert all((p.grad is None) == name.startswith("coord_mlp") for name, p in layer.named_parameters())


# ---- memory ----------------------------------------------------------------------------------------------------------


def allocations(run: Any) -> tuple[int, int]:
    """Bytes of the largest allocation of torch, and of the highest total beyond the start."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    sizes = [e.bytes() for e in _memory_events(profile)]
    total = highest = 0
    for size in sizes:
        total += size
        highest = max(highest, total)
    return max(sizes), highest


def _memory_events(profile: Any) -> list[Any]:
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return sorted(_Event.of(e) for e in events)


class _Event(tuple[int, int]):
    @classmethod
    def of(cls, event: Any) -> _Event:
        return cls((event.start_ns(), event.nbytes()))

    def bytes(self) -> int:
        return self[1]


def test_a_training_step_keeps_no_rows_of_features_per_edge() -> None:
    nb, hidden = complete(32, 18), 64
    layer = EGNNLayer(hidden)
    eager = EagerLayer(layer)
    h, x = torch.randn(nb.num_nodes, hidden), torch.randn(nb.num_nodes, 3)
    force_step(layer, h, x, nb)
    largest, peak = allocations(lambda: force_step(layer, h, x, nb))
    _, peer = allocations(lambda: force_step(eager, h, x, nb.edge_index))
    assert largest < 4 * nb.num_edges * hidden
    assert peak <= 0.1 * peer
