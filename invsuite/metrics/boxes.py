"""Average precision and recall as COCO defines them, for images that may count more or less than once.

pycocotools matches boxes; precision and recall are accumulated here, because bootstrap and jackknife need them for a
thousand weightings of the images, which `COCOeval.accumulate` would take minutes for (tested against it).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pycocotools.coco import COCO

Array = NDArray[np.float64]

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MOST_BOXES = 100  # per class and image
CHUNK = 2**22  # values at a time

#: COCO's limits, 32 and 96 px squared of a photo of 640 x 480, as shares of the image, so that they hold at any size
SMALL, LARGE = 32**2 / (640 * 480), 96**2 / (640 * 480)
SIZES = {"any": (0.0, 1e9), "small": (0.0, SMALL), "medium": (SMALL, LARGE), "large": (LARGE, 1e9)}


@dataclass(frozen=True)
class Boxes:
    """Boxes in one image.

    Attributes:
        corners: (K, 4) as x0, y0, x1, y1 in pixels.
        labels: (K,) class of each.
        scores: (K,) confidence, 1 for the truth.
        areas: (K,) in pixels: of the mask where there is one.
    """

    corners: Array
    labels: NDArray[np.int64]
    scores: Array
    areas: Array

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, rows: NDArray[np.bool_]) -> Boxes:
        """Return the boxes of these ``rows`` (K,)."""
        return Boxes(self.corners[rows], self.labels[rows], self.scores[rows], self.areas[rows])


@dataclass(frozen=True)
class Ranked:
    """A detector's boxes of one class, most confident first, against the true ones of one range of sizes.

    Attributes:
        images: (D,) the image of each box.
        hits: (IoU thresholds, D) whether it matches an object.
        misses: (IoU thresholds, D) whether it matches none; neither is true where a box is ignored.
        objects: (N,) how many objects each image has.
    """

    images: NDArray[np.int64]
    hits: NDArray[np.bool_]
    misses: NDArray[np.bool_]
    objects: Array


#: the classes of each range of sizes
Matches = dict[str, list[Ranked]]


def match(truth: Sequence[Boxes], detected: Sequence[Boxes], size: tuple[int, int]) -> Matches:
    """Match the detected boxes of each image with its true ones, classes apart, at every IoU threshold.

    Args:
        truth: true boxes, one entry per image.
        detected: a detector's boxes, one entry per image.
        size: (H, W) of the images in pixels.
    """
    from pycocotools.cocoeval import COCOeval

    # a class without an object has neither precision nor recall
    labels = sorted({int(label) for boxes in truth for label in boxes.labels})
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(_coco(truth, labels), _coco(detected, labels), "bbox")
        judge.params.iouThrs = IOUS
        judge.params.maxDets = [MOST_BOXES]
        judge.params.areaRng = [[share * size[0] * size[1] for share in SIZES[name]] for name in SIZES]
        judge.evaluate()
    results = iter(judge.evalImgs)  # classes, then sizes, then images
    matches: Matches = {name: [] for name in SIZES}
    for _ in labels:
        for name in SIZES:
            matches[name].append(_ranked([next(results) for _ in truth]))
    return matches


def _coco(images: Sequence[Boxes], labels: Sequence[int]) -> COCO:
    from pycocotools.coco import COCO

    annotations: list[dict[str, Any]] = []
    known = set(labels)
    for number, boxes in enumerate(images):
        for (x0, y0, x1, y1), label, score, area in zip(
            boxes.corners.tolist(), boxes.labels.tolist(), boxes.scores.tolist(), boxes.areas.tolist(), strict=True
        ):
            if label not in known:
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1,  # 0 would read as "no match"
                    "image_id": number,
                    "category_id": label,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": area,
                    "score": score,
                    "iscrowd": 0,
                }
            )
    coco = COCO()
    coco.dataset = {
        "images": [{"id": number} for number in range(len(images))],
        "categories": [{"id": label} for label in labels],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _ranked(results: Sequence[dict[str, NDArray[np.float64]] | None]) -> Ranked:
    """Return one class and range of sizes, from pycocotools' result of each image (None: no box, true or detected)."""
    there = [(number, result) for number, result in enumerate(results) if result is not None]
    objects = np.zeros(len(results))
    for number, result in there:
        objects[number] = np.count_nonzero(result["gtIgnore"] == 0)
    if not there:
        nothing = np.zeros((len(IOUS), 0), dtype=bool)
        return Ranked(np.zeros(0, dtype=np.int64), nothing, nothing, objects)
    scores = np.concatenate([np.asarray(result["dtScores"], dtype=np.float64) for _, result in there])
    order = np.argsort(-scores, kind="mergesort")  # ties in the order of the images, as pycocotools has them
    images = np.concatenate([np.full(len(result["dtScores"]), number) for number, result in there])[order]
    matched = np.concatenate([result["dtMatches"] for _, result in there], axis=1)[:, order] > 0
    ignored = np.concatenate([result["dtIgnore"] for _, result in there], axis=1)[:, order].astype(bool)
    return Ranked(images, matched & ~ignored, ~matched & ~ignored, objects)


def average_precision(classes: Sequence[Ranked], weights: Array) -> Array:
    """Return AP, mean over IoU thresholds and over classes that have objects, for each weighting of the images.

    Args:
        classes: one range of sizes of `Matches`.
        weights: (R, N), how often each image counts.

    Returns:
        (R,), NaN where no object counts.
    """
    return _class_mean([(ranked.objects, _precision(ranked, weights)) for ranked in classes], weights)


def average_recall(classes: Sequence[Ranked], weights: Array) -> Array:
    """Return recall, mean over IoU thresholds and over classes that have objects, as `average_precision`."""
    values = []
    for ranked in classes:
        recalled = weights[:, ranked.images] @ ranked.hits.mean(0)
        values.append((ranked.objects, recalled / np.maximum(weights @ ranked.objects, 1e-9)))
    return _class_mean(values, weights)


def _class_mean(values: Sequence[tuple[Array, Array]], weights: Array) -> Array:
    total, count = np.zeros(len(weights)), np.zeros(len(weights))
    for objects, value in values:
        there = weights @ objects > 0
        total += np.where(there, value, 0.0)
        count += there
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _precision(ranked: Ranked, weights: Array) -> Array:
    """Return the precision of one class, mean over 101 levels of recall and over IoU thresholds: (R,)."""
    if len(ranked.images) == 0 or not ranked.objects.any():
        return np.zeros(len(weights))
    rows = max(1, CHUNK // (len(IOUS) * len(ranked.images)))
    return np.concatenate([_precision_chunk(ranked, weights[i : i + rows]) for i in range(0, len(weights), rows)])


def _precision_chunk(ranked: Ranked, weights: Array) -> Array:
    """Return `_precision` of some weightings, looked up at the matching boxes alone: between them it only falls."""
    counted = weights[:, ranked.images]
    objects = np.maximum(weights @ ranked.objects, 1e-9)[:, None]
    total = np.zeros(len(weights))
    for matching, missing in zip(ranked.hits, ranked.misses, strict=True):
        at = np.flatnonzero(matching)
        if not len(at):
            continue
        hits = np.cumsum(counted[:, at], axis=1)
        misses = np.cumsum(counted * missing, axis=1)[:, at]
        precision = hits / (hits + misses + np.spacing(1))
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]  # at this recall or a higher one
        reached = np.searchsorted(RECALLS, hits / objects, side="right")  # levels of recall reached with this box
        new = np.diff(reached, axis=1, prepend=0)
        total += (best * new).sum(1)
    return total / (len(IOUS) * len(RECALLS))
