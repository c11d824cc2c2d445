"""Optimisation inversion as named presets of one engine (`invsuite.methods.optimisation.engine`).

A suite may override any of them: ``[methods.mahendran2015]`` with ``iterations = 500``, or ``tv_at = {block06 = 2.0}``
for the prior's strength at one stage. Where a paper tunes a number by hand for its networks, or states it for another
scale of pixels, the preset's docstring says what stands here instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch

from invsuite._system.timing import Stopwatch
from invsuite._system.validation import Natural, NonNegativeFloat, Positive, PositiveFloat, Range
from invsuite.data.split import Split
from invsuite.errors import UsageError
from invsuite.methods.base import Fitted, Method, NamedTensors, Notes, Work, WorkFacts
from invsuite.methods.optimisation.engine import (
    Descent,
    DescentSettings,
    Loss,
    OptimiserName,
    Parametrisation,
    Schedule,
    StartImage,
)
from invsuite.methods.optimisation.search import fit_descent, searched_weights
from invsuite.methods.problem import Problem
from invsuite.registry import register

Until = Literal["converged", "iterations"]
USUAL = 0.6  # share of its most iterations after which a descent has converged, about


@register.method
@dataclass(frozen=True)
class Optimisation(Method, DescentSettings):
    r"""Descent on an image until the frozen model's representation of it matches the one to invert.

    For each image: begin at the mean colour of the fit images and repeat: run the model from the image to the stage,
    take the gradient of the objective with respect to what is moved, and make a step of L-BFGS. What is moved are
    Fourier coefficients of the image's logits in decorrelated colours, each divided by the square root of its
    frequency. The prior begins a thousand times as strong as it ends, and is weakened by ten whenever the objective has
    converged: fallen by less than ``tolerance`` of it over ``window`` iterations. An image is done once that is so
    under the last weight, and at ``iterations`` at the latest. This weight is chosen for each stage on selection
    images.

    Formula:
        $$ L = d(f(x), r) + \mathrm{tv} \cdot \mathrm{TV}(x)
        + \frac{\alpha}{HW} \sum_{i, j} \left( \frac{\| x_{ij} - m \|}{B} \right)^6,
        \qquad d(f, r) = \frac{\| f - r \|^2}{\| r \|^2} $$

        for the frozen model $f$ to the stage, the representation $r$ to invert, the mean colour $m$, and $B = 80 /
        255$; $\mathrm{TV}$ is the mean squared difference of neighbouring values, across and down. With ``loss =
        "cosine"`` $d$ is one minus the cosine of $f$ and $r$, with ``"standardised"`` the mean of $(f - r)^2 /
        \sigma_c^2$ for each channel's deviation $\sigma_c$ over fit images.
    Cost:
        The search takes about a thousand forward and backward passes through the model for each of ``search_images``
        selection images and each stage; then each image takes several hundred: hundreds of times what a trained network
        takes.
    Use:
        As the standard of inversion without training, and where there are few images to train on.
    Pitfalls:
        The weight of the prior decides much, and the best one differs from stage to stage. A descent that ends at
        ``iterations`` looks like a poor stage: a record says whether its images have converged, and holds the curve.
    Source:
        Mahendran & Vedaldi 2015, arXiv 1412.0035, eq. 1, 2 and 5; the alpha-norm of their 2016 paper, arXiv 1512.02017,
        eq. 3. In place of their momentum on pixels: L-BFGS (Liu & Nocedal 1989, doi 10.1007/BF01589116), and the
        parametrisation of Olah et al. 2017, doi 10.23915/distill.00007.
    """

    name = "optimisation"
    family = "optimisation"
    reads_joined = True
    source: ClassVar[str] = "Mahendran & Vedaldi 2015, arXiv 1412.0035 (objective; L-BFGS on Fourier coefficients)"
    version = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        rough = {"jitter": self.jitter, "zoom": self.zoom, "colour_shift": self.colour_shift}
        refused = [name for name, strength in rough.items() if strength] + ["pixels"] * (self.pixels == "clamp")
        if self.optimiser == "lbfgs" and refused:
            value = getattr(self, refused[0])
            raise UsageError(
                f"'{self.name}.{refused[0]}' is {value!r}, which the line search of '{self.name}.optimiser' = 'lbfgs' "
                "does not go with: set 'adam'"
            )
        if self.smoothing and self.pixels == "network":
            raise UsageError(
                f"'{self.name}.smoothing' is {self.smoothing}, but '{self.name}.pixels' = 'network' begins at no "
                "image: set smoothing = 0 or other pixels"
            )

    def fit(self, problem: Problem) -> Fitted:
        """Average the colour of the fit images, and choose the prior's weight for each stage on selection images."""
        shared = Stopwatch(problem.device)
        with shared:
            descent = self._descent(problem, mean_colour(problem.fit))
        descent, cost, notes = fit_descent(descent, problem)
        cost.shared_seconds = shared.seconds
        return Fitted(descent, cost, notes)

    def restore(self, problem: Problem, tensors: NamedTensors, notes: Notes) -> Descent | None:
        """Return the inverter with the mean colour, weights and deviations that were kept."""
        kept: dict[str, dict[str, torch.Tensor]] = {"tv": {}, "deviations": {}}
        for name, tensor in tensors.items():
            kind, _, stage = name.partition("/")
            kept.setdefault(kind, {})[stage] = tensor
        weights = {stage: float(weight) for stage, weight in kept["tv"].items()}
        if not weights.keys() >= set(problem.stages):
            return None
        return self._descent(problem, tensors["mean_colour"], weights=weights, deviations=kept["deviations"])

    def _descent(self, problem: Problem, colour: torch.Tensor, **known: Any) -> Descent:
        seed = problem.seed if self.seeded else 0  # an unseeded preset given random views stays a function of its cell
        progress = problem.context.progress
        return Descent(problem.model, colour.to(problem.device), self, self.name, seed, progress, **known)

    def work(self, facts: WorkFacts) -> Work:
        """Return the updates per image, and those of the search at a stage."""
        usual = USUAL if self.until == "converged" else 1.0
        searched = 0
        if self.tv == "search":
            limit = min(self.iterations, self.search_iterations)
            searched = math.ceil(usual * limit * len(searched_weights(self))) * self.ensemble * self.search_images
        updates = math.ceil(usual * self.iterations) * self.restarts * self.ensemble
        return replace(super().work(facts), updates=updates, searched_passes=searched)


