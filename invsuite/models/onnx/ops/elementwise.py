"""Operators that look at one place at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from invsuite.errors import UsageError
from invsuite.models.onnx.ops.types import Attributes, Inputs, Operator, needed, optional, together

# onnx.TensorProto.DataType
DTYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
}


def _unary(function: Callable[[torch.Tensor], torch.Tensor]) -> Operator:
    return lambda inputs, attributes: (function(needed(inputs, 0)),)


def _binary(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Operator:
    return lambda inputs, attributes: (function(*together(needed(inputs, 0), needed(inputs, 1))),)


def _many(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Operator:
    def run(inputs: Inputs, attributes: Attributes) -> tuple[torch.Tensor, ...]:
        first, *rest = together(*(needed(inputs, i) for i in range(len(inputs))))
        for other in rest:
            first = function(first, other)
        return (first,)

    return run


def _divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    whole = not (a.is_floating_point() or b.is_floating_point())
    return torch.div(a, b, rounding_mode="trunc") if whole else a / b


def _power(inputs: Inputs, attributes: Attributes) -> tuple[torch.Tensor, ...]:
    base, exponent = needed(inputs, 0), needed(inputs, 1)
    if exponent.numel() == 1:
        return (base.pow(float(exponent)),)
    return (torch.pow(*together(base, exponent)),)


def _clip(inputs: Inputs, attributes: Attributes) -> tuple[torch.Tensor, ...]:
    low, high = optional(inputs, 1), optional(inputs, 2)
    bounds = [None if v is None else v.item() for v in (low, high)]
    tensor = needed(inputs, 0)
    return (tensor if bounds == [None, None] else tensor.clamp(*bounds),)


def _cast(inputs: Inputs, attributes: Attributes) -> tuple[torch.Tensor, ...]:
    if attributes["to"] not in DTYPES:
        raise UsageError(f"ONNX Cast to data type {attributes['to']} is not supported")
    return (needed(inputs, 0).to(DTYPES[attributes["to"]]),)


def _where(inputs: Inputs, attributes: Attributes) -> tuple[torch.Tensor, ...]:
    condition, yes, no = together(needed(inputs, 0), needed(inputs, 1), needed(inputs, 2))
    return (torch.where(condition, yes, no),)


def _gelu(inputs: Inputs, attributes: Attributes) -> tuple[torch.Tensor, ...]:
    return (F.gelu(needed(inputs, 0), approximate=attributes.get("approximate", b"none").decode()),)


def _leaky(inputs: Inputs, attributes: Attributes) -> tuple[torch.Tensor, ...]:
    return (F.leaky_relu(needed(inputs, 0), attributes.get("alpha", 0.01)),)


def _elu(inputs: Inputs, attributes: Attributes) -> tuple[torch.Tensor, ...]:
    return (F.elu(needed(inputs, 0), attributes.get("alpha", 1.0)),)


def _hard_sigmoid(inputs: Inputs, attributes: Attributes) -> tuple[torch.Tensor, ...]:
    alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    return ((alpha * needed(inputs, 0) + beta).clamp(0, 1),)


def _prelu(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return torch.where(x >= 0, x, x * slope)


ELEMENTWISE: dict[str, Operator] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "Cast": _cast,
    "Ceil": _unary(torch.ceil),
    "Clip": _clip,
    "Cos": _unary(torch.cos),
    "Div": _binary(_divide),
    "Elu": _elu,
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Gelu": _gelu,
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(F.hardswish),
    "Identity": _unary(lambda x: x),
    "LeakyRelu": _leaky,
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "Max": _many(torch.maximum),
    "Min": _many(torch.minimum),
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "PRelu": _binary(_prelu),
    "Pow": _power,
    "Reciprocal": _unary(torch.reciprocal),
    "Relu": _unary(torch.relu),
    "Round": _unary(torch.round),
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Softplus": _unary(F.softplus),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _binary(torch.sub),
    "Sum": _many(torch.add),
    "Tanh": _unary(torch.tanh),
    "Where": _where,
}
