"""What a colour edit moves in the representation, whatever an inverse makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from invsuite.data.split import Split
from invsuite.metrics.base import MODEL_BATCH, Edits, Scoring
from invsuite.metrics.colour import Measured, TurnedHue
from invsuite.metrics.consistency import PAIRED
from invsuite.models.base import Model
from invsuite.registry import register


def representations(model: Model, stage: str, images: torch.Tensor) -> torch.Tensor:
    """Representations (N, values) at ``stage`` of images (N, 3, H, W) in [0, 1], in float64."""
    parts = [model.represent(part.to(model.device), [stage])[stage].tensor for part in images.split(MODEL_BATCH)]
    return torch.cat(parts).flatten(1).double()


def pair_distance(model: Model, stage: str, fit: Split) -> float:
    """Mean Euclidean distance between the representations of any two of the first `PAIRED` fit images: what they are
    as they stand, while `invsuite.metrics.consistency.Scale` standardises channels."""
    return float(torch.pdist(representations(model, stage, fit.images(slice(0, PAIRED)))).mean())


@register.metric
@dataclass(frozen=True)
class RepresentationShift(TurnedHue):
    """One object's hue is turned: how far does the representation move, as a share of the mean distance between the
    representations of two random images? It depends on the stage alone, not on the method.
    """

    name = "representation_shift"
    label = "Representation shift"
    direction = "higher"
    tolerance = 0.01

    def measure(self, edits: Edits, scoring: Scoring) -> Measured:
        before, after = (
            representations(scoring.model, scoring.stage, images) for images in (edits.images, edits.edited)
        )
        model, stage = scoring.model, scoring.stage
        usual = scoring.cached_per_model(
            ("pair distance", stage), lambda: pair_distance(model, stage, scoring.subject.fit)
        )
        return Measured((after - before).norm(dim=1) / usual)
