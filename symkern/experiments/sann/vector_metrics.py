"""Distances between predicted and labelled vectors of molecules, with and without the symmetric minimum.

All are sums over the atoms of a molecule of squared distances. "cd" is the Chamfer distance from predictions to labels
and "cd-reverse" that from labels to predictions; "sbcd" and "sbcd-reverse" are their minima over the operations g of
the molecule, applied to the labels. Chamfer distances compare each row with the nearest row of any atom. "matched" is
the minimum over g of the squared error of each atom against the label of its own, and so zero for right answers alone.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from symkern.ops.chamfer import chamfer
from symkern.ops.symmetric_action import Kind
from symkern.ops.symmetric_chamfer import symmetric_chamfer
from symkern.ops.symmetric_mse import symmetric_mse
from symkern.stabilizer import Stabilizers

METRICS: dict[str, Callable[[Tensor, Tensor, Stabilizers, Kind], Tensor]] = {
    "cd": lambda x, y, sym, _: chamfer(x, y, x_ptr=sym.ptr, y_ptr=sym.ptr),
    "cd-reverse": lambda x, y, sym, _: chamfer(x, y, x_ptr=sym.ptr, y_ptr=sym.ptr, direction="y_to_x"),
    "sbcd": lambda x, y, sym, kind: symmetric_chamfer(x, y, sym, "x_to_y", kind)[0],
    "sbcd-reverse": lambda x, y, sym, kind: symmetric_chamfer(x, y, sym, "y_to_x", kind)[0],
    "matched": lambda x, y, sym, kind: symmetric_mse(x, y, sym, kind)[0],
}


def measure(metric: str, pred: Tensor, target: Tensor, sym: Stabilizers, kind: Kind = "vector") -> Tensor:
    """One metric of each molecule, (B,), in squared units of the rows; differentiable.

    Args:
        metric: a key of `METRICS`.
        pred, target: (N, 3) float32 or float64.
        sym: stabilizers of the molecules.
        kind: "vector", "pseudovector" or "point".

    Raises:
        ValueError: an unknown metric, and what `symkern.symmetric_mse` and its kin raise.

    Source: Learning Molecular Symmetry Breaking via Symmetry-Adapted Neural Networks, eq. (3) and section 5.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    return METRICS[metric](pred, target, sym, kind)


def means(pred: Tensor, target: Tensor, sym: Stabilizers, kind: Kind = "vector") -> dict[str, float]:
    """Mean over molecules of every metric, computed in float64."""
    rows = pred.detach().double(), target.detach().double()
    return {name: float(measure(name, *rows, sym, kind).mean()) for name in METRICS}
