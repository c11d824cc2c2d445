"""The bundled models: weights and cards travel in the package, digests are checked at load."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from typing import Any

import safetensors.torch
from torch import nn

from invsuite.data.scenes import CLASSES
from invsuite.errors import WeightsError, unknown_name
from invsuite.models.base import Model, WeightsOrigin
from invsuite.models.bundled.architecture import (
    IMAGE_SIZE,
    MEAN,
    STD,
    build_convnext,
    build_detr,
    build_swin,
    build_vit,
)
from invsuite.models.timm import timm_chain
from invsuite.models.transformers import detector_chain
from invsuite.registry import register

BUILDERS = {"vit": build_vit, "detr": build_detr, "swin": build_swin, "convnext": build_convnext}
FOLDER = files("invsuite") / "models" / "bundled"


def card(name: str) -> dict[str, Any]:
    """Return the model card of a bundled model: recipe, measured accuracy, file name, SHA-256."""
    if name not in BUILDERS:
        raise unknown_name("bundled model", name, BUILDERS)
    facts: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return facts


@register.model("bundled")
def load(source: str, name: str) -> Model:
    """Load the bundled model ``source`` (``vit``, ``detr``, ``swin`` or ``convnext``) under the suite's ``name``.

    Raises:
        WeightsError: if the file's SHA-256 is not the card's, or a tensor does not fit.
    """
    facts = card(source)
    path = FOLDER / facts["file"]
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != facts["sha256"]:
        raise WeightsError(
            f"{path}: SHA-256 {digest[:12]}... is not the card's {facts['sha256'][:12]}...; "
            "the file is damaged, reinstall invsuite"
        )
    network: nn.Module = BUILDERS[source]()
    network.load_state_dict(safetensors.torch.load(data), strict=True)
    mean, std = (tuple(facts["normalisation"][key]) for key in ("mean", "std"))
    origin = WeightsOrigin(f"bundled {source}", digest, "Apache-2.0", (mean, std))
    return bundled_chain(name, network, origin)


def bundled_chain(name: str, network: nn.Module, origin: WeightsOrigin) -> Model:
    """Return the chain of a bundled architecture with any weights; ``network`` comes from one of the `BUILDERS`."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    if hasattr(network, "forward_intermediates"):  # timm's word for feature maps
        return timm_chain(name, network, size, MEAN, STD, origin)
    return detector_chain(name, network, size, MEAN, STD, origin, classes=CLASSES)
