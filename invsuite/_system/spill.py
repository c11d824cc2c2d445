"""Tensors of one row per image that stay in memory while it has room, and else lie in a file.

One budget holds for all that is kept: each thing may take `MEMORY_SHARE` of the memory that is free when it is
allocated, so that together they never take it all. Where a tensor lies changes none of its values.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, TypeVar

import torch

from invsuite._system.files import refused
from invsuite._system.memory import available_memory

MEMORY_SHARE = 0.25  # of the memory that is free
DISK_SHARE = 0.5  # of the free space of the folder for temporary files
CPU = torch.device("cpu")

Rows = slice | Sequence[int]


class SpilledTensor:
    """A tensor (N, ...) in a file: a nameless temporary one, which goes with this object, however the process ends.

    The file is read and written, not mapped: mapped pages would count as the process's memory. Rows are chosen,
    assigned and split as a tensor's are. Its values are nothing in particular before they are assigned.

    Args:
        shape: (N, ...).
        dtype: of the values.
        device: where rows go when they are read.
        channels_last: rows (C, H, W) are written and read channel by channel within a pixel. Sums over a row add in the
            order of its memory, so this keeps their last digit what it is for a tensor that networks left like this.
        path: a file that holds the values already, and is only read, in place of a temporary one.

    Raises:
        OSError: if the disk has no room for it, or the file cannot be read.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device = CPU,
        channels_last: bool = False,
        path: Path | None = None,
    ) -> None:
        self.shape, self.dtype, self.device = torch.Size(shape), dtype, device
        self._channels_last = channels_last
        self._row_bytes = math.prod(shape[1:]) * dtype.itemsize
        self._lock = threading.Lock()  # a thread that loads ahead reads the same file
        self._file: IO[bytes]
        if path is not None:
            self._file = path.open("rb")
            return
        self._file = tempfile.TemporaryFile(prefix="invsuite-rows-")  # noqa: SIM115 it is read later
        if hasattr(os, "posix_fallocate"):  # a disk that is too small says so now, not when rows are written
            os.posix_fallocate(self._file.fileno(), 0, max(1, len(self) * self._row_bytes))

    def __len__(self) -> int:
        return self.shape[0]

    def numel(self) -> int:
        """Return the number of values."""
        return self.shape.numel()

    def __getitem__(self, rows: Rows) -> torch.Tensor:
        numbers = self._numbers(rows)
        _, *row = self.shape
        values = torch.empty((len(numbers), *(row[1:] + row[:1] if self._channels_last else row)), dtype=self.dtype)
        with self._lock:
            for run in self._runs(numbers):
                self._file.readinto(values[run].numpy().data)  # type: ignore[attr-defined]
        return (values.movedim(-1, 1) if self._channels_last else values).to(self.device)

    def __setitem__(self, rows: Rows, values: torch.Tensor) -> None:
        stored = (values.movedim(1, -1) if self._channels_last else values).to("cpu", self.dtype).contiguous()
        try:
            with self._lock:
                for run in self._runs(self._numbers(rows)):
                    self._file.write(stored[run].numpy().data)
                self._file.flush()
        except OSError as error:
            raise refused(Path(tempfile.gettempdir()) / "rows of images", error) from error

    def split(self, size: int) -> Iterator[torch.Tensor]:
        """Yield all rows, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def _numbers(self, rows: Rows) -> Sequence[int]:
        every = range(len(self))
        return every[rows] if isinstance(rows, slice) else [every[row] for row in rows]

    def _runs(self, numbers: Sequence[int]) -> Iterator[slice]:
        """Yield the places in ``numbers`` of rows that follow one another, with the file at the first of them."""
        start = 0
        for end in range(1, len(numbers) + 1):
            if end == len(numbers) or numbers[end] != numbers[end - 1] + 1:
                self._file.seek(numbers[start] * self._row_bytes)
                yield slice(start, end)
                start = end


#: what is read by row: one tensor, in memory or in a file
TensorLike = torch.Tensor | SpilledTensor
Place = TypeVar("Place", bound=TensorLike)


def memory_budget(device: torch.device = CPU) -> int:
    """Return the bytes that one more thing may keep in the memory of ``device``."""
    return int(MEMORY_SHARE * available_memory(device))


def disk_budget(folder: Path | None = None) -> int:
    """Return the bytes that one more thing may keep in files of ``folder``, by default that of temporary ones."""
    return int(DISK_SHARE * shutil.disk_usage(folder or tempfile.gettempdir()).free)


def allocate(shape: Sequence[int], like: torch.Tensor) -> TensorLike | None:
    """Return a tensor of ``shape`` to be filled, of the type, device and memory order of ``like``.

    It lies in memory if the budget allows, else in a file, and is None where neither has room.
    """
    size = math.prod(shape) * like.element_size()
    if size <= memory_budget(like.device):
        return _in_memory(shape, like)
    if size <= disk_budget():
        try:
            return SpilledTensor(shape, like.dtype, like.device, _is_channels_last(like))
        except OSError:  # another process took the room
            pass
    return None


def collect(parts: Iterable[torch.Tensor], count: int) -> TensorLike:
    """Return the ``parts`` (B, ...) as one tensor of ``count`` rows, in memory also where nothing has room for it.

    Raises:
        DiskError: if the disk does not take what it had room for.
    """

    def somewhere(shape: Sequence[int], like: torch.Tensor) -> TensorLike:
        rows = allocate(shape, like)
        return _in_memory(shape, like) if rows is None else rows

    return _filled(parts, count, somewhere)


def concatenate(parts: Iterable[torch.Tensor], count: int) -> torch.Tensor:
    """Return the ``parts`` (B, ...) as one tensor of ``count`` rows in memory.

    The memory is taken before the second part is computed: small results that are kept while large ones come and go
    leave gaps, by which memory grows.
    """
    return _filled(parts, count, _in_memory)


def _filled(parts: Iterable[torch.Tensor], count: int, place: Callable[[Sequence[int], torch.Tensor], Place]) -> Place:
    """Return what ``place`` allocates for ``count`` rows like those of the first part, with all parts written to it."""
    parts = iter(parts)
    first = next(parts, torch.empty(0))
    whole, done = place((count, *first.shape[1:]), first), 0
    for part in chain([first], parts):
        whole[done : done + len(part)] = part
        done += len(part)
    return whole


def _in_memory(shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Return memory that is taken at once: what is only promised would still count as free, and be promised again."""
    order = torch.channels_last if _is_channels_last(like) else torch.contiguous_format
    return torch.empty(tuple(shape), dtype=like.dtype, device=like.device, memory_format=order).zero_()


def _is_channels_last(rows: torch.Tensor) -> bool:
    return rows.ndim == 4 and not rows.is_contiguous() and rows.is_contiguous(memory_format=torch.channels_last)
