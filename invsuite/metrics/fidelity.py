"""Pixel fidelity, per image, in [0, 1] pixel space with ``data_range=1``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torchmetrics.functional.image import peak_signal_noise_ratio

from invsuite.metrics.base import Metric, Scoring, Values, batches

PSNR_CAP = 100.0  # dB; identical images have infinite PSNR, which no mean survives
WINDOW, SIGMA = 11, 1.5  # side of the Gaussian window of SSIM, and its deviation in pixels
C1, C2 = 0.01**2, 0.03**2  # what keeps the terms of SSIM finite, for a range of 1
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # exponents of MS-SSIM, finest scale first


def window_matrix(side: int) -> torch.Tensor:
    """(side - 10, side): applied to a line of pixels, the Gaussian mean of every window that lies within it."""
    weights = torch.exp(-((torch.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    matrix = torch.zeros(side - WINDOW + 1, side)
    for offset, weight in enumerate(weights / weights.sum()):
        matrix.diagonal(offset).fill_(weight)
    return matrix


def ssim_terms(made: torch.Tensor, true: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """SSIM and its contrast and structure term, each (B,), of images (B, 3, H, W) (Wang et al. 2004, eq. 12 and 13).

    The window is separable, so that two products with banded matrices do its work: three times faster on a CPU than
    the convolution of torchmetrics, whose values these are.
    """
    rows, columns = (window_matrix(side).to(made) for side in made.shape[-2:])

    def mean(maps: torch.Tensor) -> torch.Tensor:
        return rows @ (maps @ columns.T)

    m, t = mean(made), mean(true)
    spread = (mean(made * made) - m * m).clamp(min=0) + (mean(true * true) - t * t).clamp(min=0)
    contrast = (2 * (mean(made * true) - m * t) + C2) / (spread + C2)
    luminance = (2 * m * t + C1) / (m * m + t * t + C1)
    return (luminance * contrast).mean((1, 2, 3)), contrast.mean((1, 2, 3))


def ms_ssim(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """MS-SSIM (B,) of images (B, 3, H, W): contrast at every scale, luminance too at the coarsest, each to its
    exponent (Wang, Simoncelli & Bovik 2003, eq. 7); negative terms, which have no power, count as zero."""
    terms = []
    for _ in SCALES[:-1]:
        terms.append(ssim_terms(made, true)[1])
        made, true = F.avg_pool2d(made, 2), F.avg_pool2d(true, 2)
    terms.append(ssim_terms(made, true)[0])
    exponents = torch.tensor(SCALES, device=made.device)[:, None]
    return (torch.stack(terms).clamp(min=0) ** exponents).prod(0)


@dataclass(frozen=True)
class Psnr(Metric):
    """Peak signal-to-noise ratio, 10 log10(1 / MSE) of each image, then averaged (never of a pooled MSE);
    capped at 100 dB."""

    name = "psnr"
    label = "PSNR"
    unit = "dB"
    direction = "higher"
    digits = 2

    def compute(self, scoring: Scoring) -> Values:
        found = peak_signal_noise_ratio(
            scoring.reconstructions, scoring.images, data_range=1.0, reduction="none", dim=(1, 2, 3)
        )
        return Values([min(float(v), PSNR_CAP) for v in found])


@dataclass(frozen=True)
class Ssim(Metric):
    """Structural similarity (Wang et al. 2004), Gaussian window 11, sigma 1.5, of each image; windows that reach
    over the border are left out, as in the paper."""

    name = "ssim"
    label = "SSIM"
    direction = "higher"

    def compute(self, scoring: Scoring) -> Values:
        found = [ssim_terms(made, true)[0] for made, true in batches(scoring.reconstructions, scoring.images)]
        return Values(torch.cat(found).tolist())


@dataclass(frozen=True)
class MsSsim(Metric):
    """Multi-scale structural similarity (Wang, Simoncelli & Bovik 2003) of each image, at the five published scales and
    exponents. Defined for images of at least 176 px a side: at a sixteenth of it the window of 11 px still fits."""

    name = "ms_ssim"
    label = "MS-SSIM"
    direction = "higher"

    def compute(self, scoring: Scoring) -> Values:
        height, width = scoring.images.shape[-2:]
        least = WINDOW * 2 ** (len(SCALES) - 1)
        if min(height, width) < least:
            reason = f"five scales need at least {least} px a side, these images have {height} x {width}"
            return Values([None] * len(scoring.images), reason)
        found = [ms_ssim(made, true) for made, true in batches(scoring.reconstructions, scoring.images)]
        return Values(torch.cat(found).tolist())
