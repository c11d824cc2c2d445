"""What measuring costs: ``pytest benchmarks/test_speed_metrics.py -s``.

Every measure of 100 images at 224 px against fitting one inverse network with the photos suite's budget (4,000 image
passes, width 192, depth 1, float32), as a ratio in one run. The model is a ViT-Ti/16 and the images are scenes, which
have the masks that some measures need. Times do not depend on the values of weights, so these are random, the
backbones of LPIPS and DISTS included; reconstructions are the images, slightly blurred. Further reconstructions
(measures of edits, cross-application) go through the fitted inverse itself.

The measures of a cell share what belongs to the model (its answers to the images, distances of random images); the
time is that of the first cell, which pays for all of it. LPIPS with VGG and DISTS, each a VGG-16 forward pass over both
images, are summed apart: they take longer than all others together. INVSUITE_PASSES sets the image passes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
import timm
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture

from invsuite.data.scenes import CLASSES, Scenes
from invsuite.data.split import Split
from invsuite.errors import NotApplicable
from invsuite.methods import make_method
from invsuite.methods.problem import Budget, Context, Engine, Problem
from invsuite.metrics import make_metric
from invsuite.metrics.base import Scoring, Subject
from invsuite.models.base import Model, Representation, WeightsOrigin
from invsuite.models.load import load_model
from invsuite.models.timm import timm_chain
from invsuite.registry import METRICS
from invsuite.results.statistics import summarise
from invsuite.selftest.measures import stand_in

PASSES = int(os.environ.get("INVSUITE_PASSES", "4000"))
COUNT, SIZE, STAGE = 100, 224, "block06"
EDITS = 12  # as the photos suite has
SLOW = ("lpips_vgg", "dists")


def vit_tiny() -> Model:
    """ViT-Ti/16 with random weights: only its time is measured."""
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    origin = WeightsOrigin("random, for timing", "0" * 64)
    return timm_chain("vit_tiny", network, (SIZE, SIZE), (0.5,) * 3, (0.5,) * 3, origin)


@pytest.fixture
def random_backbones() -> Iterator[None]:
    with stand_in("alex", "squeeze", "vgg"):
        yield


def test_all_measures_against_fitting_an_inverse_network(random_backbones: None, benchmark: BenchmarkFixture) -> None:
    model = vit_tiny()
    splits = [Split(Scenes(seed, n, SIZE), tuple(range(n))) for seed, n in ((11, 600), (12, 16))]
    samples = Split(Scenes(13, COUNT, SIZE), tuple(range(COUNT))).samples()
    for split in splits:
        split.images(slice(0, 1))  # scenes are drawn before any clock runs
    method = make_method("layerwise", {"width": 192, "depth": 1})
    budget = Budget(image_passes=PASSES, batch=16)
    engine = Engine(precision="float32")
    problem = Problem(model, (STAGE,), model.stages[:-1], *splits, budget, seed=0, context=Context(engine=engine))
    begun = time.perf_counter()
    fitted = method.fit(problem)
    fit_seconds = time.perf_counter() - begun

    layout = model.layout(STAGE)

    def invert(tensor: torch.Tensor) -> torch.Tensor:
        parts = [fitted.inverter.invert(Representation(part, layout, STAGE)) for part in tensor.split(32)]
        return torch.cat(parts)

    def reconstruct(images: torch.Tensor) -> torch.Tensor:
        return torch.cat([invert(model.represent(part, [STAGE])[STAGE].tensor) for part in images.split(32)])

    images = torch.stack([sample.image for sample in samples])
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)

    def measure() -> dict[str, float]:
        stages = ("embed", "block03", "block06", "block09", "block12")
        witness = load_model("bundled:detr", "witness")
        subject = Subject(model, stages, samples, images, splits[0], EDITS, CLASSES, witness)
        scoring = Scoring(subject, STAGE, blurred, reconstruct, invert)
        seconds = {}
        for name in METRICS:
            metric = make_metric(name)
            begun = time.perf_counter()
            try:
                metric.prepare(torch.device("cpu"))
                summarise(metric.compute(scoring).per_image)
            except NotApplicable:
                continue
            seconds[name] = time.perf_counter() - begun
        return seconds

    seconds = benchmark.pedantic(measure, rounds=1, iterations=1)
    quick = sum(value for name, value in seconds.items() if name not in SLOW)
    slow = sum(seconds[name] for name in SLOW)
    print()
    for name, value in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"{name:24s} {value:7.2f} s")
    print(
        f"{len(seconds)} measures of {COUNT} images at {SIZE} px: {quick + slow:.1f} s, of it {slow:.1f} s in "
        f"{' and '.join(SLOW)}; fitting one inverse network with {PASSES} image passes: {fit_seconds:.1f} s; "
        f"ratio {(quick + slow) / fit_seconds:.2f}, without those two {quick / fit_seconds:.2f}"
    )
    benchmark.extra_info.update(ratio=(quick + slow) / fit_seconds, fit_seconds=fit_seconds, seconds=seconds)
    assert quick + slow < fit_seconds


def test_boxes_of_a_detector(benchmark: BenchmarkFixture) -> None:
    """All box measures of 100 scenes by the bundled DETR, against one forward pass over them."""
    model = load_model("bundled:detr")
    samples = Split(Scenes(13, COUNT), tuple(range(COUNT))).samples()
    images = torch.stack([sample.image for sample in samples])
    begun = time.perf_counter()
    for part in images.split(32):
        model.predict(part)
    forward = time.perf_counter() - begun

    def measure() -> None:
        fit = Split(Scenes(11, 64), tuple(range(64)))
        subject = Subject(model, model.stages[:-1], samples, images, fit, 0, CLASSES)
        scoring = Scoring(subject, "encoder", images, lambda x: x, lambda x: x)
        for name in METRICS:
            if name.startswith("detector_") and name != "detector_recall_small":
                make_metric(name).compute(scoring)

    benchmark.pedantic(measure, rounds=1, iterations=1)
    print(f"\nbox measures of {COUNT} scenes: {benchmark.stats['mean']:.1f} s, one forward pass {forward:.1f} s")
