"""Task: does the classifier still give its own answer? Its answers on the images are the truth here, not the labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from invsuite._system.spill import TensorLike
from invsuite.errors import NotApplicable
from invsuite.metrics.base import Metric, Scoring, Values, by_image
from invsuite.models.base import Model
from invsuite.registry import register

BLOCK = 4096  # images whose probabilities are held at once
OTHERS = 16  # other images that each image's chance level is taken over

Compare = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def class_logits(model: Model, images: TensorLike) -> torch.Tensor:
    """What a classifier says about images (N, 3, H, W) in [0, 1], a batch at a time: (N, classes)."""
    return by_image(lambda part: model.predict(part).logits, images)


def _classes(scoring: Scoring) -> tuple[torch.Tensor, torch.Tensor]:
    """Class logits (N, classes) of images and reconstructions.

    Raises:
        NotApplicable: for a detector.
    """
    if scoring.model.task != "classification":
        raise NotApplicable(f"'{scoring.model.name}' is a detector: it gives no one class an image")
    return scoring.for_both("class logits", partial(class_logits, scoring.model))


def named_again(true: torch.Tensor, made: torch.Tensor, k: int) -> torch.Tensor:
    """1 where the first class of ``true`` (N, classes) is among the first ``k`` of ``made``, else 0: (N,) float64."""
    return (made.topk(k, 1).indices == true.argmax(1, keepdim=True)).any(1).double()


def jensen_shannon(true: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """Jensen-Shannon divergence in bits, [0, 1], of the softmax of logits (N, classes): (N,) float64 (Lin 1991,
    doi 10.1109/18.61115)."""

    def nats(true: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        p, q = true.double().softmax(1), made.double().softmax(1)
        middle = (p + q) / 2
        entropies = [-torch.special.xlogy(d, d).sum(1) for d in (middle, p, q)]
        return entropies[0] - (entropies[1] + entropies[2]) / 2

    bits = by_image(nats, true, made, size=BLOCK) / torch.log(torch.tensor(2.0, dtype=torch.float64))
    return bits.clamp(0, 1)


def chance(true: torch.Tensor, made: torch.Tensor, measure: Compare) -> float | None:
    """Mean of ``measure(true, made)`` over reconstructions of other images; None if there is no other."""
    shifts = range(1, min(OTHERS, len(true) - 1) + 1)
    values = [float(measure(true.roll(shift, 0), made).mean()) for shift in shifts]
    return sum(values) / len(values) if values else None


@register.metric
@dataclass(frozen=True)
class Top1Agreement(Metric):
    """Share of images whose reconstruction the classifier gives the class it gave the image. The floor is that of other
    images' reconstructions."""

    k: int = 1

    group = "Consistency"
    name = "top1_agreement"
    label = "Top-1 agreement"
    direction = "higher"
    digits = 2
    tolerance = 0.1

    def compute(self, scoring: Scoring) -> Values:
        true, made = _classes(scoring)
        if true.shape[1] <= self.k:
            raise NotApplicable(f"'{scoring.model.name}' has {true.shape[1]} classes, top {self.k} is all of them")
        found = named_again(true, made, self.k).tolist()
        return Values(found, ceiling=1.0, floor=chance(true, made, lambda a, b: named_again(a, b, self.k)))


@register.metric
@dataclass(frozen=True)
class Top5Agreement(Top1Agreement):
    """Share of images whose own class, as the classifier gave it to the image, is among the five likeliest for the
    reconstruction. The floor is that of other images' reconstructions."""

    k: int = 5

    name = "top5_agreement"
    label = "Top-5 agreement"


@register.metric
@dataclass(frozen=True)
class JsDivergence(Metric):
    """Jensen-Shannon divergence of the classifier's answers to the reconstruction and to the image: 0 for the same
    probabilities, 1 bit for answers with no class in common. The floor is that of other images' reconstructions."""

    group = "Consistency"
    name = "js_divergence"
    label = "JS divergence"
    unit = "bit"
    direction = "lower"
    tolerance = 0.05

    def compute(self, scoring: Scoring) -> Values:
        true, made = _classes(scoring)
        return Values(jensen_shannon(true, made).tolist(), ceiling=0.0, floor=chance(true, made, jensen_shannon))
