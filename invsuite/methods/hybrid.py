"""Between modular and end to end: what makes a chain of modules, each trained alone, fit together.

All start from the modules of `Modular` (same networks, same initial values, same first images) and differ from it
in one thing. A stage's budget is one inverse's, as for the others; where a method has two phases, ``share`` of it
goes to the second, and both are counted.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from invsuite._system.validation import NonNegativeFloat, PositiveFloat, Range
from invsuite.inverses.networks import ChannelScale, InverseNetwork
from invsuite.methods.base import Fitted, Work, WorkFacts
from invsuite.methods.networks import (
    ChainInverter,
    Modular,
    NetworkMethod,
    component_objective,
    compose,
    image_objective,
    module_trainees,
    reconstruction,
    selection_image_errors,
    total_cost,
)
from invsuite.methods.problem import Problem, derived_seed
from invsuite.methods.training.engine import Objective, Tensors, Trainee, TrainingReport, train
from invsuite.methods.training.initialisation import Initialisation
from invsuite.models.base import Model
from invsuite.registry import register


def phase(problem: Problem, number: int, phases: int, **changes: object) -> Problem:
    """Return phase ``number`` (from 0) of a fit in ``phases``: images in another order, progress as a part of all."""

    def progress(done: int, total: int, note: str) -> None:
        problem.context.progress(number * total + done, phases * total, note)

    seed = problem.seed if number == 0 else derived_seed(problem.seed, "phase", number)
    context = replace(problem.context, progress=progress, part=f"{problem.context.part}-{number}")
    return replace(problem, seed=seed, context=context, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class TwoPhase(NetworkMethod):
    """Modules trained alone, then each stage's chain of them trained further as one network.

    A copy of the chain is trained for every stage, so stages stay independent. The chain as composed is kept where
    training on does not improve its selection loss. A stage's notes hold ``chain_image_mse``, the selection error of
    the chain as composed, ``selection_image_mse``, that of the chain in the end, and ``chain_gap``, their ratio.

    Attributes:
        share: of each stage's budget (image passes, seconds or operations) for the second phase; the rest goes to each
            module in the first.
        rate: share of the recipe's learning rate at which the second phase starts.
    """

    share: Annotated[float, Range(above=0, below=1)] = 0.5
    rate: PositiveFloat = 0.5

    shares_modules = False

    @abstractmethod
    def objective(self, model: Model, stage: str, scale: ChannelScale) -> Objective:
        """Return the second phase's loss of the chain from ``stage``, whose channels ``scale`` standardises."""

    def work(self, facts: WorkFacts) -> Work:
        """Return a training of which ``share`` goes through the whole chain."""
        return replace(super().work(facts), chain_share=self.share)

    def fit(self, problem: Problem) -> Fitted:
        """Train the modules, then a copy of each stage's chain."""
        first, second = problem.budget.split(self.share)
        modules, initial = self.initialised_modules(problem, problem.stages[-1])
        alone = train(phase(problem, 0, 2, budget=first), module_trainees(problem, modules, initial), self.recipe)
        chains: dict[str, nn.Sequential] = {}
        trainees = []
        for stage in problem.stages:
            chain = copy.deepcopy(compose(modules, problem.chain_to(stage))).requires_grad_(True)
            chains[stage] = chain
            loss = self.objective(problem.model, stage, modules[stage].source_scale)
            trainees.append(Trainee(stage, chain, (stage,), loss, reconstruction(chain, stage)))
        composed = selection_image_errors(problem, chains)
        recipe = replace(self.recipe, learning_rate=self.rate * self.recipe.learning_rate)
        tuned = train(phase(problem, 1, 2, budget=second), trainees, recipe)
        return self._fitted(problem, chains, composed, initial, alone, tuned)

    def _fitted(
        self,
        problem: Problem,
        chains: dict[str, nn.Sequential],
        composed: Mapping[str, float],
        initial: Initialisation,
        alone: TrainingReport,
        tuned: TrainingReport,
    ) -> Fitted:
        errors = selection_image_errors(problem, chains)
        notes = {}
        for stage in problem.stages:
            before, after = alone.results[stage], tuned.results[stage]
            passes, seconds = before.cost.image_passes, before.cost.seconds
            notes[stage] = after.notes() | {
                "curve": [[p + passes, s + seconds, loss, db] for p, s, loss, db in after.curve],
                "selected_at_pass": passes + after.selected_at_pass,
                "module": before.notes(),
                "modules": list(problem.chain_to(stage)),
                "chain_image_mse": composed[stage],
                "selection_image_mse": errors[stage],
                "chain_gap": composed[stage] / errors[stage],
            }
        results = {stage: [alone.results[stage], tuned.results[stage]] for stage in problem.stages}
        return Fitted(ChainInverter(chains, chains), total_cost([initial], [alone, tuned], results), notes)


