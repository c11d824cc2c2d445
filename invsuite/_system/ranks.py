"""The processes that ``torchrun`` starts to fit one method together, by `torch.distributed`.

Every process runs the same code on the same seeds. Each computes its part of a batch, or of the fit images, and what
they have found is averaged, added up or handed round; the first of them writes files. One process alone is the special
case of a single part, and nothing is sent.
"""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from invsuite._system.environment import started_together
from invsuite.errors import UsageError

PATIENCE = timedelta(days=7)  # the others wait while the first inverts and scores; a process that died is noticed
T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The processes that fit one method together, and this one's place among them.

    Attributes:
        rank: of this process, from 0.
        count: of all.
    """

    rank: int = 0
    count: int = 1

    @property
    def alone(self) -> bool:
        """Tell whether there is no other process."""
        return self.count == 1

    @property
    def first(self) -> bool:
        """Tell whether this is the process that writes files and says what happens."""
        return self.rank == 0

    def part(self, length: int) -> slice:
        """Return this process's part of ``length`` things; parts follow each other and differ by one at most."""
        return slice(*(number * length // self.count for number in (self.rank, self.rank + 1)))

    def agree(self, value: T, source: int = 0) -> T:
        """Return the ``value`` of process ``source`` in all of them."""
        if self.alone:
            return value
        box = [value if self.rank == source else None]
        dist.broadcast_object_list(box, src=source)
        return box[0]  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """Return the value of every process, by rank, in all of them."""
        if self.alone:
            return [value]
        values: list[T | None] = [None] * self.count
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def average_gradients(self, module: nn.Module, weight: float) -> None:
        """Replace every gradient by its mean over the processes, of which this one counts with ``weight``.

        The weights of all add up to 1.
        """
        if self.alone:
            return
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients]).mul_(weight)
        dist.all_reduce(flat)
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view(gradient.shape))

    def equalise(self, module: nn.Module) -> None:
        """Give the module of every process the values of the first's."""
        if not self.alone:
            module.load_state_dict(self.agree({name: value.cpu() for name, value in module.state_dict().items()}))

    def bring(self, value: T | None, source: int) -> T | None:
        """Return, in the first process, the ``value`` of process ``source``, another one; None elsewhere."""
        box = [value]
        if self.rank == source:
            dist.send_object_list(box, dst=0)
        elif self.first:
            dist.recv_object_list(box, src=source)
            return box[0]
        return None


ALONE = Ranks()


def join(device: torch.device) -> tuple[Ranks, torch.device]:
    """Return the processes that ``torchrun`` started, connected, and the device of this one.

    Each has a GPU of its own and NCCL averages gradients; on a CPU, or where there are more processes than GPUs, gloo
    does.

    Raises:
        UsageError: if ``torchrun`` did not start this process as one of several.
    """
    if not started_together():
        raise UsageError("one process alone: start the command as torchrun --nproc-per-node 2 -m invsuite ...")
    backend = "gloo"
    if device.type == "cuda":
        local, devices = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if device.index is None:
            device = torch.device("cuda", local % devices)
        torch.cuda.set_device(device)
        if int(os.environ.get("LOCAL_WORLD_SIZE", 1)) <= devices:
            backend = "cpu:gloo,cuda:nccl"
    if not dist.is_initialized():
        dist.init_process_group(backend, timeout=PATIENCE)
        atexit.register(dist.destroy_process_group)
    return Ranks(dist.get_rank(), dist.get_world_size()), device
