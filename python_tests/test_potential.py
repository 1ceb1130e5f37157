"""Potential: reference energies, scale, unit, and its file; energy_and_forces' own errors."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import symkern as sk
from symkern.models import PaiNN, SchNet
from symkern.saved import ModelFileError

Z = torch.tensor([8, 1, 1, 6, 1])
POS = torch.tensor([[0.0, 0, 0], [0.9, 0.1, 0], [-0.3, 0.9, 0], [0, 0, 0], [1.0, 0.2, 0.3]])
BATCH = torch.tensor([0, 0, 0, 1, 1])


def small() -> SchNet:
    torch.manual_seed(0)
    return SchNet(1, 8, 8, 1, 5, 3.0)


class Set:
    """What `Potential.fit` reads of a dataset."""

    def __init__(self, z: Tensor, ptr: Tensor, energy: Tensor | None, forces: Tensor | None = None) -> None:
        self.z, self.ptr, self.energy_unit = z, ptr, "kcal/mol"
        self.per_structure = {} if energy is None else {"energy": energy}
        self.per_atom = {} if forces is None else {"forces": forces}


def test_energy_is_references_plus_scaled_output() -> None:
    model = small()
    potential = sk.Potential(model, references={1: -13.5, 6: -1030.0, 8: -2040.0}, scale=0.25, energy_unit="eV")
    expected = 0.25 * model(Z, POS, BATCH).double() + torch.tensor([[-2067.0], [-1043.5]], dtype=torch.float64)
    found = potential(Z, POS, BATCH)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-15, atol=0)
    forces = sk.energy_and_forces(potential, Z, POS, BATCH)[1]
    torch.testing.assert_close(forces, 0.25 * sk.energy_and_forces(model, Z, POS, BATCH)[1])


def test_large_energies_keep_their_digits() -> None:
    """fp32 resolves 97,000 only to 0.008; neither the sum nor a cast of the module may round."""
    potential = sk.Potential(small(), references={1: -500.123456789, 6: -23_950.987654321, 8: -47_000.111111111})
    for cast in (nn.Module.float, nn.Module.half, nn.Module.double):
        cast(potential)
        assert potential.table is not None
        assert potential.table[8] == -47_000.111111111


def test_fit_recovers_reference_energies() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(2, 9, (40,), generator=generator)
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    z = torch.tensor([1, 6, 8])[torch.randint(0, 3, (int(ptr[-1]),), generator=generator)]
    true = {1: -300.0, 6: -24_000.0, 8: -47_000.0}
    energy = torch.tensor(
        [sum(true[int(k)] for k in z[a:b]) for a, b in itertools.pairwise(ptr.tolist())], dtype=torch.float64
    )
    noise = torch.randn(40, generator=generator, dtype=torch.float64)
    forces = 3.0 * torch.ones(int(ptr[-1]), 3)
    potential = sk.Potential.fit(small(), Set(z, ptr, energy + 0.01 * noise, forces))  # type: ignore[arg-type]
    assert potential.references == pytest.approx(true, rel=1e-5)
    assert potential.scale == pytest.approx(3.0)
    assert potential.energy_unit == "kcal/mol"
    given = sk.Potential.fit(small(), Set(z, ptr, energy + 2.0 * noise), references=true)  # type: ignore[arg-type]
    assert given.references == true
    assert given.scale == pytest.approx(2.0 * float(noise.std(correction=0)), rel=1e-6)


def test_fit_to_frames_of_one_molecule() -> None:
    """The compositions are all the same: any solution has to give the mean energy."""
    z, ptr = torch.tensor([8, 1, 1] * 4), torch.arange(0, 13, 3)
    energy = torch.tensor([-10.0, -11.0, -12.0, -13.0], dtype=torch.float64)
    potential = sk.Potential.fit(small(), Set(z, ptr, energy))  # type: ignore[arg-type]
    references = potential.references
    assert references is not None
    assert references[8] + 2 * references[1] == pytest.approx(-11.5)
    assert potential.scale == pytest.approx(float(energy.std(correction=0)))


def test_round_trip(tmp_path: Path) -> None:
    potential = sk.Potential(small().double(), references={1: -1.0, 6: -2.0, 8: -3.0}, scale=2.0, energy_unit="Ha")
    potential.save(tmp_path / "potential.pt")
    again = sk.load_potential(tmp_path / "potential.pt")
    assert again.config == potential.config
    assert torch.equal(again(Z, POS.double(), BATCH), potential(Z, POS.double(), BATCH))
    assert [file.name for file in tmp_path.iterdir()] == ["potential.pt"]


def _save(path: Path, **changes: Any) -> Path:
    sk.Potential(small()).save(path)
    content = torch.load(path, weights_only=True) | changes
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "potential.pt"
    with pytest.raises(FileNotFoundError, match="no such file"):
        sk.load_potential(path)
    path.write_bytes(b"")
    with pytest.raises(ModelFileError, match=r"truncated|not made of tensors"):
        sk.load_potential(path)
    whole = _save(path).read_bytes()
    for size in (100, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelFileError, match=r"truncated|not made of tensors"):
            sk.load_potential(path)
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(ModelFileError, match="holds no model that symkern saved"):
        sk.load_potential(path)
    with pytest.raises(ModelFileError, match=r"unknown model 'Evil', known: .*SchNet"):
        sk.load_potential(_save(path, network="Evil"))
    with pytest.raises(ModelFileError, match="has version 99, this symkern reads version 1"):
        sk.load_potential(_save(path, version=99))
    with pytest.raises(ModelFileError, match="settings and weights do not fit"):
        sk.load_potential(_save(path, network_settings={"hidden": 9}))
    with pytest.raises(ModelFileError, match="settings and weights do not fit"):
        sk.load_potential(_save(path, weights=None))
    with pytest.raises(ModelFileError, match="has version None"):
        sk.load_potential(_save(path, version=None))
    with pytest.raises(ModelFileError, match="not finite"):
        sk.load_potential(_save(path, weights={k: v * math.nan for k, v in small().state_dict().items()}))
    flipped = bytearray(_save(path).read_bytes())
    at = flipped.find(small().embedding.weight[7].detach().numpy().tobytes())
    assert at > 0
    flipped[at + 5] ^= 0x40
    path.write_bytes(bytes(flipped))
    with pytest.raises(ModelFileError, match="checksum"):
        sk.load_potential(path)


class Payload:
    """Unpickling this would run code."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def test_nothing_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "symkern model", "version": 1, "kind": Payload()}, "potential.pt")
    with pytest.raises(ModelFileError, match=r"truncated|not made of tensors"):
        sk.load_potential("potential.pt")
    assert not Path("executed").exists()


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="scale must be positive"):
        sk.Potential(small(), scale=0.0)
    with pytest.raises(ValueError, match="energy_unit must be one of"):
        sk.Potential(small(), energy_unit="hartree")
    with pytest.raises(ValueError, match="references must map atomic numbers to finite energies, got 0"):
        sk.Potential(small(), references={0: 1.0})
    with pytest.raises(ValueError, match="finite energies, got 1: nan"):
        sk.Potential(small(), references={1: math.nan})
    with pytest.raises(ValueError, match=r"without a reference energy: \[6, 8\]; known: \[1\]"):
        sk.Potential(small(), references={1: 1.0})(Z, POS, BATCH)
    with pytest.raises(ValueError, match="model must give energies, not vectors"):
        sk.Potential(PaiNN(1, 8, 1, 4, head="dipole"))
    with pytest.raises(ValueError, match="model must have one output"):
        sk.Potential(SchNet(2, 8, 8, 1, 5, 3.0))(Z, POS, BATCH)
    empty = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="at least one energy"):
        sk.Potential.fit(small(), Set(empty, torch.zeros(1, dtype=torch.int64), torch.zeros(0)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one energy"):
        sk.Potential.fit(small(), Set(Z, torch.tensor([0, 3, 5]), None))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"every element of the dataset, missing: \[6, 8\]"):
        sk.Potential.fit(small(), Set(Z, torch.tensor([0, 3, 5]), torch.zeros(2)), references={1: 0.0})  # type: ignore[arg-type]


def test_energy_and_forces_refuses() -> None:
    model = small()
    with pytest.raises(ValueError, match="stress needs a cell"):
        sk.energy_and_forces(model, Z, POS, BATCH, stress=True)
    flat = torch.diag(torch.tensor([3.0, 3.0, 0.0]))
    with pytest.raises(ValueError, match="stress needs cells with a volume"):
        sk.energy_and_forces(model, Z[:3], POS[:3], cell=flat, pbc=torch.tensor([True, True, False]), stress=True)
    with pytest.raises(ValueError, match=r"one energy per structure, \(B, 1\) or \(B,\), got shape \(2, 2\)"):
        sk.energy_and_forces(SchNet(2, 8, 8, 1, 5, 3.0), Z, POS, BATCH)
    with pytest.raises(TypeError, match="model must return a tensor"):
        sk.energy_and_forces(lambda *args, **kwargs: 1.0, Z, POS, BATCH)  # type: ignore[arg-type,return-value]


def test_energy_and_forces_in_no_grad_and_detached() -> None:
    with torch.no_grad():
        energy, forces = sk.energy_and_forces(small(), Z, POS, BATCH)
    assert not energy.requires_grad
    assert not forces.requires_grad
    assert forces.abs().max() > 0


def test_energy_and_forces_in_inference_mode() -> None:
    expected = sk.energy_and_forces(small(), Z, POS, BATCH)
    model = small()
    with torch.inference_mode():
        made_inside = POS.clone()
        nb = sk.neighbor_list(made_inside, 3.0, batch=BATCH.clone())
        for arguments in ({}, {"nb": nb}):
            found = sk.energy_and_forces(model, Z.clone(), made_inside, BATCH.clone(), **arguments)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_one_energy_per_structure_not_per_atom() -> None:
    with pytest.raises(ValueError, match=r"one energy per structure, .* with B = 1, got shape \(3,\)"):
        sk.energy_and_forces(lambda z, pos, *args, **kwargs: pos.sum(1), Z[:3], POS[:3])


def test_weights_bring_scale_and_references_along() -> None:
    one = sk.Potential(small(), references={1: -1.0, 6: -2.0, 8: -3.0}, scale=2.0)
    other = sk.Potential(small(), references={1: 0.0, 6: 0.0, 8: 0.0}, scale=5.0)
    other.load_state_dict(one.state_dict())
    assert other.config == one.config
    assert torch.equal(other(Z, POS, BATCH), one(Z, POS, BATCH))


def test_energy_and_forces_reaches_the_callers_positions() -> None:
    """With create_graph the forces are a function of positions that require gradients: Hessians."""
    pos = POS.double().requires_grad_()
    _, forces = sk.energy_and_forces(small().double(), Z, pos, BATCH, create_graph=True)
    (row,) = torch.autograd.grad(forces[0, 0], pos)
    assert row.abs().max() > 0