@register.method
@dataclass(frozen=True)
class ModularFinetuned(TwoPhase):
    """Modules trained alone, then each stage's chain trained end to end on the image.

    The first phase is `Modular` on ``1 - share`` of the budget. The second takes a copy of each stage's chain and goes
    on with the image loss of `Layerwise`, at ``rate`` times the learning rate, on ``share`` of the budget. The chain as
    composed is kept where that does not improve its selection loss.

    Cost:
        Between `Modular` and `Layerwise`, on the same budget per inverse.
    Use:
        To learn whether good modules are a good start for one inverse: ``chain_gap`` in the notes is the selection
        error of the chain as composed, over that of the chain in the end.
    Pitfalls:
        Fine-tuned chains are no longer made of modules that invert one component each.
    Source:
        Rathjens et al. 2024, arXiv 2412.06534, then the image loss of Dosovitskiy & Brox 2016, arXiv 1506.02753.
    """

    name = "modular-finetuned"
    family = "hybrid"
    source = "Rathjens et al. 2024, then the image loss of Dosovitskiy & Brox 2016"

    def objective(self, model: Model, stage: str, scale: ChannelScale) -> Objective:
        """Return the image loss."""
        return image_objective(stage)


@register.method
@dataclass(frozen=True)
class ModularCycle(TwoPhase):
    r"""Modules trained alone, then each stage's chain trained until the model holds the same of both images.

    The first phase is `Modular` on ``1 - share`` of the budget. The second puts the reconstruction, clamped to [0, 1],
    through the frozen model again. It needs no image but the one behind the representation.

    Formula:
        $$ L = \frac{1}{d} \sum_{c, p} \frac{(f(\hat{x}) - r)_{cp}^2}{\sigma_c^2}
        + w \frac{1}{3HW} \| \hat{x} - x \|^2 $$

        for the reconstruction $\hat{x}$, the frozen model $f$ to the stage, the representation $r$ of $d$ values, the
        deviation $\sigma_c$ of a channel, and ``image_weight`` $w$.
    Cost:
        That of `ModularFinetuned` and, in the second phase, the frozen model forward and backward; operations in
        records include both.
    Use:
        To learn what an inverse gives that is trained on the representation alone.
    Pitfalls:
        It is trained to please the inverted model, so measures that ask this model favour it. A second model's
        judgement, the witness error, is the fair one.
    Source:
        The cycle consistency of Dong et al. 2021, arXiv 2104.06487, over the whole chain.

    Attributes:
        image_weight: of the image loss beside the feature loss.
    """

    image_weight: NonNegativeFloat = 0.0

    name = "modular-cycle"
    family = "hybrid"
    source = "Dong et al. 2021 (DCI: divide-and-conquer inversion with cycle consistency), arXiv 2104.06487"

    def objective(self, model: Model, stage: str, scale: ChannelScale) -> Objective:
        """Return the feature loss, with the image loss where that has a weight."""
        return cycle_objective(model, stage, scale, self.image_weight)

    def work(self, facts: WorkFacts) -> Work:
        """Return the work of two phases, the second of which runs through the frozen model."""
        return replace(super().work(facts), model_share=self.share)


def cycle_objective(model: Model, stage: str, scale: ChannelScale, image_weight: float = 0.0) -> Objective:
    """Return the standardised feature distance at ``stage`` between reconstruction and image, through the ``model``."""

    def loss(module: nn.Module, images: torch.Tensor, tensors: Tensors) -> torch.Tensor:
        reconstructions = module(tensors[stage])
        representations = model.run(reconstructions.clamp(0, 1), None, stage)
        distance = F.mse_loss(scale(representations), scale(tensors[stage]))
        return distance + image_weight * F.mse_loss(reconstructions, images) if image_weight else distance

    return loss


