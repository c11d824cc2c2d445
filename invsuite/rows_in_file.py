"""Rows of a tensor that memory has no room for."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO

import torch


class RowsInFile:
    """Rows (N, ...) in a nameless temporary file, which goes with this object, however the process ends. It is read,
    not mapped: mapped pages would count as the process's memory.

    Args:
        shape: of a row.
        dtype: of its values.

    Raises:
        OSError: from ``append``, if the disk does not take them.
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        self._shape, self._dtype, self._count = tuple(shape), dtype, 0
        self._bytes = math.prod(shape) * dtype.itemsize
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="invsuite-rows-")  # noqa: SIM115 it is read later

    def append(self, rows: torch.Tensor) -> None:
        """Write ``rows`` after those that are there."""
        self._file.write(rows.contiguous().numpy().data)
        self._file.flush()
        self._count += len(rows)

    def numel(self) -> int:
        """Values in all."""
        return self._count * math.prod(self._shape)

    def read(self, rows: Sequence[int]) -> torch.Tensor:
        """The rows of these numbers (len(rows), ...)."""
        found = torch.empty((len(rows), *self._shape), dtype=self._dtype)
        for place, row in zip(found.numpy(), rows, strict=True):
            self._file.seek(row * self._bytes)
            self._file.readinto(place.data)  # type: ignore[attr-defined]
        return found

    def split(self, size: int) -> Iterator[torch.Tensor]:
        """All rows, ``size`` at a time."""
        for start in range(0, self._count, size):
            yield self.read(range(start, min(start + size, self._count)))
