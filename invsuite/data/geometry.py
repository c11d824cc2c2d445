"""From a photo of any size and mode to 8-bit RGB of the model's size; masks follow every geometric change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from invsuite.data.base import Mask, to_unit_range
from invsuite.errors import DataError, UsageError, unknown_name

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

    def pixels(self, photo: Image.Image) -> NDArray[np.uint8]:
        """Resize an RGB photo to (H, W, 3), 8 bits."""
        canvas = (self.size[1], self.size[0])
        box = self.source_box(*photo.size)
        how = INTERPOLATIONS[self.resampling.interpolation]
        return np.asarray(photo.resize(canvas, how, box=box), dtype=np.uint8)

    def tensor(self, photo: Image.Image) -> torch.Tensor:
        """Resize an RGB photo to a float32 image (3, H, W) in [0, 1]."""
        return to_unit_range(torch.tensor(self.pixels(photo)).permute(2, 0, 1).contiguous())

    def mask(self, mask: Mask) -> Mask:
        """Resize a boolean mask (height, width) of the photo by the same geometry."""
        picture = Image.fromarray(mask.astype(np.uint8) * 255)
        canvas = (self.size[1], self.size[0])
        box = self.source_box(*picture.size)
        return np.asarray(picture.resize(canvas, Image.Resampling.NEAREST, box=box)) >= 128


ORIENTATION = 0x0112  # EXIF tag; 1 is upright


def kinds_of(photo: Image.Image) -> tuple[str, ...]:
    """Return what `to_rgb` has to change of a photo, for the count in the record.

    The kinds are ``rotated``, ``grey``, ``CMYK``, ``alpha``, ``palette`` and ``deep`` (more than 8 bits).
    """
    mode = photo.mode
    kinds = {
        "rotated": photo.getexif().get(ORIENTATION, 1) != 1,
        "grey": mode in ("1", "L", "LA"),
        "CMYK": mode == "CMYK",
        "alpha": mode in ("RGBA", "LA", "PA") or "transparency" in photo.info,
        "palette": mode in ("P", "PA"),
        "deep": mode.startswith("I") or mode == "F",
    }
    return tuple(name for name, there in kinds.items() if there)


def to_rgb(photo: Image.Image, upright: bool = True) -> Image.Image:
    """Return any photo as 8-bit RGB: EXIF rotation applied (``upright``), alpha over white, 16-bit and float rescaled.

    Raises:
        DataError: if the file is truncated or cannot be decoded.
    """
    try:
        photo = ImageOps.exif_transpose(photo) if upright else photo
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


def open_photo(path: Path, upright: bool = True) -> Image.Image:
    """Return the photo of a file as RGB, upright, or as its pixels are stored.

    Raises:
        DataError: naming the file and the reason.
    """
    try:
        with Image.open(path) as photo:
            return to_rgb(photo, upright)
    except (OSError, SyntaxError, ValueError, DataError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: {error}") from error