def mean_colour(images: Split) -> torch.Tensor:
    """Return the mean colour (1, 3, 1, 1) of ``images``."""
    total = torch.zeros(3, dtype=torch.float64)
    for batch in images.batches(256):
        total += batch.double().mean((2, 3)).sum(0)
    return (total / len(images)).float().view(1, 3, 1, 1)


@register.method
@dataclass(frozen=True)
class Graduated(Optimisation):
    r"""Optimisation that begins under noise on the image, ever less of it: for late stages of large models.

    The first ``smoothing_iterations`` match the representation of the image plus Gaussian noise, fresh at every
    iteration, whose deviation falls from ``smoothing`` to ``smoothing_end``; Adam moves the coefficients. From there
    the descent is that of `Optimisation`, with the standardised loss, the alpha-norm, and no annealing. Without noise,
    a change of the image that nobody sees is enough to match a late stage of a real vision transformer, and a descent
    ends there; under noise only what stands out of it counts, so that objects, edges and colours form first. A late
    stage hardly knows how bright an image is: the total variation alone would make it dark, where differences are
    small, and the alpha-norm holds its colours.

    Formula:
        $$ L_k = \mathbb{E}_{\epsilon} \, d(f(x + \sigma_k \epsilon), r) + \mathrm{tv} \cdot \mathrm{TV}(x),
        \qquad \epsilon \sim N(0, 1), \qquad \sigma_k = \sigma_0^{1 - k / K} \sigma_K^{k / K} $$

        for iteration $k$ of $K$ under noise, one draw of $\epsilon$ each, plus the alpha-norm; then $L$ of
        `Optimisation`.
    Cost:
        That of `Optimisation`; the search tries four weights, each under noise anew.
    Use:
        Where `optimisation` matches the representation by images that show nothing.
    Pitfalls:
        An image stands out of noise by its contrast: what is found under noise may have too much of it. The alpha-norm
        takes contrast where a stage does know how bright an image is: set ``alpha = 0`` there. Models of scenes without
        texture, which were trained without noise, are led away by noise.
    Source:
        The suite's own, of known parts: randomised smoothing (Duchi et al. 2012, arXiv 1103.4296) that falls (graduated
        optimisation: Hazan et al. 2016, arXiv 1503.03712, alg. 1), for the objective of Mahendran & Vedaldi 2015.
    """

    smoothing: NonNegativeFloat = 0.3
    learning_rate: PositiveFloat = 0.05
    loss: Loss = "standardised"
    anneal: Natural = 0
    alpha: NonNegativeFloat = 0.001

    name = "graduated"
    source = "the suite's own: Mahendran & Vedaldi 2015 under noise that falls (Hazan et al. 2016, arXiv 1503.03712)"
    seeded = True
    version = 1


