"""The two network families on equal footing: the same inverse networks, cuts, images, budget and optimiser.

`Modular` trains one inverse network per component, each alone on its own component's input, and composes them.
`Layerwise` trains, for every stage, one end-to-end network - the same stack of networks that the modular chain
passes through from that stage - on the image itself. What differs is the objective, and so the cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from invsuite._system.validation import Natural, Positive
from invsuite.inverses.networks import Architecture, InverseNetwork, InverseSettings, make_inverse
from invsuite.methods.base import (
    Family,
    FitCost,
    Fitted,
    Inverter,
    Method,
    NamedTensors,
    Notes,
    Work,
    WorkFacts,
    flattened,
    unflattened,
)
from invsuite.methods.problem import Problem, derived_seed
from invsuite.methods.training.engine import (
    Objective,
    Reconstruct,
    Tensors,
    Trainee,
    TrainingCost,
    TrainingReport,
    TrainingResult,
    train,
)
from invsuite.methods.training.features import selection_features
from invsuite.methods.training.initialisation import Initialisation, initialise
from invsuite.methods.training.recipe import Recipe
from invsuite.models.base import Representation, image_layout
from invsuite.registry import register


@dataclass(frozen=True)
class ChainInverter(Inverter):
    """Runs a chain of inverse networks per stage, from the stage to the image, and clamps the image to [0, 1].

    Attributes:
        chains: by stage.
        trained: the networks that the chains are made of, by name: modules that chains share, or whole chains.
    """

    chains: Mapping[str, nn.Sequential]
    trained: Mapping[str, nn.Module]

    @torch.no_grad()
    def invert(self, representation: Representation) -> torch.Tensor:
        """Return reconstructions (B, 3, H, W) in [0, 1]."""
        image: torch.Tensor = self.chains[representation.stage](representation.tensor)
        return image.clamp(0, 1)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the weights and scales of every network."""
        return flattened({name: module.state_dict() for name, module in self.trained.items()})


def inverse_networks(
    problem: Problem, settings: InverseSettings, seed_parts: tuple[object, ...], chain: Sequence[str]
) -> dict[str, InverseNetwork]:
    """Return a fresh inverse network for every stage of a ``chain`` from the image on, keyed by the stage it reads."""
    model = problem.model
    modules: dict[str, InverseNetwork] = {}
    target, before = image_layout(model.image_size), None
    for stage in chain:
        sized = replace(settings, blocks=model.blocks(before, stage))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(problem.seed, *seed_parts, stage))
            modules[stage] = make_inverse(model.layout(stage), target, sized)
        target, before = model.layout(stage), stage
    return modules


