"""Measures against independent implementations, and against reconstructions whose answer is known."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from helpers import copy, noisy_by_content, scene_split, scoring
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from invsuite.metrics import make_metric
from invsuite.metrics.fidelity import MsSsim, Psnr, Ssim
from invsuite.registry import METRICS
from invsuite.results.statistics import summarise


def noisy(images: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (images + 0.05 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def test_psnr_and_ssim_agree_with_scikit_image() -> None:
    material = scoring(noisy)
    pairs = list(zip(material.images.numpy(), material.reconstructions.numpy(), strict=True))
    expected = [peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in pairs]
    np.testing.assert_allclose(Psnr().compute(material).per_image, expected, atol=1e-3)
    expected = [
        structural_similarity(
            a, b, channel_axis=0, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for a, b in pairs
    ]
    np.testing.assert_allclose(Ssim().compute(material).per_image, expected, atol=1e-4)


def ms_ssim_by_the_paper(a: np.ndarray, b: np.ndarray) -> float:
    """MS-SSIM of two images (3, H, W) in [0, 1], written from Wang, Simoncelli & Bovik 2003 in float64."""
    blur = partial(gaussian_filter, sigma=1.5, radius=5, axes=(1, 2))
    found = 1.0
    for scale, exponent in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        mean_a, mean_b = blur(a), blur(b)
        var_a, var_b, both = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
        term = (2 * both + 0.03**2) / (var_a + var_b + 0.03**2)
        if scale == 4:
            term = term * (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
        found *= max(float(term[:, 5:-5, 5:-5].mean()), 0.0) ** exponent
        a, b = (x.reshape(3, x.shape[1] // 2, 2, x.shape[2] // 2, 2).mean((2, 4)) for x in (a, b))
    return found


def test_ms_ssim_agrees_with_the_paper_and_torchmetrics() -> None:
    material = scoring(noisy, 3, scene_split(906, 3, 224).samples())
    found = MsSsim().compute(material).per_image
    pairs = zip(material.reconstructions.double().numpy(), material.images.double().numpy(), strict=True)
    np.testing.assert_allclose(found, [ms_ssim_by_the_paper(a, b) for a, b in pairs], atol=1e-4)
    counts_the_border = multiscale_structural_similarity_index_measure(
        material.reconstructions, material.images, data_range=1.0, reduction="none"
    )
    np.testing.assert_allclose(found, counts_the_border, atol=0.01)
    assert MsSsim().compute(scoring(copy, 2, scene_split(906, 2, 176).samples())).per_image == pytest.approx([1.0, 1.0])
    inverted = MsSsim().compute(scoring(lambda x: 1 - x, 2, scene_split(906, 2, 176).samples())).per_image
    assert inverted == [0.0, 0.0], "structure turned round: no negative number to a power"


def test_ms_ssim_needs_size() -> None:
    found = MsSsim().compute(scoring(copy, 2))
    assert found.per_image == [None, None]
    assert "at least 176 px a side, these images have 96 x 96" in found.undefined


def test_psnr_of_known_error() -> None:
    material = scoring(lambda x: torch.where(x < 0.5, x + 0.1, x - 0.1))
    np.testing.assert_allclose(Psnr().compute(material).per_image, 20.0, atol=1e-3)
    assert Psnr().compute(scoring(copy)).per_image == [100.0] * 8


# batches of their own in their own tests
NEED_WEIGHTS = ("lpips", "lpips_squeeze", "lpips_vgg", "dists", "witness_error")


@pytest.mark.parametrize("name", [n for n, m in METRICS.items() if not m.pooled and n not in NEED_WEIGHTS])
def test_values_do_not_depend_on_the_batch(name: str) -> None:
    samples, fit = scene_split(906, 8).samples(), scene_split(907, 6)
    whole = make_metric(name).compute(scoring(noisy_by_content, 8, samples, fit=fit)).per_image
    single = [make_metric(name).compute(scoring(noisy_by_content, 1, [s], fit=fit)).per_image[0] for s in samples]
    for a, b in zip(whole, single, strict=True):
        assert (a is None) == (b is None)
        assert a is None or a == pytest.approx(b, abs=1e-4)


def test_summaries() -> None:
    found = summarise([1.0, None, 2.0, 3.0])
    assert (found.n, found.mean) == (3, 2.0)
    assert found.low is not None
    assert found.high is not None
    assert 1.0 <= found.low < 2.0 < found.high <= 3.0
    assert summarise([None]).mean is None
    assert summarise([4.0]).low is None
    assert summarise([4.0, 4.0]).low == 4.0


def test_bootstrap_interval_covers_the_mean() -> None:
    """95 % intervals of samples from a known distribution hold its mean about 95 times in 100."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        found = summarise(rng.normal(5, 2, 40).tolist())
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 5 <= found.high
    assert 178 <= hits <= 199
