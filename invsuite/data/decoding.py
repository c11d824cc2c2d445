"""Images decoded once: those of photos by several threads or processes, and kept between runs.

The pixels of a split of photos lie in the user's cache (`invsuite._system.cache`), in one file under a digest of what
they are: the photos' bytes, how they are read and resized, and by which Pillow. Of a file that is used again some
photos are decoded anew, and compared.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image

from invsuite._system.cache import cache_folder, make_room
from invsuite._system.files import whole
from invsuite._system.spill import SpilledTensor, TensorLike, allocate, memory_budget
from invsuite.data.base import Dataset, from_unit_range, to_unit_range
from invsuite.data.geometry import Geometry
from invsuite.data.photo_files import SECONDS_OF_SILENCE, tell
from invsuite.data.workers import in_order

TOGETHER = 8  # images that one thread or process decodes before they are handed on
SECONDS_WORTH_A_LINE = 5.0
SAMPLE = 4  # photos of a kept file that are decoded again


def decode(dataset: Dataset, rows: Sequence[int], digest: str) -> TensorLike | None:
    """Return the images of some rows as 8-bit pixels (N, 3, H, W), from the cache if they are there.

    Args:
        dataset: whose images they are.
        rows: of the dataset.
        digest: of the content of these rows and of how they are read and resized.

    Returns:
        A tensor in memory or in a file; None where neither has room.
    """
    shape = (len(rows), *dataset[rows[0]].image.shape)
    if dataset.is_photos:
        path = _path(pixels_name(digest, shape))
        kept = _kept(path, shape)
        if kept is not None and _matches(kept, dataset, rows):
            tell(f"{len(rows)} decoded images of '{dataset.name}' come from the cache")
            return kept
        if make_room(path.parent, math.prod(shape)) and _write(path, dataset, rows):
            kept = _kept(path, shape)
            if kept is not None:
                return kept
    pixels = allocate(shape, torch.empty(0, dtype=torch.uint8))
    if pixels is not None:
        start = 0
        for part in _decoded(dataset, rows):
            pixels[start : start + len(part)] = part
            start += len(part)
    return pixels


def pixels_name(digest: str, shape: tuple[int, ...]) -> str:
    """Return what decoded pixels of this ``shape`` are called in the cache; ``digest`` as for `decode`."""
    return hashlib.sha256(f"{digest} {shape} Pillow {PIL.__version__}".encode()).hexdigest()


def is_decoded(name: str) -> bool:
    """Tell whether the cache has the pixels of this name."""
    return _path(name).is_file()


def _path(name: str) -> Path:
    return cache_folder() / "decoded" / f"{name}.pixels"


def images_of(dataset: Dataset, rows: Sequence[int]) -> torch.Tensor:
    """Return the images (N, 3, H, W), float32 in [0, 1], of some rows; photos are decoded by all processors."""
    if not dataset.is_photos:
        return torch.stack([dataset[row].image for row in rows])
    return to_unit_range(torch.cat(list(_pieces(dataset, rows, 1))))


@dataclass(frozen=True)
class Crops:
    """Random crops of some images.

    Attributes:
        rows: of a dataset.
        seeds: of each crop.
        least: share of an image's area that each keeps at least (`Geometry.random_box`).
    """

    rows: Sequence[int]
    seeds: Sequence[int]
    least: float


def random_crops(dataset: Dataset, wanted: Iterable[Crops], expected: int) -> Iterator[torch.Tensor]:
    """Yield random crops as 8-bit pixels (B, 3, H, W), decoded by all processors before they are asked for.

    Args:
        dataset: whose images they are.
        wanted: batches of crops, taken as they are begun.
        expected: how many crops there will be, as far as is known.
    """
    for pixels in in_order(partial(_crops_of, dataset), wanted, expected):
        yield torch.from_numpy(pixels)


def _crops_of(dataset: Dataset, crops: Crops) -> NDArray[np.uint8]:
    each = zip(crops.rows, crops.seeds, strict=True)
    return np.stack([random_crop(dataset, row, crops.least, seed).numpy() for row, seed in each])


def random_crop(dataset: Dataset, row: int, least: float, seed: int) -> torch.Tensor:
    """Return a random part of an image as 8-bit pixels (3, H, W) of the image's size.

    It is cut from the photo in its own size, or from the image where there is no photo.

    Args:
        dataset: whose image it is.
        row: of the dataset.
        least: share of the image's area that the part has at least.
        seed: of the draw.
    """
    photo, geometry = dataset.photo(row), dataset.geometry
    if photo is None or geometry is None:
        photo = Image.fromarray(dataset.pixels(row).permute(1, 2, 0).numpy())
        geometry = Geometry((photo.height, photo.width))
    return geometry.pixels(photo, geometry.random_box(photo.width, photo.height, least, seed))


def _decoded(dataset: Dataset, rows: Sequence[int]) -> Iterator[torch.Tensor]:
    """Yield the images of some rows as 8-bit pixels (B, 3, H, W), in order, and tell how far it is."""
    begun, done = time.monotonic(), 0
    last = begun
    for pixels in _pieces(dataset, rows, TOGETHER):
        yield pixels
        done += len(pixels)
        if time.monotonic() - last > SECONDS_OF_SILENCE:
            last = time.monotonic()
            tell(f"decoded {done} of {len(rows)} images of '{dataset.name}'")
    seconds = time.monotonic() - begun
    if seconds > SECONDS_WORTH_A_LINE:
        tell(f"decoded {len(rows)} images of '{dataset.name}' in {seconds:.0f} s: {len(rows) / seconds:.0f} per second")


def _pieces(dataset: Dataset, rows: Sequence[int], together: int) -> Iterator[torch.Tensor]:
    """Yield the images of some rows as 8-bit pixels (B, 3, H, W), so many ``together``, in order."""
    parts = [rows[start : start + together] for start in range(0, len(rows), together)]
    for pixels in in_order(partial(_pixels_of, dataset), parts, len(rows)):
        yield torch.from_numpy(pixels)


def _pixels_of(dataset: Dataset, rows: Sequence[int]) -> NDArray[np.uint8]:
    """Return the images of some rows; a tensor would go from process to process through shared memory, often short."""
    return np.stack([dataset.pixels(row).numpy() for row in rows])


def _kept(path: Path, shape: Sequence[int]) -> TensorLike | None:
    """Return the pixels of a file of the cache, in memory where they have room; None if it is not there, or not whole.

    The file's time says when it was used last.
    """
    try:
        if path.stat().st_size != math.prod(shape):
            return None
        os.utime(path)
        pixels = SpilledTensor(shape, torch.uint8, path=path)
        return pixels[:] if math.prod(shape) <= memory_budget() else pixels
    except OSError:
        return None


def _matches(pixels: TensorLike, dataset: Dataset, rows: Sequence[int]) -> bool:
    """Tell whether a sample of the photos, decoded again, has these pixels."""
    places = random.sample(range(len(rows)), min(SAMPLE, len(rows)))
    again = from_unit_range(images_of(dataset, [rows[place] for place in places]))
    return all(torch.equal(pixels[[place]][0], image) for place, image in zip(places, again, strict=True))


def _write(path: Path, dataset: Dataset, rows: Sequence[int]) -> bool:
    """Decode into a file of the cache, which is there whole or not at all; tell whether the disk took it."""
    try:
        with whole(path) as file:
            for part in _decoded(dataset, rows):
                file.write(part.numpy().data)
    except OSError:
        return False
    return True
