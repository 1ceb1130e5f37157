"""Named formulas, accuracy and refusals of radial_basis. The generic checks are in test_contract.py."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from torch import Tensor

import symkern as sk
from symkern.ops.radial_basis import reference

RC, K = 5.0, 50
KINDS = ("gaussian", "bessel", "expnorm")
ENVELOPES = ("cosine", "polynomial", "none")
each_kind = pytest.mark.parametrize("kind", KINDS)
each_envelope = pytest.mark.parametrize("envelope", ENVELOPES)


def distances(count: int = 2000, low: float = 0.0, high: float = 1.1 * RC, dtype: Any = torch.float64) -> Tensor:
    return (low + (high - low) * torch.rand(count, dtype=torch.float64)).to(dtype)


def parameters(kind: str, count: int, dtype: Any = torch.float64) -> dict[str, Tensor]:
    """Random and unsorted, as learned ones may be."""
    if kind == "bessel":
        return {"frequencies": (6 * torch.rand(count, dtype=torch.float64) - 1).to(dtype)}
    unit = kind == "expnorm"
    centers = torch.rand(count, dtype=torch.float64) * (1 if unit else RC)
    gamma = torch.rand(count, dtype=torch.float64) * (30 if unit else 3) + 0.3
    return {"centers": centers.to(dtype), "gamma": gamma.to(dtype)}


def assert_equal(a: Tensor, b: Tensor, relative: float = 1e-13) -> None:
    assert a.shape == b.shape
    assert float((a - b).abs().max()) <= relative * float(b.abs().max())


# ---- published formulas, derived again -------------------------------------------------------------------------------


def cosine(d: Tensor) -> Tensor:
    """SchNetPack's CosineCutoff (chapter eq. 4.4)."""
    return 0.5 * (torch.cos(d * math.pi / RC) + 1.0) * (d < RC).to(d)


def pyg_envelope(x: Tensor, exponent: int) -> Tensor:
    """PyG's Envelope(exponent): DimeNet's u(d) / d with p = exponent + 1."""
    p = exponent + 1
    a, b, c = -(p + 1) * (p + 2) / 2, p * (p + 2), -p * (p + 1) / 2
    return (1.0 / x + a * x ** (p - 1) + b * x**p + c * x ** (p + 1)) * (x < 1.0).to(x)


def test_schnet() -> None:
    """SchNetPack's GaussianRBF, PyG's GaussianSmearing: coeff = -0.5 / width^2, width = offsets[1] - offsets[0]."""
    d = distances()
    offsets = torch.linspace(0, RC, K, dtype=torch.float64)
    coeff = -0.5 / float(offsets[1] - offsets[0]) ** 2
    smeared = torch.exp(coeff * (d.view(-1, 1) - offsets.view(1, -1)) ** 2)
    assert_equal(sk.radial_basis(d, RC, K, envelope="none"), smeared)
    assert_equal(sk.radial_basis(d, RC, K), smeared * cosine(d).unsqueeze(-1))


def test_schnetpack_bessel() -> None:
    """SchNetPack's BesselRBF: sin(f d) / d, without the factor."""
    d = distances()
    frequencies = torch.arange(1, 21, dtype=torch.float64) * math.pi / RC
    expected = torch.sin(d[:, None] * frequencies) / d[:, None] * cosine(d)[:, None]
    assert_equal(sk.radial_basis(d, RC, 20, kind="bessel") / math.sqrt(2 / RC), expected)


@pytest.mark.parametrize("exponent", [1, 5, 8])
def test_pyg_bessel(exponent: int) -> None:
    """PyG's BesselBasisLayer: envelope(x) sin(k pi x) with x = d / cutoff."""
    d = distances(low=0.2)
    x = d[:, None] / RC
    layer = pyg_envelope(x, exponent) * torch.sin(torch.arange(1, 17, dtype=torch.float64) * math.pi * x)
    ours = sk.radial_basis(d, RC, 16, kind="bessel", envelope="polynomial", exponent=exponent + 1)
    assert_equal(ours, math.sqrt(2 / RC) / RC * layer, 1e-11)  # PyG's form cancels


@pytest.mark.parametrize("count", [1, 8, 32])
def test_expnorm(count: int) -> None:
    """PhysNet's and TorchMD-NET's ExpNormalSmearing for a cutoff of 5 Å, where the start value exp(-cutoff) is ours."""
    d = distances()
    start = math.exp(-RC)
    means = torch.linspace(start, 1, count, dtype=torch.float64)
    betas = torch.tensor([(2 / count * (1 - start)) ** -2] * count, dtype=torch.float64)
    smeared = cosine(d)[:, None] * torch.exp(-betas * (torch.exp(5.0 / RC * -d[:, None]) - means) ** 2)
    assert_equal(sk.radial_basis(d, RC, count, kind="expnorm"), smeared)


