"""Molecules and contestants for stabilizers. Peers take one molecule at a time; a call is a whole sample."""

from __future__ import annotations

import itertools
import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import symkern as sk
from symkern import host

from .contest import Work, tensor_bytes
from .peers import OURS, Entry, missing

# times faster than each peer, and seconds on one core
TARGETS = {"pymsym": 30.0, "pymatgen": 1000.0}
MANY, MANY_LIMIT, C60_LIMIT = 48_000, 0.5, 0.3e-3
Labels = Callable[[], list[str]]


@dataclass(frozen=True)
class Molecules:
    """Positions are float32; peers that compute in float64 get the same numbers."""

    name: str
    positions: Tensor
    numbers: Tensor
    ptr: Tensor

    def __len__(self) -> int:
        return len(self.ptr) - 1

    def find(self) -> sk.Stabilizers:
        return sk.stabilizers(self.positions, self.numbers, ptr=self.ptr)

    def one_by_one(self) -> list[tuple[np.ndarray, np.ndarray]]:
        r, z, ptr = self.positions.double().numpy(), self.numbers.numpy(), self.ptr.tolist()
        return [(r[a:b], z[a:b]) for a, b in itertools.pairwise(ptr)]

    def to(self, device: torch.device) -> Molecules:
        return Molecules(self.name, *(x.to(device) for x in (self.positions, self.numbers, self.ptr)))


def _molecules(name: str, structures: Sequence[tuple[np.ndarray, np.ndarray]]) -> Molecules:
    positions = torch.tensor(np.concatenate([r for r, _ in structures]), dtype=torch.float32)
    numbers = torch.tensor(np.concatenate([z for _, z in structures]), dtype=torch.int64)
    return Molecules(name, positions, numbers, torch.tensor([0, *np.cumsum([len(z) for _, z in structures]).tolist()]))


def g2() -> Molecules:
    """ASE's G2 collection without its single atoms, which pymatgen refuses."""
    from ase.collections import g2 as collection

    found = [(atoms.positions, atoms.numbers) for atoms in collection if len(atoms) > 1]
    return _molecules(f"G2, {len(found)} molecules", found)


def c60() -> Molecules:
    """Truncated icosahedron with edges of 1.42 Å."""
    golden = (1 + 5**0.5) / 2
    corners = set()
    for point in ((0, 1, 3 * golden), (1, 2 + golden, 2 * golden), (golden, 2, 2 * golden + 1)):
        for signs, turn in itertools.product(itertools.product((1, -1), repeat=3), range(3)):
            corners.add(tuple((np.roll(np.multiply(point, signs), turn) + 0.0).tolist()))  # + 0.0: no -0.0
    return _molecules("C60, ideal", [(0.71 * np.array(sorted(corners)), np.full(60, 6))])


def qm9(count: int, sizes: tuple[int, int] = (1, 99)) -> Molecules | None:
    """Molecules of QM9 at even distances in its files under SYMKERN_DATA; None where there are too few."""
    folder = Path(os.environ.get("SYMKERN_DATA", "data"))
    found = []
    for file in ("qm9_20k.npz", "qm9_extra_29k.npz"):
        if (folder / file).exists():
            with np.load(folder / file) as data:
                r, z, ptr = data["pos"], data["z"].astype(np.int64), data["ptr"].tolist()
            found += [(r[a:b], z[a:b]) for a, b in itertools.pairwise(ptr) if sizes[0] <= b - a <= sizes[1]]
    if len(found) < count:
        return None
    chosen = np.linspace(0, len(found) - 1, count).astype(int)
    atoms = f", {sizes[0]}-{sizes[1]} atoms" if sizes[0] > 1 else ""
    return _molecules(f"QM9, {count:,} molecules{atoms}", [found[k] for k in chosen])


def larger_of_g2() -> Molecules:
    """G2's molecules of 10 to 16 atoms, where QM9 is not at hand."""
    from ase.collections import g2 as collection

    found = [(atoms.positions, atoms.numbers) for atoms in collection if 10 <= len(atoms) <= 16]
    return _molecules(f"G2, {len(found)} molecules, 10-16 atoms", found)


def repeated(molecules: Molecules, count: int) -> Molecules:
    """Turned at random copies, so that no two are alike."""
    random = np.random.default_rng(0)
    structures = []
    for r, z in itertools.islice(itertools.cycle(molecules.one_by_one()), count):
        q, _ = np.linalg.qr(random.normal(size=(3, 3)))
        structures.append((r @ q.T, z))
    return _molecules(f"{molecules.name}, turned, {count:,} in all", structures)


