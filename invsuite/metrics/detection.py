"""Task: what a detector still sees in the reconstructions, against the labelled objects and against its own boxes.

Precision and recall are statistics of all images together: their intervals resample images and compute them anew.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch

from invsuite._system.spill import TensorLike
from invsuite.data.base import BoxedObject, Instance, Sample
from invsuite.errors import NotApplicable
from invsuite.metrics.base import Metric, Scoring, Values, batches, per_image
from invsuite.metrics.boxes import Array, Boxes, Matches, Ranked, average_precision, average_recall, match
from invsuite.models.base import Model, Prediction
from invsuite.registry import register
from invsuite.results.statistics import pool

Average = Callable[[Sequence[Ranked], Array], Array]


def boxes_of(answer: Prediction, size: tuple[int, int]) -> list[Boxes]:
    """Return one box per query, of its likeliest class, as DETR is evaluated; labels are the detector's own.

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
    """Return the detector's boxes in images (N, 3, H, W) in [0, 1], a batch at a time."""
    size = model.image_size
    return [boxes for (part,) in batches(images) for boxes in boxes_of(model.predict(part), size)]


def _require_detector(model: Model) -> None:
    if model.task != "detection":
        raise NotApplicable(f"'{model.name}' is a classifier: it draws no boxes")


def _detected(scoring: Scoring) -> tuple[list[Boxes], list[Boxes]]:
    """Return the detector's boxes in the scored images and in their reconstructions."""
    return scoring.for_both("boxes", partial(boxes_in, scoring.model))


def true_boxes(samples: Sequence[Sample]) -> list[Boxes]:
    """Return the labelled objects, with the data's own labels."""
    truth = []
    for sample in samples:
        items: list[Instance | BoxedObject] = [*sample.instances, *sample.boxed]
        corners = np.array([item.box for item in items], dtype=np.float64).reshape(-1, 4)
        labels = np.array([item.label for item in items], dtype=np.int64)
        areas = np.array([item.area for item in items], dtype=np.float64)
        truth.append(Boxes(corners, labels, np.ones(len(items)), areas))
    return truth


#: COCO's classes by the names of Pascal VOC, which checkpoints of RT-DETR and others have kept
SYNONYMS = {
    "motorcycle": "motorbike",
    "airplane": "aeroplane",
    "couch": "sofa",
    "potted plant": "pottedplant",
    "dining table": "diningtable",
    "tv": "tvmonitor",
}
SYNONYMS |= {other: name for name, other in SYNONYMS.items()}


def shared_classes(scoring: Scoring, truth: Sequence[Boxes]) -> list[int]:
    """Return the detector's class of each label of the scored data, -1 for labels that none of the true boxes has.

    Raises:
        NotApplicable: for images without labelled objects, and where an object's class is not one of the detector's, by
            name.
    """
    labels = {label for boxes in truth for label in boxes.labels.tolist()}
    if not labels:
        raise NotApplicable("the scored images have no labelled objects")
    model = scoring.model
    names = [name if name in model.classes else SYNONYMS.get(name, name) for name in scoring.subject.classes]
    unknown = sorted(names[label] for label in labels if names[label] not in model.classes)
    if unknown:
        some = ", ".join(unknown[:3])
        raise NotApplicable(
            f"{len(unknown)} classes of the scored objects ({some}) are not among those of '{model.name}'"
        )
    return [model.classes.index(name) if label in labels else -1 for label, name in enumerate(names)]


@dataclass(frozen=True)
class Matched:
    """A detector's boxes, matched with the same truth.

    Attributes:
        reconstructed: boxes in the reconstructions.
        copied: boxes in the images themselves.
        other: boxes in the reconstruction of the image before; None for a single image.
    """

    reconstructed: Matches
    copied: Matches
    other: Matches | None


def _matched(scoring: Scoring, key: Hashable, truth: list[Boxes], copied: list[Boxes], boxes: list[Boxes]) -> Matched:
    """Return the ``boxes`` of the reconstructions and those of the images, ``copied``, matched with the ``truth``.

    What holds of the images is cached per model under ``key``.
    """
    size = scoring.model.image_size
    other = match(truth, boxes[-1:] + boxes[:-1], size) if len(boxes) > 1 else None
    return Matched(match(truth, boxes, size), scoring.cached_per_model(key, lambda: match(truth, copied, size)), other)


def against_truth(scoring: Scoring) -> Matched:
    """Return matches with the labelled objects, of whose classes alone boxes count: nobody labelled the others.

    Raises:
        NotApplicable: as `shared_classes`, and for a classifier.
    """
    _require_detector(scoring.model)
    truth = scoring.cached_per_model("true boxes", lambda: true_boxes(scoring.samples))
    label_of = np.array(shared_classes(scoring, truth))
    known = label_of[label_of >= 0]
    truth = [replace(boxes, labels=label_of[boxes.labels]) for boxes in truth]
    copied, boxes = ([image.where(np.isin(image.labels, known)) for image in images] for images in _detected(scoring))
    return _matched(scoring, "copied boxes", truth, copied, boxes)


