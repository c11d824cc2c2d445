"""Measures against independent implementations, and against reconstructions whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import copy, noisy_by_content, scene_split, scoring
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from invsuite.errors import Unavailable
from invsuite.metrics import METRICS, make_metric
from invsuite.metrics.fidelity import Psnr, Ssim
from invsuite.metrics.perceptual import Lpips, backbone_file
from invsuite.statistics import summarise


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


def test_psnr_of_known_error() -> None:
    material = scoring(lambda x: torch.where(x < 0.5, x + 0.1, x - 0.1))
    np.testing.assert_allclose(Psnr().compute(material).per_image, 20.0, atol=1e-3)
    assert Psnr().compute(scoring(copy)).per_image == [100.0] * 8


@pytest.mark.parametrize("name", [n for n in METRICS if n != "lpips"])
def test_values_do_not_depend_on_the_batch(name: str) -> None:
    whole = make_metric(name).compute(scoring(noisy_by_content)).per_image
    samples = scene_split(906, 8).samples()
    single = [make_metric(name).compute(scoring(noisy_by_content, 1, [s])).per_image[0] for s in samples]
    for a, b in zip(whole, single, strict=True):
        assert (a is None) == (b is None)
        assert a is None or a == pytest.approx(b, abs=1e-4)


def test_lpips_without_its_backbone_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(Unavailable, match=r"alexnet-owt-7be5be79\.pth is not in the cache; fetch it: curl"):
        Lpips().prepare(torch.device("cpu"))


def test_lpips_with_a_wrong_backbone_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth").write_bytes(b"random weights")
    with pytest.raises(Unavailable, match="SHA-256 starts with"):
        backbone_file("alex")


def test_lpips_computes_what_the_lpips_package_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loading path with a stand-in backbone (its digest check apart): every layer is taken from the file, the
    image range is converted once, and an identical image is at distance 0."""
    import lpips
    from torchvision.models import alexnet

    from invsuite.metrics import perceptual

    torch.manual_seed(3)
    published = alexnet(weights=None)
    path = tmp_path / "alexnet.pth"
    torch.save(published.state_dict(), path)
    monkeypatch.setattr(perceptual, "backbone_file", lambda net: path)
    perceptual._network.cache_clear()
    material = scoring(noisy, 3)
    found = Lpips().compute(material).per_image
    assert set(Lpips().prepare(torch.device("cpu"))) == {"variant", "backbone_sha256"}
    perceptual._network.cache_clear()
    reference = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    reference.net.load_state_dict(
        {k: published.state_dict()["features." + k.split(".", 1)[1]] for k in reference.net.state_dict()}
    )
    expected = reference(material.reconstructions * 2 - 1, material.images * 2 - 1).flatten().tolist()
    np.testing.assert_allclose(found, expected, atol=1e-6)


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
