"""The recorded outputs of PyTorch Geometric's models (vectors/make_pyg.py wrote them)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

_FOLDER = Path(__file__).resolve().parent / "vectors"


class RecordedModule(SimpleNamespace):
    """Looks like the PyG module that was recorded, as far as a conversion of its weights can tell."""

    state: dict[str, Tensor]

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.state)


@dataclass(frozen=True)
class Recorded:
    """What one module made of some molecules, in fp64.

    Attributes:
        module: its weights and settings.
        z, pos, batch: (N,), (N, 3) Å, (N,).
        out, forces: (B, 1) and (N, 3), of PyG as it is.
        out_exact, forces_exact: the same with PyG's constants in fp64: whatever the dtype of the model, it rounds to
            fp32 the roots of the spherical Bessel functions (DimeNet++), ln 2 and the centers (SchNet).
    """

    module: RecordedModule
    z: Tensor
    pos: Tensor
    batch: Tensor
    out: Tensor
    forces: Tensor
    out_exact: Tensor
    forces_exact: Tensor


def read(model: str) -> dict[str, Recorded]:
    """The cases of "dimenet" or "schnet" by name.

    The archive holds z, pos, batch and for each case <case>/attributes (JSON), <case>/state/<name of a parameter>,
    <case>/out, forces, out_exact, forces_exact.
    """
    with np.load(_FOLDER / f"{model}_pyg.npz", allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    systems = [torch.from_numpy(arrays[key]) for key in ("z", "pos", "batch")]
    cases = {}
    for name in sorted({key.split("/")[0] for key in arrays if "/" in key}):
        found = {key.removeprefix(f"{name}/"): value for key, value in arrays.items() if key.startswith(f"{name}/")}
        module = RecordedModule(**_attributes(json.loads(str(found["attributes"]))))
        module.state = {
            key.removeprefix("state/"): torch.from_numpy(value)
            for key, value in found.items()
            if key.startswith("state/")
        }
        results = [torch.from_numpy(found[key]) for key in ("out", "forces", "out_exact", "forces_exact")]
        cases[name] = Recorded(module, *systems, *results)
    return cases


def _attributes(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: SimpleNamespace(**_attributes(v)) if isinstance(v, dict) else v for key, v in tree.items()}
