"""Rows of a tensor - an image each, as a rule - of which there may be more than memory has room for."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO

import torch

from invsuite._system.files import refused

MEMORY_LIMIT = 2**30  # bytes of gathered rows that stay in memory; more go to a file
DISK_SHARE = 0.5  # of the free space of the temporary folder that rows may take


class RowsInFile:
    """Rows (N, ...) in a nameless temporary file, which goes with this object, however the process ends. It is read,
    not mapped: mapped pages would count as the process's memory. Rows are chosen and split as a tensor's are.

    Args:
        shape: of a row.
        dtype: of its values.
        device: where rows go when they are read.
        channels_last: rows (C, H, W) are written and read channel by channel within a pixel. Sums over a row add in the
            order of its memory, so this keeps their last digit what it is for a tensor that networks left like this.

    Raises:
        OSError: from ``append``, if the disk does not take them.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),  # noqa: B008 a constant
        channels_last: bool = False,
    ) -> None:
        self._row, self._dtype, self.device, self._count = tuple(shape), dtype, device, 0
        self._channels_last = channels_last
        self._bytes = math.prod(shape) * dtype.itemsize
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="invsuite-rows-")  # noqa: SIM115 it is read later

    def append(self, rows: torch.Tensor) -> None:
        """Write ``rows`` after those that are there."""
        self._file.seek(self._count * self._bytes)
        written = rows.movedim(1, -1) if self._channels_last else rows
        self._file.write(written.cpu().contiguous().numpy().data)
        self._file.flush()
        self._count += len(rows)

    def __len__(self) -> int:
        return self._count

    @property
    def shape(self) -> torch.Size:
        """(N, ...)."""
        return torch.Size((self._count, *self._row))

    def numel(self) -> int:
        """Values in all."""
        return self.shape.numel()

    def __getitem__(self, rows: slice | Sequence[int]) -> torch.Tensor:
        """The rows of these numbers (len(rows), ...)."""
        chosen = list(range(self._count)[rows] if isinstance(rows, slice) else rows)
        row = (*self._row[1:], self._row[0]) if self._channels_last else self._row
        found = torch.empty((len(chosen), *row), dtype=self._dtype)
        start = 0
        for end in range(1, len(chosen) + 1):  # rows that follow one another in one go
            if end == len(chosen) or chosen[end] != chosen[end - 1] + 1:
                self._file.seek(chosen[start] * self._bytes)
                self._file.readinto(found[start:end].numpy().data)  # type: ignore[attr-defined]
                start = end
        return (found.movedim(-1, 1) if self._channels_last else found).to(self.device)

    def split(self, size: int) -> Iterator[torch.Tensor]:
        """All rows, ``size`` at a time."""
        for start in range(0, self._count, size):
            yield self[start : start + size]


#: what is read by row: one tensor, or a file
Rows = torch.Tensor | RowsInFile


def disk_room(folder: Path | None = None) -> int:
    """Bytes that rows may take of the disk of ``folder``, the temporary one by default."""
    return int(DISK_SHARE * shutil.disk_usage(folder or tempfile.gettempdir()).free)


def gather(parts: Iterable[torch.Tensor], count: int) -> Rows:
    """The ``parts`` (B, ...) joined, ``count`` rows in all: one tensor on their device while it is small, else in a
    file where the disk has room.

    Raises:
        DiskError: if another process took the room meanwhile.
    """
    parts = iter(parts)
    first = next(parts)
    size = count * first[0].numel() * first.element_size()
    if not MEMORY_LIMIT < size <= disk_room():
        return joined(chain([first], parts), count)
    file = RowsInFile(first.shape[1:], first.dtype, first.device, _channels_last(first))
    try:
        for part in chain([first], parts):
            file.append(part)
    except OSError as error:
        raise refused(Path(tempfile.gettempdir()) / "rows of images", error) from error
    return file


def joined(parts: Iterable[torch.Tensor], count: int) -> torch.Tensor:
    """The ``parts`` (B, ...) as one tensor of ``count`` rows. Its memory is taken before the second part is made: small
    results that are kept while large ones come and go leave gaps, by which memory grows."""
    whole, done = torch.empty(0), 0
    for part in parts:
        if done == 0:
            order = torch.channels_last if _channels_last(part) else torch.contiguous_format
            whole = torch.empty((count, *part.shape[1:]), dtype=part.dtype, device=part.device, memory_format=order)
        whole[done : done + len(part)] = part
        done += len(part)
    return whole


def _channels_last(rows: torch.Tensor) -> bool:
    return rows.ndim == 4 and not rows.is_contiguous() and rows.is_contiguous(memory_format=torch.channels_last)
