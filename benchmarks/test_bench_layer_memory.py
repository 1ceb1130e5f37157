"""What layers need beyond time: peak memory beside the peer's, and the rounding error of weight gradients."""

from __future__ import annotations

import pytest
import torch

from . import layer_memory, layer_ops, machine, message_ops
from .layer_ops import GRADIENT, GRAPHS, PASSES, Layer
from .peers import OURS
from .report import Row

SHARE = 0.1  # of the peer's memory, at most
WIDTH = 128


@pytest.mark.parametrize("name", ["egnn_layer", "interaction", "painn"])
def test_peak_memory(name, quick, record):
    _skip_without_peer(name)
    graph = "small" if quick else "batch"
    peaks = layer_memory.run(name, graph, WIDTH)
    layer = message_ops.LAYERS[name](GRAPHS[graph](), WIDTH)
    for passed in PASSES:
        peers = [peaks[form, passed] for form in range(len(layer.forms))]
        (ours, _), (theirs, _) = peers
        for form, (resident, seen) in zip(layer.forms, peers, strict=True):
            row = _row(layer, passed, form.who, "peak memory", "MB", max(resident, 1) / 1e6)
            row.note = f"beyond inputs; torch's allocator saw {seen / 1e6:.3g} MB"
            if form.who == OURS:
                row = _promised(row, SHARE, ours / theirs)
            else:
                row.ratio = theirs / max(ours, 1)
            record([row])


@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("name", ["egnn_layer", "interaction", "painn"])
def test_weight_gradient_error(name, width, quick, record):
    """Root mean square over a weight, of its largest element; of all weights the largest error counts."""
    _skip_without_peer(name)
    torch.set_num_threads(1)
    graph = GRAPHS["small" if quick else "batch"]()
    layer, exact = (message_ops.LAYERS[name](graph, width, dtype) for dtype in (torch.float32, torch.float64))
    ours, theirs = layer_ops.weight_errors(layer, exact)
    row = _row(layer, GRADIENT, OURS, "error of weight gradients", "of largest", max(ours))
    single = max(own / peer for own, peer in zip(ours, theirs, strict=True))
    row.note = f"{layer.forms[1].who}'s: {max(theirs):.2g}; weight by weight at most {single:.2f} times as large"
    record([_promised(row, 1.0, max(ours) / max(theirs))])


def _skip_without_peer(name):
    why = message_ops.why_missing(name)
    if why is not None:
        pytest.skip(why)


def _row(layer: Layer, passed: str, who: str, form: str, unit: str, value: float) -> Row:
    isa = machine.isa() if who == OURS else "-"
    return Row(f"{layer.name}, {passed}", layer.system, who, form, 1, isa, "float32", "-", "-", unit, value, 0.0, 1)


def _promised(row: Row, target: float, reached: float) -> Row:
    row.target, row.target_kind, row.reached = target, "at_most", reached
    row.__post_init__()
    return row
