"""YOLOS of transformers: a Vision Transformer with detection tokens; stages ``embed``, ``encoder01`` ..., ``encoder``,
``prediction``."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from invsuite.models.base import Component, Lambda, Layout, Model, Normalise, Prediction, WeightsOrigin
from invsuite.models.detr import numbered


def yolos_chain(
    name: str,
    network: Any,
    image_size: tuple[int, int],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    origin: WeightsOrigin,
) -> Model:
    """Cut a ``YolosForObjectDetection`` into embedding, layers and predictions.

    The library keeps tokens as class, patches, detection; here the detection tokens come second, as the other tokens
    without a place do, and go back to the end before a layer. Position embeddings between layers belong to the layer
    before.

    Args:
        image_size: (H, W) of every image, whole patches.
        mean, std: normalisation of the checkpoint's image processor, for images in [0, 1].
    """
    vit, config = network.vit, network.config
    normalise = Normalise(mean, std)
    patch = config.patch_size
    grid = (image_size[0] // patch, image_size[1] // patch)
    places, detections = grid[0] * grid[1], config.num_detection_tokens
    tokens = Layout("tokens", config.hidden_size, grid, 1 + detections + places, 1 + detections)
    layers = vit.encoder.layer
    network.eval()

    def ours(hidden: torch.Tensor) -> torch.Tensor:
        return torch.cat([hidden[:, :1], hidden[:, 1 + places :], hidden[:, 1 : 1 + places]], 1)

    def theirs(hidden: torch.Tensor) -> torch.Tensor:
        return torch.cat([hidden[:, :1], hidden[:, 1 + detections :], hidden[:, 1 : 1 + detections]], 1)

    def embed(images: torch.Tensor) -> torch.Tensor:
        return ours(vit.embeddings(normalise(images)))

    def layer(number: int) -> Lambda:
        body, between = layers[number - 1], vit.encoder.interpolation

        def run(hidden: torch.Tensor) -> torch.Tensor:
            out = body(theirs(hidden))
            if between is not None and number < len(layers):
                out = out + between(image_size)[number - 1]
            return ours(out)

        return Lambda(run, body=body, **({} if between is None else {"between": between}))

    def prediction(hidden: torch.Tensor) -> torch.Tensor:
        found = vit.layernorm(hidden[:, 1 : 1 + detections])
        return torch.cat([network.class_labels_classifier(found), network.bbox_predictor(found).sigmoid()], -1)

    labels = config.num_labels + 1
    heads = {
        "norm": vit.layernorm,
        "classes": network.class_labels_classifier,
        "boxes": network.bbox_predictor,
    }
    components = [
        Component("embed", Lambda(embed, normalise=normalise, body=vit.embeddings), tokens),
        *(
            Component(numbered("encoder", number, len(layers)), layer(number), tokens, 1)
            for number in range(1, len(layers) + 1)
        ),
        Component(
            "prediction", Lambda(prediction, **heads), Layout("predictions", labels + 4, None, detections, boxes=4)
        ),
    ]

    def split(tensor: torch.Tensor) -> Prediction:
        return Prediction(tensor[..., :labels], tensor[..., labels:])

    def reference(images: torch.Tensor) -> Prediction:
        outputs = network(pixel_values=normalise(images))
        return Prediction(outputs.logits, outputs.pred_boxes)

    def rebuild(other: nn.Module) -> Model:
        return yolos_chain(name, other, image_size, mean, std, origin)

    return Model(name, network, components, image_size, "detection", origin, split, reference, rebuild)
