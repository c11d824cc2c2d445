"""What every method of inversion is: fitted once for a model's stages, then asked for images.

A method sees a `Problem` (a frozen model, the stages to invert, fit and selection images, a budget, a seed) and
returns a `Fitted`: an inverter and what the fit cost. It never sees a scored image, and never imports a model.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch

from invsuite._system.identity import NOT_IDENTITY, identity_of
from invsuite.data.split import Split
from invsuite.errors import NotApplicable, UsageError, unknown_name
from invsuite.methods.training.features import POLICIES, FeatureCache
from invsuite.models.base import Model, Representation

Family = Literal["floor", "closed form", "optimisation", "layer-wise", "modular", "hybrid"]
BudgetKind = Literal["passes", "seconds", "flops"]

#: ``progress(done, total, note)``: called often and cheaply while a method works.
ProgressHook = Callable[[int, int, str], None]


def silent(done: int, total: int, note: str) -> None:
    """A progress hook that shows nothing."""


@dataclass(frozen=True)
class Budget:
    """What every trained method may spend on each inverse it trains; exactly one of the three is given.

    Attributes:
        image_passes: images seen, with repeats (``kind`` "passes").
        seconds: own training time, the frozen forward passes and evaluations left out (``kind`` "seconds"); what
            it buys depends on the machine, so two runs differ.
        flops: operations of forward and backward of the inverse, as `invsuite._system.flops` counts them (``kind``
            "flops").
        batch: images a step.

    Raises:
        UsageError: naming the keys, if none or several are given or one is negative.
    """

    image_passes: int | None = None
    batch: int = 32
    seconds: float | None = None
    flops: float | None = None

    def __post_init__(self) -> None:
        given = {k: v for k, v in self._limits().items() if v is not None}
        if len(given) != 1:
            named = " and ".join(f"'{k}'" for k in given) or "none"
            raise UsageError(f"budget: exactly one of {', '.join(map(repr, self._limits()))} is needed, got {named}")
        for key, value in {**given, "batch": self.batch}.items():
            if value < 0 or (key == "batch" and value < 1):
                raise UsageError(f"budget: '{key}' is {value}")

    def _limits(self) -> dict[str, float | None]:
        return {"image_passes": self.image_passes, "seconds": self.seconds, "flops": self.flops}

    @property
    def kind(self) -> BudgetKind:
        """What is limited: "passes", "seconds" or "flops"."""
        if self.image_passes is not None:
            return "passes"
        return "seconds" if self.seconds is not None else "flops"

    @property
    def limit(self) -> float:
        """How much of it."""
        return next(value for value in self._limits().values() if value is not None)

    def identity(self) -> dict[str, float]:
        """Return the fields that are part of a cell's identity: the limit and the batch."""
        return {name: value for name, value in identity_of(self).items() if value is not None}

    def split(self, share: float) -> tuple[Budget, Budget]:
        """Two budgets that add up to this one, the second of about ``share`` (0 to 1).

        Image passes are split between whole batches, at least one each: a budget of one batch becomes two of one.
        """
        if self.image_passes is not None:
            steps = max(1, math.ceil(self.image_passes / self.batch) - 1)
            first = self.batch * min(steps, max(1, round((1 - share) * self.image_passes / self.batch)))
            second = max(self.batch, self.image_passes - first)
            return replace(self, image_passes=first), replace(self, image_passes=second)
        parts = (self.limit * (1 - share), self.limit * share)
        if self.seconds is not None:
            return replace(self, seconds=parts[0]), replace(self, seconds=parts[1])
        return replace(self, flops=parts[0]), replace(self, flops=parts[1])


PRECISIONS = ("auto", "float32", "bfloat16")
COMPILE = ("auto", "on", "off")


