"""What a dataset hands out: samples with an image in [0, 1] and, where known, exact object masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from invsuite.errors import DataError

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Instance:
    """One object: boolean ``mask`` (H, W), class index ``label`` and ``box`` (x0, y0, x1, y1) in pixels."""

    mask: Mask
    label: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Sample:
    """One image.

    ``key`` names it in records, ``image`` is float32 RGB (3, H, W) in [0, 1], ``instances`` may be empty.

    Raises:
        DataError: if the image is not float in [0, 1] or a mask has another size than the image.
    """

    key: str
    image: torch.Tensor
    instances: tuple[Instance, ...] = ()

    def __post_init__(self) -> None:
        check_images(self.image[None], what=f"image {self.key}")
        size = tuple(self.image.shape[-2:])
        for number, instance in enumerate(self.instances):
            if instance.mask.shape != size:
                raise DataError(
                    f"mask {number} of {self.key} is {instance.mask.shape}, its image is {size}: "
                    "resize both with the same transform"
                )


class Dataset(Protocol):
    """An ordered, finite collection of samples.

    ``digest`` covers everything that changes a pixel or a mask; ``identity`` tells one image's content without
    decoding it, so that a photo shared by two folders is found.
    """

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def identity(self, index: int) -> str: ...

    def digest(self) -> str: ...


def bounding_box(mask: Mask) -> tuple[float, float, float, float]:
    """The smallest box (x0, y0, x1, y1) in pixels around a mask with at least one pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def check_images(images: torch.Tensor, what: str = "images") -> torch.Tensor:
    """Return ``images`` unchanged if they are float RGB (B, 3, H, W) in [0, 1]; the suite's one range check.

    Raises:
        DataError: naming what is wrong (dtype, shape, NaN, range) and the fix.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise DataError(f"{what}: shape {tuple(images.shape)} is not (B, 3, H, W) RGB")
    if not images.is_floating_point():
        raise DataError(f"{what}: dtype {images.dtype} is not float; divide 8-bit images by 255")
    if images.numel() == 0:
        return images
    low, high = (float(v) for v in torch.aminmax(images.detach()))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{what}: NaN or infinity among the pixels")
    if low < 0.0 or high > 1.0:
        hint = "divide by 255" if high > 8 else "undo the model's normalisation, or clamp"
        raise DataError(f"{what}: values in [{low:.3g}, {high:.3g}], expected [0, 1]; {hint}")
    return images


def to_unit_range(pixels: torch.Tensor) -> torch.Tensor:
    """8-bit pixels as float32 in [0, 1]."""
    return pixels.float() / 255


def from_unit_range(images: torch.Tensor) -> torch.Tensor:
    """Images in [0, 1] as 8-bit pixels, rounded."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)
