"""Photos larger than a model's input: cut into pieces of its size, and put together again."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from PIL import Image

from invsuite.apply.images import resized, size_of, to_tensor
from invsuite.data.geometry import Geometry

OVERLAP = 4  # pieces share 1/OVERLAP of their side with the next
TOGETHER = 32  # pieces that are reconstructed side by side
#: Called with what is done, and how much there is in all.
Progress = Callable[[int, int], None]
Reconstruct = Callable[[torch.Tensor], dict[str, torch.Tensor]]


def at_own_size(picture: Image.Image | torch.Tensor, geometry: Geometry) -> tuple[torch.Tensor, str]:
    """Return a picture at its own size, or as large as one piece where it is smaller, and what was done in words."""
    (width, height), (high, wide) = size_of(picture), geometry.size
    image, text = to_tensor(picture), f"whole of {width} x {height} px"
    scale = max(wide / width, high / height)
    if scale > 1:
        width, height = max(wide, round(width * scale)), max(high, round(height * scale))
        image = resized(image, (width, height), geometry, (0, 0, image.shape[2], image.shape[1]))
        text += f", enlarged to {width} x {height}"
    count = len(_starts(width, wide)) * len(_starts(height, high))
    pieces = f"{count} pieces of {wide} x {high}, blended" if count > 1 else "one piece"
    return image, f"{text}, in {pieces}"


def _starts(length: int, side: int) -> list[int]:
    """Return where pieces of ``side`` pixels begin that cover ``length``, evenly, each with an overlap."""
    step = max(1, side - side // OVERLAP)
    count = 1 + math.ceil((length - side) / step)
    return [round(index * (length - side) / max(1, count - 1)) for index in range(count)]


def piecewise(
    images: torch.Tensor, size: tuple[int, int], reconstruct: Reconstruct, progress: Progress
) -> dict[str, torch.Tensor]:
    """Return the reconstructions of large images (B, 3, h, w) by stage, put together from pieces of ``size`` (H, W).

    Where pieces overlap they fade into each other.

    Args:
        images: at least as large as a piece.
        size: of a piece.
        reconstruct: gives the reconstructions of pieces (N, 3, H, W) by stage.
        progress: is told how many pieces are done.
    """
    high, wide = size
    corners = [(y, x) for y in _starts(images.shape[2], high) for x in _starts(images.shape[3], wide)]
    places = [(number, y, x) for number in range(len(images)) for y, x in corners]
    fade = _ramp(high)[:, None] * _ramp(wide)[None, :]
    totals: dict[str, torch.Tensor] = {}
    weight = torch.zeros(images.shape[2:])
    for y, x in corners:
        weight[y : y + high, x : x + wide] += fade
    for start in range(0, len(places), TOGETHER):
        some = places[start : start + TOGETHER]
        pieces = torch.stack([images[n, :, y : y + high, x : x + wide] for n, y, x in some])
        for stage, shown in reconstruct(pieces).items():
            total = totals.setdefault(stage, torch.zeros_like(images))
            for (n, y, x), piece in zip(some, shown, strict=True):
                total[n, :, y : y + high, x : x + wide] += fade * piece
        progress(min(start + TOGETHER, len(places)), len(places))
    return {stage: (total / weight).clamp(0, 1) for stage, total in totals.items()}


def _ramp(side: int) -> torch.Tensor:
    """Return weights (side,) of a piece's pixels: 1 in its middle, less towards its borders."""
    position = torch.arange(side) + 0.5
    return (torch.minimum(position, side - position) / max(1, side // OVERLAP)).clamp(max=1)
