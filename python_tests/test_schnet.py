"""SchNet against PyG's, the continuous-filter convolution, and gathers along edges."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pyg_vectors
import pytest
import torch
from torch import Tensor, nn

import symkern as sk
from symkern.models import SchNet
from symkern.nn import CFConv, RadialBasis, ShiftedSoftplus, cosine_cutoff, mlp
from symkern.nn.gather import gather, gather_receivers, gather_senders

CASES = pyg_vectors.read("schnet")


@pytest.mark.parametrize("case", CASES)
def test_from_pyg(case: str) -> None:
    recorded = CASES[case]
    model = SchNet.from_pyg(recorded.module)  # type: ignore[arg-type]
    out, forces = _evaluate(model, recorded.z, recorded.pos, recorded.batch)
    torch.testing.assert_close(out, recorded.out_exact, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(forces, recorded.forces_exact, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(out, recorded.out, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(forces, recorded.forces, rtol=1e-5, atol=1e-5)


def _evaluate(model: SchNet, z: Tensor, pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
    pos = pos.clone().requires_grad_()
    out = model(z, pos, batch)
    return out.detach(), -torch.autograd.grad(out.sum(), pos)[0]


def test_from_pyg_with_normalised_targets() -> None:
    """PyG scales the atoms' outputs by std, adds mean, and scales the sum."""
    recorded = CASES["add"]
    plain = SchNet.from_pyg(recorded.module)  # type: ignore[arg-type]
    module = type(recorded.module)(**{**vars(recorded.module), "mean": 0.7, "std": 3.0, "scale": 0.5})
    scaled = SchNet.from_pyg(module)  # type: ignore[arg-type]
    atoms = torch.bincount(recorded.batch).double().unsqueeze(1)
    systems = (recorded.z, recorded.pos, recorded.batch)
    torch.testing.assert_close(scaled(*systems), 0.5 * (3.0 * plain(*systems) + 0.7 * atoms), rtol=1e-12, atol=1e-12)


def test_from_pyg_knows_aggregation_modules() -> None:
    """PyG keeps its readout as a module: SumAggregation() for "add"."""
    module = CASES["mean"].module
    for name, readout in (("SumAggregation", "sum"), ("MeanAggregation", "mean")):
        made = type(module)(**{**vars(module), "readout": type(name, (), {})()})
        assert SchNet.from_pyg(made).readout == readout  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="module must have readout add, sum or mean"):
        SchNet.from_pyg(type(module)(**{**vars(module), "readout": "max"}))  # type: ignore[arg-type]


