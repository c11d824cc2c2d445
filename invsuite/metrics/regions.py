"""Pixels inside masks, in the colour spaces that colour is measured in, and their sums per object."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Regions:
    """The pixels of ``n`` images that lie inside their masks (n, H, W), as rows of one array."""

    def __init__(self, masks: torch.Tensor) -> None:
        self._masks = masks
        self._owner = masks.nonzero()[:, 0].cpu().numpy()
        self._count = len(masks)
        self.sizes = np.bincount(self._owner, minlength=self._count)

    def rgb(self, images: torch.Tensor) -> Array:
        """Return the RGB values (P, 3) of ``images`` (n, 3, H, W) inside the masks."""
        pixels: Array = images.permute(0, 2, 3, 1)[self._masks].double().cpu().numpy()
        return pixels

    def lab(self, images: torch.Tensor) -> Array:
        """Return the CIELab values (P, 3), white D65, of sRGB ``images`` (n, 3, H, W) in [0, 1]."""
        return _rgb_to_lab(self.rgb(images))

    def hue_and_chroma(self, images: torch.Tensor) -> tuple[Array, Array]:
        """Return HSV hue in radians and chroma (max - min of RGB), both (P,)."""
        from skimage.color import rgb2hsv

        hsv = rgb2hsv(self.rgb(images))
        return hsv[:, 0] * 2 * np.pi, hsv[:, 1] * hsv[:, 2]

    def sum(self, values: Array) -> Array:
        """Return the sum (n,) of ``values`` (P,) over the pixels of each mask."""
        return np.bincount(self._owner, values, self._count).astype(np.float64)

    def mean(self, values: Array) -> Array:
        """Return the mean (n,) of ``values`` (P,) over the pixels of each mask."""
        return self.sum(values) / self.sizes


def lab_images(images: torch.Tensor) -> torch.Tensor:
    """Return CIELab values, white D65, of whole sRGB images in [0, 1], both (N, 3, H, W), in float64."""
    lab = _rgb_to_lab(images.permute(0, 2, 3, 1).double().cpu().numpy())
    return torch.from_numpy(lab).permute(0, 3, 1, 2).to(images.device)


def _rgb_to_lab(rgb: Array) -> Array:
    from skimage.color import rgb2lab

    lab: Array = rgb2lab(rgb)
    return lab
