"""Task measures against scipy, torchmetrics and pycocotools, and on answers that are known."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import scene_split, scoring
from pycocotools.cocoeval import COCOeval
from scipy.spatial.distance import jensenshannon
from torchmetrics.detection import MeanAveragePrecision
from torchmetrics.functional.classification import multiclass_accuracy

from invsuite.data.base import Sample
from invsuite.data.scenes import CLASSES
from invsuite.errors import NotApplicable
from invsuite.metrics import make_metric
from invsuite.metrics.boxes import IOUS, RECALLS, SIZES, Boxes, _coco, average_precision, average_recall, match
from invsuite.metrics.detection import DetectorAp, DetectorRecallLarge, DetectorRecallSmall, DetectorSelfAp
from invsuite.metrics.task import JsDivergence, Top1Agreement, Top5Agreement, jensen_shannon, top_k_agreement
from invsuite.models.base import Model, Prediction
from invsuite.models.load import load_model
from invsuite.results.statistics import pool

DETECTOR = ("detector_ap", "detector_self_ap", "detector_recall_medium", "detector_recall_large")
SIDE = 100


def noisy(images: torch.Tensor) -> torch.Tensor:
    return (images + 0.1 * torch.sin(images * 300)).clamp(0, 1)


def copy(images: torch.Tensor) -> torch.Tensor:
    return images.clone()


def test_agreement_and_divergence_agree_with_torchmetrics_and_scipy() -> None:
    torch.manual_seed(0)
    true, made = torch.randn(50, 12) * 3, torch.randn(50, 12) * 3
    made[::2] = true[::2] + torch.randn(25, 12)
    for k in (1, 5):
        expected = multiclass_accuracy(made, true.argmax(1), 12, average="micro", top_k=k)
        assert float(top_k_agreement(true, made, k).mean()) == pytest.approx(float(expected))
    distances = jensenshannon(true.double().softmax(1), made.double().softmax(1), axis=1, base=2)
    np.testing.assert_allclose(jensen_shannon(true, made), distances**2, atol=1e-12)


def test_divergence_at_its_ends() -> None:
    certain = torch.eye(4) * 1000
    np.testing.assert_allclose(jensen_shannon(certain, certain.roll(1, 0)), 1.0)
    np.testing.assert_allclose(jensen_shannon(certain, certain), 0.0, atol=1e-12)
    # known: half of the weight moved from one class to another
    half = torch.tensor([[0.5, 0.5]]).log()
    assert float(jensen_shannon(torch.tensor([[0.0, -1e3]]), half)) == pytest.approx(0.311278, abs=1e-6)


def test_a_copy_agrees_and_other_images_agree_by_chance() -> None:
    same, other = scoring(copy, 24), scoring(lambda x: x.roll(1, 0), 24)
    for metric, best in ((Top1Agreement(), 1.0), (Top5Agreement(), 1.0), (JsDivergence(), 0.0)):
        found = metric.compute(same)
        np.testing.assert_allclose(found.per_image, best, atol=1e-9)
        assert found.ceiling == best
        assert found.floor is not None
        chance = np.mean(np.array(metric.compute(other).per_image, dtype=float))
        assert chance == pytest.approx(found.floor, abs=0.3)
        assert abs(best - found.floor) > 0.2


def test_top_five_of_five_classes_says_nothing(vit: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = vit.predict
    monkeypatch.setattr(vit, "predict", lambda images: Prediction(answer(images).logits[:, :5]))
    with pytest.raises(NotApplicable, match="has 5 classes, top 5 is all of them"):
        Top5Agreement().compute(scoring(copy, 2, model=vit))


def random_boxes(seed: int, images: int, found: bool, tied: bool = False) -> list[Boxes]:
    """Boxes of 3 classes at few places, so that many match; ``tied`` ones have one of four scores."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(images):
        count = int(rng.integers(0, 9 if found else 6))
        side = rng.choice([4.0, 12.0, 24.0], (count, 1)) * np.ones((1, 2))
        corner = rng.integers(0, 2, (count, 2)) * 50 + (rng.normal(0, 0.05, (count, 2)) * side if found else 0)
        size = side * (1 + (rng.normal(0, 0.05, (count, 2)) if found else 0))
        labels = rng.integers(0, 3, count)
        scores = (rng.choice([0.2, 0.5, 0.7, 0.9], count) if tied else rng.random(count)) if found else np.ones(count)
        made.append(Boxes(np.concatenate([corner, corner + size], 1), labels, scores, size.prod(1)))
    return made


