"""ONNX operators over torch, opset 13 and later: what exporters of vision models write. One table of functions.

Each takes a node's inputs (None where an optional one is left out) and attributes, and returns its outputs. Shapes and
indices are int64 tensors on the CPU. Definitions: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from invsuite.models.onnx.ops.elementwise import ELEMENTWISE
from invsuite.models.onnx.ops.layers import LAYERS
from invsuite.models.onnx.ops.shapes import SHAPES
from invsuite.models.onnx.ops.types import Operator

OPERATORS: dict[str, Operator] = {**ELEMENTWISE, **SHAPES, **LAYERS}
