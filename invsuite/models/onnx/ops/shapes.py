"""Operators that move values about, or speak of shapes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from invsuite.errors import UsageError
from invsuite.models.onnx.ops.types import Attributes, Inputs, Operator, needed, numbers, optional, together

Outputs = tuple[torch.Tensor, ...]


def _shape(inputs: Inputs, attributes: Attributes) -> Outputs:
    sides = list(needed(inputs, 0).shape)
    return (torch.tensor(sides[attributes.get("start", 0) : attributes.get("end", len(sides))], dtype=torch.int64),)


def _reshape(inputs: Inputs, attributes: Attributes) -> Outputs:
    tensor = needed(inputs, 0)
    sides = [int(v) for v in needed(inputs, 1).tolist()]
    if not attributes.get("allowzero", 0):
        sides = [tensor.shape[i] if side == 0 else side for i, side in enumerate(sides)]
    return (tensor.reshape(sides),)


def _flatten(inputs: Inputs, attributes: Attributes) -> Outputs:
    tensor, axis = needed(inputs, 0), attributes.get("axis", 1)
    axis = axis + tensor.ndim if axis < 0 else axis
    rows = int(torch.tensor(tensor.shape[:axis]).prod()) if axis else 1
    return (tensor.reshape(rows, -1),)


def _transpose(inputs: Inputs, attributes: Attributes) -> Outputs:
    tensor = needed(inputs, 0)
    return (tensor.permute(attributes.get("perm", list(range(tensor.ndim))[::-1])),)


def _squeeze(inputs: Inputs, attributes: Attributes) -> Outputs:
    axes = numbers(inputs, 1, attributes, "axes")
    tensor = needed(inputs, 0)
    return (tensor.squeeze() if axes is None else tensor.squeeze(tuple(axes)),)


def _unsqueeze(inputs: Inputs, attributes: Attributes) -> Outputs:
    tensor, axes = needed(inputs, 0), numbers(inputs, 1, attributes, "axes") or []
    final = tensor.ndim + len(axes)
    for axis in sorted(a + final if a < 0 else a for a in axes):
        tensor = tensor.unsqueeze(axis)
    return (tensor,)


def _concat(inputs: Inputs, attributes: Attributes) -> Outputs:
    return (torch.cat(together(*(needed(inputs, i) for i in range(len(inputs)))), attributes["axis"]),)


def _split(inputs: Inputs, attributes: Attributes) -> Outputs:
    tensor, axis = needed(inputs, 0), attributes.get("axis", 0)
    sizes = numbers(inputs, 1, attributes, "split")
    if sizes is None:
        return tuple(tensor.tensor_split(attributes["num_outputs"], axis))
    return tuple(tensor.split(sizes, axis))


def _slice(inputs: Inputs, attributes: Attributes) -> Outputs:
    tensor = needed(inputs, 0)
    starts, ends = numbers(inputs, 1, attributes, "starts") or [], numbers(inputs, 2, attributes, "ends") or []
    axes = numbers(inputs, 3, attributes, "axes") or list(range(len(starts)))
    steps = numbers(inputs, 4, attributes, "steps") or [1] * len(starts)
    if min(steps) < 1:
        raise UsageError(f"ONNX Slice with steps {steps} is not supported, only forward ones")
    index = [slice(None)] * tensor.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, end, step)
    return (tensor[tuple(index)],)


def _gather(inputs: Inputs, attributes: Attributes) -> Outputs:
    tensor, index = together(needed(inputs, 0), needed(inputs, 1))
    axis = attributes.get("axis", 0) % tensor.ndim
    flat = index.reshape(-1) % tensor.shape[axis]
    rows = tensor.index_select(axis, flat)
    return (rows.reshape((*tensor.shape[:axis], *index.shape, *tensor.shape[axis + 1 :])),)


def _gather_elements(inputs: Inputs, attributes: Attributes) -> Outputs:
    tensor, index = together(needed(inputs, 0), needed(inputs, 1))
    axis = attributes.get("axis", 0)
    return (tensor.gather(axis, index % tensor.shape[axis]),)


def _tile(inputs: Inputs, attributes: Attributes) -> Outputs:
    return (needed(inputs, 0).repeat([int(v) for v in needed(inputs, 1).tolist()]),)


def _expand(inputs: Inputs, attributes: Attributes) -> Outputs:
    tensor = needed(inputs, 0)
    return (tensor.expand(torch.broadcast_shapes(tensor.shape, [int(v) for v in needed(inputs, 1).tolist()])),)


def _constant_of_shape(inputs: Inputs, attributes: Attributes) -> Outputs:
    value = attributes.get("value", torch.zeros(1))
    return (value.reshape(()).expand([int(v) for v in needed(inputs, 0).tolist()]).clone(),)


def _range(inputs: Inputs, attributes: Attributes) -> Outputs:
    start, stop, step = (needed(inputs, i) for i in range(3))
    return (torch.arange(start.item(), stop.item(), step.item(), dtype=start.dtype, device=start.device),)


def _pad(inputs: Inputs, attributes: Attributes) -> Outputs:
    tensor, pads = needed(inputs, 0), numbers(inputs, 1, attributes, "pads") or []
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}
    mode = attributes.get("mode", b"constant").decode()
    axes = numbers(inputs, 3, {}, "") or list(range(tensor.ndim))
    if mode not in modes:
        raise UsageError(f"ONNX Pad in mode '{mode}' is not supported")
    sides = [[0, 0] for _ in range(tensor.ndim)]
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        sides[axis] = [before, after]
    while mode != "constant" and sides and sides[0] == [0, 0]:
        sides.pop(0)  # torch takes these modes on the last axes alone
    value = optional(inputs, 2)
    flat = [v for pair in reversed(sides) for v in pair]
    return (F.pad(tensor, flat, modes[mode], 0.0 if value is None else value.item()),)


def _top_k(inputs: Inputs, attributes: Attributes) -> Outputs:
    count = int(needed(inputs, 1).reshape(-1)[0])
    largest, ordered = bool(attributes.get("largest", 1)), bool(attributes.get("sorted", 1))
    top = needed(inputs, 0).topk(count, attributes.get("axis", -1), largest, ordered)
    return top.values, top.indices


def _arg_max(inputs: Inputs, attributes: Attributes) -> Outputs:
    return (needed(inputs, 0).argmax(attributes.get("axis", 0), bool(attributes.get("keepdims", 1))),)


SHAPES: dict[str, Operator] = {
    "ArgMax": _arg_max,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "TopK": _top_k,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
