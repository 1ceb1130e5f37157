"""Data of the tables: fetched from where they were published and written as the loaders read them.

qm9     qm9.npz                    Ramakrishnan et al., doi:10.1038/sdata.2014.22
rmd17   rmd17_<molecule>.npz       Christensen and von Lilienfeld, doi:10.1088/2632-2153/abba6f, official split 1
qm7x    1000.hdf5 ... 8000.hdf5    Hoja et al., doi:10.1038/s41597-021-00812-2
"""

from __future__ import annotations

import bz2
import io
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from symkern import _files
from symkern.data import qm9_xyz
from symkern.data.archive import Arrays
from symkern.data.download import CHUNK, FetchError, Source, download, progress, verify
from symkern.data.files import existing
from symkern.data.structures import DataError

_MOLECULES = (
    *("aspirin", "azobenzene", "benzene", "ethanol", "malonaldehyde"),
    *("naphthalene", "paracetamol", "salicylic", "toluene", "uracil"),
)
_SPLITS = {"index_train_01.csv": "train", "index_test_01.csv": "test"}
_HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Part:
    """What is made of some sources: names of files, and how to write them, which returns a line about them."""

    sources: tuple[Source, ...]
    products: tuple[str, ...]
    convert: Callable[[Sequence[Path], Path], str]


def fetch(name: str, to: Path, given: Sequence[Path] = ()) -> list[Path]:
    """Fetch what is not there yet, convert it, and say so; returns the files that tables read.

    Args:
        name: one of `SETS`.
        to: the folder for them and for the published files, which may be deleted afterwards.
        given: published files that were fetched by hand, under their own names. Only what needs them is made.

    Raises:
        ValueError: another name.
        FetchError: no network, an answer that is not the file, no space; the message names the URL or the folder.
        DataError: a file that is damaged, or not what it should be.
    """
    if name not in SETS:
        raise ValueError(f"name must be one of {', '.join(SETS)}, got {name!r}")
    by_name = {existing(path).name: path for path in given}
    known = [source.name for part in SETS[name] for source in part.sources]
    if unknown := sorted(set(by_name) - set(known)):
        raise DataError(f"files given for {name} must be named {', '.join(known)}, got {', '.join(unknown)}")
    made = []
    try:
        to.mkdir(parents=True, exist_ok=True)
        for part in SETS[name]:
            if given and not any(source.name in by_name for source in part.sources):
                continue
            products = [to / product for product in part.products]
            made += products
            shown = f"{products[0]}" + (f" ... {products[-1].name}" if len(products) > 1 else "")
            if all(product.is_file() for product in products):
                print(f"{shown}: already there", flush=True)
                continue
            paths = [_obtain(source, by_name.get(source.name, to / source.name), to) for source in part.sources]
            print(f"{shown}: {part.convert(paths, to)}", flush=True)
    except FetchError as error:
        files = " ".join(source.name for source in part.sources)
        raise FetchError(
            f"{error}\nThe same command goes on where it stopped. By hand: get {files} from {PAGES[name]} and call "
            f"symkern fetch {name} --from {files}"
        ) from error
    except BrokenPipeError:  # of standard output
        raise
    except OSError as error:
        where = error.filename or to
        raise FetchError(f"{where}: {error.strerror or error}; make space, or choose another folder (--to)") from error
    return made


def _obtain(source: Source, path: Path, to: Path) -> Path:
    """The published file at `path`, else in `to`, fetched."""
    if path.is_file():
        verify(path, source.md5)
        return path
    return download(source, to)


# ---- conversion ------------------------------------------------------------------------------------------------------


def _qm9(paths: Sequence[Path], to: Path) -> str:
    archive, listed = paths
    left_out = qm9_xyz.uncharacterized(listed.read_text(encoding="utf-8", errors="replace"))
    texts = members(archive, lambda name: name.startswith("dsgdb9nsd_") and name.endswith(".xyz"))
    found = [qm9_xyz.parse(text.decode(errors="replace"), f"{archive}: {name}") for name, text in texts]
    kept = [molecule for molecule in found if molecule.identity not in left_out]
    wanted = qm9_xyz.MOLECULES, qm9_xyz.UNCHARACTERIZED
    if (len(found), len(found) - len(kept)) != wanted:
        raise DataError(
            f"{archive}, {listed}: expected {wanted[0]} molecules, {wanted[1]} of them uncharacterized, "
            f"found {len(found)}, {len(found) - len(kept)} of them uncharacterized"
        )
    _write(to / "qm9.npz", qm9_xyz.arrays(kept))
    return f"{len(kept)} molecules; the {wanted[1]} uncharacterized ones are left out"


def _rmd17(paths: Sequence[Path], to: Path) -> str:
    (archive,) = paths
    rows = {_SPLITS[name]: np.loadtxt(io.BytesIO(text), dtype=np.int64) for name, text in _all(archive, _SPLITS)}
    names = [f"rmd17_{molecule}.npz" for molecule in _MOLECULES]
    for name, content in _all(archive, [name for name in names if not (to / name).is_file()]):
        try:
            _write(to / name, _frames(content, rows))
        except (KeyError, IndexError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"{archive}: {name}: expected an archive of revised MD17 ({error})") from error
    frames = ", ".join(f"{len(chosen)} {split}" for split, chosen in rows.items())
    return f"{len(names)} molecules, {frames} frames each (official split 1)"