def test_spherical_bessel() -> None:
    """sin(f d) / d = f j_0(f d), also at 0 and close to it."""
    d = torch.cat([torch.tensor([0.0, 1e-300, 1e-20, 1e-12, 1e-8, 1e-4, 1e-2], dtype=torch.float64), distances(500)])
    frequencies = np.arange(1, 33) * np.pi / RC
    expected = np.sqrt(2 / RC) * frequencies * scipy.special.spherical_jn(0, frequencies * d.numpy()[:, None])
    found = sk.radial_basis(d, RC, 32, kind="bessel", envelope="none")
    assert_equal(found, torch.from_numpy(expected))
    single = sk.radial_basis(d[:7].float(), RC, 32, kind="bessel", envelope="none")
    assert_equal(single.double(), torch.from_numpy(expected[:7]), 3e-7)


def test_one_basis_function() -> None:
    d = distances(10)
    assert_equal(sk.radial_basis(d, RC, 1, envelope="none"), torch.exp(-0.5 / RC**2 * d.square())[:, None])


@pytest.mark.parametrize("exponent", [1, 2, 3, 6, 40])
def test_polynomial(exponent: int) -> None:
    """The published sum, and three derivatives that vanish at the cutoff: value, slope and curvature."""
    p, x = exponent, torch.linspace(0, 0.7, 50, dtype=torch.float64)
    u = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    flat = {"centers": torch.zeros(1, dtype=torch.float64), "gamma": 0.0, "envelope": "polynomial", "exponent": p}
    assert_equal(sk.radial_basis(RC * x, RC, 1, **flat)[:, 0], u, 1e-12)
    end = torch.tensor([RC], dtype=torch.float64, requires_grad=True)
    value = sk.radial_basis(end, RC, 1, **flat)
    (slope,) = torch.autograd.grad(value.sum(), end, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), end)
    assert value.item() == slope.item() == curvature.item() == 0


# ---- derivatives -----------------------------------------------------------------------------------------------------


@each_kind
@each_envelope
def test_gradcheck(kind: str, envelope: str) -> None:
    """Near 0, on both sides of the cutoff, and where bessel changes from series to closed form."""
    edges = torch.tensor([1e-4, 1e-2, RC - 1e-3, RC + 1e-3, RC + 1], dtype=torch.float64)
    given = parameters(kind, 3)
    d = torch.cat([edges, distances(4, 0.1), 1 / given["frequencies"].abs() + 1e-3 if kind == "bessel" else edges[:0]])

    def run(d: Tensor, *values: Tensor) -> Tensor:
        return sk.radial_basis(d, RC, 3, kind=kind, envelope=envelope, **dict(zip(given, values, strict=True)))

    leaves = tuple(t.clone().requires_grad_() for t in (d, *given.values()))
    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)


@each_kind
@each_envelope
def test_derivatives_at_zero(kind: str, envelope: str) -> None:
    """Against central differences of the formula continued to negative distances."""
    given = parameters(kind, 4)
    options = {"kind": kind, "envelope": envelope, **given}
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    h = 1e-3

    def at(x: float) -> Tensor:
        return reference(torch.tensor([x], dtype=torch.float64), RC, 4, **options)[0]

    first = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    second = (16 * (at(h) + at(-h)) - (at(2 * h) + at(-2 * h)) - 30 * at(0)) / (12 * h * h)
    out = sk.radial_basis(zero, RC, 4, **options)[0]
    scale = 1 + float(second.abs().max())
    for k in range(4):
        (slope,) = torch.autograd.grad(out[k], zero, create_graph=True)
        (curvature,) = torch.autograd.grad(slope, zero, retain_graph=True)
        assert abs(slope.item() - first[k].item()) < 1e-8 * scale
        assert abs(curvature.item() - second[k].item()) < 1e-6 * scale


@pytest.mark.parametrize("kind", ["gaussian", "expnorm"])
def test_scalar_gamma_is_shared(kind: str) -> None:
    d = distances(20)
    one = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    many = torch.full((7,), 2.0, dtype=torch.float64, requires_grad=True)
    shared, each = (sk.radial_basis(d, RC, 7, kind=kind, gamma=g).square().sum() for g in (one, many))
    grads = torch.autograd.grad(shared, one)[0], torch.autograd.grad(each, many)[0].sum()
    assert shared.item() == each.item()
    assert math.isclose(float(grads[0]), float(grads[1]), rel_tol=1e-12)
    assert torch.equal(sk.radial_basis(d, RC, 7, kind=kind, gamma=2.0), sk.radial_basis(d, RC, 7, kind=kind, gamma=one))


