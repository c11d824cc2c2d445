"""onnxruntime's own forward pass of a graph: what the chain over torch is held against before a run."""

from __future__ import annotations

import os
from typing import Any

import onnx
import onnxruntime
import torch
from onnx import helper

from invsuite.errors import WeightsError, reason_of
from invsuite.models.onnx.graph import OnnxGraph


class Session:
    """Tensors of a graph from its image input, by onnxruntime on the CPU; each process starts its own session.

    Args:
        graph: the graph; its file is read again.
        image: the name of its image input.
        answers: the names of the tensors, which may lie inside the graph.
    """

    def __init__(self, graph: OnnxGraph, image: str, answers: tuple[str, ...]) -> None:
        self._graph, self._image, self._answers = graph, image, answers
        self._sessions: dict[int, Any] = {}  # by process

    def __call__(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Return the tensors for normalised ``pixels`` (B, 3, H, W), on the device of these.

        Raises:
            WeightsError: if onnxruntime cannot run the graph.
        """
        try:
            if os.getpid() not in self._sessions:
                self._sessions = {os.getpid(): self._start()}
            session = self._sessions[os.getpid()]
            batch = self._graph.sources[self._image][0] or len(pixels)
            parts = [session.run(None, {self._image: part.detach().cpu().numpy()}) for part in pixels.split(batch)]
        except Exception as error:  # onnxruntime's own, derived from nothing narrower
            raise WeightsError(f"onnxruntime cannot run '{self._graph.path.name}': {reason_of(error)}") from error
        columns = zip(*parts, strict=True)
        return [torch.cat([torch.from_numpy(array) for array in arrays]).to(pixels.device) for arrays in columns]

    def _start(self) -> Any:
        """Start a session of the part of the graph that leads from the image to the answers."""
        model = onnx.load(str(self._graph.path))
        needed = self._graph.upstream(self._answers)
        nodes = [node for node in model.graph.node if node.op_type == "Constant" or needed.intersection(node.output)]
        inputs = [value for value in model.graph.input if value.name == self._image]
        outputs = [helper.make_empty_tensor_value_info(name) for name in self._answers]
        for entries, kept in ((model.graph.node, nodes), (model.graph.input, inputs), (model.graph.output, outputs)):
            del entries[:]
            entries.extend(kept)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # not that the other parts' constants are unused
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
