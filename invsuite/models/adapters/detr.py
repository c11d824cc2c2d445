"""Detectors of transformers by hub id or local folder, with the preprocessing of their own image processor."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForObjectDetection

from invsuite.data.geometry import INTERPOLATIONS, Resampling
from invsuite.errors import Unavailable, UsageError, WeightsError
from invsuite.models.base import Model, WeightsOrigin
from invsuite.models.transformers import FAMILIES, detector_chain
from invsuite.registry import HubWeights, register

STRIDE = 32  # sides chosen here, not by the checkpoint, are whole places of the coarsest usual grid
SIZES = re.compile(r"^(?P<name>.+?)@(?P<size>\d+x\d+)(?:/(?P<canvas>\d+x\d+))?$")


def hub_weights(source: str) -> HubWeights | None:
    """Return the hub repository of a checkpoint; None for a local folder."""
    path = _split(source)[0]
    return None if Path(path).expanduser().is_dir() else HubWeights(path, "see the hub page")


@register.model("detr", stages="backbone, encoder, decoder, prediction", hub=hub_weights)
def load(source: str, name: str) -> Model:
    """Load a detector of the DETR family from a local folder or, through the hub cache, by repository id.

    DETR, Conditional DETR, Deformable DETR, RT-DETR (v1, v2), D-FINE, DEIMv2 and YOLOS are known. Normalisation and
    input size come from the checkpoint's own ``preprocessor_config.json``; ``NAME@480x640`` sets the size (H x W),
    ``NAME@480x640/512x640`` also pads it to a canvas with a padding mask.

    Raises:
        UsageError: for a checkpoint of another family.
        Unavailable: if the checkpoint is not there and cannot be fetched.
        WeightsError: if it is damaged or does not fit its configuration.
    """
    path, size, canvas = _split(source)
    try:
        kind = AutoConfig.from_pretrained(path).model_type
        if kind not in FAMILIES:
            raise UsageError(f"'{path}' is a checkpoint of '{kind}'; this adapter cuts: {', '.join(sorted(FAMILIES))}")
        processor = AutoImageProcessor.from_pretrained(path)
        network, report = AutoModelForObjectDetection.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except UsageError:
        raise
    except OSError as error:
        raise Unavailable(
            f"DETR checkpoint '{path}' cannot be had ({str(error).splitlines()[0]}); fetch it with: hf download {path}"
        ) from error
    except Exception as error:
        raise WeightsError(f"DETR checkpoint '{path}' cannot be read: {error}") from error
    missing = sorted(set(report["missing_keys"]) | {key for key, *_ in report["mismatched_keys"]})
    if missing:
        raise WeightsError(
            f"DETR checkpoint '{path}' lacks or misfits {len(missing)} tensors, first {missing[0]}: "
            "they would stay random; use the checkpoint's own config.json"
        )
    size = size or input_size(processor)
    origin = WeightsOrigin(f"transformers {path}", _digest(path), "see the checkpoint's card")
    mean, std = normalisation(processor)
    model = detector_chain(name, network, size, mean, std, origin, canvas)
    model.resampling = resampling_of(processor)
    return model


def normalisation(processor: Any) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and deviation for images in [0, 1]; those of a processor that only rescales (RT-DETR) are 0 and 1."""
    if not getattr(processor, "do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    return mean, std


def resampling_of(processor: Any) -> Resampling:
    """Return the processor's own interpolation."""
    kind = getattr(processor, "resample", None)
    names = {int(value): name for name, value in INTERPOLATIONS.items()}
    return Resampling(names.get(2 if kind is None else int(kind), "bilinear"))


def input_size(processor: Any) -> tuple[int, int]:
    """Return the (H, W) of the images that the processor makes.

    Where it keeps the photo's own aspect (DETR's shortest edge 800, longest 1333) they are those of a 4:3 photo, as
    most of COCO are, in whole places.
    """
    size = processor.size
    if "shortest_edge" not in size:
        return int(size["height"]), int(size["width"])
    short = int(size["shortest_edge"])
    long = min(int(size.get("longest_edge") or round(short * 4 / 3)), round(short * 4 / 3))
    return max(STRIDE, short // STRIDE * STRIDE), max(STRIDE, long // STRIDE * STRIDE)


def _split(source: str) -> tuple[str, tuple[int, int] | None, tuple[int, int] | None]:
    """Return the path of a checkpoint, the image size and the canvas (H, W) that ``source`` names."""
    match = SIZES.match(source)
    return (match["name"], _pair(match["size"]), _pair(match["canvas"])) if match else (source, None, None)


def _pair(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, width = text.split("x")
    return int(height), int(width)


def _digest(source: str) -> str:
    """Return the SHA-256 of the checkpoint's safetensors file(s), local or cached."""
    from transformers.utils import cached_file

    if Path(source).is_dir():
        files = sorted(Path(source).glob("*.safetensors"))
    else:
        files = [Path(str(cached_file(source, "model.safetensors")))]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
