"""What a call and an import cost when there is hardly anything to compute."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import symkern as sk

from . import machine, peers, systems
from .contest import Work
from .edge_ops import eager_norm, eager_vectors
from .peers import OURS, Entry
from .report import Row
from .timing import median_and_iqr

CALL_LIMIT = 10e-6  # seconds, without gradients
IMPORT_LIMIT = 100.0  # ms
IMPORT = (
    "import torch, time; t = time.perf_counter(); import symkern; symkern.neighbor_list; print(time.perf_counter() - t)"
)
MOLECULE = "one molecule of 18 atoms, 5 Å"
NOTHING = Work(0, 0, 0)


@pytest.fixture(scope="module")
def molecule():
    system = systems.molecules(1)
    return system, system.edges()


def _entries(ours, eager, form):
    return [Entry(OURS, "op", ours, limit=CALL_LIMIT), Entry("torch eager", form, eager)]


@pytest.mark.parametrize("op", ["neighbor_list", "edge_vectors", "safe_norm"])
def test_small_call(op, molecule, compare):
    system, nb = molecule
    r, vec = system.positions, sk.edge_vectors(system.positions, nb)
    vectors = eager_vectors(system, nb, select=False)
    entries = {
        "neighbor_list": lambda: _entries(lambda: sk.neighbor_list(r, 5.0), peers.dense(system).call, "all pairs"),
        "edge_vectors": lambda: _entries(lambda: sk.edge_vectors(r, nb), lambda: vectors(r), "r[index]"),
        "safe_norm": lambda: _entries(lambda: sk.safe_norm(vec), lambda: eager_norm(vec), "vector_norm"),
    }[op]()
    with torch.no_grad():
        compare(f"{op}, small call", MOLECULE, entries, 1, NOTHING)


def test_small_gradient(molecule, compare):
    """Positions to distances and back, the way a model uses the two ops."""
    system, nb = molecule
    r = system.positions.clone().requires_grad_()
    weight = torch.ones(nb.num_edges)
    vectors = eager_vectors(system, nb, select=False)
    nb.sender_order  # noqa: B018  computed once per graph
    entries = [
        Entry(OURS, "two ops", lambda: torch.autograd.grad(sk.safe_norm(sk.edge_vectors(r, nb)), r, weight)),
        Entry("torch eager", "as written", lambda: torch.autograd.grad(eager_norm(vectors(r)), r, weight)),
    ]
    compare("edge_vectors + safe_norm, forward + gradient, small call", MOLECULE, entries, 1, NOTHING)


def test_import(quick, record, benchmark):
    """The first op, in a new process, beyond `import torch`."""
    seconds = []

    def run():
        environment = {**os.environ, "PYTHONPATH": str(machine.IMPORTS)}
        command = [sys.executable, "-c", IMPORT]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        seconds.append(float(done.stdout))

    run()  # byte code compiled, files cached
    seconds.clear()
    benchmark.pedantic(run, rounds=3 if quick else 9)
    median, iqr = median_and_iqr([1e3 * s for s in seconds])
    row = Row(
        *("import symkern", "up to the first op, beyond import torch", OURS, "new process", 1, machine.isa()),
        *("-", "-", "-", "ms", median, iqr, len(seconds)),
        target=IMPORT_LIMIT,
        target_kind="at_most",
        reached=median,
    )
    record([row])
