"""Pixel fidelity of each image, in [0, 1] pixel space with a data range of 1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from invsuite.metrics.base import Metric, Scoring, Values, by_image
from invsuite.registry import register

PSNR_CAP = 100.0  # dB; identical images have infinite PSNR, which no mean survives
WINDOW = 11  # side of the Gaussian window of SSIM at sigma 1.5
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # exponents of MS-SSIM, finest scale first


def psnr(reconstructions: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return the PSNR in dB (B,) of images (B, 3, H, W) in [0, 1], of each by itself; infinite for a copy.

    Examples:
        >>> images = torch.full((2, 3, 8, 8), 0.5)
        >>> psnr(images + 0.1, images).round(decimals=2)
        tensor([20., 20.])
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    return peak_signal_noise_ratio(reconstructions, images, data_range=1.0, reduction="none", dim=(1, 2, 3))


def ssim(reconstructions: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return the SSIM (B,), -1 to 1, of images (B, 3, H, W) in [0, 1] of at least 11 px a side.

    Windows that reach over the border are left out.

    Examples:
        >>> images = torch.linspace(0, 1, 16).expand(2, 3, 16, 16)
        >>> ssim(images, images).round(decimals=2)
        tensor([1., 1.])
    """
    _, full = _ssim(reconstructions, images, return_full_image=True)
    border = WINDOW // 2  # torchmetrics reflects the image there and counts it
    return full[..., border:-border, border:-border].mean((1, 2, 3))


def _ssim(reconstructions: torch.Tensor, images: torch.Tensor, **returns: bool) -> tuple[torch.Tensor, torch.Tensor]:
    from torchmetrics.functional.image import structural_similarity_index_measure

    return structural_similarity_index_measure(reconstructions, images, data_range=1.0, reduction="none", **returns)


def ms_ssim(reconstructions: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return the MS-SSIM (B,), 0 to 1, of images (B, 3, H, W) in [0, 1] of at least 176 px a side.

    Contrast and structure at every scale, luminance too at the coarsest, each to its exponent (Wang, Simoncelli & Bovik
    2003, eq. 7); negative terms, which have no power, count as zero.

    Examples:
        >>> images = torch.linspace(0, 1, 176).expand(2, 3, 176, 176)
        >>> ms_ssim(1 - images, images)
        tensor([0., 0.])
    """
    terms = []
    for _ in SCALES[:-1]:
        _, contrast = _ssim(reconstructions, images, return_contrast_sensitivity=True)  # without the border
        terms.append(contrast)
        reconstructions, images = F.avg_pool2d(reconstructions, 2), F.avg_pool2d(images, 2)
    terms.append(ssim(reconstructions, images))
    exponents = torch.tensor(SCALES, device=images.device)[:, None]
    return (torch.stack(terms).clamp(min=0) ** exponents).prod(0)


@register.metric
@dataclass(frozen=True)
class Psnr(Metric):
    r"""Peak signal-to-noise ratio of each image, then averaged (never of a pooled MSE); capped at 100 dB.

    Formula:
        $$ \mathrm{PSNR}(x, \hat{x}) = 10 \log_{10} \frac{1}{\mathrm{MSE}}, \qquad
        \mathrm{MSE} = \frac{1}{3HW} \sum_{c, i, j} (x_{cij} - \hat{x}_{cij})^2 $$
    Range:
        0 dB (black for white) to 100 dB, the cap; a copy would be infinite. 3 dB more is half the squared error.
    Ceiling:
        100 dB.
    Floor:
        No constant one: the row `mean` of the same table, which ignores the representation, is the level to beat.
    Undefined:
        Never.
    Pitfalls:
        The mean of PSNR is not the PSNR of the mean error, so numbers of papers that pool the error differ. PSNR
        rewards blur: where a method does not know, the mean of all possibilities has the least error. It depends on how
        much the images vary: compare it within one data set only.
    Source:
        The usual definition; computed by torchmetrics.
    """

    name = "psnr"
    label = "PSNR"
    unit = "dB"
    direction = "higher"
    digits = 2
    tolerance = 0.3
    headline = True

    def compute(self, scoring: Scoring) -> Values:
        decibels = by_image(psnr, scoring.reconstructions, scoring.images)
        return Values([min(value, PSNR_CAP) for value in decibels.tolist()])


@register.metric
@dataclass(frozen=True)
class Ssim(Metric):
    r"""Structural similarity of each image (Wang et al. 2004), Gaussian window of 11 px, sigma 1.5.

    Windows that reach over the border are left out, as in the paper.

    Formula:
        $$ \mathrm{SSIM} = \frac{(2 \mu_x \mu_{\hat{x}} + c_1)(2 \sigma_{x\hat{x}} + c_2)}
        {(\mu_x^2 + \mu_{\hat{x}}^2 + c_1)(\sigma_x^2 + \sigma_{\hat{x}}^2 + c_2)}, \qquad
        c_1 = 0.01^2, \; c_2 = 0.03^2 $$

        in every Gaussian window, per channel, then the mean over windows and channels.
    Range:
        -1 to 1; below 0 only where structure is inverted.
    Ceiling:
        1.
    Floor:
        No constant one: the row `mean`. On smooth images it is high, because flat areas agree with a flat image.
    Undefined:
        Never.
    Pitfalls:
        Many implementations count windows that reach over the border, or convert to grey first; their values differ in
        the second digit. SSIM hardly sees colour.
    Source:
        Wang, Bovik, Sheikh & Simoncelli 2004, doi 10.1109/TIP.2003.819861.
    """

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
    r"""Multi-scale structural similarity of each image (Wang et al. 2003), at the five published scales and exponents.

    Defined for images of at least 176 px a side: at a sixteenth of it the window of 11 px still fits.

    Formula:
        $$ \mathrm{MS\text{-}SSIM} = \mathrm{SSIM}_5^{\,w_5} \prod_{k=1}^{4} \mathrm{cs}_k^{\,w_k}, \qquad
        w = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333) $$

        $\mathrm{cs}_k$ is the contrast and structure term of SSIM (its second factor) at scale $k$, averaged over
        windows; each scale is half as large as the one before. Luminance counts at the coarsest scale alone, where SSIM
        is taken as a whole.
    Range:
        0 to 1; terms below 0 count as 0.
    Ceiling:
        1.
    Floor:
        No constant one: the row `mean`.
    Undefined:
        For images below 176 px a side, so on the bundled models (96 px): five scales of an 11 px window do not fit.
    Pitfalls:
        It forgives the loss of the finest detail.
    Source:
        Wang, Simoncelli & Bovik 2003, eq. 7, doi 10.1109/ACSSC.2003.1292216.
    """

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
