"""Any fitted inverse as a start, then descent until the representation matches: a method that builds on another.

The prior is what makes it work: a Gaussian of the errors that the start makes, measured on selection images. Its square
root is the space in which images move, so that a step goes where the start is usually wrong, and as far; what the
representation does not tell stays as the start has it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F

from invsuite._system.timing import Stopwatch
from invsuite._system.validation import NonNegativeFloat, Positive
from invsuite.data.split import Split
from invsuite.methods.base import (
    FitCost,
    Fitted,
    Inverter,
    Method,
    NamedTensors,
    Notes,
    Snapshot,
    Watch,
    Work,
    WorkFacts,
    flattened,
    unflattened,
)
from invsuite.methods.built_on import BuiltOn
from invsuite.methods.optimisation.engine import Descended, Descent, DescentSettings
from invsuite.methods.optimisation.pixels import Pixels
from invsuite.methods.optimisation.search import channel_deviations, flops_per_pass, psnr_of
from invsuite.methods.problem import Problem, ProgressHook, silent
from invsuite.methods.ridge import Ridge, images_from, patches_of
from invsuite.models.base import Layout, Model, Representation
from invsuite.registry import register

SearchedLoss = Literal["l2", "standardised"]
LOSSES: tuple[SearchedLoss, ...] = ("l2", "standardised")
#: of the prior, from strong to weak. Weaker ones bring 0.15 dB at block 6 of the bundled ViT, nothing at DETR's encoder
WEIGHTS = (1.0, 0.03, 0.001, 0.00003)
GAIN = 0.02  # dB that a weaker prior must bring to be chosen, and may lose for the search to go on
MOST_PATCH = 16  # side of the patches whose covariance is measured, at most
USUAL_PATCH = 8  # where the representation has no grid, or a coarser one
FLOOR = 1e-4  # least variance of a direction, over the mean of all
SMOOTHED = 3  # frequencies, across and down, over which a spectrum is averaged
INVERTED = 32  # selection images whose starts are made at once
USUAL = 0.3  # share of its most iterations after which a descent has converged, about
READOUT = Ridge(neighbourhood=3)
START = "start:"  # before the names of the start's tensors that are kept


@dataclass(frozen=True)
class ErrorPrior:
    """The Gaussian distribution of a start's errors: within patches of a grid, and from patch to patch.

    Errors of a patch have a covariance; of each of its principal components the power spectrum over the grid of patches
    is known, too.

    Attributes:
        root: (values of a patch, components), the square root of the covariance.
        spectrum: (components, h, w), square roots of the power of each component at each frequency.
        size: (H, W) of the images.
    """

    root: torch.Tensor
    spectrum: torch.Tensor
    size: tuple[int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """Return the rows and columns of patches."""
        height, width = self.spectrum.shape[1:]
        return height, width

    def errors(self, normal: torch.Tensor) -> torch.Tensor:
        """Return errors (B, 3, H, W) of this distribution from standard normal values (B, components, h, w)."""
        components = torch.fft.ifft2(torch.fft.fft2(normal, norm="ortho") * self.spectrum, norm="ortho").real
        patches = components.flatten(2).transpose(1, 2) @ self.root.T
        return images_from(patches, self.grid, self.size)


def measure_prior(errors: torch.Tensor, patch: int) -> ErrorPrior:
    """Return the prior of the errors (N, 3, H, W) of some images.

    Args:
        errors: images minus their starts.
        patch: side of the patches, of which the images hold a whole number.
    """
    size = (errors.shape[2], errors.shape[3])
    grid = (size[0] // patch, size[1] // patch)
    patches = patches_of(errors, grid).double()
    rows = patches.flatten(0, 1)
    values, vectors = torch.linalg.eigh(shrunk(rows))
    deviations = values.clamp(min=FLOOR * float(values.mean()) + 1e-12).sqrt()
    components = ((patches @ vectors) / deviations).transpose(1, 2).unflatten(2, grid)
    power = torch.fft.fft2(components, norm="ortho").abs().square().mean(0)
    around = F.pad(power[None], [SMOOTHED // 2] * 4, mode="circular") if min(grid) > 1 else power[None]
    power = F.avg_pool2d(around, SMOOTHED, 1)[0] if min(grid) > 1 else power
    power = (power / power.mean((1, 2), keepdim=True).clamp(min=1e-12)).clamp(min=FLOOR)
    return ErrorPrior((vectors * deviations).float(), power.sqrt().float(), size)


def shrunk(rows: torch.Tensor) -> torch.Tensor:
    """Return the covariance of ``rows`` (n, values) of mean 0, shrunk to a multiple of the identity.

    The fewer and the wilder the rows, the more: Ledoit & Wolf 2004, doi 10.1016/S0047-259X(03)00096-4, lemma 3.2 ff.
    """
    count, values = rows.shape
    covariance = rows.T @ rows / count
    target = torch.eye(values, dtype=rows.dtype, device=rows.device) * covariance.diagonal().mean()
    spread = float((covariance - target).square().sum())
    noise = float(rows.square().sum(1).square().sum()) / count**2 - float(covariance.square().sum()) / count
    share = min(1.0, max(0.0, noise / spread)) if spread else 1.0
    return (1 - share) * covariance + share * target


def patch_side(size: tuple[int, int], layout: Layout) -> int:
    """Return the side of the patches whose errors are measured together: a token's where that is small enough.

    Args:
        size: (H, W) of the images.
        layout: of the representation.
    """
    if layout.grid is not None:
        sides = {length / count for length, count in zip(size, layout.grid, strict=True)}
        side = sides.pop()
        if not sides and side.is_integer() and side <= MOST_PATCH:
            return int(side)
    common = math.gcd(*size)
    return max(side for side in range(1, USUAL_PATCH + 1) if common % side == 0)


class PriorPixels(Pixels):
    """Images as starts plus errors that a prior draws from what is moved: standard normal values.

    Args:
        starts: (B, 3, H, W).
        prior: of their errors.
        weight: of the mean square of the values.
    """

    def __init__(self, starts: torch.Tensor, prior: ErrorPrior, weight: float) -> None:
        self.starts, self.prior, self.weight = starts, prior, weight
        self.parameters = [starts.new_zeros(len(starts), *prior.spectrum.shape).requires_grad_(True)]

    def images(self) -> torch.Tensor:
        """Return the images, which may leave [0, 1] a little."""
        return self.starts + self.prior.errors(self.parameters[0])

    def penalty(self) -> torch.Tensor:
        """Return the weighted mean square of the values (B,): minus the logarithm of their density, up to a factor."""
        return self.weight * self.parameters[0].square().flatten(1).mean(1)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with the images ``rows`` alone."""
        super().keep(rows)
        self.starts = self.starts[rows]


