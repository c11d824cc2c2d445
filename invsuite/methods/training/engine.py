"""The one training engine that every trained method shares, so that methods differ in their objective and nothing else.

Each step: one batch of fit images and what the frozen model holds of them (`invsuite.methods.training.features`:
computed once, kept where that is faster), then for every inverse network its own loss, backward pass, clipping and
update, which a GPU replays as a captured graph (`invsuite._system.replay`). The networks are independent: training one
or ten together gives the same weights, because each has its own seed and all see the images in the same order. No step
reads a value back from the device.

A budget (`invsuite.methods.problem.Budget`) limits image passes, own seconds or operations of each network. The
operations of a step are counted once, before the loop, on a copy of the network, so that a budget of them becomes a
number of steps; with seconds the rate schedule follows the share of the time that is spent. A sweep of learning rates
is part of the budget. After evaluations the whole state goes to a checkpoint, from which a killed training goes on to
the same weights.

Several processes may train together (`invsuite._system.ranks`): each takes its part of every batch and of the selection
images, gradients are averaged before they are clipped, and all make the same update. What is counted is the work of all
of them, what is timed that of the first.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import nn

from invsuite._system.flops import count_flops
from invsuite._system.replay import Replay, can_capture
from invsuite._system.timing import Stopwatch
from invsuite.errors import ConvergenceError, UsageError
from invsuite.methods.problem import Budget, Problem
from invsuite.methods.training import checkpoint
from invsuite.methods.training.draws import draws
from invsuite.methods.training.features import FeatureCache, FeatureStream, SelectionFeatures, selection_features
from invsuite.methods.training.recipe import Recipe

CLOCK_STEPS = 16  # steps between readings of a GPU's clock, which wait for it, where seconds are the budget
CHECKPOINT_SECONDS = 5.0  # a checkpoint younger than this is not written anew
EVALUATED = 1 / 8  # of the images training sees, at most, are looked at in evaluations
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
PATIENT_FROM = 0.5  # share of the budget before which a rising selection loss stops nothing: the rate is still high

Tensors = dict[str, torch.Tensor]
#: ``objective(module, images, tensors)``: scalar loss of ``module`` from images (B, 3, H, W) and every stage's tensor
Objective = Callable[[nn.Module, torch.Tensor, Tensors], torch.Tensor]
#: every stage's tensor of one batch -> images (B, 3, H, W), or several times B where stages follow each other; they
#: are not clamped
Reconstruct = Callable[[Tensors], torch.Tensor]


@dataclass(frozen=True)
class TrainingCost:
    """What training one network takes, or a part of it: its initialisation, one step.

    Attributes:
        seconds: its own, without the frozen forward passes and evaluations.
        flops: operations of its own, forward and backward.
        frozen_flops: operations of the frozen forward passes it needs.
        image_passes: images seen, with repeats.
    """

    seconds: float = 0.0
    flops: float = 0.0
    frozen_flops: float = 0.0
    image_passes: int = 0

    def __add__(self, other: TrainingCost) -> TrainingCost:
        return TrainingCost(
            self.seconds + other.seconds,
            self.flops + other.flops,
            self.frozen_flops + other.frozen_flops,
            self.image_passes + other.image_passes,
        )


@dataclass
class Trainee:
    """One inverse network to train.

    Attributes:
        name: unique among those trained together.
        module: what is trained.
        needs: the stages whose tensors its objective (and ``reconstruct``) read.
        objective: its loss.
        reconstruct: images as the networks stand now, for the quality in the curve; all are in eval mode then.
        weight: how many inverses' budgets of seconds or operations it may spend: one chain that is trained for several
            stages at once has theirs together.
        initial_cost: what its initialisation took; it comes off a budget of seconds or operations, and is part of the
            result's cost.
        generator: random numbers its objective draws, so that a checkpoint can take them along.
    """

    name: str
    module: nn.Module
    needs: tuple[str, ...]
    objective: Objective
    reconstruct: Reconstruct | None = None
    weight: int = 1
    initial_cost: TrainingCost = field(default_factory=TrainingCost)
    generator: torch.Generator | None = None


@dataclass
class TrainingResult:
    """What training one network took and reached.

    Attributes:
        cost: its initialisation and the steps up to the last evaluation.
        selection_loss: the least of all evaluations.
        selected_at_pass: image passes at which it was reached; those weights are kept.
        parameters: trained values.
        learning_rate: at the top of the schedule.
        stopped_early: whether patience ended it before its budget did.
        curve: per evaluation (image passes, own seconds, selection loss, mean selection PSNR in dB or None).
        entries: per evaluation, the PSNR of each stage from which a chain for several makes images, in that order.
        sweep: (learning rate, selection loss) of each rate that was tried.
    """

    cost: TrainingCost = field(default_factory=TrainingCost)
    selection_loss: float = math.inf
    selected_at_pass: int = 0
    parameters: int = 0
    learning_rate: float = 0.0
    stopped_early: bool = False
    curve: list[tuple[int, float, float, float | None]] = field(default_factory=list)
    entries: list[list[float]] = field(default_factory=list)
    sweep: list[tuple[float, float]] = field(default_factory=list)

    def notes(self) -> dict[str, Any]:
        """Return what a record says of it."""
        notes: dict[str, Any] = {
            "selection_loss": self.selection_loss,
            "selected_at_pass": self.selected_at_pass,
            "learning_rate": self.learning_rate,
            "stopped_early": self.stopped_early,
            "curve": [list(point) for point in self.curve],
        }
        return notes | ({"sweep": [list(trial) for trial in self.sweep]} if self.sweep else {})


@dataclass
class TrainingReport:
    """What a training of several networks gave.

    Attributes:
        results: by name of the trainee.
        shared_seconds: of the frozen forward passes that all shared.
        features: where representations were kept: "memory", "disk" or "off".
    """

    results: dict[str, TrainingResult]
    shared_seconds: float
    features: str = ""


@dataclass
class Pace:
    """How far one network is through its budget.

    Attributes:
        steps: how many it will take: known for image passes and operations, expected and corrected after every step
            for seconds.
        seconds: its budget of them, None for another kind of budget.
        evaluations: how many there will be.
        evaluated: how many there were.
    """

    steps: float
    seconds: float | None
    evaluations: int = 1
    evaluated: int = 0

    def spent(self, step: int, watch: Stopwatch) -> float:
        """Return the share of the budget that is spent after ``step`` steps, 1 or more at the end."""
        if self.seconds is None:
            return step / self.steps
        if watch.cuda and step % CLOCK_STEPS:
            return min(step / self.steps, 1 - 1e-9)
        share = watch.seconds / self.seconds if self.seconds > 0 else 1.0
        self.steps = max(step / share, step + (share < 1)) if share else self.steps
        return share

    def due(self, step: int, share: float) -> bool:
        """Tell whether to evaluate after ``step``: at equal parts of the budget, and at its end."""
        if self.seconds is None:
            return step >= math.ceil(self.steps * (self.evaluated + 1) / self.evaluations)
        return share >= (self.evaluated + 1) / self.evaluations


class Training:
    """The state of one network while it trains.

    Args:
        trainee: the network.
        rate: its learning rate at the top of the schedule.
        problem: what it is trained for.
        recipe: how.
        step_cost: of one step.
    """

    def __init__(
        self, trainee: Trainee, rate: float, problem: Problem, recipe: Recipe, step_cost: TrainingCost
    ) -> None:
        self.trainee, self.rate, self.recipe, self.step_cost = trainee, rate, recipe, step_cost
        self.batch, self.device, self.ranks = problem.budget.batch, problem.device, problem.context.ranks
        self.bfloat16 = problem.context.engine.bfloat16(problem.device)
        # a generator of its own, or gradients that wait for other processes, cannot be captured
        wanted = problem.context.engine.graphs and trainee.generator is None and self.ranks.alone
        self.captured = wanted and can_capture(problem.device)
        self._replay = Replay(self._update, problem.device, wanted)
        self.watch = Stopwatch(problem.device)
        parameters = sum(p.numel() for p in trainee.module.parameters())
        self.result = TrainingResult(parameters=parameters, learning_rate=rate)
        self.best: Tensors = {}
        self.pace = self.ranks.agree(make_pace(problem.budget, trainee, step_cost))
        affordable = int(EVALUATED * self.pace.steps * problem.budget.batch / len(problem.select))
        self.pace.evaluations = max(1, min(recipe.evaluations, affordable))
        self.steps, self.share, self.since_best = 0, 0.0, 0
        trainee.module.train()
        groups = recipe.parameter_groups(trainee.module)
        self.optimiser = torch.optim.AdamW(
            groups, lr=rate, weight_decay=recipe.weight_decay, fused=True, capturable=self.captured
        )
        self._own_rates()

    @property
    def done(self) -> bool:
        """Tell whether the budget is spent or patience is at its end."""
        return self.share >= 1 or self.result.stopped_early

    def _own_rates(self) -> None:
        """Give every group of weights its learning rate where steps read it: on the GPU if they are captured."""
        for group in self.optimiser.param_groups:
            rate = float(group["lr"])
            group["lr"] = torch.tensor(rate, device=self.device) if self.captured else rate
            group["capturable"] = self.captured

    def step(self, images: torch.Tensor, tensors: Tensors) -> None:
        """Make one update from a batch, or from this process's part of it."""
        with self.watch:
            for group in self.optimiser.param_groups:
                rate = group["share"] * self.rate * self.recipe.rate(self.steps, self.pace.steps)
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
            self._replay(images, *(tensors[stage] for stage in self.trainee.needs))
        self.steps += 1
        self.share = self.pace.spent(self.steps, self.watch)
        if self.pace.seconds is not None:  # every process has a clock of its own
            self.share, self.pace.steps = self.ranks.agree((self.share, self.pace.steps))

    def _update(self, images: torch.Tensor, *tensors: torch.Tensor) -> tuple[()]:
        """Make one update at the rates that are set, from images and the tensors of the stages it needs."""
        module = self.trainee.module
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            loss = self.trainee.objective(module, images, dict(zip(self.trainee.needs, tensors, strict=True)))
        loss.backward()  # type: ignore[no-untyped-call]
        self.ranks.average_gradients(module, len(images) / self.batch)
        nn.utils.clip_grad_norm_(module.parameters(), self.recipe.clip, foreach=True)
        self.optimiser.step()
        return ()

    @property
    def cost(self) -> TrainingCost:
        """Return all that the network took so far, its initialisation included."""
        return self.trainee.initial_cost + TrainingCost(
            self.watch.seconds,
            self.steps * self.step_cost.flops,
            self.steps * self.step_cost.frozen_flops,
            self.steps * self.batch,
        )

    def record(self, loss: float, psnrs: list[float]) -> None:
        """Take an evaluation into the curve, and the weights if they are the best so far.

        Args:
            loss: mean over the selection images.
            psnrs: mean PSNR in dB of the images it makes, one per stage from which it makes them.

        Raises:
            ConvergenceError: if the loss is NaN or infinite.
        """
        result = self.result
        if not math.isfinite(loss):
            raise ConvergenceError(
                f"training of '{self.trainee.name}' gave a selection loss of {loss} after {self.steps} steps; "
                "lower the learning rate"
            )
        result.cost = self.cost
        psnr = sum(psnrs) / len(psnrs) if psnrs else None
        result.curve.append((result.cost.image_passes, round(result.cost.seconds, 3), loss, psnr))
        result.entries.append(psnrs)
        self.since_best += 1
        if loss < result.selection_loss:
            self.since_best = 0
            result.selection_loss, result.selected_at_pass = loss, result.cost.image_passes
            self.best = {k: v.detach().clone() for k, v in self.trainee.module.state_dict().items()}
        waited = 0 < self.recipe.patience <= self.since_best
        result.stopped_early = waited and PATIENT_FROM <= self.share < 1

    def finish(self) -> None:
        """Put the best weights in place, in eval mode, frozen."""
        self.trainee.module.load_state_dict(self.best)
        self.trainee.module.eval().requires_grad_(False)

    def signature(self) -> list[float]:
        """Return what tells this training from another of the same name."""
        return [self.step_cost.flops, self.rate, self.trainee.initial_cost.image_passes, self.trainee.weight]

    def state(self) -> dict[str, Any]:
        """Return all that `resume` needs."""
        generator = self.trainee.generator
        return {
            "module": self.trainee.module.state_dict(),
            "best": self.best,
            "optimiser": self.optimiser.state_dict(),
            "generator": None if generator is None else generator.get_state(),
            "steps": self.steps,
            "share": self.share,
            "since_best": self.since_best,
            "pace": vars(self.pace),
            "seconds": self.watch.seconds,
            "result": asdict(self.result),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Take up the `state` of a killed training."""
        self.trainee.module.load_state_dict(state["module"])
        self.best = state["best"]
        self.optimiser.load_state_dict(state["optimiser"])
        self._own_rates()
        if self.trainee.generator is not None:
            self.trainee.generator.set_state(state["generator"])
        self.steps, self.share, self.since_best = state["steps"], state["share"], state["since_best"]
        self.pace = Pace(**state["pace"])
        self.watch.add(state["seconds"])
        self.result = TrainingResult(**state["result"] | {"cost": TrainingCost(**state["result"]["cost"])})
        if self.done:
            self.finish()


def make_pace(budget: Budget, trainee: Trainee, step_cost: TrainingCost) -> Pace:
    """Return the steps that a budget allows a network after its initialisation, at least one."""
    before = trainee.initial_cost
    if budget.kind == "passes":
        return Pace(max(1, math.ceil((budget.limit - before.image_passes) / budget.batch)), None)
    limit = budget.limit * trainee.weight
    if budget.kind == "flops":
        return Pace(max(1, math.floor((limit - before.flops) / max(1, step_cost.flops))), None)
    left = max(0.0, limit - before.seconds)
    return Pace(max(1.0, left / max(step_cost.seconds, 1e-9)), left)


def train(problem: Problem, trainees: Sequence[Trainee], recipe: Recipe) -> TrainingReport:
    """Train every network on the problem's budget; each ends in eval mode with its best selection weights.

    Raises:
        ConvergenceError: if a loss becomes NaN or infinite, naming the network and the step.
        UsageError: if several processes cannot share its batches.
    """
    _check_divisible(problem, trainees)
    for trainee in trainees:
        trainee.module.to(problem.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    costs = _step_costs(problem, trainees)
    if not recipe.sweep:
        return _run(problem, trainees, recipe, costs, {trainee.name: recipe.learning_rate for trainee in trainees})
    trials = _sweep(problem, trainees, recipe, costs)
    rates, started = {}, []
    for trainee in trainees:
        results = {rate: trials.results[f"{trainee.name} at {rate}"] for rate in recipe.sweep}
        rates[trainee.name] = min(results, key=lambda rate: results[rate].selection_loss)
        before = sum((result.cost for result in results.values()), trainee.initial_cost)
        started.append(replace(trainee, initial_cost=before))
    report = _run(_part(problem, "main"), started, recipe, costs, rates)
    for trainee in trainees:
        report.results[trainee.name].sweep = [
            (rate, trials.results[f"{trainee.name} at {rate}"].selection_loss) for rate in recipe.sweep
        ]
    report.shared_seconds += trials.shared_seconds
    return report


def _check_divisible(problem: Problem, trainees: Sequence[Trainee]) -> None:
    """Raise `UsageError` if the processes of a training cannot share its batches."""
    ranks, batch = problem.context.ranks, problem.budget.batch
    if ranks.alone:
        return
    if batch < ranks.count:
        raise UsageError(f"{ranks.count} processes cannot share batches of {batch} images: raise the batch")
    for trainee in trainees:
        if trainee.generator is not None:
            raise UsageError(f"'{trainee.name}' draws random numbers for a whole batch: fit it in one process")
        if any(isinstance(part, BATCH_NORMS) for part in trainee.module.modules()):
            raise UsageError(f"'{trainee.name}' is normalised over a whole batch: fit it in one process")


def _part(problem: Problem, name: str) -> Problem:
    """Return the same problem for one of several trainings, whose checkpoint bears its ``name``."""
    return replace(problem, context=replace(problem.context, part=f"{problem.context.part}-{name}"))


def _sweep(
    problem: Problem, trainees: Sequence[Trainee], recipe: Recipe, costs: dict[str, TrainingCost]
) -> TrainingReport:
    """Train a copy of every network at every rate of the sweep, all in one pass over the same images."""
    trials, rates, trial_costs = [], {}, {}
    for trainee in trainees:
        for rate in recipe.sweep:
            name = f"{trainee.name} at {rate}"
            generator = None
            if trainee.generator is not None:
                generator = torch.Generator(trainee.generator.device)
                generator.set_state(trainee.generator.get_state())
            trials.append(
                replace(
                    trainee,
                    name=name,
                    module=copy.deepcopy(trainee.module),
                    reconstruct=None,
                    initial_cost=TrainingCost(),
                    generator=generator,
                )
            )
            rates[name], trial_costs[name] = rate, costs[trainee.name]
    part = problem.budget.split(recipe.sweep_share / len(recipe.sweep))[1]
    return _run(
        replace(_part(problem, "sweep"), budget=part),
        trials,
        replace(recipe, evaluations=1, patience=0),
        trial_costs,
        rates,
    )


def _run(
    problem: Problem,
    trainees: Sequence[Trainee],
    recipe: Recipe,
    costs: dict[str, TrainingCost],
    rates: dict[str, float],
) -> TrainingReport:
    """Run the loop: steps, evaluations and checkpoints until every network is done."""
    budget, context, stages = problem.budget, problem.context, _stages(problem, trainees)
    ranks, own = context.ranks, context.ranks.part(budget.batch)
    trainings = {t.name: Training(t, rates[t.name], problem, recipe, costs[t.name]) for t in trainees}
    part = ranks.part(len(problem.select))
    selection = selection_features(problem.model, problem.select, stages, budget.batch, context.features, part)
    signature = {
        "problem": [problem.model.origin.sha256, list(stages), problem.fit.digest(), problem.select.digest()],
        "settings": [budget.identity(), asdict(recipe), context.engine.identity(), problem.seed],
        "trainings": {name: training.signature() for name, training in trainings.items()},
    }
    path = context.checkpoints / f"training-{context.part}.pt" if context.checkpoints and ranks.first else None
    shared, step, saved_at = Stopwatch(problem.device), 0, time.perf_counter()
    saved = ranks.agree(checkpoint.load(path, signature) if path else None)
    for trainee in trainees:
        ranks.equalise(trainee.module)
    if saved:
        for name, training in trainings.items():
            training.resume(saved["trainings"][name])
        step = saved["step"]
        shared.add(saved["shared_seconds"])
    else:
        _evaluate(problem, trainings.values(), trainings.values(), selection)
    if context.engine.compiles:
        for trainee in trainees:
            trainee.module.compile()
    size = own.stop - own.start
    expected = max(training.pace.steps for training in trainings.values()) * size
    cache = context.features or FeatureCache(context.engine.cache)
    stream = FeatureStream(
        problem.model, problem.fit, stages, size, cache, expected, context.charged, graphs=context.engine.graphs
    )
    order = islice(draws(problem.fit, budget.batch, problem.seed, recipe.flip, recipe.crop), step, None)
    batches = stream.batches(draw.part(own) for draw in order)
    active = [training for training in trainings.values() if not training.done]
    while active:
        step += 1
        with shared:
            images, tensors = next(batches)
        for training in active:
            training.step(images, tensors)
        due = [training for training in active if training.pace.due(training.steps, training.share) or training.done]
        if due:
            _evaluate(problem, due, trainings.values(), selection)
            for training in due:
                training.pace.evaluated += 1
        for training in active:
            if training.done:
                training.finish()
        active = [training for training in active if not training.done]
        if path and due and (not active or time.perf_counter() - saved_at >= CHECKPOINT_SECONDS):
            saved_at = time.perf_counter()
            states = {name: training.state() for name, training in trainings.items()}
            seconds = shared.seconds + stream.borrowed_seconds
            checkpoint.save(path, signature, {"trainings": states, "step": step, "shared_seconds": seconds})
        context.progress(step, max([step, *(round(training.pace.steps) for training in active)]), "training steps")
    features = "off" if recipe.crop < 1 else cache.place or "off"
    if context.features is None:
        cache.close()
    results = {name: training.result for name, training in trainings.items()}
    return TrainingReport(results, shared.seconds + stream.borrowed_seconds, features)


def _stages(problem: Problem, trainees: Sequence[Trainee]) -> tuple[str, ...]:
    """Return the stages whose tensors any of the networks needs, in chain order."""
    return problem.model.order([stage for trainee in trainees for stage in trainee.needs])


def _step_costs(problem: Problem, trainees: Sequence[Trainee]) -> dict[str, TrainingCost]:
    """Return the cost of one step of every network without its update, counted and timed on a copy that is dropped.

    Of several processes each takes its part of the batch: seconds are those of the part, operations those of all.
    """
    model, batch, stages = problem.model, problem.budget.batch, _stages(problem, trainees)
    own = problem.context.ranks.part(batch)
    size = own.stop - own.start
    images = problem.fit.images([i % len(problem.fit) for i in range(size)]).to(problem.device)
    tensors: Tensors = {stage: r.tensor for stage, r in model.represent(images, stages).items()}
    frozen = {stage: batch * model.flops([stage]) for stage in stages}
    costs = {}
    for trainee in trainees:
        module, generator = copy.deepcopy(trainee.module), trainee.generator

        def step(trainee: Trainee = trainee, module: nn.Module = module) -> None:
            trainee.objective(module, images, tensors).backward()  # type: ignore[no-untyped-call]

        devices = [problem.device] if problem.device.type == "cuda" else []
        state = None if generator is None else generator.get_state()
        with torch.random.fork_rng(devices=devices):
            flops, seconds = count_flops(step) * batch // size, 0.0
            if problem.budget.kind == "seconds":
                start = time.perf_counter()
                step()
                if devices:
                    torch.cuda.synchronize(problem.device)
                seconds = time.perf_counter() - start
        if generator is not None and state is not None:
            generator.set_state(state)
        costs[trainee.name] = TrainingCost(seconds, flops, max((frozen[s] for s in trainee.needs), default=0), batch)
    return problem.context.ranks.agree(costs)


@torch.no_grad()
def _evaluate(
    problem: Problem, due: Collection[Training], trainings: Collection[Training], selection: SelectionFeatures
) -> None:
    """Record, of every network that is ``due``, its mean loss and the mean PSNR of its selection images.

    All modules are in eval mode for the while: a network's images may come from several of them.
    """
    for training in trainings:
        training.trainee.module.eval()
    losses = {t.trainee.name: torch.zeros((), dtype=torch.float64, device=problem.device) for t in due}
    psnrs: Tensors = {}
    for images, tensors in selection:
        for trainee in (t.trainee for t in due):
            losses[trainee.name] += trainee.objective(trainee.module, images, tensors).double() * len(images)
            if trainee.reconstruct:
                reconstructions = trainee.reconstruct(tensors).clamp(0, 1)
                errors = (reconstructions.unflatten(0, (-1, len(images))) - images).square().mean((2, 3, 4))
                values = -10 * errors.clamp(min=1e-10).log10().double().sum(1)
                psnrs[trainee.name] = psnrs[trainee.name] + values if trainee.name in psnrs else values
    count = len(problem.select)
    # of every process: sums over its part of the selection images
    parts = problem.context.ranks.gather(
        {name: (float(loss), psnrs[name].tolist() if name in psnrs else []) for name, loss in losses.items()}
    )
    for training in due:
        sums = [part[training.trainee.name] for part in parts]
        entries = [round(sum(v) / count, 4) for v in zip(*(values for _, values in sums if values), strict=True)]
        training.record(sum(loss for loss, _ in sums) / count, entries)
    for training in trainings:
        if not training.done:
            training.trainee.module.train()