def by_pycocotools(truth: list[Boxes], found: list[Boxes]) -> dict[str, tuple[float, float]]:
    """AP and AR of each range of sizes by COCOeval's own accumulation."""
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(_coco(truth, [0, 1, 2]), _coco(found, [0, 1, 2]), "bbox")
        judge.params.iouThrs = IOUS
        judge.params.maxDets = [100]
        judge.params.areaRng = [[share * SIDE**2 for share in SIZES[name]] for name in SIZES]
        judge.params.areaRngLbl = list(SIZES)
        judge.evaluate()
        judge.accumulate()
    values = {}
    for number, name in enumerate(SIZES):
        parts = judge.eval["precision"][:, :, :, number, 0], judge.eval["recall"][:, :, number, 0]
        values[name] = tuple(float(part[part > -1].mean()) for part in parts)
    return values  # type: ignore[return-value]


@pytest.mark.parametrize("tied", [False, True])
def test_precision_and_recall_agree_with_pycocotools(tied: bool) -> None:
    truth, found = random_boxes(0, 40, found=False), random_boxes(1, 40, found=True, tied=tied)
    matches = match(truth, found, (SIDE, SIDE))
    samples = [np.arange(40)]
    if not tied:  # resamples: some images twice, some not at all; with ties their order would count
        samples += list(np.random.default_rng(2).integers(0, 40, (6, 40)))
    weights = np.stack([np.bincount(rows, minlength=40) for rows in samples]).astype(float)
    for number, rows in enumerate(samples):
        expected = by_pycocotools([truth[i] for i in rows], [found[i] for i in rows])
        for name in SIZES:
            ap, ar = expected[name]
            assert 0.001 < ap < 0.9
            assert average_precision(matches[name], weights)[number] == pytest.approx(ap, abs=1e-9)
            assert average_recall(matches[name], weights)[number] == pytest.approx(ar, abs=1e-9)


def test_average_precision_of_a_known_case() -> None:
    """Two objects; found: one, a false one, the other. Precision 1 up to half the recall, 2/3 beyond."""
    corners = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [80, 0, 90, 10]], dtype=float)
    ones = np.zeros(3, dtype=np.int64)
    truth = [Boxes(corners[:2], ones[:2], np.ones(2), np.full(2, 100.0))]
    found = [Boxes(corners[[0, 2, 1]], ones, np.array([0.9, 0.8, 0.7]), np.full(3, 100.0))]
    matches = match(truth, found, (SIDE, SIDE))["any"]
    assert average_precision(matches, np.ones((1, 1)))[0] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert average_recall(matches, np.ones((1, 1)))[0] == 1.0
    nothing = match([Boxes(corners[:0], ones[:0], np.ones(0), np.ones(0))], found, (SIDE, SIDE))["any"]
    assert np.isnan(average_precision(nothing, np.ones((1, 1)))[0]), "no object, no precision"


def test_a_copy_is_detected_like_the_image(detr: Model) -> None:
    same = scoring(copy, 16, model=detr, stage="encoder")
    worse = scoring(noisy, 16, model=detr, stage="encoder")
    grey = scoring(lambda x: torch.full_like(x, 0.5), 16, model=detr, stage="encoder")
    for name in DETECTOR:
        best = make_metric(name).compute(same)
        mean = np.mean([v for v in best.per_image if v is not None])
        assert mean == pytest.approx(best.ceiling)
        assert mean > 0.6
        assert best.interval is not None
        assert best.interval[0] <= mean <= best.interval[1]
        lower = make_metric(name).compute(worse)
        assert np.mean([v for v in lower.per_image if v is not None]) < mean - 0.2
        assert lower.floor is not None
        assert lower.floor < 0.1
        assert make_metric(name).compute(grey).per_image.count(None) == best.per_image.count(None)
        assert np.mean([v for v in make_metric(name).compute(grey).per_image if v is not None]) < 0.05
    assert DetectorSelfAp().compute(same).ceiling == 1.0


def test_detector_ap_agrees_with_torchmetrics(detr: Model) -> None:
    material = scoring(noisy, 12, model=detr, stage="encoder")
    answer = detr.predict(material.reconstructions)
    assert answer.boxes is not None
    scores, labels = answer.logits.double().softmax(-1)[..., :-1].max(-1)  # in float32 confident ones would tie
    # its own thresholds are float32, which miss a recall of exactly 0.2
    levels = {"iou_thresholds": IOUS.tolist(), "rec_thresholds": RECALLS.tolist()}
    reference = MeanAveragePrecision(box_format="cxcywh", backend="pycocotools", **levels)
    found = [dict(boxes=b * 96, scores=s, labels=n) for b, s, n in zip(answer.boxes, scores, labels, strict=True)]
    truth = []
    for sample in material.samples:
        corners = torch.tensor([item.box for item in sample.instances])
        boxes = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
        truth.append(dict(boxes=boxes, labels=torch.tensor([item.label for item in sample.instances])))
    reference.update(found, truth)
    values = DetectorAp().compute(material).per_image
    assert np.mean(np.array(values, dtype=float)) == pytest.approx(float(reference.compute()["map"]), abs=1e-4)


