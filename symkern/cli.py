"""The command line.

A command is one function that adds its arguments to a parser and returns what to run; its docstring is its help.
Heavy imports belong inside the returned function: ``--help`` and ``--version`` never import torch.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from symkern import __version__

Run = Callable[[argparse.Namespace], int]

# optional package -> the extra of symkern that brings it
_EXTRAS = {
    "ase": "demo",
    "matplotlib": "demo",
    "rich": "demo",
    "scipy": "demo",
    "sklearn": "reproduce",
    "h5py": "reproduce",
    "pytest": "bench",
    "pytest_benchmark": "bench",
}


def _info(parser: argparse.ArgumentParser) -> Run:
    """versions, instruction set, CUDA, and which ops have which kernels"""
    parser.add_argument("--json", action="store_true", help="machine-readable")

    def run(args: argparse.Namespace) -> int:
        from symkern import info

        found = info.collect()
        print(json.dumps(found, indent=2) if args.json else info.text(found))
        return 1 if info.problems(found) else 0

    return run


def _demo(parser: argparse.ArgumentParser) -> Run:
    """the main job on real input, checked live against ASE and finite differences, with a report"""
    parser.add_argument("--data", type=Path, metavar="PATH", help="files to run too (default: SYMKERN_DATA)")
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path("symkern_demo"), help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="systems of a few thousand atoms, in seconds")

    def run(args: argparse.Namespace) -> int:
        from symkern import data
        from symkern.demo import run as demo

        try:
            paths = data.find(args.data)
            files = [data.read(path) for path in paths]
            args.out.mkdir(parents=True, exist_ok=True)
            return demo.run(files, args.out, paths=paths, quick=args.quick)
        except data.DataError as error:
            parser.error(str(error))
        except OSError as error:
            parser.error(f"--out: {error}")

    return run


def _bench(parser: argparse.ArgumentParser) -> Run:
    """timings beside the peers; further arguments go to pytest, e.g. `symkern bench -k neighbor_list`"""
    parser.set_defaults(rest=[])

    def run(args: argparse.Namespace) -> int:
        import pytest
        import pytest_benchmark  # type: ignore[import-untyped,unused-ignore]  # noqa: F401  (a plugin: fails here if missing)

        folder = _benchmarks()
        if folder is None:
            print("symkern: found no benchmarks beside the package or in it", file=sys.stderr)
            return 1
        # no cache directory: the folder may belong to an installation
        options = ["-p", "no:cacheprovider", "-o", "python_files=bench_*.py test_*.py", str(folder)]
        return int(pytest.main([*options, *args.rest]))

    return run


def _train(parser: argparse.ArgumentParser) -> Run:
    """train a potential on energies and forces; several processes: torchrun --nproc-per-node N -m symkern train ..."""
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help=".npz, extended XYZ, an ASE database, or what else ASE reads")
    add("--out", type=Path, metavar="DIR", required=True, help="where potential.pt and the logs go")
    add("--test", type=Path, metavar="FILE", help="test on this file instead of a part of FILE")
    add("--split", metavar="NAME", help="which frames of an archive: train for the arrays train_pos, train_energy, ...")
    add("--test-split", metavar="NAME", help="test on these frames of the archive")
    add("--energy", metavar="KEY", help="name of the energies in the file, if it is not energy")
    add("--forces", metavar="KEY", help="name of the forces in the file, if it is not forces")
    add("--stress", metavar="KEY", help="name of the stress in the file, if it is not stress")
    add("--energy-unit", metavar="UNIT", help="eV, Ha, kcal/mol ...; needed where the file does not say")
    add(
        "--sizes", nargs="+", default=["0.8", "0.1", "0.1"], help="training, validation, test: fractions, numbers, rest"
    )
    add("--model", choices=("schnet", "egnn", "dimenet++", "painn"), default="schnet", help="default: %(default)s")
    add("--hidden", type=int, default=64, help="features per atom, default: %(default)s")
    add("--layers", type=int, default=4, help="default: %(default)s")
    add("--cutoff", type=float, default=5.0, help="Å, default: %(default)s")
    add("--epochs", type=int, default=200, help="default: %(default)s")
    add("--batch-size", type=int, default=10, help="default: %(default)s")
    add("--learning-rate", type=float, default=1e-3, help="at its highest, default: %(default)s")
    add("--energy-weight", type=float, default=0.01, help="default: %(default)s")
    add("--forces-weight", type=float, default=1.0, help="0 where there are no forces, default: %(default)s")
    add("--stress-weight", type=float, default=0.0, help="default: %(default)s")
    add("--schedule", choices=("cosine", "constant", "linear", "exponential", "plateau"), default="cosine")
    add("--decay-epochs", type=int, metavar="N", help="where the schedule ends, for runs to be prolonged by --resume")
    add("--warmup-steps", type=int, default=100, help="updates over which the rate rises, default: %(default)s")
    add("--ema", type=float, default=0.999, help="decay of the averaged weights, default: %(default)s")
    add("--clip", type=float, default=100.0, help="largest norm of the gradient, default: %(default)s")
    add("--patience", type=int, metavar="N", help="stop after N validations without improvement")
    add("--precision", choices=("fp32", "fp64", "bf16", "fp16"), default="fp32", help="default: %(default)s")
    add("--seed", type=int, default=0, help="default: %(default)s")
    add("--device", default="cpu", help="default: %(default)s")
    add("--resume", action="store_true", help="continue the run in DIR")

    def run(args: argparse.Namespace) -> int:
        from symkern.training import command

        return command.run(args)

    return run


def _pointgroup(parser: argparse.ArgumentParser) -> Run:
    """point groups of molecules in files of any format that ASE reads, with symmetrised copies and pictures"""
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="file, directory or pattern; - for XYZ on standard input")
    add(
        "--tolerance", type=_length, metavar="Å", default=0.01, help="how far an atom may miss its image, default: 0.01"
    )
    policies = (
        "where the operations within the tolerance form no group: a large one of them, all, or what they generate"
    )
    add("--policy", choices=("closed", "raw", "generate"), default="closed", help=f"{policies}; default: closed")
    add("--index", type=_frames, default=":", help="frames as ASE writes them: 0, -1, ::10; default: all")
    add("--format", choices=("table", "json"), default="table", help="json: operations, permutations, orbits, elements")
    add("--symmetrize", type=Path, metavar="OUT", help="write structures with exact symmetry to this file or directory")
    add("--picture", type=Path, metavar="OUT", help="draw axes and planes to this .png or .html file, or directory")
    add("--picture-format", choices=("png", "html"), default="png", help="of pictures in a directory, default: png")
    add("--input-format", metavar="NAME", help="ASE's name of the format, if the file does not tell")
    add("--output-format", metavar="NAME", help="of --symmetrize, if the file's suffix does not tell")
    add("--force", action="store_true", help="replace files that exist")

    def run(args: argparse.Namespace) -> int:
        if args.symmetrize and args.policy == "raw":
            parser.error("--symmetrize needs operations that form a group: --policy closed or generate")
        import ase  # noqa: F401  (named if it is missing)

        from symkern.pointgroup import command

        return command.run(args)

    return run


def _length(text: str) -> float:
    """A positive length, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive length in Å, got {text}")
    return value


