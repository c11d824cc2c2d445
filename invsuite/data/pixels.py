"""Decoded pixels, kept as 8 bits so that an image is decoded once: in memory while they are few, else in a temporary
file, so that memory does not grow with the number of images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from invsuite._system.spill import Rows, RowsInFile, disk_room, joined

MEMORY_LIMIT = 256 * 2**20  # bytes of pixels of a split; more go to a file


def keep(images: Iterator[torch.Tensor], count: int, shape: Sequence[int]) -> Rows | None:
    """Keep ``count`` uint8 images (3, H, W) of one ``shape``; None where neither memory nor disk has room: they are
    decoded at every use then."""
    size = count * math.prod(shape)
    if size <= MEMORY_LIMIT:
        return joined((image[None] for image in images), count)
    if size > disk_room():
        return None
    try:
        pixels = RowsInFile(shape, torch.uint8)
        for image in images:
            pixels.append(image[None])
    except OSError:  # another process took the room
        return None
    return pixels
