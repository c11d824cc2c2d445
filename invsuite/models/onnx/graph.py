"""An ONNX file as a frozen, differentiable torch module that runs any part of its graph between named tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from invsuite.errors import Unavailable, UsageError, WeightsError
from invsuite.models.onnx.ops import OPERATORS
from invsuite.models.onnx.ops.types import Attributes

OLDEST = 13  # opset whose operators the table knows; axes and softmax meant something else before


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
    """The graph of a file. Floating-point constants are parameters, so that they are frozen, moved and digested as
    weights are; whole numbers (shapes, indices) stay on the CPU.

    Attributes:
        sources: names of the graph's inputs with their shapes, None for a free axis.

    Raises:
        Unavailable: if the package ``onnx`` is not installed, or the file does not exist.
        WeightsError: if it is no ONNX file.
        UsageError: for an operator or an opset that is not supported, naming it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
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
        for name, value in _constants(graph).items():
            if value.is_floating_point():
                self._places[name] = len(self.weights)
                self.weights.append(nn.Parameter(value, requires_grad=False))
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
        """Every tensor that is computed."""
        return tuple(self._maker)

    def is_constant(self, name: str) -> bool:
        """Whether ``name`` is a constant of the file."""
        return name in self._places or name in self._whole

    def __contains__(self, name: str) -> bool:
        return name in self._maker or name in self.sources or self.is_constant(name)

    def needs(self, wanted: Collection[str], given: Collection[str]) -> set[str]:
        """The graph's inputs that ``wanted`` tensors still depend on where ``given`` ones are known."""
        return {name for name in self._walk(wanted, given) if name in self.sources}

    def _walk(self, wanted: Collection[str], given: Collection[str]) -> set[str]:
        """Every tensor that ``wanted`` ones depend on, those behind ``given`` ones left out."""
        seen: set[str] = set()
        waiting = [name for name in wanted if name not in given]
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in self._maker:
                waiting += [n for n in self._maker[name].inputs if n and n not in given and not self.is_constant(n)]
        return seen

    def _plan(self, given: tuple[str, ...], wanted: tuple[str, ...]) -> list[Step]:
        key = given, wanted
        if key not in self._plans:
            needed = self._walk(wanted, given)
            nodes = [node for node in self.nodes if needed.intersection(node.outputs)]
            last = {name: i for i, node in enumerate(nodes) for name in (*node.inputs, *node.outputs)}
            keep = {*wanted, ""}
            self._plans[key] = [
                Step(
                    node,
                    tuple({n for n in (*node.inputs, *node.outputs) if last[n] == i} - keep - self._places.keys()),
                )
                for i, node in enumerate(nodes)
            ]
        return self._plans[key]

    def forward(self, given: Mapping[str, torch.Tensor], wanted: tuple[str, ...]) -> list[torch.Tensor]:
        """The ``wanted`` tensors from the ``given`` ones; differentiable."""
        values: dict[str, torch.Tensor | None] = {"": None, **given}
        for step in self._plan(tuple(given), wanted):
            inputs = [self._value(values, name) for name in step.node.inputs]
            outputs = OPERATORS[step.node.operator](inputs, step.node.attributes)
            values.update(zip(step.node.outputs, outputs, strict=False))
            for name in step.done:
                values.pop(name, None)
        found = [self._value(values, name) for name in wanted]
        return [tensor for tensor in found if tensor is not None]

    def _value(self, values: Mapping[str, torch.Tensor | None], name: str) -> torch.Tensor | None:
        if name in values:
            return values[name]
        return self.weights[self._places[name]] if name in self._places else self._whole[name]


def _read(path: Path) -> tuple[Any, int]:
    """The graph of a file and its opset."""
    try:
        import onnx
    except ImportError as error:
        raise Unavailable("ONNX files need the package onnx; install it with: pip install 'invsuite[onnx]'") from error
    if not path.is_file():
        raise Unavailable(f"ONNX file '{path}' does not exist")
    try:
        model = onnx.load(str(path))
        opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    except Exception as error:
        raise WeightsError(f"'{path}' cannot be read as ONNX: {error}") from error
    return model.graph, opset


def _tensor(proto: Any) -> torch.Tensor:
    from onnx import numpy_helper

    return torch.from_numpy(numpy_helper.to_array(proto).copy())


def _node(node: Any) -> Node:
    from onnx import TensorProto, helper

    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    attributes = {k: _tensor(v) if isinstance(v, TensorProto) else v for k, v in attributes.items()}
    return Node(node.op_type, tuple(node.input), tuple(node.output), attributes)


def _constants(graph: Any) -> dict[str, torch.Tensor]:
    """Initialisers and Constant nodes by name."""
    found = {proto.name: _tensor(proto) for proto in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            (name, value), *_ = _node(node).attributes.items()
            found[node.output[0]] = value if name == "value" else torch.tensor(value)
    return found
