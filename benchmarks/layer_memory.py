"""Peak memory of a pass over a layer, beyond what was there before it: outputs, what is kept for gradients, workspace.

    python -m benchmarks.layer_memory egnn_layer --graph batch --width 128
prints a JSON list of [form, pass, bytes of resident memory, bytes that torch's allocator saw] on its last line. Each
measurement runs in a process forked for it, so that nobody finds memory that another has left. Resident memory has
everything in it, the workspaces of ops included, which torch's allocator does not see.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from . import layer_ops, machine, message_ops
from .layer_ops import GRAPHS, PASSES, Layer

Peaks = dict[tuple[int, str], tuple[int, int]]  # (index of the form, pass): resident, allocator


def run(layer: str, graph: str, width: int) -> Peaks:
    """Start this module and read what it measured."""
    command = [sys.executable, "-m", f"{__package__}.layer_memory", layer, "--graph", graph, "--width", str(width)]
    done = subprocess.run(command, env=machine.imports(), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"memory of {layer}:\n{done.stdout}\n{done.stderr}")
    measured = json.loads(done.stdout.splitlines()[-1])
    return {(form, passed): (resident, seen) for form, passed, resident, seen in measured}


def measure(layer: Layer, small: Layer, form: int, passed: str) -> tuple[int, int]:
    """Bytes of one pass, resident and allocated; `small` is the same layer on a small graph, to load what it needs."""
    torch.set_num_threads(1)
    layer_ops.runner(small, small.forms[form], passed)()
    call = layer_ops.runner(layer, layer.forms[form], passed)
    _return_free_memory()
    before = machine.resident_bytes()
    call()
    resident = machine.peak_bytes() - before
    return max(resident, 0), allocated(call)


def allocated(call: Callable[[], Any]) -> int:
    """The most that torch's allocator held at once during `call`, beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        kept = call()
    del kept
    now = most = 0
    for event in sorted(found.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def _return_free_memory() -> None:
    """What earlier work has freed goes back to the system (glibc), and is counted again where it is used again."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _child(pipe: Connection, *arguments: Any) -> None:
    pipe.send(measure(*arguments))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("layer", choices=message_ops.LAYERS)
    parser.add_argument("--graph", choices=GRAPHS, default="batch")
    parser.add_argument("--width", type=int, default=128)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # no threads yet: a forked process would miss them
    build = message_ops.LAYERS[arguments.layer]
    layer, small = build(GRAPHS[arguments.graph](), arguments.width), build(layer_ops.molecules(2), arguments.width)
    context = multiprocessing.get_context("fork")
    measured = []
    for form in range(len(layer.forms)):
        for passed in PASSES:
            ours, theirs = context.Pipe()
            child = context.Process(target=_child, args=(theirs, layer, small, form, passed))
            child.start()
            theirs.close()
            measured.append([form, passed, *ours.recv()])
            child.join()
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
