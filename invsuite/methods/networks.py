"""The two network families on equal footing: the same inverse networks, cuts, images, budget and optimiser.

`Modular` trains one inverse network a component, each alone on its own component's input, and composes them.
`Layerwise` trains, for every stage, one end-to-end network - the same stack of networks that the modular chain
passes through from that stage - on the image itself. What differs is the objective, and so the cost.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from invsuite.inverses.networks import InverseNetwork, make_inverse
from invsuite.methods.base import FitCost, Fitted, Method, Problem, derived_seed
from invsuite.models.base import Representation, image_layout
from invsuite.training import Job, Objective, Outcome, Recipe, Tensors, TrainingReport, train

CALIBRATION_IMAGES = 256


@dataclass(frozen=True)
class ChainInverter:
    """Runs a list of inverse networks per stage, one after the other, and clamps the image to [0, 1]."""

    chains: dict[str, nn.Sequential]

    @torch.no_grad()
    def invert(self, stage: str, representation: Representation) -> torch.Tensor:
        image: torch.Tensor = self.chains[stage](representation.tensor)
        return image.clamp(0, 1)


@dataclass(frozen=True)
class NetworkMethod(Method):
    """Settings both families share.

    ``width`` and ``depth`` size each inverse network (see `invsuite.inverses.networks.make_inverse`).
    """

    width: int = 128
    depth: int = 2
    recipe: Recipe = field(default_factory=Recipe)

    version = 1
    uses_cut = True
    seeded = True
    uses_budget = True

    def links(self, problem: Problem, seed_parts: tuple[object, ...]) -> dict[str, InverseNetwork]:
        """A freshly initialised inverse network for every component of the cut, keyed by the component's stage."""
        model = problem.model
        found: dict[str, InverseNetwork] = {}
        target = image_layout(model.image_size)
        for stage in problem.cut:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derived_seed(problem.seed, *seed_parts, stage))
                found[stage] = make_inverse(model.layout(stage), target, self.width, self.depth)
            target = model.layout(stage)
        return found


def calibrate(problem: Problem, links: dict[str, InverseNetwork]) -> None:
    """Measure every link's channel means and deviations on the first fit images."""
    count = min(CALIBRATION_IMAGES, len(problem.fit))
    batches: list[tuple[torch.Tensor, dict[str, Representation]]] = []
    for start in range(0, count, problem.budget.batch):
        images = problem.fit.images(slice(start, min(start + problem.budget.batch, count))).to(problem.device)
        batches.append((images, problem.model.represent(images, list(links))))
    previous: str | None = None
    for stage, link in links.items():
        before = previous
        link.to(problem.device)
        link.source_scale.calibrate(found[stage].tensor for _, found in batches)
        link.target_scale.calibrate(images if before is None else found[before].tensor for images, found in batches)
        previous = stage


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


def _cost(report: TrainingReport, per_stage: dict[str, list[Outcome]]) -> FitCost:
    return FitCost(
        stage_seconds={s: sum(o.seconds for o in used) for s, used in per_stage.items()},
        shared_seconds=report.shared_seconds,
        image_passes={s: sum(o.image_passes for o in used) for s, used in per_stage.items()},
        parameters={s: sum(o.parameters for o in used) for s, used in per_stage.items()},
    )


@dataclass(frozen=True)
class Layerwise(NetworkMethod):
    """One end-to-end inverse network per stage, trained on the image loss."""

    name = "layerwise"
    family = "layer-wise"
    source = "Dosovitskiy & Brox 2016, arXiv 1506.02753"

    def fit(self, problem: Problem) -> Fitted:
        jobs = []
        for stage in problem.stages:
            links = self.links(problem, (self.name, stage))
            own = {s: links[s] for s in problem.chain_to(stage)}
            calibrate(problem, own)
            module = nn.Sequential(*reversed(own.values()))
            jobs.append(Job(stage, module, (stage,), image_objective(stage)))
        report = train(problem, jobs, self.recipe)
        inverter = ChainInverter({job.name: job.module for job in jobs if isinstance(job.module, nn.Sequential)})
        cost = _cost(report, {s: [o] for s, o in report.outcomes.items()})
        return Fitted(inverter, cost, {s: o.notes() for s, o in report.outcomes.items()})


@dataclass(frozen=True)
class Modular(NetworkMethod):
    """One inverse network per component, trained alone on its own component's input, composed afterwards."""

    name = "modular"
    family = "modular"
    source = "Rathjens et al. 2024, arXiv 2412.06534"

    def fit(self, problem: Problem) -> Fitted:
        last = problem.stages[-1]
        chain = problem.chain_to(last)
        links = {s: link for s, link in self.links(problem, (self.name,)).items() if s in chain}
        calibrate(problem, links)
        jobs = []
        for before, stage in zip((None, *chain), chain, strict=False):
            if before is None:
                jobs.append(Job(stage, links[stage], (stage,), image_objective(stage)))
            else:
                jobs.append(Job(stage, links[stage], (before, stage), component_objective(stage, before)))
        report = train(problem, jobs, self.recipe)
        chains = {
            stage: nn.Sequential(*(links[s] for s in reversed(problem.chain_to(stage)))) for stage in problem.stages
        }
        # a stage's inverse uses every module before it; each was trained once, whatever the number of stages
        cost = _cost(report, {s: [report.outcomes[s]] for s in problem.stages})
        notes = {s: report.outcomes[s].notes() | {"modules": list(problem.chain_to(s))} for s in problem.stages}
        return Fitted(ChainInverter(chains), cost, notes)
