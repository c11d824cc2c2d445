"""The chains of the detectors of transformers.

Stages are ``backbone``, ``encoder1`` ..., ``encoder``, ``decoder1`` ..., ``decoder`` and ``prediction``; those of YOLOS
are ``embed``, ``encoder01`` ..., ``encoder`` and ``prediction``. A component is the library's own forward between two
borders (`invsuite.models.partial_forward`): no forward is written twice, and a family needs the names of its parts
alone. ``encoderN`` and ``decoderN`` are the outputs of layer N; ``encoder`` and ``decoder`` are those of the whole, the
last layer included. Decoder layers look at the encoder's memory beside the queries, so that each is run from
``encoder``. Families with several scales hold all of them as one map (`invsuite.models.pyramid`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from invsuite.errors import UsageError
from invsuite.models.arrangement import Arrangement, Levels, OneTensor
from invsuite.models.base import Component, Lambda, Layout, Model, Normalise, Prediction, WeightsOrigin
from invsuite.models.partial_forward import (
    Border,
    Cut,
    PartialForward,
    reach,
    record_answers,
    tensors_of,
    watch_calls,
)
from invsuite.models.pyramid import Pyramid


class Detector(nn.Module):
    """A library's network on images in [0, 1], which it normalises and places on a canvas.

    Args:
        network: a ``...ForObjectDetection``.
        normalise: the normalisation of its checkpoint.
        pad: zeros at the left, right, top and bottom of every image.
        mask: (H, W) of the canvas, 1 where there is image and 0 where there is padding; None for a network that takes
            no padding mask.
    """

    network: Any

    def __init__(
        self, network: nn.Module, normalise: Normalise, pad: tuple[int, int, int, int], mask: torch.Tensor | None
    ) -> None:
        super().__init__()
        self.network, self.normalise = network, normalise
        self._pad, self._mask = pad, mask

    def forward(self, images: torch.Tensor) -> Any:
        """Return the network's own output."""
        pixels = F.pad(self.normalise(images), self._pad)
        if self._mask is None:
            return self.network(pixel_values=pixels)
        mask = self._mask.to(pixels.device).expand(len(pixels), -1, -1)
        return self.network(pixel_values=pixels, pixel_mask=mask)


@dataclass(frozen=True)
class Place:
    """A stage of a detector, and the earlier stage that it is run from where the one before does not determine it."""

    stage: str
    cut: Cut
    reads: str | None = None


@dataclass(frozen=True)
class Family(ABC):
    """What must be known of the networks of one ``model_type``.

    Attributes:
        decides: the stage that determines the predictions.
        no_object: whether the last class is "no object"; else classes are independent.
        masked: whether the network takes a padding mask.
    """

    decides: str
    no_object: bool = True
    masked: bool = True

    @abstractmethod
    def places(self, detector: Detector, image: torch.Tensor) -> list[Place]:
        """Return every stage but the predictions, in order; ``image`` (1, 3, H, W) is any, in [0, 1]."""


