"""The chain of a timm network of any family with ``forward_intermediates``, whose feature maps are its stages."""

from __future__ import annotations

from typing import Any

import torch

from invsuite.errors import UsageError
from invsuite.models.base import Model, WeightsOrigin
from invsuite.models.feature_chain import Statistics, feature_chain


def timm_chain(
    name: str,
    network: Any,
    image_size: tuple[int, int],
    mean: Statistics,
    std: Statistics,
    origin: WeightsOrigin,
) -> Model:
    """Cut a timm network at its feature maps (`feature_chain`).

    Raises:
        UsageError: for a network without ``forward_intermediates``.
    """
    if not hasattr(network, "forward_intermediates"):
        raise UsageError(f"timm model '{name}' has no forward_intermediates, so its stages are unknown")
    return feature_chain(name, network, feature_maps, image_size, mean, std, origin)


def feature_maps(network: Any, images: torch.Tensor, number: int | None = None) -> list[torch.Tensor]:
    """Return timm's own feature maps (B, channels, h, w), or one of them; the last is not normalised."""
    wanted = {} if number is None else {"indices": [number], "stop_early": True}
    maps: list[torch.Tensor] = network.forward_intermediates(
        images, output_fmt="NCHW", intermediates_only=True, **wanted
    )
    return maps