def test_from_the_real_pyg() -> None:
    models = pytest.importorskip("torch_geometric.nn.models")
    torch.manual_seed(0)
    theirs = models.SchNet(16, 12, 2, 10, 4.0).double()
    recorded = CASES["add"]

    class Graph(nn.Module):
        """In place of torch-cluster's radius graph."""

        def forward(self, pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
            nb = sk.neighbor_list(pos, 4.0, batch=batch)
            return nb.edge_index, sk.safe_norm(sk.edge_vectors(pos, nb))

    theirs.interaction_graph = Graph()
    systems = (recorded.z, recorded.pos, recorded.batch)
    torch.testing.assert_close(SchNet.from_pyg(theirs)(*systems), theirs(*systems), rtol=1e-5, atol=1e-5)


def test_from_pyg_refuses() -> None:
    with pytest.raises(TypeError, match=r"module must be torch_geometric.nn.models.SchNet, got .*Linear"):
        SchNet.from_pyg(torch.nn.Linear(2, 2))
    module = CASES["add"].module
    with pytest.raises(ValueError, match="dipole=False"):
        SchNet.from_pyg(SimpleNamespace(**{**vars(module), "dipole": True}))  # type: ignore[arg-type]


def _graph(max_edges: int | None = None) -> tuple[Tensor, sk.Neighbors]:
    pos = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return pos, sk.neighbor_list(pos, 1.8, batch=torch.tensor([0] * 5 + [1] * 4), max_edges=max_edges)


@pytest.mark.parametrize(("kind", "trainable"), [("gaussian", False), ("bessel", True), ("expnorm", True)])
def test_cfconv_is_its_formula(kind: str, trainable: bool) -> None:
    torch.manual_seed(0)
    conv = CFConv(4, 6, 5, 1.6, kind=kind, trainable_basis=trainable).double()
    with torch.no_grad():
        for p in conv.parameters():
            p.add_(0.2 * torch.randn_like(p))
    pos, nb = _graph()
    d = sk.safe_norm(sk.edge_vectors(pos, nb))
    h = torch.randn(9, 4, dtype=torch.float64)
    expected = conv.output.bias.repeat(9, 1)
    for j, i, dist in zip(nb.senders.tolist(), nb.receivers.tolist(), d.tolist(), strict=True):
        if dist < 1.6:
            filters = conv.filter(conv.basis(torch.tensor([dist], dtype=torch.float64)))[0]
            envelope = 0.5 * (1 + math.cos(math.pi * dist / 1.6))
            expected[i] += conv.output.weight @ (conv.input.weight @ h[j] * filters * envelope)
    torch.testing.assert_close(conv(h, d, nb), expected, rtol=1e-12, atol=1e-12)
    assert sum(p.numel() for p in conv.basis.parameters()) == (0 if not trainable else 5 if kind == "bessel" else 10)


def test_cfconv_derivatives() -> None:
    torch.manual_seed(0)
    conv = CFConv(2, 3, 3, 1.6, kind="gaussian", trainable_basis=True).double()
    pos, nb = _graph()
    d = sk.safe_norm(sk.edge_vectors(pos, nb)).requires_grad_()
    h = torch.randn(9, 2, dtype=torch.float64, requires_grad=True)
    weights = list(conv.parameters())

    def run(h: Tensor, d: Tensor, *values: Tensor) -> Tensor:
        named = dict(zip([name for name, _ in conv.named_parameters()], values, strict=True))
        return torch.func.functional_call(conv, named, (h, d, nb))  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(run, (h, d, *weights))
    assert torch.autograd.gradgradcheck(run, (h, d, *weights))


def test_cfconv_refuses() -> None:
    conv = CFConv(4, 6, 5, 2.0).double()
    pos, nb = _graph()
    d = sk.safe_norm(sk.edge_vectors(pos, nb))
    with pytest.raises(ValueError, match=r"h must be floats of shape \(9, 4\)"):
        conv(torch.zeros(9, 5, dtype=torch.float64), d, nb)
    with pytest.raises(ValueError, match="features must be positive"):
        CFConv(0, 6, 5, 2.0)
    with pytest.raises(ValueError, match="cutoff must be positive"):
        CFConv(4, 6, 5, -2.0)
    with pytest.raises(ValueError, match="num_basis must be positive"):
        CFConv(4, 6, 0, 2.0)
    with pytest.raises(ValueError, match="kind must be one of gaussian, bessel, expnorm"):
        CFConv(4, 6, 5, 2.0, kind="wavelet")
    with pytest.raises(ValueError, match="readout must be one of sum, mean"):
        SchNet(readout="max")
    with pytest.raises(ValueError, match="num_interactions must be positive"):
        SchNet(num_interactions=0)


def test_learned_basis_starts_at_the_fixed_one() -> None:
    d = torch.linspace(0, 3, 20)
    for kind in ("gaussian", "bessel", "expnorm"):
        fixed = RadialBasis(6, 2.5, kind=kind)
        learned = RadialBasis(6, 2.5, kind=kind, trainable=True)
        torch.testing.assert_close(learned(d), fixed(d), rtol=1e-5, atol=1e-6)
        assert all(p.grad is not None for p in _after_backward(learned, d))
        assert not list(fixed.parameters())


def _after_backward(basis: RadialBasis, d: Tensor) -> list[Tensor]:
    basis(d).square().sum().backward()
    return list(basis.parameters())


def test_small_parts() -> None:
    x = torch.linspace(-30, 30, 7, dtype=torch.float64)
    torch.testing.assert_close(ShiftedSoftplus()(x), torch.log(0.5 * x.exp() + 0.5), rtol=1e-12, atol=1e-8)
    d = torch.tensor([0.0, 1.0, 2.0, 3.0])
    torch.testing.assert_close(cosine_cutoff(d, 2.0), torch.tensor([[1.0], [0.5], [0.0], [0.0]]))
    assert [type(layer) for layer in mlp([3, 4, 5], ShiftedSoftplus)] == [nn.Linear, ShiftedSoftplus, nn.Linear]
    with pytest.raises(ValueError, match="at least an input and an output width"):
        mlp([3], ShiftedSoftplus)


@pytest.mark.parametrize("padding", [None, 60])
def test_gathers(padding: int | None) -> None:
    """Both gathers, and the one with segment sums as its gradient that CUDA takes."""
    _, nb = _graph(padding)
    real = int(nb.row_ptr[-1])
    h = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)

    def by_segments(h: Tensor) -> Tensor:
        return gather(h, nb.senders, nb.sender_order, nb.sender_ptr)[:real]

    for function, index in (
        (lambda h: gather_senders(h, nb)[:real], nb.senders),
        (lambda h: gather_receivers(h, nb)[:real], nb.receivers),
        (by_segments, nb.senders),
    ):
        assert torch.equal(function(h), h[index[:real]])
        assert torch.autograd.gradcheck(function, h)
        assert torch.autograd.gradgradcheck(lambda h, function=function: function(h) ** 3, h)
