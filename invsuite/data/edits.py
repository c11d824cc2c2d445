"""Edits of one object, the rest of the image untouched: what the model is shown to see where and what it notices."""

from __future__ import annotations

import numpy as np
import torch
from skimage.color import hsv2rgb, rgb2hsv

from invsuite.data.base import Instance, Mask, Sample

MIN_SHARE = 0.01  # an object must cover this share of the image to be edited
MAX_SHARE = 0.6  # and leave enough background to tell inside from outside


def turn_hue(image: torch.Tensor, mask: Mask, turns: float) -> torch.Tensor:
    """Turn the HSV hue of masked pixels by ``turns`` (1 is the full circle), saturation and value kept.

    Args:
        image: (3, H, W) in [0, 1].
        mask: (H, W), true where the object is.
    """
    hsv = rgb2hsv(image.permute(1, 2, 0).cpu().numpy())
    hsv[..., 0] = np.where(mask, (hsv[..., 0] + turns) % 1.0, hsv[..., 0])
    edited = torch.from_numpy(hsv2rgb(hsv)).permute(2, 0, 1).to(image)
    return torch.where(torch.from_numpy(mask).to(image.device), edited, image).clamp(0, 1)


def relight(image: torch.Tensor, mask: Mask, amount: float) -> torch.Tensor:
    """Lighten a dark object or darken a light one by ``amount``, towards the side with more room.

    Args:
        image: (3, H, W) in [0, 1].
        mask: (H, W), true where the object is.
    """
    where = torch.from_numpy(mask).to(image.device)
    sign = 1.0 if float(image[:, where].mean()) < 0.5 else -1.0
    return torch.where(where, (image + sign * amount).clamp(0, 1), image)


def editable(sample: Sample) -> Instance | None:
    """The largest object of a fitting size, or None."""
    size = sample.image.shape[-1] * sample.image.shape[-2]
    fitting = [i for i in sample.instances if MIN_SHARE <= i.mask.sum() / size <= MAX_SHARE]
    return max(fitting, key=lambda i: int(i.mask.sum()), default=None)
