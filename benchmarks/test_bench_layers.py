"""EGNN, SchNet's interaction and PaiNN's message: forward, with gradients and in a step of training on forces.

Beside the form with rows per edge, that form compiled, and the matrix products alone; on the batch of molecules that
people train on, on a million edges and on one molecule.
"""

from __future__ import annotations

import pytest
import torch

from . import layer_ops, machine, message_ops
from .layer_ops import FORWARD, GRADIENT, GRAPHS, NO_COMPILE, PASSES, STEP
from .message_ops import LAYERS
from .test_bench_edges import compiled  # noqa: F401  (a fixture)

pytestmark = pytest.mark.usefixtures("one_thread")
WIDTHS = (64, 128)
# on a million edges in a usual run; --large has all that fits into memory
MILLION = {
    ("million", "egnn_edges", 64, FORWARD),
    ("million", "egnn_edges", 128, FORWARD),
    ("million", "egnn_edges", 64, GRADIENT),
    ("million", "interaction", 64, GRADIENT),
    ("million", "painn", 64, GRADIENT),
    ("random", "egnn_edges", 64, GRADIENT),
}
# bytes per edge and feature that a force step of the peer takes, measured on the batch
PEER_STEP = {"egnn_edges": 150, "egnn_layer": 150, "interaction": 110, "painn": 400}


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def graphs():
    made: dict[str, layer_ops.Graph] = {}
    return lambda name: made.setdefault(name, made.get(name) or GRAPHS[name]())


def _layer(name, graph, width):
    why = message_ops.why_missing(name)
    if why is not None:
        pytest.skip(why)
    return LAYERS[name](graph, width)


@pytest.mark.parametrize("passed", PASSES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", LAYERS)
def test_batch(name, width, passed, graphs, compiled, quick, compare):  # noqa: F811
    if quick and width > 64:
        pytest.skip("a quick run has H = 64")
    layer = _layer(name, graphs("batch"), width)
    # compiling gradients takes longest; nothing was promised about them
    entries = layer_ops.entries(layer, passed, compiled and (passed == FORWARD or width == 64))
    note = NO_COMPILE if passed == STEP else ""
    compare(f"{layer.name}, {passed}", layer.system, entries, 1, layer.work(passed), note, seconds=2, least=5)


@pytest.mark.parametrize("passed", PASSES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("graph", ["million", "random"])
def test_million(graph, name, width, passed, graphs, compiled, quick, large, compare):  # noqa: F811
    if quick or not (large or (graph, name, width, passed) in MILLION):
        pytest.skip("only with --large")
    if passed == STEP and PEER_STEP[name] * 1e6 * width > 0.9 * (machine.available_bytes() or float("inf")):
        pytest.skip("the peer needs more memory than there is")
    layer = _layer(name, graphs(graph), width)
    entries = layer_ops.entries(layer, passed, compiled and large)
    compare(f"{layer.name}, {passed}", layer.system, entries, 1, layer.work(passed), "", seconds=3, least=3)


@pytest.mark.parametrize("passed", PASSES)
@pytest.mark.parametrize("name", LAYERS)
def test_small_call(name, passed, graphs, compare):
    """Where the products cost little, calls do. Nothing was promised."""
    layer = _layer(name, graphs("one"), 64)
    entries = layer_ops.entries(layer, passed, compiled=False, promised=False)
    compare(f"{layer.name}, {passed}, small call", layer.system, entries, 1, layer.work(passed), seconds=1)
