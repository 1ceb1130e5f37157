"""Radial bases as modules, with fixed or learned parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from symkern.nn.basic import check_positive
from symkern.ops.radial_basis import defaults, radial_basis


class RadialBasis(nn.Module):
    """`symkern.radial_basis` with its settings, and if wanted its parameters, kept.

    Args:
        num_basis: K.
        cutoff: Å.
        kind, envelope, exponent: see `symkern.radial_basis`.
        trainable: learn the centers and gamma (gaussian, expnorm) or the frequencies (bessel), which start at the
            defaults of `symkern.radial_basis`.

    Raises:
        ValueError: a setting out of range.
    """

    centers: Tensor | None
    gamma: Tensor | None
    frequencies: Tensor | None

    def __init__(
        self,
        num_basis: int,
        cutoff: float,
        *,
        kind: str = "gaussian",
        envelope: str = "cosine",
        exponent: int = 6,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        check_positive(num_basis=num_basis, cutoff=cutoff)
        self.num_basis, self.cutoff = num_basis, cutoff
        self.kind, self.envelope, self.exponent = kind, envelope, exponent
        radial_basis(torch.zeros(0), cutoff, num_basis, kind=kind, envelope=envelope, exponent=exponent)  # its checks
        start = defaults(cutoff, num_basis, kind) if trainable else {}
        for name in ("centers", "gamma", "frequencies"):
            value = start.get(name)
            self.register_parameter(name, None if value is None else nn.Parameter(value.to(torch.get_default_dtype())))

    def forward(self, d: Tensor) -> Tensor:
        """(E,) distances in Å to (E, K)."""
        return radial_basis(
            d,
            self.cutoff,
            self.num_basis,
            kind=self.kind,
            envelope=self.envelope,
            exponent=self.exponent,
            centers=self.centers,
            gamma=self.gamma,
            frequencies=self.frequencies,
        )

    def extra_repr(self) -> str:
        learned = ", trainable" if any(True for _ in self.parameters()) else ""
        return f"{self.num_basis}, cutoff={self.cutoff:g} Å, {self.kind}, {self.envelope}{learned}"


def cosine_cutoff(d: Tensor, cutoff: float) -> Tensor:
    """(1 + cos(pi d / cutoff)) / 2, and 0 from the cutoff on: a basis of the constant 1. (E,) to (E, 1)."""
    return radial_basis(d, cutoff, 1, kind="gaussian", envelope="cosine", gamma=0.0)