def _frames(content: bytes, rows: Mapping[str, NDArray[np.int64]]) -> Arrays:
    """The frames of both splits, with positions and forces in float32."""
    with np.load(io.BytesIO(content), allow_pickle=False) as raw:
        whole = {
            "pos": raw["coords"].astype(np.float32),
            "energy": raw["energies"].astype(np.float64),
            "forces": raw["forces"].astype(np.float32),
            "old_index": raw["old_indices"].astype(np.int64),
        }
        arrays: Arrays = {"z": raw["nuclear_charges"].astype(np.int8)}
    for split, chosen in rows.items():
        arrays |= {f"{split}_{key}": array[chosen] for key, array in whole.items()}
    return arrays


def _qm7x(paths: Sequence[Path], to: Path) -> str:
    (archive,) = paths
    chunks = _unpacked(archive)
    first = next(chunks, b"")
    if not first.startswith(_HDF5):
        raise DataError(f"{archive}: expected HDF5 in it, found something else")
    with _files.replacing(to / f"{archive.stem}.hdf5") as file:
        file.writelines(chain([first], chunks))
        size = file.tell()
    return f"{size / 1e6:.0f} MB"


def _unpacked(archive: Path) -> Iterator[bytes]:
    with archive.open("rb") as raw, lzma.open(raw) as plain, progress(f"unpacking {archive.name}", _size(raw)) as watch:
        try:
            while chunk := plain.read(CHUNK):
                yield chunk
                watch(raw.tell())
        except (EOFError, lzma.LZMAError) as error:
            raise _damaged(archive, error) from error


def members(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Names (without folders) and contents of the files in a .tar.bz2 whose name is wanted, one after the other.

    Nothing is unpacked to disk, so that no name can lead anywhere.

    Raises:
        DataError: damaged or cut off, or a member claims a place outside of the archive.
    """
    with archive.open("rb") as raw, progress(f"reading {archive.name}", _size(raw)) as watch:
        try:
            with tarfile.open(fileobj=bz2.open(raw), mode="r|") as tar:
                while (member := tar.next()) is not None:
                    vars(tar)["members"].clear()  # it would keep all it has seen, a hundred thousand here
                    path = PurePosixPath(member.name)
                    if path.is_absolute() or ".." in path.parts:
                        raise DataError(f"{archive}: member {member.name!r} claims a place outside of the archive")
                    file = tar.extractfile(member) if member.isreg() and wanted(path.name) else None
                    if file is not None:
                        yield path.name, file.read()
                    watch(raw.tell())
        except (EOFError, OSError, tarfile.TarError) as error:
            raise _damaged(archive, error) from error


def _all(archive: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The members of these names; at last DataError if some are missing."""
    missing = set(names)
    for name, content in members(archive, lambda name: name in missing) if missing else ():
        missing.remove(name)
        yield name, content
        if not missing:
            return
    if missing:
        raise DataError(f"{archive}: expected {', '.join(sorted(missing))} in it")


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _damaged(archive: Path, error: Exception) -> DataError:
    return DataError(f"{archive}: damaged or cut off ({error}); delete it and fetch it again")


def _write(path: Path, arrays: Arrays) -> None:
    with _files.replacing(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


# ---- what there is ---------------------------------------------------------------------------------------------------


def _figshare(number: int) -> tuple[str, ...]:
    """Not figshare.com/ndownloader, which asks for a browser."""
    return f"https://ndownloader.figshare.com/files/{number}", f"https://api.figshare.com/v2/file/download/{number}"


# 6000.xz: public lists differ in one digit; like all of xz it has a checksum in itself
_QM7X = {
    "1000": "b50c6a5d0a4493c274368cf22285503e",
    "2000": "4418a813daf5e0d44aa5a26544249ee6",
    "3000": "f7b5aac39a745f11436047c12d1eb24e",
    "4000": "26819601705ef8c14080fa7fc69decd4",
    "5000": "85ac444596b87812aaa9e48d203d0b70",
    "6000": None,
    "7000": "5ecce00a188410d06b747cb683d8d347",
    "8000": "c893ae88b8f5c32541c3f024fc1daa45",
}
_QM9 = (
    Source("dsgdb9nsd.xyz.tar.bz2", _figshare(3195389), "ad1ebd51ee7f5b3a6e32e974e5d54012"),
    Source("uncharacterized.txt", _figshare(3195404), "a361887bacb427b8a0ce7903d92a53b4"),
)
_MIRROR = "https://archive.materialscloud.org/records/pfffs-fff86/files/rmd17.tar.bz2"
_RMD17 = Source("rmd17.tar.bz2", (*_figshare(23950376), _MIRROR), "cb1a927628d96f2e966025da4fb63d18")
SETS: dict[str, tuple[Part, ...]] = {
    "qm9": (Part(_QM9, ("qm9.npz",), _qm9),),
    "rmd17": (Part((_RMD17,), tuple(f"rmd17_{molecule}.npz" for molecule in _MOLECULES), _rmd17),),
    "qm7x": tuple(
        Part((Source(f"{n}.xz", (f"https://zenodo.org/records/4288677/files/{n}.xz",), md5),), (f"{n}.hdf5",), _qm7x)
        for n, md5 in _QM7X.items()
    ),
}
PAGES = {
    "qm9": "https://doi.org/10.6084/m9.figshare.c.978904.v5",
    "rmd17": "https://doi.org/10.6084/m9.figshare.12672038.v3",
    "qm7x": "https://doi.org/10.5281/zenodo.4288677",
}
