"""Perceptual distances, LPIPS and DISTS, with the published backbone or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from unittest.mock import patch

import torch

from invsuite._system.needs import Need
from invsuite.errors import Unavailable
from invsuite.metrics.backbones import BACKBONES, Backbone
from invsuite.metrics.base import Metric, Scoring, Values, by_image
from invsuite.registry import register

BATCH = 8  # VGG keeps 64 maps of the image's own size

Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _builder(net: str) -> Callable[..., SimpleNamespace]:
    """Return what a package finds in the place of torchvision's function: the published backbone, without a download.

    Raises:
        Unavailable: if it is not here.
    """
    network = SimpleNamespace(features=BACKBONES[net].load())
    return lambda *_, **__: network


@cache
def _lpips(net: str, device: str) -> torch.nn.Module:
    builders = SimpleNamespace(**{BACKBONES[net].architecture: _builder(net)})
    try:
        import lpips
        from lpips import pretrained_networks
    except ImportError as error:
        raise Unavailable("the package lpips is not installed; pip install lpips") from error
    with patch.object(pretrained_networks, "tv", builders), torch.random.fork_rng(devices=[]):
        network: torch.nn.Module = lpips.LPIPS(net=net, verbose=False)  # the published linear layers travel in it
    return network.eval().requires_grad_(False).to(device)


@cache
def _dists(device: str) -> torch.nn.Module:
    from torchmetrics.functional.image import dists

    with patch.object(dists, "vgg16", _builder(Dists.net)), torch.random.fork_rng(devices=[]):
        network: torch.nn.Module = dists.DISTSNetwork()  # the authors' alpha and beta travel in torchmetrics
    return network.eval().requires_grad_(False).to(device)


def _values(distance: Distance, scoring: Scoring) -> Values:
    def per_image(reconstructions: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return distance(reconstructions, images).reshape(-1)

    return Values(by_image(per_image, scoring.reconstructions, scoring.images, size=BATCH).tolist())


class Perceptual(Metric):
    """A distance of the features of a published network, its backbone.

    Attributes:
        net: which backbone, a key of `invsuite.metrics.backbones.BACKBONES`.
    """

    net: str

    @property
    def backbone(self) -> Backbone:
        """Return the network."""
        return BACKBONES[self.net]

    def needs(self) -> tuple[Need, ...]:
        return (self.backbone.need(),)


@register.metric
@dataclass(frozen=True)
class Lpips(Perceptual):
    r"""Learned perceptual distance with AlexNet, the variant that agrees best with people's judgements.

    Formula:
        $$ \mathrm{LPIPS}(x, \hat{x}) = \sum_l \frac{1}{H_l W_l} \sum_{i, j}
        \sum_c w_{lc} \left( \phi_l(x)_{cij} - \phi_l(\hat{x})_{cij} \right)^2 $$

        $\phi_l$ are the backbone's features at five layers, normalised to length 1 at each place, and $w_l$ the
        published weights of their channels (version 0.1).
    Range:
        0 upwards, rarely above 1.
    Ceiling:
        0.
    Floor:
        No constant one: the row `mean`.
    Undefined:
        Never. Without the backbone's published weights it is skipped: a random network in their place would give
        numbers that look right and mean nothing.
    Pitfalls:
        The network expects $[-1, 1]$. Images in $[0, 1]$ passed as they are give values that are too small; the suite
        converts. It was made for photos: on synthetic scenes take it with care. Values of other backbones do not
        compare: name the variant.
    Source:
        Zhang, Isola, Efros, Shechtman & Wang 2018, arXiv 1801.03924.

    Args:
        net: the backbone, ``alex``, ``squeeze`` or ``vgg``.
    """

    net: str = "alex"

    name = "lpips"
    label = "LPIPS"
    direction = "lower"
    tolerance = 0.02
    headline = True

    def prepare(self, device: torch.device) -> dict[str, str]:
        _lpips(self.net, str(device))
        return {"variant": f"{self.net} v0.1", "backbone_sha256": self.backbone.sha256}

    @torch.no_grad()
    def compute(self, scoring: Scoring) -> Values:
        model = _lpips(self.net, str(scoring.images.device))
        # the network expects [-1, 1]: ``normalize`` brings [0, 1] there, here and only here
        return _values(lambda reconstructions, images: model(reconstructions, images, normalize=True), scoring)


@register.metric
@dataclass(frozen=True)
class LpipsSqueeze(Lpips):
    """Learned perceptual distance with SqueezeNet 1.1, the smallest backbone of the three: a file of 3 MB."""

    net: str = "squeeze"

    name = "lpips_squeeze"
    label = "LPIPS (SqueezeNet)"
    headline = False


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
class Dists(Perceptual):
    r"""Deep image structure and texture similarity (Ding et al. 2020), as a distance.

    0 for a copy, and tolerant of texture that is resampled, not copied.

    Formula:
        $$ \mathrm{DISTS}(x, \hat{x}) = 1 - \sum_{l, c} \left( \alpha_{lc} \, \frac{2 \mu_x \mu_{\hat{x}} + c_1}
        {\mu_x^2 + \mu_{\hat{x}}^2 + c_1} + \beta_{lc} \, \frac{2 \sigma_{x\hat{x}} + c_2}
        {\sigma_x^2 + \sigma_{\hat{x}}^2 + c_2} \right) $$

        over the channels $c$ of VGG-16's layers $l$ and of the image itself, with the published $\alpha$ and $\beta$,
        which add up to 1. Means, variances and the covariance are those of a whole feature map.
    Range:
        0 to 1, about.
    Ceiling:
        0.
    Floor:
        No constant one: the row `mean`.
    Undefined:
        Never. Without VGG-16's published weights it is skipped.
    Pitfalls:
        A texture that is replaced by another sample of the same kind scores well. That is its purpose, and a reason not
        to read it as a measure of what was preserved.
    Source:
        Ding, Ma, Wang & Simoncelli 2020, eq. 4 to 8, arXiv 2004.07728.
    """

    name = "dists"
    label = "DISTS"
    direction = "lower"
    tolerance = 0.02
    net = "vgg"

    def prepare(self, device: torch.device) -> dict[str, str]:
        _dists(str(device))
        return {"variant": f"{self.net}, published weights", "backbone_sha256": self.backbone.sha256}

    @torch.no_grad()
    def compute(self, scoring: Scoring) -> Values:
        return _values(_dists(str(scoring.images.device)), scoring)
