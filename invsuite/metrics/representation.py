"""What a colour edit moves in the representation, whatever an inverse makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from invsuite.data.split import Split
from invsuite.metrics.base import Edits, Scoring
from invsuite.metrics.colour import Measured, TurnedHue
from invsuite.models.base import Model

FIT_IMAGES = 64  # whose pairs tell how far apart the representations of two random images are
BATCH = 32


def representations(model: Model, stage: str, images: torch.Tensor) -> torch.Tensor:
    """Representations (N, values) at ``stage`` of images (N, 3, H, W) in [0, 1], in float64."""
    parts = [model.represent(part.to(model.device), [stage])[stage].tensor for part in images.split(BATCH)]
    return torch.cat(parts).flatten(1).double()


_distances: dict[tuple[str, str, str, str], float] = {}  # by model, its weights, stage and split


def pair_distance(model: Model, stage: str, fit: Split) -> float:
    """Mean Euclidean distance between the representations of any two of the first `FIT_IMAGES` fit images."""
    key = (model.name, model.origin.sha256, stage, fit.digest())
    if key not in _distances:
        found = representations(model, stage, fit.images(slice(0, FIT_IMAGES)))
        _distances[key] = float(torch.pdist(found).mean())
    return _distances[key]


@dataclass(frozen=True)
class RepresentationShift(TurnedHue):
    """One object's hue is turned: how far does the representation move, as a share of the mean distance between the
    representations of two random images? It depends on the stage alone, not on the method.
    """

    name = "representation_shift"
    label = "Representation shift"
    direction = "higher"

    def measure(self, edits: Edits, scoring: Scoring) -> Measured:
        before, after = (
            representations(scoring.model, scoring.stage, images) for images in (edits.shown_before, edits.shown_after)
        )
        moved = (after - before).norm(dim=1)
        return Measured(moved / pair_distance(scoring.model, scoring.stage, scoring.fit))
