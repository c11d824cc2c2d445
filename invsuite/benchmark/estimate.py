"""What a plan would cost on this device, estimated from short, timed pieces of its own work.

An estimate, not a measurement. Timed for each model, after a warm-up: its forward pass to every stage, a training step
of every inverse network of the cut, and the suite's measures on a few scored images. Counted as the run does it: one
frozen forward an image for all fits (`invsuite.methods.training.features`), one pass over the fit images a method
that reads them, whatever the number of stages. Early stopping, reading data and writing files are left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from invsuite.benchmark.cells import Cell, LoadedModel, Plan
from invsuite.benchmark.runner import USUAL_PASSES
from invsuite.data.split import Split
from invsuite.errors import InvsuiteError
from invsuite.methods.networks import NetworkMethod
from invsuite.methods.problem import Problem
from invsuite.methods.training.features import expected_distinct
from invsuite.metrics.base import Scoring, Subject
from invsuite.models.base import Model, Representation

IMAGES = 4  # of a timed piece
FIT_IMAGES = 64  # that measures may look at while they are timed
BACKWARD = 3.0  # forward passes that one forward and backward pass is worth
EVALUATED = 1.1  # what training takes with its evaluations, over its steps alone
SOLVED = 1.5  # what a method that reads the fit images takes, over the frozen forward it needs


@dataclass(frozen=True)
class Calibration:
    """One model on one device.

    Attributes:
        forward: seconds of an image's forward pass to each stage of the cut.
        weight_bytes: of the model.
        kept_bytes: that a backward pass from the deepest stage to the pixels of one image keeps.
    """

    forward: Mapping[str, float]
    weight_bytes: int
    kept_bytes: int

    def memory(self, batch: int) -> int:
        """Bytes that a batch needs, the inverse networks left out."""
        return self.weight_bytes + batch * self.kept_bytes


@dataclass(frozen=True)
class Cost:
    """Estimated hours of the cells still to run, most memory in bytes of any model, and the models without an estimate
    because they cannot be had here."""

    hours: float
    memory: int
    unknown: tuple[str, ...]


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of ``work``, done a second time."""
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    return seconds


def calibrate(model: Model, stages: Collection[str], device: torch.device) -> Calibration:
    """Time passes of random images to each of ``stages``, and note what a backward pass from the deepest keeps."""
    model.to(device)
    ordered = model.order(tuple(stages))
    images = torch.rand(IMAGES, 3, *model.image_size, device=device)
    forward = {s: timed(lambda s=s: model.represent(images, [s]), device) / IMAGES for s in ordered}  # type: ignore[misc]
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.network.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        answer = model.run(images[:1].clone().requires_grad_(), None, ordered[-1])
    del answer
    activations = sum(size for pointer, size in kept.items() if pointer not in weights)
    return Calibration(forward, sum(weights.values()), activations)


def step_seconds(plan: Plan, entry: LoadedModel, method: NetworkMethod, device: torch.device) -> dict[str, float]:
    """Seconds an image of a forward and backward pass of the inverse network of every component of the cut."""
    model, engine = entry.model, plan.suite.engine
    cut = model.order(entry.spec.stages)
    problem = Problem(model, cut, cut, entry.splits.fit, entry.splits.select, plan.suite.budget, 0)
    found = model.represent(torch.rand(IMAGES, 3, *model.image_size, device=device), cut)
    seconds = {}
    for stage, link in method.links(problem, ("calibrate",)).items():
        link.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]

        def step(given: Representation = found[stage], link: torch.nn.Module = link) -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=engine.bfloat16(device)):
                loss = link(given.tensor).square().mean()
            loss.backward()

        seconds[stage] = timed(step, device) / IMAGES
    return seconds