@register.method
@dataclass(frozen=True)
class Mahendran2015(Optimisation):
    """Optimisation as in Mahendran & Vedaldi 2015: momentum on pixels, alpha-norm and total variation, restarts.

    The objective of `Optimisation` with both priors, at fixed weights. Pixels are moved themselves and clamped to [0,
    1] after each step, by gradient descent with momentum 0.9 whose rate falls by ten in steps, from two noisy starts of
    which the better objective is kept for each image. All iterations are made, as published; the record says whether
    the objective still fell at their end.

    Cost:
        800 forward and backward passes per image by default (``iterations`` times ``restarts``).
    Use:
        To compare with the literature.
    Pitfalls:
        The paper's weights hold for images of other scales and its rates are tuned by hand for every layer; here
        weights are per mean pixel in [0, 1], and each image's gradient is divided by its root mean square, so that
        ``learning_rate`` is the root mean square of a step in pixel values and serves every stage.
    Source:
        Mahendran & Vedaldi 2015, arXiv 1412.0035, eq. 1 and 2; the 400 iterations, with a rate that falls by ten twice,
        are those of the authors' code (deep-goggle, experiment_cnn.m).
    """

    iterations: Positive = 400
    until: Until = "iterations"
    learning_rate: PositiveFloat = 0.01
    tv: NonNegativeFloat | Literal["search"] = 30.0
    anneal: Natural = 0
    alpha: NonNegativeFloat = 0.001
    pixels: Parametrisation = "clamp"
    start: StartImage = "noise"
    optimiser: OptimiserName = "momentum"
    schedule: Schedule = "step"
    drops: Positive = 2
    drop_by: Annotated[float, Range(minimum=1)] = 10.0
    restarts: Positive = 2

    name = "mahendran2015"
    source = "Mahendran & Vedaldi 2015, arXiv 1412.0035"
    seeded = True


@register.method
@dataclass(frozen=True)
class Mahendran2016(Mahendran2015):
    """`Mahendran2015` with a random cyclic shift of up to ``jitter`` pixels before every pass through the model.

    Use:
        To see what the shift, which regularises networks that are shift-invariant, does to others.
    Pitfalls:
        A patch grid is not shift-invariant, which is what this method shows of a vision transformer.
    Source:
        Mahendran & Vedaldi 2016, arXiv 1512.02017, sec. 4.4.
    """

    jitter: Natural = 4

    name = "mahendran2016"
    source = "Mahendran & Vedaldi 2016, arXiv 1512.02017"


