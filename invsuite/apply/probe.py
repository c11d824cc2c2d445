"""What a model computes, in a few numbers: weights and shapes alike do not tell another function from the same one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from invsuite.models.base import Model, Representation

NUMBERS = 8  # of a stage
DIGITS = 4  # of a number that are kept
TOLERANCE = 0.05  # of a representation's length: processors and precisions move it by less, another function by more

Probe = tuple[float, ...]


def probe(model: Model, stages: Sequence[str]) -> dict[str, Probe]:
    """Return numbers that tell the representations of one fixed image at ``stages`` from those of another function.

    They are sums of the values with fixed random signs, over the representation's length. A difference of two
    representations is, relative to that length, about as large as those of their numbers. Queries have no order, and a
    detector may pick others where two are level: their mean counts.
    """
    image = torch.rand(1, 3, *model.image_size, generator=torch.Generator().manual_seed(0))
    return {stage: _numbers(one) for stage, one in model.represent(image.to(model.device), stages).items()}


def _numbers(representation: Representation) -> Probe:
    values = representation.tensor[0].detach().double().cpu()
    if representation.layout.kind in ("queries", "predictions"):
        values = values.mean(0)
    values = values.flatten()
    signs = torch.randint(0, 2, values.shape, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    sums = torch.zeros(NUMBERS, dtype=torch.float64).index_add_(0, torch.arange(len(values)) % NUMBERS, signs * values)
    length = float(values.norm() / NUMBERS**0.5)
    return tuple(round(number / length, DIGITS) for number in sums.tolist()) if length else (0.0,) * NUMBERS


def differing(known: Mapping[str, Probe], model: Model) -> list[str]:
    """Return the stages at which a model does not compute what ``known`` numbers tell."""
    if not known:
        return []
    return [
        stage
        for stage, numbers in probe(model, list(known)).items()
        if max(abs(a - b) for a, b in zip(numbers, known[stage], strict=True)) > TOLERANCE
    ]
