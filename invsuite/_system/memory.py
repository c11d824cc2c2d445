"""Memory that does not suffice: smaller batches first, then an error the suite can record."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from invsuite.errors import OutOfMemoryError

T = TypeVar("T")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU, or the processor's memory, was too small."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def free_memory() -> None:
    """Give back what the failed attempt held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def halving(work: Callable[[int], T], batch: int, what: str) -> T:
    """``work(batch)``, begun anew with half the batch for as long as memory does not suffice.

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
