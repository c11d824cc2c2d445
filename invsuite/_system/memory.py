"""How much memory is free, and what happens where it does not suffice: smaller batches, then an error to record."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
import torch

from invsuite.errors import OutOfMemoryError

T = TypeVar("T")
CONTROL_GROUPS = Path("/sys/fs/cgroup")


def available_memory(device: torch.device) -> int:
    """Return the bytes of memory that are free on ``device``.

    For a processor they are free within the limits that a container or a cluster sets for this job (control groups,
    version 2).
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    own = Path("/proc/self/cgroup")
    path = own.read_text().partition("0::/")[2].strip() if own.is_file() else ""
    for group in (CONTROL_GROUPS / path, *(CONTROL_GROUPS / path).parents):
        try:
            limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
            pages = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such group, or one without a limit: "max"
            continue
        free = min(free, limit - used + int(pages["inactive_file"]))  # copies of files make room when it is needed
    return max(0, free)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether a GPU, or the processor's memory, was too small."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def free_memory() -> None:
    """Give back what a failed attempt held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def halving(work: Callable[[int], T], batch: int, what: str) -> T:
    """Return ``work(batch)``, begun anew with half the batch for as long as memory does not suffice.

    Raises:
        OutOfMemoryError: naming ``what``, if one image at a time is too much.
    """
    while True:
        try:
            return work(batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if batch == 1:
                raise OutOfMemoryError(f"{what} needs more memory than there is, even one image at a time") from error
        free_memory()  # outside the handler: it holds the frames, and so the tensors, of the attempt
        batch //= 2
