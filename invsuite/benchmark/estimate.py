"""What a plan takes: passes of images, for the time left of a run, and hours on this device, for a dry run.

Both follow from what each method says of its `invsuite.methods.base.Work`. Hours are an estimate, not a measurement:
timed for each model, after a warm-up, are its forward pass to every stage, a training step of every inverse network of
the cut, and the suite's measures on a few scored images. Counted as the run does it: one frozen forward pass per image
for all fits (`invsuite.methods.training.features`), one pass over the fit images for a method that reads them, whatever
the number of stages. Photos are decoded once by all processors, unless their pixels are in the user's cache; early
stopping and writing files are left out.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from invsuite._system.cache import cache_limit
from invsuite._system.memory import available_memory
from invsuite._system.spill import disk_budget, memory_budget
from invsuite.benchmark.cells import Cell, LoadedModel, Plan
from invsuite.data.decoding import images_of, is_decoded, pixels_name
from invsuite.data.split import Split
from invsuite.inverses.networks import InverseSettings
from invsuite.methods.base import Method, Work, WorkFacts
from invsuite.methods.networks import inverse_networks
from invsuite.methods.problem import Problem
from invsuite.methods.training.features import expected_distinct
from invsuite.metrics.base import Scoring, Subject
from invsuite.models.base import Model, Representation
from invsuite.models.stage_words import chain_in, ordinary

USUAL_PASSES, USUAL_IMAGES, USUAL_SCORED = 10_000, 1_000, 100  # where the suite does not say how many
MEASURE = 0.3  # image passes that a measure takes per image: from 0.1 of a ViT-B's to 1 of a tiny model's
IMAGES = 4  # of a timed piece
FIT_IMAGES = 64  # that measures may look at while they are timed
BACKWARD = 3.0  # forward passes that one forward and backward pass is worth
EVALUATED = 1.1  # what training takes with its evaluations, over its steps alone
SOLVED = 1.5  # what a method that reads the fit images takes, over the frozen forward it needs


def cell_passes(plan: Plan, cell: Cell) -> float:
    """Return the image passes of a cell, roughly: its share of a fit, and those of the images it reconstructs.

    A budget in seconds or operations is taken as `USUAL_PASSES`, for want of a measurement.
    """
    data, images = plan.suite.data_of(cell.model), reconstructed_images(plan, cell)
    work = _work(cell, WorkFacts(data.fit.count or USUAL_IMAGES, _budget_passes(plan, cell)))
    fitted = work.fit_passes / len(cell.model.stages) + work.trained_passes + work.searched_passes
    return images + fitted + float(work.updates) * images


def measure_passes(plan: Plan, cell: Cell) -> float:
    """Return the image passes that one measure of a cell is worth, roughly."""
    return MEASURE * reconstructed_images(plan, cell)


def reconstructed_images(plan: Plan, cell: Cell) -> int:
    """Return how many images inverting and scoring a cell reconstruct, roughly."""
    count = plan.suite.data_of(cell.model).score.count or USUAL_SCORED
    return cell.method.scored(count) + 2 * cell.method.edited(plan.suite.edits)


def _work(cell: Cell, facts: WorkFacts) -> Work:
    """Return what a method says of its work; of a plug-in's that breaks over it, what any method does."""
    try:
        return cell.method.method.work(facts)
    except Exception:
        return Method.work(cell.method.method, facts)


def _budget_passes(plan: Plan, cell: Cell) -> int:
    passes = cell.method.budget(plan.suite.budget).image_passes
    return USUAL_PASSES if passes is None else passes


@dataclass(frozen=True)
class ModelTimes:
    """How fast one model is on one device, and how large.

    Attributes:
        forward: seconds of an image's forward pass to each stage of the cut.
        weight_bytes: of the model.
        kept_bytes: that a backward pass from the deepest stage to the pixels of one image keeps.
    """

    forward: Mapping[str, float]
    weight_bytes: int
    kept_bytes: int

    def memory(self, batch: int) -> int:
        """Return the bytes that a batch needs, the inverse networks left out."""
        return self.weight_bytes + batch * self.kept_bytes


@dataclass(frozen=True)
class PlanCost:
    """What the cells still to run take.

    Attributes:
        hours: estimated.
        memory: the most bytes of any model.
        unknown: models without an estimate, because they cannot be had here.
        decoding: those of the hours in which photos are decoded.
        disk: bytes of reconstructions that are kept beside the records, and of decoded photos.
        shortages: what this machine has too little of, in words.
    """

    hours: float
    memory: int
    unknown: tuple[str, ...]
    decoding: float = 0.0
    disk: int = 0
    shortages: tuple[str, ...] = ()


