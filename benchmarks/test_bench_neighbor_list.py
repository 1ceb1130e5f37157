"""neighbor_list beside vesin, nvalchemi-toolkit-ops, ASE and torch. Edges are compared before anything is timed."""

from __future__ import annotations

import pytest

from . import contest, isolated, machine, peers, systems

OP = "neighbor_list"


@pytest.mark.parametrize("package", ["vesin", "nvalchemiops.torch.neighbors", "ase"])
def test_peer_is_installed(package):
    reason = peers.missing(package)
    if reason is not None:
        pytest.skip(reason)


def test_periodic(threads, compare):
    system = systems.liquid(30_000)
    entries = peers.periodic(system, threads)
    peers.check(entries, system)
    compare(OP, system.name, entries, threads, contest.neighbor_work(system, system.edges()))


@pytest.mark.parametrize("count", [128, 4096])
def test_molecules(count, threads, compare):
    system = systems.molecules(count)
    entries = peers.molecules(system, threads)
    peers.check(entries, system)
    compare(OP, system.name, entries, threads, contest.neighbor_work(system, system.edges()))


def test_ase(compare):
    """ASE on a small system only: at 30,000 atoms one call takes half a minute."""
    reason = peers.missing("ase")
    if reason is not None:
        pytest.skip(reason)
    system = systems.liquid(1000)
    entries = [peers.symkern(system), peers.ase(system)]
    peers.check(entries, system)
    compare(OP, system.name, entries, 1, contest.neighbor_work(system, system.edges()), most=7)


@pytest.mark.parametrize(
    "environment",
    [{"SYMKERN_HUGE_PAGES": "0"}, {"SYMKERN_ISA": "avx2"}, {"SYMKERN_ISA": "baseline"}],
    ids=lambda e: "-".join(f"{k.removeprefix('SYMKERN_').lower()}={v}" for k, v in e.items()),
)
@pytest.mark.parametrize("name", ["periodic", "molecules"])
def test_other_settings(name, environment, quick, record, benchmark):
    """Without huge pages, and with narrower vectors: both are fixed when a process starts, so each gets its own."""
    if quick:
        pytest.skip("not in a quick run")
    if environment.get("SYMKERN_ISA") == machine.isa():
        pytest.skip(f"{machine.isa()} is what the other tests use")
    record(benchmark.pedantic(isolated.run, (name, 1, quick), environment, rounds=1))


@pytest.mark.parametrize("pages", ["1", "0"], ids=["huge", "4k"])
def test_million(pages, quick, record, benchmark):
    if quick and pages == "0":
        pytest.skip("not in a quick run")
    _need_memory()
    record(benchmark.pedantic(isolated.run, ("million", 1, quick), {"SYMKERN_HUGE_PAGES": pages}, rounds=1))


def test_million_all_threads(quick, record, benchmark):
    if quick or machine.all_threads() == 1:
        pytest.skip("not in a quick run, nor with one core")
    _need_memory()
    record(benchmark.pedantic(isolated.run, ("million", machine.all_threads(), quick), rounds=1))


def test_memory(quick, record, benchmark):
    _need_memory()
    record(benchmark.pedantic(isolated.run, ("memory", 1, quick), rounds=1))


def _need_memory(gigabytes: int = 8) -> None:
    free = machine.available_bytes()
    if free is not None and free < gigabytes << 30:
        pytest.skip(f"needs {gigabytes} GB of memory, {free / 2**30:.1f} are available")