@dataclass(frozen=True)
class Engine:
    """How training runs: what makes it fast, and changes its numbers by rounding at most.

    Attributes:
        precision: of the inverse networks' steps; their weights, and every evaluation, stay in float32. ``auto`` is
            bfloat16 autocast on a GPU and float32 elsewhere.
        cache: where representations of fit images are kept (`invsuite.methods.training.features`): ``auto``
            decides from measured rates.
        compile: ``torch.compile`` of the inverse networks; ``auto`` does so on a GPU.

    Raises:
        UsageError: for a value that is not one of the choices.
    """

    precision: str = "auto"
    cache: str = field(default="auto", metadata=NOT_IDENTITY)  # cannot change a value
    compile: str = field(default="auto", metadata=NOT_IDENTITY)  # should not: rounding at most

    def __post_init__(self) -> None:
        for key, known in (("precision", PRECISIONS), ("cache", POLICIES), ("compile", COMPILE)):
            if getattr(self, key) not in known:
                raise unknown_name(f"'{key}' of the engine", getattr(self, key), known)

    def identity(self) -> dict[str, str]:
        """Return the fields that are part of a cell's identity."""
        return identity_of(self)

    def bfloat16(self, device: torch.device) -> bool:
        """Whether steps on ``device`` run in bfloat16."""
        return self.precision == "bfloat16" or (self.precision == "auto" and device.type == "cuda")

    def compiles(self, device: torch.device) -> bool:
        """Whether inverse networks are compiled on ``device``."""
        return self.compile == "on" or (self.compile == "auto" and device.type == "cuda")


@dataclass(frozen=True)
class Problem:
    """All a method may look at.

    ``stages`` are the stages to invert and ``cut`` every stage at which the suite cuts the chain, in chain order:
    a modular inverse of a late stage passes through the earlier ones. ``features`` keeps representations between fits
    on the same model, and ``charged`` the numbers of the fit images whose frozen forward this fit has paid for
    (`invsuite.methods.training.features.FeatureStream`).
    ``checkpoints`` is a folder of this fit's own where training leaves its state
    after each evaluation and takes it up again, and ``part`` tells the trainings of one fit apart.
    """

    model: Model
    stages: tuple[str, ...]
    cut: tuple[str, ...]
    fit: Split
    select: Split
    budget: Budget
    seed: int
    progress: ProgressHook = silent
    engine: Engine = field(default_factory=Engine)
    features: FeatureCache | None = None
    charged: set[int] = field(default_factory=set, compare=False)
    checkpoints: Path | None = None
    part: str = "0"

    @property
    def device(self) -> torch.device:
        return self.model.device

    def chain_to(self, stage: str) -> tuple[str, ...]:
        """The stages of the cut from the image up to and including ``stage``."""
        return self.cut[: self.cut.index(stage) + 1]


@dataclass
class FitCost:
    """What a fit took. ``stage_seconds`` is each stage's own share, ``shared_seconds`` what all stages used together
    (the frozen forward passes); ``parameters`` are trained values per stage.

    ``fit_flops`` are operations of the stage's own training, forward and backward, including the frozen model where
    the objective runs through it; ``frozen_flops`` those of the frozen forward passes the stage would have needed
    alone (stages trained together share them). A stage that is missing was not counted.
    """

    stage_seconds: dict[str, float] = field(default_factory=dict)
    shared_seconds: float = 0.0
    image_passes: dict[str, int] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    fit_flops: dict[str, float] = field(default_factory=dict)
    frozen_flops: dict[str, float] = field(default_factory=dict)


class Inverter(Protocol):
    """Answers for one representation of a batch of images: reconstructions (B, 3, H, W) in [0, 1]."""

    def invert(self, stage: str, representation: Representation) -> torch.Tensor: ...


@dataclass(frozen=True)
class Snapshot:
    """Where an iterative inversion of one batch stands.

    ``iteration`` updates have been made in ``seconds``; ``loss`` (B,) is each image's feature loss and ``images``
    (B, 3, H, W) in [0, 1] are the reconstructions as they are now.
    """

    iteration: int
    seconds: float
    loss: torch.Tensor
    images: torch.Tensor