def made_up(count: int, seed: int = 0) -> Molecules:
    """Eighteen atoms each, without any data: of eight molecules one has a mirror plane, of 64 one is D6h, and the rest
    have no symmetry, much as in QM9."""
    random = np.random.default_rng(seed)
    r = random.normal(scale=2.5, size=(count, 18, 3))
    z = random.choice([1, 6, 7, 8], size=(count, 18))
    r[::8, 9:] = r[::8, :9] * (1, 1, -1)
    z[::8, 9:] = z[::8, :9]
    turn = np.arange(6) * np.pi / 3
    ring = np.stack([np.cos(turn), np.sin(turn), 0 * turn], 1)
    r[::64] = np.concatenate([1.39 * ring, 2.48 * ring, 4.2 * ring])
    z[::64] = np.repeat([6, 7, 1], 6)
    axes, _ = np.linalg.qr(random.normal(size=(count, 3, 3)))
    r = r @ axes
    return Molecules(
        f"{count:,} x 18 atoms, made up",
        torch.tensor(r.reshape(-1, 3), dtype=torch.float32),
        torch.tensor(z.reshape(-1)),
        18 * torch.arange(count + 1),
    )


# ---- contestants -----------------------------------------------------------------------------------------------------


def ours(molecules: Molecules, limit: float | None = None) -> Entry:
    return Entry(OURS, "one batch", molecules.find, limit=limit)


def by_host(molecules: Molecules) -> Entry:
    given = molecules.one_by_one()
    return Entry(OURS, "host, one by one", lambda: [host.point_group(r, z).label for r, z in given], "float64")


def pymsym(molecules: Molecules) -> Entry:
    """The label alone, by the function its documentation shows; lists are what it takes."""
    from pymsym import get_point_group

    given = [(z.tolist(), r.tolist()) for r, z in molecules.one_by_one()]
    return Entry(
        "pymsym",
        "label",
        lambda: [get_point_group(z, r) for z, r in given],
        "float64",
        target=TARGETS["pymsym"],
    )


def pymatgen(molecules: Molecules) -> Entry:
    """Operations and equivalent atoms, as symkern gives them; Molecule objects are made beforehand."""
    from pymatgen.core import Molecule
    from pymatgen.symmetry.analyzer import PointGroupAnalyzer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = [Molecule(z.tolist(), r) for r, z in molecules.one_by_one()]

    def call() -> list[str]:
        found = []
        for molecule in given:
            analyzer = PointGroupAnalyzer(molecule)
            analyzer.get_symmetry_operations()
            analyzer.get_equivalent_atoms()
            found.append(str(analyzer.sch_symbol))
        return found

    return Entry("pymatgen", "operations, orbits", call, "float64", target=TARGETS["pymatgen"])


MAKERS = {"pymsym": pymsym, "pymatgen.symmetry.analyzer": pymatgen}


def contestants(molecules: Molecules, promised: bool) -> list[Entry]:
    """symkern first; peers that are not installed are left out. Ratios were promised for molecules of QM9's size."""
    entries = [ours(molecules), by_host(molecules)]
    for package, make in MAKERS.items():
        if missing(package) is None:
            entry = make(molecules)
            entries.append(entry if promised else replace(entry, target=None))
    return entries


def check(entries: Sequence[Entry], molecules: Molecules) -> str:
    """How many labels of each peer are ours, for the note; an error where that is less than three in four.

    Peers choose tolerances of their own, so some differ (pymatgen's by design: COF2, pyrrole and CH3S on G2); a peer
    that did something else entirely would not come near.
    """
    expected = molecules.find().labels
    told = []
    for entry in entries[1:]:
        found = [_spelled(label) for label in entry.call()]
        same = sum(a == b for a, b in zip(found, expected, strict=True))
        least = len(expected) if entry.who == OURS else 0.75 * len(expected)
        assert same >= least, f"{entry.name} agrees on {same} of {len(expected)} labels of {molecules.name}"
        if entry.who != OURS:
            told.append(f"{entry.who} {same}")
    return f"labels as symkern's, of {len(expected)}: {', '.join(told)}" if told else ""


def _spelled(label: str) -> str:
    return re.sub(r"^([CD])[0*]", r"\1inf", label)


def work(molecules: Molecules) -> Work:
    """Positions and numbers in, results out; each operation found turns each atom once and compares it."""
    sym = molecules.find()
    outputs = (sym.operations, sym.permutations, sym.perm_ptr, sym.residuals, sym.orbits)
    given = tensor_bytes(molecules.positions, molecules.numbers, molecules.ptr)
    return Work(given + tensor_bytes(*outputs), 23 * len(sym.permutations), max(map(tensor_bytes, outputs)))