# ---- precision -------------------------------------------------------------------------------------------------------


def eager(d: Tensor, kind: str, envelope: str, given: dict[str, Tensor]) -> Tensor:
    """As users write it."""
    x = d.unsqueeze(-1)
    if kind == "bessel":
        basis = math.sqrt(2 / RC) * torch.sin(given["frequencies"] * x) / x
    else:
        t = x if kind == "gaussian" else torch.exp(-5 / RC * x)
        basis = torch.exp(-given["gamma"] * (t - given["centers"]) ** 2)
    if envelope == "none":
        return basis
    return basis * (cosine(x) if envelope == "cosine" else x / RC * pyg_envelope(x / RC, 5))


def errors(kind: str, envelope: str, d: Tensor, order: int) -> tuple[float, float]:
    """Largest error of ours and of eager, relative to the largest true value."""
    given = parameters(kind, K, torch.float32)

    def derivative(f: Any, dtype: torch.dtype) -> Tensor:
        x = d.to(dtype).requires_grad_(order > 0)
        out = f(x, {k: v.to(dtype) for k, v in given.items()})
        for _ in range(order):
            (out,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        return out.detach().double()

    def ours(x: Tensor, values: dict[str, Tensor]) -> Tensor:
        return sk.radial_basis(x, RC, K, kind=kind, envelope=envelope, **values)

    def theirs(x: Tensor, values: dict[str, Tensor]) -> Tensor:
        return eager(x, kind, envelope, values)

    truth = derivative(ours, torch.float64)
    scale = truth.abs().max()
    found = (derivative(f, torch.float32) for f in (ours, theirs))
    mine, peer = (float((g - truth).abs().max() / scale) for g in found)
    return mine, peer


@each_kind
@each_envelope
@pytest.mark.parametrize("order", [0, 1, 2])
def test_fp32_error(kind: str, envelope: str, order: int) -> None:
    mine, peer = errors(kind, envelope, distances(20_000, 0.5, dtype=torch.float32), order)
    assert mine <= max(2 * peer, 4 * 2**-23), f"{mine:.1e}, eager {peer:.1e}"


@each_kind
@pytest.mark.parametrize("envelope", ["cosine", "polynomial"])
@pytest.mark.parametrize("width", [1e-1, 1e-3, 1e-5])
def test_fp32_error_near_the_cutoff(kind: str, envelope: str, width: float) -> None:
    """Relative to the largest value in the band, which eager's cancellation spoils."""
    d = distances(5_000, RC * (1 - width), RC, dtype=torch.float32)
    mine, peer = errors(kind, envelope, d, 0)
    assert mine <= min(2 * peer, 2e-5), f"{mine:.1e}, eager {peer:.1e}"


def test_cutoff_that_fp32_does_not_have() -> None:
    """5.3 is rounded in fp32; just below it that would spoil the envelope."""
    d = torch.tensor([5.2999], dtype=torch.float32)
    given = {"centers": torch.zeros(1), "gamma": 0.0}
    found = sk.radial_basis(d, 5.3, 1, **given).double()
    expected = sk.radial_basis(d.double(), 5.3, 1, centers=torch.zeros(1, dtype=torch.float64), gamma=0.0)
    assert_equal(found, expected, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@each_kind
def test_half_precision(kind: str, dtype: torch.dtype) -> None:
    """Computed in fp32, rounded once; gradients come back in the dtype they belong to."""
    d = distances(300, 0.1, dtype=dtype)
    rounded = sk.radial_basis(d.float(), RC, K, kind=kind).to(dtype)
    assert torch.equal(sk.radial_basis(d, RC, K, kind=kind), rounded)
    d.requires_grad_()
    for of in (torch.float32, dtype):
        given = {name: t.requires_grad_() for name, t in parameters(kind, K, of).items()}
        out = sk.radial_basis(d, RC, K, kind=kind, **given)
        grads = torch.autograd.grad(out.float().square().sum(), [d, *given.values()])
        assert out.dtype == grads[0].dtype == dtype
        assert all(g.dtype == of and bool(g.isfinite().all()) for g in grads[1:])


def test_large_arguments() -> None:
    """Far outside everything is zero; without an envelope sines of any argument stay right."""
    d = torch.tensor([6.0, 1e4, 1e12, 1e30, 3e38])
    for kind in KINDS:
        for envelope in ("cosine", "polynomial"):
            x = d.clone().requires_grad_()
            out = sk.radial_basis(x, RC, 20, kind=kind, envelope=envelope)
            assert not out.any()
            assert not torch.autograd.grad(out.sum(), x)[0].any()
    frequencies = torch.tensor([1.0, 7.0, 1000.0])
    d = torch.tensor([100.0, 8191.0, 8193.0, 123456.0])
    found = sk.radial_basis(d, RC, 3, kind="bessel", envelope="none", frequencies=frequencies)
    sines = torch.sin((d[:, None] * frequencies).double())
    assert_equal(found.double() * d[:, None].double() / math.sqrt(2 / RC), sines, 1e-6)


def test_exponential() -> None:
    """A negative gamma makes values that grow: right up to the largest fp32 number, infinite beyond."""
    x = torch.linspace(-86.5, 88.7, 4001)
    flat = {"centers": torch.zeros(1), "envelope": "none"}
    d = x.abs().sqrt()
    for sign in (-1.0, 1.0):
        some = d[x * sign > 0]
        found = sk.radial_basis(some, RC, 1, gamma=-sign, **flat)[:, 0].double()
        argument = some.double().square()
        # squaring rounds, and the exponential multiplies that by its argument
        assert float((found / (sign * argument).exp() - 1).abs().max()) < 100 * 2**-23
    ends = sk.radial_basis(torch.tensor([9.5, 1e4, 1e30]), RC, 1, gamma=-1.0, **flat)
    assert bool(ends.isinf().all())
    assert not sk.radial_basis(torch.tensor([9.5, 1e4, 1e30]), RC, 1, gamma=1.0, **flat).any()


def test_no_denormals() -> None:
    out = sk.radial_basis(distances(5_000, 0, 4.0, torch.float32), RC, K, envelope="none")
    tiny = torch.finfo(torch.float32).tiny
    assert not ((out != 0) & (out < tiny)).any()


# ---- shapes, determinism, refusals -----------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("count", [1, 3, 4, 5, 15, 16, 17, 31, 33, 50, 64, 257, 600])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tails(kind: str, count: int, dtype: torch.dtype) -> None:
    """Every number of parameters and rows gives what it gives one by one, values and gradients."""
    d = distances(131, 0.1, dtype=dtype).requires_grad_()
    given = {k: t.requires_grad_() for k, t in parameters(kind, count, dtype).items()}
    weight = torch.randn(131, count, dtype=torch.float64).to(dtype)
    out = sk.radial_basis(d, RC, count, kind=kind, **given)
    grads = torch.autograd.grad((out * weight).sum(), [d, *given.values()])
    exact = {k: t.detach().double().requires_grad_() for k, t in given.items()}
    point = d.detach().double().requires_grad_()
    truth = reference(point, RC, count, kind=kind, **exact)
    wanted = torch.autograd.grad((truth * weight.double()).sum(), [point, *exact.values()])
    for a, b in zip((out, *grads), (truth, *wanted), strict=True):
        assert_equal(a.detach().double(), b.detach(), 64 * torch.finfo(dtype).eps)


def test_shapes() -> None:
    for shape in [(), (0,), (1,), (0, 4), (2, 3), (2, 3, 4)]:
        d = torch.rand(shape).requires_grad_()
        out = sk.radial_basis(d, RC, 6)
        assert out.shape == (*shape, 6)
        assert torch.autograd.grad(out.sum(), d)[0].shape == shape
    d = torch.rand(4, 6)
    assert torch.equal(sk.radial_basis(d.T, RC, 5), sk.radial_basis(d, RC, 5).transpose(0, 1))


@each_kind
def test_determinism(kind: str) -> None:
    """The same bits for any number of threads, also in the sums over many rows."""
    d = distances(30_000, dtype=torch.float32).requires_grad_()
    given = {k: t.requires_grad_() for k, t in parameters(kind, 19, torch.float32).items()}
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out = sk.radial_basis(d, RC, 19, kind=kind, **given)
            grads = torch.autograd.grad(out.square().sum(), [d, *given.values()], create_graph=True)
            total = torch.stack([g.square().sum() for g in grads]).sum()
            found.append((out, *grads, *torch.autograd.grad(total, [d, *given.values()])))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("value", [-1e-6, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_bad_distance(value: float, dtype: torch.dtype) -> None:
    d = torch.rand(700).to(dtype)
    d[[299, 650]] = value
    with pytest.raises(ValueError, match=r"d must be finite and not negative, but d\[299\] = "):
        sk.radial_basis(d, RC, 4)
    sk.radial_basis(torch.tensor([-0.0]), RC, 4)
