"""PaiNN equals SchNetPack's (vectors/make_painn.py recorded it) and takes over its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from symkern.models import PaiNN

VECTORS = Path(__file__).resolve().parent / "vectors" / "painn_schnetpack.npz"


class Case:
    """Setting of `from_schnetpack`, state dict, arguments and outputs of one model."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        self.setting: dict[str, Any] = json.loads(str(arrays["setting"]))
        self.state, self.input, self.output = (
            {k.removeprefix(f"{kind}/"): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(f"{kind}/")}
            for kind in ("state", "input", "output")
        )

    def double(self) -> dict[str, Tensor]:
        return {key: value.double() for key, value in self.state.items()}

    def arguments(self, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        return {key: v.to(dtype) if v.is_floating_point() else v for key, v in self.input.items()}


def read() -> dict[str, Case]:
    with np.load(VECTORS, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    names = sorted({key.split("/")[0] for key in arrays})
    return {
        name: Case({key.removeprefix(f"{name}/"): v for key, v in arrays.items() if key.startswith(f"{name}/")})
        for name in names
    }


CASES = read()
ENERGY = CASES["energy"].state


@pytest.mark.parametrize(("single", "tolerance"), [(False, 1e-11), (True, 1e-5)], ids=["fp64", "fp32"])
@pytest.mark.parametrize("name", CASES)
def test_equals_schnetpack(name: str, single: bool, tolerance: float) -> None:
    case = CASES[name]
    model = PaiNN.from_schnetpack(case.state if single else case.double(), **case.setting)
    arguments = case.arguments(torch.float32 if single else torch.float64)
    arguments["pos"] = arguments["pos"].clone().requires_grad_()
    found = dict(zip(("q", "mu"), model.encode(**arguments), strict=True))
    if "out" in case.output:
        expected = case.output["out"]
        out = model(**arguments)
        found["out"] = out.squeeze(1) if expected.dim() == 1 else out
    loss = sum(y.square().sum() for y in found.values())
    assert isinstance(loss, Tensor)
    (found["grad_pos"],) = torch.autograd.grad(loss, arguments["pos"])
    for key, value in found.items():
        expected = case.output[f"single_{key}" if single else key]
        assert value.dtype == expected.dtype
        atol = tolerance * float(expected.abs().max())
        torch.testing.assert_close(value.detach(), expected, rtol=tolerance, atol=atol)


def test_settings_follow_from_the_keys() -> None:
    config = PaiNN.from_schnetpack(ENERGY).config
    assert (config["hidden"], config["num_layers"], config["num_basis"], config["cutoff"]) == (8, 2, 6, 3.3)
    assert (config["kind"], config["shared_filters"], config["trainable_basis"]) == ("gaussian", False, False)
    case = CASES["bessel_shared"]
    config = PaiNN.from_schnetpack(case.state, **case.setting).config
    assert (config["kind"], config["shared_filters"], config["head_hidden"]) == ("bessel", True, [5, 4])
    assert PaiNN.from_schnetpack(CASES["nuclear"].state).config["max_z"] == 100
    assert PaiNN.from_schnetpack(CASES["centered"].state).config["trainable_basis"]


@pytest.mark.parametrize("name", CASES)
def test_config_rebuilds_the_model(name: str) -> None:
    case = CASES[name]
    model = PaiNN.from_schnetpack(case.double(), **case.setting)
    again = PaiNN(**json.loads(json.dumps(model.config))).double()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(**case.arguments()), model(**case.arguments()))


def test_prefixes_of_a_task_and_of_none() -> None:
    case = CASES["energy"]
    expected = PaiNN.from_schnetpack(case.state)(**case.arguments(torch.float32))
    task = {f"model.{key}": value for key, value in case.state.items()}
    assert torch.equal(PaiNN.from_schnetpack(task)(**case.arguments(torch.float32)), expected)
    bare = {key.removeprefix("representation."): value for key, value in case.state.items()}
    assert torch.equal(PaiNN.from_schnetpack(bare)(**case.arguments(torch.float32)), expected)


def test_one_of_several_output_modules() -> None:
    case = CASES["dipole"]
    second = {k.replace("output_modules.0", "output_modules.1"): v for k, v in ENERGY.items() if "output_modules" in k}
    both = {**case.state, **second}
    with pytest.raises(ValueError, match="output must be the number of one output module, got None for"):
        PaiNN.from_schnetpack(both)
    with pytest.raises(ValueError, match="output must be the number of one output module, got 7 for"):
        PaiNN.from_schnetpack(both, output=7)
    assert PaiNN.from_schnetpack(both, output=1)(**case.arguments(torch.float32)).shape == (4, 1)
    dipole = PaiNN.from_schnetpack(both, output=0, head="dipole")(**case.arguments(torch.float32))
    assert torch.equal(dipole, PaiNN.from_schnetpack(case.state, head="dipole")(**case.arguments(torch.float32)))


def test_a_representation_gets_a_new_head() -> None:
    case = CASES["shared_interactions"]
    model = PaiNN.from_schnetpack(case.state, head="vector")
    assert model(**case.arguments(torch.float32)).shape == (len(case.input["z"]), 3)


def with_new(**entries: tuple[int, ...]) -> dict[str, Tensor]:
    return {**ENERGY, **{key.replace("__", "."): torch.zeros(shape) for key, shape in entries.items()}}


def without(*parts: str) -> dict[str, Tensor]:
    return {key: value for key, value in ENERGY.items() if not any(part in key for part in parts)}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "one PaiNN of SchNetPack, but has 0 filter_net.weight; it holds nothing"),
        (with_new(other__filter_net__weight=(2, 2)), "has 2 filter_net.weight"),
        (without("embedding"), "has no embedding.weight"),
        (without("cutoff_fn"), "has no cutoff_fn.cutoff"),
        (without("radial_basis"), "has no radial_basis.widths"),
        (without("interactions.0"), r"without a gap, got \[1\]"),
        (without("mixing.1.mu_channel_mix"), "missing mixing.1.mu_channel_mix.weight"),
        (without("interactions.1.interatomic_context_net.0.bias"), "missing interactions.1.interatomic_context_net.0"),
        (without("outnet.0.bias"), "has no 0.bias"),
        (without("outnet.0.weight"), "missing outnet.0.weight"),
        (with_new(representation__mixing__0__more=(2,)), "unknown representation.mixing.0.more"),
        (with_new(representation__mixing__0__mu_channel_mix__weight=(16, 9)), r"shape \(16, 9\) instead of \(16, 8\)"),
        (
            with_new(representation__filter_net__weight=(25, 6)),
            "must have 48 rows .* or 24 in filter_net.weight, got 25",
        ),
        (with_new(representation__embedding__weight=(8,)), "must have 2 axes in embedding.weight"),
        (with_new(representation__cutoff_fn__eps=(1,)), "MollifierCutoff"),
        (with_new(representation__electronic_embeddings__0__linear_q__weight=(8, 8)), "electronic_embeddings"),
        (with_new(postprocessors__0__mean=(1,)), "without postprocessors, got postprocessors.0.mean"),
        (with_new(outputs__0__weight=(1,)), "a representation and output modules only, got outputs.0.weight"),
    ],
)
def test_a_state_dict_of_another_model_is_refused(state: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PaiNN.from_schnetpack(state)


def test_other_mistakes() -> None:
    with pytest.raises(TypeError, match="state_dict must map"):
        PaiNN.from_schnetpack({"filter_net.weight": 1.0})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r'give checkpoint\["state_dict"\]'):
        PaiNN.from_schnetpack({"epoch": 3, "state_dict": ENERGY})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="head must be one of vector, dipole, polarizability for a state_dict"):
        PaiNN.from_schnetpack(CASES["dipole"].state)
    with pytest.raises(ValueError, match="head must be 'scalar' for a state_dict whose output module has no vectors"):
        PaiNN.from_schnetpack(ENERGY, head="dipole")
    with pytest.raises(ValueError, match="head must be one of scalar, vector, dipole"):
        PaiNN.from_schnetpack(CASES["epsilon"].state, head="energy")
