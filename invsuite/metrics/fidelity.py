"""Pixel fidelity, per image, in [0, 1] pixel space with ``data_range=1``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from invsuite.metrics.base import Metric, Scoring, Values, by_image
from invsuite.registry import register

PSNR_CAP = 100.0  # dB; identical images have infinite PSNR, which no mean survives
WINDOW = 11  # side of the Gaussian window of SSIM at sigma 1.5
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # exponents of MS-SSIM, finest scale first


def psnr(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """PSNR in dB (B,) of images (B, 3, H, W) in [0, 1], of each by itself; infinite for a copy."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    return peak_signal_noise_ratio(made, true, data_range=1.0, reduction="none", dim=(1, 2, 3))


def _ssim(made: torch.Tensor, true: torch.Tensor, **returns: bool) -> tuple[torch.Tensor, torch.Tensor]:
    from torchmetrics.functional.image import structural_similarity_index_measure

    return structural_similarity_index_measure(made, true, data_range=1.0, reduction="none", **returns)


def ssim(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """SSIM (B,) of images (B, 3, H, W); windows that reach over the border are left out."""
    _, full = _ssim(made, true, return_full_image=True)
    border = WINDOW // 2  # torchmetrics reflects the image there and counts it
    return full[..., border:-border, border:-border].mean((1, 2, 3))


def contrast(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """The contrast and structure term of SSIM, (B,), of images (B, 3, H, W), without the border."""
    _, found = _ssim(made, true, return_contrast_sensitivity=True)
    return found


def ms_ssim(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """MS-SSIM (B,) of images (B, 3, H, W): contrast at every scale, luminance too at the coarsest, each to its
    exponent (Wang, Simoncelli & Bovik 2003, eq. 7); negative terms, which have no power, count as zero."""
    terms = []
    for _ in SCALES[:-1]:
        terms.append(contrast(made, true))
        made, true = F.avg_pool2d(made, 2), F.avg_pool2d(true, 2)
    terms.append(ssim(made, true))
    exponents = torch.tensor(SCALES, device=made.device)[:, None]
    return (torch.stack(terms).clamp(min=0) ** exponents).prod(0)


@register.metric
@dataclass(frozen=True)
class Psnr(Metric):
    """Peak signal-to-noise ratio, 10 log10(1 / MSE) of each image, then averaged (never of a pooled MSE);
    capped at 100 dB."""

    name = "psnr"
    label = "PSNR"
    unit = "dB"
    direction = "higher"
    digits = 2
    tolerance = 0.3
    headline = True

    def compute(self, scoring: Scoring) -> Values:
        found = by_image(psnr, scoring.reconstructions, scoring.images)
        return Values([min(value, PSNR_CAP) for value in found.tolist()])


@register.metric
@dataclass(frozen=True)
class Ssim(Metric):
    """Structural similarity (Wang et al. 2004), Gaussian window 11, sigma 1.5, of each image; windows that reach
    over the border are left out, as in the paper."""

    name = "ssim"
    label = "SSIM"
    direction = "higher"
    tolerance = 0.02
    headline = True

    def compute(self, scoring: Scoring) -> Values:
        return Values(by_image(ssim, scoring.reconstructions, scoring.images).tolist())


@register.metric
@dataclass(frozen=True)
class MsSsim(Metric):
    """Multi-scale structural similarity (Wang, Simoncelli & Bovik 2003) of each image, at the five published scales and
    exponents. Defined for images of at least 176 px a side: at a sixteenth of it the window of 11 px still fits."""

    name = "ms_ssim"
    label = "MS-SSIM"
    direction = "higher"
    tolerance = 0.02

    def compute(self, scoring: Scoring) -> Values:
        height, width = scoring.images.shape[-2:]
        least = WINDOW * 2 ** (len(SCALES) - 1)
        if min(height, width) < least:
            reason = f"five scales need at least {least} px a side, these images have {height} x {width}"
            return Values([None] * len(scoring.images), reason)
        return Values(by_image(ms_ssim, scoring.reconstructions, scoring.images).tolist())
