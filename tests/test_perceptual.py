"""LPIPS and DISTS: the published backbone or none, and the same numbers as independent implementations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import scoring, stand_in_backbones
from torch import nn
from torchmetrics.functional.image import dists as torchmetrics_dists
from torchmetrics.functional.image.lpips import _LPIPS

from invsuite.errors import Unavailable
from invsuite.metrics import perceptual
from invsuite.metrics.base import Metric
from invsuite.metrics.perceptual import Dists, Lpips, LpipsVgg, backbone_file

CPU = torch.device("cpu")
METRIC_OF = {"alex": Lpips(), "vgg": LpipsVgg()}


def noisy(images: torch.Tensor) -> torch.Tensor:
    return (images + 0.05 * torch.sin(images * 300)).clamp(0, 1)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, nn.Sequential]]:
    with stand_in_backbones(tmp_path_factory.mktemp("backbones")) as networks:
        yield networks


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_agrees_with_torchmetrics(net: str, stand_ins: dict[str, nn.Sequential]) -> None:
    material = scoring(noisy, 3)
    found = METRIC_OF[net].compute(material).per_image
    reference = _LPIPS(pretrained=True, net=net, pnet_rand=True).eval()
    weights = stand_ins[net].state_dict()
    reference.net.load_state_dict({key: weights[key.split(".", 1)[1]] for key in reference.net.state_dict()})
    expected = reference(material.reconstructions, material.images, normalize=True).flatten().tolist()
    assert min(expected) > 1e-4
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def dists_by_the_paper(features: nn.Sequential, x: torch.Tensor, y: torch.Tensor) -> float:
    """DISTS of two images (3, H, W), written from Ding et al. 2020, eq. 4 to 8, in float64."""
    stored = torch.load(Path(torchmetrics_dists.__file__).parent / "dists_models" / "weights.pt", weights_only=True)
    alpha, beta = (stored[key].flatten().double().numpy() for key in ("alpha", "beta"))
    window = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])  # a Hann window without its zeros
    mean, std = torch.tensor([0.485, 0.456, 0.406]).double(), torch.tensor([0.229, 0.224, 0.225]).double()

    def maps(image: torch.Tensor) -> list[np.ndarray]:
        found = [image.double().numpy()]
        hidden = ((image.double() - mean[:, None, None]) / std[:, None, None])[None]
        for number, layer in enumerate(features):
            if isinstance(layer, nn.MaxPool2d):
                if number == len(features) - 1:
                    break
                kernel = torch.from_numpy(window)[None, None].expand(hidden.shape[1], 1, 3, 3)
                hidden = (F.conv2d(hidden**2, kernel, stride=2, padding=1, groups=hidden.shape[1]) + 1e-12).sqrt()
            elif isinstance(layer, nn.Conv2d):
                assert layer.bias is not None
                hidden = F.conv2d(hidden, layer.weight.double(), layer.bias.double(), padding=1)
            else:
                hidden = hidden.relu()
            if number in (3, 8, 15, 22, 29):  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
                found.append(hidden[0].numpy())
        return found

    likeness, at = 0.0, 0
    for a, b in zip(maps(x), maps(y), strict=True):
        for first, second in zip(a, b, strict=True):
            texture = (2 * first.mean() * second.mean() + 1e-6) / (first.mean() ** 2 + second.mean() ** 2 + 1e-6)
            covariance = (first * second).mean() - first.mean() * second.mean()
            structure = (2 * covariance + 1e-6) / (first.var() + second.var() + 1e-6)
            likeness += alpha[at] * texture + beta[at] * structure
            at += 1
    return 1 - likeness / (alpha.sum() + beta.sum())


def test_dists_agrees_with_the_paper(stand_ins: dict[str, nn.Sequential]) -> None:
    material = scoring(noisy, 2)
    found = Dists().compute(material).per_image
    pairs = zip(material.reconstructions, material.images, strict=True)
    expected = [dists_by_the_paper(stand_ins["vgg"], made, true) for made, true in pairs]
    assert min(expected) > 1e-4
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("metric", [Lpips(), LpipsVgg(), Dists()], ids=lambda m: m.name)
def test_identity_worst_case_and_batches(metric: Metric, stand_ins: dict[str, nn.Sequential]) -> None:
    np.testing.assert_allclose(metric.compute(scoring(lambda x: x.clone(), 2)).per_image, 0.0, atol=1e-5)
    close = metric.compute(scoring(noisy, 9)).per_image
    far = metric.compute(scoring(lambda x: 1 - x, 2)).per_image
    assert all(a is not None and b is not None and a < b for a, b in zip(close[:2], far, strict=True))
    alone = metric.compute(scoring(noisy, 1)).per_image[0]
    assert alone == pytest.approx(close[0], abs=1e-5), "of a batch of 8 and of one"


def test_needs_are_the_backbones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    needs = {metric.name: metric.needs()[0] for metric in (Lpips(), LpipsVgg(), Dists())}
    assert needs["lpips"].what == "checkpoint alexnet-owt-7be5be79.pth"
    assert needs["lpips_vgg"].what == needs["dists"].what == "checkpoint vgg16-397923af.pth"
    assert {need.state for need in needs.values()} == {"to fetch"}
    path = perceptual.BACKBONES["vgg"].path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    assert Dists().needs()[0].state == "here"


def test_the_record_names_variant_and_digest(stand_ins: dict[str, nn.Sequential]) -> None:
    facts = {metric.name: metric.prepare(CPU) for metric in (Lpips(), LpipsVgg(), Dists())}
    assert [facts[name]["variant"].split()[0].strip(",") for name in facts] == ["alex", "vgg", "vgg"]
    for name, net in (("lpips", "alex"), ("lpips_vgg", "vgg"), ("dists", "vgg")):
        expected = hashlib.sha256(perceptual.backbone_file(net).read_bytes()).hexdigest()
        assert facts[name]["backbone_sha256"] == expected


@pytest.mark.parametrize(
    ("metric", "file"), [(Lpips(), "alexnet-owt-7be5be79"), (LpipsVgg(), "vgg16-397923af"), (Dists(), "vgg16-397923af")]
)
def test_without_the_published_backbone_there_is_no_value(
    metric: Metric, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing file says how to fetch it, a wrong one is refused."""
    monkeypatch.setattr(perceptual, "backbone_file", backbone_file)  # not the stand-ins' of the tests above
    perceptual._lpips.cache_clear()
    perceptual._dists.cache_clear()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(Unavailable, match=rf"{file}\.pth is not in the cache; fetch it: curl -fL .*{file}"):
        metric.prepare(CPU)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / f"{file}.pth").write_bytes(b"random weights")
    with pytest.raises(Unavailable, match="SHA-256 starts with"):
        backbone_file("alex" if "alex" in file else "vgg")
    with pytest.raises(Unavailable, match="SHA-256 starts with"):
        metric.prepare(CPU)
