"""The two network families on equal footing: the same inverse networks, cuts, images, budget and optimiser.

`Modular` trains one inverse network a component, each alone on its own component's input, and composes them.
`Layerwise` trains, for every stage, one end-to-end network - the same stack of networks that the modular chain
passes through from that stage - on the image itself. What differs is the objective, and so the cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from invsuite.errors import unknown_name
from invsuite.inverses.networks import InverseNetwork, InverseSettings, make_inverse
from invsuite.methods.base import Family, FitCost, Fitted, Inverter, Method
from invsuite.methods.problem import Problem, derived_seed
from invsuite.methods.training.engine import (
    Job,
    Objective,
    Outcome,
    Recipe,
    Reconstruct,
    Tensors,
    TrainingReport,
    train,
)
from invsuite.methods.training.features import selection_features
from invsuite.methods.training.initialisation import Start, measure_start
from invsuite.models.base import Representation, image_layout
from invsuite.registry import register

STARTS = ("ridge", "random")


@dataclass(frozen=True)
class ChainInverter(Inverter):
    """Runs a list of inverse networks per stage, one after the other, and clamps the image to [0, 1]."""

    chains: dict[str, nn.Sequential]

    @torch.no_grad()
    def invert(self, representation: Representation) -> torch.Tensor:
        image: torch.Tensor = self.chains[representation.stage](representation.tensor)
        return image.clamp(0, 1)


@dataclass(frozen=True)
class NetworkMethod(Method):
    """Settings all trained families share.

    ``architecture`` (``light`` or ``paper``), ``width`` and ``depth`` size each inverse network; see
    `invsuite.inverses.networks.InverseSettings`. ``start`` says where closed-form paths begin: at ``ridge`` regression
    (`invsuite.methods.training.initialisation`), or ``random``.

    Raises:
        UsageError: for an architecture or start that does not exist or a size that is not positive.
    """

    architecture: str = "light"
    width: int = 128
    depth: int = 0
    start: str = "ridge"
    recipe: Recipe = field(default_factory=Recipe)

    version = 6
    uses_cut = True
    seeded = True
    uses_budget = True

    def __post_init__(self) -> None:
        InverseSettings(self.architecture, self.width, self.depth)
        if self.start not in STARTS:
            raise unknown_name(f"start of method '{self.name}'", self.start, STARTS)

    def links(self, problem: Problem, seed_parts: tuple[object, ...]) -> dict[str, InverseNetwork]:
        """A freshly initialised inverse network for every component of the cut, keyed by the component's stage."""
        model = problem.model
        found: dict[str, InverseNetwork] = {}
        target, before = image_layout(model.image_size), None
        for stage in problem.cut:
            settings = InverseSettings(self.architecture, self.width, self.depth, model.blocks(before, stage))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derived_seed(problem.seed, *seed_parts, stage))
                found[stage] = make_inverse(model.layout(stage), target, settings)
            target, before = model.layout(stage), stage
        return found

    def started_links(self, problem: Problem, last: str) -> tuple[dict[str, InverseNetwork], Start]:
        """Links for every component from the image to stage ``last``, ready to train one by one, and what that took.

        Every method that trains modules starts from these same values, so that only training tells them apart.
        """
        chain = problem.chain_to(last)
        links = {s: link.to(problem.device) for s, link in self.links(problem, ("modular",)).items() if s in chain}
        start = measure_start(problem, links, self.start == "ridge", self.recipe.flip)
        start.apply(links)
        return links, start


def image_objective(stage: str) -> Objective:
    """Mean squared error of the reconstruction in [0, 1] pixel space."""

    def loss(module: nn.Module, images: torch.Tensor, tensors: Tensors) -> torch.Tensor:
        return F.mse_loss(module(tensors[stage]), images)

    return loss


def component_objective(stage: str, before: str) -> Objective:
    """Mean squared error of the component's input, every channel standardised."""

    def loss(module: nn.Module, images: torch.Tensor, tensors: Tensors) -> torch.Tensor:
        assert isinstance(module, InverseNetwork)
        scale = module.target_scale
        return F.mse_loss(scale(module(tensors[stage])), scale(tensors[before]))

    return loss


def compose(links: Mapping[str, nn.Module], chain: Sequence[str]) -> nn.Sequential:
    """The modules of ``chain`` (in the model's order) as one network from its last stage to the image."""
    return nn.Sequential(*(links[stage] for stage in reversed(chain)))


def module_jobs(
    problem: Problem,
    links: Mapping[str, InverseNetwork],
    start: Start,
    objective: Callable[[str, str | None], Objective] | None = None,
) -> list[Job]:
    """A job per module, each alone on its own component; the curve shows the images of the chain as composed so far.

    Args:
        links: modules by the stage they read.
        start: how they began.
        objective: the loss for (stage, stage before or None for the image); by default that of its component.
    """
    jobs = []
    chain = tuple(links)
    for before, stage in zip((None, *chain), chain, strict=False):
        if objective is not None:
            loss = objective(stage, before)
        else:
            loss = image_objective(stage) if before is None else component_objective(stage, before)
        needs = (stage,) if before is None else (before, stage)
        composed = compose(links, problem.chain_to(stage))
        job = Job(stage, links[stage], needs, loss, reconstruction(composed, stage), spent=start.spent((stage,)))
        jobs.append(job)
    return jobs


