"""How well frames normalise molecules: Table 4 of the paper on symmetry breaking and SANN.

A molecule and its copies, turned and moved at random, should have the same canonical form. The error is the earth
mover's distance (EMD) between the form of the molecule and that of a copy: the mean over atoms of the distance, with
the best assignment of atoms to each other, exact. It is averaged over copies, then over the molecules of one rank: 1
line, 2 plane, 3, with singular values of the centred positions above 0.01 Å. Deterministic: nothing is trained.

What the paper does not say, and what is done here:
- whether atoms of different species may be assigned to each other: they may ("emd"); "emd-typed" does not let them.
- whether ranks are those of centred positions: they are; "emd-uncentered" takes positions as they lie in the file.
- whether copies are reflected or their atoms reordered: they are not; "emd-o3" and "emd-permuted" do so.
- the signs of principal axes: "PCA" leaves them as LAPACK returns them, "PCA sign-fixed" makes third moments positive.
- what becomes of molecules for which a construction breaks down: they count with the EMD of no frame at all, and in
  "failures".
- the unit, taken to be Å, and which part of QM9: here all but the uncharacterized molecules if `symkern fetch qm9` got
  them, else what the data holds, in file precision; only rows of the former are "full".

ASUN is written after its description (`symkern.experiments.sann.asun`). On QM9 it is exact to rounding, unlike the
paper's (0.02826 Å at rank 3), whose code and settings are not known: here all that is compared is first rounded to the
tolerance, and only a sample of rank 3 is tried, which can miss rare break-downs, such as 2 of 73 molecules in G2.
"ASUN+" is the paper's own version, whose changes it does not describe: the row of that name has its figures beside
those of `symkern.canonicalize`. AE is only quoted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from symkern.data import archive, find
from symkern.data.qm9_xyz import MOLECULES, UNCHARACTERIZED
from symkern.experiments import cells, record
from symkern.experiments.sann import frame_errors
from symkern.experiments.sann.frame_errors import MODELS, TOLERANCE, Molecule, Scores, ranks_of
from symkern.nn.basic import check_positive

NAME = "sann-table4"
COPIES = 16
# (rank 1, rank 2, rank 3) of Table 4; "PCA" is quoted in the row of PCA with LAPACK's signs
PUBLISHED = {
    "PCA": (0.00014, 0.01793, 0.82758),
    "ASUN": (0.00014, 0.00008, 0.02826),
    "ASUN+": (0.0, 0.0, 0.00009),
}
QUOTED = {"AE": (1.15122, 0.037539, 0.03178)}
SOURCE = "Table 4 of the paper, QM9"
CONSTRUCTION = {"ASUN+": "symkern.canonicalize"}  # what stands for a model of the paper
EXACT = 1e-5  # Å: what counts as the same form
ASUN_MOLECULES = 300  # of QM9: it takes a second for a molecule and its copies
TOGETHER = 100  # molecules of a cell


def run(
    data: Path | str | None,
    out: Path,
    *,
    quick: bool = False,
    seeds: int | None = None,
    device: str = "cpu",
    workers: int = 1,
    progress: bool = True,
    molecules: int = ASUN_MOLECULES,
) -> dict[str, Any]:
    """Score all frames on G2 (from ASE) and, where it is given, on QM9; write ``out/sann-table4.json`` and a plot.

    Args:
        data: ``qm9.npz``, or ``qm9_20k.npz`` (and ``qm9_extra_29k.npz``), or the folder that holds them; SYMKERN_DATA
            by default. Without either only G2 is run.
        quick: 4 copies of each molecule instead of 16, and 130 molecules of QM9.
        seeds: how many sets of copies; 1 by default, as nothing is trained.
        molecules: how many of QM9's are tried with ASUN, which is slow: chosen at random, besides all of rank below 3.
        device: where `symkern.canonicalize` runs.

    Raises:
        FileNotFoundError: `data` is given and holds no QM9.
        CellError: parts that failed; the others are kept.
    """
    seeds = 1 if seeds is None else seeds
    check_positive(seeds=seeds)
    files = _files(data)
    sets = {"g2": _g2(), "qm9": _qm9(files)}
    available = len(sets["qm9"])
    whole = ("g2", "qm9") if available == MOLECULES - UNCHARACTERIZED else ("g2",)
    low = [m for m, rank in zip(sets["qm9"], ranks_of(sets["qm9"]), strict=True) if rank < 3]
    if quick:
        sets["qm9"] = _sample(sets["qm9"], 100, low[:30])
    asun = {"g2": sets["g2"], "qm9": sets["qm9"] if quick else _sample(sets["qm9"], molecules, low)}
    sets = {name: members for name, members in sets.items() if members}
    shared = {"files": files, "digest": cells.digest(*files), "copies": 4 if quick else COPIES, "device": device}
    plan = {(of, seed): _cells(of, sets[of], asun[of], seed, shared) for of in sets for seed in range(seeds)}
    todo = [cell for part in plan.values() for cell in part]
    folder = out / "cells" / (NAME + "-quick" * quick)
    results = cells.run(todo, folder, workers=workers, progress=progress, label=NAME)
    scored = {key: _joined([results[cell.key] for cell in part]) for key, part in plan.items()}
    rows = [
        row
        for of, members in sets.items()
        for row in _rows(of, members, [scored[of, seed] for seed in range(seeds)], full=not quick and of in whole)
    ]
    settings = {
        "copies": shared["copies"],
        "tolerance": TOLERANCE,
        "molecules": {name: len(members) for name, members in sets.items()},
        "molecules_asun": {name: len(asun[name]) for name in sets},
        "qm9_available": available,
        "emd": "mean over atoms, exact assignment, species-blind, Å",
        "rank": "singular values of centred positions above the tolerance",
        "failure": "counts with the EMD of the identity as frame",
        "quoted": {
            model: dict(zip(("rank1", "rank2", "rank3"), figures, strict=True)) for model, figures in QUOTED.items()
        },
        "source": SOURCE,
        "notes": (__doc__ or "").strip().splitlines(),
        "findings": findings(rows),
    }
    content = record.write(out / f"{NAME}.json", NAME, cells.commits(results), settings, rows)
    _plot(out / f"{NAME}.png", sets, {of: scored[of, 0] for of in sets})
    return content


def findings(rows: Sequence[record.Row]) -> list[str]:
    """Largest figures, a sentence for each set of molecules."""
    found = {(row.model, row.column): row for row in rows}
    lines = []
    for name, title in {"g2": "G2", "qm9": "QM9"}.items():
        parts = []
        for model in ("ASUN+", "PCA", "PCA sign-fixed", "ASUN"):
            of_rank = [found.get((model, f"{name}/rank{rank}/emd")) for rank in (1, 2, 3)]
            shown = " / ".join("-" if row is None else f"{max(row.notes['largest']):.2g}" for row in of_rank)
            parts.append(f"{record.named(model, CONSTRUCTION.get(model))} {shown}")
        if any(column.startswith(name) for _, column in found):
            lines.append(
                f"{title}: the largest EMD of any molecule between its canonical form and those of its turned copies, "
                f"in Å, rank 1 / 2 / 3: {', '.join(parts)}."
            )
    lines.append(
        "ASUN: our code after its description, on a sample of QM9; that of the paper, with 0.02826 Å at rank 3, is not "
        "known and thus not reproduced."
    )
    return lines


# ---- cells -----------------------------------------------------------------------------------------------------------


def _cells(
    name: str, members: Sequence[Molecule], asun: Sequence[Molecule], seed: int, shared: Mapping[str, Any]
) -> list[cells.Cell]:
    """One for every `TOGETHER` molecules of a set, in their order."""
    slow = {m.identity for m in asun}
    found = []
    for begin in range(0, len(members), TOGETHER):
        ids = [m.identity for m in members[begin : begin + TOGETHER]]
        chosen = {"of": name, "ids": ids, "asun": [k for k in ids if k in slow], "seed": seed}
        found.append(cells.Cell(f"{name}/{seed}/{begin}", score, {**shared, **chosen}))
    return found


def score(
    files: Sequence[str],
    digest: str,
    of: str,
    ids: Sequence[int],
    asun: Sequence[int],
    copies: int,
    seed: int,
    device: str,
) -> dict[str, Any]:
    """One cell: what `Scores` holds, for each model."""
    members = {m.identity: m for m in (_g2() if of == "g2" else _qm9(files))}
    found = frame_errors.score([members[k] for k in ids], copies, seed, device, slow=set(asun))
    return {model: asdict(scores) for model, scores in found.items()}


def _joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Scores]:
    joined = {model: Scores() for model in MODELS}
    for part in parts:
        for model in MODELS:
            joined[model].extend(Scores(**part[model]))
    return joined


# ---- data ------------------------------------------------------------------------------------------------------------


def _g2() -> list[Molecule]:
    from ase.build import molecule
    from ase.collections import g2

    atoms = [molecule(name) for name in g2.names]
    return [Molecule(a.positions, a.numbers.astype(np.int64), k) for k, a in enumerate(atoms)]


def _files(data: Path | str | None) -> list[str]:
    """All of QM9 if it is there, else the parts of it."""
    found = find(data)
    for names in (("qm9.npz",), ("qm9_20k.npz", "qm9_extra_29k.npz")):
        files = [str(path) for path in found if path.name in names]
        if files:
            return files
    if data is not None:
        raise FileNotFoundError(f"neither qm9.npz nor qm9_20k.npz found in {data}; symkern fetch qm9 gets the former")
    return []


def _qm9(files: Sequence[str]) -> list[Molecule]:
    return [molecule for file in files for molecule in _read(file)]


@lru_cache(maxsize=2)
def _read(file: str) -> list[Molecule]:
    arrays = archive.ragged(Path(file), ["gdb_id"])
    z, pos, ptr, names = (arrays[key] for key in ("z", "pos", "ptr", "gdb_id"))
    z, pos = z.astype(np.int64), pos.astype(np.float64)
    return [
        Molecule(pos[begin:end], z[begin:end], int(name))
        for begin, end, name in zip(ptr[:-1], ptr[1:], names, strict=True)
    ]


def _sample(members: list[Molecule], count: int, more: list[Molecule]) -> list[Molecule]:
    """`count` at random, and `more`, in the order of `members`."""
    chosen = {members[i].identity for i in np.random.default_rng(0).permutation(len(members))[:count]}
    chosen |= {m.identity for m in more}
    return [m for m in members if m.identity in chosen]


# ---- what is written -------------------------------------------------------------------------------------------------


def _rows(name: str, members: list[Molecule], results: list[dict[str, Scores]], *, full: bool) -> list[record.Row]:
    centered, plain = ranks_of(members), ranks_of(members, centered=False)
    rows = []
    for model in MODELS:
        for rank in (1, 2, 3):
            columns = {
                "emd": ("so3", centered),
                "emd-typed": ("typed", centered),
                "emd-permuted": ("permuted", centered),
                "emd-o3": ("o3", centered),
                "emd-uncentered": ("so3", plain),
            }
            for column, (kind, of_rank) in columns.items():
                chosen = (of_rank == rank) & ~np.isnan(results[0][model].emd["so3"])
                if not chosen.any():
                    continue
                values = [np.array(result[model].emd[kind])[chosen] for result in results]
                published = PUBLISHED[model][rank - 1] if model in PUBLISHED and name == "qm9" else None
                notes: dict[str, Any] = {
                    "construction": CONSTRUCTION.get(model, model),
                    "unit": "Å",
                    "molecules": int(chosen.sum()),
                    "inexact": [int((v > EXACT).sum()) for v in values],
                    "largest": [float(v.max()) for v in values],
                    "failures": [int(np.array(result[model].failed)[chosen].sum()) for result in results],
                    "source": SOURCE if published is not None else None,
                }
                runs = [float(v.mean()) for v in values]
                complete = full and bool(chosen.sum() == (of_rank == rank).sum())  # ASUN is tried with a sample
                rows.append(record.Row(model, f"{name}/rank{rank}/{column}", published, runs, complete, notes))
                if column == "emd":
                    share = [count / int(chosen.sum()) for count in notes["failures"]]
                    named = {"construction": CONSTRUCTION.get(model, model)}
                    rows.append(record.Row(model, f"{name}/rank{rank}/failures", None, share, complete, named))
    return rows


def _plot(path: Path, sets: dict[str, list[Molecule]], scored: dict[str, dict[str, Scores]]) -> None:
    """For each set and rank the share of molecules with an EMD below x."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(sets), 3, figsize=(10, 3 * len(sets)), sharex=True, sharey=True, squeeze=False)
    for line, (name, members) in zip(axes, sets.items(), strict=True):
        ranks = ranks_of(members)
        for rank, axis in zip((1, 2, 3), line, strict=True):
            for model in MODELS:
                values = np.array(scored[name][model].emd["so3"])[ranks == rank]
                values = np.sort(values[~np.isnan(values)])
                label = record.named(model, CONSTRUCTION.get(model))
                axis.step(
                    [1e-16, *values.clip(1e-16), 10],
                    [0, *np.arange(1, len(values) + 1) / max(len(values), 1), 1],
                    where="post",
                    label=label,
                )
            axis.axvline(EXACT, color="gray", linewidth=0.5, label=f"{EXACT:g} Å, below: same form")
            axis.set(xscale="log", title=f"{name}, rank {rank}: {int((ranks == rank).sum())} molecules")
    for axis in axes[-1]:
        axis.set_xlabel("EMD between canonical forms, Å")
    for line in axes:
        line[0].set_ylabel("share of molecules")
    axes[0][0].legend(fontsize="small", loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
