"""The files that the command writes: which, and how."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from symkern.pointgroup.analysis import Result
from symkern.pointgroup.inputs import STDIN

_OF_POSITIONS = re.compile(r"energy|energies|force|stress|virial|dipole", re.IGNORECASE)


class OutputError(ValueError):
    """An output that cannot be written as asked; the message says which and why."""


def is_directory(target: Path) -> bool:
    """Whether the target is to be a directory: it is one, or it has no suffix."""
    return target.is_dir() or (not target.exists() and target.suffix == "")


def structures(target: Path, files: Sequence[str], format: str | None, *, force: bool) -> dict[str, Path]:
    """Where the symmetrised structures of each file go.

    Raises:
        OutputError: several files for one target, or an existing target without `force`.
    """
    if is_directory(target):
        made = {file: target / _name(file, format) for file in files}
    elif len(files) == 1:
        made = {files[0]: target}
    else:
        raise OutputError(f"--symmetrize {target}: {len(files)} files need a directory")
    return _free(made, force)


def _name(file: str, format: str | None) -> str:
    """The file's own name, with the suffix of the format if one is asked for."""
    from ase.io.formats import ioformats

    path = Path("stdin.xyz" if file == STDIN else file)
    if format is not None:
        extensions = ioformats[format].extensions if format in ioformats else []
        return path.with_suffix("." + (extensions[0] if extensions else format)).name
    return path.with_suffix(".xyz").name if path.suffix == ".npz" else path.name


def pictures(target: Path, results: Sequence[Result], kind: str, *, force: bool) -> dict[int, Path]:
    """Where the picture of each result goes; raises as `structures` does."""
    if not is_directory(target):
        if target.suffix.lower() not in (".png", ".html"):
            raise OutputError(f"--picture {target}: expected a directory, or a file that ends in .png or .html")
        if len(results) != 1:
            raise OutputError(f"--picture {target}: {len(results)} structures need a directory")
        return _free({0: target}, force)
    single = {result.frame.file: 0 for result in results}
    for result in results:
        single[result.frame.file] += 1
    made = {}
    for k, result in enumerate(results):
        stem = "stdin" if result.frame.file == STDIN else Path(result.frame.file).stem
        number = f"-{result.frame.number}" if single[result.frame.file] > 1 else ""
        made[k] = target / f"{stem}{number}.{kind}"
    return _free(made, force)


def _free(made: dict[Any, Path], force: bool) -> dict[Any, Path]:
    seen: set[Path] = set()
    for path in made.values():
        if path in seen:
            raise OutputError(f"{path}: two inputs would be written to it; give them directories of their own")
        if path.exists() and not force:
            raise OutputError(f"{path}: exists already; --force replaces it")
        seen.add(path)
    return made


def symmetrised(results: Sequence[Result]) -> tuple[list[tuple[Any, float]], list[str]]:
    """Copies of the structures with exact symmetry, and the largest distance by which an atom of each moved, Å; and
    the names of what they lost, because it belongs to the old positions: energies, forces and the like."""
    import symkern

    positions: dict[int, Any] = {}  # of all molecules that were computed together
    made = []
    stale: set[str] = set()
    for result in results:
        sym = result.sym
        if id(sym) not in positions:
            positions[id(sym)] = symkern.symmetrize(sym)[0].double().cpu().numpy()
        new = positions[id(sym)][slice(*sym.ptr[result.index : result.index + 2].tolist())]
        atoms = result.frame.atoms.copy()  # without the calculator
        stale |= set(getattr(result.frame.atoms.calc, "results", {}))
        for held in (atoms.info, atoms.arrays):
            for name in [name for name in held if _OF_POSITIONS.search(str(name))]:
                stale.add(str(name))
                del held[name]
        moved = np.linalg.norm(new - atoms.get_positions(), axis=1)
        atoms.set_positions(new, apply_constraint=False)
        made.append((atoms, float(moved.max(initial=0))))
    return made, sorted(stale)


def write(path: Path, frames: Sequence[Any], format: str | None) -> None:
    """All frames to one file, whole or not at all.

    Raises:
        OutputError: ASE cannot write this format, or not these structures.
    """
    import ase.io
    from ase.io.formats import filetype

    partial = path.with_name(f".{uuid.uuid4().hex}.partial{path.suffix}")
    try:
        kind = format or filetype(path, read=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        ase.io.write(partial, list(frames) if len(frames) > 1 else frames[0], format=kind)
        os.replace(partial, path)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # each of ASE's writers fails in its own way
        reason = " ".join(str(error).split()) or "no reason given"
        raise OutputError(f"{path}: ASE cannot write it ({type(error).__name__}: {reason})") from error
    finally:
        partial.unlink(missing_ok=True)