def reconstruction(chain: nn.Module, stage: str) -> Reconstruct:
    """Images from the tensor of ``stage`` by ``chain``, in whatever state it then is."""

    def images(tensors: Tensors) -> torch.Tensor:
        return chain(tensors[stage])

    return images


@torch.no_grad()
def selection_image_errors(problem: Problem, chains: Mapping[str, nn.Module]) -> dict[str, float]:
    """Mean squared error of each stage's reconstructions (clamped to [0, 1]) over the selection images."""
    totals = dict.fromkeys(chains, 0.0)
    batch, stages = problem.budget.batch, problem.model.order(list(chains))
    for images, found in selection_features(problem.model, problem.select, stages, batch, problem.context.features):
        for stage in chains:
            made = chains[stage](found[stage]).clamp(0, 1)
            totals[stage] += float((made - images).square().mean()) * len(images)
    return {stage: total / len(problem.select) for stage, total in totals.items()}


def total_cost(start: Start, reports: Sequence[TrainingReport], per_stage: Mapping[str, Sequence[Outcome]]) -> FitCost:
    """What a start and fits one after the other took: per stage the sum over its outcomes, which include the start's
    own share; parameters are those of the last."""
    return FitCost(
        stage_seconds={s: sum(o.seconds for o in used) for s, used in per_stage.items()},
        shared_seconds=start.cost.shared_seconds + sum(report.shared_seconds for report in reports),
        image_passes={s: sum(o.image_passes for o in used) for s, used in per_stage.items()},
        parameters={s: used[-1].parameters for s, used in per_stage.items()},
        fit_flops={s: sum(o.fit_flops for o in used) for s, used in per_stage.items()},
        frozen_flops={s: sum(o.frozen_flops for o in used) for s, used in per_stage.items()},
    )


@register.method
@dataclass(frozen=True)
class Layerwise(NetworkMethod):
    """One end-to-end inverse network per stage, trained on the image loss."""

    name = "layerwise"
    family = "layer-wise"
    source = "Dosovitskiy & Brox 2016, arXiv 1506.02753"

    def fit(self, problem: Problem) -> Fitted:
        jobs: list[Job] = []
        chains: dict[str, nn.Sequential] = {}
        start: Start | None = None
        for stage in reversed(problem.stages):  # the deepest first: its chain holds all others
            chain = problem.chain_to(stage)
            links = self.links(problem, (self.name, stage))
            own = {s: links[s].to(problem.device) for s in chain}
            start = start or measure_start(problem, own, self.start == "ridge", self.recipe.flip)
            start.apply(own)
            module = chains[stage] = compose(own, chain)
            loss, images = image_objective(stage), reconstruction(module, stage)
            jobs.insert(0, Job(stage, module, (stage,), loss, images, spent=start.spent(chain)))
        assert start is not None
        report = train(problem, jobs, self.recipe)
        errors = selection_image_errors(problem, chains)
        cost = total_cost(start, [report], {s: [o] for s, o in report.outcomes.items()})
        notes = {s: o.notes() | {"selection_image_mse": errors[s]} for s, o in report.outcomes.items()}
        return Fitted(ChainInverter(chains), cost, notes)


@register.method
@dataclass(frozen=True)
class Modular(NetworkMethod):
    """One inverse network per component, trained alone on its own component's input, composed afterwards.

    ``selection_image_mse`` in a stage's notes, over the same of `Layerwise`, is the chain gap.
    """

    name = "modular"
    family: ClassVar[Family] = "modular"
    source = "Rathjens et al. 2024, arXiv 2412.06534"

    def fit(self, problem: Problem) -> Fitted:
        links, start = self.started_links(problem, problem.stages[-1])
        report = train(problem, module_jobs(problem, links, start), self.recipe)
        return self.composed(problem, links, start, [report])

    def composed(
        self, problem: Problem, links: Mapping[str, nn.Module], start: Start, reports: Sequence[TrainingReport]
    ) -> Fitted:
        """The fitted method from its trained modules, each of which is a job of one of the ``reports``."""
        outcomes = {stage: outcome for report in reports for stage, outcome in report.outcomes.items()}
        chains = {stage: compose(links, problem.chain_to(stage)) for stage in problem.stages}
        errors = selection_image_errors(problem, chains)
        # a stage's inverse uses every module before it; each was trained once, whatever the number of stages
        cost = total_cost(start, reports, {s: [outcomes[s]] for s in problem.stages})
        notes = {
            s: outcomes[s].notes() | {"modules": list(problem.chain_to(s)), "selection_image_mse": errors[s]}
            for s in problem.stages
        }
        return Fitted(ChainInverter(chains), cost, notes)
