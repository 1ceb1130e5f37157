"""A comparison in a process of its own, for what is fixed once per process: instruction set, huge pages, peak memory.

    SYMKERN_ISA=avx2 python -m benchmarks.isolated periodic --threads 1
prints rows as JSON on its last line.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys

import torch

from . import contest, machine, peers, systems
from .report import Row
from .timing import Race, median_and_iqr, rounds_within

MILLION = 1_000_000


def run(name: str, threads: int, quick: bool, **environment: str) -> list[Row]:
    """Start this module with `environment` and read its rows."""
    command = [sys.executable, "-m", f"{__package__}.isolated", name, "--threads", str(threads)]
    variables = {**os.environ, "PYTHONPATH": str(machine.IMPORTS), **environment}
    done = subprocess.run(command + ["--quick"] * quick, env=variables, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"isolated run of {name} failed:\n{done.stdout}\n{done.stderr}")
    return [Row(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def periodic(threads: int, quick: bool) -> list[Row]:
    system = systems.liquid(30_000)
    return _compare(system, peers.periodic(system, threads), threads, quick)


def molecules(threads: int, quick: bool) -> list[Row]:
    system = systems.molecules(4096)
    return _compare(system, peers.molecules(system, threads), threads, quick)


def _compare(system: systems.System, entries: list[peers.Entry], threads: int, quick: bool) -> list[Row]:
    # what was promised holds for the settings a user gets
    entries = [dataclasses.replace(entry, target=None) for entry in entries]
    peers.check(entries, system)
    measured = contest.rates(threads, quick)
    race = Race(contest.calls(entries))
    for _ in range(rounds_within(1 if quick else 4, race.calibrate())):
        race.round()
    work = contest.neighbor_work(system, system.edges())
    return contest.rows(entries, race, "neighbor_list", system.name, threads, work, measured)


def million(threads: int, quick: bool) -> list[Row]:
    """Time per atom at a million atoms over time per atom at 30,000, interleaved."""
    small, large = systems.liquid(30_000), systems.liquid(MILLION)
    entries = [peers.symkern(large), peers.symkern(small)]
    measured = contest.rates(threads, quick)
    names = ("large", "small")
    race = Race(dict(zip(names, (entry.call for entry in entries), strict=True)))
    seconds = race.calibrate()
    for _ in range(rounds_within(5 if quick else 15, seconds, least=3, most=15)):
        race.round()
    per_atom = [
        median_and_iqr(race.samples[name])[0] / system.atoms for name, system in zip(names, (large, small), strict=True)
    ]
    race.samples = {entries[0].name: race.samples["large"]}
    race.inner = {entries[0].name: race.inner["large"]}
    work = contest.neighbor_work(large, large.edges())
    (row,) = contest.rows(entries[:1], race, "neighbor_list", large.name, threads, work, measured)
    fields = dataclasses.asdict(row) | {
        "target": 2.0,
        "target_kind": "at_most",
        "reached": per_atom[0] / per_atom[1],
        "note": "target: time per atom over that of 30,000 atoms",
    }
    return [Row(**fields)]


def memory(threads: int, quick: bool) -> list[Row]:
    """Peak memory of one call over the size of its output."""
    system = systems.liquid(MILLION)
    systems.liquid(100).edges()  # library loaded, threads started
    before = machine.resident_bytes()
    nb = system.edges()
    peak = machine.peak_bytes() - before
    output = contest.tensor_bytes(nb.edge_index, nb.cell_shifts, nb.row_ptr)
    return [
        Row(
            "neighbor_list, peak memory",
            system.name,
            peers.OURS,
            f"one call, output of {output / 1e6:.0f} MB",
            threads,
            machine.isa(),
            "float32",
            "fresh",
            machine.pages(True, output),
            "MB",
            peak / 1e6,
            0.0,
            1,
            target=2.0,
            target_kind="at_most",
            reached=peak / output,
            note="target (our reading of 'proportional'): peak over output",
        )
    ]


RUNS = {"periodic": periodic, "molecules": molecules, "million": million, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=RUNS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    made = RUNS[arguments.name](arguments.threads, arguments.quick)
    print(json.dumps([dataclasses.asdict(row) for row in made]))


if __name__ == "__main__":
    main()
