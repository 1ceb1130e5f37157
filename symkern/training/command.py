"""What ``symkern train`` does with its arguments."""

from __future__ import annotations

import argparse
import os
import sys

import torch

from symkern.data import DataError, Dataset
from symkern.training.objective import NonFiniteError
from symkern.training.recipe import NETWORKS, train_potential
from symkern.training.run import Result
from symkern.training.settings import Settings
from symkern.training.tasks import EnergyForces

# what error messages of the library call it -> the option of this command
_OPTIONS = {
    "split=": "--split ",
    "energy_unit=": "--energy-unit ",
    "energy=": "--energy ",
    "forces=": "--forces ",
    "resume=True": "--resume",
    "decay_epochs": "--decay-epochs",
    "needs the target 'forces'": "needs the target 'forces' (energies only: --forces-weight 0)",
    "no target 'forces'": "no target 'forces' (energies only: --forces-weight 0)",
}


def run(args: argparse.Namespace) -> int:
    """Train as told; bad input is explained on standard error, with exit code 2."""
    try:
        return _run(args)
    except NonFiniteError as error:
        return _refuse(str(error), 1)
    except (DataError, ValueError, OSError) as error:
        return _refuse(str(error), 2)
    except KeyboardInterrupt:
        where = args.out / "last.pt"
        saved = f"{where} holds the run: continue with --resume" if where.exists() else "nothing was saved"
        return _refuse(f"interrupted; {saved}", 130)


def _run(args: argparse.Namespace) -> int:
    labels = {"energy": args.energy, "forces": args.forces, "stress": args.stress, "energy_unit": args.energy_unit}
    data = Dataset.read(args.file, split=args.split, **labels)
    test = None
    if args.test is not None or args.test_split is not None:
        test = Dataset.read(args.test or args.file, split=args.test_split or args.split, **labels)
    sizes = [_size(text) for text in args.sizes]
    if test is not None and sizes == [0.8, 0.1, 0.1]:
        sizes = [0.9, 0.1]
    settings = Settings(
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        schedule=args.schedule,
        decay_epochs=args.decay_epochs,
        min_learning_rate=min(1e-6, args.learning_rate),
        warmup_steps=args.warmup_steps,
        clip=args.clip,
        ema=args.ema,
        patience=args.patience,
        precision=args.precision,
        seed=args.seed,
    )
    main = os.environ.get("RANK", "0") == "0"  # of the processes of torchrun, one speaks
    if main:
        print(data if test is None else f"{data}\ntest: {test}", flush=True)
    _, result = train_potential(
        lambda: NETWORKS[args.model](args.hidden, args.layers, args.cutoff),
        data,
        settings,
        EnergyForces(args.energy_weight, args.forces_weight, args.stress_weight),
        out=args.out,
        sizes=sizes,
        test=test,
        resume=args.resume,
        device=_device(args.device),
    )
    if main:
        print(_summary(result, data.energy_unit))
        print(args.out / "potential.pt")
    return 0


def _summary(result: Result, unit: str | None) -> str:
    lines = []
    for name, terms in (("validation", result.best), ("test", result.test)):
        if terms is not None:
            found = [f"{term} {value:.5g}" for term, value in terms.items() if term.endswith("_mae")]
            lines.append(f"{name}: {', '.join(found)} ({unit}, Å; epoch {result.best_epoch})")
    return "\n".join(lines)


def _refuse(message: str, code: int) -> int:
    for word, option in _OPTIONS.items():
        message = message.replace(word, option)
    print(f"symkern train: {message}", file=sys.stderr)
    return code


def _device(text: str) -> torch.device:
    try:
        return torch.device(text)
    except RuntimeError:
        raise ValueError(f"--device must be cpu, cuda or cuda:N, got {text!r}") from None


def _size(text: str) -> float | int | str:
    """A fraction, a number of structures, or "rest"."""
    if text == "rest":
        return text
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise ValueError(f"--sizes must be fractions, numbers or 'rest', got {text!r}") from None