@dataclass(frozen=True)
class Refinement:
    """How the starts of one stage are refined.

    Attributes:
        prior: of the starts' errors.
        loss: in which representations are compared.
        weight: of the prior.
        share: how far to go from the start to where the descent ends, 0 to 1; 0 makes no descent.
        deviations: of channels, as they broadcast on the layout.
    """

    prior: ErrorPrior
    loss: SearchedLoss
    weight: float
    share: float
    deviations: torch.Tensor

    def descent(self, model: Model, settings: DescentSettings, stage: str, progress: ProgressHook) -> Descent:
        """Return the descent to representations of ``stage``."""
        return Descent(
            model,
            torch.zeros(1, 3, 1, 1, device=model.device),  # every descent is given where it starts
            replace(settings, loss=self.loss),
            name="refined",
            seed=0,
            weights={stage: 0.0},
            deviations={stage: self.deviations},
            progress=progress,
            parametrise=partial(PriorPixels, prior=self.prior, weight=self.weight),
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all of it as tensors."""
        numbers = torch.tensor([LOSSES.index(self.loss), self.weight, self.share, *self.prior.size], dtype=torch.double)
        return {
            "root": self.prior.root,
            "spectrum": self.prior.spectrum,
            "deviations": self.deviations,
            "numbers": numbers,
        }

    @classmethod
    def from_tensors(cls, tensors: NamedTensors) -> Refinement:
        """Return what `tensors` gave."""
        loss, weight, share, height, width = tensors["numbers"].tolist()
        prior = ErrorPrior(tensors["root"], tensors["spectrum"], (int(height), int(width)))
        return cls(prior, LOSSES[int(loss)], weight, share, tensors["deviations"])


@dataclass(frozen=True)
class RefinedInverter(Inverter):
    """Inverts by another inverter, and refines its images.

    Attributes:
        start: the inverter whose images are refined.
        refinements: by stage.
        descents: by stage.
    """

    start: Inverter
    refinements: Mapping[str, Refinement]
    descents: Mapping[str, Descent]

    @property
    def iterations(self) -> int:
        """Return how many iterations a descent makes at most."""
        return max((descent.iterations for descent in self.descents.values()), default=0)

    def shortened(self, iterations: int) -> RefinedInverter:
        """Return the same inverter with so many iterations of its descents."""
        return replace(self, descents={stage: d.shortened(iterations) for stage, d in self.descents.items()})

    def invert(self, representation: Representation) -> torch.Tensor:
        """Return reconstructions (B, 3, H, W) in [0, 1]."""
        return self.invert_watched(representation, None)

    def invert_watched(self, representation: Representation, watch: Watch | None) -> torch.Tensor:
        """Return what `invert` returns; ``watch`` is shown the images of the descents now and then."""
        stage = representation.stage
        descent, share = self.descents[stage], self.refinements[stage].share
        starts = self.start.invert(representation).detach()
        if not share:
            descent.outcomes.setdefault(stage, []).extend([(0, True)] * len(starts))
            return starts
        size, parts = descent.settings.batch, []
        for begin in range(0, len(starts), size):
            rows = slice(begin, begin + size)
            part = starts[rows]
            descended = descent.descend(representation[rows], part, _between(watch, part, share))
            parts.append(torch.lerp(part, descended.images, share))
        return torch.cat(parts)

    def findings(self, stage: str) -> dict[str, Any]:
        """Return how the descents went, and what the start says of itself."""
        of_start = self.start.findings(stage)
        return self.descents[stage].findings(stage) | ({"start_findings": of_start} if of_start else {})

    def tensors(self) -> dict[str, torch.Tensor] | None:
        """Return what the start keeps, and the prior and the choices of every stage; None where it keeps nothing."""
        of_start = self.start.tensors()
        if of_start is None:
            return None
        own = flattened({stage: refinement.tensors() for stage, refinement in self.refinements.items()})
        return {START + name: tensor for name, tensor in of_start.items()} | own


def _between(watch: Watch | None, starts: torch.Tensor, share: float) -> Watch | None:
    """Return a watch of the images that would be returned if the descent ended there."""
    if watch is None:
        return None
    return lambda now: watch(Snapshot(now.iteration, now.seconds, now.loss, torch.lerp(starts, now.images, share)))


@register.method
@dataclass(frozen=True)
class Refined(BuiltOn):
    r"""Any other method's reconstruction, refined by descent until its representation matches.

    The method ``start`` is fitted. What its reconstructions of selection images lack gives a Gaussian prior of its
    errors: their covariance within patches and, for every principal component, the power spectrum over the grid of
    patches. For each image, standard normal values of that prior are moved by L-BFGS, from zero, until the frozen
    model's representation of start plus error matches. The loss and the weight of the prior are chosen for each stage
    on other selection images, and so is how far to go from the start to the end of the descent; where no descent helps,
    the start stays.

    Formula:
        $$ \hat{x} = x_0 + s A z, \qquad z = \arg\min_z d(f(x_0 + A z), r) + \frac{\lambda}{n} \| z \|^2, \qquad
        A A^\top = \mathrm{Cov}(x - x_0) $$

        for the frozen model $f$ to the stage, the representation $r$, the start $x_0$, the square root $A$ of the
        covariance of its errors, $n$ values $z$, and $d$ either $\| f - r \|^2 / \| r \|^2$ or the mean squared
        error in units of each channel's deviation. $s$ is the least-squares factor on selection images, 0 to 1.
    Cost:
        The fit of ``start``, and descents of ``search_images`` selection images for each stage, loss and weight; both
        are counted. Inverting an image takes the start's inversion and up to ``iterations`` forward and backward
        passes through the model.
    Use:
        For the best reconstruction of a representation: a readout or a trained network knows what images look like, and
        the descent knows what this representation says. Families: ``start = "ridge-3x3"``, ``"modular"``,
        ``"layerwise"`` or ``"shared-chain"``, a row of the suite whose fit is shared. With ``start = "mean"`` nothing
        is trained: a descent from the mean image under a Gaussian of images, which finds more at late stages than the
        total variation of ``optimisation`` does.
    Pitfalls:
        Every image takes hundreds of passes through the model, where a network takes one. The prior is measured on
        selection images, for on fit images a trained start errs less; with few of them it is rough, and descents are
        slow. Where the model is far from linear around the start (object queries), matching the representation can lead
        away from the image: the search then keeps the start.
    Source:
        The suite's own: a maximum-a-posteriori estimate with the objective of Mahendran & Vedaldi 2015, arXiv
        1412.0035, and a Gaussian prior around another inverse; L-BFGS of Liu & Nocedal 1989, doi 10.1007/BF01589116.

    Attributes:
        start: another method: in a suite file the name of its row; in Python the method, or a registered name.
        loss: ``l2``, ``standardised``, or ``search`` for the better one.
        prior: weight of the prior; ``search`` chooses it.
        iterations: the most evaluations of the objective and its gradient per image.
        window: an image has converged when over so many iterations
        tolerance: its objective has fallen by less than this part of it.
        memory: curvature pairs that L-BFGS keeps.
        search_images: selection images, the first ones, on which loss and weight are chosen; at most half of them. The
            prior is measured on the others.
        search_iterations: the most iterations per image of the search.
        batch: images that descend side by side.
    """

    start: str | dict[str, Any] | Method = READOUT
    loss: SearchedLoss | Literal["search"] = "search"
    prior: NonNegativeFloat | Literal["search"] = "search"
    iterations: Positive = 1000
    window: Positive = 20
    tolerance: NonNegativeFloat = 0.01
    memory: Positive = 20
    search_images: Positive = 8
    search_iterations: Positive = 200
    batch: Positive = 16

    name = "refined"
    family = "hybrid"
    source = "the suite's own: maximum a posteriori around another inverse, with a Gaussian prior of its errors"
    reads_joined = True  # where its start does
    version = 2

    @property
    def settings(self) -> DescentSettings:
        """Return how images descend."""
        return DescentSettings(
            iterations=self.iterations,
            window=self.window,
            tolerance=self.tolerance,
            tv=0.0,
            memory=self.memory,
            batch=self.batch,
        )

    def fit(self, problem: Problem) -> Fitted:
        """Fit the start, measure the prior of its errors and choose loss and weight for every stage."""
        waited = Stopwatch(problem.device)
        with waited:
            start = problem.context.fit(self.begun, problem)
        stages = tuple(stage for stage in problem.stages if stage not in start.refused)
        known = start.cost
        cost = FitCost(
            stage_seconds={stage: known.stage_seconds.get(stage, 0.0) for stage in stages},
            shared_seconds=known.shared_seconds,
            image_passes={stage: known.image_passes.get(stage, 0) for stage in stages},
            parameters={stage: known.parameters.get(stage, 0) for stage in stages},
            fit_flops={stage: known.fit_flops[stage] for stage in stages if stage in known.fit_flops},
            frozen_flops={stage: known.frozen_flops[stage] for stage in stages if stage in known.frozen_flops},
            total_seconds=known.total_seconds - waited.seconds,  # its real cost, also where another row has paid it
            peak_bytes=known.peak_bytes,
        )
        refinements: dict[str, Refinement] = {}
        notes: Notes = {}
        for stage in stages:
            watch = Stopwatch(problem.device)
            with watch:
                search = _Search(self, problem, stage, start.inverter)
                refinements[stage], own = search.run()
            notes[stage] = {"start": start.notes.get(stage, {})} | own
            cost.stage_seconds[stage] += watch.seconds
            cost.image_passes[stage] += search.passes
            cost.parameters[stage] += sum(t.numel() for t in refinements[stage].tensors().values())
            if stage in cost.fit_flops:
                cost.fit_flops[stage] += search.flops
        inverter = self._inverter(problem, start.inverter, refinements)
        return Fitted(inverter, cost, notes, {s: e for s, e in start.refused.items() if s in problem.stages})

    def restore(self, problem: Problem, tensors: NamedTensors, notes: Notes) -> RefinedInverter | None:
        """Return the inverter with the start restored, and the priors and choices that were kept."""
        of_start = {name.removeprefix(START): t for name, t in tensors.items() if name.startswith(START)}
        own = {name: t.to(problem.device) for name, t in tensors.items() if not name.startswith(START)}
        start_notes = {stage: note.get("start", {}) for stage, note in notes.items()}
        start = self.begun.restore(problem, of_start, start_notes)
        states = unflattened(own)
        if start is None or not states.keys() >= set(problem.stages):
            return None
        return self._inverter(
            problem, start, {stage: Refinement.from_tensors(states[stage]) for stage in problem.stages}
        )

    def _inverter(self, problem: Problem, start: Inverter, refinements: Mapping[str, Refinement]) -> RefinedInverter:
        progress = problem.context.progress
        descents = {s: r.descent(problem.model, self.settings, s, progress) for s, r in refinements.items()}
        return RefinedInverter(start, refinements, descents)

    def work(self, facts: WorkFacts) -> Work:
        """Return the work of the start, of the search at a stage, and the updates per image."""
        work = self.begun.work(facts)
        losses = len(LOSSES) if self.loss == "search" else 1
        weights = len(WEIGHTS) if self.prior == "search" else 1
        limit = min(self.iterations, self.search_iterations)
        searched = math.ceil(USUAL * limit) * (weights + losses - 1) * self.search_images
        updates = math.ceil(USUAL * self.iterations)
        return replace(work, updates=work.updates + updates, searched_passes=work.searched_passes + searched)


class _Search:
    """The choice of a loss and of the prior's weight for one stage, and what it takes.

    Args:
        method: with its settings.
        problem: whose selection images are looked at.
        stage: to invert.
        start: the fitted start.

    Attributes:
        passes: of images through the model: forward and backward, or forward alone.
        flops: operations of descents.
        per_pass: operations of one iteration of one image.
    """

    def __init__(self, method: Refined, problem: Problem, stage: str, start: Inverter) -> None:
        self.method, self.problem, self.stage, self.start = method, problem, stage, start
        self.passes, self.flops, self.per_pass = 0, 0.0, 0

    def run(self) -> tuple[Refinement, dict[str, Any]]:
        """Return the choice, and notes of it for the record."""
        method, problem, stage = self.method, self.problem, self.stage
        select, device = problem.select, problem.device
        searched = max(1, min(method.search_images, len(select) // 2))
        measured = Split(select.dataset, select.rows[searched:] or select.rows)
        batches = (images.to(device) for images in measured.batches(INVERTED))
        errors = torch.cat([images - self._starts(images)[1] for images in batches])
        prior = measure_prior(errors, patch_side(problem.model.image_size, problem.model.layout(stage)))
        deviations, looked_at = channel_deviations(problem, stage)
        self.passes += len(looked_at)
        images = select.images(slice(0, searched)).to(device)
        representation, starts = self._starts(images)
        losses = LOSSES if method.loss == "search" else (method.loss,)
        weights = WEIGHTS if method.prior == "search" else (float(method.prior),)
        best, best_psnr, tried = Refinement(prior, losses[0], weights[0], 0.0, deviations), psnr_of(starts, images), []
        notes: dict[str, Any] = {"start_psnr": best_psnr}
        for loss in losses:
            # the weight that is best for one loss serves the other
            for weight in weights if loss == losses[0] else (best.weight,):
                candidate = Refinement(prior, loss, weight, 1.0, deviations)
                descended = self._descend(candidate, representation, starts)
                share = best_share(starts, descended.images, images)
                psnr = psnr_of(torch.lerp(starts, descended.images, share), images)
                tried.append({"loss": loss, "weight": weight, "share": share, "psnr": psnr})
                problem.context.progress(len(tried), len(losses) + len(weights) - 1, f"weights of the prior at {stage}")
                if psnr > best_psnr + GAIN:
                    best, best_psnr = replace(candidate, share=share), psnr
                if not share or psnr < best_psnr - GAIN:
                    break
        notes |= {"loss": best.loss, "prior": best.weight, "share": best.share, "search": tried}
        return best, notes | {"prior_images": len(measured), "search_images": searched}

    def _starts(self, images: torch.Tensor) -> tuple[Representation, torch.Tensor]:
        representation = self.problem.model.represent(images, [self.stage])[self.stage]
        self.passes += len(images)
        return representation, self.start.invert(representation).detach()

    def _descend(self, candidate: Refinement, representation: Representation, starts: torch.Tensor) -> Descended:
        limit = min(self.method.iterations, self.method.search_iterations)
        settings = replace(self.method.settings, iterations=limit)
        descent = candidate.descent(self.problem.model, settings, self.stage, silent)
        if not self.per_pass:
            self.per_pass = flops_per_pass(descent, representation, starts)
        descended = descent.descend(representation, starts)
        passes = int(descended.iterations.sum())
        self.passes += passes
        self.flops += float(self.per_pass * passes)
        return descended


def best_share(starts: torch.Tensor, ends: torch.Tensor, images: torch.Tensor) -> float:
    """Return how far to go from starts to ends, 0 to 1, for the least squared error of all ``images``."""
    moves = ends - starts
    size = float(moves.square().sum())
    return min(1.0, max(0.0, float((moves * (images - starts)).sum()) / size)) if size else 0.0