@dataclass(frozen=True)
class Detr(Family):
    """A backbone, an encoder, and a decoder with object queries.

    Boxes of some families need what the decoder carries beside its queries (reference points refined layer by layer):
    there ``encoder`` decides.

    Attributes:
        backbone: path of the module that makes feature maps of pixels.
        scales: whether the encoder reads every level, else the last one.
        layers: whether the encoder is a stack of layers over tokens, else it is a network of its own that gives maps.
    """

    decides: str = "decoder"
    backbone: str = "model.backbone"
    scales: bool = False
    layers: bool = True

    def places(self, detector: Detector, image: torch.Tensor) -> list[Place]:
        """Return the stages of backbone, encoder layers and decoder layers."""
        config, encoder = detector.network.config, "network.model.encoder"
        maps, backbone = _maps_at(detector, image, f"network.{self.backbone}", all_levels=self.scales)
        places = [Place("backbone", Cut(backbone, Levels(Pyramid.of(maps))))]
        if self.layers:
            memory = self._memory(detector, image, Pyramid.of(maps))
            layers = int(config.encoder_layers)
            for layer in range(1, layers + 1):
                path = encoder if layer == layers else f"{encoder}.layers.{layer - 1}"
                places.append(Place(numbered("encoder", layer, layers), Cut(Border(path), memory, 1)))
        else:
            maps, border = _maps_at(detector, image, encoder, all_levels=True)
            places.append(Place("encoder", Cut(border, Levels(Pyramid.of(maps)), int(config.encoder_layers))))
        layers = len(detector.network.model.decoder.layers)
        paths = [f"network.model.decoder.layers.{layer}" for layer in range(layers - 1)] + ["network.model.decoder"]
        answers = record_answers(detector, image, paths)
        for layer, path in enumerate(paths, 1):
            queries = tensors_of(answers[path])[0]
            arrangement = _rows(Layout("queries", queries.shape[2], None, queries.shape[1]))
            reads = None if layer == 1 else "encoder"
            places.append(Place(numbered("decoder", layer, layers), Cut(Border(path), arrangement, 1), reads))
        return places

    def _memory(self, detector: Detector, image: torch.Tensor, pyramid: Pyramid) -> Arrangement:
        """Return how a stack of layers holds its tokens: those of one level, or those of all levels."""
        _, arguments = reach(detector, image, Border("network.model.encoder", after=False))
        grids = tuple(tuple(grid) for grid in arguments.get("spatial_shapes_list", pyramid.grids))
        channels = int(arguments["inputs_embeds"].shape[2])
        if self.scales:
            return Levels(Pyramid((channels,) * len(grids), grids), flat=True)
        ((height, width),) = grids
        return _rows(Layout("tokens", channels, (height, width), height * width))


