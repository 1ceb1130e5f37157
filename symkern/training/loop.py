"""`fit`: a run from start or checkpoint to result."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from symkern.training.interfaces import Source, Task
from symkern.training.interrupts import Interrupts
from symkern.training.lock import only_run
from symkern.training.parallel import join
from symkern.training.progress import make_progress
from symkern.training.run import Result, Run
from symkern.training.settings import Settings


def fit(
    model: nn.Module,
    task: Task,
    train: Source,
    valid: Source | None,
    settings: Settings,
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    progress: bool = True,
    test: Source | None = None,
) -> Result:
    """Train `model`, which afterwards has its best weights (averaged ones with `settings.ema`) and is in eval mode.

    Under torchrun, or with torch.distributed set up, each process calls this with the same arguments; batches
    are divided over them and N processes give the weights that one gives, up to rounding (random numbers drawn in the
    model differ). On the CPU a run is bit-identical when repeated, also when interrupted and resumed.

    Ctrl-C and SIGTERM take effect after the current update, once a checkpoint is written. torch's global random state
    is left as it was.

    Args:
        model: trained in place and moved to `device`.
        task: what is learned, such as `symkern.training.EnergyForces`.
        train, valid, test: structures; without `valid` the last epoch counts as the best.
        out: folder for last.pt (state of the run), best.pt (weights only, see `load_weights`), settings.json, log.jsonl
            and result.json; None writes nothing. Processes must share it.
        resume: continue from last.pt in `out` if it is there. Model, task, settings and data must be those of that run;
            `epochs` may have grown.
        device: "cpu", "cuda" (under torchrun: that of LOCAL_RANK) or a torch.device.
        progress: show a bar on a terminal (needs rich), a line per epoch elsewhere.

    Raises:
        CheckpointError: last.pt cannot be read, or belongs to another run; says what differs.
        FileExistsError: `out` holds a run and `resume` is not set, or another process is writing to it.
        NonFiniteError: loss or gradient is not finite; the last checkpoint stays.
        KeyboardInterrupt: Ctrl-C, or a signal to another process of the run; a checkpoint is left behind.
        TypeError, ValueError: arguments that do not fit together, or what task and model raise.
    """
    _check_arguments(train, valid, test, settings, out, resume)
    group = join(device)
    folder = None if out is None else Path(out)
    cuda = [group.device] if group.device.type == "cuda" else []
    with (
        only_run(folder if group.main else None),
        Interrupts(insist=group.size == 1) as interrupts,
        torch.random.fork_rng(cuda),
    ):
        run = Run(model, task, train, valid, settings, folder, group, interrupts)
        try:
            run.start(resume)
            run.train(make_progress(progress and group.main, settings.epochs, run.steps_per_epoch, run.done))
        finally:
            run.updater.flat.release()
        return run.finish(test)


def _check_arguments(
    train: Source,
    valid: Source | None,
    test: Source | None,
    settings: Settings,
    out: str | os.PathLike[str] | None,
    resume: bool,
) -> None:
    for name, source in (("train", train), ("valid", valid), ("test", test)):
        if source is not None and not hasattr(source, "collate"):
            hint = ": take its loader(cutoff)" if hasattr(source, "loader") else ""
            raise TypeError(f"{name} must be a source of batches with collate(), got {type(source).__name__}{hint}")
        if source is not None and len(source) == 0:
            raise ValueError(f"{name} has no structures")
    if settings.drop_last and len(train) < settings.batch_size:
        raise ValueError(f"drop_last leaves nothing of {len(train)} structures with batch_size {settings.batch_size}")
    if valid is None and (settings.patience is not None or settings.schedule == "plateau"):
        raise ValueError("patience and schedule='plateau' need validation structures, but valid is None")
    if out is None:
        if resume:
            raise ValueError("resume needs the folder of the run: out is None")
    elif not resume and (Path(out) / "last.pt").exists():
        raise FileExistsError(f"{out} holds a run already: resume it with resume=True, or choose another folder")
