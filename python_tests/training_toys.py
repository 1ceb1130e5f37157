"""A small ragged problem for the tests of the training engine; as a script, one process of a run under torchrun."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from symkern import training


@dataclasses.dataclass(frozen=True, eq=False)
class ToyBatch:
    z: Tensor
    pos: Tensor
    batch: Tensor
    ptr: Tensor
    targets: dict[str, Tensor]
    cell: None = None
    pbc: None = None
    nb: None = None

    def to(self, device: Any) -> ToyBatch:
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        targets = {name: value.to(device) for name, value in self.targets.items()}
        return dataclasses.replace(self, **moved, targets=targets)


class ToySource:
    """Molecules of 1 .. 9 random atoms in a simple potential; may raise in a call of collate or as an epoch begins."""

    def __init__(
        self,
        count: int = 23,
        seed: int = 0,
        error: BaseException | None = None,
        fail_at: int = -1,
        fail_epoch: int = -1,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        sizes = torch.randint(1, 10, (count,), generator=generator).tolist()
        self.positions = [torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in sizes]
        self.calls, self.fail_at, self.error, self.fail_epoch = 0, fail_at, error, fail_epoch
        self.epochs: list[int] = []
        self.indices: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.positions)

    def set_epoch(self, epoch: int) -> None:
        if epoch == self.fail_epoch and self.error is not None:
            raise self.error
        self.epochs.append(epoch)

    def collate(self, index: Tensor) -> ToyBatch:
        self.calls += 1
        if self.calls == self.fail_at and self.error is not None:
            raise self.error
        self.indices.append(index.tolist())
        parts = [self.positions[i] for i in index.tolist()]
        ptr = torch.tensor([0, *(len(p) for p in parts)]).cumsum(0)
        pos = torch.cat(parts)
        batch = torch.repeat_interleave(torch.arange(len(parts)), ptr.diff())
        energy = torch.zeros(len(parts), dtype=torch.float64).index_add(0, batch, pos.cos().sum(1))
        targets = {"energy": energy, "forces": pos.sin(), "size": ptr.diff().double()}
        return ToyBatch(torch.ones(len(pos), dtype=torch.int64), pos, batch, ptr, targets)


class ToyModel(nn.Module):
    """Energy of each atom from its position alone; with dropout, to see random numbers at work."""

    def __init__(self, hidden: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, hidden), nn.Linear(hidden, 1)
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, z: Tensor, pos: Tensor, batch: Tensor, *, cell: object = None, pbc: object = None, nb: object = None
    ) -> Tensor:
        atoms = self.second(self.dropout(torch.tanh(self.first(pos)))) * self.frozen
        count = int(batch[-1]) + 1
        return atoms.new_zeros(count, 1).index_add(0, batch, atoms)


def toy_model(dropout: float = 0.0) -> ToyModel:
    torch.manual_seed(1)
    return ToyModel(dropout=dropout)


TASK = training.EnergyForces(energy_weight=0.3, forces_weight=1.0, per_atom=True)

# everything that must be the same in several processes at once; 23 structures in batches of 7: 7, 7, 7, 2
PARALLEL = training.Settings(
    epochs=4,
    batch_size=7,
    eval_batch_size=5,
    precision="fp64",
    learning_rate=0.03,
    weight_decay=0.01,
    schedule="cosine",
    warmup_steps=3,
    clip=0.5,
    ema=0.9,
)
# 5 structures in batches of 2: the last batch, and the last of the validation, have nothing for the second process
IDLE = dataclasses.replace(PARALLEL, batch_size=2, eval_batch_size=1, schedule="plateau", plateau_patience=0)


def run_case(settings: training.Settings, count: int, **options: Any) -> tuple[ToyModel, training.Result]:
    """A run on as many processes as there are."""
    model = toy_model()
    if os.environ.get("RANK") == "1":  # must be overruled by the main process
        nn.init.ones_(model.first.weight)
    source = options.pop("source", None) or ToySource(count)
    return model, training.fit(model, TASK, source, ToySource(3, seed=5), settings, progress=False, **options)


def without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What of a history must be reproducible."""
    return [{key: value for key, value in record.items() if key not in ("seconds", "shares")} for record in history]


# every part that has a state
FULL = training.Settings(
    epochs=4,
    batch_size=5,
    learning_rate=0.4,
    schedule="plateau",
    plateau_patience=0,
    warmup_steps=2,
    amsgrad=True,
    clip=1.0,
    ema=0.8,
    patience=50,
    monitor="forces_mae",
    checkpoint_every=3,
)


def fit(model: nn.Module, train: ToySource | None = None, settings: training.Settings = FULL, **options: Any) -> Any:
    options.setdefault("task", TASK)
    options.setdefault("valid", ToySource(7, seed=3))
    return training.fit(model, train=train or ToySource(), settings=settings, progress=False, **options)


def assert_same(model: nn.Module, other: dict[str, Tensor], tolerance: float = 0.0) -> None:
    for name, value in model.state_dict().items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=tolerance, msg=lambda text, name=name: name + text)


def log_of(folder: Path) -> list[dict[str, Any]]:
    return without_times([json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()])


class Signalled(ToySource):
    """Sends this process a signal in call number `at` of collate."""

    def __init__(self, count: int, at: int, number: int = signal.SIGINT) -> None:
        super().__init__(count)
        self.at, self.number = at, number

    def collate(self, index: Tensor) -> ToyBatch:
        if self.calls + 1 == self.at:
            signal.raise_signal(self.number)
        return super().collate(index)


def _parallel(out: str) -> None:
    """Both cases, and one that is stopped by a signal to the second process alone, then resumed; results of rank 1."""
    cases = {"ragged": run_case(PARALLEL, 23), "idle": run_case(IDLE, 5)}
    own = Signalled(23, at=6) if torch.distributed.get_rank() == 1 else ToySource(23)
    try:
        run_case(PARALLEL, 23, source=own, out=f"{out}/run")
    except KeyboardInterrupt:
        saved = torch.load(f"{out}/run/last.pt", weights_only=True)["state"]
        assert (saved["epoch"], saved["step"]) == (1, 2)  # after the update that was under way
        torch.distributed.barrier()  # before it is written again
        cases["resumed"] = run_case(PARALLEL, 23, out=f"{out}/run", resume=True)
    if torch.distributed.get_rank() == 1:  # not the one that writes the checkpoints
        found = {
            name: {"weights": model.state_dict(), "history": without_times(result.history)}
            for name, (model, result) in cases.items()
        }
        torch.save(found, f"{out}/found.pt")


def _endless(out: str) -> None:
    """Trains until it is stopped."""
    settings = dataclasses.replace(PARALLEL, epochs=100_000, decay_epochs=10)
    training.fit(toy_model(), TASK, ToySource(), None, settings, out=out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"parallel": _parallel, "endless": _endless}[sys.argv[1]](sys.argv[2])
