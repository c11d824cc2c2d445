"""The one training engine that every trained method shares, so that they differ in their objective and in nothing else.

Each step: one batch of fit images and what the frozen model holds of them (`invsuite.methods.training.features`:
computed once, kept where that is faster), then for every inverse network its own loss, backward, clip and update. The
networks are independent: training one or ten together gives the same weights, because each has its own seed and all
see the images in the same order. No step reads a value back from the device.

A budget (`invsuite.methods.problem.Budget`) limits image passes, own seconds or operations of each network. Operations
a step are counted once, before the loop, on a copy of the network, so that a budget of them becomes a number of
steps; with seconds the rate schedule follows the share of the time that is spent. A sweep of learning rates is part of
the budget. After each evaluation the whole state goes to a checkpoint, from which a killed training goes on to the same
weights.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import nn

from invsuite._system.flops import count_flops
from invsuite._system.timing import Stopwatch
from invsuite.data.split import Split
from invsuite.errors import ConvergenceError, UsageError
from invsuite.inverses.attention import TokenMixer
from invsuite.inverses.convolution import SpatialToSpatial
from invsuite.methods.problem import Budget, Problem
from invsuite.methods.training.checkpoint import Checkpoint
from invsuite.methods.training.features import Draw, FeatureCache, FeatureStream, SelectionFeatures, selection_features

RECIPE_VERSION = 5  # raise when the loop changes what it computes: it is part of every cell's identity
CLOCK_STEPS = 16  # steps between readings of a GPU's clock, which wait for it, where seconds are the budget
CHECKPOINT_SECONDS = 5.0  # a checkpoint younger than this is not written anew
EVALUATED = 1 / 8  # of the images training sees, at most, are looked at in evaluations
PATIENT_FROM = 0.5  # share of the budget before which a rising selection loss stops nothing: the rate is still high

Tensors = dict[str, torch.Tensor]
#: images (B, 3, H, W) and every stage's tensor of one batch -> scalar loss of ``module``
Objective = Callable[[nn.Module, torch.Tensor, Tensors], torch.Tensor]
#: every stage's tensor of one batch -> images (B, 3, H, W), or several times B where stages follow each other; they
#: are not clamped
Reconstruct = Callable[[Tensors], torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """Optimisation settings, the same for every trained method: AdamW, linear warm-up, cosine decay, clipping.

    Attributes:
        learning_rate: at the top of the schedule.
        weight_decay: of AdamW.
        clip: largest norm of each inverse network's gradient.
        warmup: share of the budget over which the rate rises.
        evaluations: on the selection images, at equal parts of the budget; the best weights are kept. There are fewer
            where they would look at more than an eighth as many images as training does, but always one.
        flip: mirrors a random half of each batch.
        sweep: learning rates to try instead of ``learning_rate``: each trains every network from its start on an
            equal part of ``sweep_share`` of the budget, and the one with the least selection loss gets the rest.
        sweep_share: see ``sweep``; 0 to 1.
        linear_rate: share of the learning rate that what ridge regression solved of a network gets: full steps would
            only shake it.
        output_rate: share of the learning rate that the last layer beside a solved path gets: it starts at zero, and
            short trainings gain from small steps there.
        patience: evaluations without a better selection loss after which, past the middle of the budget, training
            stops; 0 never stops early.

    Raises:
        UsageError: for a rate that is not positive or a share outside 0 to 1.
    """

    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    warmup: float = 0.05
    evaluations: int = 8
    flip: bool = True
    sweep: list[float] = field(default_factory=list)
    sweep_share: float = 0.2
    linear_rate: float = 0.02
    output_rate: float = 1.0
    patience: int = 3

    def __post_init__(self) -> None:
        for rate in (self.learning_rate, *self.sweep):
            if isinstance(rate, bool) or not isinstance(rate, int | float) or rate <= 0:
                raise UsageError(f"recipe: a learning rate is {rate!r}, expected a number above 0")
        if not 0 < self.sweep_share < 1:
            raise UsageError(f"recipe: 'sweep_share' is {self.sweep_share}, expected between 0 and 1")
        if self.evaluations < 1 or self.patience < 0:
            raise UsageError(
                f"recipe: {self.evaluations} evaluations and a patience of {self.patience}: need 1 or more, 0 or more"
            )


@dataclass(frozen=True)
class Spent:
    """What was spent on a network before its training: seconds and operations, own and of the frozen model."""

    seconds: float = 0.0
    flops: float = 0.0
    frozen_flops: float = 0.0
    image_passes: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.seconds + other.seconds,
            self.flops + other.flops,
            self.frozen_flops + other.frozen_flops,
            self.image_passes + other.image_passes,
        )


@dataclass
class Job:
    """One inverse network to train.

    Attributes:
        name: of the job, unique among those trained together.
        module: what is trained.
        needs: the stages whose tensors its objective (and ``reconstruct``) read.
        objective: its loss.
        reconstruct: images as the networks stand now, for the quality in the curve; all are in eval mode then.
        weight: how many inverses' budgets of seconds or operations the job may spend: a job that trains one chain
            for several stages at once has theirs together.
        keep_start: the weights it starts from are a candidate, kept if training never improves on them.
        spent: what its start took; it comes off a budget of seconds or operations, and is part of the outcome.
        generator: random numbers its objective draws, so that a checkpoint can take them along.
    """

    name: str
    module: nn.Module
    needs: tuple[str, ...]
    objective: Objective
    reconstruct: Reconstruct | None = None
    weight: int = 1
    keep_start: bool = True
    spent: Spent = field(default_factory=Spent)
    generator: torch.Generator | None = None


@dataclass
class Outcome:
    """What training one job took and reached.

    ``curve`` holds (image passes, own seconds, selection loss, mean selection PSNR in dB or None), ``entries`` the PSNR
    of each stage that a job for several makes images from, in the order it makes them. ``fit_flops`` and
    ``frozen_flops`` are as in `invsuite.methods.base.FitCost`. ``sweep`` holds (learning rate, selection loss).
    """

    seconds: float = 0.0
    image_passes: int = 0
    best_selection_loss: float = math.inf
    best_at_pass: int = 0
    parameters: int = 0
    fit_flops: float = 0.0
    frozen_flops: float = 0.0
    learning_rate: float = 0.0
    stopped_early: bool = False
    curve: list[tuple[int, float, float, float | None]] = field(default_factory=list)
    entries: list[list[float]] = field(default_factory=list)
    sweep: list[tuple[float, float]] = field(default_factory=list)

    def notes(self) -> dict[str, Any]:
        """For the record."""
        notes: dict[str, Any] = {
            "selection_loss": self.best_selection_loss,
            "selected_at_pass": self.best_at_pass,
            "learning_rate": self.learning_rate,
            "stopped_early": self.stopped_early,
            "curve": [list(point) for point in self.curve],
        }
        return notes | ({"sweep": [list(trial) for trial in self.sweep]} if self.sweep else {})


@dataclass
class TrainingReport:
    """Outcome per job, the seconds of the frozen forward passes all jobs shared, and how representations were kept."""

    outcomes: dict[str, Outcome]
    shared_seconds: float
    features: str = ""


@dataclass
class Pace:
    """How far one job is through its budget.

    ``steps`` is how many it will take: known for image passes and operations, expected and corrected after every
    step for ``seconds``. ``evaluated`` counts its evaluations so far.
    """

    steps: float
    seconds: float | None
    evaluations: int = 1
    evaluated: int = 0

    def spent(self, step: int, watch: Stopwatch) -> float:
        """Share of the budget that is spent after ``step`` steps, 1 or more at the end."""
        if self.seconds is None:
            return step / self.steps
        if watch.cuda and step % CLOCK_STEPS:
            return min(step / self.steps, 1 - 1e-9)
        share = watch.seconds / self.seconds if self.seconds > 0 else 1.0
        self.steps = max(step / share, step + (share < 1)) if share else self.steps
        return share

    def due(self, step: int, share: float) -> bool:
        """Whether to evaluate after ``step``: at equal parts of the budget, and at its end."""
        if self.seconds is None:
            return step >= math.ceil(self.steps * (self.evaluated + 1) / self.evaluations)
        return share >= (self.evaluated + 1) / self.evaluations


@dataclass(frozen=True)
class StepCost:
    """Operations of one step of a job and of the frozen forward it needs, and the seconds of one step."""

    flops: int
    frozen_flops: int
    seconds: float


class Training:
    """The state of one job while it trains."""

    def __init__(
        self, job: Job, rate: float, problem: Problem, recipe: Recipe, cost: StepCost, before: Spent, weight: float
    ) -> None:
        self.job, self.rate, self.recipe, self.cost = job, rate, recipe, cost
        self.batch, self.before, self.device = problem.budget.batch, before, problem.device
        self.bfloat16 = problem.context.engine.bfloat16(problem.device)
        self.watch = Stopwatch(problem.device)
        self.outcome = Outcome(parameters=sum(p.numel() for p in job.module.parameters()), learning_rate=rate)
        self.best: dict[str, torch.Tensor] = {}
        self.pace = make_pace(problem.budget, weight, cost, before)
        affordable = int(EVALUATED * self.pace.steps * problem.budget.batch / len(problem.select))
        self.pace.evaluations = max(1, min(recipe.evaluations, affordable))
        self.steps, self.share, self.since_best = 0, 0.0, 0
        job.module.train()
        groups = parameter_groups(job.module, recipe)
        self.parameters = [p for group in groups for p in group["params"]]  # as the optimiser numbers them
        self.optimiser = torch.optim.AdamW(groups, lr=rate, weight_decay=recipe.weight_decay, fused=True)

    @property
    def done(self) -> bool:
        return self.share >= 1 or self.outcome.stopped_early

    def step(self, images: torch.Tensor, found: Tensors) -> None:
        """One update."""
        with self.watch:
            for group in self.optimiser.param_groups:
                group["lr"] = group["share"] * self.rate * _rate(self.steps, self.pace.steps, self.recipe.warmup)
            self.optimiser.zero_grad(set_to_none=True)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                loss = self.job.objective(self.job.module, images, found)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.job.module.parameters(), self.recipe.clip, foreach=True)
            self.optimiser.step()
        self.steps += 1
        self.share = self.pace.spent(self.steps, self.watch)

    @property
    def spent(self) -> Spent:
        """All that the job took so far."""
        own = Spent(
            self.watch.seconds,
            float(self.steps * self.cost.flops),
            float(self.steps * self.cost.frozen_flops),
            self.steps * self.batch,
        )
        return self.before + own

    def record(self, loss: float, psnrs: list[float]) -> None:
        """Take an evaluation into the curve, and the weights if they are the best so far.

        Args:
            loss: mean over the selection images.
            psnrs: mean PSNR in dB of the images the job makes, one a stage it makes them from.

        Raises:
            ConvergenceError: if the loss is NaN or infinite.
        """
        outcome, spent = self.outcome, self.spent
        if not math.isfinite(loss):
            raise ConvergenceError(
                f"training of '{self.job.name}' gave a selection loss of {loss} after {self.steps} steps; "
                "lower the learning rate"
            )
        outcome.image_passes, outcome.seconds = spent.image_passes, spent.seconds
        outcome.fit_flops, outcome.frozen_flops = spent.flops, spent.frozen_flops
        psnr = sum(psnrs) / len(psnrs) if psnrs else None
        outcome.curve.append((outcome.image_passes, round(outcome.seconds, 3), loss, psnr))
        outcome.entries.append(psnrs)
        self.since_best += 1
        if loss < outcome.best_selection_loss:
            self.since_best = 0
            outcome.best_selection_loss, outcome.best_at_pass = loss, outcome.image_passes
            self.best = {k: v.detach().clone() for k, v in self.job.module.state_dict().items()}
        waited = 0 < self.recipe.patience <= self.since_best
        outcome.stopped_early = waited and PATIENT_FROM <= self.share < 1

    def finish(self) -> None:
        """The best weights, in eval mode, frozen."""
        self.job.module.load_state_dict(self.best)
        self.job.module.eval().requires_grad_(False)

    def save(self, checkpoint: Checkpoint) -> None:
        """Put the whole state into ``checkpoint``."""
        name = self.job.name
        checkpoint.put(f"{name}/module", self.job.module.state_dict())
        checkpoint.put(f"{name}/best", self.best)
        for number, state in self.optimiser.state_dict()["state"].items():
            checkpoint.put(f"{name}/optimiser/{number}", state)
        if self.job.generator is not None:
            checkpoint.put(f"{name}/generator", {"state": self.job.generator.get_state()})
        outcome = vars(self.outcome) | {"best_selection_loss": repr(self.outcome.best_selection_loss)}
        checkpoint.facts[name] = {
            "made": self._made,
            "steps": self.steps,
            "share": self.share,
            "since_best": self.since_best,
            "pace": vars(self.pace),
            "seconds": self.watch.seconds,
            "outcome": outcome,
        }

    @property
    def _made(self) -> list[float]:
        """What tells this job from another of the same name."""
        return [self.cost.flops, self.rate, self.before.image_passes, self.job.weight]

    def known(self, checkpoint: Checkpoint) -> bool:
        """Whether ``checkpoint`` holds this very job."""
        return bool(checkpoint.facts.get(self.job.name, {}).get("made") == self._made)

    def load(self, checkpoint: Checkpoint) -> None:
        """Take the state back up."""
        name, facts = self.job.name, checkpoint.facts[self.job.name]
        self.job.module.load_state_dict(checkpoint.get(f"{name}/module", self.device))
        self.best = checkpoint.get(f"{name}/best", self.device)
        states = {}
        for number, parameter in enumerate(self.parameters):
            state = checkpoint.get(f"{name}/optimiser/{number}", self.device)
            for key, value in state.items():
                if value.shape == parameter.shape:  # the fused optimiser needs them laid out in memory alike
                    state[key] = torch.empty_like(parameter, requires_grad=False).copy_(value)
            if state:  # none before the first step
                states[number] = state
        self.optimiser.load_state_dict({"state": states, "param_groups": self.optimiser.state_dict()["param_groups"]})
        if self.job.generator is not None:
            self.job.generator.set_state(checkpoint.get(f"{name}/generator", torch.device("cpu"))["state"])
        self.steps, self.share, self.since_best = facts["steps"], facts["share"], facts["since_best"]
        self.pace = Pace(**facts["pace"])
        self.watch.add(facts["seconds"])
        outcome = facts["outcome"]
        self.outcome = Outcome(**outcome | {"best_selection_loss": float(outcome["best_selection_loss"])})
        self.outcome.curve = [tuple(point) for point in self.outcome.curve]  # type: ignore[misc]
        if self.done:
            self.finish()


def parameter_groups(module: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters for the optimiser, each group with its share of the rate: what ridge regression solved, the last
    layers beside it, and all others."""
    cores = [part for part in module.modules() if isinstance(part, TokenMixer | SpatialToSpatial)]
    solved: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []
    for core in cores:
        if core.path is not None and core.path.solved:
            solved += core.path.solution
            outputs += core.leave.parameters()
    known = {id(parameter) for parameter in solved + outputs}
    others = [parameter for parameter in module.parameters() if id(parameter) not in known]
    shares = ((others, 1.0), (solved, recipe.linear_rate), (outputs, recipe.output_rate))
    return [{"params": parameters, "share": share} for parameters, share in shares if parameters]


