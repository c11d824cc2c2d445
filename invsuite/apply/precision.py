"""Tensors of an inverse in fewer bytes: as 16-bit floats, or as 8-bit integers with a scale per row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

Precision = Literal["float32", "float16", "int8"]

SCALE = "#scale"  # what follows the name of a tensor of 8-bit integers in that of its scales
LEAST = 4096  # values of a matrix that is worth 8-bit integers
LARGEST = 127  # of the integers that are used
HALF = (torch.float16, torch.bfloat16)


def reduced(name: str, tensor: torch.Tensor, precision: Precision, least: int = LEAST) -> dict[str, torch.Tensor]:
    """Return a tensor as it is stored, by name; float32 alone is reduced, and to integers only a large matrix is.

    Args:
        name: of the tensor.
        tensor: any.
        precision: to store it in.
        least: values of a matrix that is stored as integers; a smaller one is stored as 16-bit floats.
    """
    if tensor.dtype != torch.float32 or precision == "float32":
        return {name: tensor}
    if precision == "int8" and tensor.ndim >= 2 and tensor.numel() >= least:
        scale = tensor.abs().amax(tuple(range(1, tensor.ndim)), keepdim=True).clamp(min=1e-30) / LARGEST
        return {name: (tensor / scale).round().to(torch.int8), f"{name}{SCALE}": scale}
    half = tensor.half()
    return {name: half if bool(half.isfinite().all()) else tensor}


def whole(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return stored tensors as the method gave them: those of fewer bytes are float32 again."""
    full = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE):
            continue
        scale = tensors.get(f"{name}{SCALE}")
        full[name] = tensor.float() * scale if scale is not None else tensor.float() if tensor.dtype in HALF else tensor
    return full
