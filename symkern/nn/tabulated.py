"""A continuous-filter convolution whose filter network has become a table."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp

from symkern._check import same_precision
from symkern._reference import reference_mode
from symkern.neighbors import Neighbors, check_neighbors
from symkern.nn.basic import check_dtype, check_features, check_positive
from symkern.ops.filter_table import interpolate, tabulated_cfconv

_FEWEST, _MOST = 17, 65537  # knots
_CHECKS = 8  # points per interval where the table is compared
_BETWEEN = 1.1  # the most that the error between them can exceed that at them, while F's sixth derivative varies little


class TabulatedCFConv(nn.Module):
    """`CFConv` with its filter in a table: for inference and dynamics. Made by `CFConv.tabulate`.

    h_i' = B sum_j (A h_j) * F(d_ij), with F interpolated by quintics through exact values and first and second
    derivatives at equal steps: forces follow the energy exactly, and their derivatives are continuous.

    Attributes:
        cutoff: Å.
        error: bounds of |F - W u| over all channels and distances, relative to the largest |W u|, and the same for
            dF/dd. Measured at 8 distances of every interval, in the precision of the table, with a tenth added for the
            distances between them.
        largest: the largest |W u|, and |d(W u)/dd| in Å^-1.
        knots: how many.
        table: (knots, 3, num_filters) see `symkern.tabulated_cfconv`; a constant.
        input, output: the layers A and B.
    """

    table: Tensor

    def __init__(
        self,
        table: Tensor,
        cutoff: float,
        input: nn.Linear,  # the name it has in CFConv
        output: nn.Linear,
        error: tuple[float, float],
        largest: tuple[float, float],
    ) -> None:
        super().__init__()
        self.cutoff, self.error, self.largest = float(cutoff), error, largest
        self.input, self.output = input, output
        self.register_buffer("table", table)

    @property
    def knots(self) -> int:
        return self.table.shape[0]

    def forward(self, h: Tensor, d: Tensor, nb: Neighbors) -> Tensor:
        """One convolution: arguments, result and errors as `CFConv`, but that `d` must not be negative or infinite."""
        check_neighbors(nb)
        check_features("h", h, nb.num_nodes, self.input.in_features)
        check_features("d", d, nb.num_edges)
        check_dtype(self.input.weight.dtype, h=h, d=d)
        x, d = same_precision(self.input(h), d)  # as in CFConv
        out: Tensor = self.output(tabulated_cfconv(x, d, nb, self.cutoff, self.table.to(_working(x.dtype))))
        return out

    def extra_repr(self) -> str:
        value, slope = self.error
        return f"cutoff={self.cutoff:g} Å, {self.knots} knots, error {value:.1e} of values and {slope:.1e} of slopes"


def _working(dtype: torch.dtype) -> torch.dtype:
    """What the op computes in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def tabulate(
    network: nn.Module, cutoff: float, parameters: torch.dtype, tolerance: float, slope_tolerance: float
) -> tuple[Tensor, tuple[float, float], tuple[float, float]]:
    """Table, errors and largest values of the filter ``network(d)`` (E,) to (E, F) times the cosine cutoff.

    Raises:
        ValueError: tolerances that are not positive, or that no table of a sensible size reaches in the precision of
            the `parameters`.
    """
    check_positive(tolerance=tolerance, slope_tolerance=slope_tolerance)
    dtype = _working(parameters)
    exact = copy.deepcopy(network).double().requires_grad_(False)
    knots, best = _FEWEST, (math.inf, math.inf)
    while knots <= _MOST:
        table = _table(exact, cutoff, knots).to(dtype)
        error, largest = _error(exact, cutoff, table)
        if error[0] <= tolerance and error[1] <= slope_tolerance:
            return table, error, largest
        best = min(best[0], error[0]), min(best[1], error[1])
        # values improve with the sixth power of the step, slopes with the fifth; rounding ends that
        ratio = max((error[0] / tolerance) ** (1 / 6), (error[1] / slope_tolerance) ** (1 / 5))
        knots = math.ceil((knots - 1) * min(max(1.05 * ratio, 1.1), 2)) + 1
    raise ValueError(
        f"tolerance and slope_tolerance must be within reach of {str(dtype)[6:]}, where the best errors are "
        f"{best[0]:.1e} and {best[1]:.1e}, got {tolerance:g} and {slope_tolerance:g}"
    )


def _derivatives(network: nn.Module, cutoff: float, d: Tensor, order: int) -> list[Tensor]:
    """W u and its first one or two derivatives at distances up to the cutoff, there those from below."""
    one = torch.ones_like(d)

    def slope(x: Tensor) -> Any:
        return jvp(network, (x,), (one,))

    w: Tensor
    dw: Tensor
    ddw: Tensor | None = None
    with torch.no_grad(), reference_mode():
        if order > 1:
            twice: Any = jvp(slope, (d,), (one,))
            (w, dw), (_, ddw) = twice
        else:
            w, dw = slope(d)
    phase = (math.pi / cutoff) * d.unsqueeze(1)
    u, du = (1 + torch.cos(phase)) / 2, -(math.pi / cutoff) / 2 * torch.sin(phase)
    found = [w * u, dw * u + w * du]
    if ddw is not None:
        found.append(ddw * u + 2 * dw * du - (math.pi / cutoff) ** 2 / 2 * torch.cos(phase) * w)
    return found


def _table(network: nn.Module, cutoff: float, knots: int) -> Tensor:
    step = cutoff / (knots - 1)
    device = next(network.parameters()).device
    d = torch.linspace(0, cutoff, knots, dtype=torch.float64, device=device)
    values, slopes, bends = _derivatives(network, cutoff, d, 2)
    # u and its slope are zero at the cutoff, up to rounding
    values[-1], slopes[-1] = 0, 0
    return torch.stack([values, step * slopes, step**2 * bends], 1)


def _error(network: nn.Module, cutoff: float, table: Tensor) -> tuple[tuple[float, float], tuple[float, float]]:
    """Bounds of the errors of values and slopes relative to the largest of each, and the latter."""
    points = (table.shape[0] - 1) * _CHECKS
    worst, largest = [0.0, 0.0], [0.0, 0.0]
    for number in torch.arange(points, device=table.device).split(16384):
        d = ((number + 0.5) * (cutoff / points)).to(table.dtype)
        expected = _derivatives(network, cutoff, d.double(), 1)
        found = jvp(lambda x: interpolate(x, cutoff, table), (d,), (torch.ones_like(d),))
        for k in range(2):
            worst[k] = max(worst[k], _BETWEEN * float((found[k].double() - expected[k]).abs().max()))
            largest[k] = max(largest[k], float(expected[k].abs().max()))
    tiny = torch.finfo(torch.float64).tiny
    return (worst[0] / max(largest[0], tiny), worst[1] / max(largest[1], tiny)), (largest[0], largest[1])
