"""The layer of SANN: messages within and across classes of equivalent atoms, and attention over what they say."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from symkern._check import check_instance
from symkern.nn.basic import check_dtype, check_features, check_positive, mlp
from symkern.nn.gather import gather, gather_receivers, gather_segments, gather_senders
from symkern.ops.segment_sum import segment_mean, segment_sum
from symkern.sann import SannGraphs


class SANNLayer(nn.Module):
    """From features f_i of atoms to the next, with one vector f_C for each class and one g for each molecule.

        f_C  = phi_C(mean of phi_m(f_i, f_j, e_ij) over i, j in C)       itself included
        g    = phi_g(sum of phi_a(f_C, f_D, e_CD) over the edges of the asymmetric unit)
        f_i' = U sum_t softmax_t(<Q f_i, K t> / sqrt(hidden)) V t         t = f_i, f_C, g

    The phi are MLPs of two layers with SiLU between them, their messages with SiLU behind.

    Source: SANN, section 5, whose "UPD", "AGG" and "Attention" these maps fill in.

    Args:
        hidden: width of all features.
        edge_features: width of e_ij and e_CD.

    Raises:
        ValueError: a width that is not positive.
    """

    def __init__(self, hidden: int, edge_features: int) -> None:
        super().__init__()
        check_positive(hidden=hidden, edge_features=edge_features)
        self.hidden, self.edge_features = hidden, edge_features
        self.within, self.across = (
            nn.Sequential(*mlp([2 * hidden + edge_features, hidden, hidden], nn.SiLU), nn.SiLU()) for _ in range(2)
        )
        self.of_class, self.of_molecule = (mlp([hidden, hidden, hidden], nn.SiLU) for _ in range(2))
        self.query = nn.Linear(hidden, hidden, bias=False)
        self.key_value = nn.Linear(hidden, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, hidden)

    def forward(self, f: Tensor, within: Tensor, across: Tensor, graphs: SannGraphs) -> Tensor:
        """One layer.

        Args:
            f: (N, hidden).
            within: (E, edge_features) of the edges of ``graphs.within``.
            across: (E', edge_features) of the edges of ``graphs.across``.
            graphs: see `symkern.sann_graphs`.

        Returns:
            (N, hidden).

        Raises:
            TypeError: an argument is not a tensor, or `graphs` not SannGraphs.
            ValueError: shapes or dtypes that do not fit.
        """
        check_instance("graphs", graphs, SannGraphs, "symkern.sann_graphs")
        check_features("f", f, graphs.within.num_nodes, self.hidden)
        check_features("within", within, graphs.within.num_edges, self.edge_features)
        check_features("across", across, graphs.across.num_edges, self.edge_features)
        check_dtype(self.out.weight.dtype, f=f, within=within, across=across)
        dtype = f.dtype  # autocast leaves half precision, which is no type to add up in
        ends = [gather_receivers(f, graphs.within), gather_senders(f, graphs.within), within]
        # all atoms of a class have as many edges: the mean of their means is that of the class
        of_atoms = segment_mean(self.within(torch.cat(ends, 1)).to(dtype), graphs.within.row_ptr)
        classes = self.of_class(segment_mean(of_atoms[graphs.members], graphs.member_ptr)).to(dtype)

        ends = [gather_receivers(classes, graphs.across), gather_senders(classes, graphs.across), across]
        edge_ptr = graphs.across.row_ptr[graphs.across.ptr]  # the edges of a molecule stand together
        molecules = self.of_molecule(segment_sum(self.across(torch.cat(ends, 1)).to(dtype), edge_ptr)).to(dtype)

        of_class = gather(classes, graphs.class_of, graphs.members, graphs.member_ptr)
        of_molecule = gather_segments(molecules, graphs.within.ptr, len(f))
        tokens = torch.stack([f, of_class, of_molecule], 1)
        key, value = self.key_value(tokens).chunk(2, -1)
        share = torch.softmax((self.query(f).unsqueeze(1) * key).sum(-1) / math.sqrt(self.hidden), 1)
        out: Tensor = self.out((share.unsqueeze(-1) * value).sum(1)).to(dtype)
        return out

    def extra_repr(self) -> str:
        return f"{self.hidden}, edge_features={self.edge_features}"
