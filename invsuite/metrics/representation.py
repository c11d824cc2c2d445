"""How far a colour edit moves the representation, whatever an inverse makes of it."""

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
    """Return the representations (N, values) at ``stage`` of images (N, 3, H, W) in [0, 1], in float64."""
    parts = [model.represent(part.to(model.device), [stage])[stage].tensor for part in images.split(MODEL_BATCH)]
    return torch.cat(parts).flatten(1).double()


def pair_distance(model: Model, stage: str, fit: Split) -> float:
    """Return the mean Euclidean distance between the representations of any two of the first `PAIRED` fit images.

    Representations count as they stand, while `invsuite.metrics.consistency.Scale` standardises channels.
    """
    return float(torch.pdist(representations(model, stage, fit.images(slice(0, PAIRED)))).mean())


@register.metric
@dataclass(frozen=True)
class RepresentationShift(TurnedHue):
    r"""One object's hue is turned: how far does the representation move?

    As a share of the mean distance between the representations of two random images. It depends on the stage alone, not
    on the method.

    Formula:
        $$ \frac{\lVert f_s(x') - f_s(x) \rVert_2}{\mathbb{E}_{a \ne b} \lVert f_s(a) - f_s(b) \rVert_2} $$

        over pairs $a, b$ of 64 fit images.
    Range:
        0 upwards.
    Ceiling:
        None: it describes the model's stage, not a reconstruction.
    Floor:
        None.
    Pitfalls:
        It is the same number for every method of a stage, so it ranks nothing. Read it beside the gains: where the
        representation does not move, no inverse can follow.
    """

    name = "representation_shift"
    label = "Representation shift"
    direction = "higher"
    tolerance = 0.01

    def measure(self, edits: Edits, scoring: Scoring) -> Measured:
        model, stage, fit = scoring.model, scoring.stage, scoring.subject.fit
        before, after = (representations(model, stage, images) for images in (edits.images, edits.edited))
        usual = scoring.cached_per_model(("pair distance", stage), lambda: pair_distance(model, stage, fit))
        return Measured((after - before).norm(dim=1) / usual)