def measure_cost(plan: Plan, entry: LoadedModel, stage: str, device: torch.device) -> tuple[float, float]:
    """Seconds of all measures an image of one cell at ``stage``, and how many further reconstructions they ask for;
    what is kept for all cells is there already."""
    splits, model = entry.splits, entry.model
    samples = [splits.score.sample(i) for i in range(min(IMAGES, len(splits.score)))]
    images = torch.stack([sample.image for sample in samples]).to(device)
    asked = 0

    def blurred(shown: torch.Tensor) -> torch.Tensor:
        return F.interpolate(F.avg_pool2d(shown, 8), shown.shape[-2:], mode="bilinear").clamp(0, 1)

    def reconstruct(shown: torch.Tensor) -> torch.Tensor:
        nonlocal asked
        asked += len(shown)
        return blurred(shown)

    subject = Subject(
        model,
        model.order(entry.spec.stages),
        samples,
        images,
        fit=Split(splits.fit.dataset, splits.fit.rows[:FIT_IMAGES]),
        edit_limit=-(-plan.suite.edits * len(samples) // len(splits.score)),
        classes=splits.score.dataset.classes,
        witness=entry.witness,
    )

    def measure() -> None:
        nonlocal asked
        asked = 0
        scoring = Scoring(
            subject, stage, blurred(images), reconstruct, lambda tensor: reconstruct(images[: len(tensor)])
        )
        for metric in plan.metrics:
            try:
                metric.prepare(device)
                metric.compute(scoring)
            except InvsuiteError:  # a measure that does not apply costs nothing
                continue

    return timed(measure, device) / len(samples), asked / len(samples)


def model_seconds(
    plan: Plan, entry: LoadedModel, cells: Sequence[Cell], found: Calibration, device: torch.device
) -> float:
    """Seconds of the ``cells`` of one model."""
    suite, model, splits = plan.suite, entry.model, entry.splits
    forward = found.forward
    steps = {
        (m.architecture, m.width, m.depth): step_seconds(plan, entry, m, device)
        for m in {cell.method.name: cell.method.method for cell in cells}.values()
        if isinstance(m, NetworkMethod)
    }
    measured, asked = measure_cost(plan, entry, cells[0].stage, device)
    images = len(splits.score) * (1 + asked)  # reconstructed, a cell
    passes = suite.budget.image_passes if suite.budget.image_passes is not None else USUAL_PASSES
    deepest = max(forward[cell.stage] for cell in cells)
    seconds = 0.0
    trained: set[str] = set()
    solved: set[str] = set()
    for cell in cells:
        method, before = cell.method.method, cell.model.stages[: cell.model.stages.index(cell.stage) + 1]
        seconds += images * forward[cell.stage] + len(splits.score) * measured
        if isinstance(method, NetworkMethod):
            own = steps[method.architecture, method.width, method.depth]
            chain = sum(own[stage] for stage in model.order(before))
            together = getattr(method, "share", float(method.family != "modular"))  # of the budget on the whole chain
            step = (1 - together) * own[cell.stage] + together * chain
            seconds += EVALUATED * step * passes if suite.budget.seconds is None else suite.budget.seconds
            seconds += images * chain / BACKWARD
        elif method.uses_budget:
            seconds += BACKWARD * forward[cell.stage] * passes
        if method.family == "optimisation":
            updates = getattr(method, "iterations", 1) * getattr(method, "restarts", 1) * getattr(method, "ensemble", 1)
            seconds += updates * images * BACKWARD * forward[cell.stage]
        if method.uses_budget:
            trained.add(cell.fit_id)
        elif method.reads_fit:
            solved.add(cell.fit_id)
    seconds += SOLVED * len(solved) * len(splits.fit) * deepest
    if trained:
        seconds += deepest * (expected_distinct(float(passes * len(trained)), 2 * len(splits.fit)) + len(splits.select))
    return seconds


def plan_cost(plan: Plan, to_run: Collection[str], device: torch.device) -> Cost:
    """The cost of the cells with ids ``to_run``."""
    seconds, memory, unknown = 0.0, 0, []
    for entry in plan.models:
        cells = [cell for cell in entry.cells if cell.id in to_run]
        if not cells:
            continue
        if not isinstance(entry, LoadedModel):
            unknown.append(entry.spec.name)
            continue
        if isinstance(entry.witness, Model):
            entry.witness.to(device)
        found = calibrate(entry.model, entry.spec.stages, device)
        memory = max(memory, found.memory(plan.suite.budget.batch))
        seconds += model_seconds(plan, entry, cells, found, device)
        entry.model.to("cpu")
        if isinstance(entry.witness, Model):
            entry.witness.to("cpu")
    return Cost(seconds / 3600, memory, tuple(unknown))
