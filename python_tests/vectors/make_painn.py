"""Outputs and gradients of SchNetPack's PaiNN, the implementation of its authors, for tests without it.

    pip install --no-deps --target FOLDER schnetpack==2.1.1
    python make_painn.py FOLDER         writes painn_schnetpack.npz beside this file

Only the modules that the networks are made of are imported; the package itself would want ASE, matscipy, Lightning and
more. The archive holds for each case <case>/setting (JSON: arguments of `PaiNN.from_schnetpack`), state/<parameter>,
input/<name> and output/<name>: q, mu, out and grad_pos of the sum of all their squares, in fp64 with the initial
constants of the basis in fp64 too, and single_<name>, the same in fp32 as it comes. Weights are random, larger than the
initial ones; embeddings of elements that do not occur are 0.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import ase.build
import numpy as np
import torch
from ase.neighborlist import neighbor_list
from torch import Tensor, nn

HIDDEN, CUTOFF, BASIS = 8, 3.3, 6
EXPECTED = "2.1.1"


def modules(folder: Path) -> types.SimpleNamespace:
    """The parts of SchNetPack, without running the `__init__` of the packages that hold them."""
    for name in ("schnetpack", "schnetpack.atomistic", "schnetpack.representation", "schnetpack.model"):
        package = types.ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = package
    package = sys.modules["schnetpack"]
    # what else schnetpack.model.base names at its top
    transform, utils = types.ModuleType("schnetpack.transform"), types.ModuleType("schnetpack.utils")
    transform.Transform, utils.as_dtype = nn.Module, lambda name: getattr(torch, name)  # type: ignore[attr-defined]
    sys.modules |= {transform.__name__: transform, utils.__name__: utils}
    package.__version__ = EXPECTED  # type: ignore[attr-defined]
    sys.path.insert(0, str(folder))
    found = {}
    for name in ("nn", "properties", "representation.painn", "atomistic.atomwise", "atomistic.distances", "model.base"):
        module = importlib.import_module(f"schnetpack.{name}")
        found[name.replace(".", "_")] = module
        setattr(package, name.split(".")[0], sys.modules[f"schnetpack.{name.split('.')[0]}"])
    return types.SimpleNamespace(**found)


def molecules() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    frames = [ase.build.molecule(name) for name in ("CH3CH2OH", "H2O", "C2H2", "NH3")]
    for atoms in frames:
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        atoms.pbc = False
    return system(frames)


def crystal() -> dict[str, Any]:
    """Smaller than the cutoff: atoms see images of themselves."""
    atoms = ase.build.bulk("NaCl", "rocksalt", a=4.4)
    atoms.rattle(0.2, seed=1)
    return system([atoms])


def system(frames: list[Any]) -> dict[str, Any]:
    sizes = np.array([len(atoms) for atoms in frames])
    receivers, senders, offsets = [], [], []
    for atoms, first in zip(frames, np.cumsum(sizes) - sizes, strict=True):
        i, j, shift = neighbor_list("ijS", atoms, CUTOFF)
        receivers.append(i + first)
        senders.append(j + first)
        offsets.append(shift @ atoms.cell.array)
    made = {
        "z": np.concatenate([atoms.numbers for atoms in frames]),
        "pos": np.concatenate([atoms.positions for atoms in frames]),
        "batch": np.repeat(np.arange(len(frames)), sizes),
        "idx_i": np.concatenate(receivers),
        "idx_j": np.concatenate(senders),
        "offsets": np.concatenate(offsets),
        "n_atoms": sizes,
    }
    if len(frames) == 1:
        made["cell"] = frames[0].cell.array
    return {key: torch.from_numpy(value) for key, value in made.items()}


def cases(spk: types.SimpleNamespace) -> dict[str, tuple[dict[str, Any], nn.Module, bool]]:
    """Settings of `from_schnetpack`, the model (a bare representation in one case), and whether it sees the crystal."""
    parts, heads = spk.nn, spk.atomistic_atomwise
    gaussian = parts.GaussianRBF(BASIS, CUTOFF)

    def representation(basis: nn.Module = gaussian, **options: Any) -> nn.Module:
        made: nn.Module = spk.representation_painn.PaiNN(HIDDEN, 2, basis, parts.CosineCutoff(CUTOFF), **options)
        return made

    def whole(rep: nn.Module, *outputs: nn.Module) -> nn.Module:
        distances = spk.atomistic_distances.PairwiseDistances()
        made: nn.Module = spk.model_base.NeuralNetworkPotential(rep, [distances], list(outputs))
        return made

    bessel = parts.BesselRBF(BASIS, CUTOFF)
    averaged = heads.Atomwise(HIDDEN, n_layers=3, n_hidden=[5, 4], aggregation_mode="avg")
    dipole = heads.DipoleMoment(HIDDEN, use_vector_representation=True, dipole_key="y")
    polarizability = heads.Polarizability(HIDDEN, n_layers=3, polarizability_key="y")
    centered = parts.GaussianRBFCentered(BASIS, CUTOFF, start=0.5)
    nuclear = parts.NuclearEmbedding(101, HIDDEN, zero_init=False)
    return {
        "energy": ({}, whole(representation(), heads.Atomwise(HIDDEN)), False),
        "crystal": ({}, whole(representation(), heads.Atomwise(HIDDEN)), True),
        "bessel_shared": ({"readout": "mean"}, whole(representation(bessel, shared_filters=True), averaged), False),
        "shared_interactions": ({}, representation(shared_interactions=True), False),
        "dipole": ({"head": "dipole"}, whole(representation(), dipole), False),
        "polarizability": ({"head": "polarizability"}, whole(representation(bessel), polarizability), False),
        "centered": ({}, whole(representation(centered), heads.Atomwise(HIDDEN, n_out=2)), False),
        "nuclear": ({}, whole(representation(nuclear_embedding=nuclear), heads.Atomwise(HIDDEN)), False),
        "epsilon": ({"epsilon": 0.01}, representation(epsilon=0.01), True),
    }


def exact(module: nn.Module) -> nn.Module:
    """In fp64, with constants that are not rounded to fp32 first."""
    module = module.double()
    basis = next(part for name, part in module.named_modules() if name.endswith("radial_basis"))
    if hasattr(basis, "freqs"):
        basis.freqs = torch.arange(1, BASIS + 1) * math.pi / CUTOFF
    elif type(basis).__name__ == "GaussianRBF":  # others keep what their state dict says
        basis.offsets = torch.linspace(0.0, CUTOFF, BASIS)
        basis.widths = (basis.offsets[1] - basis.offsets[0]).expand(BASIS).clone()
    for part in module.modules():
        if type(part).__name__ == "CosineCutoff":
            part.cutoff = torch.tensor([CUTOFF])
    return module


def evaluate(spk: types.SimpleNamespace, module: nn.Module, given: dict[str, Any]) -> dict[str, Tensor]:
    names, dtype = spk.properties, next(module.parameters()).dtype
    torch.set_default_dtype(dtype)  # its vectors start as zeros of the default dtype
    module.eval()  # a NuclearEmbedding makes its table here
    pos = given["pos"].to(dtype).clone().requires_grad_()
    # the transform SubtractCenterOfGeometry: its polarizability depends on the origin
    count = given["n_atoms"].to(dtype).unsqueeze(1)
    centroids = torch.zeros(len(count), 3).index_add(0, given["batch"], pos) / count
    inputs = {names.Z: given["z"], names.R: pos - centroids[given["batch"]], names.idx_m: given["batch"]}
    inputs |= {names.n_atoms: given["n_atoms"]}
    inputs |= {names.idx_i: given["idx_i"], names.idx_j: given["idx_j"], names.offsets: given["offsets"].to(dtype)}
    inputs = spk.atomistic_distances.PairwiseDistances()(inputs)
    rep = getattr(module, "representation", module)
    inputs = rep(inputs)
    found = {"q": inputs["scalar_representation"], "mu": inputs["vector_representation"]}
    if rep is not module:
        for output in module.output_modules:
            inputs = output(inputs)
        found["out"] = inputs["y"]
    (found["grad_pos"],) = torch.autograd.grad(sum(y.square().sum() for y in found.values()), pos)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    if not (folder / f"schnetpack-{EXPECTED}.dist-info").is_dir():
        parser.error(f"{folder} must hold schnetpack {EXPECTED}")
    spk = modules(folder)
    torch.manual_seed(0)
    arrays: dict[str, Any] = {}
    for name, (setting, module, periodic) in cases(spk).items():
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.4)
        given = crystal() if periodic else molecules()
        absent = torch.ones(101, dtype=torch.bool).index_fill(0, given["z"], False)
        for key, parameter in module.named_parameters():
            if key.endswith(("embedding.weight", "element_embedding")):
                parameter.data[absent[: len(parameter)]] = 0
        single = evaluate(spk, module.float(), given)
        state = {key: value.clone() for key, value in module.state_dict().items()}
        torch.set_default_dtype(torch.float64)
        outputs = evaluate(spk, exact(module), given)
        outputs |= {f"single_{key}": value for key, value in single.items()}
        inputs = {key: given[key] for key in ("z", "pos", "batch", "cell") if key in given}
        arrays[f"{name}/setting"] = json.dumps(setting)
        for kind, tensors in (("state", state), ("input", inputs), ("output", outputs)):
            arrays |= {f"{name}/{kind}/{key}": value.detach().numpy() for key, value in tensors.items()}
    np.savez_compressed(Path(__file__).resolve().parent / "painn_schnetpack.npz", **arrays)


if __name__ == "__main__":
    main()
