"""What a method is asked to do: a `Problem`, its `Budget`, and the `Context` of the suite's training engine."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from invsuite._system.identity import NOT_IDENTITY, identity_of
from invsuite._system.ranks import ALONE, Ranks
from invsuite._system.timing import Stopwatch
from invsuite._system.validation import Natural, NonNegativeFloat, Positive, check
from invsuite.data.split import Split
from invsuite.errors import UsageError
from invsuite.methods.training.features import CachePolicy, FeatureCache
from invsuite.models.base import Model
from invsuite.models.stage_words import chain_in, ordinary

if TYPE_CHECKING:
    from invsuite.methods.base import Fitted, Method

BudgetKind = Literal["passes", "seconds", "flops"]

#: ``progress(done, total, note)``: called often and cheaply while a method works.
ProgressHook = Callable[[int, int, str], None]


def silent(done: int, total: int, note: str) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Budget:
    """What every trained method may spend on each inverse it trains; exactly one of the three limits is set.

    Attributes:
        image_passes: images seen in training, with repeats (``kind`` "passes").
        seconds: own training time, the frozen forward passes and evaluations left out (``kind`` "seconds"); what
            it buys depends on the machine, so two runs differ.
        flops: operations of forward and backward of the inverse, as `invsuite._system.flops` counts them (``kind``
            "flops").
        batch: images per training step.

    Raises:
        UsageError: if no limit or several are set, or one is negative.

    Examples:
        >>> Budget(image_passes=6000).kind
        'passes'
        >>> Budget(seconds=60).limit
        60
    """

    image_passes: Natural | None = None
    batch: Positive = 32
    seconds: NonNegativeFloat | None = None
    flops: NonNegativeFloat | None = None

    def __post_init__(self) -> None:
        check(self, "budget")
        limits = [key for key, value in self._limits().items() if value is not None]
        if len(limits) != 1:
            named = " and ".join(map(repr, limits)) or "none"
            raise UsageError(f"budget: exactly one of {', '.join(map(repr, self._limits()))} is needed, got {named}")

    def _limits(self) -> dict[str, float | None]:
        return {"image_passes": self.image_passes, "seconds": self.seconds, "flops": self.flops}

    @property
    def kind(self) -> BudgetKind:
        """Return the kind of the limit: "passes", "seconds" or "flops"."""
        if self.image_passes is not None:
            return "passes"
        return "seconds" if self.seconds is not None else "flops"

    @property
    def limit(self) -> float:
        """Return the limit in the unit of its kind."""
        return next(value for value in self._limits().values() if value is not None)

    def identity(self) -> dict[str, float]:
        """Return the fields that are part of a cell's identity: the limit and the batch."""
        return {name: value for name, value in identity_of(self).items() if value is not None}

    def split(self, share: float) -> tuple[Budget, Budget]:
        """Return two budgets that add up to this one, the second of about ``share`` (0 to 1).

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


@dataclass(frozen=True)
class Engine:
    """How training runs: what makes it fast, and changes its numbers by rounding at most.

    Attributes:
        precision: of the inverse networks' training steps; their weights, and every evaluation, stay in float32.
            ``auto`` is bfloat16 autocast on a GPU and float32 elsewhere.
        cache: where representations of fit images are kept (`invsuite.methods.training.features`): ``auto``
            decides from measured rates.
        compile: whether inverse networks go through ``torch.compile``; ``auto`` leaves them as they are.
        graphs: whether a GPU repeats training steps and the frozen forward as captured graphs
            (`invsuite._system.replay`): the same kernels without the time that launching them takes.

    Raises:
        UsageError: for a value that is not one of the choices.
    """

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    cache: CachePolicy = field(default="auto", metadata=NOT_IDENTITY)  # cannot change a value
    compile: Literal["auto", "on", "off"] = field(default="auto", metadata=NOT_IDENTITY)  # should not: rounding at most
    graphs: bool = field(default=True, metadata=NOT_IDENTITY)  # the same kernels

    def __post_init__(self) -> None:
        check(self, "engine")

    def identity(self) -> dict[str, str]:
        """Return the fields that are part of a cell's identity."""
        return identity_of(self)

    def bfloat16(self, device: torch.device) -> bool:
        """Tell whether training steps on ``device`` run in bfloat16."""
        return self.precision == "bfloat16" or (self.precision == "auto" and device.type == "cuda")

    @property
    def compiles(self) -> bool:
        """Tell whether inverse networks are compiled."""
        return self.compile == "on"


