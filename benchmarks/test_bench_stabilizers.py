"""stabilizers beside pymsym and pymatgen. Peers work on one molecule at a time, so all ratios are per molecule."""

from __future__ import annotations

import pytest

from . import peers, stabilizer_ops

OP = "stabilizers"


@pytest.mark.parametrize("package", ["pymsym", "pymatgen.symmetry.analyzer", "ase"])
def test_peer_is_installed(package):
    reason = peers.missing(package)
    if reason is not None:
        pytest.skip(reason)


def _g2():
    return stabilizer_ops.g2()


def _qm9():
    return stabilizer_ops.qm9(100, (16, 20)) or stabilizer_ops.larger_of_g2()


def _c60():
    return stabilizer_ops.c60()


@pytest.mark.parametrize("make", [_g2, _qm9, _c60], ids=["g2", "qm9", "c60"])
def test_molecules(make, compare):
    molecules = make()
    entries = stabilizer_ops.contestants(molecules, promised=make is _qm9)
    note = stabilizer_ops.check(entries, molecules)
    compare(OP, molecules.name, entries, 1, stabilizer_ops.work(molecules), note)


def test_c60_alone(compare):
    """Call after call, as in a loop: in turn with peers every call finds caches that they have emptied."""
    molecules = stabilizer_ops.c60()
    entry = stabilizer_ops.ours(molecules, stabilizer_ops.C60_LIMIT)
    compare(OP, f"{molecules.name}, alone", [entry], 1, stabilizer_ops.work(molecules))


def test_many(threads, compare):
    """A training set at once: what preparing it costs. The limit is for one core."""
    count = stabilizer_ops.MANY
    molecules = stabilizer_ops.qm9(count) or stabilizer_ops.repeated(stabilizer_ops.larger_of_g2(), count)
    entry = stabilizer_ops.ours(molecules, stabilizer_ops.MANY_LIMIT if threads == 1 else None)
    compare(OP, molecules.name, [entry], threads, stabilizer_ops.work(molecules), most=15)
