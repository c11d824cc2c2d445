"""What every method of inversion is: fitted once for a model's stages, then asked for images.

A method sees a `Problem` (a frozen model, the stages to invert, fit and selection images, a budget, a seed) and returns
a `Fitted`: an inverter and what the fit cost. It never sees a scored image, and never imports a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch

from invsuite._system.identity import params_of
from invsuite._system.validation import check
from invsuite.errors import NotApplicable
from invsuite.inverses.networks import InverseSettings
from invsuite.methods.problem import Problem
from invsuite.models.base import Representation
from invsuite.models.stage_words import ordinary

Family = Literal["floor", "closed form", "optimisation", "layer-wise", "modular", "hybrid"]
#: per stage, what a fit says for the record
Notes = dict[str, dict[str, Any]]
#: what an inverter gives to be kept, by name
NamedTensors = Mapping[str, torch.Tensor]


@dataclass
class FitCost:
    """What a fit took.

    Attributes:
        stage_seconds: each stage's own training or solving.
        shared_seconds: what all stages used together: the frozen forward passes.
        image_passes: images seen, with repeats, per stage.
        parameters: values that the inverse of each stage keeps of its fit: trained, solved for, or of fit images.
        fit_flops: operations of each stage's own training, forward and backward, including the frozen model where the
            objective runs through it; a stage that is missing was not counted.
        frozen_flops: operations of the frozen forward passes that each stage would have needed alone (stages trained
            together share them).
        total_seconds: the whole fit; the suite fills it in.
        peak_bytes: most memory during the fit; the suite fills it in.
        busy: share of the fit's time in which the GPU ran something (0 to 1), None where that is not known; the suite
            fills it in.
        device: on which, by name; the suite fills it in.

    Examples:
        >>> FitCost(image_passes={"block03": 200}, parameters={"block03": 3}).image_passes
        {'block03': 200}
    """

    stage_seconds: dict[str, float] = field(default_factory=dict)
    shared_seconds: float = 0.0
    image_passes: dict[str, int] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    fit_flops: dict[str, float] = field(default_factory=dict)
    frozen_flops: dict[str, float] = field(default_factory=dict)
    total_seconds: float = 0.0
    peak_bytes: int = 0
    busy: float | None = None
    device: str = ""


@dataclass(frozen=True)
class Snapshot:
    """Where an iterative inversion of one batch stands.

    Attributes:
        iteration: updates made so far.
        seconds: they took.
        loss: feature loss per image (B,).
        images: the reconstructions (B, 3, H, W) in [0, 1] as they are now.
    """

    iteration: int
    seconds: float
    loss: torch.Tensor
    images: torch.Tensor


#: Called now and then by an iterative inverter. What it does with a snapshot never flows back: the method stays blind.
Watch = Callable[[Snapshot], None]


class Inverter:
    """A fitted method: answers a batch of representations with reconstructions (B, 3, H, W) in [0, 1].

    A method's inverter overrides `invert`, a floor's that ``uses_image`` overrides `invert_with_image`; all else is
    optional.

    Examples:
        >>> class Grey(Inverter):
        ...     def invert(self, representation):
        ...         return torch.full((len(representation), 3, 96, 96), 0.5)
    """

    #: Whether it is shown the true image: a level on the scale (a mean colour, a thumbnail), no method of inversion.
    uses_image: ClassVar[bool] = False

    def invert(self, representation: Representation) -> torch.Tensor:
        """Return reconstructions (B, 3, H, W) in [0, 1].

        Raises:
            NotApplicable: if the inverter is shown the image itself, and so inverts no representation.
        """
        raise NotApplicable("a floor that is shown the image inverts no representation")

    def invert_with_image(self, representation: Representation, images: torch.Tensor) -> torch.Tensor:
        """Return reconstructions (B, 3, H, W) in [0, 1] given the true images (B, 3, H, W) in [0, 1]."""
        return self.invert(representation)

    def invert_watched(self, representation: Representation, watch: Watch | None) -> torch.Tensor:
        """Return what `invert` returns; ``watch`` is shown a few times how each batch stands."""
        return self.invert(representation)

    @property
    def iterations(self) -> int:
        """Return how often an inversion repeats one step at most; 0 if it does not.

        Operations are counted of few repetitions. Where ``findings`` say of how many, on average, these are the cost.
        """
        return 0

    def shortened(self, iterations: int) -> Inverter:
        """Return the same inverter with so many iterations."""
        return self

    def findings(self, stage: str) -> dict[str, Any]:
        """Return, for the record, what the inversions at ``stage`` since the last call showed.

        Of an inverter that repeats a step until it converges these are ``converged`` (whether nearly all images have),
        ``converged_share`` (0 to 1), ``iterations`` (the mean per image) and ``ceiling`` (the most).
        """
        return {}

    def tensors(self) -> dict[str, torch.Tensor] | None:
        """Return what must be kept so that `Method.restore` gives the same inverter; None where that cannot be."""
        return None


@dataclass
class Fitted:
    """A fitted method.

    Attributes:
        inverter: answers representations of every stage that is not refused.
        cost: what the fit took.
        notes: per stage, for the record (chosen lambda, rank ...).
        refused: the stages at which the method does not apply, with the reason; they are not inverted.
        method: that was fitted; the suite fills it in.
        problem: it was fitted to; the suite fills it in.

    Examples:
        >>> import invsuite
        >>> model = invsuite.load_model("bundled:vit")
        >>> images = invsuite.open_images("scenes", model.image_size, seed=1, count=16)
        >>> fitted = invsuite.fit("mean", model, ["embed"], images).fitted
        >>> fitted.cost.image_passes
        {'embed': 14}
    """

    inverter: Inverter
    cost: FitCost
    notes: Notes = field(default_factory=dict)
    refused: dict[str, NotApplicable] = field(default_factory=dict)
    method: Method | None = field(default=None, repr=False)
    problem: Problem | None = field(default=None, repr=False)

    def invert(self, representation: Representation, images: torch.Tensor) -> torch.Tensor:
        """Reconstruct (B, 3, H, W) in [0, 1]; ``images`` go on to floors that use them, to nothing else.

        Raises:
            NotApplicable: at a stage in ``refused``.
        """
        if representation.stage in self.refused:
            raise self.refused[representation.stage]
        if self.inverter.uses_image:
            return self.inverter.invert_with_image(representation, images)
        return self.inverter.invert(representation)


@dataclass(frozen=True)
class WorkFacts:
    """What the work of a method depends on beside its parameters.

    Attributes:
        fit_images: how many there are.
        image_passes: that the budget allows each inverse, about.
    """

    fit_images: int
    image_passes: int


@dataclass(frozen=True)
class Work:
    """What fitting a method for one stage and inverting one image take, before any of it is done.

    Attributes:
        fit_passes: fit images that go through the frozen model once, for all stages of the fit together.
        trained_passes: images on which the inverse of one stage is trained.
        chain_share: share of them, 0 to 1, for which the whole chain of inverse networks from the stage to the image
            is trained, and not the network of the stage's own component alone.
        model_share: share of them, 0 to 1, for which the objective runs through the frozen model, forward and backward.
        networks: sizes of the inverse networks that are trained; None if there are none, or nobody knows.
        updates: forward and backward passes through the frozen model per reconstructed image.
        searched_passes: such passes by which a parameter is chosen for one stage.
        crops: whether every image of the training is a random crop, decoded anew, of which nothing is kept.
    """

    fit_passes: int = 0
    trained_passes: int = 0
    chain_share: float = 0.0
    model_share: float = 0.0
    networks: InverseSettings | None = None
    updates: int = 0
    searched_passes: int = 0
    crops: bool = False


@dataclass(frozen=True)
class Method(ABC):
    """A method with its parameters, which are dataclass fields so that they are part of a cell's identity.

    Annotations say what a parameter accepts (`invsuite._system.validation`): a value that does not fit is refused with
    `UsageError`, in a suite file and in Python code.

    Class attributes:
        name: under which it is registered.
        family: of methods that it belongs to.
        source: paper.
        version: to be raised when results change.
        uses_cut: whether the result at a stage depends on the cuts before it.
        uses_whole_cut: whether it depends on the later cuts too.
        seeded: whether it depends on the seed.
        uses_budget: whether it depends on the budget.
        reads_fit: whether it takes all fit images through the model once, for all stages together.
        uses_image: whether it is a floor that is shown the image itself.
        divides: whether several processes can fit it together (`Context.ranks`): its fit is the same sum over images,
            or the same steps of training, whoever computes which part.
        reads_joined: whether it inverts several stages read together (``block03+block06``), which are no place in the
            chain; one that walks the chain back cannot, and is not asked to.
        row_parameters: parameters that are another method, which a suite file names by its row.

    Examples:
        >>> class Half(Inverter):
        ...     def invert(self, representation):
        ...         return torch.full((len(representation), 3, 96, 96), 0.5)
        >>> @dataclass(frozen=True)
        ... class HalfGrey(Method):
        ...     name = "half-grey"
        ...     family = "floor"
        ...     source = "where it was published"
        ...
        ...     def fit(self, problem):
        ...         return Fitted(Half(), no_fit(problem.stages))
        >>> HalfGrey().params()
        {}
    """

    name: ClassVar[str]
    family: ClassVar[Family]
    source: ClassVar[str]
    version: ClassVar[int] = 1
    uses_cut: ClassVar[bool] = False
    uses_whole_cut: ClassVar[bool] = False
    seeded: ClassVar[bool] = False
    uses_budget: ClassVar[bool] = False
    reads_fit: ClassVar[bool] = False
    uses_image: ClassVar[bool] = False
    divides: ClassVar[bool] = False
    reads_joined: ClassVar[bool] = False
    row_parameters: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check(self, self.name)

    @abstractmethod
    def fit(self, problem: Problem) -> Fitted:
        """Prepare to invert ``problem.stages``."""

    def fit_stages(self, problem: Problem) -> Fitted:
        """Fit the stages of ``problem`` that it can read, and refuse several read together where it cannot."""
        if self.reads_joined:
            return self.fit(problem)
        stages = ordinary(problem.stages)
        refused = {
            stage: NotApplicable(
                f"'{self.name}' inverts places in the chain; '{stage}' is several stages read together"
            )
            for stage in problem.stages
            if stage not in stages
        }
        if not refused:
            return self.fit(problem)
        fitted = self.fit(replace(problem, stages=stages)) if stages else Fitted(Inverter(), no_fit(()))
        return replace(fitted, refused=fitted.refused | refused)

    def restore(self, problem: Problem, tensors: NamedTensors, notes: Notes) -> Inverter | None:
        """Return the inverter of an earlier fit for ``problem.stages``, without a look at the fit images.

        Args:
            problem: as it was fitted; its stages are some of those that were fitted and not refused.
            tensors: what `Inverter.tensors` gave.
            notes: per stage, as in `Fitted`.

        Returns:
            An inverter that gives the same reconstructions; None where the method must be fitted again.
        """
        return None

    def work(self, facts: WorkFacts) -> Work:
        """Return how much there is to do: what a dry run's hours and the time left of a run are estimated from.

        It follows from ``reads_fit`` and ``uses_budget`` (of training nothing else is known: it may run through the
        model); a method that knows better, or repeats a step for each image, says so here.
        """
        fit_passes = facts.fit_images if self.reads_fit else 0
        return Work(fit_passes, facts.image_passes if self.uses_budget else 0, model_share=float(self.uses_budget))

    def builds_on(self) -> tuple[Method, ...]:
        """Return the methods whose fits this one takes (`invsuite.methods.problem.Context.fit`)."""
        return ()

    def params(self) -> dict[str, Any]:
        """Return the parameters as they go into a record."""
        return params_of(self)


def no_fit(stages: tuple[str, ...]) -> FitCost:
    """Return the cost of a method that needs no fit."""
    return FitCost(image_passes=dict.fromkeys(stages, 0), parameters=dict.fromkeys(stages, 0))


def flattened(states: Mapping[str, NamedTensors]) -> dict[str, torch.Tensor]:
    """Return named groups of tensors as one, "GROUP/KEY", for `Inverter.tensors`; no KEY may hold a slash."""
    return {f"{name}/{key}": tensor for name, state in states.items() for key, tensor in state.items()}


def unflattened(tensors: NamedTensors) -> dict[str, dict[str, torch.Tensor]]:
    """Return the groups that `flattened` joined."""
    states: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, key = name.rpartition("/")
        states.setdefault(group, {})[key] = tensor
    return states
