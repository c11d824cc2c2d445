"""Measures against independent implementations, and against reconstructions whose answer is known."""

from __future__ import annotations

import colorsys
import math
from functools import partial

import numpy as np
import pytest
import torch
from helpers import scene_split, scoring
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from invsuite.data.base import Sample
from invsuite.data.scenes import prototypical_hue
from invsuite.metrics import METRICS, make_metric
from invsuite.metrics.colour import HueGain, hue_and_chroma, hue_gain
from invsuite.metrics.correspondence import Correspondence, change_lift
from invsuite.metrics.fidelity import MsSsim, Psnr, Ssim
from invsuite.statistics import summarise


def noisy(images: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (images + 0.05 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def copy(images: torch.Tensor) -> torch.Tensor:
    return images.clone()


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


NEED_WEIGHTS = ("lpips", "lpips_vgg", "dists", "witness_error")  # batches of their own in their own tests


@pytest.mark.parametrize("name", [n for n, m in METRICS.items() if not m.pooled and n not in NEED_WEIGHTS])
def test_values_do_not_depend_on_the_batch(name: str) -> None:
    samples, fit = scene_split(906, 8).samples(), scene_split(907, 6)
    whole = make_metric(name).compute(scoring(noisy_by_content, 8, samples, fit=fit)).per_image
    single = [make_metric(name).compute(scoring(noisy_by_content, 1, [s], fit=fit)).per_image[0] for s in samples]
    for a, b in zip(whole, single, strict=True):
        assert (a is None) == (b is None)
        assert a is None or a == pytest.approx(b, abs=1e-4)


def noisy_by_content(images: torch.Tensor) -> torch.Tensor:
    return (images + 0.05 * torch.sin(images * 300)).clamp(0, 1)


def test_a_copy_scores_the_ceiling() -> None:
    material = scoring(copy)
    found = Correspondence().compute(material)
    lifts = [v for v in found.per_image if v is not None]
    assert len(lifts) >= 6
    assert np.mean(lifts) == pytest.approx(found.ceiling)
    for value, sample in zip(found.per_image, material.samples, strict=True):
        shares = [1 / float(i.mask.mean()) for i in sample.instances]
        assert value is None or min(abs(value - s) for s in shares) < 1e-3 * value
    gains = [v for v in HueGain().compute(material).per_image if v is not None]
    assert len(gains) >= 6
    np.testing.assert_allclose(gains, 1.0, atol=0.02)


def test_painting_objects_in_their_usual_colour_scores_no_gain() -> None:
    """A reconstruction that shows every object in its class's colour, whatever was shown, ignores the turn."""
    samples = [s for s in scene_split(906, 12).samples() if len(s.instances) == 1][:4]
    assert samples

    def prototypes(images: torch.Tensor) -> torch.Tensor:
        painted = images.clone()
        for image in painted:
            own = min(samples, key=lambda s: float((s.image - image).abs().median()))
            for item in own.instances:
                colour = colorsys.hsv_to_rgb(prototypical_hue(item.label), 0.8, 0.8)
                image[:, torch.from_numpy(item.mask)] = torch.tensor(colour).view(3, 1)
        return painted

    material = scoring(prototypes, len(samples), samples)
    gains = [v for v in HueGain().compute(material).per_image if v is not None]
    assert gains
    np.testing.assert_allclose(gains, 0.0, atol=1e-6)


def test_correspondence_tells_inside_from_everywhere_and_outside() -> None:
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[5:10, 5:10] = True
    base = torch.full((3, 20, 20), 0.5)
    assert change_lift(base, base + 0.1 * mask, mask) == pytest.approx(16.0)
    assert change_lift(base, base + 0.1, mask) == pytest.approx(1.0, rel=1e-4)
    assert change_lift(base, base + 0.1 * ~mask, mask) == pytest.approx(0.0)
    assert change_lift(base, base.clone(), mask) is None


def test_a_shifted_reconstruction_loses_correspondence() -> None:
    straight = summarise(Correspondence().compute(scoring(copy)).per_image).mean
    shifted = summarise(Correspondence().compute(scoring(lambda x: x.roll(24, -1))).per_image).mean
    assert straight is not None
    assert shifted is not None
    assert shifted < 0.35 * straight


@pytest.mark.parametrize("turns", [-0.3, 0.1, 1 / 3, 0.45])
def test_hue_gain_of_a_known_turn(turns: float) -> None:
    mask = torch.ones(4, 4, dtype=torch.bool)

    def patch(hue: float) -> torch.Tensor:
        return torch.tensor(colorsys.hsv_to_rgb(hue % 1, 0.7, 0.8)).view(3, 1, 1).expand(3, 4, 4)

    for hue in (0.0, 0.4, 0.95):
        assert hue_gain(patch(hue), patch(hue + turns), mask, turns) == pytest.approx(1.0, abs=0.01)
        assert hue_gain(patch(hue), patch(hue + turns / 2), mask, turns) == pytest.approx(0.5, abs=0.01)
        assert hue_gain(patch(hue), patch(hue), mask, turns) == pytest.approx(0.0)


def test_pixels_without_chroma_do_not_count() -> None:
    """Grey pixels have a hue of pure noise; adding them to an object must not move its gain."""
    torch.manual_seed(0)
    colour = torch.tensor(colorsys.hsv_to_rgb(0.1, 0.8, 0.8)).view(3, 1, 1).expand(3, 8, 8).clone()
    turned = torch.tensor(colorsys.hsv_to_rgb(0.1 + 1 / 3, 0.8, 0.8)).view(3, 1, 1).expand(3, 8, 8).clone()
    grey = 0.5 + 1e-4 * torch.randn(2, 3, 8, 8)
    before, after = torch.cat([colour, grey[0]], -1), torch.cat([turned, grey[1]], -1)
    mask = torch.ones(8, 16, dtype=torch.bool)
    assert hue_gain(before, after, mask, 1 / 3) == pytest.approx(1.0, abs=0.01)
    assert hue_gain(grey[0], grey[1], mask[:, :8], 1 / 3) is None


def test_hue_is_the_angle_of_hsv() -> None:
    colours = torch.rand(3, 1, 200, dtype=torch.float64)
    hue, chroma = hue_and_chroma(colours)
    for index in range(200):
        red, green, blue = colours[:, 0, index].tolist()
        expected, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        assert float(chroma[0, index]) == pytest.approx(saturation * value, abs=1e-6)
        turn = abs((float(hue[0, index]) / (2 * math.pi) - expected + 0.5) % 1 - 0.5)
        assert turn < 1e-6


def test_without_masks_the_edit_measures_are_undefined() -> None:
    samples = [Sample("plain", torch.full((3, 96, 96), 0.5))]
    for metric in (Correspondence(), HueGain()):
        found = metric.compute(scoring(copy, 1, samples))
        assert found.per_image == [None]
        assert "no scored image has an object mask" in found.undefined


def test_an_edit_is_reconstructed_once_for_all_measures() -> None:
    calls = []

    def counted(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return images

    material = scoring(counted)
    Correspondence().compute(material)
    Correspondence().compute(material)
    assert len(calls) == 2, "once for the images, once for the edited ones"


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
