"""Ops and models under autocast: geometry stays fp32, networks run in bf16, and gradients flow through both."""

from __future__ import annotations

import pytest
import torch

import symkern as sk
from symkern.models import EGNN, DimeNetPlusPlus, PaiNN, SchNet

Z = torch.tensor([6, 1, 1, 8, 1])
POS = torch.tensor([[0.0, 0, 0], [1.0, 0.1, 0], [-0.5, 0.9, 0], [0.2, -0.6, 1.1], [0.9, -0.2, 1.6]])


def test_ops_compute_in_fp32() -> None:
    values = torch.randn(6, 4).bfloat16()
    ptr = torch.tensor([0, 2, 6])
    with torch.autocast("cpu", torch.bfloat16):
        summed = torch.ops.symkern.segment_sum.default(values, ptr, False)
        double = sk.segment_sum(values.double(), ptr)
        vectors = sk.edge_vectors(POS, sk.neighbor_list(POS, 2.0))
    assert summed.dtype == torch.float32
    assert torch.equal(summed, sk.segment_sum(values.float(), ptr))
    assert double.dtype == torch.float64
    assert vectors.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_segment_sum_of_half_precision(dtype: torch.dtype) -> None:
    """4,096 ones: sums in the narrow type itself would stop at 256 (bf16) or 2,048 (fp16)."""
    values = torch.ones(4096, 1, dtype=dtype, requires_grad=True)
    out = sk.segment_sum(values, torch.tensor([0, 4096]))
    assert out.dtype == dtype
    assert out.tolist() == [[4096.0]]
    (grad,) = torch.autograd.grad(out.sum(), values)
    assert grad.dtype == dtype
    assert (grad == 1).all()


MODELS = {
    "SchNet": lambda: SchNet(1, 32, 32, 2, 16, 3.0),
    "EGNN": lambda: EGNN(1, 32, 2, cutoff=3.0, num_basis=8, attention=True),
    "DimeNet++": lambda: DimeNetPlusPlus(1, 16, 2, 8, 4, 16, 3, 4, cutoff=3.0, output_initializer="glorot_orthogonal"),
    "PaiNN": lambda: PaiNN(1, 32, 2, 8, 3.0),
}
VARIANTS = {
    "SchNet, mean and offsets": lambda: SchNet(1, 32, 32, 2, 16, 3.0, readout="mean", atom_offsets=True),
    "SchNet, tabulated": lambda: SchNet(1, 32, 32, 2, 16, 3.0).tabulate(1e-3, 1e-2),
    "EGNN of structures": lambda: EGNN(1, 32, 2, cutoff=3.0, decoder="structure"),
    "PaiNN, vectors": lambda: PaiNN(1, 32, 2, 8, 3.0, head="vector"),
    "PaiNN, polarizabilities": lambda: PaiNN(1, 32, 2, 8, 3.0, head="polarizability"),
}


@pytest.mark.parametrize("make", [*MODELS.values(), *VARIANTS.values()], ids=[*MODELS, *VARIANTS])
def test_outputs_have_the_dtype_of_positions(make) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert make()(Z, POS).dtype == POS.dtype


def test_many_atoms_are_added_up_in_fp32() -> None:
    """The energy of 1,000 equal atoms is that of one, times 1,000, without what bf16 would lose in between."""
    model, count = SchNet(1, 32, 32, 1, 16, 3.0), 1000
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        one = model(Z[:1], POS[:1])
        all_ = model(Z[:1].expand(count), 10 * torch.arange(3.0 * count).reshape(-1, 3))
    torch.testing.assert_close(all_, count * one, rtol=1e-5, atol=0)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_models_train_on_forces_in_bf16(make) -> None:
    torch.manual_seed(0)
    model = make()
    energy, forces = sk.energy_and_forces(model, Z, POS)
    with torch.autocast("cpu", torch.bfloat16):
        low, low_forces = sk.energy_and_forces(model, Z, POS, create_graph=True)
    assert low_forces.dtype == torch.float32
    torch.testing.assert_close(low, energy, rtol=0.05, atol=0.02)
    torch.testing.assert_close(low_forces, forces, rtol=0.1, atol=0.1 * float(forces.abs().max()))
    assert not torch.equal(low_forces, forces)  # bf16 did take part
    low_forces.square().sum().backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads
    assert all(g.dtype == torch.float32 and torch.isfinite(g).all() for g in grads)
