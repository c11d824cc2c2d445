"""Task: what a detector still finds in the reconstructions, against the labelled objects and against its own boxes.

Precision and recall are statistics of all images together: their intervals resample images and compute them anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from invsuite._system.spill import TensorLike
from invsuite.data.base import Sample
from invsuite.errors import NotApplicable
from invsuite.metrics.base import Metric, Scoring, Values, batches
from invsuite.metrics.boxes import Array, Boxes, Matches, Ranked, average_precision, average_recall, match
from invsuite.models.base import Model, Prediction
from invsuite.registry import register
from invsuite.results.statistics import pool

Average = Callable[[Sequence[Ranked], Array], Array]


def found_boxes(answer: Prediction, size: tuple[int, int]) -> list[Boxes]:
    """One box a query, of its likeliest class, as DETR is evaluated; labels are the detector's own.

    Args:
        answer: of a detector; a box's score is that of its likeliest class, "no object" left out.
        size: (H, W) of the images in pixels.
    """
    assert answer.boxes is not None
    logits = answer.logits.double()
    scores, labels = (logits.softmax(-1)[..., :-1] if answer.no_object else logits.sigmoid()).max(-1)
    height, width = size
    scaled = answer.boxes.double() * answer.boxes.new_tensor([width, height, width, height])
    centre, extent = scaled[..., :2], scaled[..., 2:]
    corners = torch.cat([centre - extent / 2, centre + extent / 2], -1)
    parts = [part.cpu().numpy() for part in (corners, labels, scores, extent.prod(-1))]
    return [Boxes(*image) for image in zip(*parts, strict=True)]


def boxes_in(model: Model, images: TensorLike) -> list[Boxes]:
    """The detector's boxes in images (N, 3, H, W) in [0, 1], a batch at a time."""
    size = model.image_size
    return [boxes for (part,) in batches(images) for boxes in found_boxes(model.predict(part), size)]


def seen_boxes(scoring: Scoring) -> tuple[list[Boxes], list[Boxes]]:
    """The detector's boxes in the scored images and in their reconstructions."""
    return scoring.for_both("seen boxes", partial(boxes_in, scoring.model))


def true_boxes(samples: Sequence[Sample]) -> list[Boxes]:
    """The labelled objects, with the data's own labels."""
    found = []
    for sample in samples:
        items = sample.instances
        corners = np.array([item.box for item in items], dtype=np.float64).reshape(-1, 4)
        labels = np.array([item.label for item in items], dtype=np.int64)
        areas = np.array([item.mask.sum() for item in items], dtype=np.float64)
        found.append(Boxes(corners, labels, np.ones(len(items)), areas))
    return found


def _require_detector(scoring: Scoring) -> None:
    if scoring.model.task != "detection":
        raise NotApplicable(f"'{scoring.model.name}' is a classifier: it draws no boxes")


def shared_classes(scoring: Scoring, truth: Sequence[Boxes]) -> list[int]:
    """The detector's class of each label of the scored data, -1 for labels that none of the true boxes has.

    Raises:
        NotApplicable: for images without labelled objects, and where an object's class is not one of the detector's, by
            name.
    """
    seen = {label for boxes in truth for label in boxes.labels.tolist()}
    if not seen:
        raise NotApplicable("the scored images have no labelled objects")
    unknown = sorted(
        scoring.subject.classes[label] for label in seen if scoring.subject.classes[label] not in scoring.model.classes
    )
    if unknown:
        some = ", ".join(unknown[:3])
        raise NotApplicable(
            f"{len(unknown)} classes of the scored objects ({some}) are not among those of '{scoring.model.name}'"
        )
    return [scoring.model.classes.index(name) if i in seen else -1 for i, name in enumerate(scoring.subject.classes)]


def _only(boxes: Sequence[Boxes], classes: NDArray[np.int64]) -> list[Boxes]:
    """The boxes of ``classes``: others are no mistake where nobody labelled them."""
    kept = []
    for image in boxes:
        rows = np.isin(image.labels, classes)
        kept.append(Boxes(image.corners[rows], image.labels[rows], image.scores[rows], image.areas[rows]))
    return kept


@dataclass(frozen=True)
class Matched:
    """Boxes found in the reconstructions, in the images themselves, and in the reconstruction of the image before,
    each matched with the same truth."""

    made: Matches
    copied: Matches
    other: Matches | None


def against_truth(scoring: Scoring) -> Matched:
    """Matches with the labelled objects; raises as `shared_classes`, and for a classifier."""
    _require_detector(scoring)
    truth = scoring.cached_per_model("true boxes", lambda: true_boxes(scoring.samples))
    label_of = np.array(shared_classes(scoring, truth))
    size, known = scoring.model.image_size, label_of[label_of >= 0]
    truth = [replace(boxes, labels=label_of[boxes.labels]) for boxes in truth]
    original, made = (_only(boxes, known) for boxes in seen_boxes(scoring))
    copied = scoring.cached_per_model("copied boxes", lambda: match(truth, original, size))
    other = match(truth, made[-1:] + made[:-1], size) if len(made) > 1 else None
    return Matched(match(truth, made, size), copied, other)


