"""The blocks of DimeNet++: messages live on edges and meet in triplets.

Every path from an edge to the output is multiplied by a basis of its length without a bias: an edge at the cutoff, or
beyond it, contributes nothing. Submodules are named as in PyG. Sums and gathers keep the dtype of the bases, because
under autocast the linear layers around them do not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from symkern.neighbors import Neighbors
from symkern.nn.gather import gather, gather_receivers, gather_senders
from symkern.ops.segment_sum import segment_sum
from symkern.ops.triplets import Triplets


class EdgeEmbedding(nn.Module):
    """The first message of every edge, from both elements and the distance (DimeNet eq. 10)."""

    def __init__(self, num_elements: int, num_radial: int, hidden: int) -> None:
        super().__init__()
        self.act = nn.SiLU()
        self.emb = nn.Embedding(num_elements, hidden)
        self.lin_rbf = nn.Linear(num_radial, hidden)
        self.lin = nn.Linear(3 * hidden, hidden)
        nn.init.uniform_(self.emb.weight, -math.sqrt(3), math.sqrt(3))

    def forward(self, z: Tensor, rbf: Tensor, nb: Neighbors) -> Tensor:
        """(N,) atomic numbers and (E, num_radial) to (E, hidden)."""
        # the weight applied to [h_i, h_j, e_ji]: in two of the three parts once per atom, not once per edge
        of_i, of_j, of_distance = self.lin.weight.chunk(3, dim=1)
        h = self.emb(z)
        at_i = gather_receivers(nn.functional.linear(h, of_i, self.lin.bias).to(rbf.dtype), nb)
        at_j = gather_senders(nn.functional.linear(h, of_j).to(rbf.dtype), nb)
        message: Tensor = self.act(at_i + at_j + nn.functional.linear(self.act(self.lin_rbf(rbf)), of_distance))
        return message


class ResidualLayer(nn.Module):
    """x + act(W2 act(W1 x))."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.act = nn.SiLU()
        self.lin1, self.lin2 = _dense(hidden, hidden), _dense(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.act(self.lin2(self.act(self.lin1(x))))
        return out


class TripletInteraction(nn.Module):
    """New messages j->i from the messages k->j that arrive at j (DimeNet++, Fig. 1): a Hadamard product per triplet.

    Args:
        hidden: width of a message.
        int_emb_size: width of a message within a triplet.
        basis_emb_size: width between the two layers that embed a basis.
        num_radial, num_spherical: sizes of the bases.
        num_before_skip, num_after_skip: residual layers before and after the skip connection.
    """

    def __init__(
        self,
        hidden: int,
        int_emb_size: int,
        basis_emb_size: int,
        num_radial: int,
        num_spherical: int,
        num_before_skip: int,
        num_after_skip: int,
    ) -> None:
        super().__init__()
        self.act = nn.SiLU()
        self.lin_rbf1 = _dense(num_radial, basis_emb_size, bias=False)
        self.lin_rbf2 = _dense(basis_emb_size, hidden, bias=False)
        self.lin_sbf1 = _dense(num_spherical * num_radial, basis_emb_size, bias=False)
        self.lin_sbf2 = _dense(basis_emb_size, int_emb_size, bias=False)
        self.lin_kj, self.lin_ji = _dense(hidden, hidden), _dense(hidden, hidden)
        self.lin_down = _dense(hidden, int_emb_size, bias=False)
        self.lin_up = _dense(int_emb_size, hidden, bias=False)
        self.layers_before_skip = nn.Sequential(*(ResidualLayer(hidden) for _ in range(num_before_skip)))
        self.lin = _dense(hidden, hidden)
        self.layers_after_skip = nn.Sequential(*(ResidualLayer(hidden) for _ in range(num_after_skip)))

    def forward(self, x: Tensor, rbf: Tensor, sbf: Tensor, tri: Triplets) -> Tensor:
        """(E, hidden), (E, num_radial) and (T, num_spherical num_radial) to (E, hidden)."""
        x_kj = self.act(self.lin_kj(x)) * self.lin_rbf2(self.lin_rbf1(rbf))
        x_kj = self.act(self.lin_down(x_kj)).to(sbf.dtype)
        in_triplets = _gather_kj(x_kj, tri) * self.lin_sbf2(self.lin_sbf1(sbf))
        arrived = self.act(self.lin_up(segment_sum(in_triplets, tri.ptr)))
        h = self.layers_before_skip(self.act(self.lin_ji(x)) + arrived)
        out: Tensor = self.layers_after_skip(self.act(self.lin(h)) + x)
        return out


class EdgeReadout(nn.Module):
    """Contributions of the atoms to the output, from the messages that arrive at them.

    Args:
        num_radial: size of the radial basis.
        hidden: width of a message.
        out_emb_channels: width within the block.
        out: width of the output.
        num_output_layers: dense layers before the last.
        zero: start with output 0.
    """

    def __init__(
        self, num_radial: int, hidden: int, out_emb_channels: int, out: int, num_output_layers: int, zero: bool
    ) -> None:
        super().__init__()
        self.act = nn.SiLU()
        self.lin_rbf = _dense(num_radial, hidden, bias=False)
        self.lin_up = _dense(hidden, out_emb_channels, bias=False)
        self.lins = nn.ModuleList(_dense(out_emb_channels, out_emb_channels) for _ in range(num_output_layers))
        self.lin = _dense(out_emb_channels, out, bias=False)
        if zero:
            nn.init.zeros_(self.lin.weight)

    def forward(self, x: Tensor, rbf: Tensor, nb: Neighbors) -> Tensor:
        """(E, hidden) and (E, num_radial) to (N, out)."""
        h = self.lin_up(segment_sum((self.lin_rbf(rbf) * x).to(rbf.dtype), nb.row_ptr))
        for lin in self.lins:
            h = self.act(lin(h))
        out: Tensor = self.lin(h).to(rbf.dtype)
        return out


def _gather_kj(x: Tensor, tri: Triplets) -> Tensor:
    """x_kj for every triplet: (E, F) to (T, F); as `gather_senders` in its gradients."""
    if not x.is_cuda or not x.requires_grad:
        return x.index_select(0, tri.kj)
    return gather(x, tri.kj, tri.kj_order, tri.kj_ptr)


@torch.no_grad()
def _dense(inner: int, outer: int, bias: bool = True) -> nn.Linear:
    """A linear layer that starts as in the published code: orthogonal, of Glorot's variance; bias zero."""
    layer = nn.Linear(inner, outer, bias)
    nn.init.orthogonal_(layer.weight)
    # the spread of a single number is not defined
    spread = layer.weight.var() if layer.weight.numel() > 1 else layer.weight.new_tensor(1.0)
    layer.weight *= (2 / ((inner + outer) * spread)).sqrt()
    if bias:
        layer.bias.zero_()
    return layer
