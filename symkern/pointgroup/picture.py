"""A molecule with its symmetry as a picture in a file."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from symkern._check import check_instance
from symkern._files import replacing
from symkern.pointgroup.scene import scene
from symkern.stabilizer import Stabilizers

SUFFIXES = (".png", ".html")


def symmetry_picture(path: str | PathLike[str], sym: Stabilizers, index: int = 0) -> Path:
    """Write a picture of a molecule with its rotation and rotoreflection axes, mirror planes and centre of inversion.

    PNG (needs matplotlib), or one HTML file, without anything fetched from elsewhere, where the molecule can be turned
    and every kind of axis and plane switched on and off. Elements have the colours of Jmol; bonds are drawn between
    atoms no farther apart than 1.2 times the sum of their covalent radii. The main axis points up.

    Args:
        path: of the file; its suffix decides: ``.png`` or ``.html``. An existing file is replaced.
        sym: from `symkern.stabilizers`.
        index: which molecule of `sym`.

    Returns:
        The path.

    Raises:
        TypeError: `sym` is not Stabilizers.
        ValueError: another suffix.
        IndexError: there is no such molecule.
        ModuleNotFoundError: ASE, or for PNG matplotlib, is not installed.
    """
    check_instance("sym", sym, Stabilizers, "symkern.stabilizers")
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"path must end in .png or .html, got {path.name}")
    shown = scene(sym, index)
    if path.suffix.lower() == ".png":
        from symkern.pointgroup.png import png

        content = png(shown)
    else:
        from symkern.pointgroup.html import html

        content = html(shown).encode()
    with replacing(path) as file:
        file.write(content)
    return path
