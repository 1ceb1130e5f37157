"""The continuous-filter convolution of SchNet."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from symkern._check import same_precision
from symkern.neighbors import Neighbors, check_neighbors
from symkern.nn.basic import ShiftedSoftplus, check_dtype, check_features, check_positive, mlp, xavier
from symkern.nn.radial import RadialBasis
from symkern.nn.tabulated import TabulatedCFConv, tabulate
from symkern.ops.cfconv import cfconv


class CFConv(nn.Module):
    """h_i' = B sum_j (A h_j) * W(d_ij) u(d_ij), with the filter W an MLP of a radial basis and u the cosine cutoff.

    The cutoff multiplies the whole filter, biases included, so that a neighbor leaves without a jump. The sum is one
    fused op, `symkern.cfconv`: no basis, filter or message of an edge is kept. Under autocast that op computes in the
    dtype of `d`, and the linear layers around it in the narrow type.
    Source: Schütt et al. (SchNet), J. Chem. Phys. 148, 241722 (2018), eq. 5-7; Behler's cutoff, J. Chem. Phys. 134,
    074106 (2011).

    Args:
        features: width of h.
        num_filters: width of the filter.
        num_basis: functions of the radial basis.
        cutoff: Å.
        kind: "gaussian" (SchNet), "bessel" or "expnorm".
        trainable_basis: learn the parameters of the basis.

    Raises:
        ValueError: a setting out of range.
    """

    def __init__(
        self,
        features: int,
        num_filters: int,
        num_basis: int,
        cutoff: float,
        *,
        kind: str = "gaussian",
        trainable_basis: bool = False,
    ) -> None:
        super().__init__()
        check_positive(features=features, num_filters=num_filters)
        self.features, self.cutoff = features, cutoff
        self.basis = RadialBasis(num_basis, cutoff, kind=kind, envelope="none", trainable=trainable_basis)
        self.filter = mlp([num_basis, num_filters, num_filters], ShiftedSoftplus)
        self.input = nn.Linear(features, num_filters, bias=False)
        self.output = nn.Linear(num_filters, features)
        for layer in (self.filter[0], self.filter[2], self.input, self.output):
            assert isinstance(layer, nn.Linear)
            xavier(layer)

    def tabulate(self, tolerance: float = 1e-5, slope_tolerance: float = 1e-4) -> TabulatedCFConv:
        """The same convolution with its filter in a table, for inference and dynamics; training does not reach it.

        Args:
            tolerance: largest error of a filter, relative to the largest value of all.
            slope_tolerance: the same for derivatives in d, which forces are made of.

        Returns:
            A module with the same call, which says how exact it is: `error`, `knots`.

        Raises:
            ValueError: tolerances that are not positive, or out of reach of the precision of the parameters.
        """
        network = nn.Sequential(self.basis, self.filter)
        dtype = self.input.weight.dtype
        with torch.autocast(self.input.weight.device.type, enabled=False):  # tables are exact
            table, error, largest = tabulate(network, self.cutoff, dtype, tolerance, slope_tolerance)
        layers = copy.deepcopy(self.input), copy.deepcopy(self.output)
        return TabulatedCFConv(table, self.cutoff, *layers, error, largest)

    def forward(self, h: Tensor, d: Tensor, nb: Neighbors) -> Tensor:
        """One convolution.

        Args:
            h: (N, features), dtype of the parameters (under autocast any).
            d: (E,) Å, distances of the edges of `nb`, as `h`; those beyond the cutoff contribute nothing.
            nb: graph.

        Returns:
            (N, features).

        Raises:
            TypeError: an argument is not a tensor, or `nb` not a graph.
            ValueError: shapes or dtypes that do not fit.
        """
        check_neighbors(nb)
        check_features("h", h, nb.num_nodes, self.features)
        check_features("d", d, nb.num_edges)
        check_dtype(self.input.weight.dtype, h=h, d=d)
        first, second, basis = self.filter[0], self.filter[2], self.basis
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        # under autocast the linear layers around it run in the narrow type, the convolution in that of d
        x, d = same_precision(self.input(h), d)
        summed = cfconv(
            x,
            d,
            nb,
            self.cutoff,
            first_weight=first.weight,
            first_bias=first.bias,
            second_weight=second.weight,
            second_bias=second.bias,
            kind=basis.kind,
            centers=basis.centers,
            gamma=basis.gamma,
            frequencies=basis.frequencies,
        )
        out: Tensor = self.output(summed)
        return out
