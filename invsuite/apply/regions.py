"""Where edits act on a photo: in a mask, whatever it comes as, or in a box."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from invsuite.apply.images import path_of
from invsuite.data.base import Mask
from invsuite.data.photo import TRANSPARENT, TURNS, orientation, quiet
from invsuite.errors import DataError, MissingPath, UsageError, reason_of

Box = tuple[float, float, float, float]
MaskLike = str | Path | Image.Image | NDArray[Any] | torch.Tensor


@dataclass(frozen=True)
class Region:
    """Where edits act on a photo: in a mask or a box, or everywhere.

    Attributes:
        mask: of the photo's size: true or bright pixels, or those that are not transparent.
        box: (x, y, width, height) in pixels of the photo as a viewer shows it.
    """

    mask: MaskLike | None = None
    box: Box | None = None

    def check(self, photos: int, edited: bool) -> None:
        """Raise `UsageError` for a mask and a box together, one for several photos, or one without an edit."""
        named = [name for name, value in (("mask", self.mask), ("box", self.box)) if value is not None]
        if len(named) > 1:
            raise UsageError("a mask and a box were given: edits act in one of them")
        if named and not edited:
            raise UsageError(f"a {named[0]} says where edits act, and there are none: add one, e.g. hue=120")
        if named and photos > 1:
            raise UsageError(f"a {named[0]} belongs to one photo, and there are {photos}: invert that photo alone")

    def of(self, size: tuple[int, int], name: str) -> Mask | None:
        """Return the region (h, w) of a photo of ``size`` (width, height); None for everywhere.

        Raises:
            UsageError: if the mask has another size than the photo of this ``name``, or nothing is inside.
            MissingPath: for a mask's file that is not there.
            DataError: for one that cannot be decoded.
        """
        width, height = size
        if self.box is not None:
            x, y, w, h = self.box
            if not all(map(math.isfinite, self.box)) or w <= 0 or h <= 0:
                raise UsageError(f"box {_box_text(self.box)}: expected x,y,width,height in pixels, none of them empty")
            mask = np.zeros((height, width), dtype=bool)
            columns, rows = (slice(max(0, round(a)), max(0, round(a + b))) for a, b in ((x, w), (y, h)))
            mask[rows, columns] = True
            if not mask.any():
                raise UsageError(f"box {_box_text(self.box)} lies outside of {name}, which has {width} x {height} px")
            return mask
        if self.mask is None:
            return None
        mask = _bright(self.mask)
        if mask.shape != (height, width):
            raise UsageError(f"the mask has {mask.shape[1]} x {mask.shape[0]} px, {name} has {width} x {height}")
        if not mask.any():
            raise UsageError("the mask has no bright pixel: edits would act nowhere")
        return mask


def _box_text(box: Box) -> str:
    return ",".join(f"{value:g}" for value in box)


def _bright(mask: MaskLike) -> Mask:
    """Return a mask (h, w) of whatever it comes as: true where it is brighter than half of its brightest pixel.

    A picture with transparent pixels is a cut-out: its mask is where it is opaque.
    """
    if isinstance(mask, str | Path):
        place = path_of(mask)
        if not place.is_file():
            raise MissingPath(f"mask '{mask}' does not exist")
        try:
            with quiet(), Image.open(place) as opened:
                opened.load()
        except Exception as error:  # a decoder raises what it will over damaged bytes
            raise DataError(f"mask '{mask}' cannot be decoded: {reason_of(error)}") from error
        return _bright(opened)
    if isinstance(mask, Image.Image):
        turn = TURNS.get(orientation(mask) or 1)
        picture = mask if turn is None else mask.transpose(turn)
        if picture.mode in TRANSPARENT:
            alpha = np.asarray(picture.convert("RGBA").getchannel("A"))
            if alpha.min() < 255:
                return _bright(alpha)
        if picture.mode == "P":  # as object masks are published: each object a colour, all else black
            coloured: Mask = np.asarray(picture.convert("RGB")).max(2) > 0
            return coloured
        plain = picture.mode in ("1", "L") or picture.mode[0] in "IF"
        return _bright(np.asarray(picture if plain else picture.convert("L")))
    values = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values.squeeze(0 if values.shape[0] == 1 else 2)
    if values.ndim != 2 or values.dtype.kind not in "buif":
        raise UsageError(f"the mask has shape {values.shape} and dtype {values.dtype}, expected (H, W) of numbers")
    bright: Mask = values > 0.5 * max(float(values.max(initial=0)), 0.0)
    return bright


def box_of(text: str) -> Box:
    """Return the box that a person writes as ``x,y,width,height``.

    Raises:
        UsageError: if it is not four numbers.
    """
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"box '{text}': expected four numbers, x,y,width,height in pixels of the photo") from error
    return x, y, width, height
