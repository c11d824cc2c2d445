"""Checks of the data: known pictures go through the same code as real ones, and masks are held against their photos.

They cost milliseconds and run whenever data is opened for a run: a photo that comes out grey or with red and blue
swapped, a resize that aliases, a mask that lies one row off its photo, or the masks of another photo stop the run here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from invsuite.data.base import Mask, Sample, check_images
from invsuite.data.geometry import Geometry
from invsuite.data.photo import open_photo
from invsuite.errors import DataError

FINE = 3.3  # photo pixels per canvas pixel, not whole: a resize without a filter cannot hit the mean by luck
LARGER = 1.3  # the same for the photo of a disc
ALIASED = 0.05  # standard deviation of a resized chessboard above which it was not filtered
OFF_CENTRE = 0.3  # pixels between the centres of an object and its mask
RED, BLUE = np.array([255, 0, 0], dtype=np.uint8), np.array([0, 0, 255], dtype=np.uint8)
MASKED_SAMPLES, MOST_MASKED = 8, 256  # samples with masks that a comparison of masks and photos needs, and looks at
#: Contrast at the borders of a photo's own masks over that of other photos' masks: at least 1.7 in any 8 photos of
#: COCO, 10 in scenes, and up to 1.1 where the masks are those of other photos.
OWN_CONTRAST = 1.3


def check_geometry(geometry: Geometry) -> None:
    """Send a red disc on blue, its mask and a chessboard of single pixels through decoding and resizing.

    Raises:
        DataError: if the disc is not red, the mask is not where the disc is, or the chessboard aliases.
    """
    rows, columns = _grid(geometry, LARGER)
    height, width = rows.shape
    disc = np.hypot(rows - 0.5 * height, columns - 0.45 * width) < 0.3 * min(height, width)
    picture = np.where(disc[..., None], RED, BLUE)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "disc.png"
        Image.fromarray(picture).save(path, compress_level=1)
        image = geometry.tensor(open_photo(path))
    check_images(image[None], "a resized photo")
    mask = geometry.mask(disc)
    check_red(image, mask, "a photo of a red disc")
    check_centre(image[0] > 0.5, mask, "the mask of a resized photo")
    rows, columns = _grid(geometry, FINE)
    board = Image.fromarray(((rows + columns) % 2 * 255).astype(np.uint8)).convert("RGB")
    spread = float(np.std(geometry.pixels(board).numpy() / 255))
    if spread > ALIASED:
        raise DataError(
            f"a chessboard of single pixels resized to {geometry.size} keeps contrast {spread:.2f}: "
            "photos are resized without antialiasing"
        )


def check_masks(samples: Sequence[Sample]) -> None:
    """Hold masks against photos: colours change more at the borders of a photo's own masks than at those of others.

    With fewer than `MASKED_SAMPLES` samples that have masks, nothing can be said.

    Raises:
        DataError: if colours do not change more there: the masks belong to other photos.
    """
    masked = list(islice((sample for sample in samples if sample.instances), MOST_MASKED))
    if len(masked) < MASKED_SAMPLES:
        return
    steps = [_colour_steps(sample.image) for sample in masked]
    borders = [[_borders(instance.mask) for instance in sample.instances] for sample in masked]
    own = _contrast(steps, borders)
    other = float(np.mean([_contrast(steps, borders[shift:] + borders[:shift]) for shift in (1, 2, 3)]))
    if own < OWN_CONTRAST * other:
        raise DataError(
            f"at the borders of their masks photos change by {own:.3f}, at the borders of other photos' masks by "
            f"{other:.3f}: the masks belong to other photos; check how annotations are matched to files"
        )


def _grid(geometry: Geometry, scale: float) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Return the row and the column of every pixel of a photo ``scale`` times as large as the canvas."""
    rows, columns = np.mgrid[: round(scale * geometry.size[0]), : round(scale * geometry.size[1])]
    return rows, columns


def check_red(image: torch.Tensor, mask: Mask, what: str) -> None:
    """Raise `DataError`, naming ``what`` it is about, unless an image (3, H, W) is red inside a mask."""
    red, green, blue = (float(v) for v in image[:, torch.from_numpy(mask)].mean(1))
    if red < 2 * max(green, blue):
        raise DataError(
            f"{what} is decoded as ({red:.2f}, {green:.2f}, {blue:.2f}): channels are swapped, mixed or lost, "
            "expected RGB"
        )


def check_centre(visible: torch.Tensor, mask: Mask, what: str) -> None:
    """Raise `DataError`, naming ``what`` it is about, if the centres of a mask and of what is visible lie apart."""
    off = np.argwhere(mask).mean(0) - np.argwhere(visible.numpy()).mean(0)
    if not np.abs(off).max() <= OFF_CENTRE:
        raise DataError(
            f"{what} lies {off[0]:+.1f} rows and {off[1]:+.1f} columns off the object: masks and pixels must go "
            "through the same geometry"
        )


def _colour_steps(image: torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the change of colour (mean over channels) between neighbouring rows (H - 1, W) and columns (H, W - 1)."""
    pixels = image.numpy()
    return np.abs(np.diff(pixels, axis=1)).mean(0), np.abs(np.diff(pixels, axis=2)).mean(0)


def _borders(mask: Mask) -> tuple[Mask, Mask]:
    """Return where a mask starts or ends between neighbouring rows and columns."""
    return mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]


def _contrast(
    steps: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], borders: Sequence[Sequence[tuple[Mask, Mask]]]
) -> float:
    """Return the mean over samples of the mean change of colour across all borders of their masks."""
    means = []
    for (down, across), masks in zip(steps, borders, strict=True):
        values = np.concatenate([np.concatenate([down[rows], across[columns]]) for rows, columns in masks])
        if len(values):
            means.append(float(values.mean()))
    return float(np.mean(means)) if means else 0.0
