"""Detectors of transformers by hub id or local folder, with the preprocessing of their own image processor."""

from __future__ import annotations

from transformers import AutoModelForObjectDetection

from invsuite.errors import UsageError
from invsuite.models.base import Model
from invsuite.models.checks import running_on
from invsuite.models.pretrained import Source, folder_needs, hub_weights, load_pretrained
from invsuite.models.transformers import FAMILIES, detector_chain
from invsuite.registry import register


@register.model("detr", stages="backbone, encoder, decoder, prediction", hub=hub_weights, needs=folder_needs)
def load(source: str, name: str) -> Model:
    """Load a detector of the DETR family from a local folder or, through the hub cache, by repository id.

    DETR, Conditional DETR, Deformable DETR, RT-DETR (v1, v2), D-FINE, DEIMv2 and YOLOS are known. Normalisation and
    input size come from the checkpoint's own ``preprocessor_config.json``, classes from its ``config.json``;
    ``NAME@480x640`` sets the size (H x W), ``NAME@480x640/512x640`` also pads it to a canvas with a padding mask.

    Raises:
        UsageError: for a checkpoint of another family, or an image processor that the chain cannot obey.
        Unavailable: if the checkpoint is not there and cannot be fetched.
        WeightsError: if it is damaged or does not fit its configuration.
    """
    parts = Source.of(source)
    loaded = load_pretrained(parts, AutoModelForObjectDetection, FAMILIES)
    how = loaded.preprocessing
    if loaded.canvas and not parts.canvas and not FAMILIES[loaded.network.config.model_type].masked:
        raise UsageError(
            f"{parts.path}/preprocessor_config.json: 'pad_size' pads images, and this network takes no mask"
        )
    with running_on(name, loaded.size):
        model = detector_chain(
            name, loaded.network, loaded.size, how.mean, how.std, loaded.origin, loaded.canvas, loaded.classes
        )
    model.resampling = how.resampling
    return model
