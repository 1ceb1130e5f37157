"""The equivariant layer of EGNN."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from symkern._check import HALF, check_tensor
from symkern.neighbors import Neighbors, check_neighbors
from symkern.nn.basic import check_choice, check_features, check_positive, mlp
from symkern.ops.edge_vectors import edge_vectors
from symkern.ops.egnn_message import egnn_message
from symkern.ops.segment_sum import segment_mean, segment_sum

_EPSILON = 1e-8


class EGNNLayer(nn.Module):
    """Satorras, Hoogeboom, Welling, ICML 2021, eq. 3 to 7: scalars h and coordinates x, equivariant under E(3).

        m_ij = phi_e(h_i, h_j, |x_i - x_j|^2, a_ij)          times phi_a(m_ij) with attention
        x_i' = x_i + C sum_j (x_i - x_j) phi_x(m_ij)         C = 1, or 1 / (neighbors of i) for aggregation="mean"
        h_i' = h_i + phi_h(h_i, sum_j m_ij)                  always a sum; h_i + only if residual
        v_i' = phi_v(h_i) v_i + C sum_j ...,  x_i' = x_i + v_i'   with velocity

    Submodules, parameter names and initialisation are those of github.com/vgsatorras/egnn (edge_mlp, node_mlp,
    coord_mlp, att_mlp, coord_mlp_vel), so that its layers load. Where that code and the paper differ, or its variants:

    - attention also scales the m_ij that move the coordinates (the paper: only those summed for h);
    - `normalize` (egnn_clean) divides x_i - x_j by its length + 1e-8, with the length detached: the gradient is then
      not the derivative of the output, and forces from it do not conserve energy. The n-body code (models/gcl.py)
      divides by length + 1 instead, which this layer does not do;
    - `tanh` bounds phi_x to (-1, 1); the `coords_range` of models/gcl.py is never used there either;
    - coordinates are averaged by default in that code and in the paper's n-body task; here the default is the sum;
    - models/gcl.py clamps each term of the coordinates' sum to +-100 "just in case"; here nothing is clamped.

    Args:
        hidden: width of h and of the messages.
        edge_attr: width of a_ij, 0 for none.
        attention: weigh messages by a sigmoid of a linear map.
        normalize: use directions instead of x_i - x_j, see above.
        tanh: bound phi_x.
        aggregation: "sum" or "mean", of the coordinates only.
        update_coordinates: False leaves x alone, and there is no coord_mlp.
        velocity: take and return velocities.
        residual: add h to its update.
        node_attr: width of attributes that phi_h sees besides h (models/gcl.py), 0 for none.

    Raises:
        ValueError: a setting out of range; velocity without update_coordinates.
    """

    def __init__(
        self,
        hidden: int,
        *,
        edge_attr: int = 0,
        attention: bool = False,
        normalize: bool = False,
        tanh: bool = False,
        aggregation: str = "sum",
        update_coordinates: bool = True,
        velocity: bool = False,
        residual: bool = True,
        node_attr: int = 0,
    ) -> None:
        super().__init__()
        check_positive(hidden=hidden)
        check_choice("aggregation", aggregation, ("sum", "mean"))
        for name, width in (("edge_attr", edge_attr), ("node_attr", node_attr)):
            if width < 0:
                raise ValueError(f"{name} must be a width of 0 or more, got {width}")
        if velocity and not update_coordinates:
            raise ValueError("velocity needs update_coordinates: velocities only act on coordinates")
        self.hidden, self.edge_attr, self.node_attr = hidden, edge_attr, node_attr
        self.attention, self.normalize, self.aggregation = attention, normalize, aggregation
        self.update_coordinates, self.velocity, self.residual = update_coordinates, velocity, residual
        # made in the order of the original, so that the same seed gives the same weights
        self.edge_mlp = nn.Sequential(*mlp([2 * hidden + 1 + edge_attr, hidden, hidden], nn.SiLU), nn.SiLU())
        self.node_mlp = mlp([2 * hidden + node_attr, hidden, hidden], nn.SiLU)
        if update_coordinates:
            last = nn.Linear(hidden, 1, bias=False)
            nn.init.xavier_uniform_(last.weight, gain=0.001)
            bound = [nn.Tanh()] if tanh else []
            self.coord_mlp = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), last, *bound)
        if attention:
            self.att_mlp = nn.Sequential(nn.Linear(hidden, 1), nn.Sigmoid())
        if velocity:
            self.coord_mlp_vel = mlp([hidden, hidden, 1], nn.SiLU)

    def forward(
        self,
        h: Tensor,
        x: Tensor,
        nb: Neighbors,
        edge_attr: Tensor | None = None,
        v: Tensor | None = None,
        cell: Tensor | None = None,
        edge_weight: Tensor | None = None,
        node_attr: Tensor | None = None,
        *,
        coordinates: bool = True,
    ) -> tuple[Tensor, ...]:
        """One layer. Atoms without edges keep x and get phi_h of a zero sum; padding edges contribute nothing.

        Messages go through `symkern.egnn_message`, which keeps no row of features per edge. Under autocast the products
        per atom (P, Q, phi_h, phi_v) run in the narrow type; messages are computed in fp32, with TF32 products on CUDA,
        and geometry in fp32.

        Args:
            h: (N, hidden) float32 or float64.
            x: (N, 3) Å, dtype of `h`; in half precision distances would be wrong, it is refused.
            nb: graph of these atoms; j sends, i receives.
            edge_attr: (E, edge_attr) in the order of the edges of `nb`.
            v: (N, 3), with velocity. The paper gives its initial velocities to every layer, not the previous v'.
            cell: (3, 3) or (B, 3, 3) Å, where `nb` has shifts.
            edge_weight: (E,) factor of each edge in both sums. A cutoff function here makes the outputs continuous
                where an edge appears. The mean then divides by max(1, sum of the weights): continuous too, with a kink
                where that sum is 1.
            node_attr: (N, node_attr).
            coordinates: False for x and v as they are, without the work of moving them: for a last layer of which only
                h is used.

        Returns:
            (h, x), or with velocity (h, x, v).

        Raises:
            TypeError: an argument is not a tensor.
            ValueError: shapes or dtypes that do not fit the settings; an optional input that a setting requires but is
                missing, or that is given without it.
        """
        self._check(h, x, nb, edge_attr, v, edge_weight, node_attr)
        vec = edge_vectors(x, nb, cell)
        square = vec.square().sum(-1, keepdim=True)
        weight = None if edge_weight is None else edge_weight.unsqueeze(1)
        moves = self.update_coordinates and coordinates

        total, head = self._messages(h, square, nb, edge_attr, edge_weight, moves)
        update = self.node_mlp(torch.cat([h, total] if node_attr is None else [h, total, node_attr], 1)).to(h.dtype)
        out = h + update if self.residual else update
        if head is None:
            return (out, x) if v is None else (out, x, v)
        if self.normalize:
            vec = vec / (square.detach().sqrt() + _EPSILON)
        # vec is x_j - x_i
        step = self._aggregate(-vec * self.coord_mlp[3:](head.unsqueeze(1)), weight, nb)
        if v is None:
            return out, x + step
        v = self.coord_mlp_vel(h).to(x.dtype) * v + step
        return out, x + v, v

    def _messages(
        self,
        h: Tensor,
        square: Tensor,
        nb: Neighbors,
        edge_attr: Tensor | None,
        edge_weight: Tensor | None,
        moves: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """(N, hidden) sums of m_ij, and if the layer moves coordinates (E,) phi_x(m_ij) before the tanh."""
        first, second = cast(nn.Linear, self.edge_mlp[0]), cast(nn.Linear, self.edge_mlp[2])
        # W [h_i, h_j, d^2, a_ij] by parts: the products with h then take a row per atom instead of one per edge
        own, other, edge = first.weight.split([self.hidden, self.hidden, 1 + self.edge_attr], dim=1)
        weights: dict[str, Tensor] = {}
        if self.attention:
            gate = cast(nn.Linear, self.att_mlp[0])
            weights |= {"attention_weight": gate.weight, "attention_bias": gate.bias}
        if moves:
            inner, last = cast(nn.Linear, self.coord_mlp[0]), cast(nn.Linear, self.coord_mlp[2])
            weights |= {"head_weight": inner.weight, "head_bias": inner.bias, "head_last": last.weight}
        dtype = own.dtype  # autocast may have h in another
        total, head = egnn_message(
            functional.linear(h, own, first.bias).to(dtype),
            functional.linear(h, other).to(dtype),
            (square if edge_attr is None else torch.cat([square, edge_attr], 1)).to(dtype),
            nb,
            first_weight=edge,
            second_weight=second.weight,
            second_bias=second.bias,
            edge_weight=None if edge_weight is None else edge_weight.to(dtype),
            **weights,
        )
        return total.to(h.dtype), None if head is None else head.to(square.dtype)

    def _aggregate(self, terms: Tensor, weight: Tensor | None, nb: Neighbors) -> Tensor:
        if weight is None:
            return (segment_sum if self.aggregation == "sum" else segment_mean)(terms, nb.row_ptr)
        total = segment_sum(terms * weight, nb.row_ptr)
        return total if self.aggregation == "sum" else total / segment_sum(weight, nb.row_ptr).clamp(min=1)

    def _check(
        self,
        h: Tensor,
        x: Tensor,
        nb: Neighbors,
        edge_attr: Tensor | None,
        v: Tensor | None,
        edge_weight: Tensor | None,
        node_attr: Tensor | None,
    ) -> None:
        check_neighbors(nb)
        check_features("h", h, nb.num_nodes, self.hidden)
        check_features("x", x, nb.num_nodes, 3)
        if x.dtype in HALF:
            raise ValueError(f"x must be float32 or float64: distances need it, got {x.dtype}")
        for name, value, rows, width in (
            ("edge_attr", edge_attr, nb.num_edges, self.edge_attr),
            ("node_attr", node_attr, nb.num_nodes, self.node_attr),
            ("v", v, nb.num_nodes, 3 if self.velocity else 0),
        ):
            setting = "velocity=True" if name == "v" else f"{name} > 0"
            if value is None and width:
                raise ValueError(f"{name} must be given, floats of shape ({rows}, {width}): the layer has {setting}")
            if value is not None and not width:
                raise ValueError(f"{name} is given, but the layer was made without {setting}")
            if value is not None:
                check_features(name, value, rows, width)
        check_tensor("edge_weight", edge_weight, optional=True)
        if edge_weight is not None and edge_weight.shape != (nb.num_edges,):
            raise ValueError(f"edge_weight must have shape ({nb.num_edges},), got {tuple(edge_weight.shape)}")
        for name, value in (("x", x), ("edge_attr", edge_attr), ("v", v), ("edge_weight", edge_weight)):
            if value is not None and value.dtype != h.dtype:
                raise ValueError(f"{name} must be {h.dtype}, as h is, got {value.dtype}")

    def extra_repr(self) -> str:
        names = ("edge_attr", "node_attr", "attention", "normalize", "velocity")
        told = [f"{name}={getattr(self, name)}" for name in names if getattr(self, name)]
        return ", ".join([f"{self.hidden}", f"aggregation={self.aggregation}", *told])
