"""How the stages of one model relate: applied to each other's representations, debiased CKA, and linear prediction.

The first belongs to a cell, whose inverse it needs; the others to a model alone (`relate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from invsuite._system.linear import NormalEquations, solve
from invsuite.data.split import Split
from invsuite.errors import NotApplicable
from invsuite.metrics.base import MODEL_BATCH, Metric, Scoring, Values, per_image
from invsuite.models.base import Layout, Model
from invsuite.registry import register
from invsuite.results.statistics import Pooled, pool, summarise

RELATE_VERSION = 1  # raise when a value of `relate` changes
IMAGES = 256  # fit images, and at most as many scored ones
MEMORY = 2**31  # bytes of representations held; larger ones are of fewer images
GROUPS = 16  # of images left out in turn for the interval of a CKA
DEAD = 1e-6  # of the largest spread: a channel below it holds rounding
PERFECT = 1e-4  # root mean square error in pixel values below which a ratio of errors says nothing


@register.metric
@dataclass(frozen=True)
class CrossApplication(Metric):
    r"""Error of this inverse when it is given the representations of other stages, over its error at its own stage.

    Root mean square, image by image, mean over the stages of the same layout. 1: the stages mean the same to it. Only
    as many images as measures of edits use.

    Formula:
        $$ \frac{1}{|S|} \sum_{t \in S} \frac{\lVert g_s(f_t(x)) - x \rVert_2}{\lVert g_s(f_s(x)) - x \rVert_2} $$

        $S$ are the other stages of the suite with the layout of $s$.
    Range:
        0 upwards; 1 where the stages mean the same to the inverse $g_s$.
    Ceiling:
        None.
    Floor:
        None.
    Undefined:
        Where no other stage has the same layout, as for DETR's backbone, encoder and decoder; where the reconstruction
        is perfect; and for floors that are shown the image itself.
    Pitfalls:
        `mean` scores a perfect 1, because it ignores what it is given.
    Source:
        This suite.
    """

    group = "Consistency"
    name = "cross_application"
    label = "Cross-application"
    unit = "x"
    direction = "lower"
    digits = 2
    tolerance = 0.3
    uses_edits = True

    def compute(self, scoring: Scoring) -> Values:
        model, stage = scoring.model, scoring.stage
        alike = [s for s in scoring.subject.stages if model.layout(s) == model.layout(stage)]
        others = [s for s in alike if s != stage]
        if not others:
            raise NotApplicable(f"no other stage of the suite has the layout of '{stage}'")
        count = min(scoring.subject.edit_limit, len(scoring.images))
        if count == 0:
            return scoring.undefined()
        images = scoring.images[:count]
        own = _rmse(scoring.reconstructions[:count], images)
        representations = model.represent(images, others)
        ratios = torch.stack([_rmse(scoring.invert(representations[s].tensor), images) / own for s in others])
        defined = own > PERFECT
        means = torch.stack([column.mean() for column in ratios.unbind(1)])
        values = per_image(means.where(defined, torch.nan), range(count), len(scoring.images))
        by_stage = dict(zip(others, ratios, strict=True)) | {stage: torch.ones_like(own)}
        row = {s: asdict(summarise(by_stage[s][defined].tolist())) for s in alike}
        reason = "" if bool(defined.all()) else "its own reconstruction is perfect"
        return Values(values, reason, facts={"row": row})


def _rmse(reconstructions: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return (reconstructions - images).square().mean((1, 2, 3)).sqrt().double()


def centred_gram(features: torch.Tensor) -> torch.Tensor:
    """Return the linear Gram matrix (n, n), in float64, of features (n, d), centred over the examples.

    Examples:
        >>> centred_gram(torch.tensor([[0.0], [2.0]]))
        tensor([[ 1., -1.],
                [-1.,  1.]], dtype=torch.float64)
    """
    gram = features.new_zeros((len(features), len(features)), dtype=torch.float64)
    for part in features.split(2**14, dim=1):
        rows = part.double()
        rows = rows - rows.mean(0)
        gram += rows @ rows.T
    return gram


def debiased_cka(grams: torch.Tensor) -> torch.Tensor:
    """Return linear CKA (Kornblith et al. 2019) between every two of (m, n, n) Gram matrices, (m, m), at most 1.

    With the unbiased HSIC of Song et al. 2012, eq. 5, as Nguyen et al. 2021 use it: independent features give about 0
    for any n > 3. A matrix of zeros (features that do not vary) gives NaN.

    Examples:
        >>> gram = centred_gram(torch.arange(5.0)[:, None])
        >>> debiased_cka(torch.stack([gram, 2 * gram])).round(decimals=2)
        tensor([[1., 1.],
                [1., 1.]], dtype=torch.float64)
    """
    n = grams.shape[-1]
    eye = torch.eye(n, dtype=torch.bool, device=grams.device)
    hollow = grams.masked_fill(eye, 0)
    # U-centring: the inner product of two such matrices is n (n - 3) times the unbiased HSIC
    row = hollow.sum(2, keepdim=True) / (n - 2)
    total = hollow.sum((1, 2), keepdim=True) / ((n - 1) * (n - 2))
    flat = (hollow - row - row.transpose(1, 2) + total).masked_fill(eye, 0).flatten(1)
    products = flat @ flat.T
    norms = products.diagonal().sqrt()
    return products / torch.outer(norms, norms)


def cka_intervals(grams: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return 95 % intervals (m, m) of `debiased_cka` over examples, by a jackknife of groups.

    A bootstrap would put an example beside itself, which the unbiased HSIC takes for likeness.
    """
    from scipy.stats import t as student

    n = grams.shape[-1]
    groups = min(GROUPS, n // 2)
    value = debiased_cka(grams)
    without = []
    for group in range(groups):
        kept = torch.tensor([i for i in range(n) if i % groups != group], device=grams.device)
        without.append(debiased_cka(grams[:, kept][:, :, kept]))
    left_out = torch.stack(without)
    error = ((left_out - left_out.mean(0)).square().sum(0) * (groups - 1) / groups).sqrt()
    reach = float(student.ppf(0.975, groups - 1)) * error
    return value - reach, value + reach


def rows_of(tensor: torch.Tensor, layout: Layout, places: bool) -> torch.Tensor:
    """Return features (B, places, channels): one row per place of the grid, or one row per image, the mean over all."""
    if places:
        return layout.to_map(tensor).flatten(2).transpose(1, 2)
    return (tensor.mean((2, 3)) if layout.kind == "map" else tensor.mean(1))[:, None]


def ridge_r2(fit: tuple[torch.Tensor, torch.Tensor], held: tuple[torch.Tensor, torch.Tensor]) -> Pooled:
    """Return the share of the variance of held-out targets that ridge regression from the features explains.

    Every channel of the targets counts the same, and each place has an intercept of its own. Lambda has the least error
    on every fourth fit image, which the weights are not fitted on: with as many channels as images generalised
    cross-validation fails.

    Args:
        fit: features (n, places, d) and targets (n, places, t) of fit images.
        held: the same of held-out images.

    Returns:
        R2 over the held-out images: 1 for targets that are linear in the features, 0 for knowing their mean.

    Raises:
        NotApplicable: for targets that do not vary between images.
    """
    features, targets = fit
    centre_x, mean_y = features.mean((0, 1)), targets.mean(0)
    spread = (targets - mean_y).square().mean((0, 1)).sqrt()
    alive = spread > DEAD * spread.max()
    if not bool(alive.any()):
        raise NotApplicable("the targets do not vary between images")
    targets, mean_y, spread = targets[..., alive], mean_y[:, alive], spread[alive]
    chosen = torch.arange(len(features), device=features.device) % 4 == 0
    fitted, judged = (_sums(features[rows] - centre_x, (targets[rows] - mean_y) / spread) for rows in (~chosen, chosen))
    solution = solve(fitted, judged)
    truth = (held[1][..., alive] - mean_y) / spread
    residual = truth - (held[0] - centre_x) @ solution.weight - solution.bias
    left, total = (x.double().square().sum((1, 2)).cpu().numpy() for x in (residual, truth))
    return pool(lambda weights: 1 - (weights @ left) / np.maximum(weights @ total, 1e-300), len(left))


def _sums(features: torch.Tensor, targets: torch.Tensor) -> NormalEquations:
    sums = NormalEquations()
    for x, y in zip(features.split(MODEL_BATCH), targets.split(MODEL_BATCH), strict=True):
        sums.add(x, y)
    return sums


@torch.no_grad()
def relate(model: Model, stages: Sequence[str], fit: Split, score: Split) -> dict[str, Any]:
    """Return debiased CKA and ridge R2 between every two of ``stages``.

    CKA takes each fit image as an example, all values of its representation as features. Ridge predicts place by place
    where two stages have the same grid, elsewhere the mean over places or queries; it is fitted on fit images and
    judged on scored ones.

    Returns:
        ``cka`` and ``ridge_r2`` (from the stage of the row to that of the column), each with ``value``, ``low``,
        ``high`` as nested lists and ``n``; ``ridge_r2`` also says ``rows``: "places" or "images".

    Raises:
        NotApplicable: for fewer than 8 fit images.
    """
    stages = model.order(stages)
    if len(fit) < 8:
        raise NotApplicable(f"relating stages needs at least 8 fit images, got {len(fit)}")
    count = max(8, min(IMAGES, MEMORY // (4 * sum(model.layout(stage).values for stage in stages))))
    order = torch.randperm(len(fit), generator=torch.Generator().manual_seed(0))[:count].tolist()
    fitted = _represent(model, stages, fit.images(order))
    held = _represent(model, stages, score.images(slice(0, count)))
    grams = torch.stack([centred_gram(fitted[stage].flatten(1)) for stage in stages])
    low, high = cka_intervals(grams)
    cka = {"value": debiased_cka(grams), "low": low, "high": high}
    predicted: dict[str, list[list[Any]]] = {key: [] for key in ("value", "low", "high", "rows")}
    for source in stages:
        cells = [_predict(model, source, target, fitted, held) for target in stages]
        for key in predicted:
            predicted[key].append([cell[key] for cell in cells])
    return {
        "stages": list(stages),
        "cka": {key: _plain(value) for key, value in cka.items()} | {"n": len(order)},
        "ridge_r2": predicted | {"n": len(held[stages[0]]), "n_fit": len(order)},
    }


def _represent(model: Model, stages: Sequence[str], images: torch.Tensor) -> dict[str, torch.Tensor]:
    parts = [model.represent(part.to(model.device), stages) for part in images.split(MODEL_BATCH)]
    return {stage: torch.cat([part[stage].tensor for part in parts]) for stage in stages}


def _predict(
    model: Model, source: str, target: str, fitted: dict[str, torch.Tensor], held: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """Return ridge R2 from ``source`` to ``target``; a stage is not predicted from itself."""
    if source == target:
        return {"value": 1.0, "low": 1.0, "high": 1.0, "rows": "itself"}
    layouts = [model.layout(stage) for stage in (source, target)]
    places = layouts[0].grid is not None and layouts[0].grid == layouts[1].grid
    pairs = [
        tuple(rows_of(tensors[stage], layout, places) for stage, layout in zip((source, target), layouts, strict=True))
        for tensors in (fitted, held)
    ]
    r2 = ridge_r2((pairs[0][0], pairs[0][1]), (pairs[1][0], pairs[1][1]))
    low, high = r2.interval or (None, None)
    return {"value": r2.value, "low": low, "high": high, "rows": "places" if places else "images"}


def _plain(matrix: torch.Tensor) -> list[list[float | None]]:
    """Return a matrix as nested lists, None for NaN."""
    return [[None if value != value else value for value in row] for row in matrix.tolist()]