def _values(matched: Matched, size: str, average: Average, rows: Sequence[int], count: int) -> Values:
    """``average`` over the images of ``rows``, with its ceiling and floor; undefined for the others."""
    index = np.array(rows)

    def statistic(matches: Matches, weights: Array) -> Array:
        every = np.zeros((len(weights), count))
        every[:, index] = weights
        return average(matches[size], every)

    found = pool(lambda weights: statistic(matched.made, weights), len(rows))
    once = np.ones((1, len(rows)))
    per_image: list[float | None] = [None] * count
    for row, value in zip(rows, found.contributions, strict=True):
        per_image[row] = value
    ceiling = float(statistic(matched.copied, once)[0])
    floor = None if matched.other is None else float(statistic(matched.other, once)[0])
    return Values(per_image, ceiling=ceiling, floor=floor, interval=found.interval)


@register.metric
@dataclass(frozen=True)
class DetectorAp(Metric):
    """COCO average precision (IoU 0.50 to 0.95) of the detector's boxes in the reconstructions against the labelled
    objects. The ceiling is its AP on the images themselves, the floor on other images' reconstructions."""

    group = "Consistency"
    name = "detector_ap"
    label = "Detector AP"
    direction = "higher"
    pooled = True
    tolerance = 0.05

    def compute(self, scoring: Scoring) -> Values:
        matched = scoring.cached_per_cell("boxes against truth", lambda: against_truth(scoring))
        count = len(scoring.samples)
        return _values(matched, "any", average_precision, range(count), count)


@register.metric
@dataclass(frozen=True)
class DetectorSelfAp(Metric):
    """COCO average precision of the detector's boxes in the reconstructions against its own boxes in the images, those
    with a confidence of at least one half. A copy scores 1; the floor is that of other images' reconstructions."""

    confident: float = 0.5

    group = "Consistency"
    name = "detector_self_ap"
    label = "Detector self-AP"
    direction = "higher"
    pooled = True
    tolerance = 0.05

    def compute(self, scoring: Scoring) -> Values:
        _require_detector(scoring)
        size = scoring.model.image_size
        original, made = seen_boxes(scoring)
        truth = []
        for image in original:
            rows = image.scores >= self.confident
            truth.append(Boxes(image.corners[rows], image.labels[rows], image.scores[rows], image.areas[rows]))
        if not any(len(image) for image in truth):
            raise NotApplicable(f"'{scoring.model.name}' is confident of no box in the scored images")
        count = len(made)
        matched = Matched(
            match(truth, made, size),
            scoring.cached_per_model(("own boxes", self.confident), lambda: match(truth, original, size)),
            match(truth, made[-1:] + made[:-1], size) if count > 1 else None,
        )
        return _values(matched, "any", average_precision, range(count), count)


@register.metric
@dataclass(frozen=True)
class DetectorRecallSmall(Metric):
    """COCO average recall (IoU 0.50 to 0.95, 100 boxes) of labelled objects that cover less than 0.33 % of the image
    (32 px squared in a photo of 640 x 480). Ceiling and floor as for detector AP."""

    group = "Consistency"
    name = "detector_recall_small"
    label = "Recall small"
    direction = "higher"
    pooled = True
    size: ClassVar[str] = "small"
    tolerance = 0.05

    def compute(self, scoring: Scoring) -> Values:
        matched = scoring.cached_per_cell("boxes against truth", lambda: against_truth(scoring))
        count = len(scoring.samples)
        objects = sum((ranked.objects for ranked in matched.made[self.size]), np.zeros(count))
        rows = np.flatnonzero(objects).tolist()
        if not rows:
            return Values([None] * count, f"no scored object is {self.size}")
        return _values(matched, self.size, average_recall, rows, count)


@register.metric
@dataclass(frozen=True)
class DetectorRecallMedium(DetectorRecallSmall):
    """COCO average recall of labelled objects that cover 0.33 % to 3 % of the image (up to 96 px squared in a photo of
    640 x 480). Ceiling and floor as for detector AP."""

    name = "detector_recall_medium"
    label = "Recall medium"
    size = "medium"


@register.metric
@dataclass(frozen=True)
class DetectorRecallLarge(DetectorRecallSmall):
    """COCO average recall of labelled objects that cover more than 3 % of the image. Ceiling and floor as for detector
    AP."""

    name = "detector_recall_large"
    label = "Recall large"
    size = "large"
