"""An ONNX file as a frozen, differentiable torch module that runs any part of its graph between named tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from invsuite.errors import MissingPath, UsageError, WeightsError, reason_of
from invsuite.models.onnx.ops import OPERATORS
from invsuite.models.onnx.ops.types import Attributes

OLDEST = 13  # opset whose operators the table knows; axes and softmax meant something else before


#: inputs, by operator, that are read as numbers
NUMBERS = {"Clip": (1, 2), "Pad": (2,), "Pow": (1,), "Range": (0, 1, 2), "Resize": (2,)}
READ = 8  # values, at most, of a constant that is read as numbers


@dataclass(frozen=True)
class Node:
    """One operation: names of the tensors it takes ("" for one left out) and gives."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Attributes


@dataclass(frozen=True)
class Step:
    """A node to run, and the tensors no later step needs."""

    node: Node
    done: tuple[str, ...]


class OnnxGraph(nn.Module):
    """The graph of a file.

    Floating-point constants are parameters, so that they are frozen, moved and digested as weights are; whole numbers
    (shapes, indices) stay on the CPU, and so do copies of single numbers, which operators read there: asking a GPU for
    one waits for it.

    Attributes:
        path: of the file.
        sources: names of the graph's inputs with their shapes, None for a free axis.

    Raises:
        Unavailable: if the file does not exist.
        WeightsError: if it is no ONNX file.
        UsageError: for an operator or an opset that is not supported, naming it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        graph, opset = _read(path)
        if opset < OLDEST:
            raise UsageError(f"'{path.name}' has ONNX opset {opset}, at least {OLDEST} is needed: export it again")
        self.nodes = [_node(node) for node in graph.node if node.op_type != "Constant"]
        unknown = sorted({node.operator for node in self.nodes} - OPERATORS.keys())
        if unknown:
            raise UsageError(f"'{path.name}' uses ONNX operators that are not supported: {', '.join(unknown)}")
        self.weights = nn.ParameterList()
        self._places: dict[str, int] = {}
        self._whole: dict[str, torch.Tensor] = {}
        self._read: dict[str, torch.Tensor] = {}
        for name, value in _constants(graph).items():
            if value.is_floating_point():
                self._places[name] = len(self.weights)
                self.weights.append(nn.Parameter(value, requires_grad=False))
                if value.numel() <= READ:
                    self._read[name] = value.clone()
            else:
                self._whole[name] = value
        self._maker = {name: node for node in self.nodes for name in node.outputs}
        self.sources = {
            value.name: tuple(side.dim_value or None for side in value.type.tensor_type.shape.dim)
            for value in graph.input
            if not self.is_constant(value.name)
        }
        self._plans: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Step]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the tensors that are computed."""
        return tuple(self._maker)

    def is_constant(self, name: str) -> bool:
        """Tell whether ``name`` is a constant of the file."""
        return name in self._places or name in self._whole

    def __contains__(self, name: str) -> bool:
        return name in self._maker or name in self.sources or self.is_constant(name)

    def missing_inputs(self, outputs: Collection[str], known: Collection[str] = ()) -> set[str]:
        """Return the graph's inputs that the tensors ``outputs`` still depend on where ``known`` ones are known."""
        return {name for name in self.upstream(outputs, known) if name in self.sources}

    def upstream(self, outputs: Collection[str], known: Collection[str] = ()) -> set[str]:
        """Return every tensor that ``outputs`` depend on, themselves too, without what lies behind ``known`` ones."""
        reached: set[str] = set()
        waiting = [name for name in outputs if name not in known]
        while waiting:
            name = waiting.pop()
            if name in reached:
                continue
            reached.add(name)
            if name in self._maker:
                waiting += [n for n in self._maker[name].inputs if n and n not in known and not self.is_constant(n)]
        return reached

    def _plan(self, known: tuple[str, ...], outputs: tuple[str, ...]) -> list[Step]:
        key = known, outputs
        if key not in self._plans:
            needed = self.upstream(outputs, known)
            nodes = [node for node in self.nodes if needed.intersection(node.outputs)]
            last = {name: i for i, node in enumerate(nodes) for name in (*node.inputs, *node.outputs)}
            keep = {*outputs, ""}
            self._plans[key] = [
                Step(
                    node,
                    tuple({n for n in (*node.inputs, *node.outputs) if last[n] == i} - keep - self._places.keys()),
                )
                for i, node in enumerate(nodes)
            ]
        return self._plans[key]

    def forward(self, known: Mapping[str, torch.Tensor], outputs: tuple[str, ...]) -> list[torch.Tensor]:
        """Return the tensors ``outputs`` from the ``known`` ones; differentiable."""
        values: dict[str, torch.Tensor | None] = {"": None, **known}
        for step in self._plan(tuple(known), outputs):
            inputs = [self._input(values, step.node, index) for index in range(len(step.node.inputs))]
            answers = OPERATORS[step.node.operator](inputs, step.node.attributes)
            values.update(zip(step.node.outputs, answers, strict=False))
            for name in step.done:
                values.pop(name, None)
        tensors = [self._value(values, name) for name in outputs]
        return [tensor for tensor in tensors if tensor is not None]

    def _input(self, values: Mapping[str, torch.Tensor | None], node: Node, index: int) -> torch.Tensor | None:
        name = node.inputs[index]
        if name in self._read and name not in values and index in NUMBERS.get(node.operator, ()):
            return self._read[name]
        return self._value(values, name)

    def _value(self, values: Mapping[str, torch.Tensor | None], name: str) -> torch.Tensor | None:
        if name in values:
            return values[name]
        return self.weights[self._places[name]] if name in self._places else self._whole[name]


def _read(path: Path) -> tuple[Any, int]:
    """Return the graph of a file and its opset."""
    if not path.is_file():
        raise MissingPath(f"ONNX file '{path}' does not exist")
    try:
        model = onnx.load(str(path))
        opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    except Exception as error:
        raise WeightsError(f"'{path}' cannot be read as ONNX: {reason_of(error)}") from error
    return model.graph, opset


def _tensor(proto: Any) -> torch.Tensor:
    return torch.from_numpy(numpy_helper.to_array(proto).copy())


def _node(node: Any) -> Node:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    attributes = {k: _tensor(v) if isinstance(v, TensorProto) else v for k, v in attributes.items()}
    return Node(node.op_type, tuple(node.input), tuple(node.output), attributes)


def _constants(graph: Any) -> dict[str, torch.Tensor]:
    """Return initialisers and Constant nodes by name."""
    constants = {proto.name: _tensor(proto) for proto in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            (name, value), *_ = _node(node).attributes.items()
            constants[node.output[0]] = value if name == "value" else torch.tensor(value)
    return constants
