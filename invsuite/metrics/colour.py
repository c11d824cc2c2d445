"""Colour sensitivity: turn one object's hue; how much of the turn reaches the reconstruction?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from skimage.color import rgb2hsv

from invsuite.data.edits import turn_hue
from invsuite.metrics.base import Metric, Scoring, Values

NO_CHROMA = 0.02  # mean chroma (max - min of RGB) below which an object has no hue to speak of


def hue_and_chroma(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """HSV hue in radians and chroma (max - min) of an image (3, H, W) in [0, 1], in float64."""
    hsv = torch.from_numpy(rgb2hsv(image.double().cpu().permute(1, 2, 0).numpy()))
    return hsv[..., 0] * 2 * math.pi, hsv[..., 1] * hsv[..., 2]


def hue_gain(before: torch.Tensor, after: torch.Tensor, mask: torch.Tensor, turns: float) -> float | None:
    """Share of a hue turn that reached ``after``: 1 keeps the turn, 0 ignores it.

    The turn of each pixel is weighted by the smaller chroma of the two images, so that pixels without chroma, whose
    hue is noise, do not count; turns are averaged on the circle. None if the object shows no chroma in either.

    Args:
        before, after: (3, H, W) in [0, 1].
        mask: (H, W) boolean.
        turns: the edit's turn, 1 the full circle.
    """
    hue_before, chroma_before = hue_and_chroma(before)
    hue_after, chroma_after = hue_and_chroma(after)
    weight = torch.minimum(chroma_before, chroma_after)[mask]
    if float(weight.mean()) < NO_CHROMA:
        return None
    turn = (hue_after - hue_before)[mask]
    angle = math.atan2(float((weight * turn.sin()).sum()), float((weight * turn.cos()).sum()))
    return angle / (2 * math.pi * turns)


@dataclass(frozen=True)
class HueGain(Metric):
    """Circular hue gain of one object turned by ``turns`` in HSV, as Rathjens et al. 2024 turn it."""

    turns: float = 1 / 3

    name = "hue_gain"
    label = "Hue gain"
    direction = "one"
    digits = 2

    def compute(self, scoring: Scoring) -> Values:
        edits = scoring.edits(f"hue {self.turns}", partial(turn_hue, turns=self.turns))
        per_image: list[float | None] = [None] * len(scoring.images)
        if not edits.rows:
            return Values(per_image, "no scored image has an object mask of a fitting size")
        reasons = set()
        for index, row in enumerate(edits.rows):
            mask = torch.from_numpy(edits.objects[index].mask)
            _, shown = hue_and_chroma(edits.shown_before[index])
            if float(shown[mask].mean()) < NO_CHROMA:
                reasons.add("the object shown has no chroma")
                continue
            per_image[row] = hue_gain(edits.before[index], edits.after[index], mask, self.turns)
            if per_image[row] is None:
                reasons.add("the reconstructed object has no chroma")
        return Values(per_image, "; ".join(sorted(reasons)))