def timed(piece: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of ``piece``, done a second time."""
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        piece()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    return seconds


def time_model(model: Model, stages: Collection[str], device: torch.device) -> ModelTimes:
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
    return ModelTimes(forward, sum(weights.values()), activations)


def step_seconds(plan: Plan, entry: LoadedModel, settings: InverseSettings, device: torch.device) -> dict[str, float]:
    """Return the seconds per image of a training step of the inverse network of every component of the cut."""
    model, engine = entry.model, plan.suite.engine
    cut = model.order(entry.spec.stages)
    problem = Problem(model, cut, cut, entry.splits.fit, entry.splits.select, plan.suite.budget, 0)
    representations = model.represent(torch.rand(IMAGES, 3, *model.image_size, device=device), cut)
    networks = inverse_networks(problem, settings, ("estimate",), problem.cut)
    for stage in cut:
        if stage not in networks:  # several stages read together
            networks |= inverse_networks(problem, settings, ("estimate",), problem.chain_to(stage))
    seconds = {}
    for stage, module in networks.items():
        module.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]

        def step(source: Representation = representations[stage], module: torch.nn.Module = module) -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=engine.bfloat16(device)):
                loss = module(source.tensor).square().mean()
            loss.backward()

        seconds[stage] = timed(step, device) / IMAGES
    return seconds


def measure_seconds(
    plan: Plan, entry: LoadedModel, stage: str, edited: float, device: torch.device
) -> tuple[float, float]:
    """Return the seconds of all measures per image of one cell, and how many further reconstructions they ask for.

    What is kept for all cells of a model is there already.

    Args:
        plan: whose measures are timed.
        entry: the model, with its data.
        stage: of the cell.
        edited: share of the scored images that the method is asked to reconstruct edited, too.
        device: where it runs.
    """
    splits, model = entry.splits, entry.model
    samples = [splits.score.sample(i) for i in range(min(IMAGES, len(splits.score)))]
    images = torch.stack([sample.image for sample in samples]).to(device)
    further = 0

    def blurred(batch: torch.Tensor) -> torch.Tensor:
        return F.interpolate(F.avg_pool2d(batch, 8), batch.shape[-2:], mode="bilinear").clamp(0, 1)

    def reconstruct(batch: torch.Tensor) -> torch.Tensor:
        nonlocal further
        further += len(batch)
        return blurred(batch)

    subject = Subject(
        model,
        model.order(ordinary(entry.spec.stages)),
        samples,
        images,
        fit=Split(splits.fit.dataset, splits.fit.rows[:FIT_IMAGES]),
        edit_limit=math.ceil(edited * len(samples)),
        classes=splits.score.dataset.classes,
        witness=entry.witness,
    )

    def measure() -> None:
        nonlocal further
        further = 0
        scoring = Scoring(
            subject, stage, blurred(images), reconstruct, lambda tensor: reconstruct(images[: len(tensor)])
        )
        for metric in plan.metrics:
            try:
                metric.prepare(device)
                metric.compute(scoring)
            except Exception:  # a measure that does not apply, or breaks, costs nothing
                continue

    return timed(measure, device) / len(samples), further / len(samples)


def model_seconds(
    plan: Plan, entry: LoadedModel, cells: Sequence[Cell], times: ModelTimes, device: torch.device
) -> float:
    """Return the seconds of the ``cells`` of one model."""
    suite, model, splits = plan.suite, entry.model, entry.splits
    facts = {cell.method.name: WorkFacts(len(splits.fit), _budget_passes(plan, cell)) for cell in cells}
    works = {cell.method.name: _work(cell, facts[cell.method.name]) for cell in cells}
    sizes = {work.networks for work in works.values() if work.networks is not None}
    steps = {settings: step_seconds(plan, entry, settings, device) for settings in sizes}
    edited = {
        cell.method.name: cell.method.edited(suite.edits) / cell.method.scored(len(splits.score)) for cell in cells
    }
    measures = {
        share: measure_seconds(plan, entry, cells[0].stage, share, device) for share in sorted(set(edited.values()))
    }
    cut, deepest = model.order(entry.spec.stages), max(times.forward[cell.stage] for cell in cells)
    seconds = 0.0
    trained: dict[str, int] = {}
    cropped: dict[str, int] = {}
    fit_passes: dict[str, int] = {}
    for cell in cells:
        work, forward = works[cell.method.name], times.forward[cell.stage]
        scored = cell.method.scored(len(splits.score))
        measured, further = measures[edited[cell.method.name]]
        images = scored * (1 + further)  # reconstructed
        seconds += images * forward + scored * measured
        step = BACKWARD * forward * work.model_share
        if work.networks is not None:
            own = steps[work.networks]
            chain = sum(own[stage] for stage in chain_in(cut, cell.stage))
            step += (1 - work.chain_share) * own[cell.stage] + work.chain_share * chain
            seconds += images * chain / BACKWARD
        if work.trained_passes:
            (cropped if work.crops else trained)[cell.fit_id] = facts[cell.method.name].image_passes
            limit = cell.method.budget(suite.budget).seconds
            seconds += EVALUATED * step * work.trained_passes if limit is None else limit
        fit_passes[cell.fit_id] = work.fit_passes
        seconds += (work.updates * images + work.searched_passes) * BACKWARD * forward
    seconds += SOLVED * sum(fit_passes.values()) * deepest
    if trained:
        distinct = expected_distinct(float(sum(trained.values())), 2 * len(splits.fit))
        seconds += deepest * distinct
    if cropped:
        seconds += (deepest + decode_some(splits.fit)[1]) * sum(cropped.values())
    if trained or cropped:
        seconds += deepest * len(splits.select)
    return seconds


def decode_some(split: Split) -> tuple[torch.Tensor, float]:
    """Return the first images (B, 3, H, W) of ``split``, and the seconds in which all processors decode one."""
    begun = time.perf_counter()
    images = images_of(split.dataset, split.rows[:IMAGES])
    return images, (time.perf_counter() - begun) / len(images)


def decoding_cost(splits: Iterable[Split], known: set[str]) -> tuple[float, int]:
    """Return the seconds in which the photos of ``splits`` are decoded, and the bytes of their pixels.

    Args:
        splits: of one model.
        known: names of pixels that are counted already; those of ``splits`` are added.
    """
    seconds, size = 0.0, 0
    for split in splits:
        if not split.dataset.is_photos or not split.rows:
            continue
        pixels, taken = decode_some(split)
        name = pixels_name(split.digest(), (len(split), *pixels.shape[1:]))
        if name not in known and not is_decoded(name):
            seconds += taken * len(split)
            size += pixels[0].numel() * len(split)  # a byte each
        known.add(name)
    return seconds, size


def kept_bytes(entry: LoadedModel, cells: Sequence[Cell]) -> int:
    """Return the bytes of the scored reconstructions of ``cells`` that are kept beside their records."""
    height, width = entry.model.image_size
    return sum(4 * 3 * height * width * cell.method.scored(len(entry.splits.score)) for cell in cells)


def plan_cost(plan: Plan, to_run: Collection[str], device: torch.device, folder: Path = Path()) -> PlanCost:
    """Return the cost of the cells with ids ``to_run``, and what this machine lacks for it.

    Args:
        plan: with the cells.
        to_run: ids of those that are computed.
        device: that computes.
        folder: for the records.
    """
    seconds, memory, unknown = 0.0, 0, []
    decoding, pixels, kept, known = 0.0, 0, 0, set[str]()
    for entry in plan.models:
        cells = [cell for cell in entry.cells if cell.id in to_run]
        if not cells:
            continue
        if not isinstance(entry, LoadedModel):
            unknown.append(entry.spec.name)
            continue
        if isinstance(entry.witness, Model):
            entry.witness.to(device)
        own, size = decoding_cost(entry.splits.parts.values(), known)
        decoding, pixels, kept = decoding + own, pixels + size, kept + kept_bytes(entry, cells)
        times = time_model(entry.model, entry.spec.stages, device)
        memory = max(memory, times.memory(plan.suite.budget.batch))
        seconds += model_seconds(plan, entry, cells, times, device)
        entry.model.to("cpu")
        if isinstance(entry.witness, Model):
            entry.witness.to("cpu")
    shortages = _shortages(device, memory, folder, kept, pixels)
    hours, kept_photos = (seconds + decoding) / 3600, pixels if pixels <= cache_limit() else 0
    return PlanCost(hours, memory, tuple(unknown), decoding / 3600, kept + kept_photos, tuple(shortages))


def _shortages(device: torch.device, memory: int, folder: Path, kept: int, pixels: int) -> Iterator[str]:
    """Yield in words what there is too little of."""
    free = available_memory(device)
    if memory > free:
        yield (
            f"a batch needs {_gib(memory)} of memory, {_gib(free)} are free on this {device.type}: it is halved until "
            "it fits, which takes longer; set budget.batch, or use another device"
        )
    room = shutil.disk_usage(existing(folder)).free
    if kept > room:
        yield (
            f"reconstructions to keep take {_gib(kept)}, {_gib(room)} are free in '{existing(folder)}': keep fewer "
            "with --keep, or name another --out"
        )
    limit, temporary = memory_budget(), disk_budget()
    if pixels > max(limit, temporary):
        yield (
            f"decoded photos take {_gib(pixels)}, more than memory ({_gib(limit)}) and temporary files "
            f"({_gib(temporary)}) may hold: they are decoded at every use"
        )


def existing(folder: Path) -> Path:
    """Return the nearest folder above ``folder``, or it, that exists."""
    return next((path for path in (folder, *folder.absolute().parents) if path.is_dir()), Path())


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"
