"""Point groups of the 162 molecules of ASE's G2 collection, as three independent programs see them.

    python make_point_groups.py        writes point_groups_g2.json beside this file

Written with pymsym 0.3.5 (libmsym, thresholds as it comes), pymatgen-core 2026.10.16 (PointGroupAnalyzer, 0.1 Å on
positions) and molsym 1.3.0 (tolerance 0.01 on positions and moments of inertia), none of which symkern needs.
The label is that of the majority; nothing else decides. `different` keeps every vote that lost.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import warnings
from collections import Counter
from pathlib import Path

from ase import Atoms
from ase.collections import g2

HERE = Path(__file__).resolve().parent
PYMATGEN_TOLERANCE, MOLSYM_TOLERANCE = 0.1, 0.01  # Å
SPELLED = {"D0h": "Dinfh", "C0v": "Cinfv", "D*h": "Dinfh", "C*v": "Cinfv", "K": "Kh", "C1h": "Cs", "S2": "Ci"}


def by_pymsym(atoms: Atoms) -> str:
    from pymsym import get_point_group

    return str(get_point_group(atoms.numbers.tolist(), atoms.positions.tolist()))


def by_pymatgen(atoms: Atoms) -> str:
    from pymatgen.core import Molecule
    from pymatgen.symmetry.analyzer import PointGroupAnalyzer

    molecule = Molecule(atoms.get_chemical_symbols(), atoms.positions)
    return str(PointGroupAnalyzer(molecule, tolerance=PYMATGEN_TOLERANCE).sch_symbol)


def by_molsym(atoms: Atoms) -> str:
    import molsym

    molecule = molsym.Molecule(atoms.get_chemical_symbols(), atoms.positions, atoms.get_masses())
    molecule.tol = MOLSYM_TOLERANCE
    molecule.translate(molecule.find_com())
    return str(molsym.find_point_group(molecule)[0])


PROGRAMS = {"pymsym": by_pymsym, "pymatgen": by_pymatgen, "molsym": by_molsym}


def vote(atoms: Atoms, program: str) -> str:
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            label = PROGRAMS[program](atoms)
    except Exception as error:
        return f"error: {type(error).__name__}"
    return SPELLED.get(label, re.sub(r"\s", "", label))


def main() -> None:
    labels, different = {}, {}
    for name in g2.names:
        votes = {program: vote(g2[name], program) for program in PROGRAMS}
        (label, count), *_ = Counter(votes.values()).most_common()
        if count < 2:
            raise SystemExit(f"{name}: no two programs agree: {votes}")
        labels[name] = label
        lost = {program: other for program, other in votes.items() if other != label}
        if lost:
            different[name] = lost
    result = {
        "tolerances": {"pymsym": "default", "pymatgen": PYMATGEN_TOLERANCE, "molsym": MOLSYM_TOLERANCE},
        "labels": labels,
        "different": different,
    }
    (HERE / "point_groups_g2.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(labels)} labels; votes that lost: {different}")


if __name__ == "__main__":
    main()
