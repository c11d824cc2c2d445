"""Reading a node's inputs and attributes, which the operators' files share."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

from invsuite.errors import UsageError

SMALL = 4096  # values of constants that are kept on a GPU

Inputs = list[torch.Tensor | None]
Attributes = dict[str, Any]
Operator = Callable[[Inputs, Attributes], tuple[torch.Tensor, ...]]


def needed(inputs: Inputs, index: int) -> torch.Tensor:
    """Return input ``index``.

    Raises:
        UsageError: if it is left out.
    """
    tensor = optional(inputs, index)
    if tensor is None:
        raise UsageError(f"an ONNX node lacks its input {index}")
    return tensor


def optional(inputs: Inputs, index: int) -> torch.Tensor | None:
    """Return input ``index``, or None where it is left out."""
    return inputs[index] if index < len(inputs) else None


def numbers(inputs: Inputs, index: int, attributes: Attributes, name: str) -> list[int] | None:
    """Return whole numbers that older opsets hold as attribute ``name`` and newer ones as an input."""
    tensor = optional(inputs, index)
    if tensor is not None:
        return [int(v) for v in tensor.reshape(-1).tolist()]
    return [int(v) for v in attributes[name]] if name in attributes else None


def together(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return tensors on one device: small constants made of shapes, which stay on the CPU, follow the data."""
    device = next((t.device for t in tensors if t.device.type != "cpu"), None)
    return tensors if device is None else tuple(_there(t, device) for t in tensors)


def _there(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on ``device``; small ones of the CPU are taken there once, since a copy waits for the GPU."""
    if tensor.device == device or tensor.numel() > SMALL:
        return tensor.to(device)
    return _copied(tuple(tensor.flatten().tolist()), tensor.dtype, tuple(tensor.shape), device)


@lru_cache(maxsize=1024)
def _copied(
    values: tuple[float, ...], dtype: torch.dtype, shape: tuple[int, ...], device: torch.device
) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype).reshape(shape).to(device)
