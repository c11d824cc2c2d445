"""How fast the training engine is, as ratios in one run: ``pytest benchmarks/test_speed_engine.py -s``.

The reference is a plain loop as Rathjens et al. 2024 describe it: one inverse module a component, Adam at a constant
rate, gradients clipped at 1, mean squared error of the component's own input. It runs the frozen model on every batch
of every epoch, does one backward a stage, and reads every loss to the host. Engine and reference train the same
networks on the same photos; the engine's share of the reference's wall time is taken at the least number of image
passes, of a ladder of them, at which every stage's held-out PSNR is at least the reference's. Start, evaluations and
checkpoints are in the engine's time; the reference is not even charged for evaluations.

The real ViT-Ti on photos is measured where INVSUITE_TEST_DATA names a folder with both; INVSUITE_PASSES sets the
reference's image passes (default 3,840).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn

from invsuite.data.coco import CocoSource
from invsuite.data.folder import FolderSource
from invsuite.data.scenes import Scenes
from invsuite.data.sources import DataSpec, open_splits
from invsuite.data.split import HeldBackSource, Split
from invsuite.methods import make_method
from invsuite.methods.base import Fitted
from invsuite.methods.networks import Modular, compose
from invsuite.methods.problem import Budget, Context, Engine, Problem
from invsuite.methods.ridge import Ridge
from invsuite.methods.training.features import FeatureCache
from invsuite.models.load import load_model

PASSES = int(os.environ.get("INVSUITE_PASSES", "3840"))
LADDER = (2 / 15, 1 / 5, 4 / 15, 2 / 5, 1)
RATE = 1e-3  # the published scripts use 1e-3 for image decoders and for every module of DETR
BATCH = {"reference": 16, "engine": 4}  # the engine's steps are cheap enough for small batches
ENGINES = {"float32": Engine(precision="float32"), "bfloat16": Engine(precision="bfloat16")}


@dataclass(frozen=True)
class Setting:
    """A problem with held-out images to score."""

    problem: Problem
    held_out: Split
    method: Modular

    def psnr(self, fitted: Fitted) -> dict[str, float]:
        """Mean PSNR in dB of every stage on the held-out images."""
        totals = dict.fromkeys(self.problem.stages, 0.0)
        for images in self.held_out.batches(25):
            found = self.problem.model.represent(images, self.problem.stages)
            for stage in self.problem.stages:
                made = fitted.invert(found[stage], images)
                totals[stage] += float(-10 * (made - images).square().mean((1, 2, 3)).log10().sum())
        return {stage: total / len(self.held_out) for stage, total in totals.items()}


def method(width: int, start: str) -> Modular:
    # large steps, but small ones for what was solved and for what adds to it: the rates of a short training
    recipe = {"patience": 2, "learning_rate": 8e-3, "linear_rate": 0.01, "output_rate": 0.1}
    made = make_method("modular", {"width": width, "depth": 1, "start": start, "recipe": recipe})
    assert isinstance(made, Modular)
    return made


def bundled() -> Setting:
    """The bundled ViT on scenes, three stages."""
    fit, select, held_out = (Split(Scenes(seed, n), tuple(range(n))) for seed, n in ((11, 1200), (12, 32), (13, 50)))
    stages = ("embed", "block03", "block06")
    model = load_model("bundled:vit")
    problem = Problem(model, stages, stages, fit, select, Budget(image_passes=PASSES, batch=BATCH["reference"]), seed=0)
    return Setting(problem, held_out, method(96, "ridge"))


def vit_tiny() -> Setting:
    """ViT-Ti/16 with ImageNet weights on photos, four stages."""
    data = os.environ.get("INVSUITE_TEST_DATA", "")
    if not (Path(data) / "photos").is_dir():
        pytest.skip("INVSUITE_TEST_DATA does not name a folder with real weights and photos")
    model = load_model("timm:vit_tiny_patch16_224", "vit_tiny")
    photos, coco = Path(data) / "photos" / "train", Path(data) / "coco" / "tiny_coco"
    spec = DataSpec(FolderSource(str(photos)), HeldBackSource(32), CocoSource(str(coco), "val2017", 50))
    splits = open_splits(spec, model.image_size)
    stages = ("embed", "block03", "block06", "block09")
    problem = Problem(
        model, stages, stages, splits.fit, splits.select, Budget(image_passes=PASSES, batch=BATCH["reference"]), seed=0
    )
    return Setting(problem, splits.score, method(192, "ridge"))


SETTINGS = {"bundled": bundled, "vit_tiny": vit_tiny}


def reference_loop(setting: Setting) -> tuple[float, dict[str, float]]:
    """Wall seconds of the plain loop, and the held-out PSNR of its chains."""
    problem = setting.problem
    # the same networks, closed-form paths as initialised; measuring their scales is not charged to the reference
    modules, _ = method(setting.method.width, "random").initialised_modules(problem, problem.stages[-1])
    optimisers = {stage: torch.optim.Adam(module.train().parameters(), lr=RATE) for stage, module in modules.items()}
    size, losses, seen = problem.budget.batch, [], 0
    generator = torch.Generator().manual_seed(0)
    begun = time.perf_counter()
    while seen < PASSES:
        for rows in torch.randperm(len(problem.fit), generator=generator).split(size):
            images = problem.fit.images(rows.tolist())
            found = problem.model.represent(images, problem.stages)
            target = images
            for stage, module in modules.items():
                loss = F.mse_loss(module(found[stage].tensor), target)
                optimisers[stage].zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(module.parameters(), 1.0)
                optimisers[stage].step()
                losses.append(loss.item())
                target = found[stage].tensor
            seen += len(rows)
            if seen >= PASSES:
                break
    seconds = time.perf_counter() - begun
    chains = {stage: compose(modules, problem.chain_to(stage)).eval() for stage in problem.stages}
    totals = dict.fromkeys(problem.stages, 0.0)
    with torch.no_grad():
        for images in setting.held_out.batches(25):
            for stage, kept in problem.model.represent(images, problem.stages).items():
                made = chains[stage](kept.tensor).clamp(0, 1)
                totals[stage] += float(-10 * (made - images).square().mean((1, 2, 3)).log10().sum())
    return seconds, {stage: total / len(setting.held_out) for stage, total in totals.items()}


def fit(method: Modular, problem: Problem) -> Fitted:
    """A fit as the runner does it, nothing kept from another one."""
    cache = FeatureCache(problem.context.engine.cache)
    fitted = method.fit(replace(problem, context=replace(problem.context, features=cache, charged=set())))
    cache.close()
    return fitted


@pytest.mark.parametrize("precision", ENGINES)
@pytest.mark.parametrize("name", SETTINGS)
def test_engine_against_a_plain_loop(name: str, precision: str, benchmark: BenchmarkFixture) -> None:
    setting = SETTINGS[name]()
    setting.problem.fit.images(slice(0, 1))  # photos are decoded before any clock runs
    reference_seconds, target = reference_loop(setting)
    rows = [("reference", PASSES, reference_seconds, target)]
    for part in LADDER:
        passes = max(BATCH["engine"], round(PASSES * part))
        budget = Budget(image_passes=passes, batch=BATCH["engine"])
        problem = replace(setting.problem, budget=budget, context=Context(engine=ENGINES[precision]))
        begun = time.perf_counter()
        fitted = fit(setting.method, problem)
        seconds = time.perf_counter() - begun
        reached = setting.psnr(fitted)
        rows.append(("engine", passes, seconds, reached))
        if all(reached[stage] >= target[stage] for stage in target):
            break
    else:
        pytest.fail(f"the engine never reached the reference's PSNR: {rows}")
    print()
    for who, passes, seconds, reached in rows:
        quality = ", ".join(f"{stage} {value:.2f}" for stage, value in reached.items())
        print(f"{name} {precision} {who:9s} {passes:6d} passes {seconds:7.1f} s  PSNR dB: {quality}")
    ratio = rows[-1][2] / reference_seconds
    cost = fitted.cost
    own = sum(cost.stage_seconds.values())
    print(
        f"{name} {precision}: {ratio:.3f} of the reference's wall time ({1 / ratio:.1f} times faster); of it the "
        f"networks' own steps and start take {own:.1f} s, frozen forwards and reading {cost.shared_seconds:.1f} s, "
        f"evaluations and the rest {rows[-1][2] - own - cost.shared_seconds:.1f} s"
    )
    benchmark.extra_info.update(
        ratio=ratio, reference_seconds=reference_seconds, rows=[list(map(str, r)) for r in rows]
    )
    benchmark.pedantic(fit, (setting.method, problem), rounds=1, iterations=1)


@pytest.mark.parametrize("name", SETTINGS)
def test_ridge_against_one_forward_pass(name: str, benchmark: BenchmarkFixture) -> None:
    """Ridge for all stages over one frozen forward pass of the same photos; forward and ridge take turns."""
    setting = SETTINGS[name]()
    fit = Split(setting.problem.fit.dataset, setting.problem.fit.rows[:640])
    problem = replace(setting.problem, fit=fit)
    model = problem.model

    def forward() -> float:
        begun = time.perf_counter()
        for images in fit.batches(32):
            model.represent(images, problem.stages)
        return time.perf_counter() - begun

    def ridge() -> float:
        begun = time.perf_counter()
        Ridge().fit(problem)
        return time.perf_counter() - begun

    fit.images(slice(0, 1))
    forward(), ridge()
    ratios = []
    for _ in range(3):
        before, taken, after = forward(), ridge(), forward()
        ratios.append(2 * taken / (before + after))
    print(f"\n{name}: ridge at {len(problem.stages)} stages takes {sorted(ratios)[1]:.2f} of a forward pass {ratios}")
    benchmark.extra_info.update(ratios=ratios)
    benchmark.pedantic(ridge, rounds=1, iterations=1)