def fit_alone(method: Method, problem: Problem) -> Fitted:
    """Fit ``method`` for one that builds on it, and note the seconds that it took."""
    watch = Stopwatch(problem.device)
    with watch:
        fitted = method.fit_stages(problem)
    fitted.cost.total_seconds += watch.seconds
    return fitted


@dataclass(frozen=True)
class Context:
    """What the suite's training engine needs beside a `Problem`; a method of another make may leave it alone.

    Attributes:
        progress: called with (steps done, steps in all, what a step is).
        engine: how training runs.
        features: representations kept between fits on the same model; None keeps them for one training.
        charged: numbers of the fit images whose frozen forward pass this fit has paid for
            (`invsuite.methods.training.features.FeatureStream`).
        checkpoints: folder of this fit's own, where training leaves its state after evaluations and takes it up again.
        part: tells the trainings of one fit apart.
        fit: fits another method to a problem, for a method that builds on it; in a run this is the fit of that method's
            own row, with its cost, and nothing is fitted twice.
        ranks: the processes that do this fit together, each with the same problem (`Method.divides`).
    """

    progress: ProgressHook = silent
    engine: Engine = field(default_factory=Engine)
    features: FeatureCache | None = None
    charged: set[int] = field(default_factory=set, compare=False)
    checkpoints: Path | None = None
    part: str = "0"
    fit: Callable[[Method, Problem], Fitted] = fit_alone
    ranks: Ranks = ALONE


@dataclass(frozen=True)
class Problem:
    """All a method may look at when it is fitted; scored images are not among it.

    Attributes:
        model: the frozen model whose representations are to be inverted.
        stages: the stages to invert, in chain order.
        cut: every stage at which the suite cuts the chain, in chain order: a modular inverse of a late stage passes
            through the earlier ones. Several stages read together (`invsuite.models.joined`) cut nothing, and are
            left out.
        fit: images for fitting.
        select: images for choosing among fitted weights or parameters.
        budget: what each trained inverse may spend.
        seed: of every random draw.
        context: plumbing of the suite's training engine, and the progress hook.

    Examples:
        A method's ``fit`` is given one; `invsuite.fit` puts it together:

        >>> import invsuite
        >>> model = invsuite.load_model("bundled:vit")
        >>> images = invsuite.open_images("scenes", model.image_size, seed=1, count=16)
        >>> problem = invsuite.fit("mean", model, ["embed", "block03"], images).problem
        >>> problem.stages, len(problem.fit), len(problem.select)
        (('embed', 'block03'), 14, 2)
    """

    model: Model
    stages: tuple[str, ...]
    cut: tuple[str, ...]
    fit: Split
    select: Split
    budget: Budget
    seed: int
    context: Context = field(default_factory=Context)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cut", ordinary(self.cut))

    @property
    def device(self) -> torch.device:
        """Return the device of the model."""
        return self.model.device

    def chain_to(self, stage: str) -> tuple[str, ...]:
        """Return the stages of the cut from the image up to and including ``stage``.

        Those before several stages that are read together are those before the first of them.
        """
        return chain_in(self.model.order([*self.cut, stage]), stage)


def derived_seed(*parts: object) -> int:
    """Return a seed that depends on every part and on nothing else, e.g. (run seed, method, stage)."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7], "big")
