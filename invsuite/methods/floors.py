"""Floors: what a method must beat to have learned anything from the representation.

Three of them are shown the image itself (``uses_image``). They are no upper bounds - an inverse may well be better than
a thumbnail - but mark levels on the scale, and tables give them no place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from invsuite._system.spill import TensorLike
from invsuite._system.timing import Stopwatch
from invsuite.data.split import Split
from invsuite.errors import NotApplicable, UsageError
from invsuite.methods import make_method
from invsuite.methods.base import FitCost, Fitted, Inverter, Method, NamedTensors, Notes, Work, WorkFacts, no_fit
from invsuite.methods.passes import BatchPass, Rows, State
from invsuite.methods.problem import Problem, derived_seed
from invsuite.methods.training.initialisation import Moments
from invsuite.models.base import Model, Representation
from invsuite.registry import register

FIT_BATCH = 32


@dataclass(frozen=True)
class MeanImage(Inverter):
    """Answers every representation with the same ``image`` (1, 3, H, W)."""

    image: torch.Tensor

    def invert(self, representation: Representation) -> torch.Tensor:
        """Return the image once per representation."""
        return self.image.expand(len(representation), -1, -1, -1)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the image."""
        return {"image": self.image}


@register.method
@dataclass(frozen=True)
class Mean(Method):
    r"""The mean of the fit images, whatever the representation: the floor of every stage.

    Of all answers that do not depend on the image it has the least mean squared error.

    Formula:
        $$ \hat{x} = \frac{1}{n} \sum_{i=1}^{n} x_i $$

        over the fit images $x_i$.
    Cost:
        One pass over the fit images, not through the model.
    Use:
        In every suite: a method that is not better has learned nothing from the representation.
    Pitfalls:
        Measures that reward smooth images (PSNR, SSIM) put it higher than it looks.
    Source:
        The constant predictor of least squared error.
    """

    name = "mean"
    family = "floor"
    source = "the constant predictor of least squared error"
    reads_joined = True

    def fit(self, problem: Problem) -> Fitted:
        """Average the fit images."""
        watch = Stopwatch(problem.device)
        with watch:
            total = sum(images.double().sum(0) for images in problem.fit.batches(256))
            assert isinstance(total, torch.Tensor)
            image = (total / len(problem.fit)).float().to(problem.device)
        cost = FitCost(shared_seconds=watch.seconds)
        cost.image_passes = dict.fromkeys(problem.stages, len(problem.fit))
        cost.parameters = dict.fromkeys(problem.stages, image.numel())
        return Fitted(MeanImage(image[None]), cost)

    def restore(self, problem: Problem, tensors: NamedTensors, notes: Notes) -> MeanImage:
        """Return the inverter with the mean image that was kept."""
        return MeanImage(tensors["image"].to(problem.device))


@dataclass(frozen=True)
class NearestInverter(Inverter):
    """Answers with the fit image whose standardised representation is nearest.

    Attributes:
        model: frozen.
        fit: the fit images.
        kept: every fit image's representation (N, ...), of the stages for which memory or the disk has room.
        weight: one over each channel's deviation over fit images and places, as the layout broadcasts.
    """

    model: Model
    fit: Split
    kept: Mapping[str, TensorLike]
    weight: Mapping[str, torch.Tensor]

    def invert(self, representation: Representation) -> torch.Tensor:
        """Return the nearest fit images (B, 3, H, W)."""
        return self.fit.images(self.rows(representation).tolist()).to(representation.tensor.device)

    @torch.no_grad()
    def rows(self, representation: Representation) -> torch.Tensor:
        """Return, for each representation, the row of the nearest fit image (B,), the first of equals."""
        stage = representation.stage
        weight = self.weight[stage]
        points = (representation.tensor * weight).flatten(1)
        least = torch.full((len(points),), float("inf"), device=points.device)
        rows = torch.zeros(len(points), dtype=torch.long, device=points.device)
        start = 0
        for features in self._features(stage):
            distances = torch.cdist(points, (features.to(points.device) * weight).flatten(1))
            smallest, index = distances.min(1)
            rows = torch.where(smallest < least, index + start, rows)
            least = torch.minimum(smallest, least)
            start += len(features)
        return rows

    def _features(self, stage: str) -> Iterator[torch.Tensor]:
        """Yield the fit images' representations, kept or computed again."""
        if stage in self.kept:
            yield from self.kept[stage].split(FIT_BATCH)
            return
        for images in self.fit.batches(FIT_BATCH):
            yield self.model.represent(images.to(self.model.device), [stage])[stage].tensor


