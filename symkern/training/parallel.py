"""One run over several processes, as started by torchrun: who takes which part, and sums over all of them.

A batch is split over the processes, and sums and counts are added up before one is divided by the other, so that N
processes give what one gives. `torch.nn.parallel.DistributedDataParallel` averages the means of the processes instead,
which is another loss as soon as they hold different numbers of atoms.
"""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """This process among those of the run. With one process every method returns at once."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def share(self, index: Tensor) -> Tensor:
        """This process's part of a batch; empty if there are fewer structures than processes."""
        return index if self.size == 1 else index.tensor_split(self.size)[self.rank]

    def sum_(self, values: Tensor) -> None:
        """Replace `values` by the sum over all processes."""
        if self.size > 1:
            dist.all_reduce(values)

    def copy_from_main_(self, values: Tensor) -> None:
        """Replace `values` by those of the main process."""
        if self.size > 1:
            dist.broadcast(values, src=0)

    def gather(self, values: Tensor) -> list[Tensor]:
        """The CPU tensors `values` of all processes, of one shape."""
        if self.size == 1:
            return [values]
        own = values.to(self.device)
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own)
        return [part.cpu() for part in parts]

    def wait(self) -> None:
        """Return once all processes are here."""
        if self.size > 1:
            dist.barrier()


def join(device: torch.device | str) -> Group:
    """The group of this process: from torch.distributed if that is set up, else from torchrun's environment.

    Sets up gloo on the CPU and NCCL on CUDA, where each process takes the device of its LOCAL_RANK; the group
    then stays until the process ends.

    Raises:
        ValueError: a CUDA device that is not there.
    """
    device = torch.device(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device {str(device)!r} is not there: torch finds no CUDA device")
        if str(device) == "cuda":  # without an index
            several = size > 1 or dist.is_initialized()
            own = int(os.environ.get("LOCAL_RANK", "0")) if several else torch.cuda.current_device()
            device = torch.device("cuda", own)
        torch.cuda.set_device(device)
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(_leave)
    several = dist.is_initialized()
    return Group(dist.get_rank(), dist.get_world_size(), device) if several else Group(0, 1, device)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
