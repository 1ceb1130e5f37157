"""SchNet's fused convolution beyond the contract: peers, extreme graphs, shared filters, memory."""

from __future__ import annotations

import math

import pytest
import torch
from filter_tools import CUTOFF, force_step, memory, molecules, random_graph, star
from torch import Tensor, nn

import symkern as sk
from symkern.ops.cfconv import cfconv, reference

WEIGHTS = ("first_weight", "first_bias", "second_weight", "second_bias")


def weights(features: int, num_basis: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)

    return {
        "first_weight": normal(features, num_basis) / num_basis**0.5,
        "first_bias": normal(features) / 3,
        "second_weight": normal(features, features) / features**0.5,
        "second_bias": normal(features) / 3,
    }


def features_of(nb: sk.Neighbors, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn((nb.num_nodes, width), generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)


class PlainInteraction(nn.Module):
    """PyG's InteractionBlock with its CFConv and GaussianSmearing, from their documentation."""

    def __init__(self, hidden: int, num_basis: int, filters: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.offset = torch.linspace(0, cutoff, num_basis, dtype=torch.float64)
        self.network = nn.ModuleList([nn.Linear(num_basis, filters), nn.Linear(filters, filters)])
        self.before, self.after = nn.Linear(hidden, filters, bias=False), nn.Linear(filters, hidden)
        self.last = nn.Linear(hidden, hidden)
        self.double()

    @staticmethod
    def shifted_softplus(x: Tensor) -> Tensor:
        return torch.log(0.5 * torch.exp(x) + 0.5)

    def forward(self, x: Tensor, edge_index: Tensor, d: Tensor) -> Tensor:
        width = self.offset[1] - self.offset[0]
        smeared = torch.exp(-0.5 * ((d[:, None] - self.offset) / width) ** 2)
        taper = 0.5 * (torch.cos(d * math.pi / self.cutoff) + 1.0)
        filters = self.network[1](self.shifted_softplus(self.network[0](smeared))) * taper[:, None]
        messages = self.before(x).index_select(0, edge_index[0]) * filters
        summed = x.new_zeros(len(x), messages.shape[1]).index_add(0, edge_index[1], messages)
        return self.last(self.shifted_softplus(self.after(summed)))


def test_peer_interaction() -> None:
    """A whole interaction against PyG's formulas, with the gradients of positions and weights."""
    torch.manual_seed(0)
    plain = PlainInteraction(24, 30, 40, CUTOFF)
    conv, last = sk.nn.CFConv(24, 40, 30, CUTOFF).double(), plain.last
    with torch.no_grad():
        for mine, theirs in ((conv.filter[0], plain.network[0]), (conv.filter[2], plain.network[1])):
            mine.load_state_dict(theirs.state_dict())
        conv.input.load_state_dict(plain.before.state_dict())
        conv.output.load_state_dict(plain.after.state_dict())
    pos, nb = molecules(3, 11, torch.float64)
    h = features_of(nb, 24)
    runs = (
        (
            lambda d: last(plain.shifted_softplus(conv(h, d, nb))),
            (conv.filter[0], conv.filter[2], conv.input, conv.output),
        ),
        (lambda d: plain(h, nb.edge_index, d), (*plain.network, plain.before, plain.after)),
    )
    found = []
    for run, layers in runs:
        p = pos.clone().requires_grad_()
        out = run(sk.safe_norm(sk.edge_vectors(p, nb)))
        (force,) = torch.autograd.grad(out.square().sum(), p, create_graph=True)
        parameters = [w for layer in layers for w in layer.parameters()]
        found.append([out.detach(), force.detach(), *torch.autograd.grad(force.square().sum(), parameters)])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12 * float(theirs.abs().max()))


def test_many_neighbors() -> None:
    """5,000 senders of one atom: sums keep eager's precision."""
    d, nb = star(5000)
    inputs = {"h": features_of(nb, 32), "d": d, **weights(32, 20)}
    truth = reference(**inputs, nb=nb, cutoff=CUTOFF)
    single = {name: value.float() for name, value in inputs.items()}
    got, same = cfconv(**single, nb=nb, cutoff=CUTOFF), reference(**single, nb=nb, cutoff=CUTOFF)
    assert (got - truth).abs().max() <= 2 * (same - truth).abs().max()
    torch.testing.assert_close(cfconv(**inputs, nb=nb, cutoff=CUTOFF), truth, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("atoms", [0, 4])
def test_no_edges(atoms: int) -> None:
    nb = sk.Neighbors.from_edge_index(torch.zeros((2, 0), dtype=torch.int64), atoms)
    points = {"h": features_of(nb, 20), "d": torch.zeros(0, dtype=torch.float64), **weights(20, 5)}
    points = {name: value.requires_grad_() for name, value in points.items()}
    out = cfconv(**points, nb=nb, cutoff=CUTOFF)
    assert torch.equal(out, torch.zeros(atoms, 20, dtype=torch.float64))
    grads = torch.autograd.grad(out.sum(), list(points.values()), create_graph=True)
    assert all(not g.any() for g in grads)
    again = torch.autograd.grad(sum(g.sum() for g in grads[:2]), list(points.values()), materialize_grads=True)
    assert all(not g.any() for g in again)


@pytest.mark.parametrize("graph", ["molecules", "random"])
def test_same_bits_for_any_threads(graph: str) -> None:
    """Graphs of several chunks, and of chunks whose windows overlap."""
    nb = molecules(128, 18)[1] if graph == "molecules" else random_graph(3000, 30000)
    d = 0.5 + 5 * torch.rand(nb.num_edges, generator=torch.Generator().manual_seed(3))
    points = {"h": features_of(nb, 16, torch.float32), "d": d, **weights(16, 10, torch.float32)}
    points = {name: value.requires_grad_() for name, value in points.items()}
    found = []
    threads = torch.get_num_threads()
    for count in (1, 2, 3, 2):
        torch.set_num_threads(count)
        out = cfconv(**points, nb=nb, cutoff=CUTOFF)
        first = torch.autograd.grad(out.square().sum(), list(points.values()), create_graph=True)
        value = first[0].square().sum() + first[1].square().sum()
        found.append([out, *first, *torch.autograd.grad(value, list(points.values()))])
    torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_filters_are_shared_only_where_they_are_equal() -> None:
    """Whatever `reverse` says: nothing, the truth, or nonsense."""
    nb = molecules(2, 9, torch.float64)[1]
    random = torch.Generator().manual_seed(4)
    d = 1 + 3 * torch.rand(nb.num_edges, generator=random, dtype=torch.float64)
    equal = torch.rand(nb.num_edges, generator=random) < 0.5
    d = torch.where(equal & equal[nb.reverse], torch.minimum(d, d[nb.reverse]), d)
    w = weights(16, 5)
    p = torch.linspace(0, CUTOFF, 5, dtype=torch.float64)
    nonsense = torch.randint(-5, 2 * nb.num_edges, (nb.num_edges,), generator=random)
    found = []
    for reverse in (None, nb.reverse, nonsense, nb.reverse.roll(1)):
        leaves = [x.clone().requires_grad_() for x in (features_of(nb, 16), d)]
        out = torch.ops.symkern.cfconv.default(
            *leaves, p, p + 0.1, *w.values(), nb.edge_index, nb.row_ptr, reverse, None, None, CUTOFF, 0, 0
        )
        grads = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        more = torch.autograd.grad(sum(g.square().sum() for g in grads), leaves)
        found.append([out, *grads, *more])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12 * float(a.detach().abs().max()))


@pytest.mark.parametrize("kind", ["gaussian", "bessel", "expnorm"])
def test_gradients_with_a_learned_basis(kind: str) -> None:
    pos, nb = molecules(1, 4, torch.float64)
    d = sk.safe_norm(sk.edge_vectors(pos, nb))
    basis = {"frequencies": torch.tensor([0.7, 1.9], dtype=torch.float64)}
    if kind != "bessel":
        basis = {"centers": torch.tensor([0.3, 0.8]).double(), "gamma": torch.tensor([1.1, 0.6]).double()}
    names = ["h", "d", *WEIGHTS, *basis]
    points = [features_of(nb, 3), d, *weights(3, 2).values(), *basis.values()]
    points = [x.detach().clone().requires_grad_() for x in points]

    def run(*values: Tensor) -> Tensor:
        return cfconv(**dict(zip(names, values, strict=True)), nb=nb, cutoff=CUTOFF, kind=kind)

    assert torch.autograd.gradcheck(run, points, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, points, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    pos, nb = molecules(2, 8)
    inputs = {"h": features_of(nb, 20, dtype), "d": sk.safe_norm(sk.edge_vectors(pos, nb)).to(dtype)}
    inputs |= weights(20, 6, dtype)
    inputs = {name: value.requires_grad_() for name, value in inputs.items()}
    wide = {name: value.detach().float().requires_grad_() for name, value in inputs.items()}
    out, exact = cfconv(**inputs, nb=nb, cutoff=CUTOFF), cfconv(**wide, nb=nb, cutoff=CUTOFF)
    assert out.dtype == dtype
    assert torch.equal(out, exact.to(dtype))
    grads = torch.autograd.grad(out.sum(), list(inputs.values()))
    expected = torch.autograd.grad(exact.sum(), list(wide.values()))
    for got, want in zip(grads, expected, strict=True):
        assert torch.equal(got, want.to(dtype))


def test_large_inputs_of_the_activation() -> None:
    """Where e^x overflows, and where it vanishes."""
    pos, nb = molecules(1, 5)
    w = weights(16, 4, torch.float32)
    w["first_bias"] = torch.linspace(-300, 300, 16)
    inputs = {"h": features_of(nb, 16, torch.float32), "d": sk.safe_norm(sk.edge_vectors(pos, nb)), **w}
    truth = reference(**{name: value.double() for name, value in inputs.items()}, nb=nb, cutoff=CUTOFF)
    torch.testing.assert_close(cfconv(**inputs, nb=nb, cutoff=CUTOFF).double(), truth, rtol=1e-5, atol=1e-4)


def test_forward_mode_is_refused() -> None:
    d, nb = star(3)
    h = features_of(nb, 4)
    with pytest.raises(RuntimeError, match="cfconv has no forward-mode derivative"):
        torch.func.jvp(lambda x: cfconv(x, d, nb, CUTOFF, **weights(4, 3)), (h,), (h,))


def test_memory_of_a_training_step() -> None:
    """Forward, forces and the gradient of a loss on them: nothing of the size of E x F, a tenth of eager's memory."""
    pos, nb = molecules(64, 18)
    w = weights(64, 50, torch.float32)
    parameters = [x.requires_grad_() for x in (features_of(nb, 64, torch.float32), *w.values())]
    _ = nb.reverse, nb.sender_order

    def energy(function: object) -> tuple[Tensor, Tensor]:
        p = pos.clone().requires_grad_()
        d = sk.safe_norm(sk.edge_vectors(p, nb))
        out = function(parameters[0], d, nb, CUTOFF, **dict(zip(WEIGHTS, parameters[1:], strict=True)))  # type: ignore[operator]
        return out.square().sum(), p

    largest, peak = memory(force_step(lambda: energy(cfconv), parameters))
    _, eager = memory(force_step(lambda: energy(reference), parameters))
    assert largest < 4 * nb.num_edges * 64
    assert peak <= 0.1 * eager