def test_classes_meet_by_name(detr: Model) -> None:
    """Data that numbers the same classes otherwise gives the same AP; a class the detector lacks gives none."""
    material = scoring(noisy, 8, model=detr, stage="encoder")
    turned = [
        replace(s, instances=tuple(replace(i, label=(i.label + 3) % len(CLASSES)) for i in s.instances))
        for s in material.samples
    ]
    other = scoring(noisy, 8, samples=turned, model=detr, stage="encoder")
    other.subject.classes = CLASSES[-3:] + CLASSES[:-3]
    assert DetectorAp().compute(other).per_image == pytest.approx(DetectorAp().compute(material).per_image)
    material.subject.classes = ("person", *CLASSES[1:])
    with pytest.raises(
        NotApplicable, match=r"1 classes of the scored objects \(person\) are not among those of 'detr'"
    ):
        DetectorAp().compute(replace(material, cache={}))


@pytest.mark.parametrize("name", [*DETECTOR, "detector_recall_small"])
def test_a_classifier_draws_no_boxes(name: str) -> None:
    with pytest.raises(NotApplicable, match="is a classifier: it draws no boxes"):
        make_metric(name).compute(scoring(copy, 1))


@pytest.mark.parametrize("name", ["top1_agreement", "top5_agreement", "js_divergence"])
def test_a_detector_gives_no_one_class(name: str, detr: Model) -> None:
    with pytest.raises(NotApplicable, match="is a detector: it gives no one class"):
        make_metric(name).compute(scoring(copy, 1, model=detr, stage="encoder"))


def test_an_embedding_is_no_class() -> None:
    other = load_model("timm:test_vit", "embedder", random_weights=True)
    other.task = "embedding"
    with pytest.raises(NotApplicable, match="'embedder' is no classifier: it gives no one class"):
        make_metric("top1_agreement").compute(scoring(copy, 1, model=other, stage="embed"))


def test_without_labels_only_the_detectors_own_boxes_are_left(detr: Model) -> None:
    bare = [Sample(s.key, s.image) for s in scene_split(906, 6).samples()]
    material = scoring(copy, 6, samples=bare, model=detr, stage="encoder")
    with pytest.raises(NotApplicable, match="no labelled objects"):
        DetectorAp().compute(material)
    assert np.mean(np.array(DetectorSelfAp().compute(material).per_image, dtype=float)) == pytest.approx(1.0)


def test_sizes_that_no_object_has_are_undefined(detr: Model) -> None:
    material = scoring(copy, 4, model=detr, stage="encoder")
    found = DetectorRecallSmall().compute(material)
    assert found.per_image == [None] * 4
    assert found.undefined == "no scored object is small"
    large = DetectorRecallLarge().compute(material).per_image
    for value, sample in zip(large, material.samples, strict=True):
        assert (value is not None) == any(item.mask.mean() > 0.03 for item in sample.instances)


def test_a_pooled_mean_is_the_mean() -> None:
    """For a statistic that is a mean, contributions are the values and the interval is close to that of a mean."""
    values = np.random.default_rng(0).normal(3, 1, 60)
    found = pool(lambda weights: weights @ values / weights.sum(1), 60)
    assert found.value == pytest.approx(values.mean())
    np.testing.assert_allclose(found.contributions, values)
    assert found.interval is not None
    reach = 1.96 * values.std(ddof=1) / 60**0.5
    np.testing.assert_allclose(found.interval, [values.mean() - reach, values.mean() + reach], atol=0.06)
    assert pool(lambda weights: weights @ values[:1] / weights.sum(1), 1).interval is None


def test_a_pooled_interval_covers() -> None:
    """95 % intervals of a ratio of sums hold the true ratio about 95 times in 100."""
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(100):
        below = rng.exponential(1, 30) + 0.2
        above = 0.5 * below + rng.normal(0, 0.3, 30)
        found = pool(lambda weights, a=above, b=below: (weights @ a) / (weights @ b), 30)
        assert found.interval is not None
        hits += found.interval[0] <= 0.5 <= found.interval[1]
    assert 86 <= hits <= 99
