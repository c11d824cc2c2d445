"""Optimisation inversion as named presets: one engine (`invsuite.methods.optimisation.engine`), each preset a set of
defaults.

A suite may override any of them: ``[methods.mahendran2015]`` with ``iterations = 500``, or ``tv_at = {block06 = 2.0}``
for the prior's strength at one stage. Where a paper tunes a number by hand for its networks, or states it for another
scale of pixels, the preset's docstring says what stands here instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from invsuite.errors import UsageError, unknown_name
from invsuite.methods.base import Fitted, Method, no_fit
from invsuite.methods.optimisation.engine import Descent
from invsuite.methods.problem import Problem
from invsuite.registry import register

CHOICES = {
    "loss": ("l2", "cosine"),
    "pixels": ("sigmoid", "clamp", "fourier", "network"),
    "start": ("mean", "noise"),
    "optimiser": ("adam", "momentum"),
    "schedule": ("constant", "linear", "step"),
}
AT_LEAST_ONE = ("iterations", "batch", "restarts", "ensemble", "width", "depth", "drops")


@register.method
@dataclass(frozen=True)
class Optimisation(Method):
    """Gradient descent on pixels until the model's representation matches, with a total-variation prior.

    Args:
        iterations: updates of each restart.
        learning_rate: of Adam; with ``momentum``, the root mean square of a step in units of the parameters.
        loss: ``l2``, relative to the target's squared norm, or ``cosine``.
        tv: weight of the total variation (beta = 2, mean per pixel); ``tv_at`` has other weights by stage.
        alpha: weight of the alpha-norm (alpha = 6) around the mean colour.
        pixels: what is moved: ``sigmoid`` (logits), ``clamp`` (pixels), ``fourier``, or ``network`` (deep image prior,
            ``width`` channels and ``depth`` halvings).
        start: ``mean`` colour of the fit images, or the same with ``noise``.
        optimiser: ``adam``, or ``momentum`` with ``momentum``.
        schedule: ``constant``, ``linear`` decay over the last half, or ``step``: ``drops`` divisions by ``drop_by``.
        restarts: descents from different draws, the best objective of each image kept.
        jitter, zoom, colour_shift: random views at each step, ``ensemble`` of them averaged.
        batch: images side by side.

    Raises:
        UsageError: for a value that is out of range or not one of the choices.
    """

    iterations: int = 200
    learning_rate: float = 0.1
    loss: str = "l2"
    tv: float = 30.0
    tv_at: dict[str, float] = field(default_factory=dict)
    alpha: float = 0.0
    pixels: str = "sigmoid"
    start: str = "mean"
    optimiser: str = "adam"
    momentum: float = 0.9
    schedule: str = "linear"
    drops: int = 3
    drop_by: float = 3.0
    restarts: int = 1
    jitter: int = 0
    zoom: float = 0.0
    colour_shift: float = 0.0
    ensemble: int = 1
    width: int = 32
    depth: int = 4
    batch: int = 16

    name = "optimisation"
    family = "optimisation"
    source: ClassVar[str] = "Mahendran & Vedaldi 2015, arXiv 1412.0035 (objective; Adam on logits of pixels)"
    version = 2

    def __post_init__(self) -> None:
        for key, known in CHOICES.items():
            if getattr(self, key) not in known:
                raise unknown_name(f"{key} of method '{self.name}'", str(getattr(self, key)), known)
        for key in AT_LEAST_ONE:
            if getattr(self, key) < 1:
                raise UsageError(
                    f"parameter '{key}' of method '{self.name}' is {getattr(self, key)}, expected 1 or more"
                )
        for key in ("tv", "alpha", "jitter", "zoom", "colour_shift"):
            if getattr(self, key) < 0:
                raise UsageError(
                    f"parameter '{key}' of method '{self.name}' is {getattr(self, key)}, expected 0 or more"
                )
        if self.learning_rate <= 0 or self.drop_by < 1 or not 0 <= self.momentum < 1:
            raise UsageError(
                f"method '{self.name}' needs learning_rate > 0, drop_by >= 1 and momentum in [0, 1), got "
                f"{self.learning_rate}, {self.drop_by} and {self.momentum}"
            )
        for stage, weight in self.tv_at.items():
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or weight < 0:
                raise UsageError(f"parameter 'tv_at.{stage}' of method '{self.name}' is {weight!r}, expected 0 or more")

    def rate(self, step: int) -> float:
        """The learning rate of ``step`` (from 0)."""
        if self.schedule == "linear":
            return self.learning_rate * min(1.0, 2 * (1 - step / self.iterations))
        if self.schedule == "step":
            fallen = step * (self.drops + 1) // self.iterations
            return self.learning_rate / float(self.drop_by) ** fallen
        return self.learning_rate

    def fit(self, problem: Problem) -> Fitted:
        count, total = 0, None
        for images in problem.fit.batches(256):
            part = images.double().sum((0, 2, 3))
            total = part if total is None else total + part
            count += len(images) * images.shape[2] * images.shape[3]
        assert total is not None
        start = (total / count).float().view(1, 3, 1, 1).to(problem.device)
        seed = problem.seed if self.seeded else 0  # an unseeded preset given random views stays a function of its cell
        return Fitted(Descent(problem.model, start, self, seed, problem.context.progress), no_fit(problem.stages))


@register.method
@dataclass(frozen=True)
class Mahendran2015(Optimisation):
    """Mahendran & Vedaldi 2015: relative L2 loss, alpha-norm (6), TV (beta = 2), momentum 0.9, stepwise rate, restarts.

    The papers' weights hold for images of other scales and their rates are tuned by hand; here weights are per mean
    pixel in [0, 1] and a step's size is in pixel values (`invsuite.methods.optimisation.engine.NormalisedMomentum`).
    """

    iterations: int = 300
    learning_rate: float = 0.01
    tv: float = 30.0
    alpha: float = 0.001
    pixels: str = "clamp"
    start: str = "noise"
    optimiser: str = "momentum"
    schedule: str = "step"
    restarts: int = 2

    name = "mahendran2015"
    source = "Mahendran & Vedaldi 2015, arXiv 1412.0035"
    seeded = True


@register.method
@dataclass(frozen=True)
class Mahendran2016(Mahendran2015):
    """Mahendran & Vedaldi 2016: the same, with a random shift of up to ``jitter`` pixels before every pass.

    Meant for networks that are shift-invariant; a patch grid is not, which is what this row shows.
    """

    jitter: int = 4

    name = "mahendran2016"
    source = "Mahendran & Vedaldi 2016, arXiv 1512.02017"


@register.method
@dataclass(frozen=True)
class PlugIn(Optimisation):
    """Plug-in inversion (Ghiasi et al. 2022): no prior but an ensemble of random views; Adam at 0.01.

    The paper inverts class labels, with colour shifts at full strength and a crop that grows from the centre; for a
    representation, which says where things are and in which colours, the shift is small and ``zoom`` is off.
    """

    iterations: int = 400
    learning_rate: float = 0.01
    tv: float = 0.0
    schedule: str = "constant"
    pixels: str = "clamp"
    start: str = "noise"
    colour_shift: float = 0.05
    ensemble: int = 2

    name = "plugin"
    source = "Ghiasi et al. 2022, arXiv 2201.12961"
    seeded = True


@register.method
@dataclass(frozen=True)
class Fourier(Optimisation):
    """Fourier-parametrised, colour-decorrelated pixels: low frequencies move first, so a weaker prior is enough."""

    learning_rate: float = 0.05
    tv: float = 0.03
    pixels: str = "fourier"
    start: str = "noise"

    name = "fourier"
    source = "Olah, Mordvintsev & Schubert 2017, Feature Visualization, doi 10.23915/distill.00007"
    seeded = True


@register.method
@dataclass(frozen=True)
class DeepImagePrior(Optimisation):
    """Deep image prior: each image is the output of its own untrained hourglass network; Adam at 0.01, a long run."""

    iterations: int = 1500
    learning_rate: float = 0.01
    tv: float = 0.0
    schedule: str = "constant"
    pixels: str = "network"
    start: str = "noise"

    name = "dip"
    source = "Ulyanov, Vedaldi & Lempitsky 2018, arXiv 1711.10925"
    seeded = True
