"""Floors that are shown the image itself: levels on the scale, not methods of inversion (``uses_image``)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from invsuite.errors import NotApplicable, UsageError
from invsuite.methods import make_method
from invsuite.methods.base import Fitted, Inverter, Method, no_fit
from invsuite.methods.problem import Problem, derived_seed
from invsuite.models.base import Model, Representation
from invsuite.registry import register


class ColourOracle(Inverter):
    """Inverter that paints each image in its own mean colour."""

    uses_image = True

    def invert_with_image(self, representation: Representation, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3), keepdim=True).clamp(0, 1).expand_as(images).contiguous()


@register.method
@dataclass(frozen=True)
class MeanColour(Method):
    """Each image's own mean colour: what three values about an image are worth."""

    name = "mean-colour"
    family = "floor"
    source = "oracle: sees the image"
    uses_image = True

    def fit(self, problem: Problem) -> Fitted:
        return Fitted(ColourOracle(), no_fit(problem.stages))


def thumbnail_size(size: tuple[int, int], values: int) -> tuple[int, int]:
    """Height and width of the largest RGB image of at most ``values`` values in the shape of ``size`` (H, W).

    The aspect ratio is kept up to rounding down; it is never larger than ``size``.

    Raises:
        NotApplicable: for fewer than three values.
    """
    pixels = values // 3
    if pixels < 1:
        raise NotApplicable(f"{values} values hold no RGB pixel")
    if size[0] * size[1] <= pixels:
        return size
    height = min(size[0], pixels, max(1, math.isqrt(pixels * size[0] // size[1])))
    return height, min(size[1], pixels // height, max(1, height * size[1] // size[0]))


@dataclass(frozen=True)
class Thumbnails(Inverter):
    """Inverter that keeps a thumbnail of the image, as many values as the representation has at most."""

    sizes: dict[str, tuple[int, int]]

    uses_image = True

    def invert_with_image(self, representation: Representation, images: torch.Tensor) -> torch.Tensor:
        size = (images.shape[2], images.shape[3])
        thumbnail = self.sizes[representation.stage]
        if thumbnail == size:
            return images
        small = F.interpolate(images, thumbnail, mode="bicubic", antialias=True, align_corners=False)
        return F.interpolate(small.clamp(0, 1), size, mode="bicubic", align_corners=False).clamp(0, 1)


@register.method
@dataclass(frozen=True)
class Bicubic(Method):
    """The image shrunk to as many values as the representation has and enlarged again, both bicubically.

    Where the representation has as many values as the image, this is the image itself.
    """

    name = "bicubic"
    family = "floor"
    source = "oracle: sees the image (Keys 1981, doi 10.1109/TASSP.1981.1163711)"
    uses_image = True

    def fit(self, problem: Problem) -> Fitted:
        sizes: dict[str, tuple[int, int]] = {}
        refused: dict[str, NotApplicable] = {}
        notes: dict[str, dict[str, Any]] = {}
        for stage in problem.stages:
            values = problem.model.layout(stage).distinct
            try:
                sizes[stage] = thumbnail_size(problem.model.image_size, values)
            except NotApplicable as reason:
                refused[stage] = reason
            else:
                height, width = sizes[stage]
                notes[stage] = {"thumbnail": [height, width], "values": 3 * height * width, "of_values": values}
        return Fitted(Thumbnails(sizes), no_fit(problem.stages), notes, refused)


@dataclass(frozen=True)
class RandomisedModel(Inverter):
    """Inverter that lets the randomised model look at the image, and inverts what it holds of it."""

    model: Model
    inner: Inverter

    uses_image = True

    def invert_with_image(self, representation: Representation, images: torch.Tensor) -> torch.Tensor:
        stage = representation.stage
        return self.inner.invert(self.model.represent(images, [stage])[stage])


@register.method
@dataclass(frozen=True)
class RandomWeights(Method):
    """The inverse of the same model with random weights: what the architecture keeps of an image without training.

    A method is fitted on a re-initialised copy of the model and applied to that copy's representations of the scored
    images. The weights depend on the seed.

    Args:
        inverse: name of the method, at its default parameters.

    Raises:
        UsageError: if there is no such method, or it sees the image itself.
    """

    inverse: str = "ridge"

    name = "random-weights"
    family = "floor"
    source = "model randomisation test (Adebayo et al. 2018, arXiv 1810.03292)"
    uses_image = True
    seeded = True
    # those of the inverse at most: a cell's identity then covers too much rather than too little
    uses_cut = True
    uses_budget = True

    def __post_init__(self) -> None:
        if self._inverse().uses_image:
            raise UsageError(f"parameter 'inverse' of method 'random-weights': '{self.inverse}' is no inverse")

    def _inverse(self) -> Method:
        return make_method(self.inverse, {})

    def params(self) -> dict[str, Any]:
        """The inverse's version and parameters belong to this cell too."""
        inner = self._inverse()
        return super().params() | {"inverse_version": inner.version, "inverse_params": inner.params()}

    def fit(self, problem: Problem) -> Fitted:
        model = problem.model.randomised(derived_seed(problem.seed, self.name))
        fitted = self._inverse().fit(replace(problem, model=model))
        notes = {s: fitted.notes.get(s, {}) | {"weights": model.origin.sha256} for s in problem.stages}
        return Fitted(RandomisedModel(model, fitted.inverter), fitted.cost, notes, fitted.refused)
