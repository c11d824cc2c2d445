"""From an RGB photo of any size to the size of the model; masks and boxes follow every geometric change."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image

from invsuite.data.base import Mask, to_unit_range
from invsuite.errors import UsageError, unknown_name

FitMode = Literal["crop", "squash"]


INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Resampling:
    """How a checkpoint's own preprocessing resizes a photo.

    Attributes:
        interpolation: one of `INTERPOLATIONS`, antialiased.
        crop_pct: for crops, the share of the covering picture's sides that the centre crop keeps (timm's word).

    Raises:
        UsageError: for an unknown interpolation, or a share outside (0, 1].

    Examples:
        >>> Resampling("bilinear", crop_pct=0.9)
        Resampling(interpolation='bilinear', crop_pct=0.9)
    """

    interpolation: str = "bicubic"
    crop_pct: float = 1.0

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise unknown_name("interpolation", self.interpolation, INTERPOLATIONS)
        if not 0 < self.crop_pct <= 1:
            raise UsageError(f"crop_pct is {self.crop_pct}, expected more than 0 and at most 1")


BICUBIC = Resampling()


@dataclass(frozen=True)
class Geometry:
    """How a photo becomes a canvas of ``size`` (H, W): pixels are antialiased, masks take the nearest pixel.

    The mode ``crop`` scales a photo to cover the canvas and crops the centre, ``squash`` scales each side on its own.
    """

    size: tuple[int, int]
    mode: FitMode = "crop"
    resampling: Resampling = BICUBIC

    def source_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return the part of a ``width`` x ``height`` photo that fills the canvas, as (left, top, right, bottom)."""
        if self.mode == "squash":
            return (0.0, 0.0, float(width), float(height))
        scale = min(width / self.size[1], height / self.size[0]) * self.resampling.crop_pct
        w, h = self.size[1] * scale, self.size[0] * scale
        left, top = max(0.0, (width - w) / 2), max(0.0, (height - h) / 2)  # rounding must not leave the photo
        return (left, top, min(float(width), left + w), min(float(height), top + h))

    def random_box(self, width: int, height: int, least: float, seed: int) -> tuple[float, float, float, float]:
        """Return a random part of a ``width`` x ``height`` photo of the aspect of `source_box`, in the same form.

        Its area is drawn between the share ``least`` and all of that of `source_box`, its place from all of the photo.
        torchvision's ``RandomResizedCrop`` draws an aspect, too; here objects keep the shape that the scored ones have.
        """
        left, top, right, bottom = self.source_box(width, height)
        draw = random.Random(seed)
        side = math.sqrt(draw.uniform(least, 1))
        w, h = side * (right - left), side * (bottom - top)
        x, y = draw.uniform(0, width - w), draw.uniform(0, height - h)
        return (x, y, min(float(width), x + w), min(float(height), y + h))

    def pixels(self, photo: Image.Image, box: tuple[float, float, float, float] | None = None) -> torch.Tensor:
        """Resize an RGB photo, or the ``box`` (left, top, right, bottom) of it, to 8-bit pixels (3, H, W)."""
        canvas = (self.size[1], self.size[0])
        box = self.source_box(*photo.size) if box is None else box
        how = INTERPOLATIONS[self.resampling.interpolation]
        return torch.tensor(np.asarray(photo.resize(canvas, how, box=box))).permute(2, 0, 1).contiguous()

    def tensor(self, photo: Image.Image) -> torch.Tensor:
        """Resize an RGB photo to a float32 image (3, H, W) in [0, 1]."""
        return to_unit_range(self.pixels(photo))

    def mask(self, mask: Mask) -> Mask:
        """Resize a boolean mask (height, width) of the photo by the same geometry."""
        picture = Image.fromarray(mask.astype(np.uint8) * 255)
        canvas = (self.size[1], self.size[0])
        box = self.source_box(*picture.size)
        return np.asarray(picture.resize(canvas, Image.Resampling.NEAREST, box=box)) >= 128

    def box(
        self, box: tuple[float, float, float, float], width: int, height: int
    ) -> tuple[float, float, float, float] | None:
        """Return a box (x0, y0, x1, y1) of a photo of this size on the canvas; None where nothing of it is left."""
        left, top, right, bottom = self.source_box(width, height)
        sides = np.array([self.size[1] / (right - left), self.size[0] / (bottom - top)] * 2)
        moved = (np.array(box) - [left, top, left, top]) * sides
        x0, y0, x1, y1 = (float(v) for v in moved.clip(0, [self.size[1], self.size[0]] * 2))
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None
