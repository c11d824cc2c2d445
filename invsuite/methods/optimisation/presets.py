"""Optimisation inversion as named presets of one engine (`invsuite.methods.optimisation.engine`).

A suite may override any of them: ``[methods.mahendran2015]`` with ``iterations = 500``, or ``tv_at = {block06 = 2.0}``
for the prior's strength at one stage. Where a paper tunes a number by hand for its networks, or states it for another
scale of pixels, the preset's docstring says what stands here instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from invsuite._system.validation import Natural, NonNegativeFloat, Positive, PositiveFloat
from invsuite.methods.base import Fitted, Method, NamedTensors, Notes, Work, WorkFacts, no_fit
from invsuite.methods.optimisation.engine import (
    Descent,
    DescentSettings,
    Optimiser,
    Parametrisation,
    Schedule,
    StartImage,
)
from invsuite.methods.problem import Problem
from invsuite.registry import register


@register.method
@dataclass(frozen=True)
class Optimisation(Method, DescentSettings):
    r"""Gradient descent on pixels until the frozen model's representation of them matches the one to invert.

    For each image: begin at the mean colour of the fit images and repeat ``iterations`` times: run the model from the
    image to the stage, take the gradient of the objective with respect to what is moved, and make a step of Adam. What
    is moved are logits; their sigmoid are the pixels.

    Formula:
        $$ L = \frac{\| f(x) - r \|^2}{\| r \|^2} + \mathrm{tv} \cdot \mathrm{TV}(x)
        + \frac{\alpha}{HW} \sum_{i, j} \left( \frac{\| x_{ij} - m \|}{B} \right)^6 $$

        for the frozen model $f$ to the stage, the representation $r$ to invert, the mean colour $m$, and $B = 80 /
        255$; $\mathrm{TV}$ is the mean squared difference of neighbouring values, across and down.
    Cost:
        Nothing to fit, but ``iterations * restarts * ensemble`` forward and backward passes through the model per
        image: hundreds of times what a trained network takes.
    Use:
        As the standard of inversion without training, and where there are few images to train on.
    Pitfalls:
        The weight of the prior decides much, and the best one differs from stage to stage (``tv_at``). Iterations that
        do not suffice look like a poor stage: the curve in a record's notes tells whether the descent has converged.
    Source:
        Mahendran & Vedaldi 2015, arXiv 1412.0035, eq. 1, 2 and 5; the alpha-norm of their 2016 paper, arXiv 1512.02017,
        eq. 3; Adam on logits of pixels instead of their momentum.
    """

    name = "optimisation"
    family = "optimisation"
    source: ClassVar[str] = "Mahendran & Vedaldi 2015, arXiv 1412.0035 (objective; Adam on logits of pixels)"
    version = 2

    def fit(self, problem: Problem) -> Fitted:
        """Average the colour of the fit images."""
        count, total = 0, None
        for images in problem.fit.batches(256):
            part = images.double().sum((0, 2, 3))
            total = part if total is None else total + part
            count += len(images) * images.shape[2] * images.shape[3]
        assert total is not None
        mean_colour = (total / count).float().view(1, 3, 1, 1)
        return Fitted(self._descent(problem, mean_colour), no_fit(problem.stages))

    def restore(self, problem: Problem, tensors: NamedTensors, notes: Notes) -> Descent:
        """Return the inverter with the mean colour that was kept."""
        return self._descent(problem, tensors["mean_colour"])

    def _descent(self, problem: Problem, mean_colour: torch.Tensor) -> Descent:
        seed = problem.seed if self.seeded else 0  # an unseeded preset given random views stays a function of its cell
        progress = problem.context.progress
        return Descent(problem.model, mean_colour.to(problem.device), self, self.name, seed, progress)

    def work(self, facts: WorkFacts) -> Work:
        """Return the updates per image."""
        return replace(super().work(facts), updates=self.iterations * self.restarts * self.ensemble)


@register.method
@dataclass(frozen=True)
class Mahendran2015(Optimisation):
    """Optimisation as in Mahendran & Vedaldi 2015: momentum on pixels, alpha-norm and total variation, restarts.

    The objective of `Optimisation` with both priors. Pixels are moved themselves and clamped to [0, 1] after each step,
    by gradient descent with momentum 0.9 whose rate falls in steps, from two noisy starts of which the better objective
    is kept for each image.

    Cost:
        600 forward and backward passes per image by default (``iterations`` times ``restarts``).
    Use:
        To compare with the literature.
    Pitfalls:
        The paper's weights hold for images of other scales and its rates are tuned by hand for every layer; here
        weights are per mean pixel in [0, 1], and each image's gradient is divided by its root mean square, so that
        ``learning_rate`` is the root mean square of a step in pixel values and serves every stage.
    Source:
        Mahendran & Vedaldi 2015, arXiv 1412.0035, eq. 1 and 2.
    """

    iterations: Positive = 300
    learning_rate: PositiveFloat = 0.01
    tv: NonNegativeFloat = 30.0
    alpha: NonNegativeFloat = 0.001
    pixels: Parametrisation = "clamp"
    start: StartImage = "noise"
    optimiser: Optimiser = "momentum"
    schedule: Schedule = "step"
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
    learning_rate: PositiveFloat = 0.01
    tv: NonNegativeFloat = 0.0
    schedule: Schedule = "constant"
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

    What is moved are the coefficients of the image's Fourier transform, each divided by its frequency, in the colour
    directions in which natural images vary independently; a sigmoid gives pixels. Since fine detail moves last, a prior
    of a thousandth of the strength in `Optimisation` is enough.

    Formula:
        $$ x = \mathrm{sigmoid} \left( \mathrm{logit}(m) + C \, F^{-1} \left( \frac{z_{uv}}{\sqrt{u^2 + v^2}}
        \right) \right) $$

        for the coefficients $z$, frequencies $u, v$, the inverse Fourier transform $F^{-1}$, the colour directions $C$
        and the mean colour $m$; the objective is that of `Optimisation`.
    Cost:
        That of `Optimisation`, and a Fourier transform forward and backward per iteration.
    Use:
        Where `Optimisation` leaves high-frequency noise.
    Source:
        Olah, Mordvintsev & Schubert 2017, "Feature Visualization", doi 10.23915/distill.00007, sec. "Preconditioning
        and parameterization".
    """

    learning_rate: PositiveFloat = 0.05
    tv: NonNegativeFloat = 0.03
    pixels: Parametrisation = "fourier"
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
        The most of all presets: 1,500 iterations by default, each with a pass through the hourglass too.
    Use:
        To ask what a prior of the architecture alone recovers.
    Pitfalls:
        How long it runs is its prior; a run that is too long fits noise too.
    Source:
        Ulyanov, Vedaldi & Lempitsky 2018, arXiv 1711.10925, eq. 2; there with more channels and skips.
    """

    iterations: Positive = 1500
    learning_rate: PositiveFloat = 0.01
    tv: NonNegativeFloat = 0.0
    schedule: Schedule = "constant"
    pixels: Parametrisation = "network"
    start: StartImage = "noise"

    name = "dip"
    source = "Ulyanov, Vedaldi & Lempitsky 2018, arXiv 1711.10925"
    seeded = True
