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
from torchmetrics.functional.image.dists import DISTSNetwork

from invsuite.errors import Unavailable
from invsuite.metrics.base import Metric, Scoring, Values, by_image

#: torchvision's file name and address of each backbone; the name ends in the first 8 digits of its SHA-256
BACKBONES = {
    "alex": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "vgg": "https://download.pytorch.org/models/vgg16-397923af.pth",
}
BATCH = 8  # VGG keeps 64 maps of the image's own size

Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def backbone_file(net: str) -> Path:
    """The backbone's checkpoint in torch's hub cache (``TORCH_HOME``), digest checked.

    Raises:
        Unavailable: if it is not cached, or its SHA-256 is not the published one.
    """
    address = BACKBONES[net]
    path = Path(torch.hub.get_dir()) / "checkpoints" / address.rsplit("/", 1)[1]
    if not path.is_file():
        raise Unavailable(
            f"backbone {path.name} is not in the cache; fetch it: curl -fL --create-dirs {address} -o {path}"
        )
    published = path.stem.rsplit("-", 1)[1]
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(published):
        raise Unavailable(f"backbone {path}: SHA-256 starts with {found[:8]}, not {published}; delete and fetch")
    return path


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
    return model.to(device), hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def _dists(device: str) -> tuple[torch.nn.Module, str]:
    path = backbone_file("vgg")  # checked here, read from the same place by torchvision
    network = DISTSNetwork()  # the authors' alpha and beta travel in torchmetrics
    network.eval().requires_grad_(False)
    return network.to(device), hashlib.sha256(path.read_bytes()).hexdigest()


def _values(distance: Distance, scoring: Scoring) -> Values:
    def one_an_image(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        return distance(made, true).reshape(-1)

    return Values(by_image(one_an_image, scoring.reconstructions, scoring.images, size=BATCH).tolist())


@dataclass(frozen=True)
class Lpips(Metric):
    """Learned perceptual distance with AlexNet, the variant that agrees best with people's judgements."""

    net: str = "alex"

    name = "lpips"
    label = "LPIPS"
    direction = "lower"

    def prepare(self, device: torch.device) -> dict[str, str]:
        _, digest = _lpips(self.net, str(device))
        return {"variant": f"{self.net} v0.1", "backbone_sha256": digest}

    @torch.no_grad()
    def compute(self, scoring: Scoring) -> Values:
        model, _ = _lpips(self.net, str(scoring.images.device))
        # the network wants [-1, 1]: ``normalize`` brings [0, 1] there, here and only here
        return _values(lambda made, true: model(made, true, normalize=True), scoring)


@dataclass(frozen=True)
class LpipsVgg(Lpips):
    """Learned perceptual distance with VGG-16, the variant most used as a loss."""

    net: str = "vgg"

    name = "lpips_vgg"
    label = "LPIPS (VGG)"


@dataclass(frozen=True)
class Dists(Metric):
    """Deep image structure and texture similarity (Ding et al. 2020), as a distance: 0 for a copy, and tolerant of
    texture that is resampled, not copied."""

    name = "dists"
    label = "DISTS"
    direction = "lower"

    def prepare(self, device: torch.device) -> dict[str, str]:
        _, digest = _dists(str(device))
        return {"variant": "vgg, published weights", "backbone_sha256": digest}

    @torch.no_grad()
    def compute(self, scoring: Scoring) -> Values:
        network, _ = _dists(str(scoring.images.device))
        return _values(network, scoring)
