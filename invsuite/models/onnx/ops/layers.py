"""Operators that mix places or channels: convolutions, products, normalisations, pooling, sampling."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from invsuite.errors import UsageError
from invsuite.models.onnx.ops.types import Attributes, Inputs, Operator, needed, numbers, optional

Outputs = tuple[torch.Tensor, ...]


def _padded(tensor: torch.Tensor, attributes: Attributes, value: float = 0.0) -> torch.Tensor:
    """Return ``tensor`` (B, C, ...) padded as a convolution's or pool's ``pads`` (begins, then ends) say."""
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise UsageError(f"ONNX auto_pad '{attributes['auto_pad'].decode()}' is not supported: export explicit pads")
    axes = tensor.ndim - 2
    pads = attributes.get("pads", [0] * 2 * axes)
    if not any(pads):
        return tensor
    return F.pad(tensor, [pads[i + side * axes] for i in reversed(range(axes)) for side in (0, 1)], value=value)


def _conv(inputs: Inputs, attributes: Attributes) -> Outputs:
    functions = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
    tensor, weight = _padded(needed(inputs, 0), attributes), needed(inputs, 1)
    axes = weight.ndim - 2
    stride, dilation = attributes.get("strides", [1] * axes), attributes.get("dilations", [1] * axes)
    run = functions[weight.ndim]
    return (run(tensor, weight, optional(inputs, 2), stride, dilation=dilation, groups=attributes.get("group", 1)),)


def _conv_transpose(inputs: Inputs, attributes: Attributes) -> Outputs:
    weight = needed(inputs, 1)
    axes = weight.ndim - 2
    pads = attributes.get("pads", [0] * 2 * axes)
    if weight.ndim != 4 or pads[:axes] != pads[axes:] or "output_shape" in attributes:
        raise UsageError("ONNX ConvTranspose is supported in two dimensions, with equal pads and no output_shape")
    return (
        F.conv_transpose2d(
            needed(inputs, 0),
            weight,
            optional(inputs, 2),
            attributes.get("strides", [1, 1]),
            pads[:axes],
            attributes.get("output_padding", [0, 0]),
            attributes.get("group", 1),
            attributes.get("dilations", [1, 1]),
        ),
    )


def _max_pool(inputs: Inputs, attributes: Attributes) -> Outputs:
    kernel = attributes["kernel_shape"]
    tensor = _padded(needed(inputs, 0), attributes, float("-inf"))
    return (
        F.max_pool2d(
            tensor,
            kernel,
            attributes.get("strides", [1] * len(kernel)),
            dilation=attributes.get("dilations", [1] * len(kernel)),
            ceil_mode=bool(attributes.get("ceil_mode", 0)),
        ),
    )


def _average_pool(inputs: Inputs, attributes: Attributes) -> Outputs:
    kernel = attributes["kernel_shape"]
    pads = attributes.get("pads", [0] * 2 * len(kernel))
    if pads[: len(kernel)] != pads[len(kernel) :] or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise UsageError("ONNX AveragePool is supported with explicit pads, equal before and after")
    return (
        F.avg_pool2d(
            needed(inputs, 0),
            kernel,
            attributes.get("strides", [1] * len(kernel)),
            pads[: len(kernel)],
            bool(attributes.get("ceil_mode", 0)),
            bool(attributes.get("count_include_pad", 0)),
        ),
    )


def _global(function: Callable[..., torch.Tensor]) -> Operator:
    def run(inputs: Inputs, attributes: Attributes) -> Outputs:
        tensor = needed(inputs, 0)
        return (function(tensor, tuple(range(2, tensor.ndim)), keepdim=True),)

    return run


def _reduce(function: Callable[..., torch.Tensor]) -> Operator:
    def run(inputs: Inputs, attributes: Attributes) -> Outputs:
        tensor, axes = needed(inputs, 0), numbers(inputs, 1, attributes, "axes")
        if not axes:
            if attributes.get("noop_with_empty_axes", 0):
                return (tensor,)
            axes = list(range(tensor.ndim))
        return (function(tensor, tuple(axes), keepdim=bool(attributes.get("keepdims", 1))),)

    return run


def _length(tensor: torch.Tensor, axes: tuple[int, ...], keepdim: bool) -> torch.Tensor:
    return torch.linalg.vector_norm(tensor, 2, axes, keepdim)


def _gemm(inputs: Inputs, attributes: Attributes) -> Outputs:
    a, b, c = needed(inputs, 0), needed(inputs, 1), optional(inputs, 2)
    a = a.T if attributes.get("transA", 0) else a
    b = b.T if attributes.get("transB", 0) else b
    product = attributes.get("alpha", 1.0) * (a @ b)
    return (product if c is None else product + attributes.get("beta", 1.0) * c,)


def _matmul(inputs: Inputs, attributes: Attributes) -> Outputs:
    return (needed(inputs, 0) @ needed(inputs, 1),)


def _softmax(inputs: Inputs, attributes: Attributes) -> Outputs:
    return (needed(inputs, 0).softmax(attributes.get("axis", -1)),)


def _log_softmax(inputs: Inputs, attributes: Attributes) -> Outputs:
    return (needed(inputs, 0).log_softmax(attributes.get("axis", -1)),)


def _layer_norm(inputs: Inputs, attributes: Attributes) -> Outputs:
    tensor, axis = needed(inputs, 0), attributes.get("axis", -1)
    shape = tensor.shape[axis:]
    return (F.layer_norm(tensor, shape, needed(inputs, 1), optional(inputs, 2), attributes.get("epsilon", 1e-5)),)


def _batch_norm(inputs: Inputs, attributes: Attributes) -> Outputs:
    scale, bias, mean, variance = (needed(inputs, i) for i in range(1, 5))
    return (F.batch_norm(needed(inputs, 0), mean, variance, scale, bias, False, 0.0, attributes.get("epsilon", 1e-5)),)


def _instance_norm(inputs: Inputs, attributes: Attributes) -> Outputs:
    epsilon = attributes.get("epsilon", 1e-5)
    return (F.instance_norm(needed(inputs, 0), weight=needed(inputs, 1), bias=needed(inputs, 2), eps=epsilon),)


def _grid_sample(inputs: Inputs, attributes: Attributes) -> Outputs:
    mode = attributes.get("mode", b"bilinear").decode()
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    padding, corners = attributes.get("padding_mode", b"zeros").decode(), bool(attributes.get("align_corners", 0))
    return (F.grid_sample(needed(inputs, 0), needed(inputs, 1), mode, padding, corners),)


def _resize(inputs: Inputs, attributes: Attributes) -> Outputs:
    tensor, scales, sizes = needed(inputs, 0), optional(inputs, 2), optional(inputs, 3)
    where = attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
    mode = attributes.get("mode", b"nearest").decode()
    rounding = attributes.get("nearest_mode", b"round_prefer_floor").decode()
    if sizes is not None and sizes.numel():
        size = [int(v) for v in sizes.tolist()][2:]
    else:
        assert scales is not None
        size = [int(side * scale) for side, scale in zip(tensor.shape, scales.tolist(), strict=True)][2:]
    known = {
        ("nearest", "asymmetric"): ("nearest", None),
        ("linear", "half_pixel"): ("bilinear", False),
        ("linear", "pytorch_half_pixel"): ("bilinear", False),
        ("linear", "align_corners"): ("bilinear", True),
        ("cubic", "half_pixel"): ("bicubic", False),
        ("cubic", "pytorch_half_pixel"): ("bicubic", False),
        ("cubic", "align_corners"): ("bicubic", True),
    }
    fits = (mode, where) in known and tensor.ndim == 4 and not attributes.get("antialias", 0)
    if not fits or (mode == "nearest" and rounding != "floor"):
        raise UsageError(f"ONNX Resize in mode '{mode}', '{where}', '{rounding}' is not supported")
    name, corners = known[mode, where]
    return (F.interpolate(tensor, size, mode=name, align_corners=corners),)


def _einsum(inputs: Inputs, attributes: Attributes) -> Outputs:
    return (torch.einsum(attributes["equation"].decode(), *(needed(inputs, i) for i in range(len(inputs)))),)


LAYERS: dict[str, Operator] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GlobalAveragePool": _global(torch.mean),
    "GlobalMaxPool": _global(torch.amax),
    "GridSample": _grid_sample,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _log_softmax,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "ReduceL2": _reduce(_length),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceSum": _reduce(torch.sum),
    "Resize": _resize,
    "Softmax": _softmax,
}