@register.method
@dataclass(frozen=True)
class ModularNoised(Modular):
    r"""Modules trained alone on noised representations, so that they bear the errors of those behind them.

    As `Modular`, but in training every module reads its representation plus Gaussian noise, drawn anew at every step;
    its target is the clean input of its component. Selection and inversion see no noise.

    Formula:
        $$ r' = r + \nu \sigma_c \epsilon, \qquad \epsilon \sim N(0, 1) $$

        with ``noise`` $\nu$ and the deviation $\sigma_c$ of each channel.
    Cost:
        That of `Modular`.
    Use:
        To learn how much of the chain gap is brittleness of the modules.
    Pitfalls:
        The errors of modules are not Gaussian, and much noise blurs.
    Source:
        Rathjens et al. 2024, with the corruption of denoising autoencoders (Vincent et al. 2008, doi
        10.1145/1390156.1390294).

    Attributes:
        noise: deviation of the noise in units of each channel's own.
    """

    noise: NonNegativeFloat = 0.1

    name = "modular-noised"
    family = "hybrid"
    source = "Rathjens et al. 2024, with the corruption of denoising autoencoders (Vincent et al. 2008)"

    divides = False  # noise is drawn for whole batches

    def fit(self, problem: Problem) -> Fitted:
        """Train every module on noised representations."""
        modules, initial = self.initialised_modules(problem, problem.stages[-1])
        generators = {
            stage: torch.Generator(problem.device).manual_seed(derived_seed(problem.seed, self.name, stage))
            for stage in modules
        }

        def noised(stage: str, before: str | None) -> Objective:
            clean = image_objective(stage) if before is None else component_objective(stage, before)
            scale = modules[stage].source_scale

            def loss(module: nn.Module, images: torch.Tensor, tensors: Tensors) -> torch.Tensor:
                if not module.training:
                    return clean(module, images, tensors)
                tensor = tensors[stage]
                noise = torch.randn(tensor.shape, generator=generators[stage], device=tensor.device)
                return clean(module, images, {**tensors, stage: tensor + self.noise * scale.std * noise})

            return loss

        trainees = module_trainees(problem, modules, initial, noised)
        trainees = [replace(trainee, generator=generators[trainee.name]) for trainee in trainees]
        report = train(problem, trainees, self.recipe)
        return self.composed(problem, modules, initial, [report])


@register.method
@dataclass(frozen=True)
class ModularPredecessor(Modular):
    """Modules trained on what the modules behind them really give, deepest first, so that training matches use.

    The module of a component is used from every stage of the cut at or behind its own. In training it sees those
    entries in equal parts of each batch: the representation itself, or the output of the finished, frozen modules from
    a later stage down to its own. Its target is the clean input of its component, as in `Modular`. Modules are trained
    one after the other, each on the whole budget of one inverse.

    Cost:
        That of `Modular`, and forward passes through the finished modules, which are part of a module's own time and
        operations; the frozen forward pass runs once per module. All stages of the cut take part, whichever the suite
        inverts.
    Use:
        To learn how much of the chain gap comes from training on inputs that are cleaner than those in use.
    Pitfalls:
        A module that must correct a deep chain can lose accuracy on its own representation.
    Source:
        Rathjens et al. 2024, trained on composed inputs.
    """

    name = "modular-predecessor"
    family = "hybrid"
    source = "Rathjens et al. 2024, trained on composed inputs"

    uses_whole_cut = True
    divides = False  # where an image enters follows from its place in the whole batch

    def fit(self, problem: Problem) -> Fitted:
        """Train the modules one after the other, deepest first."""
        cut = problem.cut
        modules, initial = self.initialised_modules(problem, cut[-1])
        alone = {trainee.name: trainee for trainee in module_trainees(problem, modules, initial)}
        reports = []
        for number, stage in enumerate(reversed(cut)):
            entries = tuple(reversed(cut[cut.index(stage) :]))
            trainee = alone[stage]
            later = {s: modules[s] for s in entries[:-1]}
            trainee = replace(
                trainee,
                needs=tuple(dict.fromkeys((*trainee.needs, *entries))),
                objective=_predecessor_objective(trainee.objective, later, entries),
                # modules nearer the image are untrained until the end: the chain has no quality yet
                reconstruct=trainee.reconstruct if stage == cut[0] else None,
            )
            part = replace(phase(problem, number, len(cut)), seed=problem.seed)
            reports.append(train(part, [trainee], self.recipe))
        return self.composed(problem, modules, initial, reports)

    def work(self, facts: WorkFacts) -> Work:
        """Return a training whose forward passes through other modules count as the whole chain."""
        return replace(super().work(facts), chain_share=1.0)


