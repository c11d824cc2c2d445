"""Decoded pixels, kept as 8 bits so that an image is decoded once: in memory while they are few, else in a temporary
file, so that memory does not grow with the number of images."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Protocol

import torch

MEMORY_LIMIT = 256 * 2**20  # bytes of pixels of a split; more go to a file
DISK_SHARE = 0.5  # of the free space of the temporary folder that pixels may take


class Pixels(Protocol):
    """Images by row."""

    def read(self, rows: Sequence[int]) -> torch.Tensor:
        """The images (len(rows), 3, H, W), uint8."""


class InMemory:
    """Pixels as one tensor (N, 3, H, W)."""

    def __init__(self, images: Iterator[torch.Tensor], count: int, shape: Sequence[int]) -> None:
        self._kept = torch.empty((count, *shape), dtype=torch.uint8)
        for row, image in enumerate(images):
            self._kept[row] = image

    def read(self, rows: Sequence[int]) -> torch.Tensor:
        return self._kept[list(rows)]


class InFile:
    """Pixels in a nameless temporary file, which goes with this object, however the process ends. It is read, not
    mapped: mapped pages would count as the process's memory.

    Raises:
        OSError: if the disk does not take them.
    """

    def __init__(self, images: Iterator[torch.Tensor], shape: Sequence[int]) -> None:
        self._shape, self._bytes = tuple(shape), math.prod(shape)
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="invsuite-pixels-")  # noqa: SIM115 it is read later
        for image in images:
            self._file.write(image.contiguous().numpy().data)
        self._file.flush()

    def read(self, rows: Sequence[int]) -> torch.Tensor:
        found = torch.empty((len(rows), *self._shape), dtype=torch.uint8)
        for image, row in zip(found.numpy(), rows, strict=True):
            self._file.seek(row * self._bytes)
            self._file.readinto(image.data)  # type: ignore[attr-defined]
        return found


def keep(images: Iterator[torch.Tensor], count: int, shape: Sequence[int]) -> Pixels | None:
    """Keep ``count`` uint8 images (3, H, W) of one ``shape``; None where neither memory nor disk has room: they are
    decoded at every use then."""
    size = count * math.prod(shape)
    if size <= MEMORY_LIMIT:
        return InMemory(images, count, shape)
    if size > DISK_SHARE * shutil.disk_usage(tempfile.gettempdir()).free:
        return None
    try:
        return InFile(images, shape)
    except OSError:  # another process took the room
        return None
