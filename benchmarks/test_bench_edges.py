"""edge_vectors and safe_norm, forward and with their gradient, beside torch as users write it and compiled."""

from __future__ import annotations

import pytest
import torch

from . import edge_ops, systems

SYSTEMS = {"periodic": lambda: systems.liquid(30_000), "molecules": lambda: systems.molecules(4096)}
PARTS = pytest.mark.parametrize("backward", [False, True], ids=["forward", "gradient"])


@pytest.fixture(scope="module", params=SYSTEMS)
def graph(request):
    system = SYSTEMS[request.param]()
    return system, system.edges()


@pytest.fixture
def compiled(quick):
    """Whether torch.compile takes part: it needs a compiler, and half a minute."""
    if quick:
        return False
    torch._dynamo.reset()  # compiled code has the number of threads built in
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(3))
    except Exception as error:
        pytest.skip(f"torch.compile does not work here: {error}")
    return True


@PARTS
def test_edge_vectors(graph, backward, threads, compiled, compare):
    system, nb = graph
    torch.set_num_threads(threads)
    calls = edge_ops.vector_contestants(system, nb, compiled)
    made = edge_ops.entries(calls, system.positions, backward)
    compare(_op("edge_vectors", backward), _name(system, nb), made, threads, edge_ops.vector_work(system, nb, backward))


@PARTS
def test_safe_norm(graph, backward, threads, compiled, compare):
    system, nb = graph
    torch.set_num_threads(threads)
    vectors = edge_ops.eager_vectors(system, nb, select=True)(system.positions)
    made = edge_ops.entries(edge_ops.norm_contestants(compiled), vectors, backward)
    compare(_op("safe_norm", backward), _name(system, nb), made, threads, edge_ops.norm_work(nb.num_edges, backward))


def _op(name: str, backward: bool) -> str:
    return f"{name}, forward + gradient" if backward else f"{name}, forward"


def _name(system: systems.System, nb) -> str:
    return f"{nb.num_edges:,} edges of {system.name}"
