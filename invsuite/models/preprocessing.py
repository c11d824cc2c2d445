"""What an image processor of transformers does to a photo, in the terms of a chain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from invsuite.data.geometry import INTERPOLATIONS, Resampling
from invsuite.errors import UsageError
from invsuite.models.base import Normalise

STRIDE = 32  # sides chosen here, not by the checkpoint, are whole places of the coarsest usual grid
ASPECT = 4 / 3  # of the photos of a processor that keeps theirs, as most of COCO are
#: switches of processors that are obeyed here, or that are about annotations and file formats
KNOWN = {
    "do_resize",
    "do_rescale",
    "do_normalize",
    "do_pad",
    "do_center_crop",
    "do_convert_rgb",
    "do_convert_annotations",
    "do_reduce_labels",
}
VALUE_TOLERANCE = 1e-4  # of the values that a network is fed with, relative to their range

Triple = tuple[float, float, float]
Size = tuple[int, int]


@dataclass(frozen=True)
class Preprocessing:
    """How photos become the network's input.

    Attributes:
        mean: that is taken off images in [0, 1], per channel.
        std: that they are then divided by.
        size: (H, W) of the images; None where the processor leaves it to the photo.
        resampling: how photos are resized.
        canvas: (H, W) to which images are padded; None where they are not.
    """

    mean: Triple
    std: Triple
    size: Size | None
    resampling: Resampling
    canvas: Size | None = None

    @classmethod
    def of(cls, processor: Any, where: str) -> Preprocessing:
        """Return what ``processor`` does; messages say ``where`` its configuration is.

        Raises:
            UsageError: for a key that a chain cannot obey, by name.
        """
        on = {name for name, value in vars(processor).items() if name.startswith("do_") and value is True}
        on |= {name for name in KNOWN if getattr(processor, name, False)}
        if on - KNOWN:
            raise UsageError(f"{where}: '{min(on - KNOWN)}' is true, which is not known here: set it to false")
        scale = 255 * float(_number(processor, "rescale_factor", where)) if "do_rescale" in on else 255.0
        means, stds = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        if "do_normalize" in on:
            means, stds = _triple(processor, "image_mean", where), _triple(processor, "image_std", where)
        if 0 in stds or scale == 0:
            raise UsageError(f"{where}: '{'image_std' if scale else 'rescale_factor'}' is 0: nothing is divided by it")
        size, share = _size_and_share(processor, on, where)
        preprocessing = cls(
            (means[0] / scale, means[1] / scale, means[2] / scale),
            (stds[0] / scale, stds[1] / scale, stds[2] / scale),
            size,
            Resampling(_interpolation(processor, where), share),
            _canvas(processor, on, where),
        )
        _check_values(processor, preprocessing, where)
        return preprocessing

    def sized(self, size: Size | None, where: str) -> Size:
        """Return ``size`` (H, W), or else the processor's own.

        Raises:
            UsageError: if there is none.
        """
        if size is None and self.size is None:
            raise UsageError(f"{where} does not say how large images are: append it to the source, @HxW")
        return size or self.size  # type: ignore[return-value]


def _number(processor: Any, key: str, where: str) -> float:
    value = getattr(processor, key, None)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{where}: '{key}' is {value!r}, expected a finite number")
    return float(value)


def _triple(processor: Any, key: str, where: str) -> Triple:
    """Return one number per channel; a single one stands for all."""
    value = getattr(processor, key, None)
    values: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    finite = [isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values]
    if len(values) not in (1, 3) or not all(finite):
        raise UsageError(f"{where}: '{key}' is {value!r}, expected one finite number, or one for each of 3 channels")
    first, second, third = (values * 3)[:3]
    return float(first), float(second), float(third)


def _interpolation(processor: Any, where: str) -> str:
    """Return the name of the processor's own interpolation."""
    kind = getattr(processor, "resample", None)
    names = {int(value): name for name, value in INTERPOLATIONS.items()}
    if kind is not None and int(kind) not in names:
        known = ", ".join(f"{number} ({name})" for number, name in sorted(names.items()))
        raise UsageError(f"{where}: 'resample' is {int(kind)}, which is not known here: {known}")
    return names[2 if kind is None else int(kind)]


