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
    """Return what a classifier says about images (N, 3, H, W) in [0, 1], a batch at a time: (N, classes)."""
    return by_image(lambda part: model.predict(part).logits, images)


def _classes(scoring: Scoring) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the class logits (N, classes) of images and reconstructions.

    Raises:
        NotApplicable: for a detector, or a model that gives an embedding.
    """
    task = scoring.model.task
    if task != "classification":
        what = "a detector" if task == "detection" else "no classifier"
        raise NotApplicable(f"'{scoring.model.name}' is {what}: it gives no one class per image")
    return scoring.for_both("class logits", partial(class_logits, scoring.model))


def top_k_agreement(truth: torch.Tensor, answers: torch.Tensor, k: int) -> torch.Tensor:
    """Return 1 where the first class of ``truth`` is among the first ``k`` of ``answers``, else 0: (N,) float64.

    Both are logits (N, classes).

    Examples:
        >>> top_k_agreement(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[2.0, 3.0, 1.0]]), k=1)
        tensor([0.], dtype=torch.float64)
    """
    return (answers.topk(k, 1).indices == truth.argmax(1, keepdim=True)).any(1).double()


def jensen_shannon(truth: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Return the Jensen-Shannon divergence in bits, 0 to 1, of the softmax of logits (N, classes): (N,) float64.

    Lin 1991, doi 10.1109/18.61115.

    Examples:
        >>> jensen_shannon(torch.tensor([[1000.0, 0.0]]), torch.tensor([[0.0, 1000.0]]))
        tensor([1.], dtype=torch.float64)
    """

    def nats(truth: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        p, q = truth.double().softmax(1), answers.double().softmax(1)
        middle = (p + q) / 2
        entropies = [-torch.special.xlogy(d, d).sum(1) for d in (middle, p, q)]
        return entropies[0] - (entropies[1] + entropies[2]) / 2

    bits = by_image(nats, truth, answers, size=BLOCK) / torch.log(torch.tensor(2.0, dtype=torch.float64))
    return bits.clamp(0, 1)


def chance(truth: torch.Tensor, answers: torch.Tensor, measure: Compare) -> float | None:
    """Return the mean of ``measure(truth, answers)`` over other images' reconstructions; None if there is no other."""
    shifts = range(1, min(OTHERS, len(truth) - 1) + 1)
    values = [float(measure(truth.roll(shift, 0), answers).mean()) for shift in shifts]
    return sum(values) / len(values) if values else None


@register.metric
@dataclass(frozen=True)
class Top1Agreement(Metric):
    r"""Share of images whose reconstruction the classifier gives the class it gave the image.

    The floor is that of other images' reconstructions.

    Formula:
        The share of images with $\mathrm{argmax} f(\hat{x}) = \mathrm{argmax} f(x)$.
    Range:
        0 to 1.
    Ceiling:
        1.
    Floor:
        That of other images' reconstructions, measured: chance.
    Undefined:
        For a detector, and for a model that has no more classes than are looked at.
    Pitfalls:
        An image counts as 0 or 1, so intervals are wide. At the last stages before the head it can be high with
        pictures that show nothing.
    Source:
        This suite.

    Args:
        k: how many of the likeliest classes are looked at.
    """

    k: int = 1

    group = "Consistency"
    name = "top1_agreement"
    label = "Top-1 agreement"
    direction = "higher"
    digits = 2
    tolerance = 0.1

    def compute(self, scoring: Scoring) -> Values:
        truth, answers = _classes(scoring)
        if truth.shape[1] <= self.k:
            raise NotApplicable(f"'{scoring.model.name}' has {truth.shape[1]} classes, top {self.k} is all of them")
        agreement = partial(top_k_agreement, k=self.k)
        return Values(agreement(truth, answers).tolist(), ceiling=1.0, floor=chance(truth, answers, agreement))


@register.metric
@dataclass(frozen=True)
class Top5Agreement(Top1Agreement):
    """Share of images whose class, the classifier's own, is among its five likeliest for the reconstruction.

    The floor is that of other images' reconstructions.

    Formula:
        The share of images whose first class is among the first five of the reconstruction.
    """

    k: int = 5

    name = "top5_agreement"
    label = "Top-5 agreement"


@register.metric
@dataclass(frozen=True)
class JsDivergence(Metric):
    r"""Jensen-Shannon divergence of the classifier's answers to the reconstruction and to the image.

    0 for the same probabilities, 1 bit for answers with no class in common. The floor is that of other images'
    reconstructions.

    Formula:
        $$ H\left( \tfrac{p + q}{2} \right) - \tfrac{1}{2} \left( H(p) + H(q) \right), \qquad
        p = \mathrm{softmax} f(x), \; q = \mathrm{softmax} f(\hat{x}) $$
    Range:
        0 to 1 bit.
    Ceiling:
        0.
    Floor:
        That of other images' reconstructions, measured: chance.
    Undefined:
        For a detector.
    Pitfalls:
        A classifier that is sure of everything makes it nearly 0 or 1 per image.
    Source:
        Lin 1991, doi 10.1109/18.61115.
    """

    group = "Consistency"
    name = "js_divergence"
    label = "JS divergence"
    unit = "bit"
    direction = "lower"
    tolerance = 0.05

    def compute(self, scoring: Scoring) -> Values:
        truth, answers = _classes(scoring)
        values = jensen_shannon(truth, answers).tolist()
        return Values(values, ceiling=0.0, floor=chance(truth, answers, jensen_shannon))
