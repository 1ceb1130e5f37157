"""Features of the ComENet of DIG (github.com/divelab/DIG), the implementation of its authors, for tests without it.

    python make_comenet.py FEATURES        writes comenet_dig.npz beside this file

FEATURES is dig/threedgraph/method/comenet/features.py of dive-into-graphs 1.1.0. It needs SymPy and SciPy. All in fp64,
but for the roots of the spherical Bessel functions, which it rounds to fp32. The archive holds d, theta, phi, tau, and
torsion (E, L^2 R) and angle (E, L R), in the order of its columns: by l, then m = 0, 1 .. l, -l .. -1, then n.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

EDGES, SPHERICAL, RADIAL, CUTOFF = 24, 5, 3, 8.0


def load(path: Path) -> ModuleType:
    np.math = math  # type: ignore[attr-defined]  # which it expects of NumPy
    for name in ("torch_geometric", "torch_geometric.nn", "torch_geometric.nn.models"):
        sys.modules[name] = ModuleType(name)
    schnet = ModuleType("torch_geometric.nn.models.schnet")
    schnet.GaussianSmearing = None  # type: ignore[attr-defined]  # imported, not used
    sys.modules[schnet.__name__] = schnet
    spec = importlib.util.spec_from_file_location("comenet_features", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("features", type=Path)
    features = load(parser.parse_args().features)
    random = torch.Generator().manual_seed(0)
    d, theta, phi, tau = torch.rand((4, EDGES), generator=random, dtype=torch.float64)
    d, theta = 0.8 + 1.2 * CUTOFF * d, math.pi * theta
    phi, tau = math.pi * (2 * phi - 1), math.pi * (2 * tau - 1)
    arrays = {
        "torsion": features.torsion_emb(RADIAL, SPHERICAL, CUTOFF)(d, theta, phi),
        "angle": features.angle_emb(RADIAL, SPHERICAL, CUTOFF)(d, tau),
    } | {"d": d, "theta": theta, "phi": phi, "tau": tau}
    numbers = {name: value.numpy() for name, value in arrays.items()}
    np.savez_compressed(Path(__file__).with_name("comenet_dig.npz"), **numbers)


if __name__ == "__main__":
    main()