@dataclass(frozen=True)
class NetworkMethod(Method):
    """What all trained families share.

    Attributes:
        architecture: of the inverse networks: ``light``, or ``paper`` (Rathjens et al. 2024);
            `invsuite.inverses.networks` lists both.
        width: channels of hidden layers where the representations do not give them.
        depth: blocks of a network; 0 takes the architecture's own number.
        start: where closed-form paths begin: at ``ridge`` regression (`invsuite.methods.training.initialisation`), or
            at ``random`` values.
        recipe: settings of the optimiser (`invsuite.methods.training.recipe.Recipe`).
    """

    architecture: Architecture = "light"
    width: Positive = 256
    depth: Natural = 0
    start: Literal["ridge", "random"] = "ridge"
    recipe: Recipe = field(default_factory=Recipe)

    version = 7
    uses_cut = True
    seeded = True
    uses_budget = True
    divides = True
    #: Whether the chains of all stages are made of the same modules; else each stage has networks of its own.
    shares_modules: ClassVar[bool] = True

    @property
    def settings(self) -> InverseSettings:
        """Return the sizes of the inverse networks."""
        return InverseSettings(self.architecture, self.width, self.depth)

    def initialised_modules(self, problem: Problem, last: str) -> tuple[dict[str, InverseNetwork], Initialisation]:
        """Return modules for every component from the image to stage ``last``, ready to train, and what that took.

        Every method that trains modules starts from these same values, so that only training tells them apart.
        """
        chain = problem.chain_to(last)
        modules = inverse_networks(problem, self.settings, ("modular",), chain)
        modules = {stage: module.to(problem.device) for stage, module in modules.items()}
        initial = initialise(problem, modules, self.start == "ridge", self.recipe)
        initial.apply(modules)
        return modules, initial

    def restore(self, problem: Problem, tensors: NamedTensors, notes: Notes) -> ChainInverter | None:
        """Return the inverter with its networks built anew and filled with the values that were kept.

        They are not compiled: on a GPU, where training compiles networks, reconstructions may differ by rounding.
        """
        stages = problem.stages
        if self.shares_modules:
            modules = inverse_networks(problem, self.settings, (), problem.chain_to(stages[-1]))
            trained: Mapping[str, nn.Module] = modules
            chains = {stage: compose(modules, problem.chain_to(stage)) for stage in stages}
        else:
            fresh = {stage: inverse_networks(problem, self.settings, (), problem.chain_to(stage)) for stage in stages}
            trained = chains = {stage: compose(fresh[stage], problem.chain_to(stage)) for stage in stages}
        states = unflattened(tensors)
        if not states.keys() >= trained.keys():
            return None
        for name, module in trained.items():
            module.to(problem.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            module.load_state_dict(states[name])
            module.eval().requires_grad_(False)
        return ChainInverter(chains, trained)

    def work(self, facts: WorkFacts) -> Work:
        """Return the training of the stage's own network, or of its whole chain where stages share no module."""
        share = float(not self.shares_modules)
        return Work(
            trained_passes=facts.image_passes, chain_share=share, networks=self.settings, crops=self.recipe.crop < 1
        )


def image_objective(stage: str) -> Objective:
    """Return the mean squared error of the reconstruction in [0, 1] pixel space."""

    def loss(module: nn.Module, images: torch.Tensor, tensors: Tensors) -> torch.Tensor:
        return F.mse_loss(module(tensors[stage]), images)

    return loss


def component_objective(stage: str, before: str) -> Objective:
    """Return the mean squared error of the component's input, every channel standardised."""

    def loss(module: nn.Module, images: torch.Tensor, tensors: Tensors) -> torch.Tensor:
        assert isinstance(module, InverseNetwork)
        scale = module.target_scale
        return F.mse_loss(scale(module(tensors[stage])), scale(tensors[before]))

    return loss


def compose(modules: Mapping[str, nn.Module], chain: Sequence[str]) -> nn.Sequential:
    """Return the modules of ``chain`` (in the model's order) as one network from its last stage to the image."""
    return nn.Sequential(*(modules[stage] for stage in reversed(chain)))


def module_trainees(
    problem: Problem,
    modules: Mapping[str, InverseNetwork],
    initial: Initialisation,
    objective: Callable[[str, str | None], Objective] | None = None,
) -> list[Trainee]:
    """Return a trainee per module, each alone on its own component.

    Their curves show the images of the chain as composed so far.

    Args:
        problem: what they are trained for.
        modules: by the stage they read.
        initial: their initial values.
        objective: the loss for (stage, stage before or None for the image); by default that of the component.
    """
    trainees = []
    chain = tuple(modules)
    for before, stage in zip((None, *chain), chain, strict=False):
        if objective is not None:
            loss = objective(stage, before)
        else:
            loss = image_objective(stage) if before is None else component_objective(stage, before)
        needs = (stage,) if before is None else (before, stage)
        images = reconstruction(compose(modules, problem.chain_to(stage)), stage)
        cost = initial.cost_of((stage,))
        trainees.append(Trainee(stage, modules[stage], needs, loss, images, initial_cost=cost))
    return trainees


def reconstruction(chain: nn.Module, stage: str) -> Reconstruct:
    """Return a function that makes images from the tensor of ``stage`` by ``chain``, in whatever state it then is."""

    def images(tensors: Tensors) -> torch.Tensor:
        return chain(tensors[stage])

    return images


@torch.no_grad()
def selection_image_errors(problem: Problem, chains: Mapping[str, nn.Module]) -> dict[str, float]:
    """Return the mean squared error of each stage's reconstructions (clamped to [0, 1]) over the selection images."""
    totals = dict.fromkeys(chains, 0.0)
    batch, stages, context = problem.budget.batch, problem.model.order(list(chains)), problem.context
    part = context.ranks.part(len(problem.select))
    for images, tensors in selection_features(problem.model, problem.select, stages, batch, context.features, part):
        for stage in chains:
            reconstructions = chains[stage](tensors[stage]).clamp(0, 1)
            totals[stage] += float((reconstructions - images).square().mean()) * len(images)
    parts = context.ranks.gather(totals)
    return {stage: sum(part[stage] for part in parts) / len(problem.select) for stage in chains}


def total_cost(
    initials: Sequence[Initialisation],
    reports: Sequence[TrainingReport],
    per_stage: Mapping[str, Sequence[TrainingResult]],
) -> FitCost:
    """Return what initial values and trainings one after the other took.

    Per stage it is the sum over its results, which include the initialisation's own share; parameters are those of the
    last.
    """
    totals = {stage: sum((r.cost for r in results), TrainingCost()) for stage, results in per_stage.items()}
    return FitCost(
        stage_seconds={stage: total.seconds for stage, total in totals.items()},
        shared_seconds=sum(i.shared_seconds for i in initials) + sum(report.shared_seconds for report in reports),
        image_passes={stage: total.image_passes for stage, total in totals.items()},
        parameters={stage: results[-1].parameters for stage, results in per_stage.items()},
        fit_flops={stage: total.flops for stage, total in totals.items()},
        frozen_flops={stage: total.frozen_flops for stage, total in totals.items()},
    )


@register.method
@dataclass(frozen=True)
class Layerwise(NetworkMethod):
    r"""One inverse network per stage, trained end to end on the image.

    For each stage, the inverse networks of all components up to it are stacked (the chain that `Modular` composes),
    begin at measured scales and ridge regression, and are trained together with AdamW on the suite's budget. The
    weights with the least error on the selection images are kept.

    Formula:
        $$ L = \frac{1}{3HW} \| g(r) - x \|^2 $$

        for the image $x$ in [0, 1], its representation $r$ and the network $g$, averaged over a batch.
    Cost:
        A training of the whole chain for every stage: the sum grows with the square of the number of stages. Inverting
        an image is one forward pass.
    Use:
        As the measure of what a network recovers from a stage when it may do nothing else.
    Pitfalls:
        The mean squared error answers uncertainty with blur. The network of one stage says nothing of another's.
    Source:
        Dosovitskiy & Brox 2016, arXiv 1506.02753, sec. 3.
    """

    name = "layerwise"
    family = "layer-wise"
    source = "Dosovitskiy & Brox 2016, arXiv 1506.02753"
    shares_modules = False
    reads_joined = True

    def fit(self, problem: Problem) -> Fitted:
        """Train one chain of networks per stage."""
        trainees: list[Trainee] = []
        chains: dict[str, nn.Sequential] = {}
        initials: list[Initialisation] = []
        for stage in reversed(problem.stages):  # the deepest first: its chain holds all others but joined stages
            chain = problem.chain_to(stage)
            own = inverse_networks(problem, self.settings, (self.name, stage), chain)
            for inverse in own.values():
                inverse.to(problem.device)
            initial = next((known for known in initials if known.costs.keys() >= set(chain)), None)
            if initial is None:
                initial = initialise(problem, own, self.start == "ridge", self.recipe)
                initials.append(initial)
            initial.apply(own)
            module = chains[stage] = compose(own, chain)
            loss, images = image_objective(stage), reconstruction(module, stage)
            trainees.insert(0, Trainee(stage, module, (stage,), loss, images, initial_cost=initial.cost_of(chain)))
        report = train(problem, trainees, self.recipe)
        errors = selection_image_errors(problem, chains)
        cost = total_cost(initials, [report], {stage: [result] for stage, result in report.results.items()})
        notes = {s: result.notes() | {"selection_image_mse": errors[s]} for s, result in report.results.items()}
        return Fitted(ChainInverter(chains, chains), cost, notes)


@register.method
@dataclass(frozen=True)
class Modular(NetworkMethod):
    r"""One inverse network per component, each trained alone on its own component's input, composed afterwards.

    Every network begins at measured scales and ridge regression and is trained from its component's output to the
    input. A stage is inverted by all modules from it to the image, one after the other; no gradient passes from one to
    another.

    Formula:
        $$ L_k = \frac{1}{d} \sum_{c, p} \frac{(g_k(r_k) - r_{k-1})_{cp}^2}{\sigma_c^2}, \qquad
        \hat{x} = g_1(g_2(\ldots g_k(r_k))) $$

        for the module $g_k$ of component $k$ with output $r_k$ and input $r_{k-1}$ of $d$ values; $\sigma_c$ is the
        deviation of a channel. $r_0$ is the image, whose error is not divided.
    Cost:
        One training per component, shared by all later stages. Inverting an image is one forward pass through the
        chain.
    Use:
        Where many stages are to be inverted, or to ask what each component keeps.
    Pitfalls:
        A module never sees the errors of those behind it, so they add up: ``selection_image_mse`` in a stage's notes,
        over that of `Layerwise`, is the chain gap.
    Source:
        Rathjens et al. 2024, arXiv 2412.06534, sec. 3.
    """

    name = "modular"
    family: ClassVar[Family] = "modular"
    source = "Rathjens et al. 2024, arXiv 2412.06534"

    def fit(self, problem: Problem) -> Fitted:
        """Train one module per component up to the deepest stage."""
        modules, initial = self.initialised_modules(problem, problem.stages[-1])
        report = train(problem, module_trainees(problem, modules, initial), self.recipe)
        return self.composed(problem, modules, initial, [report])

    def composed(
        self,
        problem: Problem,
        modules: Mapping[str, nn.Module],
        initial: Initialisation,
        reports: Sequence[TrainingReport],
    ) -> Fitted:
        """Return the fitted method from its trained modules, each of which is a trainee of one of the ``reports``."""
        results = {stage: result for report in reports for stage, result in report.results.items()}
        chains = {stage: compose(modules, problem.chain_to(stage)) for stage in problem.stages}
        errors = selection_image_errors(problem, chains)
        # a stage's inverse uses every module before it; each was trained once, whatever the number of stages
        cost = total_cost([initial], reports, {stage: [results[stage]] for stage in problem.stages})
        notes = {
            s: results[s].notes() | {"modules": list(problem.chain_to(s)), "selection_image_mse": errors[s]}
            for s in problem.stages
        }
        return Fitted(ChainInverter(chains, modules), cost, notes)