def _values(matched: Matched, size: str, average: Average, rows: Sequence[int], count: int) -> Values:
    """Return ``average`` over the images of ``rows``, with its ceiling and floor; undefined for the others."""
    index = np.array(rows)

    def statistic(matches: Matches, weights: Array) -> Array:
        every = np.zeros((len(weights), count))
        every[:, index] = weights
        return average(matches[size], every)

    pooled = pool(lambda weights: statistic(matched.reconstructed, weights), len(rows))
    once = np.ones((1, len(rows)))
    ceiling = float(statistic(matched.copied, once)[0])
    floor = None if matched.other is None else float(statistic(matched.other, once)[0])
    values = per_image(torch.tensor(pooled.contributions, dtype=torch.float64), rows, count)
    return Values(values, ceiling=ceiling, floor=floor, interval=pooled.interval)


@dataclass(frozen=True)
class DetectorMeasure(Metric):
    """A statistic of a detector's boxes in the reconstructions, pooled over all images.

    Range:
        0 to 1; the contribution of a single image may leave it.
    Floor:
        That of other images' reconstructions, measured: near 0.
    Undefined:
        For a classifier, for images without labelled objects, and where the detector does not know their classes.
    Source:
        Lin et al. 2014, arXiv 1405.0312; boxes are matched by pycocotools.
    """

    group = "Consistency"
    direction = "higher"
    pooled = True
    tolerance = 0.05


@register.metric
@dataclass(frozen=True)
class DetectorAp(DetectorMeasure):
    """COCO average precision of the detector's boxes in the reconstructions against the labelled objects.

    IoU 0.50 to 0.95. The ceiling is its AP on the images themselves, the floor on other images' reconstructions.

    Formula:
        The area under the precision-recall curve at 101 levels of recall, mean over classes that have objects and over
        the IoU thresholds 0.50, 0.55 ... 0.95; one box per query, 100 per class and image.
    Ceiling:
        The detector's own AP on the images, measured.
    Pitfalls:
        Compare with the ceiling, not with 1. With few images the intervals are wide.
    """

    name = "detector_ap"
    label = "Detector AP"

    def compute(self, scoring: Scoring) -> Values:
        matched = scoring.cached_per_cell("boxes against truth", lambda: against_truth(scoring))
        count = len(scoring.samples)
        return _values(matched, "any", average_precision, range(count), count)


@register.metric
@dataclass(frozen=True)
class DetectorSelfAp(DetectorMeasure):
    """COCO average precision of the detector's boxes in the reconstructions against its own boxes in the images.

    Boxes with a confidence of at least one half count as true. A copy scores 1; the floor is that of other images'
    reconstructions.

    Formula:
        That of detector AP, with the detector's confident boxes in the images as the truth.
    Ceiling:
        1.
    Undefined:
        For a classifier, and where the detector is confident of no box in any image.
    Pitfalls:
        It needs no labels, and shares the detector's mistakes: it says "sees the same", not "sees what is there".

    Args:
        confident: least confidence of a box that counts as true.
    """

    confident: float = 0.5

    name = "detector_self_ap"
    label = "Detector self-AP"

    def compute(self, scoring: Scoring) -> Values:
        _require_detector(scoring.model)
        copied, boxes = _detected(scoring)
        truth = [image.where(image.scores >= self.confident) for image in copied]
        if not any(len(image) for image in truth):
            raise NotApplicable(f"'{scoring.model.name}' is confident of no box in the scored images")
        count = len(boxes)
        matched = _matched(scoring, ("own boxes", self.confident), truth, copied, boxes)
        return _values(matched, "any", average_precision, range(count), count)


@register.metric
@dataclass(frozen=True)
class DetectorRecallSmall(DetectorMeasure):
    """COCO average recall of labelled objects that cover less than 0.33 % of the image.

    IoU 0.50 to 0.95, 100 boxes; 32 px squared in a photo of 640 x 480. Ceiling and floor as for detector AP.

    Formula:
        The share of the objects of this size that a box matches, mean over classes that have such objects and over the
        IoU thresholds 0.50, 0.55 ... 0.95.
    Ceiling:
        The detector's own recall on the images, measured.
    Undefined:
        As detector AP; and where no scored object is of this size.
    Pitfalls:
        Sizes are shares of the image, so that they hold at any input size; they are COCO's limits at 640 x 480 only.
    """

    name = "detector_recall_small"
    label = "Recall small"
    size: ClassVar[str] = "small"

    def compute(self, scoring: Scoring) -> Values:
        matched = scoring.cached_per_cell("boxes against truth", lambda: against_truth(scoring))
        count = len(scoring.samples)
        objects = sum((ranked.objects for ranked in matched.reconstructed[self.size]), np.zeros(count))
        rows = np.flatnonzero(objects).tolist()
        if not rows:
            return Values([None] * count, f"no scored object is {self.size}")
        return _values(matched, self.size, average_recall, rows, count)


@register.metric
@dataclass(frozen=True)
class DetectorRecallMedium(DetectorRecallSmall):
    """COCO average recall of labelled objects that cover 0.33 % to 3 % of the image.

    Up to 96 px squared in a photo of 640 x 480. Ceiling and floor as for detector AP.
    """

    name = "detector_recall_medium"
    label = "Recall medium"
    size = "medium"


@register.metric
@dataclass(frozen=True)
class DetectorRecallLarge(DetectorRecallSmall):
    """COCO average recall of labelled objects that cover more than 3 % of the image.

    Ceiling and floor as for detector AP.
    """

    name = "detector_recall_large"
    label = "Recall large"
    size = "large"
