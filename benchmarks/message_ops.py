"""The layers that are timed, each as symkern computes it and as its authors, PyG or SchNetPack do."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import symkern as sk
from symkern.models.schnet import Interaction
from symkern.ops.egnn_message import egnn_message
from symkern.ops.painn_message import painn_message

from .layer_ops import Form, Graph, Layer, leaf
from .peers import OURS, missing

EAGER = "torch eager"
CUTOFF = 20.0  # beyond every distance: none of the edges is without weight
FILTER_BASIS, PAINN_BASIS = 50, 20


def _leaves(graph: Graph, dtype: torch.dtype, *tensors: Tensor) -> list[Tensor]:
    return [x.detach().to(graph.positions.device, dtype).requires_grad_() for x in tensors]


def _ends(graph: Graph) -> tuple[Tensor, Tensor]:
    return graph.nb.senders.contiguous(), graph.nb.receivers.contiguous()


def _distances(graph: Graph) -> tuple[Tensor, Tensor]:
    """Distances, and directions from the receiver to the sender."""
    vec = sk.edge_vectors(graph.positions, graph.nb)
    d = vec.norm(dim=1)
    return d, vec / d.unsqueeze(1)


# ---- EGNN ------------------------------------------------------------------------------------------------------------


def _heavier(layer: Any) -> Any:
    """With a last layer of usual size: the initial one would hide errors of the coordinates' part."""
    nn.init.xavier_uniform_(layer.coord_mlp[2].weight)
    return layer


def egnn_edges(graph: Graph, width: int, dtype: torch.dtype = torch.float32) -> Layer:
    """The part with rows per edge: features and squared distances in, sums of messages and coordinate factors out."""
    torch.manual_seed(0)
    layer = _heavier(sk.nn.EGNNLayer(width)).to(graph.positions.device, dtype)
    first, second = layer.edge_mlp[0], layer.edge_mlp[2]
    head, last = layer.coord_mlp[0], layer.coord_mlp[2]
    nb, (senders, receivers) = graph.nb, _ends(graph)

    def ours(h: Tensor, square: Tensor) -> tuple[Tensor, ...]:
        own, other, radial = first.weight.split([width, width, 1], dim=1)
        total, factor = egnn_message(
            functional.linear(h, own, first.bias),
            functional.linear(h, other),
            square,
            nb,
            first_weight=radial,
            second_weight=second.weight,
            second_bias=second.bias,
            head_weight=head.weight,
            head_bias=head.bias,
            head_last=last.weight,
        )
        assert factor is not None
        return total, factor

    def eager(h: Tensor, square: Tensor) -> tuple[Tensor, ...]:
        ends = h.index_select(0, receivers), h.index_select(0, senders)
        messages = layer.edge_mlp(torch.cat([*ends, square], 1))
        return torch.zeros_like(h).index_add(0, receivers, messages), layer.coord_mlp(messages).squeeze(1)

    square = sk.edge_vectors(graph.positions, nb).square().sum(1, keepdim=True)
    inputs = _leaves(graph, dtype, leaf(nb.num_nodes, width), square)
    weights = [*layer.edge_mlp.parameters(), *layer.coord_mlp.parameters()]
    return _egnn("EGNN, edges", graph, width, inputs, ours, eager, weights)