def _sides(value: Any) -> dict[str, int]:
    """Return the entries of a ``size``, ``crop_size`` or ``pad_size`` that are there."""
    entries = value if isinstance(value, Mapping) else vars(value) if value is not None else {}
    return {key: int(side) for key, side in entries.items() if side is not None}


def _pair(processor: Any, key: str, where: str) -> Size:
    sides = _sides(getattr(processor, key, None))
    if not {"height", "width"} <= sides.keys() or min(sides.values()) < 1:
        raise UsageError(f"{where}: '{key}' is {sides or None}, expected height and width")
    return sides["height"], sides["width"]


def _size_and_share(processor: Any, on: set[str], where: str) -> tuple[Size | None, float]:
    """Return the (H, W) of the images that the processor makes, and the share of a covering picture that a crop keeps.

    Where it keeps the photo's own aspect (DETR's shortest edge 800, longest 1333) they are those of a 4:3 photo, in
    whole places.
    """
    sides = _sides(getattr(processor, "size", None)) if "do_resize" in on else {}
    short, long = sides.get("shortest_edge"), sides.get("longest_edge")
    if min(sides.values(), default=1) < 1:
        raise UsageError(f"{where}: 'size' is {sides}, expected sides of 1 or more")
    if "do_center_crop" in on:
        crop = _pair(processor, "crop_size", where)
        covering = (short, short) if short else (sides.get("height", crop[0]), sides.get("width", crop[1]))
        shares = [kept / whole for kept, whole in zip(crop, covering, strict=True)]
        if max(shares) > 1 or (not short and shares[0] != shares[1]):
            raise UsageError(f"{where}: 'crop_size' {crop} of 'size' {sides} is no centre crop of the whole photo")
        return crop, max(shares)
    if {"height", "width"} <= sides.keys():
        return (sides["height"], sides["width"]), 1.0
    crop_pct = getattr(processor, "crop_pct", None)
    if short and crop_pct:  # ConvNeXt's: a square, cropped where it is small
        return (short, short), float(crop_pct) if short < 384 else 1.0
    if short:
        return _whole_places(short, min(long or round(short * ASPECT), round(short * ASPECT))), 1.0
    if long:
        return _whole_places(round(long / ASPECT), long), 1.0
    if {"max_height", "max_width"} <= sides.keys():
        height = min(sides["max_height"], round(sides["max_width"] / ASPECT))
        return _whole_places(height, round(height * ASPECT)), 1.0
    if sides:
        raise UsageError(f"{where}: 'size' has {', '.join(sides)}, from which no image size follows")
    return None, 1.0


def _whole_places(height: int, width: int) -> Size:
    return max(STRIDE, height // STRIDE * STRIDE), max(STRIDE, width // STRIDE * STRIDE)


def _canvas(processor: Any, on: set[str], where: str) -> Size | None:
    """Return the (H, W) that every image is padded to; None where padding only levels images of a batch."""
    if "do_pad" not in on or not _sides(getattr(processor, "pad_size", None)):
        return None
    return _pair(processor, "pad_size", where)


def _check_values(processor: Any, preprocessing: Preprocessing, where: str) -> None:
    """Compare the processor's own values of a picture with the chain's.

    Raises:
        UsageError: if they differ, so that it does something to values that no known key says.
    """
    side = STRIDE
    picture = torch.randint(0, 256, (side, side, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    off = {name: False for name in ("do_resize", "do_center_crop", "do_pad") if hasattr(processor, name)}
    photo = Image.fromarray(picture.numpy())
    theirs = torch.as_tensor(processor(images=[photo], return_tensors="pt", **off)["pixel_values"])[0].float()
    ours = Normalise(preprocessing.mean, preprocessing.std)(picture.permute(2, 0, 1)[None].float() / 255)[0]
    spread = max(1.0, float(ours.abs().max()))
    if theirs.shape != ours.shape or not float((theirs - ours).abs().max()) <= VALUE_TOLERANCE * spread:
        kind = type(processor).__name__
        raise UsageError(
            f"{where}: {kind} does more to the values of an image than 'do_rescale' and 'do_normalize' say: "
            f"it gives {float(theirs.min()):.3g} to {float(theirs.max()):.3g}, these keys "
            f"{float(ours.min()):.3g} to {float(ours.max()):.3g}"
        )
