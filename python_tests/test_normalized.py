"""Normalized: properties in their own unit, and the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import symkern as sk
from symkern import training
from symkern.data import Dataset
from symkern.models import EGNN, SANN, PaiNN, SchNet, vector_outputs

Z = torch.tensor([8, 1, 1, 6, 1])
POS = torch.tensor([[0.0, 0, 0], [0.9, 0.1, 0], [-0.3, 0.9, 0], [0, 0, 0], [1.0, 0.2, 0.3]])
BATCH = torch.tensor([0, 0, 0, 1, 1])


def small(out: int = 1) -> SchNet:
    torch.manual_seed(0)
    return SchNet(out, 8, 8, 1, 5, 3.0, readout="mean")


def dimers(count: int = 60) -> Dataset:
    """H2 stretched by x, with properties of x in large units."""
    x = 0.7 + 0.6 * torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pos = torch.zeros(2 * count, 3, dtype=torch.float64)
    pos[1::2, 0] = x
    properties = {"gap": 5000 + 900 * x, "pair": torch.stack([x, -7 * x], 1), "same": torch.full((count,), 3.0)}
    return Dataset(
        torch.ones(2 * count, dtype=torch.int64), pos, torch.arange(0, 2 * count + 1, 2), per_structure=properties
    )


def test_output_is_mean_plus_std_times_the_networks() -> None:
    model = small(2)
    normalized = sk.Normalized(model, mean=[1e7, -3.0], std=[2.0, 0.5])
    expected = torch.tensor([1e7, -3.0], dtype=torch.float64) + torch.tensor([2.0, 0.5]) * model(Z, POS, BATCH).double()
    assert torch.equal(normalized(Z, POS, BATCH), expected)
    normalized.half()
    assert normalized.mean.dtype == torch.float64  # half precision ends at 65,504
    assert normalized.mean[0] == 1e7


def test_fit() -> None:
    data = dimers()
    values = data.per_structure["gap"]
    normalized = sk.Normalized.fit(small(), data, "gap")
    assert normalized.mean.tolist() == pytest.approx([float(values.mean())])
    assert normalized.std.tolist() == pytest.approx([float(values.std(correction=0))])
    assert sk.Normalized.fit(small(2), data, "pair").mean.shape == (2,)
    assert sk.Normalized.fit(small(), data, "same").std.tolist() == [1.0]
    with pytest.raises(ValueError, match="got 'homo'; found: gap, pair, same"):
        sk.Normalized.fit(small(), data, "homo")


VECTORS = {
    "PaiNN": lambda: PaiNN(1, 8, 1, 6, 3.0, head="dipole"),
    "SANN": lambda: SANN(1, 8, 1, output="dipole"),
    "charges": lambda: vector_outputs.ChargeDipoles(EGNN(1, 8, 1, cutoff=3.0), 8),
    "summed": lambda: vector_outputs.SummedVectors(vector_outputs.GradientVectors(EGNN(1, 8, 1, cutoff=3.0))),
    "noisy": lambda: vector_outputs.Noisy(vector_outputs.ChargeDipoles(SchNet(8, 8, 8, 1, 5, 3.0), 8), 1e-9),
}


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_turn_with_the_molecule(name: str) -> None:
    """A mean, or a spread for each axis, would prefer directions."""
    random = torch.Generator().manual_seed(0)
    z = torch.tensor([8, 1, 6, 1, 7] * 4)
    pos = 2 * torch.rand(20, 3, dtype=torch.float64, generator=random)
    dipole = torch.rand(4, 3, dtype=torch.float64, generator=random) * torch.tensor([1.0, 5.0, 0.1])
    data = Dataset(z, pos, torch.arange(0, 21, 5), per_structure={"dipole": dipole})
    model = sk.Normalized.fit(VECTORS[name]().double().eval(), data, "dipole")
    assert model.std.numel() == 1
    turn = torch.linalg.qr(torch.rand(3, 3, dtype=torch.float64, generator=random)).Q
    batch = torch.arange(4).repeat_interleave(5)
    torch.testing.assert_close(model(z, pos @ turn.T, batch), model(z, pos, batch) @ turn.T, atol=1e-6, rtol=1e-6)


def test_training_reaches_the_target_in_its_unit(tmp_path: Path) -> None:
    """Without normalisation a network would need thousands of steps to reach 5,500."""
    data = dimers()
    model = sk.Normalized.fit(small(), data, "gap")
    settings = training.Settings(epochs=60, batch_size=10, learning_rate=1e-2, schedule="cosine")
    result = training.fit(model, training.Property("gap"), data.loader(3.0), None, settings, progress=False)
    assert result.best["gap_mae"] < 20
    model.save(tmp_path / "gap.pt")
    again = sk.load_model(tmp_path / "gap.pt")
    assert isinstance(again, sk.Normalized)
    assert again.config == model.config
    assert again.target == "gap"
    batch = data.loader(3.0).collate(torch.arange(5))
    assert torch.equal(again(batch.z, batch.pos, batch.batch), model(batch.z, batch.pos, batch.batch))
    with pytest.raises(sk.ModelFileError, match="holds a Normalized, expected Potential"):
        sk.load_potential(tmp_path / "gap.pt")
    sk.Potential(small()).save(tmp_path / "energy.pt")
    assert isinstance(sk.load_model(tmp_path / "energy.pt"), sk.Potential)


def test_refused(tmp_path: Path) -> None:
    for mean, std in (([1.0], [0.0]), ([1.0], [1.0, 2.0]), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="mean must be finite and std positive, of equal lengths"):
            sk.Normalized(small(), mean=mean, std=std)
    with pytest.raises(ValueError, match=r"model must be one of symkern.models .* got Linear"):
        sk.Normalized(torch.nn.Linear(1, 1), mean=0.0, std=1.0).save(tmp_path / "x.pt")
    with pytest.raises(TypeError, match="name must be a string, one target"):
        training.Property(["homo", "lumo"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"train must be a source of batches .* got Dataset: take its loader\(cutoff\)"):
        training.fit(small(), training.Property("gap"), dimers(), None, training.Settings(epochs=1))  # type: ignore[arg-type]
