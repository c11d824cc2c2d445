"""Pixel fidelity, per image, in [0, 1] pixel space with ``data_range=1``."""

from __future__ import annotations

from dataclasses import dataclass

from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from invsuite.metrics.base import Metric, Scoring, Values

PSNR_CAP = 100.0  # dB; identical images have infinite PSNR, which no mean survives


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
        _, full = structural_similarity_index_measure(
            scoring.reconstructions, scoring.images, data_range=1.0, reduction="none", return_full_image=True
        )
        border = 5  # half the window; torchmetrics reflects the image there and counts it
        inside = full[..., border:-border, border:-border]
        return Values([float(v) for v in inside.mean((1, 2, 3))])
