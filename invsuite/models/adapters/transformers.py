"""Image classifiers of transformers by hub id or local folder, with the preprocessing of their own image processor."""

from __future__ import annotations

from typing import Any

from transformers import AutoModel, AutoModelForImageClassification

from invsuite.models.base import Model
from invsuite.models.checks import running_on
from invsuite.models.classifiers import Classifier, hidden_maps
from invsuite.models.feature_chain import feature_chain
from invsuite.models.pretrained import Source, folder_needs, hub_weights, load_pretrained
from invsuite.registry import register


def _loader(config: Any) -> Any:
    """Return the class that loads a checkpoint as it was saved, with a head or without."""
    saved = (config.architectures or [""])[0]
    return AutoModel if saved.endswith("Model") else AutoModelForImageClassification


@register.model(
    "transformers", stages="embed, block01 ... or (pyramids) stage1 ..., head", hub=hub_weights, needs=folder_needs
)
def load(source: str, name: str) -> Model:
    """Load an image classifier of transformers (ViT, DINOv2, Swin, ConvNeXt, BEiT ...) from a local folder or the hub.

    A checkpoint without a head ends in its pooled embedding. Normalisation, input size and resampling come from its
    own ``preprocessor_config.json``, classes from its ``config.json``; ``NAME@224x320`` sets the size (H x W).

    Raises:
        UsageError: for a checkpoint whose stages cannot be found, or a size that it does not take.
        Unavailable: if it is not there and cannot be fetched.
        WeightsError: if it is damaged or does not fit its configuration.
    """
    loaded = load_pretrained(Source.of(source), _loader)
    size, how = loaded.size, loaded.preprocessing
    with running_on(name, size):
        network = Classifier(loaded.network, size)
        model = feature_chain(name, network, hidden_maps, size, how.mean, how.std, loaded.origin)
    model.resampling = how.resampling
    model.classes = loaded.classes if network.num_classes else ()
    return model