@dataclass(frozen=True)
class StageMoments:
    """The moments of every stage, one sum."""

    moments: dict[str, Moments]

    def state(self) -> State:
        """Return the sums of every stage."""
        return {stage: moments.state() for stage, moments in self.moments.items()}

    def include(self, state: State) -> None:
        """Add the sums over other images."""
        for stage, moments in self.moments.items():
            moments.include(state[stage])


@register.method
@dataclass(frozen=True)
class Nearest(Method):
    r"""The fit image with the nearest representation: a floor that retrieves instead of reconstructing.

    Formula:
        $$ \hat{x} = x_k, \qquad k = \arg\min_i \sum_{c, p} \frac{(r_{cp} - r^{(i)}_{cp})^2}{\sigma_c^2} $$

        over the fit images $x_i$ with representations $r^{(i)}$; $c$ are channels, $p$ places, and $\sigma_c$ is the
        deviation of a channel over fit images and places.
    Cost:
        One forward pass per fit image for all stages together, and a distance to every fit image per reconstruction.
        The fit images' representations are kept in memory or in a file (`invsuite._system.spill.allocate`), and
        computed again at each inversion where neither has room.
    Use:
        To tell a good reconstruction from a lucky picture of the same kind.
    Pitfalls:
        Its images are real and look right, but are wrong in every detail. The more fit images, the better it is.
    Source:
        Nearest neighbour in feature space (Cover & Hart 1967, doi 10.1109/TIT.1967.1053964).
    """

    name = "nearest"
    family = "floor"
    source = "nearest neighbour in feature space (Cover & Hart 1967, doi 10.1109/TIT.1967.1053964)"
    reads_joined = True
    reads_fit = True
    divides = True

    def fit(self, problem: Problem) -> Fitted:
        """Pass the fit images through the model once and keep what it holds of them."""
        model, count = problem.model, len(problem.fit)
        watch = Stopwatch(problem.device)

        def make() -> StageMoments:
            return StageMoments({stage: Moments(model.layout(stage)) for stage in problem.stages})

        def rows(numbers: Sequence[int] | None) -> dict[str, Rows]:
            return {stage: Rows(FIT_BATCH, count, numbers) for stage in problem.stages}

        whole = BatchPass(problem, [self.name], -(-count // FIT_BATCH), make, {"shared": watch}, rows)
        for done, number in enumerate(whole, start=1):
            with watch:
                images = problem.fit.images(slice(number * FIT_BATCH, (number + 1) * FIT_BATCH)).to(problem.device)
                for stage, representation in model.represent(images, problem.stages).items():
                    whole.sums.moments[stage].add(representation.tensor)
                    whole.rows[stage].put(number, representation.tensor.cpu())
            problem.context.progress(done, len(whole), f"batches of {FIT_BATCH} images")
        sums, kept = whole.sums.moments, {stage: rows.kept for stage, rows in whole.rows.items()}
        cost = FitCost(shared_seconds=watch.seconds)
        cost.image_passes = dict.fromkeys(problem.stages, len(problem.fit))
        places = {stage: rows for stage, rows in kept.items() if rows is not None}
        cost.parameters = {stage: places[stage].numel() if stage in places else 0 for stage in problem.stages}
        where = {s: "in memory" if isinstance(rows, torch.Tensor) else "on disk" for s, rows in places.items()}
        notes = {s: {"features": where.get(s, "computed again"), "images": len(problem.fit)} for s in sums}
        weight = {s: 1 / moments.std for s, moments in sums.items()}
        return Fitted(NearestInverter(model, problem.fit, places, weight), cost, dict(notes))


class ImageColour(Inverter):
    """Paints each image in its own mean colour."""

    uses_image = True

    def invert_with_image(self, representation: Representation, images: torch.Tensor) -> torch.Tensor:
        """Return images (B, 3, H, W) of one colour each."""
        return images.mean((2, 3), keepdim=True).clamp(0, 1).expand_as(images).contiguous()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return nothing: there is nothing to keep."""
        return {}


@register.method
@dataclass(frozen=True)
class MeanColour(Method):
    r"""Each image's own mean colour: what three values per image are worth. It is shown the image.

    Formula:
        $$ \hat{x}_{cij} = \frac{1}{HW} \sum_{k, l} x_{ckl} $$
    Cost:
        Nothing.
    Use:
        To see how much of a measure is colour alone.
    Pitfalls:
        No inverse: it marks a level on the scale and gets no place in tables.
    Source:
        Three values of the image itself.
    """

    name = "mean-colour"
    family = "floor"
    source = "three values of the image itself"
    reads_joined = True
    uses_image = True

    def fit(self, problem: Problem) -> Fitted:
        """Fit nothing."""
        return Fitted(ImageColour(), no_fit(problem.stages))

    def restore(self, problem: Problem, tensors: NamedTensors, notes: Notes) -> ImageColour:
        """Return the inverter; it needs nothing."""
        return ImageColour()


def thumbnail_size(size: tuple[int, int], values: int) -> tuple[int, int]:
    """Return height and width of the largest RGB image of at most ``values`` values in the shape of ``size`` (H, W).

    The aspect ratio is kept up to rounding down; it is never larger than ``size``.

    Raises:
        NotApplicable: for fewer than three values.
    """
    pixels = values // 3
    if pixels < 1:
        raise NotApplicable(f"{values} values hold no RGB pixel")
    if size[0] * size[1] <= pixels:
        return size
    height = min(size[0], pixels, max(1, math.isqrt(pixels * size[0] // size[1])))
    return height, min(size[1], pixels // height, max(1, height * size[1] // size[0]))


@dataclass(frozen=True)
class Thumbnails(Inverter):
    """Keeps a thumbnail of the image, of ``sizes`` (height, width) by stage."""

    sizes: Mapping[str, tuple[int, int]]

    uses_image = True

    def invert_with_image(self, representation: Representation, images: torch.Tensor) -> torch.Tensor:
        """Return images (B, 3, H, W) in [0, 1], shrunk and enlarged again."""
        size = (images.shape[2], images.shape[3])
        thumbnail = self.sizes[representation.stage]
        if thumbnail == size:
            return images
        small = F.interpolate(images, thumbnail, mode="bicubic", antialias=True, align_corners=False)
        return F.interpolate(small.clamp(0, 1), size, mode="bicubic", align_corners=False).clamp(0, 1)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return nothing: sizes follow from the model."""
        return {}


@register.method
@dataclass(frozen=True)
class Bicubic(Method):
    """The image itself, shrunk to as many values as the representation has and enlarged again. It is shown the image.

    Both ways are bicubic, shrinking with antialiasing. The thumbnail is the largest RGB image of the same shape that
    has at most as many values as the representation; where those are as many as the image has, it is the image itself.

    Cost:
        Nothing.
    Use:
        To ask whether an inverse recovers more than as many numbers would hold if they were a thumbnail.
    Pitfalls:
        It compares numbers of values, not bits. Late stages of a transformer have as many values as early ones, so that
        it is as good there. It is no inverse and gets no place in tables. Fewer than three values hold no pixel: the
        stage is refused (not applicable).
    Source:
        Cubic convolution (Keys 1981, doi 10.1109/TASSP.1981.1163711).
    """

    name = "bicubic"
    family = "floor"
    source = "as many values of the image itself (Keys 1981, doi 10.1109/TASSP.1981.1163711)"
    reads_joined = True
    uses_image = True

    def fit(self, problem: Problem) -> Fitted:
        """Choose the size of each stage's thumbnail."""
        sizes: dict[str, tuple[int, int]] = {}
        refused: dict[str, NotApplicable] = {}
        notes: Notes = {}
        for stage in problem.stages:
            values = problem.model.layout(stage).distinct
            try:
                sizes[stage] = thumbnail_size(problem.model.image_size, values)
            except NotApplicable as reason:
                refused[stage] = reason
            else:
                height, width = sizes[stage]
                notes[stage] = {"thumbnail": [height, width], "values": 3 * height * width, "of_values": values}
        return Fitted(Thumbnails(sizes), no_fit(problem.stages), notes, refused)

    def restore(self, problem: Problem, tensors: NamedTensors, notes: Notes) -> Inverter:
        """Return the inverter; it needs nothing but the model."""
        return self.fit(problem).inverter


@dataclass(frozen=True)
class RandomisedModel(Inverter):
    """Lets the randomised ``model`` look at the image, and its inverse reconstruct what that model holds of it."""

    model: Model
    inverse: Inverter

    uses_image = True

    def invert_with_image(self, representation: Representation, images: torch.Tensor) -> torch.Tensor:
        """Return reconstructions (B, 3, H, W) in [0, 1] of what the randomised model holds of ``images``."""
        stage = representation.stage
        return self.inverse.invert(self.model.represent(images, [stage])[stage])

    def tensors(self) -> dict[str, torch.Tensor] | None:
        """Return what the inverse keeps; the model's weights follow from the seed."""
        return self.inverse.tensors()


@register.method
@dataclass(frozen=True)
class RandomWeights(Method):
    """The inverse of the same model with random weights: what the architecture keeps of an image without training.

    The model is copied and its weights are drawn anew from the seed. Another method, ``inverse``, is fitted on the copy
    and applied to the copy's representations of the scored images: that is how it is shown the image.

    Cost:
        That of ``inverse``.
    Use:
        As the floor of claims about what a model has learned: a stage that is not reconstructed better than with random
        weights shows the architecture.
    Pitfalls:
        Random weights can keep more of the image than trained ones, since training also discards: a trained stage below
        this floor need not be a failure of the method.
    Source:
        Model randomisation test (Adebayo et al. 2018, arXiv 1810.03292, sec. 3).

    Attributes:
        inverse: name of a method, which runs at its default parameters; not one that is shown the image.
    """

    inverse: str = "ridge"

    name = "random-weights"
    family = "floor"
    source = "model randomisation test (Adebayo et al. 2018, arXiv 1810.03292)"
    reads_joined = True
    uses_image = True
    seeded = True
    # those of the inverse at most: a cell's identity then covers too much rather than too little
    uses_cut = True
    uses_budget = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method.uses_image:
            raise UsageError(f"'{self.name}.inverse' is '{self.inverse}', which inverts nothing: it is shown the image")

    @property
    def method(self) -> Method:
        """Return the method that inverts the randomised model."""
        return make_method(self.inverse, {})

    def params(self) -> dict[str, Any]:
        """Return the parameters; the version and parameters of the inverse belong to this cell too."""
        method = self.method
        return super().params() | {"inverse_version": method.version, "inverse_params": method.params()}

    def fit(self, problem: Problem) -> Fitted:
        """Randomise the model and fit the inverse on it."""
        problem = self._randomised(problem)
        fitted = self.method.fit_stages(problem)
        notes = {s: fitted.notes.get(s, {}) | {"weights": problem.model.origin.sha256} for s in problem.stages}
        return Fitted(RandomisedModel(problem.model, fitted.inverter), fitted.cost, notes, fitted.refused)

    def restore(self, problem: Problem, tensors: NamedTensors, notes: Notes) -> RandomisedModel | None:
        """Return the inverter with the model randomised again."""
        problem = self._randomised(problem)
        inverse = self.method.restore(problem, tensors, notes)
        return None if inverse is None else RandomisedModel(problem.model, inverse)

    def _randomised(self, problem: Problem) -> Problem:
        return replace(problem, model=problem.model.randomised(derived_seed(problem.seed, self.name)))

    def work(self, facts: WorkFacts) -> Work:
        """Return the work of the inverse."""
        return self.method.work(facts)