def egnn_layer(graph: Graph, width: int, dtype: torch.dtype = torch.float32) -> Layer:
    """The whole layer, features and coordinates in and out."""
    torch.manual_seed(0)
    layer = _heavier(sk.nn.EGNNLayer(width)).to(graph.positions.device, dtype)
    nb, (senders, receivers) = graph.nb, _ends(graph)

    def eager(h: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        difference = x.index_select(0, receivers) - x.index_select(0, senders)
        square = difference.square().sum(1, keepdim=True)
        ends = h.index_select(0, receivers), h.index_select(0, senders)
        messages = layer.edge_mlp(torch.cat([*ends, square], 1))
        total = torch.zeros_like(h).index_add(0, receivers, messages)
        step = torch.zeros_like(x).index_add(0, receivers, difference * layer.coord_mlp(messages))
        return h + layer.node_mlp(torch.cat([h, total], 1)), x + step

    inputs = _leaves(graph, dtype, leaf(nb.num_nodes, width), graph.positions)
    weights = list(layer.parameters())
    return _egnn("EGNNLayer", graph, width, inputs, lambda h, x: layer(h, x, nb), eager, weights)


def _egnn(
    name: str,
    graph: Graph,
    width: int,
    inputs: list[Tensor],
    ours: Callable[..., tuple[Tensor, ...]],
    eager: Callable[..., tuple[Tensor, ...]],
    weights: list[Tensor],
) -> Layer:
    edges = graph.nb.num_edges
    forms = [Form(OURS, "fused", "", ours, weights), Form(EAGER, "rows per edge", "eager", eager, weights)]
    return Layer(name, graph, width, inputs, forms, 4 * edges * width**2, (edges, width, 2))


# ---- SchNet ----------------------------------------------------------------------------------------------------------


def interaction(graph: Graph, width: int, dtype: torch.dtype = torch.float32) -> Layer:
    """SchNet's interaction, features and distances in, features out."""
    from torch_geometric.nn.models.schnet import GaussianSmearing, InteractionBlock

    torch.manual_seed(0)
    block = InteractionBlock(width, FILTER_BASIS, width, CUTOFF).to(graph.positions.device, dtype)
    smearing = GaussianSmearing(0.0, CUTOFF, FILTER_BASIS).to(graph.positions.device, dtype)
    own = Interaction(width, width, FILTER_BASIS, CUTOFF, "gaussian", False).to(graph.positions.device, dtype)
    names = {
        "conv.filter.0": "mlp.0",
        "conv.filter.2": "mlp.2",
        "conv.input": "conv.lin1",
        "conv.output": "conv.lin2",
        "linear": "lin",
    }
    given = dict(block.named_parameters())
    weights, others = [], []
    for name, parameter in own.named_parameters():
        layer, _, kind = name.rpartition(".")
        others.append(given[f"{names[layer]}.{kind}"])
        parameter.data.copy_(others[-1].data)
        weights.append(parameter)
    nb = graph.nb
    inputs = _leaves(graph, dtype, leaf(nb.num_nodes, width), _distances(graph)[0])
    edge_index = torch.stack(_ends(graph))

    def theirs(h: Tensor, d: Tensor) -> tuple[Tensor, ...]:
        return (block(h, edge_index, d, smearing(d)),)

    forms = [
        Form(OURS, "fused", "", lambda h, d: (own(h, d, nb),), weights),
        Form("PyG", "basis and InteractionBlock", "eager", theirs, others),
    ]
    # a filter serves both directions of a pair
    flops = nb.num_edges * (FILTER_BASIS * width + width**2)
    return Layer("SchNet interaction", graph, width, inputs, forms, flops)


def schnet(graph: Graph) -> Layer:
    """PyG's SchNet with its default sizes, positions in, energies out; `width` is that of its features."""
    from torch_geometric.nn.models import SchNet

    torch.manual_seed(0)
    z = torch.randint(1, 9, (graph.nb.num_nodes,))
    batch, ends = graph.nb.batch, torch.stack(_ends(graph))
    nb = graph.nb

    def edges(positions: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        # as its RadiusInteractionGraph does, from a list made beforehand, as ours is
        return ends, (positions[ends[0]] - positions[ends[1]]).norm(dim=-1)

    theirs = SchNet(cutoff=CUTOFF, interaction_graph=edges)
    ours = sk.models.SchNet.from_pyg(theirs)
    forms = [
        Form(OURS, "SchNet", "", lambda x: (ours(z, x, batch, nb=nb),), _named(ours, theirs)[0]),
        Form("PyG", "SchNet", "", lambda x: (theirs(z, x, batch),), _named(ours, theirs)[1]),
    ]
    width = theirs.hidden_channels
    flops = theirs.num_interactions * nb.num_edges * (FILTER_BASIS * width + width**2)
    return Layer("SchNet", graph, width, (graph.positions.clone().requires_grad_(),), forms, flops, whole=True)


def _named(ours: Any, theirs: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters of both in one order, found by their values."""
    left = list(theirs.parameters())
    pairs = []
    for own in ours.parameters():
        k = next(k for k, other in enumerate(left) if other.shape == own.shape and torch.equal(other, own))
        pairs.append((own, left.pop(k)))
    assert not left
    return [own for own, _ in pairs], [other for _, other in pairs]


# ---- PaiNN -----------------------------------------------------------------------------------------------------------


def painn(graph: Graph, width: int, dtype: torch.dtype = torch.float32) -> Layer:
    """PaiNN's message: scalars after their network, vectors, distances and directions in, both updates out."""
    nb, (senders, receivers) = graph.nb, _ends(graph)
    torch.manual_seed(0)
    filters = nn.Linear(PAINN_BASIS, 3 * width).to(graph.positions.device, dtype)
    centers = torch.linspace(0, CUTOFF, PAINN_BASIS, dtype=dtype, device=graph.positions.device)
    coefficient = -0.5 / float(centers[1] - centers[0]) ** 2

    def ours(phi: Tensor, mu: Tensor, d: Tensor, directions: Tensor) -> tuple[Tensor, ...]:
        return painn_message(
            phi,
            mu,
            d,
            directions,
            nb,
            CUTOFF,
            filter_weight=filters.weight.unflatten(0, (3, width)),
            filter_bias=filters.bias.unflatten(0, (3, width)),
            kind="gaussian",
        )

    def eager(phi: Tensor, mu: Tensor, d: Tensor, directions: Tensor) -> tuple[Tensor, ...]:
        basis = torch.exp(coefficient * (d.unsqueeze(1) - centers).square())
        envelope = 0.5 * (torch.cos(d * (math.pi / CUTOFF)) + 1) * (d < CUTOFF)
        x = phi.flatten(1).index_select(0, senders) * (filters(basis) * envelope.unsqueeze(1))
        scalar, radial, vector = x.split(width, 1)
        moved = radial.unsqueeze(1) * directions.unsqueeze(2) + vector.unsqueeze(1) * mu.index_select(0, senders)
        return phi.new_zeros(len(phi), width).index_add(0, receivers, scalar), torch.zeros_like(mu).index_add(
            0, receivers, moved
        )

    weights = list(filters.parameters())
    forms = [Form(OURS, "fused", "", ours, weights), Form(EAGER, "SchNetPack's formulas", "eager", eager, weights)]
    features = leaf(nb.num_nodes, 3, width), leaf(nb.num_nodes, 3, width, seed=1)
    inputs = _leaves(graph, dtype, *features, *_distances(graph))
    flops = nb.num_edges * (3 * PAINN_BASIS * width + 14 * width)  # products of half of the edges, and the sums
    return Layer("PaiNN message", graph, width, inputs, forms, flops)


LAYERS: dict[str, Callable[..., Layer]] = {
    "egnn_edges": egnn_edges,
    "egnn_layer": egnn_layer,
    "interaction": interaction,
    "painn": painn,
}


def why_missing(layer: str) -> str | None:
    """Why the peer of a layer cannot take part, or None."""
    return missing("torch_geometric.nn.models.schnet") if layer in ("interaction", "schnet") else None
