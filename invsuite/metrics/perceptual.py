"""Perceptual distances, with the published backbone or not at all: LPIPS (Zhang et al. 2018, arXiv 1801.03924) and
DISTS (Ding et al. 2020, arXiv 2004.07728)."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from invsuite._system.needs import Log, Need
from invsuite.errors import Unavailable
from invsuite.metrics.base import Metric, Scoring, Values, by_image
from invsuite.registry import register


@dataclass(frozen=True)
class Backbone:
    """A checkpoint that torchvision publishes: its address, which ends in the first 8 digits of the file's SHA-256, and
    its size in bytes."""

    address: str
    size: int

    @property
    def path(self) -> Path:
        """Return where it lies in torch's hub cache (``TORCH_HOME``)."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.address.rsplit("/", 1)[1]


BACKBONES = {
    "alex": Backbone("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", 244_408_911),
    "vgg": Backbone("https://download.pytorch.org/models/vgg16-397923af.pth", 553_433_881),
}
BATCH = 8  # VGG keeps 64 maps of the image's own size

Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def backbone_file(net: str) -> Path:
    """Return the path of a backbone's checkpoint, its digest checked.

    Raises:
        Unavailable: if it is not cached, or its SHA-256 is not the published one.
    """
    backbone = BACKBONES[net]
    path = backbone.path
    if not path.is_file():
        raise Unavailable(
            f"backbone {path.name} is not in the cache; fetch it: curl -fL --create-dirs {backbone.address} -o {path}"
        )
    published, digest = path.stem.rsplit("-", 1)[1], _sha256(path)
    if not digest.startswith(published):
        raise Unavailable(f"backbone {path}: SHA-256 starts with {digest[:8]}, not {published}; delete and fetch")
    return path


def backbone_need(net: str) -> Need:
    """Return what must be fetched before a distance with the backbone ``net`` can be computed."""
    backbone = BACKBONES[net]
    path = backbone.path
    if path.is_file():
        return Need(f"backbone {path.name}", 0, None, str(path))

    def bring(log: Log) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(backbone.address, str(path), progress=False)
        return f"sha256:{_sha256(backbone_file(net))}"

    return Need(f"backbone {path.name}", backbone.size, bring, backbone.address)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _lpips(net: str, device: str) -> tuple[torch.nn.Module, str]:
    path = backbone_file(net)
    try:
        import lpips
    except ImportError as error:
        raise Unavailable("the package lpips is not installed; pip install lpips") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)  # published linear layers, backbone set below
    published = torch.load(path, map_location="cpu", weights_only=True)
    wanted = model.net.state_dict()
    weights = {key: published[f"features.{key.split('.', 1)[1]}"] for key in wanted}
    model.net.load_state_dict(weights, strict=True)
    model.eval().requires_grad_(False)
    return model.to(device), _sha256(path)


@cache
def _dists(device: str) -> tuple[torch.nn.Module, str]:
    from torchmetrics.functional.image.dists import DISTSNetwork

    path = backbone_file("vgg")  # checked here, read from the same place by torchvision
    network = DISTSNetwork()  # the authors' alpha and beta travel in torchmetrics
    network.eval().requires_grad_(False)
    return network.to(device), _sha256(path)


def _values(distance: Distance, scoring: Scoring) -> Values:
    def one_an_image(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        return distance(made, true).reshape(-1)

    return Values(by_image(one_an_image, scoring.reconstructions, scoring.images, size=BATCH).tolist())


@register.metric
@dataclass(frozen=True)
class Lpips(Metric):
    """Learned perceptual distance with AlexNet, the variant that agrees best with people's judgements."""

    net: str = "alex"

    name = "lpips"
    label = "LPIPS"
    direction = "lower"
    tolerance = 0.02
    headline = True

    def needs(self) -> tuple[Need, ...]:
        return (backbone_need(self.net),)

    def prepare(self, device: torch.device) -> dict[str, str]:
        _, digest = _lpips(self.net, str(device))
        return {"variant": f"{self.net} v0.1", "backbone_sha256": digest}

    @torch.no_grad()
    def compute(self, scoring: Scoring) -> Values:
        model, _ = _lpips(self.net, str(scoring.images.device))
        # the network wants [-1, 1]: ``normalize`` brings [0, 1] there, here and only here
        return _values(lambda made, true: model(made, true, normalize=True), scoring)


@register.metric
@dataclass(frozen=True)
class LpipsVgg(Lpips):
    """Learned perceptual distance with VGG-16, the variant most used as a loss."""

    net: str = "vgg"

    name = "lpips_vgg"
    label = "LPIPS (VGG)"
    headline = False


@register.metric
@dataclass(frozen=True)
class Dists(Metric):
    """Deep image structure and texture similarity (Ding et al. 2020), as a distance: 0 for a copy, and tolerant of
    texture that is resampled, not copied."""

    name = "dists"
    label = "DISTS"
    direction = "lower"
    tolerance = 0.02

    def needs(self) -> tuple[Need, ...]:
        return (backbone_need("vgg"),)

    def prepare(self, device: torch.device) -> dict[str, str]:
        _, digest = _dists(str(device))
        return {"variant": "vgg, published weights", "backbone_sha256": digest}

    @torch.no_grad()
    def compute(self, scoring: Scoring) -> Values:
        network, _ = _dists(str(scoring.images.device))
        return _values(network, scoring)
