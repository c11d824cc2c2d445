"""Decoded pixels, kept as 8 bits so that an image is decoded once: in memory while they are few, else in a temporary
file, so that memory does not grow with the number of images."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from invsuite.rows_in_file import RowsInFile

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


def keep(images: Iterator[torch.Tensor], count: int, shape: Sequence[int]) -> Pixels | None:
    """Keep ``count`` uint8 images (3, H, W) of one ``shape``; None where neither memory nor disk has room: they are
    decoded at every use then."""
    size = count * math.prod(shape)
    if size <= MEMORY_LIMIT:
        return InMemory(images, count, shape)
    if size > DISK_SHARE * shutil.disk_usage(tempfile.gettempdir()).free:
        return None
    try:
        pixels = RowsInFile(shape, torch.uint8)
        for image in images:
            pixels.append(image[None])
    except OSError:  # another process took the room
        return None
    return pixels