@dataclass(frozen=True)
class Yolos(Family):
    """A Vision Transformer with detection tokens.

    The library keeps tokens as class, patches, detection; here the detection tokens come second, as the other tokens
    without a place do. Position embeddings between layers belong to the layer before.
    """

    decides: str = "encoder"
    masked: bool = False

    def places(self, detector: Detector, image: torch.Tensor) -> list[Place]:
        """Return the stages of the embedding and the layers."""
        config, vit = detector.network.config, "network.vit"
        grid = (image.shape[2] // config.patch_size, image.shape[3] // config.patch_size)
        patches, detections = grid[0] * grid[1], config.num_detection_tokens
        order = (0, *range(1 + patches, 1 + patches + detections), *range(1, 1 + patches))
        tokens = _rows(Layout("tokens", config.hidden_size, grid, len(order), 1 + detections), order)
        layers = int(config.num_hidden_layers)
        borders = [Border(f"{vit}.encoder.layer.{layer}", after=False) for layer in range(1, layers)]
        return [
            Place("embed", Cut(Border(f"{vit}.embeddings"), tokens)),
            *(
                Place(numbered("encoder", layer, layers), Cut(border, tokens, 1))
                for layer, border in enumerate([*borders, Border(f"{vit}.encoder")], 1)
            ),
        ]


HYBRID = Detr(scales=True, layers=False, decides="encoder", no_object=False)
FAMILIES: dict[str, Family] = {
    "detr": Detr(),
    "conditional_detr": Detr(no_object=False),
    "deformable_detr": Detr(scales=True, decides="encoder", no_object=False),
    "rt_detr": HYBRID,
    "rt_detr_v2": HYBRID,
    "d_fine": HYBRID,
    "deimv2": replace(HYBRID, backbone="model.conv_encoder"),
    "yolos": Yolos(),
}


def _maps_at(
    detector: Detector, image: torch.Tensor, path: str, *, all_levels: bool
) -> tuple[list[torch.Tensor], Border]:
    """Return the feature maps in a module's answer, all or the last, and the border behind it."""
    tensors = tensors_of(reach(detector, image, Border(path)))
    leaves = tuple(leaf for leaf, tensor in enumerate(tensors) if tensor.dim() == 4)  # its masks have three axes
    leaves = leaves if all_levels else leaves[-1:]
    return [tensors[leaf] for leaf in leaves], Border(path, leaves=leaves)


def _rows(layout: Layout, order: tuple[int, ...] | None = None) -> OneTensor:
    """Return the arrangement of tokens or queries that the library keeps in rows, maybe in another ``order``."""
    return OneTensor(layout, layout.shape, channels_last=True, order=order)


def numbered(name: str, number: int, count: int) -> str:
    """Return the stage after layer ``number`` of ``count``: the last one has the name of the whole."""
    return name if number == count else f"{name}{number:0{len(str(count))}d}"


@torch.no_grad()
def detector_chain(
    name: str,
    network: Any,
    image_size: tuple[int, int],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    origin: WeightsOrigin,
    canvas: tuple[int, int] | None = None,
    classes: Sequence[str] = (),
) -> Model:
    """Cut a detector into backbone, encoder layers, decoder layers and predictions.

    Args:
        name: what tables call the model.
        network: a ``...ForObjectDetection`` of a family in `FAMILIES`, on the CPU.
        image_size: (H, W) of every image.
        mean: of the checkpoint's image processor, for images in [0, 1].
        std: likewise.
        origin: provenance of the weights.
        canvas: (H, W) that images are padded to below and to the right, with a padding mask, as DETR's processor does;
            None: images fill the canvas.
        classes: names of the classes, "no object" left out.

    Raises:
        UsageError: if the canvas is smaller than the images, or the network takes no padding mask.
    """
    family = FAMILIES[network.config.model_type]
    if canvas is not None and not family.masked:
        raise UsageError(f"model '{name}': {type(network).__name__} knows no padding mask, leave the canvas out")
    size = canvas or image_size
    pad = (0, size[1] - image_size[1], 0, size[0] - image_size[0])
    if min(pad) < 0:
        raise UsageError(f"a canvas of {size[0]}x{size[1]} is smaller than images of {image_size[0]}x{image_size[1]}")
    mask = F.pad(torch.ones(image_size, dtype=torch.long), pad) if family.masked else None
    normalise = Normalise(mean, std)
    detector = Detector(network, normalise, pad, mask).eval()
    image = torch.zeros(1, 3, *image_size)
    places = family.places(detector, image)
    calls = watch_calls(detector, image)
    borders = [place.cut.border for place in places]
    pieces = PartialForward(detector, image, calls, borders, contiguous=False)
    cuts = {place.stage: place.cut for place in places}
    components: list[Component] = []
    for place, before in zip(places, (None, *places), strict=False):
        start = cuts[place.reads] if place.reads else before.cut if before else None
        parts = {"normalise": normalise} if start is None else {}
        module = Lambda(pieces.piece(start, place.cut), **parts)
        components.append(Component(place.stage, module, place.cut.arrangement.layout, place.cut.blocks, place.reads))

    def joined(outputs: Any) -> torch.Tensor:
        return torch.cat([outputs.logits, outputs.pred_boxes], -1)

    answer = joined(detector(image))
    labels = answer.shape[2] - 4
    last = pieces.piece(cuts[family.decides], None)
    layout = Layout("predictions", answer.shape[2], None, answer.shape[1], boxes=4)
    reads = None if family.decides == places[-1].stage else family.decides
    components.append(Component("prediction", Lambda(lambda tensor: joined(last(tensor))), layout, reads=reads))

    def split(tensor: torch.Tensor) -> Prediction:
        return Prediction(tensor[..., :labels], tensor[..., labels:], family.no_object)

    def reference(images: torch.Tensor) -> Prediction:
        outputs = detector(images)
        return Prediction(outputs.logits, outputs.pred_boxes, family.no_object)

    def rebuild(other: nn.Module) -> Model:
        return detector_chain(name, other, image_size, mean, std, origin, canvas, classes)

    return Model(name, network, components, image_size, "detection", origin, split, reference, rebuild, classes)
