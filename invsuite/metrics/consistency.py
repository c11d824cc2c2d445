"""Consistency: does a network see in the reconstruction what it saw in the image?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from invsuite._system.spill import TensorLike, concatenate, memory_budget
from invsuite.data.split import Split
from invsuite.errors import InvsuiteError, NotApplicable
from invsuite.metrics.base import MODEL_BATCH, Metric, Scoring, Values, batches
from invsuite.models.base import Layout, Model
from invsuite.registry import register

PAIRED = 64  # fit images whose pairs give the distance of random images
DEAD = 0.1  # of the median spread: what a channel that hardly varies is divided by


@dataclass(frozen=True)
class Scale:
    """What distances at one stage are measured in.

    Attributes:
        layout: of the stage.
        spread: each channel's standard deviation between images at the same place, never less than a tenth of the
            median channel's, so that a channel that is dead on real images cannot outweigh the others.
        unit: mean distance of two random images, once every channel is divided by its spread.
    """

    layout: Layout
    spread: torch.Tensor
    unit: float

    def distances(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Return the distances (B,) of representations of this layout; 1 is that of random images."""
        square = _channel_squares(first, second, self.layout)
        return (square / self.spread.square()).mean(1).sqrt() / self.unit


def _channel_squares(a: torch.Tensor, b: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Return squared differences, mean over places (or queries): (B, channels)."""
    square = (a - b).square()
    return square.mean((2, 3)) if layout.kind == "map" else square.mean(1)


def resized(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return images (B, 3, H, W) in [0, 1] at ``size``, antialiased bicubic; untouched if they have it."""
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def measure_scales(model: Model, stages: Sequence[str], fit: Split) -> dict[str, Scale]:
    """Return the scale of every stage, from pairs of fit images drawn at random once and for all.

    Raises:
        NotApplicable: if there are no two fit images, or they all look the same to the model at a stage.
    """
    rows = torch.randperm(len(fit), generator=torch.Generator().manual_seed(0))[:PAIRED].tolist()
    if len(rows) < 2:
        raise NotApplicable("distances of random images need two fit images")
    squares: dict[str, list[torch.Tensor]] = {stage: [] for stage in stages}
    for part in fit.images(rows).tensor_split(-(-len(rows) // MODEL_BATCH)):
        images = resized(part.to(model.device), model.image_size)
        for stage, one in model.represent(images, stages).items():
            squares[stage].append(_channel_squares(one.tensor, one.tensor.roll(1, 0), one.layout))
    scales = {}
    for stage, parts in squares.items():
        pairs = torch.cat(parts)
        spread = (pairs.mean(0) / 2).sqrt()
        if not bool(spread.any()):
            raise NotApplicable(f"'{model.name}' represents all fit images the same at '{stage}'")
        spread = spread.clamp(min=DEAD * float(spread[spread > 0].median()))
        unit = float((pairs / spread.square()).mean(1).sqrt().mean())
        scales[stage] = Scale(model.layout(stage), spread, unit)
    return scales


def represented(model: Model, stage: str, images: TensorLike) -> Iterator[torch.Tensor]:
    """Yield the representations (B, ...) at ``stage`` of images (N, 3, H, W), a batch at a time."""
    for (part,) in batches(images):
        yield model.represent(resized(part, model.image_size), [stage])[stage].tensor


def errors(scoring: Scoring, model: Model, stage: str, scale: Scale) -> list[float | None]:
    """Return the distance of ``model``'s representations of reconstructions and images at ``stage``, per image.

    Those of the images are kept for the other cells where memory has room.
    """
    truth: Iterable[torch.Tensor]
    if 4 * len(scoring.images) * model.layout(stage).values <= memory_budget(model.device):
        key = ("represented", model.origin.sha256, stage)
        truth = scoring.cached_per_model(key, lambda: list(represented(model, stage, scoring.images)))
    else:
        truth = represented(model, stage, scoring.images)
    reconstructed = represented(model, stage, scoring.reconstructions)
    distances = (scale.distances(a, b) for a, b in zip(reconstructed, truth, strict=True))
    values: list[float | None] = concatenate(distances, len(scoring.images)).tolist()
    return values


@register.metric
@dataclass(frozen=True)
class FeatureError(Metric):
    r"""Distance of what the model holds for the reconstruction from what it holds for the image, at the inverted stage.

    Channels are standardised, and the mean distance of random images is the unit: 1 is any other image, 0 is the same.

    Formula:
        $$ \frac{1}{u} \sqrt{ \frac{1}{C} \sum_{c} \frac{\overline{ \left( f_s(\hat{x})_c - f_s(x)_c \right)^2 }}
        {\sigma_c^2} } $$

        The bar is the mean over places, $\sigma_c$ the spread of channel $c$ between fit images, $u$ the mean of the
        same distance over random pairs of fit images.
    Range:
        0 upwards. Above 1 occurs: a picture unlike any photo is further away than another photo.
    Ceiling:
        0.
    Floor:
        1: any other image.
    Undefined:
        Where the fit images are fewer than two, or all look the same to the model.
    Pitfalls:
        Methods that use the model's own gradients can satisfy the model with a picture that nobody would recognise: a
        low value then says that the model is fooled, not that the image came back. Read it with the witness error.
    Source:
        This suite; the unnormalised distance is the loss of Mahendran & Vedaldi 2015, arXiv 1412.0035.
    """

    group = "Consistency"
    name = "feature_error"
    label = "Feature error"
    direction = "lower"
    tolerance = 0.03
    headline = True

    def compute(self, scoring: Scoring) -> Values:
        model, fit = scoring.model, scoring.subject.fit
        stages = tuple(dict.fromkeys((*scoring.subject.stages, scoring.stage)))
        scales = scoring.cached_per_model(("scales", stages), lambda: measure_scales(model, stages, fit))
        return Values(errors(scoring, model, scoring.stage, scales[scoring.stage]), ceiling=0.0, floor=1.0)


@register.metric
@dataclass(frozen=True)
class WitnessError(Metric):
    r"""The feature error under a second network that the method never saw, the suite's ``witness``.

    At the witness's last stage before its predictions. 1 is any other image, 0 is the same.

    Formula:
        That of the feature error, with the witness in the model's place.
    Range:
        0 upwards.
    Ceiling:
        0.
    Floor:
        1: any other image.
    Undefined:
        Where the suite names no witness.
    Pitfalls:
        It depends on the witness: a detector notices other losses than a classifier.
    Source:
        This suite.
    """

    group = "Consistency"
    name = "witness_error"
    label = "Witness error"
    direction = "lower"
    tolerance = 0.03
    uses_witness = True

    def compute(self, scoring: Scoring) -> Values:
        witness, fit = scoring.subject.witness, scoring.subject.fit
        if isinstance(witness, InvsuiteError):
            raise witness
        stage = witness.stages[-2]
        scales = scoring.cached_per_model("witness scales", lambda: measure_scales(witness, [stage], fit))
        origin = witness.origin
        facts = {"witness": origin.source, "witness_sha256": origin.sha256, "witness_stage": stage}
        return Values(errors(scoring, witness, stage, scales[stage]), ceiling=0.0, floor=1.0, facts=facts)