#: Called now and then by an iterative inverter. What it does with a snapshot never flows back: the method stays blind.
Watch = Callable[[Snapshot], None]


@runtime_checkable
class WatchedInverter(Protocol):
    """An inverter that works in steps and lets one look on: quality against iterations."""

    def invert_watched(self, stage: str, representation: Representation, watch: Watch | None) -> torch.Tensor:
        """Like `Inverter.invert`; ``watch`` is told a few times how each batch stands."""


@runtime_checkable
class IterativeInverter(Protocol):
    """An inverter that repeats one step ``iterations`` times, so that a few tell the operations of all."""

    @property
    def iterations(self) -> int:
        """Of one inversion."""

    def shortened(self, iterations: int) -> Inverter:
        """The same with so many iterations."""


@runtime_checkable
class ReportingInverter(Protocol):
    """An inverter that learns something while it inverts, e.g. whether an iteration converged."""

    def findings(self, stage: str) -> dict[str, Any]:
        """For the record: what all inversions at ``stage`` since the last call found."""


@runtime_checkable
class SeeingInverter(Protocol):
    """The inverter of a reference that is allowed to see the image itself (``sees_image``): an oracle floor.

    It marks a level on the scale - what a mean colour, or so many values of a thumbnail, would score - and is no
    method of inversion.
    """

    def invert_seeing(self, stage: str, representation: Representation, images: torch.Tensor) -> torch.Tensor:
        """Reconstructions (B, 3, H, W) in [0, 1] given the true images (B, 3, H, W) in [0, 1]."""


@dataclass
class Fitted:
    """A fitted method: its inverter, its cost, and notes per stage for the record (chosen lambda, rank ...).

    ``refused`` are the stages at which the method does not apply, with the reason; they are not inverted. Where the
    method has ``sees_image`` the inverter is a `SeeingInverter`, else an `Inverter`.
    """

    inverter: Inverter | SeeingInverter
    cost: FitCost
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: dict[str, NotApplicable] = field(default_factory=dict)

    def invert(self, stage: str, representation: Representation, images: torch.Tensor) -> torch.Tensor:
        """Reconstruct (B, 3, H, W) in [0, 1]; ``images`` go on to oracle floors only.

        Raises:
            NotApplicable: at a stage in ``refused``.
        """
        if stage in self.refused:
            raise self.refused[stage]
        if isinstance(self.inverter, SeeingInverter):
            return self.inverter.invert_seeing(stage, representation, images)
        return self.inverter.invert(stage, representation)


@dataclass(frozen=True)
class Method(ABC):
    """A method with its parameters, which are dataclass fields so that they are part of a cell's identity.

    Class attributes: ``name``; ``family``; ``source`` (paper); ``version``, to be raised when results change;
    ``uses_cut``, true where the result at a stage depends on the cuts before it; ``uses_whole_cut``, where it depends
    on the later ones too; ``seeded``, true where it depends on the seed; ``uses_budget``, on the budget;
    ``reads_fit``, true where it takes all fit images through the model once, for all stages together;
    ``sees_image``, true for a floor that is shown the image itself.
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
    sees_image: ClassVar[bool] = False

    @abstractmethod
    def fit(self, problem: Problem) -> Fitted:
        """Prepare to invert ``problem.stages``."""

    def params(self) -> dict[str, Any]:
        """The parameters, as they go into a record."""
        return asdict(self)


def no_fit(stages: tuple[str, ...]) -> FitCost:
    """The cost of a method that needs no fit."""
    return FitCost(image_passes=dict.fromkeys(stages, 0), parameters=dict.fromkeys(stages, 0))


def derived_seed(*parts: object) -> int:
    """A seed that depends on every part and on nothing else, e.g. (run seed, method, stage)."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7], "big")