@register.method
@dataclass(frozen=True)
class PlugIn(Optimisation):
    """Plug-in inversion: no prior on images, but an ensemble of random views of each; Adam at 0.01.

    At every iteration the feature loss of `Optimisation` is averaged over ``ensemble`` views of the image with a random
    gain and offset per channel (``colour_shift``). Pixels are moved themselves and clamped to [0, 1].

    Cost:
        800 forward and backward passes per image by default (``iterations`` times ``ensemble``).
    Use:
        To ask how far random views replace a prior.
    Pitfalls:
        The paper inverts class labels, with colour shifts at full strength and a crop that grows from the centre; for a
        representation, which says where things are and in which colours, the shift is small and ``zoom`` is off.
    Source:
        Ghiasi et al. 2022, arXiv 2201.12961, sec. 3.3.
    """

    iterations: Positive = 400
    until: Until = "iterations"
    learning_rate: PositiveFloat = 0.01
    tv: NonNegativeFloat | Literal["search"] = 0.0
    anneal: Natural = 0
    optimiser: OptimiserName = "adam"
    pixels: Parametrisation = "clamp"
    start: StartImage = "noise"
    colour_shift: NonNegativeFloat = 0.05
    ensemble: Positive = 2

    name = "plugin"
    source = "Ghiasi et al. 2022, arXiv 2201.12961"
    seeded = True


@register.method
@dataclass(frozen=True)
class Fourier(Optimisation):
    r"""Optimisation of Fourier coefficients in decorrelated colours: low frequencies move first.

    What is moved, by Adam, are the coefficients of the image's Fourier transform, each divided by its frequency, in the
    colour directions in which natural images vary independently; a sigmoid gives pixels. Since fine detail moves last,
    a weak prior is enough.

    Formula:
        $$ x = \mathrm{sigmoid} \left( \mathrm{logit}(m) + C \, F^{-1} \left( \frac{z_{uv}}{\sqrt{u^2 + v^2}}
        \right) \right) $$

        for the coefficients $z$, frequencies $u, v$, the inverse Fourier transform $F^{-1}$, the colour directions $C$
        and the mean colour $m$; the objective is that of `Optimisation`.
    Cost:
        512 forward and backward passes per image by default, and a Fourier transform with each.
    Use:
        To compare with the literature on feature visualisation, from which `Optimisation` takes what is moved.
    Source:
        Olah, Mordvintsev & Schubert 2017, "Feature Visualization", doi 10.23915/distill.00007, sec. "Preconditioning
        and parameterization"; Adam at 0.05 for 512 iterations are the defaults of the authors' library, lucid.
    """

    iterations: Positive = 512
    until: Until = "iterations"
    learning_rate: PositiveFloat = 0.05
    tv: NonNegativeFloat | Literal["search"] = 0.03
    anneal: Natural = 0
    optimiser: OptimiserName = "adam"
    schedule: Schedule = "linear"
    decay: NonNegativeFloat = 1.0
    start: StartImage = "noise"

    name = "fourier"
    source = "Olah, Mordvintsev & Schubert 2017, Feature Visualization, doi 10.23915/distill.00007"
    seeded = True


@register.method
@dataclass(frozen=True)
class DeepImagePrior(Optimisation):
    r"""Deep image prior: each image is the output of its own untrained network, whose weights are what descends.

    An hourglass of ``width`` channels that halves the resolution ``depth`` times maps fixed noise to the image; its
    weights are moved by Adam at 0.01 until the representation matches. There is no other prior: convolutions fit
    natural images before noise.

    Formula:
        $$ \hat{x} = g_\theta(z), \qquad \theta = \arg\min_\theta \frac{\| f(g_\theta(z)) - r \|^2}{\| r \|^2} $$

        for the network $g_\theta$ and fixed noise $z$.
    Cost:
        The most of all presets: 3,100 iterations by default, each with a pass through the hourglass too.
    Use:
        To ask what a prior of the architecture alone recovers.
    Pitfalls:
        How long it runs is its prior; a run that is too long fits noise too.
    Source:
        Ulyanov, Vedaldi & Lempitsky 2018, arXiv 1711.10925, eq. 2; there with more channels and skips. The 3,100
        iterations are those of feature inversion in the authors' code, at a rate of 0.001 for their larger network.
    """

    iterations: Positive = 3100
    until: Until = "iterations"
    learning_rate: PositiveFloat = 0.01
    tv: NonNegativeFloat | Literal["search"] = 0.0
    anneal: Natural = 0
    optimiser: OptimiserName = "adam"
    pixels: Parametrisation = "network"
    start: StartImage = "noise"

    name = "dip"
    source = "Ulyanov, Vedaldi & Lempitsky 2018, arXiv 1711.10925"
    seeded = True
