"""``symkern reproduce``: run experiments, print their tables, write the report."""

from __future__ import annotations

import argparse
import inspect
import sys
from typing import Any

from symkern import experiments
from symkern.cli import missing
from symkern.data import DataError
from symkern.experiments import cells, record, report


class UsageError(ValueError):
    """An experiment could not be run as it was asked for."""


def run(args: argparse.Namespace) -> int:
    """The exit code: 1 where cells failed, or `all` could not run everything; it says what and why.

    Raises:
        UsageError: unknown name, missing data, bad values. `all` goes on with the next table instead.
        ModuleNotFoundError: likewise, an optional package.
    """
    if args.name not in (*experiments.NAMES, "all", "report"):
        raise UsageError(f"name must be one of {', '.join(experiments.NAMES)}, all, report, got {args.name!r}")
    for name, value in (("--seeds", args.seeds), ("--workers", args.workers)):
        if value is not None and value < 1:
            raise UsageError(f"{name} must be positive, got {value}")
    _check_device(args.device)
    if args.quick and args.full:
        raise UsageError("--quick and --full exclude each other")
    names = {"all": experiments.ALL, "report": ()}.get(args.name, (args.name,))
    failed = []
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        for name in names:
            try:
                show(name, experiment(name, args))
            except (DataError, OSError, ValueError, ModuleNotFoundError, cells.CellError) as error:
                if (args.name != "all" and not isinstance(error, cells.CellError)) or not reason(error):
                    raise
                failed.append(f"{name}: {reason(error)}")
                print(f"\n{failed[-1]}", file=sys.stderr)
        if not names or len(failed) < len(names):
            print(f"\nreport: {report.build(args.out)}")
    except (DataError, OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    except KeyboardInterrupt:
        print(
            f"\nsymkern: interrupted; what is finished is kept in {args.out}, the same command goes on", file=sys.stderr
        )
        return 130
    if failed:
        short = "\n  ".join(line.partition("\n")[0] for line in failed)
        print(f"\nsymkern: {len(failed)} of {len(names)} not finished:\n  {short}", file=sys.stderr)
    return 1 if failed else 0


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        first = str(error).partition("\n")[0]
        raise UsageError(f"--device must be one that torch can use here, got {device!r}: {first}") from error


def experiment(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run one; what its JSON file holds. `full` is for those that are not the whole protocol by default."""
    function = experiments.load(name)
    chosen = {"quick": args.quick, "seeds": args.seeds, "device": args.device, "workers": args.workers}
    if "full" in inspect.signature(function).parameters:
        chosen["full"] = args.full
    content: dict[str, Any] = function(args.data, args.out, **chosen)
    return content


def show(name: str, content: dict[str, Any]) -> None:
    print(f"\n{experiments.TITLES[name]}")
    print(record.table(content, colored=sys.stdout.isatty()))


def reason(error: Exception) -> str | None:
    """What to tell; None for a module that is no optional package: a defect."""
    if not isinstance(error, ModuleNotFoundError):
        return str(error)
    package = missing(error)
    return None if package is None else f"this needs {package}"
