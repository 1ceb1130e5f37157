"""The command line.

A command is one function that adds its arguments to a parser and returns what to run; its docstring is its help.
Heavy imports belong inside the returned function: ``--help`` and ``--version`` never import torch.
"""

from __future__ import annotations

import argparse
import json
import os
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
            files = data.load(args.data)
            args.out.mkdir(parents=True, exist_ok=True)
            return demo.run(files, args.out, quick=args.quick)
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


# the one list of commands
_COMMANDS: dict[str, Callable[[argparse.ArgumentParser], Run]] = {
    "info": _info,
    "demo": _demo,
    "bench": _bench,
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
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        extra = _EXTRAS[package]
        print(f"symkern: this command needs {package}: pip install 'symkern[{extra}]'", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader is gone, as in `symkern info | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _benchmarks() -> Path | None:
    """The benchmark folder: in an installed wheel it lies in the package, in a source checkout beside it."""
    package = Path(__file__).parent
    for folder in (package / "benchmarks", package.parent / "benchmarks"):
        if any(folder.glob("bench_*.py")) or any(folder.glob("test_*.py")):
            return folder
    return None
