"""The chain of an ONNX file: stages are named tensors of the graph (`invsuite.models.onnx.card`), then ``prediction``.

A component reads the nearest earlier stage that determines it alone, as the graph says, else the images.
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
    WeightsOrigin,
)
from invsuite.models.onnx.card import OnnxCard, StageCard
from invsuite.models.onnx.graph import OnnxGraph
from invsuite.models.onnx.session import Session
from invsuite.models.pyramid import Pyramid


class StageTensors:
    """The tensors of one stage in the graph and the one tensor they are outside it.

    Raises:
        UsageError: if the card's kind does not fit the shapes.
    """

    def __init__(self, name: str, card: StageCard, probe: list[torch.Tensor]) -> None:
        self.names = card.names
        self.pyramid: Pyramid | None = None
        shapes = [tuple(tensor.shape[1:]) for tensor in probe]
        if all(len(shape) == 3 for shape in shapes) and card.kind in (None, "map"):
            self.pyramid = Pyramid.of(probe)
            self.layout = self.pyramid.layout
        elif len(shapes) == 1 and len(shapes[0]) == 2 and card.kind != "map":
            (count, channels), grid = shapes[0], card.grid
            if card.kind == "tokens" and (grid is None or card.prefix + grid[0] * grid[1] != count):
                raise UsageError(f"stage '{name}': {count} tokens are not {card.prefix} and a grid of {grid}")
            kind: LayoutKind = "tokens" if card.kind == "tokens" else "queries"
            self.layout = Layout(kind, channels, grid if kind == "tokens" else None, count, card.prefix)
        else:
            raise UsageError(f"stage '{name}': tensors of shapes {shapes} per image are no '{card.kind or 'map'}'")

    def pack(self, tensors: list[torch.Tensor]) -> torch.Tensor:
        """Return the stage's representation."""
        return tensors[0] if self.pyramid is None else self.pyramid.pack(tensors)

    def unpack(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the graph's tensors of a representation."""
        tensors = [tensor] if self.pyramid is None else self.pyramid.unpack(tensor)
        return dict(zip(self.names, tensors, strict=True))


def onnx_chain(name: str, graph: OnnxGraph, card: OnnxCard, origin: WeightsOrigin) -> Model:
    """Return the chain that a card cuts a graph into.

    Its ``reference`` is onnxruntime's answer, so that a wrong operator of ours does not pass the check of the chain.

    Raises:
        UsageError: for a tensor the graph has not, an input that is not an image, or stages out of order.
    """
    stages, prediction = card.stage_cards, card.prediction
    tensors = {stage: s.names for stage, s in stages.items()} | {"prediction": prediction.answers}
    named = [name for names in tensors.values() for name in names]
    for tensor in (card.input, *named):
        if tensor not in graph:
            near = difflib.get_close_matches(tensor, graph.names, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"the graph has {len(graph.names)} others"
            raise UsageError(f"the card names '{tensor}', which is no tensor of the graph: {hint}")
    size = _size(graph, card)
    normalise = Normalise(card.mean, card.std)
    stray = graph.missing_inputs(named) - {card.input}
    if stray:
        raise UsageError(f"the card's tensors depend on inputs beside '{card.input}': {', '.join(sorted(stray))}")
    with torch.no_grad():
        black = normalise(torch.zeros(1, 3, *size))
        probes = {stage: graph({card.input: black}, names) for stage, names in tensors.items()}
    parts = {stage: StageTensors(stage, s, probes[stage]) for stage, s in stages.items()}
    detects = prediction.boxes is not None
    labels = probes["prediction"][0].shape[-1]
    queries, boxes = (probes["prediction"][0].shape[1], 4) if detects else (1, 0)
    answer = Layout("predictions", labels + boxes, None, queries, boxes=boxes)

    def pixels_of(images: torch.Tensor) -> torch.Tensor:
        """Return the graph's input; channels last, which convolutions and pooling on a CPU are twice as fast in."""
        return normalise(images).to(memory_format=torch.channels_last)

    def joined(answers: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(answers, -1) if detects else answers[0].unsqueeze(1)

    def function(source: str, stage: str) -> Callable[[torch.Tensor], torch.Tensor]:
        pack = parts[stage].pack if stage in parts else joined

        def run(tensor: torch.Tensor) -> torch.Tensor:
            known = {card.input: pixels_of(tensor)} if source == IMAGE else parts[source].unpack(tensor)
            return pack(graph(known, tensors[stage]))

        return run

    components: list[Component] = []
    for index, stage in enumerate(tensors):
        earlier = [*stages][:index]
        source = next((s for s in reversed(earlier) if not graph.missing_inputs(tensors[stage], tensors[s])), IMAGE)
        before = earlier[-1] if earlier else IMAGE
        module = Lambda(function(source, stage), normalise=normalise, graph=graph)
        layout = parts[stage].layout if stage in parts else answer
        blocks = stages[stage].blocks if stage in parts else 0
        components.append(Component(stage, module, layout, blocks, None if source == before else source))

    def split(tensor: torch.Tensor) -> Prediction:
        if not detects:
            return Prediction(tensor.squeeze(1))
        return Prediction(tensor[..., :labels], tensor[..., labels:], prediction.no_object)

    session = Session(graph, card.input, prediction.answers)

    def reference(images: torch.Tensor) -> Prediction:
        return split(joined(session(normalise(images))))

    return Model(name, graph, components, size, prediction.task, origin, split, reference, classes=prediction.classes)


def _size(graph: OnnxGraph, card: OnnxCard) -> tuple[int, int]:
    """Return the (H, W) of the image input: the graph's, or the card's where the graph leaves it free."""
    shape = graph.sources.get(card.input, ())
    if len(shape) != 4 or shape[1] not in (3, None):
        raise UsageError(f"ONNX tensor '{card.input}' of shape {shape} is no image input (B, 3, H, W)")
    sides = [side or (card.size[i] if card.size else None) for i, side in enumerate(shape[2:])]
    if sides[0] is None or sides[1] is None:
        raise UsageError(f"the graph leaves the image size free: add 'size = [H, W]' to the card of '{card.input}'")
    return sides[0], sides[1]
