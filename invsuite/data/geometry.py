"""From a photo of any size and mode to 8-bit RGB of the model's size; masks follow every geometric change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from invsuite.data.base import Mask, to_unit_range
from invsuite.errors import DataError

FitMode = Literal["crop", "squash"]
FIT_MODES: tuple[FitMode, ...] = ("crop", "squash")


@dataclass(frozen=True)
class Geometry:
    """How a photo becomes ``size`` (H, W): ``crop`` scales it to cover the canvas and crops the centre,
    ``squash`` scales each side on its own. Antialiased bicubic for pixels, nearest for masks."""

    size: tuple[int, int]
    mode: FitMode = "crop"

    def source_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of a ``width`` x ``height`` photo that fills the canvas, as (left, top, right, bottom)."""
        if self.mode == "squash":
            return (0.0, 0.0, float(width), float(height))
        scale = min(width / self.size[1], height / self.size[0])
        w, h = self.size[1] * scale, self.size[0] * scale
        left, top = max(0.0, (width - w) / 2), max(0.0, (height - h) / 2)  # rounding must not leave the photo
        return (left, top, min(float(width), left + w), min(float(height), top + h))

    def pixels(self, photo: Image.Image) -> NDArray[np.uint8]:
        """Resize an RGB photo to (H, W, 3), 8 bits."""
        canvas = (self.size[1], self.size[0])
        box = self.source_box(*photo.size)
        return np.asarray(photo.resize(canvas, Image.Resampling.BICUBIC, box=box), dtype=np.uint8)

    def tensor(self, photo: Image.Image) -> torch.Tensor:
        """Resize an RGB photo to a float32 image (3, H, W) in [0, 1]."""
        return to_unit_range(torch.tensor(self.pixels(photo)).permute(2, 0, 1).contiguous())

    def mask(self, mask: Mask) -> Mask:
        """Resize a boolean mask (height, width) of the photo by the same geometry."""
        picture = Image.fromarray(mask.astype(np.uint8) * 255)
        canvas = (self.size[1], self.size[0])
        box = self.source_box(*picture.size)
        return np.asarray(picture.resize(canvas, Image.Resampling.NEAREST, box=box)) >= 128


def to_rgb(photo: Image.Image) -> Image.Image:
    """Upright 8-bit RGB of any photo: EXIF rotation applied, alpha over white, 16-bit and float rescaled.

    Raises:
        DataError: if the file is truncated or cannot be decoded.
    """
    try:
        photo = ImageOps.exif_transpose(photo)
        photo.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot be decoded ({error})") from error
    if photo.mode.startswith("I") or photo.mode == "F":
        values = np.asarray(photo, dtype=np.float64)
        top = 65535.0 if values.max(initial=0.0) > 255 else 255.0
        photo = Image.fromarray(np.clip(values / top * 255, 0, 255).round().astype(np.uint8))
    if photo.mode in ("RGBA", "LA", "PA") or "transparency" in photo.info:
        rgba = photo.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        photo = Image.alpha_composite(white, rgba)
    return photo.convert("RGB")
