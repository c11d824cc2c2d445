"""Edits of one object or a whole image, the rest untouched: what the model is shown to see where and what it notices.

An edit takes an image (3, H, W) in [0, 1] and a mask (H, W), true where it is to act, and gives an image of the same
shape and range. HSV edits are those of Rathjens et al. 2024; CIELCh ones keep the lightness that HSV ones change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from invsuite.data.base import Instance, Mask, Sample
from invsuite.data.gamut import lch_to_rgb

Pixels = NDArray[np.float64]  # (P, 3)

MIN_SHARE = 0.01  # an object must cover this share of the image to be edited
MAX_SHARE = 0.6  # and leave enough background to tell inside from outside


def turn_hue(image: torch.Tensor, mask: Mask, turns: float) -> torch.Tensor:
    """Turn the HSV hue of masked pixels by ``turns`` (1 is the full circle), saturation and value kept."""
    from skimage.color import hsv2rgb, rgb2hsv

    def turned(rgb: Pixels) -> Pixels:
        hsv = rgb2hsv(rgb)
        hsv[:, 0] = (hsv[:, 0] + turns) % 1.0
        return hsv2rgb(hsv)

    return _repaint(image, mask, turned)


def turn_hue_lch(image: torch.Tensor, mask: Mask, turns: float) -> torch.Tensor:
    """Turn the CIELCh hue of masked pixels by ``turns`` at constant lightness.

    Chroma is kept as well, but where sRGB has no such colour it is reduced until it has (`lch_to_rgb`).
    """
    from skimage.color import lab2lch, rgb2lab

    def turned(rgb: Pixels) -> Pixels:
        lch = lab2lch(rgb2lab(rgb))
        lch[:, 2] += 2 * np.pi * turns
        return lch_to_rgb(lch)

    return _repaint(image, mask, turned)


def set_hue(image: torch.Tensor, mask: Mask, hue: float) -> torch.Tensor:
    """Give masked pixels the HSV ``hue`` in turns [0, 1), saturation and value kept."""
    from skimage.color import hsv2rgb, rgb2hsv

    def painted(rgb: Pixels) -> Pixels:
        hsv = rgb2hsv(rgb)
        hsv[:, 0] = hue
        return hsv2rgb(hsv)

    return _repaint(image, mask, painted)


def scale_chroma(image: torch.Tensor, mask: Mask, factor: float) -> torch.Tensor:
    """Scale the CIELCh chroma of masked pixels by ``factor`` at constant lightness and hue; 0 makes them grey.

    Chroma that sRGB has no colour for is reduced until it has (`lch_to_rgb`).
    """
    from skimage.color import lab2lch, rgb2lab

    def scaled(rgb: Pixels) -> Pixels:
        lch = lab2lch(rgb2lab(rgb))
        lch[:, 1] *= factor
        return lch_to_rgb(lch)

    return _repaint(image, mask, scaled)


def swap_channels(image: torch.Tensor, mask: Mask, order: Sequence[int]) -> torch.Tensor:
    """Put the RGB channels of masked pixels in another ``order``; (2, 1, 0) swaps red and blue."""
    return _repaint(image, mask, lambda rgb: rgb[:, list(order)])


def relight(image: torch.Tensor, mask: Mask, amount: float) -> torch.Tensor:
    """Lighten a dark object or darken a light one by ``amount``, towards the side with more room."""
    where = torch.from_numpy(mask).to(image.device)
    sign = 1.0 if float(image[:, where].mean()) < 0.5 else -1.0
    return torch.where(where, (image + sign * amount).clamp(0, 1), image)


def editable(sample: Sample) -> Instance | None:
    """The largest object of a fitting size, or None."""
    size = sample.image.shape[-1] * sample.image.shape[-2]
    fitting = [i for i in sample.instances if MIN_SHARE <= i.mask.sum() / size <= MAX_SHARE]
    return max(fitting, key=lambda i: int(i.mask.sum()), default=None)


def _repaint(image: torch.Tensor, mask: Mask, paint: Callable[[Pixels], Pixels]) -> torch.Tensor:
    where = torch.from_numpy(mask).to(image.device)
    painted = paint(image[:, where].T.double().cpu().numpy()).clip(0, 1)
    edited = image.clone()
    edited[:, where] = torch.from_numpy(painted.T).to(image)
    return edited
