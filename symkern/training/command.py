"""What ``symkern train`` does with its arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

import torch

from symkern.data import DataError, Dataset
from symkern.training.objective import NonFiniteError
from symkern.training.recipe import NETWORKS, train_potential
from symkern.training.settings import Settings
from symkern.training.state import CheckpointError
from symkern.training.tasks import EnergyForces


def run(args: argparse.Namespace, refuse: Callable[[str], NoReturn]) -> int:
    """Train as told; bad input goes to `refuse`."""
    labels = {"energy": args.energy, "forces": args.forces, "energy_unit": args.energy_unit}
    try:
        data = Dataset.read(args.file, split=args.split, **labels)
        test = None
        if args.test is not None or args.test_split is not None:
            test = Dataset.read(args.test or args.file, split=args.test_split or args.split, **labels)
        device = _device(args.device)
        sizes = [_size(text) for text in args.sizes]
        if test is not None and sizes == [0.8, 0.1, 0.1]:
            sizes = [0.9, 0.1]
        settings = Settings(
            epochs=args.epochs,
            batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            schedule="cosine",
            min_learning_rate=min(1e-6, args.learning_rate),
            warmup_steps=100,
            clip=100.0,
            ema=0.999,
            patience=args.patience,
            precision=args.precision,
            seed=args.seed,
        )
        task = EnergyForces(energy_weight=args.energy_weight, forces_weight=args.forces_weight)
        _, result = train_potential(
            lambda: NETWORKS[args.model](args.hidden, args.layers, args.cutoff),
            data,
            settings,
            task,
            out=args.out,
            sizes=sizes,
            test=test,
            resume=args.resume,
            device=device,
        )
    except NonFiniteError as error:
        print(f"symkern: {error}")
        return 1
    except (DataError, CheckpointError, ValueError, OSError) as error:
        refuse(str(error))
    for name, terms in (("validation", result.best), ("test", result.test)):
        if terms is not None:
            found = [f"{term} {value:.5g}" for term, value in terms.items() if term.endswith("_mae")]
            print(f"{name}: {', '.join(found)} ({data.energy_unit}, Å; epoch {result.best_epoch})")
    print(f"{args.out / 'potential.pt'}")
    return 0


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
