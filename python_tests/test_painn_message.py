"""PaiNN's fused messages beyond the contract: peers, extreme graphs, shared filters, memory."""

from __future__ import annotations

import math

import pytest
import torch
from filter_tools import CUTOFF, force_step, memory, molecules, random_graph, star
from torch import Tensor

import symkern as sk
from symkern.ops.painn_message import painn_message, reference


def rows(nb: sk.Neighbors, width: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(2)
    shape = (nb.num_nodes, 3, width)
    return {name: torch.randn(shape, generator=random, dtype=torch.float64).to(dtype) for name in ("phi", "mu")}


def weights(width: int, num_basis: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    weight = torch.randn((3, width, num_basis), generator=random, dtype=torch.float64) / num_basis**0.5
    bias = torch.randn((3, width), generator=random, dtype=torch.float64) / 3
    return {"filter_weight": weight.to(dtype), "filter_bias": bias.to(dtype)}


def edges(pos: Tensor, nb: sk.Neighbors) -> dict[str, Tensor]:
    vectors = sk.edge_vectors(pos, nb)
    d = sk.safe_norm(vectors)
    return {"d": d, "directions": vectors / d[:, None]}


def some_edges(nb: sk.Neighbors, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(3)
    d = 0.5 + 5 * torch.rand(nb.num_edges, generator=random, dtype=torch.float64)
    n = torch.nn.functional.normalize(torch.randn((nb.num_edges, 3), generator=random, dtype=torch.float64))
    return {"d": d.to(dtype), "directions": n.to(dtype)}


def interaction(
    x: Tensor, mu: Tensor, vectors: Tensor, index_i: Tensor, index_j: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """SchNetPack's PaiNN interaction with its Bessel basis and cosine cutoff, from the paper and its documentation.

    x (N, 1, 3 F) scalars after their network, mu (N, 3, F), weight (3 F, K): (N, 1, F), (N, 3, F).
    """
    d = vectors.norm(dim=1, keepdim=True)
    number = torch.arange(1, weight.shape[1] + 1, dtype=d.dtype)
    basis = torch.sin(number * math.pi / CUTOFF * d) / d * math.sqrt(2 / CUTOFF)
    taper = 0.5 * (torch.cos(d * math.pi / CUTOFF) + 1.0) * (d < CUTOFF)
    filters = ((basis @ weight.T + bias) * taper)[:, None]
    width = mu.shape[2]
    dq, radial, mixed = torch.split(filters * x.index_select(0, index_j), width, dim=-1)
    dmu = radial * (vectors / d)[:, :, None] + mixed * mu.index_select(0, index_j)
    return (
        x.new_zeros(len(x), 1, width).index_add(0, index_i, dq),
        torch.zeros_like(mu).index_add(0, index_i, dmu),
    )


def test_peer_interaction() -> None:
    """Against SchNetPack's formulas, with the gradients of positions, features and weights."""
    pos, nb = molecules(3, 10, torch.float64)
    given, w = rows(nb, 24), weights(24, 12)
    found = []
    for fused in (True, False):
        leaves = [x.clone().requires_grad_() for x in (pos, *given.values(), *w.values())]
        p, phi, mu, weight, bias = leaves
        if fused:
            out = painn_message(phi, mu, **edges(p, nb), nb=nb, cutoff=CUTOFF, filter_weight=weight, filter_bias=bias)
        else:
            vectors = p[nb.senders] - p[nb.receivers]
            flat = weight.flatten(0, 1), bias.flatten()
            q, dmu = interaction(phi.flatten(1)[:, None], mu, vectors, nb.receivers, nb.senders, *flat)
            out = q[:, 0], dmu
        energy = out[0].square().sum() + out[1].square().sum()
        (force,) = torch.autograd.grad(energy, p, create_graph=True)
        found.append([*out, force, *torch.autograd.grad(force.square().sum(), leaves)])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12 * float(theirs.detach().abs().max()))


def test_many_neighbors() -> None:
    """5,000 senders of one atom: sums keep eager's precision."""
    d, nb = star(5000)
    inputs = {**rows(nb, 16), **some_edges(nb), "d": d, **weights(16, 20)}
    truth = reference(**inputs, nb=nb, cutoff=CUTOFF)
    single = {name: value.float() for name, value in inputs.items()}
    got, same = painn_message(**single, nb=nb, cutoff=CUTOFF), reference(**single, nb=nb, cutoff=CUTOFF)
    exact = painn_message(**inputs, nb=nb, cutoff=CUTOFF)
    for a, b, c, t in zip(got, same, exact, truth, strict=True):
        assert (a - t).abs().max() <= 2 * (b - t).abs().max()
        torch.testing.assert_close(c, t, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("atoms", [0, 4])
def test_no_edges(atoms: int) -> None:
    nb = sk.Neighbors.from_edge_index(torch.zeros((2, 0), dtype=torch.int64), atoms)
    points = {**rows(nb, 20), **some_edges(nb), **weights(20, 5)}
    points = {name: value.requires_grad_() for name, value in points.items()}
    out = painn_message(**points, nb=nb, cutoff=CUTOFF)
    assert [tuple(t.shape) for t in out] == [(atoms, 20), (atoms, 3, 20)]
    assert not any(t.any() for t in out)
    grads = torch.autograd.grad(sum(t.sum() for t in out), list(points.values()), create_graph=True)
    assert all(not g.any() for g in grads)
    again = torch.autograd.grad(sum(g.sum() for g in grads[:4]), list(points.values()), materialize_grads=True)
    assert all(not g.any() for g in again)


@pytest.mark.parametrize("graph", ["molecules", "random"])
def test_same_bits_for_any_threads(graph: str) -> None:
    """Graphs of several chunks, and of chunks whose windows overlap."""
    nb = molecules(128, 18)[1] if graph == "molecules" else random_graph(3000, 30000)
    points = {**rows(nb, 16, torch.float32), **some_edges(nb, torch.float32), **weights(16, 10, torch.float32)}
    points = {name: value.requires_grad_() for name, value in points.items()}
    found = []
    threads = torch.get_num_threads()
    for count in (1, 2, 3, 2):
        torch.set_num_threads(count)
        out = painn_message(**points, nb=nb, cutoff=CUTOFF)
        energy = sum(t.square().sum() for t in out)
        first = torch.autograd.grad(energy, list(points.values()), create_graph=True)
        value = sum(g.square().sum() for g in first[:4])
        found.append([*out, *first, *torch.autograd.grad(value, list(points.values()))])
    torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_filters_are_shared_only_where_they_are_equal() -> None:
    """Whatever `reverse` says: nothing, the truth, or nonsense. Directions of a pair need not be opposite."""
    nb = molecules(2, 9, torch.float64)[1]
    given, random = some_edges(nb), torch.Generator().manual_seed(4)
    equal = torch.rand(nb.num_edges, generator=random) < 0.5
    d = torch.where(equal & equal[nb.reverse], torch.minimum(given["d"], given["d"][nb.reverse]), given["d"])
    p = torch.linspace(0.5, 3, 5, dtype=torch.float64)
    nonsense = torch.randint(-5, 2 * nb.num_edges, (nb.num_edges,), generator=random)
    found = []
    for reverse in (None, nb.reverse, nonsense, nb.reverse.roll(1)):
        leaves = [x.clone().requires_grad_() for x in (*rows(nb, 16).values(), d, given["directions"])]
        out = torch.ops.symkern.painn_message.default(
            *leaves, p, None, *weights(16, 5).values(), nb.edge_index, nb.row_ptr, reverse, None, None, CUTOFF, 1, 0
        )
        grads = torch.autograd.grad(sum(t.square().sum() for t in out), leaves, create_graph=True)
        more = torch.autograd.grad(sum(g.square().sum() for g in grads), leaves)
        found.append([*out, *grads, *more])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12 * float(a.detach().abs().max()))


@pytest.mark.parametrize("kind", ["gaussian", "bessel", "expnorm"])
def test_gradients_with_a_learned_basis(kind: str) -> None:
    pos, nb = molecules(1, 4, torch.float64)
    basis = {"frequencies": torch.tensor([0.7, 1.9], dtype=torch.float64)}
    if kind != "bessel":
        basis = {"centers": torch.tensor([0.3, 0.8]).double(), "gamma": torch.tensor([1.1, 0.6]).double()}
    inputs = {**rows(nb, 2), **edges(pos, nb), **weights(2, 2), **basis}
    points = [x.detach().clone().requires_grad_() for x in inputs.values()]

    def run(*values: Tensor) -> tuple[Tensor, Tensor]:
        return painn_message(**dict(zip(inputs, values, strict=True)), nb=nb, cutoff=CUTOFF, kind=kind)

    assert torch.autograd.gradcheck(run, points, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, points, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    pos, nb = molecules(2, 8)
    inputs = {**rows(nb, 20, dtype), **weights(20, 6, dtype)}
    inputs |= {name: x.to(dtype) for name, x in edges(pos, nb).items()}
    inputs = {name: value.requires_grad_() for name, value in inputs.items()}
    wide = {name: value.detach().float().requires_grad_() for name, value in inputs.items()}
    out, exact = painn_message(**inputs, nb=nb, cutoff=CUTOFF), painn_message(**wide, nb=nb, cutoff=CUTOFF)
    for got, want in zip(out, exact, strict=True):
        assert got.dtype == dtype
        assert torch.equal(got, want.to(dtype))
    grads = torch.autograd.grad(out[0].sum() + out[1].sum(), list(inputs.values()))
    expected = torch.autograd.grad(exact[0].sum() + exact[1].sum(), list(wide.values()))
    for got, want in zip(grads, expected, strict=True):
        assert torch.equal(got, want.to(dtype))


def test_many_channels() -> None:
    """More channels and functions than a panel of a product has. Not a sample of the Case: torch's own products, which
    second derivatives along weights go through, give other bits for another number of threads at this size."""
    pos, nb = molecules(2, 12, torch.float64)
    inputs = {**rows(nb, 80), **edges(pos, nb), **weights(80, 50)}
    found = []
    for function in (painn_message, reference):
        points = [x.detach().clone().requires_grad_() for x in inputs.values()]
        out = function(**dict(zip(inputs, points, strict=True)), nb=nb, cutoff=CUTOFF)
        grads = torch.autograd.grad(sum(t.square().sum() for t in out), points, create_graph=True)
        value = sum(g.square().sum() for g in grads[:4])
        found.append([*out, *grads, *torch.autograd.grad(value, points)])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12 * float(theirs.detach().abs().max()))


def test_one_output_alone() -> None:
    """Gradients where only one of the two outputs is used, of the first order and the second."""
    pos, nb = molecules(2, 7, torch.float64)
    inputs = {**rows(nb, 16), **edges(pos, nb), **weights(16, 5)}
    for output in (0, 1):
        found = []
        for function in (painn_message, reference):
            points = [x.detach().clone().requires_grad_() for x in inputs.values()]
            out = function(**dict(zip(inputs, points, strict=True)), nb=nb, cutoff=CUTOFF)[output]
            grads = torch.autograd.grad(out.square().sum(), points[:4], create_graph=True, materialize_grads=True)
            value = sum(g.square().sum() for g in grads)
            found.append([*grads, *torch.autograd.grad(value, points, materialize_grads=True)])
        for mine, theirs in zip(*found, strict=True):
            torch.testing.assert_close(
                mine, theirs, rtol=1e-11, atol=1e-12 * max(float(theirs.detach().abs().max()), 1)
            )


def test_memory_of_a_training_step() -> None:
    """Forward, forces and the gradient of a loss on them: nothing of the size of E x F, a tenth of eager's memory."""
    pos, nb = molecules(64, 18)
    given, w = rows(nb, 64, torch.float32), weights(64, 20, torch.float32)
    parameters = [x.requires_grad_() for x in (*given.values(), *w.values())]
    _ = nb.reverse, nb.sender_order

    def energy(function: object) -> tuple[Tensor, Tensor]:
        p = pos.clone().requires_grad_()
        out = function(
            *parameters[:2], **edges(p, nb), nb=nb, cutoff=CUTOFF, **dict(zip(w, parameters[2:], strict=True))
        )  # type: ignore[operator]
        return out[0].square().sum() + out[1].square().sum(), p

    largest, peak = memory(force_step(lambda: energy(painn_message), parameters))
    _, eager = memory(force_step(lambda: energy(reference), parameters))
    assert largest < 4 * nb.num_edges * 64
    assert peak <= 0.1 * eager