def _frames(text: str) -> str:
    """A number or a slice, for argparse."""
    if not re.fullmatch(r"-?\d+|-?\d*:-?\d*(:-?[1-9]\d*)?", text):
        raise argparse.ArgumentTypeError(f"must be a number or a slice such as 0, -1, 5:10 or ::10, got {text}")
    return text


def _reproduce(parser: argparse.ArgumentParser) -> Run:
    """rerun published results and put them beside ours, with one report of all that lies in the folder"""
    from symkern.experiments import NAMES

    add = parser.add_argument
    known = ", ".join(NAMES)
    add("name", metavar="NAME", help=f"{known}; all: all but rmd17-ethanol; report: only the page, nothing is run")
    add("--data", type=Path, metavar="PATH", help="file or folder of the data (default: SYMKERN_DATA)")
    add("--out", type=Path, metavar="DIR", default=Path("symkern_results"), help="default: %(default)s")
    add("--quick", action="store_true", help="about a minute for each; marked as reduced")
    add(
        "--full", action="store_true", help="sann-table3 by the paper's recipe, ten hours or more; not needed elsewhere"
    )
    add("--seeds", type=int, metavar="N", help="runs of each model, default: as many as the paper")
    add("--device", default="cpu", help="default: %(default)s")
    add("--workers", type=int, metavar="N", default=1, help="processes of one thread each, default: %(default)s")

    def run(args: argparse.Namespace) -> int:
        from symkern.experiments import command

        try:
            return command.run(args)
        except command.UsageError as error:
            parser.error(str(error))

    return run


