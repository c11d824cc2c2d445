"""Adapter for transformers' ``DetrForObjectDetection``: stages ``backbone``, ``encoder``, ``decoder``,
``prediction``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import AutoImageProcessor, DetrForObjectDetection

from invsuite.errors import Unavailable, WeightsError
from invsuite.models.base import Component, Lambda, Layout, Model, Normalise, Prediction, WeightsOrigin


def detr_chain(
    name: str,
    network: DetrForObjectDetection,
    image_size: tuple[int, int],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    origin: WeightsOrigin,
    classes: Sequence[str] = (),
) -> Model:
    """Cut a DETR into backbone (its last map), encoder (memory tokens), decoder (object queries) and predictions.

    Images of one size fill the whole canvas, so the padding mask is all ones and the chain needs no mask.

    Args:
        image_size: (H, W) of every image.
        mean, std: normalisation of the checkpoint's image processor, for images in [0, 1].
        classes: names of the classes, "no object" left out.
    """
    inner = network.model
    normalise = Normalise(mean, std)
    labels = network.config.num_labels + 1

    def backbone(images: torch.Tensor) -> torch.Tensor:
        pixels = normalise(images)
        mask = torch.ones((len(pixels), *pixels.shape[-2:]), device=pixels.device)
        feature_map: torch.Tensor = inner.backbone(pixels, mask)[-1][0]
        return feature_map

    def positions(tensor: torch.Tensor) -> torch.Tensor:
        shape = torch.Size([len(tensor), inner.config.d_model, *grid])
        found: torch.Tensor = inner.position_embedding(shape=shape, device=tensor.device, dtype=tensor.dtype)
        return found.flatten(2).transpose(1, 2)

    def encoder(feature_map: torch.Tensor) -> torch.Tensor:
        tokens = inner.input_projection(feature_map).flatten(2).transpose(1, 2)
        hidden: torch.Tensor = inner.encoder(
            inputs_embeds=tokens, spatial_position_embeddings=positions(tokens)
        ).last_hidden_state
        return hidden

    def decoder(memory: torch.Tensor) -> torch.Tensor:
        queries = inner.query_position_embeddings.weight.unsqueeze(0).expand(len(memory), -1, -1)
        hidden: torch.Tensor = inner.decoder(
            inputs_embeds=torch.zeros_like(queries),
            spatial_position_embeddings=positions(memory),
            object_queries_position_embeddings=queries,
            encoder_hidden_states=memory,
        ).last_hidden_state
        return hidden

    def prediction(hidden: torch.Tensor) -> torch.Tensor:
        logits = network.class_labels_classifier(hidden)
        return torch.cat([logits, network.bbox_predictor(hidden).sigmoid()], dim=-1)

    def split(tensor: torch.Tensor) -> Prediction:
        return Prediction(tensor[..., :labels], tensor[..., labels:])

    def reference(images: torch.Tensor) -> Prediction:
        outputs = network(pixel_values=normalise(images))
        return Prediction(outputs.logits, outputs.pred_boxes)

    network.eval()
    with torch.no_grad():
        probe = backbone(torch.zeros(1, 3, *image_size))
    grid = (int(probe.shape[2]), int(probe.shape[3]))
    width, queries = inner.config.d_model, inner.config.num_queries
    components = [
        Component(
            "backbone", Lambda(backbone, normalise=normalise, body=inner.backbone), Layout("map", probe.shape[1], grid)
        ),
        Component(
            "encoder",
            Lambda(encoder, projection=inner.input_projection, body=inner.encoder),
            Layout("tokens", width, grid, grid[0] * grid[1]),
            blocks=inner.config.encoder_layers,
        ),
        Component(
            "decoder",
            Lambda(decoder, body=inner.decoder, queries=inner.query_position_embeddings),
            Layout("queries", width, None, queries),
            blocks=inner.config.decoder_layers,
        ),
        Component(
            "prediction",
            Lambda(prediction, classes=network.class_labels_classifier, boxes=network.bbox_predictor),
            Layout("predictions", labels + 4, None, queries, boxes=4),
        ),
    ]

    def rebuild(other: nn.Module) -> Model:
        assert isinstance(other, DetrForObjectDetection)
        return detr_chain(name, other, image_size, mean, std, origin, classes)

    return Model(name, network, components, image_size, "detection", origin, split, reference, rebuild, classes)


def load_detr(name: str, source: str) -> Model:
    """Load a DETR checkpoint from a local folder or, through the hub cache, by repository id.

    Input size and normalisation come from the checkpoint's own ``preprocessor_config.json``.

    Raises:
        Unavailable: if the checkpoint cannot be found or fetched.
        WeightsError: if it is damaged or does not fit its configuration.
    """
    try:
        processor = AutoImageProcessor.from_pretrained(source)
        network, report = DetrForObjectDetection.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except OSError as error:
        raise Unavailable(
            f"DETR checkpoint '{source}' cannot be had ({str(error).splitlines()[0]}); fetch it with: "
            f"hf download {source}"
        ) from error
    except Exception as error:
        raise WeightsError(f"DETR checkpoint '{source}' cannot be read: {error}") from error
    missing = sorted(set(report["missing_keys"]) | {key for key, *_ in report["mismatched_keys"]})
    if missing:
        raise WeightsError(
            f"DETR checkpoint '{source}' lacks or misfits {len(missing)} tensors, first {missing[0]}: "
            "they would stay random; use the checkpoint's own config.json"
        )
    size = processor.size
    height = size.get("height", size.get("shortest_edge"))
    width = size.get("width", size.get("longest_edge", height))
    if "shortest_edge" in size:  # DETR's usual 800..1333 becomes its 4:3 canvas
        width = min(width, round(height * 4 / 3))
    mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    origin = WeightsOrigin(f"transformers {source}", _digest(source), "see the checkpoint's card", (mean, std))
    labels = [network.config.id2label[index] for index in range(network.config.num_labels)]
    return detr_chain(name, network, (int(height), int(width)), mean, std, origin, labels)


def _digest(source: str) -> str:
    """SHA-256 of the checkpoint's safetensors file(s), local or cached."""
    from transformers.utils import cached_file

    if Path(source).is_dir():
        files = sorted(Path(source).glob("*.safetensors"))
    else:
        files = [Path(str(cached_file(source, "model.safetensors")))]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
