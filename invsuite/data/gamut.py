"""CIELCh colours as sRGB, those that sRGB lacks brought into it at constant lightness and hue."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SLACK = 1e-6  # linear RGB beyond [0, 1] by rounding of the conversions is no colour outside
STEPS = 20  # of the bisection: chroma to about 1e-4


def lch_to_rgb(lch: Array) -> Array:
    """sRGB (P, 3) in [0, 1] of CIELCh colours (P, 3): lightness 0-100, chroma, hue in radians; white D65.

    Where sRGB has no such colour, chroma is reduced to the largest it has at this lightness and hue (by bisection),
    so that an edit never changes the lightness or the hue that it did not ask for, as clipping channels would.
    """
    outside = ~_fits(lch)
    if outside.any():
        wanted = lch[outside]
        low, high = np.zeros(len(wanted)), np.ones(len(wanted))
        for _ in range(STEPS):
            middle = (low + high) / 2
            fits = _fits(wanted * np.stack([np.ones_like(middle), middle, np.ones_like(middle)], 1))
            low, high = np.where(fits, middle, low), np.where(fits, high, middle)
        lch = lch.copy()
        lch[outside, 1] *= low
    linear = _linear_rgb(lch).clip(0, 1)
    # the sRGB transfer function, IEC 61966-2-1
    encoded: Array = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return encoded


def _fits(lch: Array) -> NDArray[np.bool_]:
    linear = _linear_rgb(lch)
    return np.asarray(((linear >= -SLACK) & (linear <= 1 + SLACK)).all(1))


def _linear_rgb(lch: Array) -> Array:
    """Linear RGB (P, 3), beyond [0, 1] where sRGB has no such colour."""
    from skimage.color import lab2xyz, lch2lab
    from skimage.color.colorconv import rgb_from_xyz

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-image warns of negative Z, which no gamut holds: it is found outside
        found: Array = lab2xyz(lch2lab(lch)) @ rgb_from_xyz.T
    return found