def make_pace(budget: Budget, weight: float, cost: StepCost, before: Spent) -> Pace:
    """The steps that what is left of a budget allows a job, at least one; ``before`` is spent already."""
    if budget.kind == "passes":
        return Pace(max(1, math.ceil((budget.limit - before.image_passes) / budget.batch)), None)
    limit = budget.limit * weight
    if budget.kind == "flops":
        return Pace(max(1, math.floor((limit - before.flops) / max(1, cost.flops))), None)
    left = max(0.0, limit - before.seconds)
    return Pace(max(1.0, left / max(cost.seconds, 1e-9)), left)


def train(problem: Problem, jobs: Sequence[Job], recipe: Recipe) -> TrainingReport:
    """Train every job on the problem's budget; each module ends in eval mode with its best selection weights.

    Raises:
        ConvergenceError: if a loss becomes NaN or infinite, naming the job and the step.
    """
    model = problem.model
    stages = model.order([stage for job in jobs for stage in job.needs])
    for job in jobs:
        job.module.to(problem.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    costs = _step_costs(problem, jobs, stages)
    if not recipe.sweep:
        rates = {job.name: recipe.learning_rate for job in jobs}
        return _run(problem, jobs, recipe, costs, stages, rates)
    trials = _sweep(problem, jobs, recipe, costs, stages)
    rates, spent = {}, {}
    for job in jobs:
        found = {rate: trials.outcomes[f"{job.name} at {rate}"] for rate in recipe.sweep}
        rates[job.name] = min(found, key=lambda rate: found[rate].best_selection_loss)
        spent[job.name] = sum(
            (Spent(o.seconds, o.fit_flops, o.frozen_flops, o.image_passes) for o in found.values()), job.spent
        )
    report = _run(
        _part(problem, "main"),
        [replace(job, spent=spent[job.name]) for job in jobs],
        recipe,
        costs,
        stages,
        rates,
    )
    for job in jobs:
        report.outcomes[job.name].sweep = [
            (rate, trials.outcomes[f"{job.name} at {rate}"].best_selection_loss) for rate in recipe.sweep
        ]
    report.shared_seconds += trials.shared_seconds
    return report


def _part(problem: Problem, name: str) -> Problem:
    """Return the same problem for one of several trainings, whose checkpoint bears its ``name``."""
    return replace(problem, context=replace(problem.context, part=f"{problem.context.part}-{name}"))


def _sweep(
    problem: Problem, jobs: Sequence[Job], recipe: Recipe, costs: dict[str, StepCost], stages: Sequence[str]
) -> TrainingReport:
    """Train a copy of every job at every rate of the sweep, all in one pass over the same images."""
    trials, rates, trial_costs = [], {}, {}
    for job in jobs:
        for rate in recipe.sweep:
            name = f"{job.name} at {rate}"
            generator = None
            if job.generator is not None:
                generator = torch.Generator(job.generator.device)
                generator.set_state(job.generator.get_state())
            module = copy.deepcopy(job.module)
            trials.append(replace(job, name=name, module=module, reconstruct=None, spent=Spent(), generator=generator))
            rates[name], trial_costs[name] = rate, costs[job.name]
    part = problem.budget.split(recipe.sweep_share / len(recipe.sweep))[1]
    return _run(
        replace(_part(problem, "sweep"), budget=part),
        trials,
        replace(recipe, evaluations=1, patience=0),
        trial_costs,
        stages,
        rates,
    )


def _run(
    problem: Problem,
    jobs: Sequence[Job],
    recipe: Recipe,
    costs: dict[str, StepCost],
    stages: Sequence[str],
    rates: dict[str, float],
) -> TrainingReport:
    """The loop."""
    budget = problem.budget
    trainings = [
        Training(job, rates[job.name], problem, recipe, costs[job.name], job.spent, job.weight) for job in jobs
    ]
    selection = selection_features(problem.model, problem.select, stages, budget.batch, problem.context.features)
    signature = {
        "problem": [problem.model.origin.sha256, list(stages), problem.fit.digest(), problem.select.digest()],
        "settings": [budget.identity(), asdict(recipe), problem.context.engine.identity(), problem.seed],
    }
    checkpoint = Checkpoint.at(problem.context.checkpoints, problem.context.part, signature)
    shared, begun, evaluated_at = Stopwatch(problem.device), 0, time.perf_counter()
    if checkpoint.load() and all(training.known(checkpoint) for training in trainings):
        for training in trainings:
            training.load(checkpoint)
        begun = checkpoint.facts[""]["step"]
        shared.add(checkpoint.facts[""]["shared_seconds"])
    else:
        starting = [training for training in trainings if training.job.keep_start]
        if starting:
            _evaluate(problem, starting, trainings, selection)
    if problem.context.engine.compiles(problem.device):
        for job in jobs:
            job.module.compile()
    asked = max(t.pace.steps for t in trainings) * budget.batch
    cache = problem.context.features or FeatureCache(problem.context.engine.cache)
    stream = FeatureStream(problem.model, problem.fit, stages, budget.batch, cache, asked, problem.context.charged)
    batches = stream.batches(islice(draws(problem.fit, budget.batch, problem.seed, recipe.flip), begun, None))
    active, step = [training for training in trainings if not training.done], begun
    while active:
        step += 1
        with shared:
            images, found = next(batches)
        for training in active:
            training.step(images, found)
        due = [training for training in active if training.pace.due(training.steps, training.share) or training.done]
        if due:
            _evaluate(problem, due, trainings, selection)
            for training in due:
                training.pace.evaluated += 1
        for training in active:
            if training.done:
                training.finish()
        active = [training for training in active if not training.done]
        if due and (not active or time.perf_counter() - evaluated_at >= CHECKPOINT_SECONDS):
            evaluated_at = time.perf_counter()
            _save(checkpoint, trainings, step, shared.seconds + stream.borrowed_seconds)
        problem.context.progress(step, max([step, *(round(t.pace.steps) for t in active)]), "training steps")
    features = cache.place or "off"
    if problem.context.features is None:
        cache.close()
    return TrainingReport(
        {t.job.name: t.outcome for t in trainings}, shared.seconds + stream.borrowed_seconds, features
    )


def _save(checkpoint: Checkpoint, trainings: Sequence[Training], step: int, shared_seconds: float) -> None:
    if checkpoint.path is None:
        return
    for training in trainings:
        training.save(checkpoint)
    checkpoint.facts[""] = {"step": step, "shared_seconds": shared_seconds}
    checkpoint.save()


def _rate(step: int, steps: float, warmup: float) -> float:
    rising = min(1.0, (step + 1) / max(1, round(warmup * steps)))
    return rising * (0.5 * (1 + math.cos(math.pi * min(step, steps) / steps)) + 0.005)


def draws(fit: Split, size: int, seed: int, flip: bool) -> Iterator[Draw]:
    """Draws without end: reshuffled passes over the fit images, a random half of each batch mirrored."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while True:
        while len(order) < size:
            order += torch.randperm(len(fit), generator=generator).tolist()
        rows, order = order[:size], order[size:]
        mirrored = (torch.rand(size, generator=generator) < 0.5).tolist() if flip else [False] * size
        yield rows, mirrored


def _step_costs(problem: Problem, jobs: Sequence[Job], stages: Sequence[str]) -> dict[str, StepCost]:
    """One step of every job without its update, counted and timed on a copy of its module: nothing is changed."""
    model, batch = problem.model, problem.budget.batch
    images = problem.fit.images([i % len(problem.fit) for i in range(batch)]).to(problem.device)
    found: Tensors = {stage: r.tensor for stage, r in model.represent(images, stages).items()}
    # every image takes as many, so that one is enough to count
    frozen = {stage: batch * count_flops(partial(model.represent, images[:1], [stage])) for stage in stages}
    costs = {}
    for job in jobs:
        module = copy.deepcopy(job.module)

        def step(job: Job = job, module: nn.Module = module) -> None:
            job.objective(module, images, found).backward()  # type: ignore[no-untyped-call]

        devices = [problem.device] if problem.device.type == "cuda" else []
        state = None if job.generator is None else job.generator.get_state()
        with torch.random.fork_rng(devices=devices):
            flops, seconds = count_flops(step), 0.0
            if problem.budget.kind == "seconds":
                start = time.perf_counter()
                step()
                if devices:
                    torch.cuda.synchronize()
                seconds = time.perf_counter() - start
        if job.generator is not None and state is not None:
            job.generator.set_state(state)
        costs[job.name] = StepCost(flops, max((frozen[s] for s in job.needs), default=0), seconds)
    return costs


@torch.no_grad()
def _evaluate(
    problem: Problem, due: Sequence[Training], trainings: Sequence[Training], selection: SelectionFeatures
) -> None:
    """Mean loss, and mean PSNR of the images it makes, of every due job over the selection images.

    All modules are in eval mode for the while: a job's images may come from several of them.
    """
    for training in trainings:
        training.job.module.eval()
    losses = {t.job.name: torch.zeros((), dtype=torch.float64, device=problem.device) for t in due}
    psnrs: dict[str, torch.Tensor] = {}
    for images, found in selection:
        for job in (t.job for t in due):
            losses[job.name] += job.objective(job.module, images, found).double() * len(images)
            if job.reconstruct:
                made = job.reconstruct(found).clamp(0, 1)
                error = (made.unflatten(0, (-1, len(images))) - images).square().mean((2, 3, 4))
                values = -10 * error.clamp(min=1e-10).log10().double().sum(1)
                psnrs[job.name] = psnrs[job.name] + values if job.name in psnrs else values
    count = len(problem.select)
    for training in due:
        entries = [round(v / count, 4) for v in psnrs[training.job.name].tolist()] if training.job.reconstruct else []
        training.record(float(losses[training.job.name]) / count, entries)
    for training in trainings:
        if not training.done:
            training.job.module.train()