def _fetch(parser: argparse.ArgumentParser) -> Run:
    """get published data of the tables and convert them for `symkern reproduce`"""
    add = parser.add_argument
    add("name", choices=("qm9", "rmd17", "qm7x"), metavar="NAME", help="qm9 (87 MB), rmd17 (1.1 GB) or qm7x (10 GB)")
    add("--to", type=Path, metavar="DIR", help="default: SYMKERN_DATA if it is set, else data")
    files = "published files that were fetched by hand, under their own names"
    add("--from", dest="given", type=Path, nargs="+", default=[], metavar="FILE", help=files)

    def run(args: argparse.Namespace) -> int:
        from symkern.data import DataError
        from symkern.data.fetch import fetch

        to = args.to or Path(os.environ.get("SYMKERN_DATA") or "data")
        try:
            fetch(args.name, to, args.given)
        except DataError as error:
            print(f"symkern: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("symkern: stopped; the same command goes on from here", file=sys.stderr)
            return 130
        print(f"symkern reproduce reads them with --data {to}")
        return 0

    return run


# the one list of commands
_COMMANDS: dict[str, Callable[[argparse.ArgumentParser], Run]] = {
    "info": _info,
    "demo": _demo,
    "bench": _bench,
    "train": _train,
    "pointgroup": _pointgroup,
    "reproduce": _reproduce,
    "fetch": _fetch,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code.

    Raises:
        SystemExit: from argparse, with code 2 for bad arguments, which it has explained on standard error.
    """
    parser = argparse.ArgumentParser(
        prog="symkern", description="Neural networks on molecules: what is here, and does it work?"
    )
    parser.add_argument("--version", action="version", version=f"symkern {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, add in _COMMANDS.items():
        command = commands.add_parser(name, help=add.__doc__, description=add.__doc__, allow_abbrev=False)
        command.set_defaults(run=add(command))
    args, rest = parser.parse_known_args(argv)
    if hasattr(args, "rest"):
        args.rest = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        code: int = args.run(args)
    except ModuleNotFoundError as error:
        reason = missing(error)
        if reason is None:
            raise
        print(f"symkern: this command needs {reason}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader is gone, as in `symkern info | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def missing(error: ModuleNotFoundError) -> str | None:
    """The optional package that is not there and how to get it; None if it is none of ours."""
    package = (error.name or "").partition(".")[0]
    return f"{package}: pip install 'symkern[{_EXTRAS[package]}]'" if package in _EXTRAS else None


def _benchmarks() -> Path | None:
    """The benchmark folder: in an installed wheel it lies in the package, in a source checkout beside it."""
    package = Path(__file__).parent
    for folder in (package / "benchmarks", package.parent / "benchmarks"):
        if any(folder.glob("bench_*.py")) or any(folder.glob("test_*.py")):
            return folder
    return None
