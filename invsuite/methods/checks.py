"""Checks of reconstructions: what they can show about the method that made them, whatever the method is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import nn

from invsuite._system.spill import TensorLike
from invsuite.errors import DataError

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)  # do nothing of their own, so their mode means nothing
FEW = 4  # images below which nothing is concluded from all of them agreeing
SWAPPED = 0.7  # error with red and blue swapped, over the error as it is, below which they are swapped
EXTREMES = 3  # values at exactly 0 and at exactly 1 that a rescaled image has at most; clamped ones have many
BATCH = 64  # images looked at together
SAME = 1e-6  # largest difference of pixels between reconstructions that are one and the same image


def check_inverter(inverter: object, what: str) -> None:
    """Raise an error if an inverse network is in train mode, which none may be when it is scored.

    Raises:
        DataError: naming the part that is in train mode.
    """
    for network in _networks(inverter):
        for name, part in network.named_modules():
            if part.training and not isinstance(part, CONTAINERS):
                raise DataError(f"{what}: inverse network in train mode at '{name or 'root'}': call eval()")


def check_reconstructions(reconstructions: TensorLike, images: TensorLike, what: str) -> list[str]:
    """Look at all reconstructions of unedited images together; from fewer than four, nothing is concluded.

    Args:
        reconstructions: (N, 3, H, W) in [0, 1].
        images: what they reconstruct, same shape and range.
        what: named in errors.

    Returns:
        Flags for the record: all reconstructions are one image, as those of a floor or of a network that collapsed.

    Raises:
        DataError: where each was stretched to its own minimum and maximum, or red and blue are swapped.
    """
    if len(reconstructions) < FEW:
        return []
    if not _stretched(images) and _stretched(reconstructions):
        raise DataError(f"{what}: each spans exactly [0, 1]: rescaled by its own minimum and maximum; clamp instead")
    error = swapped = 0.0
    for part, true in zip(reconstructions.split(BATCH), images.split(BATCH), strict=True):
        error += float((part - true).square().sum())
        swapped += float((part.flip(1) - true).square().sum())
    if swapped < SWAPPED * error:
        error, swapped = (value / reconstructions.shape.numel() for value in (error, swapped))
        raise DataError(
            f"{what}: the error falls from {error:.4f} to {swapped:.4f} with red and blue swapped: "
            "channels are BGR, expected RGB"
        )
    if _same(reconstructions) and not _same(images):
        return [f"all {len(reconstructions)} reconstructions are the same image, whatever the representation"]
    return []


def _same(images: TensorLike) -> bool:
    first = images[:1]
    return all(float((part - first).abs().max()) < SAME for part in images.split(BATCH))


def _stretched(images: TensorLike) -> bool:
    """Tell whether every image has its least value at exactly 0 and its greatest at exactly 1, in hardly any pixel."""
    return all(map(_spans, images.split(BATCH)))


def _spans(images: torch.Tensor) -> bool:
    flat = images.flatten(1)
    lowest, highest = (flat == 0).sum(1), (flat == 1).sum(1)
    return bool(((lowest > 0) & (lowest <= EXTREMES) & (highest > 0) & (highest <= EXTREMES)).all())


def _networks(holder: Any) -> Iterator[nn.Module]:
    """Yield the networks an inverter holds, in fields, mappings and sequences."""
    if isinstance(holder, nn.Module):
        yield holder
    elif isinstance(holder, Mapping):
        for value in holder.values():
            yield from _networks(value)
    elif isinstance(holder, list | tuple):
        for value in holder:
            yield from _networks(value)
    elif is_dataclass(holder) and not isinstance(holder, type):
        for item in fields(holder):
            yield from _networks(getattr(holder, item.name))
