"""Adapter for the DETR family of transformers: stages ``backbone``, ``encoder1`` ..., ``encoder``, ``decoder1`` ...,
``decoder``, ``prediction``.

A component is the library's own forward, with stand-ins for what comes before the cut (`invsuite.models.surgery`): no
forward is written twice, and a family needs the names of its parts alone. ``encoderN`` and ``decoderN`` are the outputs
of layer N; ``encoder`` and ``decoder`` are those of the whole, the last layer included. Decoder layers look at the
encoder's memory beside the queries, so that each is run from ``encoder``. Families with several scales hold all of them
as one map (`invsuite.models.pyramid`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from invsuite.errors import UsageError
from invsuite.models.base import (
    Component,
    Lambda,
    Layout,
    LayoutKind,
    Model,
    Normalise,
    Prediction,
    WeightsOrigin,
)
from invsuite.models.pyramid import Pyramid
from invsuite.models.surgery import StandIn, Stop, graft, reach

Heads = Callable[[Any, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def detr_heads(network: Any, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class logits and boxes (B, Q, 4) of DETR's queries (B, Q, d)."""
    return network.class_labels_classifier(hidden), network.bbox_predictor(hidden).sigmoid()


def conditional_heads(network: Any, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of Conditional DETR, whose boxes are offsets from reference points that belong to the queries (Meng et
    al. 2021, eq. 1); logits of points are kept in [logit(1e-5), logit(1 - 1e-5)], as the library does."""
    model = network.model
    points = model.decoder.ref_point_head(model.query_position_embeddings.weight).sigmoid()
    offsets = network.bbox_predictor(hidden)
    centre = offsets[..., :2] + points.logit(eps=1e-5)
    return network.class_labels_classifier(hidden), torch.cat([centre, offsets[..., 2:]], -1).sigmoid()


@dataclass(frozen=True)
class Family:
    """How the networks of one ``model_type`` name their parts.

    Attributes:
        backbone: path of what makes feature maps of pixels.
        projections: path of what projects them before the encoder; "" where that is part of ``backbone``.
        pairs: ``backbone`` gives (map, mask) of each level, else maps alone.
        scales: the encoder reads every level, else the last one.
        layers: the encoder is a stack of layers over tokens; else it is a network of its own that gives maps.
        heads: predictions from the decoder's queries alone; None where boxes need what the decoder carries beside them
            (reference points refined layer by layer), so that ``prediction`` is run from ``encoder``.
        no_object: the last class is "no object"; else classes are independent.
    """

    backbone: str = "model.backbone"
    projections: str = "model.input_projection"
    pairs: bool = True
    scales: bool = False
    layers: bool = True
    heads: Heads | None = detr_heads
    no_object: bool = True


HYBRID = Family(projections="model.encoder_input_proj", scales=True, layers=False, heads=None, no_object=False)
FAMILIES = {
    "detr": Family(),
    "conditional_detr": Family(heads=conditional_heads, no_object=False),
    "deformable_detr": Family(projections="model.input_proj", scales=True, heads=None, no_object=False),
    "rt_detr": HYBRID,
    "rt_detr_v2": HYBRID,
    "d_fine": HYBRID,
    "deimv2": Family("model.conv_encoder", "", False, True, False, None, False),
}


@dataclass(frozen=True)
class Memory:
    """The encoder's representation: tokens of one level, or all levels packed as one map (``tokens`` False)."""

    pyramid: Pyramid
    tokens: bool
    layers: int

    @property
    def layout(self) -> Layout:
        """Its layout."""
        if not self.tokens:
            return self.pyramid.layout
        height, width = self.pyramid.grids[0]
        return Layout("tokens", self.pyramid.channels[0], (height, width), height * width)

    def represent(self, output: Any) -> torch.Tensor:
        """The representation of what an encoder gave: its maps, or its tokens of all levels."""
        if isinstance(output, list):
            return self.pyramid.pack(output)
        return output if self.tokens else self.pyramid.pack(self.pyramid.maps_of(output))

    def packed(self, tensor: torch.Tensor) -> torch.Tensor:
        """The levels of a representation, packed as one map."""
        return tensor.transpose(1, 2).unflatten(2, self.pyramid.grids[0]) if self.tokens else tensor


class Cutter:
    """Views of one network, each from a cut on or up to one.

    Args:
        network: a ``...ForObjectDetection`` of a family in `FAMILIES`.
        mask: (H, W) of the canvas, 1 where there is image and 0 where there is padding.
    """

    def __init__(self, network: Any, mask: torch.Tensor) -> None:
        self.network, self.mask = network, mask
        self.family = FAMILIES[network.config.model_type]

    def inputs(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Arguments of the network's, or a view's, forward: ``pixels`` and the padding mask of every image."""
        mask = self.mask.to(pixels.device).expand(len(pixels), -1, -1)
        return {"pixel_values": pixels, "pixel_mask": mask}

    def levels(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """The backbone's maps that the encoder reads, from normalised pixels on the canvas."""
        body = self.network.get_submodule(self.family.backbone)
        found = body(*self.inputs(pixels).values()) if self.family.pairs else [(m, None) for m in body(pixels)]
        maps = [feature_map for feature_map, _ in found]
        return maps if self.family.scales else maps[-1:]

    def from_maps(self, pyramid: Pyramid) -> nn.Module:
        """From the backbone's packed maps on, which take the place of pixels."""

        def unpack(pixels: torch.Tensor, mask: torch.Tensor | None = None) -> list[Any]:
            maps = pyramid.unpack(pixels)
            if mask is None:
                return maps
            masks = [F.interpolate(mask[None].float(), size=m.shape[-2:])[0].bool() for m in maps]
            return list(zip(maps, masks, strict=True))

        return graft(self.network, {self.family.backbone: StandIn(unpack)})

    def from_memory(self, pyramid: Pyramid, layers: nn.Module | None) -> nn.Module:
        """From the encoder's packed maps on, with ``layers`` of it still to run (a hybrid encoder has none)."""
        parts: dict[str, nn.Module] = {}
        if self.family.projections:
            several = isinstance(self.network.get_submodule(self.family.projections), nn.ModuleList)
            through = [nn.Identity() for _ in pyramid.grids]
            parts[self.family.projections] = nn.ModuleList(through) if several else through[0]
        if layers is None:
            parts["model.encoder"] = StandIn(_encoder_output)
        else:
            parts["model.encoder.layers"] = layers
        return graft(self.from_maps(pyramid), parts)

    def encoder(self, view: nn.Module, layers: nn.Module | None) -> nn.Module:
        """``view`` with ``layers`` as those of its encoder (None: as they are), ended after it."""
        if layers is not None:
            view = graft(view, {"model.encoder.layers": layers})
        return graft(view, {"model.encoder": Stop(view.get_submodule("model.encoder"))})

    def decoder(self, view: nn.Module, layer: int) -> nn.Module:
        """``view`` ended after decoder layer ``layer``, or after the whole decoder for the last."""
        layers = self.network.model.decoder.layers
        if layer == len(layers):
            return graft(view, {"model.decoder": Stop(self.network.model.decoder)})
        return graft(view, {"model.decoder.layers": nn.ModuleList([*layers[: layer - 1], Stop(layers[layer - 1])])})

    def memory(self, pyramid: Pyramid, maps: torch.Tensor) -> Memory:
        """What the encoder's representation looks like, from the backbone's packed ``maps`` of one black image."""
        view = self.from_maps(pyramid)
        if not self.family.layers:
            found = reach(self.encoder(view, None), **self.inputs(maps))
            return Memory(Pyramid.of(_maps_of(found)), False, 0)
        asked = graft(view, {"model.encoder": Stop(StandIn(lambda **kwargs: kwargs))})
        given = reach(asked, **self.inputs(maps))
        grids = tuple(tuple(grid) for grid in given.get("spatial_shapes_list", pyramid.grids))
        channels = (int(given["inputs_embeds"].shape[2]),) * len(grids)
        return Memory(Pyramid(channels, grids), not self.family.scales, len(self.network.model.encoder.layers))


def _maps_of(output: Any) -> Any:
    """A hybrid encoder's maps, a stack's tokens; families differ in the name."""
    return output.feature_maps if hasattr(output, "feature_maps") else output.last_hidden_state


def _encoder_output(inputs_embeds: list[torch.Tensor], **kwargs: Any) -> SimpleNamespace:
    """Maps as if a hybrid encoder had given them, under the names of every family."""
    return SimpleNamespace(
        last_hidden_state=inputs_embeds, feature_maps=inputs_embeds, hidden_states=None, attentions=None
    )


def numbered(name: str, number: int, count: int) -> str:
    """The stage after layer ``number`` of ``count``: the last one has the name of the whole."""
    return name if number == count else f"{name}{number:0{len(str(count))}d}"


def encoder_components(cutter: Cutter, pyramid: Pyramid, memory: Memory) -> list[Component]:
    """One component a layer; a hybrid encoder is one as a whole."""
    found = []
    for layer in range(1, max(1, memory.layers) + 1):
        only = cutter.network.model.encoder.layers[layer - 1 : layer] if memory.layers else None
        first = layer == 1
        view = cutter.from_maps(pyramid) if first else cutter.from_memory(memory.pyramid, only)
        view = cutter.encoder(view, only)

        def run(tensor: torch.Tensor, view: nn.Module = view, first: bool = first) -> torch.Tensor:
            output = reach(view, **cutter.inputs(tensor if first else memory.packed(tensor)))
            return memory.represent(_maps_of(output))

        stage = numbered("encoder", layer, max(1, memory.layers))
        blocks = 1 if memory.layers else int(cutter.network.config.encoder_layers)
        found.append(Component(stage, Lambda(run, view=view), memory.layout, blocks))
    return found


def decoder_components(cutter: Cutter, rest: nn.Module, memory: Memory) -> list[Component]:
    """One component a layer, each run from the encoder's memory by ``rest``, the view that starts there."""
    found = []
    layers = len(cutter.network.model.decoder.layers)
    for layer in range(1, layers + 1):
        view = cutter.decoder(rest, layer).eval()

        def run(tensor: torch.Tensor, view: nn.Module = view) -> torch.Tensor:
            output = reach(view, **cutter.inputs(memory.packed(tensor)))
            queries: torch.Tensor = output if isinstance(output, torch.Tensor) else output.last_hidden_state
            return queries

        layout = _layout_of(run, memory.layout, "queries")
        stage = numbered("decoder", layer, layers)
        found.append(Component(stage, Lambda(run, view=view), layout, 1, None if layer == 1 else "encoder"))
    return found


@torch.no_grad()
def _layout_of(run: Callable[[torch.Tensor], torch.Tensor], source: Layout, kind: LayoutKind, boxes: int = 0) -> Layout:
    """The layout of what ``run`` makes of a representation of ``source``."""
    found = run(torch.zeros(1, *source.shape))
    return Layout(kind, int(found.shape[2]), None, int(found.shape[1]), boxes=boxes)


def detr_chain(
    name: str,
    network: Any,
    image_size: tuple[int, int],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    origin: WeightsOrigin,
    canvas: tuple[int, int] | None = None,
    classes: Sequence[str] = (),
) -> Model:
    """Cut a detector of the DETR family into backbone, encoder layers, decoder layers and predictions.

    Args:
        network: a ``...ForObjectDetection`` of a family in `FAMILIES`, on the CPU.
        image_size: (H, W) of every image.
        mean, std: normalisation of the checkpoint's image processor, for images in [0, 1].
        canvas: (H, W) that images are padded to below and to the right, with a padding mask, as DETR's processor does;
            None: images fill the canvas.
        classes: names of the classes, "no object" left out.

    Raises:
        UsageError: if the canvas is smaller than the images.
    """
    size = canvas or image_size
    pad = (0, size[1] - image_size[1], 0, size[0] - image_size[0])
    if min(pad) < 0:
        raise UsageError(f"a canvas of {size[0]}x{size[1]} is smaller than images of {image_size[0]}x{image_size[1]}")
    normalise = Normalise(mean, std)
    network.eval()
    cutter = Cutter(network, F.pad(torch.ones(image_size, dtype=torch.long), pad))
    family = cutter.family

    def on_canvas(images: torch.Tensor) -> torch.Tensor:
        return F.pad(normalise(images), pad)

    with torch.no_grad():
        maps = cutter.levels(on_canvas(torch.zeros(1, 3, *image_size)))
        pyramid = Pyramid.of(maps)
        memory = cutter.memory(pyramid, pyramid.pack(maps))
    done = network.model.encoder.layers[memory.layers :] if memory.layers else None
    rest = cutter.from_memory(memory.pyramid, done).eval()

    def backbone(images: torch.Tensor) -> torch.Tensor:
        return pyramid.pack(cutter.levels(on_canvas(images)))

    def prediction(tensor: torch.Tensor) -> torch.Tensor:
        if family.heads is not None:
            return torch.cat(family.heads(network, tensor), -1)
        found = rest(**cutter.inputs(memory.packed(tensor)))
        return torch.cat([found.logits, found.pred_boxes], -1)

    body = Lambda(backbone, normalise=normalise, body=network.get_submodule(family.backbone))
    decoder = decoder_components(cutter, rest, memory)
    read = memory.layout if family.heads is None else decoder[-1].layout
    layout = _layout_of(prediction, read, "predictions", boxes=4)
    labels = layout.channels - 4
    components = [
        Component("backbone", body, pyramid.layout),
        *encoder_components(cutter, pyramid, memory),
        *decoder,
        Component(
            "prediction", Lambda(prediction, rest=rest), layout, reads="encoder" if family.heads is None else None
        ),
    ]

    def split(tensor: torch.Tensor) -> Prediction:
        return Prediction(tensor[..., :labels], tensor[..., labels:], family.no_object)

    def reference(images: torch.Tensor) -> Prediction:
        outputs = network(**cutter.inputs(on_canvas(images)))
        return Prediction(outputs.logits, outputs.pred_boxes, family.no_object)

    def rebuild(other: nn.Module) -> Model:
        return detr_chain(name, other, image_size, mean, std, origin, canvas, classes)

    return Model(name, network, components, image_size, "detection", origin, split, reference, rebuild, classes)
