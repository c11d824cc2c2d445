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

import torch
import torch.nn.functional as F
from torch import nn

from invsuite.errors import UsageError
from invsuite.inverses.networks import ChannelScale, InverseNetwork
from invsuite.methods.base import Fitted
from invsuite.methods.networks import (
    ChainInverter,
    Modular,
    NetworkMethod,
    component_objective,
    compose,
    image_objective,
    module_jobs,
    reconstruction,
    selection_image_errors,
    total_cost,
)
from invsuite.methods.problem import Problem, derived_seed
from invsuite.methods.training.engine import Job, Objective, Tensors, TrainingReport, train
from invsuite.methods.training.initialisation import Start
from invsuite.models.base import Model
from invsuite.registry import register


def phase(problem: Problem, number: int, phases: int, **changes: object) -> Problem:
    """Phase ``number`` (from 0) of a fit in ``phases``: other images in another order, progress as a part of all."""

    def progress(done: int, total: int, note: str) -> None:
        problem.context.progress(number * total + done, phases * total, note)

    seed = problem.seed if number == 0 else derived_seed(problem.seed, "phase", number)
    context = replace(problem.context, progress=progress, part=f"{problem.context.part}-{number}")
    return replace(problem, seed=seed, context=context, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class TwoPhase(NetworkMethod):
    """Modules trained alone, then each stage's chain of them trained further as one network.

    ``share`` of each stage's budget (image passes, seconds or operations) goes to the second phase, ``1 - share`` to
    each module in the first. A copy of the chain is trained for every stage, so stages stay independent; its
    learning rate starts at ``rate`` times the recipe's. The chain as composed is kept where training on does not
    improve its selection loss. A stage's notes hold ``chain_image_mse``, the selection error of the chain as
    composed, ``selection_image_mse``, that of the chain in the end, and ``chain_gap``, their ratio.

    Raises:
        UsageError: for a share outside 0 to 1 or a rate that is not positive.
    """

    share: float = 0.5
    rate: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share < 1:
            raise UsageError(f"parameter 'share' of method '{self.name}' is {self.share}, expected between 0 and 1")
        if self.rate <= 0:
            raise UsageError(f"parameter 'rate' of method '{self.name}' is {self.rate}, expected above 0")

    @abstractmethod
    def objective(self, model: Model, stage: str, scale: ChannelScale) -> Objective:
        """The second phase's loss of the chain from ``stage``, whose channels ``scale`` standardises."""

    def fit(self, problem: Problem) -> Fitted:
        first, second = problem.budget.split(self.share)
        links, start = self.started_links(problem, problem.stages[-1])
        alone = train(phase(problem, 0, 2, budget=first), module_jobs(problem, links, start), self.recipe)
        chains: dict[str, nn.Sequential] = {}
        jobs = []
        for stage in problem.stages:
            chain = copy.deepcopy(compose(links, problem.chain_to(stage))).requires_grad_(True)
            chains[stage] = chain
            loss = self.objective(problem.model, stage, links[stage].source_scale)
            jobs.append(Job(stage, chain, (stage,), loss, reconstruction(chain, stage)))
        composed = selection_image_errors(problem, chains)
        recipe = replace(self.recipe, learning_rate=self.rate * self.recipe.learning_rate)
        tuned = train(phase(problem, 1, 2, budget=second), jobs, recipe)
        return self._fitted(problem, chains, composed, start, alone, tuned)

    def _fitted(
        self,
        problem: Problem,
        chains: dict[str, nn.Sequential],
        composed: Mapping[str, float],
        start: Start,
        alone: TrainingReport,
        tuned: TrainingReport,
    ) -> Fitted:
        errors = selection_image_errors(problem, chains)
        notes = {}
        for stage in problem.stages:
            before, after = alone.outcomes[stage], tuned.outcomes[stage]
            shifted = [[p + before.image_passes, s + before.seconds, loss, db] for p, s, loss, db in after.curve]
            notes[stage] = after.notes() | {
                "curve": shifted,
                "selected_at_pass": before.image_passes + after.best_at_pass,
                "module": before.notes(),
                "modules": list(problem.chain_to(stage)),
                "chain_image_mse": composed[stage],
                "selection_image_mse": errors[stage],
                "chain_gap": composed[stage] / errors[stage],
            }
        cost = total_cost(start, [alone, tuned], {s: [alone.outcomes[s], tuned.outcomes[s]] for s in problem.stages})
        return Fitted(ChainInverter(chains), cost, notes)


@register.method
@dataclass(frozen=True)
class ModularFinetuned(TwoPhase):
    """Modules trained alone, then each stage's chain trained end to end on the image."""

    name = "modular-finetuned"
    family = "hybrid"
    source = "Rathjens et al. 2024, then the image loss of Dosovitskiy & Brox 2016"

    def objective(self, model: Model, stage: str, scale: ChannelScale) -> Objective:
        return image_objective(stage)


@register.method
@dataclass(frozen=True)
class ModularCycle(TwoPhase):
    """Modules trained alone, then each stage's chain trained until the frozen model sees in the reconstruction what it
    saw in the image.

    The second phase minimises the mean squared distance between the representation of the reconstruction (clamped to
    [0, 1]) and the one given, channels standardised: the cycle consistency of Dong et al. 2021 over the whole chain.
    It needs no image but the one behind the representation. ``image_weight`` adds that much of the image loss.
    Operations include the frozen model's, forward and backward, which this objective runs through.
    """

    image_weight: float = 0.0

    name = "modular-cycle"
    family = "hybrid"
    source = "Dong et al. 2021 (DCI: divide-and-conquer inversion with cycle consistency), arXiv 2104.06487"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_weight < 0:
            raise UsageError(
                f"parameter 'image_weight' of method '{self.name}' is {self.image_weight}, expected 0 or more"
            )

    def objective(self, model: Model, stage: str, scale: ChannelScale) -> Objective:
        return cycle_objective(model, stage, scale, self.image_weight)


def cycle_objective(model: Model, stage: str, scale: ChannelScale, image_weight: float = 0.0) -> Objective:
    """Standardised feature distance at ``stage`` between reconstruction and image, through the frozen ``model``."""

    def loss(module: nn.Module, images: torch.Tensor, tensors: Tensors) -> torch.Tensor:
        made = module(tensors[stage])
        seen = model.run(made.clamp(0, 1), None, stage)
        distance = F.mse_loss(scale(seen), scale(tensors[stage]))
        return distance + image_weight * F.mse_loss(made, images) if image_weight else distance

    return loss


@register.method
@dataclass(frozen=True)
class ModularNoised(Modular):
    """Modules trained alone on noised representations, so that they bear the errors of those before them.

    ``noise`` is the deviation of the Gaussian noise, per channel in units of the channel's own deviation. Selection
    sees no noise. The budget is spent as in `Modular`.

    Raises:
        UsageError: for negative noise.
    """

    noise: float = 0.1

    name = "modular-noised"
    family = "hybrid"
    source = "Rathjens et al. 2024, with the corruption of denoising autoencoders (Vincent et al. 2008)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise < 0:
            raise UsageError(f"parameter 'noise' of method '{self.name}' is {self.noise}, expected 0 or more")

    def fit(self, problem: Problem) -> Fitted:
        links, start = self.started_links(problem, problem.stages[-1])
        generators = {
            stage: torch.Generator(problem.device).manual_seed(derived_seed(problem.seed, self.name, stage))
            for stage in links
        }

        def noised(stage: str, before: str | None) -> Objective:
            clean = image_objective(stage) if before is None else component_objective(stage, before)
            scale = links[stage].source_scale

            def loss(module: nn.Module, images: torch.Tensor, tensors: Tensors) -> torch.Tensor:
                if not module.training:
                    return clean(module, images, tensors)
                given = tensors[stage]
                drawn = torch.randn(given.shape, generator=generators[stage], device=given.device)
                return clean(module, images, {**tensors, stage: given + self.noise * scale.std * drawn})

            return loss

        jobs = module_jobs(problem, links, start, noised)
        jobs = [replace(job, generator=generators[job.name]) for job in jobs]
        report = train(problem, jobs, self.recipe)
        return self.composed(problem, links, start, [report])


@register.method
@dataclass(frozen=True)
class ModularPredecessor(Modular):
    """Modules trained on what the modules before them really give, deepest first, so that training matches use.

    The module of component k is used from every stage of the cut at or behind k. It sees those entries in equal
    parts of each batch: the representation itself, or the output of the finished, frozen modules from a later stage
    down to k. Modules are trained one after the other, each on the whole budget of one inverse; the forward passes
    through finished modules are part of its own time and operations, and the frozen forward runs once per module.
    All stages of the cut take part, whichever are asked for.
    """

    name = "modular-predecessor"
    family = "hybrid"
    source = "Rathjens et al. 2024, trained on composed inputs"

    uses_whole_cut = True

    def fit(self, problem: Problem) -> Fitted:
        cut = problem.cut
        links, start = self.started_links(problem, cut[-1])
        alone = {job.name: job for job in module_jobs(problem, links, start)}
        reports = []
        for number, stage in enumerate(reversed(cut)):
            entries = tuple(reversed(cut[cut.index(stage) :]))
            job = alone[stage]
            needs = tuple(dict.fromkeys((*job.needs, *entries)))
            later = {s: links[s] for s in entries[:-1]}
            part = replace(phase(problem, number, len(cut)), seed=problem.seed)
            job = replace(job, needs=needs, objective=_predecessor_objective(job.objective, later, entries))
            # modules nearer the image are untrained until the end: the chain has no quality yet
            job.reconstruct = job.reconstruct if stage == cut[0] else None
            reports.append(train(part, [job], self.recipe))
        return self.composed(problem, links, start, reports)


def _predecessor_objective(own: Objective, later: Mapping[str, InverseNetwork], entries: tuple[str, ...]) -> Objective:
    """``own`` loss of the module of the last of ``entries``, each image entering at one of them, deepest first in turn
    through the ``later`` modules."""
    stage = entries[-1]

    def loss(module: nn.Module, images: torch.Tensor, tensors: Tensors) -> torch.Tensor:
        count, parts = len(images), len(entries)
        order: list[int] = []
        given: torch.Tensor | None = None
        for number, entry in enumerate(entries):
            rows = list(range(number, count, parts))
            order += rows
            fresh = tensors[entry][rows]
            given = fresh if given is None else torch.cat([given, fresh])
            if entry in later:
                with torch.no_grad():
                    given = later[entry](given)
        assert given is not None
        targets = {name: tensor[order] for name, tensor in tensors.items()} | {stage: given}
        return own(module, images[order], targets)

    return loss


class SharedModules(nn.Module):
    """The modules of one chain as one network, entered at any of its stages.

    Args:
        links: modules by stage, in the model's order.
    """

    def __init__(self, links: Mapping[str, InverseNetwork]) -> None:
        super().__init__()
        self.order = tuple(links)
        self.links = nn.ModuleList(links.values())

    def forward(self, tensors: Tensors) -> torch.Tensor:
        """Images from every stage's tensor (B, ...): (stages * B, 3, H, W), the deepest stage's first."""
        given: torch.Tensor | None = None
        for stage, link in zip(reversed(self.order), reversed(self.links), strict=True):
            fresh = tensors[stage]
            given = link(fresh if given is None else torch.cat([given, fresh]))
        assert given is not None
        return given


@register.method
@dataclass(frozen=True)
class SharedChain(NetworkMethod):
    """One chain of modules, trained with an image loss from every stage of the cut at once.

    Every step, each image of the batch enters at every stage; the loss is the mean image error over stages. A stage's
    image passes are the images that entered there. The one training is shared by all stages of the cut: its seconds
    and operations are split evenly between them, and a budget of seconds or operations holds all of theirs. The curve
    in its notes has the loss over all stages and the stage's own PSNR.
    """

    name = "shared-chain"
    family = "hybrid"
    source = "one chain of the modules of Rathjens et al. 2024, image loss from every entry stage"

    uses_whole_cut = True

    def fit(self, problem: Problem) -> Fitted:
        cut = problem.cut
        links, start = self.started_links(problem, cut[-1])
        module = SharedModules(links)

        def loss(chain: nn.Module, images: torch.Tensor, tensors: Tensors) -> torch.Tensor:
            return F.mse_loss(chain(tensors), images.repeat(len(cut), 1, 1, 1))

        job = Job("chain", module, cut, loss, reconstruct=module, weight=len(cut), spent=start.spent(cut))
        report = train(problem, [job], self.recipe)
        outcome = report.outcomes["chain"]
        chains = {stage: compose(links, problem.chain_to(stage)) for stage in problem.stages}
        errors = selection_image_errors(problem, chains)
        part = replace(
            outcome,
            seconds=outcome.seconds / len(cut),
            fit_flops=outcome.fit_flops / len(cut),
        )
        own = {
            stage: replace(part, parameters=sum(p.numel() for p in chains[stage].parameters()))
            for stage in problem.stages
        }
        notes = {}
        for stage in problem.stages:
            place = cut[::-1].index(stage)  # the deepest stage's images come first
            curve = [[*point[:3], psnrs[place]] for point, psnrs in zip(outcome.curve, outcome.entries, strict=True)]
            notes[stage] = outcome.notes() | {
                "curve": curve,
                "entries": list(cut),
                "selection_image_mse": errors[stage],
            }
        return Fitted(ChainInverter(chains), total_cost(start, [report], {s: [o] for s, o in own.items()}), notes)
