"""LPIPS (Zhang et al. 2018, arXiv 1801.03924), with the published backbone or not at all."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from invsuite.errors import Unavailable
from invsuite.metrics.base import Metric, Scoring, Values

#: torchvision's file name and address of each backbone; the name ends in the first 8 digits of its SHA-256
BACKBONES = {
    "alex": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "vgg": "https://download.pytorch.org/models/vgg16-397923af.pth",
}


def backbone_file(net: str) -> Path:
    """The backbone's checkpoint in torch's hub cache (``TORCH_HOME``), digest checked.

    Raises:
        Unavailable: if it is not cached, or its SHA-256 is not the published one.
    """
    address = BACKBONES[net]
    path = Path(torch.hub.get_dir()) / "checkpoints" / address.rsplit("/", 1)[1]
    if not path.is_file():
        raise Unavailable(f"LPIPS backbone {path.name} is not in the cache; fetch it: curl -fL {address} -o {path}")
    published = path.stem.rsplit("-", 1)[1]
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(published):
        raise Unavailable(f"LPIPS backbone {path}: SHA-256 starts with {found[:8]}, not {published}; delete and fetch")
    return path


@lru_cache(maxsize=2)
def _network(net: str, device: str) -> tuple[torch.nn.Module, str]:
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


@dataclass(frozen=True)
class Lpips(Metric):
    """Learned perceptual distance; images in [0, 1] are brought to the network's [-1, 1] here and only here."""

    net: str = "alex"

    name = "lpips"
    label = "LPIPS"
    direction = "lower"

    def prepare(self, device: torch.device) -> dict[str, str]:
        _, digest = _network(self.net, str(device))
        return {"variant": f"{self.net} v0.1", "backbone_sha256": digest}

    @torch.no_grad()
    def compute(self, scoring: Scoring) -> Values:
        model, _ = _network(self.net, str(scoring.images.device))
        parts = [
            model(scoring.reconstructions[i : i + 16], scoring.images[i : i + 16], normalize=True).flatten()
            for i in range(0, len(scoring.images), 16)
        ]
        return Values([float(v) for v in torch.cat(parts)])
