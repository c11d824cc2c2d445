"""The chain of an ONNX file: stages are named tensors of the graph (`invsuite.models.onnx.card`), then ``prediction``.

Which stage a component reads is found in the graph: the nearest earlier one that determines it alone, else the images.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

import torch

from invsuite.errors import UsageError
from invsuite.models.base import (
    IMAGE,
    Component,
    Lambda,
    Layout,
    LayoutKind,
    Model,
    Normalise,
    Prediction,
    TaskKind,
    WeightsOrigin,
)
from invsuite.models.onnx.card import OnnxCard, StageCard
from invsuite.models.onnx.graph import OnnxGraph
from invsuite.models.pyramid import Pyramid


class StageTensors:
    """The tensors of one stage in the graph and the one tensor they are outside it.

    Raises:
        UsageError: if the card's kind does not fit the shapes.
    """

    def __init__(self, name: str, card: StageCard, probe: list[torch.Tensor]) -> None:
        self.names = card.tensors
        self.pyramid: Pyramid | None = None
        shapes = [tuple(tensor.shape[1:]) for tensor in probe]
        if all(len(shape) == 3 for shape in shapes) and card.kind in ("", "map"):
            self.pyramid = Pyramid.of(probe)
            self.layout = self.pyramid.layout
        elif len(shapes) == 1 and len(shapes[0]) == 2 and card.kind != "map":
            (count, channels), grid = shapes[0], card.grid
            if card.kind == "tokens" and (grid is None or card.prefix + grid[0] * grid[1] != count):
                raise UsageError(f"stage '{name}': {count} tokens are not {card.prefix} and a grid of {grid}")
            kind: LayoutKind = "tokens" if card.kind == "tokens" else "queries"
            self.layout = Layout(kind, channels, grid if kind == "tokens" else None, count, card.prefix)
        else:
            raise UsageError(f"stage '{name}': tensors of shapes {shapes} an image are no '{card.kind or 'map'}'")

    def pack(self, tensors: list[torch.Tensor]) -> torch.Tensor:
        """The stage's representation."""
        return tensors[0] if self.pyramid is None else self.pyramid.pack(tensors)

    def unpack(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """The graph's tensors of a representation."""
        tensors = [tensor] if self.pyramid is None else self.pyramid.unpack(tensor)
        return dict(zip(self.names, tensors, strict=True))


def onnx_chain(name: str, graph: OnnxGraph, card: OnnxCard, origin: WeightsOrigin) -> Model:
    """The chain that a card cuts a graph into.

    Raises:
        UsageError: for a tensor the graph has not, an input that is not an image, or stages out of order.
    """
    for tensor in (card.image, card.logits, *(t for s in card.stages.values() for t in s.tensors)):
        if tensor not in graph:
            near = difflib.get_close_matches(tensor, graph.names, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"the graph has {len(graph.names)} others"
            raise UsageError(f"the card names '{tensor}', which is no tensor of the graph: {hint}")
    size = _size(graph, card)
    normalise = Normalise(card.mean, card.std)
    answers = (card.logits,) if card.boxes is None else (card.logits, card.boxes)
    stray = graph.needs([*answers, *(t for s in card.stages.values() for t in s.tensors)], ()) - {card.image}
    if stray:
        raise UsageError(f"the card's tensors depend on inputs beside '{card.image}': {', '.join(sorted(stray))}")
    wanted = {stage: s.tensors for stage, s in card.stages.items()} | {"prediction": answers}
    with torch.no_grad():
        black = normalise(torch.zeros(1, 3, *size))
        found = {stage: graph({card.image: black}, tensors) for stage, tensors in wanted.items()}
    parts = {stage: StageTensors(stage, s, found[stage]) for stage, s in card.stages.items()}
    labels = found["prediction"][0].shape[-1]
    queries = 1 if card.boxes is None else found["prediction"][0].shape[1]
    boxes = 0 if card.boxes is None else 4
    answer = Layout("predictions", labels + boxes, None, queries, boxes=boxes)

    def shown(images: torch.Tensor) -> torch.Tensor:
        """What the graph is given; channels last, which convolutions and pooling on a CPU are twice as fast in."""
        return normalise(images).to(memory_format=torch.channels_last)

    def joined(tensors: list[torch.Tensor]) -> torch.Tensor:
        return tensors[0].unsqueeze(1) if card.boxes is None else torch.cat(tensors, -1)

    def link(source: str, stage: str) -> Callable[[torch.Tensor], torch.Tensor]:
        pack = parts[stage].pack if stage in parts else joined

        def run(tensor: torch.Tensor) -> torch.Tensor:
            given = {card.image: shown(tensor)} if source == IMAGE else parts[source].unpack(tensor)
            return pack(graph(given, wanted[stage]))

        return run

    components: list[Component] = []
    for index, stage in enumerate(wanted):
        earlier = [*card.stages][:index]
        source = next((s for s in reversed(earlier) if not graph.needs(wanted[stage], wanted[s])), IMAGE)
        before = earlier[-1] if earlier else IMAGE
        module = Lambda(link(source, stage), normalise=normalise, graph=graph)
        layout = parts[stage].layout if stage in parts else answer
        blocks = card.stages[stage].blocks if stage in parts else 0
        components.append(Component(stage, module, layout, blocks, None if source == before else source))

    def split(tensor: torch.Tensor) -> Prediction:
        if card.boxes is None:
            return Prediction(tensor.squeeze(1))
        return Prediction(tensor[..., :labels], tensor[..., labels:], card.no_object)

    def reference(images: torch.Tensor) -> Prediction:
        return split(joined(graph({card.image: shown(images)}, answers)))

    task: TaskKind = "classification" if card.boxes is None else "detection"
    return Model(name, graph, components, size, task, origin, split, reference, classes=card.classes)


def _size(graph: OnnxGraph, card: OnnxCard) -> tuple[int, int]:
    """(H, W) of the image input: the graph's, or the card's where the graph leaves it free."""
    shape = graph.sources.get(card.image, ())
    if len(shape) != 4 or shape[1] not in (3, None):
        raise UsageError(f"ONNX tensor '{card.image}' of shape {shape} is no image input (B, 3, H, W)")
    sides = [side or (card.size[i] if card.size else None) for i, side in enumerate(shape[2:])]
    if sides[0] is None or sides[1] is None:
        raise UsageError(f"the graph leaves the image size free: add 'size = [H, W]' to the card of '{card.image}'")
    return sides[0], sides[1]