def _predecessor_objective(own: Objective, later: Mapping[str, InverseNetwork], entries: tuple[str, ...]) -> Objective:
    """Return the ``own`` loss of the module of the last of ``entries``, on what comes through the ``later`` modules.

    Each image enters at one of the entries, deepest first, in turn.
    """
    stage = entries[-1]

    def loss(module: nn.Module, images: torch.Tensor, tensors: Tensors) -> torch.Tensor:
        count, parts = len(images), len(entries)
        order: list[int] = []
        tensor: torch.Tensor | None = None
        for number, entry in enumerate(entries):
            rows = list(range(number, count, parts))
            order += rows
            fresh = tensors[entry][rows]
            tensor = fresh if tensor is None else torch.cat([tensor, fresh])
            if entry in later:
                with torch.no_grad():
                    tensor = later[entry](tensor)
        assert tensor is not None
        targets = {name: values[order] for name, values in tensors.items()} | {stage: tensor}
        return own(module, images[order], targets)

    return loss


class SharedModules(nn.Module):
    """The modules of one chain as one network, entered at any of its stages.

    Args:
        modules: by stage, in the model's order.
    """

    def __init__(self, modules: Mapping[str, InverseNetwork]) -> None:
        super().__init__()
        self.order = tuple(modules)
        self.parts = nn.ModuleList(modules.values())

    def forward(self, tensors: Tensors) -> torch.Tensor:
        """Return images from every stage's tensor (B, ...): (stages * B, 3, H, W), the deepest stage's first."""
        tensor: torch.Tensor | None = None
        for stage, module in zip(reversed(self.order), reversed(self.parts), strict=True):
            fresh = tensors[stage]
            tensor = module(fresh if tensor is None else torch.cat([tensor, fresh]))
        assert tensor is not None
        return tensor


@register.method
@dataclass(frozen=True)
class SharedChain(NetworkMethod):
    r"""One chain of modules, trained with an image loss from every stage of the cut at once.

    Every step, each image of the batch enters the chain at every stage. Each module is so trained end to end for all
    stages at and behind its own. Initial values are those of `Modular`.

    Formula:
        $$ L = \frac{1}{S} \sum_{k=1}^{S} \frac{1}{3HW} \| g_1(\ldots g_k(r_k)) - x \|^2 $$

        over the $S$ stages of the cut.
    Cost:
        One training for all stages of the cut, whichever the suite inverts: its seconds and operations are split evenly
        between them, and a budget of seconds or operations holds all of theirs. A stage's image passes are the images
        that entered there. The curve in a stage's notes has the loss over all stages and the stage's own PSNR.
    Use:
        Where one network should invert every stage, as the end-to-end counterpart of `Modular`.
    Pitfalls:
        Stages share what the network can hold, and a stage whose loss is large takes most of the gradient.
    Source:
        One chain of the modules of Rathjens et al. 2024, with an image loss from every entry stage.
    """

    name = "shared-chain"
    family = "hybrid"
    source = "one chain of the modules of Rathjens et al. 2024, image loss from every entry stage"

    uses_whole_cut = True

    def fit(self, problem: Problem) -> Fitted:
        """Train the chain from all of its stages together."""
        cut = problem.cut
        modules, initial = self.initialised_modules(problem, cut[-1])
        chain = SharedModules(modules)

        def loss(module: nn.Module, images: torch.Tensor, tensors: Tensors) -> torch.Tensor:
            return F.mse_loss(module(tensors), images.repeat(len(cut), 1, 1, 1))

        trainee = Trainee("chain", chain, cut, loss, chain, len(cut), initial.cost_of(cut))
        report = train(problem, [trainee], self.recipe)
        result = report.results["chain"]
        chains = {stage: compose(modules, problem.chain_to(stage)) for stage in problem.stages}
        errors = selection_image_errors(problem, chains)
        share = replace(result.cost, seconds=result.cost.seconds / len(cut), flops=result.cost.flops / len(cut))
        results, notes = {}, {}
        for stage in problem.stages:
            parameters = sum(p.numel() for p in chains[stage].parameters())
            results[stage] = [replace(result, cost=share, parameters=parameters)]
            place = cut[::-1].index(stage)  # the deepest stage's images come first
            notes[stage] = result.notes() | {
                "curve": [
                    [*point[:3], psnrs[place]] for point, psnrs in zip(result.curve, result.entries, strict=True)
                ],
                "entries": list(cut),
                "selection_image_mse": errors[stage],
            }
        return Fitted(ChainInverter(chains, modules), total_cost([initial], [report], results), notes)

    def work(self, facts: WorkFacts) -> Work:
        """Return the work of a chain that is trained from every stage."""
        return replace(super().work(facts), chain_share=1.0)
