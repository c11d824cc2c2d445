"""The chains of image classifiers of transformers, of any family that gives its hidden states."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import nn

from invsuite.errors import UsageError


class Classifier(nn.Module):
    """A library's network on normalised images, which answers with logits, or without a head with one embedding.

    Args:
        network: a ``...ForImageClassification``, or a ``...Model``.
        size: (H, W) of the images, for which position embeddings are resampled where that must be asked for.

    Attributes:
        num_classes: of the logits; 0 for an embedding.
    """

    network: Any

    def __init__(self, network: Any, size: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        head = type(network).__name__.endswith("Model")
        self.num_classes = 0 if head else int(network.config.num_labels)
        side = getattr(network.config, "image_size", None)
        own = tuple(side) if isinstance(side, list | tuple) else (side, side)
        resamples = "interpolate_pos_encoding" in signature(network.forward).parameters
        self._options = {"interpolate_pos_encoding": True} if resamples and own != size else {}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits or embeddings (B, values) of normalised images (B, 3, H, W)."""
        outputs = self.network(pixel_values=images, **self._options)
        answer = outputs.logits if self.num_classes else outputs.pooler_output
        if answer is None:
            raise UsageError(
                f"{type(self.network).__name__} has no pooled embedding: save it with its pooler or a head"
            )
        return torch.as_tensor(answer).flatten(1)


def hidden_maps(classifier: Any, images: torch.Tensor, number: int | None = None) -> list[torch.Tensor]:
    """Return the hidden states as maps (B, channels, h, w), or one of them; tokens without a place are left out."""
    outputs = classifier.network(pixel_values=images, output_hidden_states=True, **classifier._options)
    states = getattr(outputs, "reshaped_hidden_states", None) or outputs.hidden_states
    if not states:
        raise UsageError(f"{type(classifier.network).__name__} gives no hidden states")
    chosen = states if number is None else states[number : number + 1]
    return [_as_map(state, classifier.network.config, images) for state in chosen]


def _as_map(state: torch.Tensor, config: Any, images: torch.Tensor) -> torch.Tensor:
    if state.dim() == 4:
        return state
    side = getattr(config, "patch_size", None)
    if side is None:
        raise UsageError(f"the tokens of a '{config.model_type}' have no grid: its configuration has no patch_size")
    patch = side if isinstance(side, list | tuple) else (side, side)
    height, width = images.shape[2:]
    if height % patch[0] or width % patch[1]:
        raise UsageError(f"{height}x{width} are no whole patches of {patch[0]}x{patch[1]}")
    grid = height // patch[0], width // patch[1]
    prefix = state.shape[1] - grid[0] * grid[1]
    if prefix < 0:
        raise UsageError(f"{state.shape[1]} tokens of a '{config.model_type}' are fewer than its {grid} patches")
    return state[:, prefix:].transpose(1, 2).unflatten(2, grid)
