"""Which fit images a training step sees, and how they are loaded while the step before computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch

from invsuite.data.base import check_images, to_unit_range
from invsuite.data.decoding import Crops, random_crops
from invsuite.data.split import Split
from invsuite.data.workers import ahead

LOADED = 4  # batches that are loaded before they are asked for


@dataclass(frozen=True)
class Draw:
    """The fit images of one batch.

    Attributes:
        rows: of the fit split.
        mirrored: which of them are mirrored.
        crops: of which random crop (`invsuite.data.decoding.random_crop`) each is, by its seed; none where each is
            the image as the model's own preprocessing makes it.
        least: share of an image's area that a crop keeps at least.
    """

    rows: list[int]
    mirrored: list[bool]
    crops: tuple[int, ...] = ()
    least: float = 1.0

    def part(self, own: slice) -> Draw:
        """Return some of the images."""
        return Draw(self.rows[own], self.mirrored[own], self.crops[own], self.least)


def draws(fit: Split, size: int, seed: int, flip: bool, crop: float = 1.0) -> Iterator[Draw]:
    """Yield draws without end: reshuffled passes over the fit images, a random half of each batch mirrored.

    Args:
        fit: the fit images.
        size: of a batch.
        seed: of all that is drawn.
        flip: whether images are mirrored.
        crop: share of an image's area that each random crop keeps at least; 1 crops nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while True:
        while len(order) < size:
            order += torch.randperm(len(fit), generator=generator).tolist()
        rows, order = order[:size], order[size:]
        mirrored = (torch.rand(size, generator=generator) < 0.5).tolist() if flip else [False] * size
        crops = torch.randint(2**31, (size,), generator=generator).tolist() if crop < 1 else []
        yield Draw(rows, mirrored, tuple(crops), crop)


#: a draw, and a function that returns its images (B, 3, H, W) on the model's device
Loaded = tuple[Draw, Callable[[], torch.Tensor]]


def batch_images(split: Split, draw: Draw) -> torch.Tensor:
    """Return the images (B, 3, H, W) of a draw of whole images."""
    return _mirrored(split.pixels(draw.rows), draw)


def _mirrored(pixels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Return the images (B, 3, H, W) in [0, 1] of a draw from its 8-bit pixels."""
    images, flip = to_unit_range(pixels), torch.tensor(draw.mirrored)
    if flip.any():
        images[flip] = images[flip].flip(-1)
    return check_images(images)


@dataclass(frozen=True)
class PinnedBatch:
    """The images of a draw as 8-bit pixels, in memory that a GPU copies from while it computes.

    Attributes:
        pixels: (B, 3, H, W), pinned.
        mirrored: (B,), pinned.
    """

    pixels: torch.Tensor
    mirrored: torch.Tensor

    @staticmethod
    def of(pixels: torch.Tensor, draw: Draw) -> PinnedBatch:
        """Return the batch of a draw from its 8-bit pixels."""
        return PinnedBatch(pixels.pin_memory(), torch.tensor(draw.mirrored).pin_memory())

    def images(self, device: torch.device) -> torch.Tensor:
        """Return the images (B, 3, H, W) in [0, 1] on a GPU, which is not waited for."""
        images = to_unit_range(self.pixels.to(device, non_blocking=True))
        mirrored = self.mirrored.to(device, non_blocking=True)
        return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)


def loaded(split: Split, draws: Iterator[Draw], device: torch.device, expected: float) -> Iterator[Loaded]:
    """Yield draws, each with a function that returns its images.

    Where they do not lie in memory, or go to a GPU, another thread loads them while this one computes; random crops are
    decoded anew, by all processors.

    Args:
        split: the fit images.
        draws: of which all have crops, or none has.
        device: that the images go to.
        expected: how many images will be drawn, as far as is known.
    """
    first = next(draws, None)
    if first is None:
        return
    draws = chain([first], draws)
    if not first.crops and split.in_memory and device.type != "cuda":
        yield from ((draw, partial(batch_images, split, draw)) for draw in draws)
        return
    pixels = _crops(split, draws, round(expected)) if first.crops else ((d, split.pixels(d.rows)) for d in draws)
    ready = ((draw, _ready(batch, draw, device)) for draw, batch in pixels)
    with closing(ahead(ready, LOADED)) as batches:
        yield from batches


def _ready(pixels: torch.Tensor, draw: Draw, device: torch.device) -> Callable[[], torch.Tensor]:
    """Make the images of a draw from its 8-bit pixels, as far as another thread can, and return what hands them out."""
    if device.type == "cuda":
        return partial(PinnedBatch.of(pixels, draw).images, device)
    images = _mirrored(pixels, draw)
    return lambda: images


def _crops(split: Split, draws: Iterator[Draw], expected: int) -> Generator[tuple[Draw, torch.Tensor]]:
    """Yield draws of random crops with their 8-bit pixels."""
    begun = deque[Draw]()

    def pieces() -> Iterator[Crops]:
        for draw in draws:
            begun.append(draw)
            yield Crops([split.rows[row] for row in draw.rows], draw.crops, draw.least)

    for pixels in random_crops(split.dataset, pieces(), expected):
        yield begun.popleft(), pixels
