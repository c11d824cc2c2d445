"""The chain of an image classifier of any family whose library hands out feature maps, without a line for any of them.

The stages are the feature maps that the library itself gives: ``embed`` and then ``block01`` ... where all have one
shape, or ``stage1`` ... where they shrink, then ``head``. `invsuite.models.boundaries` finds the modules behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from invsuite.errors import UsageError, reason_of
from invsuite.models.base import (
    IMAGE,
    Component,
    Lambda,
    Layout,
    Model,
    Normalise,
    Prediction,
    TaskKind,
    WeightsOrigin,
)
from invsuite.models.boundaries import CutNetwork, Uncuttable, cut_network

CHAIN_TOLERANCE = 1e-4  # relative difference of the chain from the network's own forward

Statistics = tuple[float, float, float]


#: a function of a network, normalised images and maybe a number that returns the feature maps (B, channels, h, w) in
#: order, or only that one of them, which may take less time
NumberedMaps = Callable[[Any, torch.Tensor, int | None], list[torch.Tensor]]


def feature_chain(
    name: str,
    network: Any,
    maps: NumberedMaps,
    image_size: tuple[int, int],
    mean: Statistics,
    std: Statistics,
    origin: WeightsOrigin,
) -> Model:
    """Cut a network into embedding, blocks or stages, and head.

    A network that cannot be cut into components that run alone (one with parallel branches, say) still has its stages:
    each is then computed from the image, and `Model.uncut` says why.

    Args:
        name: what tables call the model.
        network: the loaded network, which answers normalised images with logits (B, ``num_classes``), or where that is
            0 with one embedding.
        maps: its library's own feature maps.
        image_size: (H, W) of every image.
        mean: of the checkpoint's normalisation, for images in [0, 1].
        std: likewise.
        origin: provenance of the weights.

    Raises:
        UsageError: for a network without feature maps.
    """
    network.eval().requires_grad_(False)
    normalise = Normalise(mean, std)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, *image_size, generator=generator)
    with torch.no_grad():
        answer: torch.Tensor = network(normalise(images))
    classes, width = int(network.num_classes), answer.shape[1]
    # a network without classes answers with one pooled embedding
    end = Layout("predictions", classes, None, 1) if classes else Layout("queries", width, None, 1)
    reason = ""

    @torch.no_grad()
    def all_maps(network: Any, images: torch.Tensor) -> list[torch.Tensor]:
        try:
            return maps(network, images, None)
        except Exception as error:  # whatever a family's own code raises
            raise UsageError(f"model '{name}' gives no feature maps: {reason_of(error)}") from error

    try:
        components = _components(normalise, cut_network(network, normalise(images), all_maps), end)
        reason = _departure(components, images, answer)
    except Uncuttable as error:
        reason = str(error)
    if reason:
        components = _from_images(
            network, maps, [m.shape for m in all_maps(network, normalise(images))], normalise, end
        )

    def split(tensor: torch.Tensor) -> Prediction:
        return Prediction(tensor.squeeze(1))

    def reference(images: torch.Tensor) -> Prediction:
        return Prediction(network(normalise(images)))

    def rebuild(other: nn.Module) -> Model:
        return feature_chain(name, other, maps, image_size, mean, std, origin)

    task: TaskKind = "classification" if classes else "embedding"
    return Model(name, network, components, image_size, task, origin, split, reference, rebuild, uncut=reason)


def _components(normalise: Normalise, network: CutNetwork, end: Layout) -> list[Component]:
    """Return the components between the cuts, each of which runs the network's own code (`PartialForward`)."""
    first, *rest = network.cuts
    named = [("embed", network.embedding or first)]
    parts = [first, *rest] if network.embedding else rest
    named += zip(_part_names([cut.arrangement.layout for cut in parts]), parts, strict=True)
    (stage, start), *named = named
    embed = network.pieces.piece(None, start)
    module = Lambda(lambda images: embed(normalise(images)), normalise=normalise)
    components = [Component(stage, module, start.arrangement.layout, start.blocks)]
    for stage, stop in named:
        module = Lambda(network.pieces.piece(start, stop))
        components.append(Component(stage, module, stop.arrangement.layout, stop.blocks))
        start = stop
    head = network.pieces.piece(start, None)
    return [*components, Component("head", Lambda(lambda tensor: head(tensor).unsqueeze(1)), end)]


def _part_names(layouts: Sequence[Layout]) -> list[str]:
    """Return ``block01`` ... for parts that keep one shape, ``stage1`` ... for those of a pyramid."""
    kind, least = ("block", 2) if len(set(layouts)) == 1 else ("stage", 1)
    width = max(least, len(str(len(layouts))))
    return [f"{kind}{number:0{width}d}" for number in range(1, len(layouts) + 1)]


@torch.no_grad()
def _departure(components: Sequence[Component], images: torch.Tensor, answer: torch.Tensor) -> str:
    """Return how far the chain departs from the network's own ``answer``, as a reason not to use it, or ""."""
    tensor = images
    for component in components:
        tensor = component.module(tensor)
    difference = float((tensor.squeeze(1) - answer).norm())
    if difference <= CHAIN_TOLERANCE * float(answer.norm()):
        return ""
    return f"its components one after the other depart from its own forward by {difference:.2g}"


def _from_images(
    network: Any, maps: NumberedMaps, shapes: Sequence[torch.Size], normalise: Normalise, end: Layout
) -> list[Component]:
    """Return a component for every feature map, of these ``shapes``, and one for the head, each from the image."""
    layouts = [Layout("map", channels, (height, width)) for _, channels, height, width in shapes]

    def stage(number: int) -> nn.Module:
        def run(images: torch.Tensor) -> torch.Tensor:
            return maps(network, normalise(images), number)[0].contiguous()

        return Lambda(run, normalise=normalise)

    def head(images: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = network(normalise(images)).unsqueeze(1)
        return answer

    components = [
        Component(stage_name, stage(number), layout, reads=IMAGE)
        for number, (stage_name, layout) in enumerate(zip(_part_names(layouts), layouts, strict=True))
    ]
    return [*components, Component("head", Lambda(head), end, reads=IMAGE)]
