"""What every measure is: values per image, from images, masks, representations and two callables that invert."""

from __future__ import annotations

import inspect
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeVar, cast

import numpy as np
import torch

from invsuite._system.needs import Need
from invsuite._system.spill import TensorLike, concatenate
from invsuite.data.base import Mask, Sample
from invsuite.data.edits import editable
from invsuite.data.split import Split
from invsuite.errors import DataError, InvsuiteError, NotApplicable
from invsuite.models.base import Model

Direction = Literal["higher", "lower", "one", "zero"]  # better when higher, when lower, when closer to one, to zero
Target = Literal["object", "image"]  # what an edit changes: the sample's editable object, or the whole image
#: the table a measure stands in
Group = Literal["Fidelity", "Spatial correspondence", "Colour", "Consistency"]
T = TypeVar("T")
MODEL_BATCH = 32  # images per forward pass of the model
MAP_BATCH = 16  # images whose maps and matrices are held at once
SEED = 0  # of every permutation: a floor is the same number in every run
NO_OBJECT = "no scored image has an object mask of a fitting size"
NO_EDITS = "'edits' is 0: no further reconstructions"


@dataclass
class Subject:
    """A frozen model and the images it is scored on: what all cells of the model share.

    Attributes:
        model: the model that was inverted. Measures ask what it holds for images, and change nothing.
        stages: every stage of the suite's cut of this model, in chain order.
        samples: the scored samples (image and instances).
        images: their images (N, 3, H, W) in [0, 1].
        fit: the fit images with their instances, for what is usual (class colours, distances of random pairs).
        edit_limit: how many images measures that need further reconstructions use (of edited images, of other stages).
        classes: names of the labels of the samples' instances, by label; empty where nothing is labelled.
        witness: a second model that the method never saw, or why there is none.
    """

    model: Model
    stages: tuple[str, ...]
    samples: Sequence[Sample]
    images: TensorLike
    fit: Split
    edit_limit: int
    classes: tuple[str, ...] = ()
    witness: Model | InvsuiteError = field(default_factory=lambda: NotApplicable("the suite names no witness"))
    cache: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def first(self, count: int, edits: int) -> Subject:
        """Return the same with the first ``count`` scored images alone and at most ``edits`` edited ones."""
        return replace(self, samples=self.samples[:count], images=self.images[:count], edit_limit=edits, cache={})


@dataclass
class Scoring:
    """What a measure is given: the reconstructions of one cell, what they are compared with, and the cell's inverse.

    Attributes:
        subject: the model and its scored images.
        stage: the stage whose representation was inverted.
        reconstructions: of the scored images, same shape and range.
        reconstruct: reconstructs any other images (B, 3, H, W) by the same model, stage and method.
        invert: the cell's inverse applied to any tensor (B, ...) of its stage's layout; images (B, 3, H, W) in [0, 1].

    Examples:
        >>> from invsuite import load_model, open_images
        >>> from invsuite.data.scenes import ScenesSource
        >>> model = load_model("bundled:vit")
        >>> images = open_images(ScenesSource(seed=1, count=4), model.image_size)
        >>> subject = Subject(model, ("embed",), images.samples(), images.images([0, 1, 2, 3]), images, edit_limit=2)
        >>> scoring = Scoring(subject, "embed", 1 - subject.images, lambda x: 1 - x, lambda tensor: subject.images)
        >>> scoring.reconstructions.shape == scoring.images.shape
        True
    """

    subject: Subject
    stage: str
    reconstructions: TensorLike
    reconstruct: Callable[[torch.Tensor], torch.Tensor]
    invert: Callable[[torch.Tensor], torch.Tensor]
    cache: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @property
    def samples(self) -> Sequence[Sample]:
        """Return the scored samples."""
        return self.subject.samples

    @property
    def images(self) -> TensorLike:
        """Return the scored images (N, 3, H, W) in [0, 1], the truth of every reconstruction."""
        return self.subject.images

    @property
    def model(self) -> Model:
        """Return the model that was inverted."""
        return self.subject.model

    def cached_per_model(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return ``compute()``, computed once for all cells of this model: what depends on neither method nor stage."""
        return _cached(self.subject.cache, key, compute)

    def cached_per_cell(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return ``compute()``, computed once for all measures of this cell."""
        return _cached(self.cache, key, compute)

    def for_both(self, key: Hashable, see: Callable[[TensorLike], T]) -> tuple[T, T]:
        """Return ``see`` of the scored images, cached per model, and of their reconstructions, cached per cell."""
        reconstructed = self.cached_per_cell(key, lambda: see(self.reconstructions))
        return self.cached_per_model(key, lambda: see(self.images)), reconstructed

    def undefined(self) -> Values:
        """Return what a measure that edits images is where there is none to edit."""
        return Values([None] * len(self.images), NO_OBJECT if self.subject.edit_limit else NO_EDITS)

    def edits(self, name: str, edit: Callable[[torch.Tensor, Mask], torch.Tensor], target: Target = "object") -> Edits:
        """Return the first images that have a ``target``, before and after ``edit(image, mask)``, reconstructed.

        They are cached under ``name`` and ``target``: two measures of one edit pay for its reconstructions once.
        """
        return self.cached_per_cell(("edits", name, target), lambda: self._edits(edit, target))

    def edited(self) -> dict[tuple[str, Target], Edits]:
        """Return every edit that a measure has asked for, by name and target."""
        return {
            key[1:]: edits for key, edits in self.cache.items() if isinstance(key, tuple) and isinstance(edits, Edits)
        }

    def _edits(self, edit: Callable[[torch.Tensor, Mask], torch.Tensor], target: Target) -> Edits:
        rows: list[int] = []
        masks: list[Mask] = []
        labels: list[int | None] = []
        for row, sample in enumerate(self.samples):
            if len(rows) == self.subject.edit_limit:
                break
            instance = editable(sample) if target == "object" else None
            if instance is None and target == "object":
                continue
            rows.append(row)
            masks.append(np.ones(sample.image.shape[-2:], dtype=bool) if instance is None else instance.mask)
            labels.append(None if instance is None else instance.label)
        images = self.images[rows]
        edited = torch.stack([edit(*pair) for pair in zip(images, masks, strict=True)]) if rows else images
        after = self.reconstruct(edited) if rows else edited
        where = torch.from_numpy(np.stack(masks)) if rows else torch.zeros(edited[:, 0].shape, dtype=torch.bool)
        return Edits(rows, where.to(edited.device), labels, images, edited, self.reconstructions[rows], after)


def _cached(cache: dict[Hashable, Any], key: Hashable, compute: Callable[[], T]) -> T:
    if key not in cache:
        cache[key] = compute()
    value: T = cache[key]
    return value


@dataclass(frozen=True)
class Edits:
    """Images before and after an edit, and the reconstructions of both, each (n, 3, H, W) in [0, 1].

    Attributes:
        rows: which of the scored images these are.
        masks: (n, H, W), true where the edit was made.
        labels: class of each edited object; None for a whole image.
        images: before the edit.
        edited: after it.
        before: reconstructions of ``images``.
        after: reconstructions of ``edited``.
    """

    rows: list[int]
    masks: torch.Tensor
    labels: list[int | None]
    images: torch.Tensor
    edited: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor


@dataclass(frozen=True)
class Values:
    """What a measure gives for one cell.

    Attributes:
        per_image: one value per image; None where the measure is not defined for that image. Tensors and arrays of
            any number type become a list of Python's numbers.
        undefined: why values are None.
        ceiling: mean value of a perfect reconstruction, where that is not a constant.
        floor: mean value of a reconstruction that knows nothing of its image (by random permutation).
        interval: 95 % interval of a ``pooled`` measure (`Metric`).
        facts: what else belongs in the record.

    Raises:
        DataError: for a value that is NaN or infinite, or no number at all.

    Examples:
        >>> Values([24.1, None], undefined="no object").per_image
        [24.1, None]
    """

    per_image: list[float | None]
    undefined: str = ""
    ceiling: float | None = None
    floor: float | None = None
    interval: tuple[float, float] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = self.per_image
        listed = values.tolist() if isinstance(values, torch.Tensor | np.ndarray) else values
        if not isinstance(listed, list | tuple):
            raise DataError(f"a measure gave {type(values).__name__}, not one value per image")
        numbers = [_number(value, f"image {index}") for index, value in enumerate(listed)]
        wrong = [index for index, number in enumerate(numbers) if number is not None and not math.isfinite(number)]
        if wrong:
            raise DataError(
                f"a measure gave {numbers[wrong[0]]} for image {wrong[0]} and {len(wrong) - 1} others; "
                "where it is not defined its value must be None"
            )
        levels = {"ceiling": self.ceiling, "floor": self.floor}
        levels |= dict(zip(("low", "high"), self.interval, strict=True)) if self.interval is not None else {}
        known = {name: _number(level, f"its {name}") for name, level in levels.items()}
        for name, number in known.items():
            if number is not None and not math.isfinite(number):
                raise DataError(f"a measure gave {number} for its {name}; where there is none it must be None")
        interval = None if self.interval is None else (known["low"], known["high"])
        converted = {"per_image": numbers, "ceiling": known["ceiling"], "floor": known["floor"], "interval": interval}
        for name, value in converted.items():
            object.__setattr__(self, name, value)  # frozen


def _number(value: Any, what: str) -> float | None:
    """Return what a measure gave as one of Python's numbers: a tensor or an array of one entry is one, too.

    Raises:
        DataError: for anything else.
    """
    if value is None:
        return None
    if isinstance(value, torch.Tensor | np.ndarray | np.generic) and np.prod(np.shape(value)) == 1:
        value = value.item()
    if not isinstance(value, int | float):
        raise DataError(f"a measure gave {type(value).__name__} for {what}, not a number")
    return float(value)


def batches(*stacks: TensorLike, size: int = MODEL_BATCH) -> Iterator[tuple[torch.Tensor, ...]]:
    """Return an iterator over ``stacks`` of the same length, ``size`` rows of each at a time."""
    return zip(*(stack.split(size) for stack in stacks), strict=True)


def by_image(measure: Callable[..., torch.Tensor], *stacks: TensorLike, size: int = MODEL_BATCH) -> torch.Tensor:
    """Return ``measure`` (B, ...) of batches of the ``stacks``, joined over all images: (N, ...)."""
    return concatenate((measure(*batch) for batch in batches(*stacks, size=size)), len(stacks[0]))


def per_image(values: torch.Tensor, rows: Sequence[int], count: int) -> list[float | None]:
    """Return ``values`` (n,) as those of the images ``rows`` among ``count``; NaN and all other images are None."""
    spread: list[float | None] = [None] * count
    for row, value in zip(rows, values.tolist(), strict=True):
        spread[row] = None if value != value else value
    return spread


def mean_defined(values: torch.Tensor) -> float | None:
    """Return the mean of the values that are not NaN; None if all are."""
    kept = values[~values.isnan()]
    return float(kept.mean()) if len(kept) else None


def with_levels(measure: Callable[..., Sequence[torch.Tensor]], *stacks: TensorLike, reason: str) -> Values:
    """Return values of all images, with the means of their ceilings and floors.

    Args:
        measure: takes a batch of every stack and gives three (B,): values, ceilings and floors, NaN where undefined.
        stacks: tensors with one row per image, in memory or on disk.
        reason: why a value may be undefined.
    """

    def columns(*batch: torch.Tensor) -> torch.Tensor:
        return torch.stack([level.double() for level in measure(*batch)], 1)

    values, ceiling, floor = by_image(columns, *stacks, size=MAP_BATCH).unbind(1)
    listed = per_image(values, range(len(values)), len(values))
    return Values(listed, reason if None in listed else "", mean_defined(ceiling), mean_defined(floor))


def random_order(count: int, device: torch.device) -> torch.Tensor:
    """Return a fixed random permutation (count,), the same on every device."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(SEED)).to(device)


def shuffle(maps: torch.Tensor, side: int) -> torch.Tensor:
    """Return ``maps`` (N, C, H, W) with their squares of ``side`` pixels in random order, the same for every map.

    TensorLike and columns that do not fill a square at the bottom and right stay. A floor is what a measure gives then:
    everything is there, but nothing is in its place.
    """
    high, wide = maps.shape[2] // side, maps.shape[3] // side
    kept = maps[:, :, : high * side, : wide * side]
    squares = kept.unflatten(2, (high, side)).unflatten(4, (wide, side)).transpose(3, 4).flatten(2, 3)
    squares = squares[:, :, random_order(high * wide, maps.device)]
    shuffled = maps.clone()
    shuffled[:, :, : high * side, : wide * side] = (
        squares.unflatten(2, (high, wide)).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    )
    return shuffled


class _TenOfTheLastDigit:
    """The tolerance of a measure that declares none, from the ``digits`` of its own class."""

    def __get__(self, instance: Metric | None, owner: type[Metric]) -> float:
        return 10.0 ** (1 - owner.digits)


@dataclass(frozen=True)
class Metric(ABC):
    """A measure: a dataclass whose fields are its parameters. Its docstring is the source of its page of documentation.

    Above its sections it says what the measure measures, which tables quote; then come ``Formula``, ``Range``,
    ``Ceiling``, ``Floor``, ``Undefined``, ``Pitfalls``, ``Source``. Those that a class lacks are its base class's.

    Attributes:
        name: column key in records.
        label: column title in tables.
        unit: of the values ("" for a plain number).
        direction: which way is better.
        group: the table it stands in.
        version: to be raised when values change.
        digits: after the point in tables.
        pooled: a statistic of all images together (average precision), not a mean over images: the values are then
            each image's contribution, whose mean is the statistic and which may leave its range.
        tolerance: how much a mean may lose before `invsuite check` calls it worse, in the measure's unit. The suite's
            own measures declare about three times what training on another processor was seen to move. A measure that
            declares none has ten units of the last digit that tables show (0.01 with three digits), the least that
            any of the suite's own needs: a difference in the last digit alone is another processor's rounding.
        headline: whether the short table of a terminal shows it.
        uses_edits: whether the suite's number of ``edits`` changes the values: true for measures that call
            `Scoring.edits` or read its ``edit_limit``.
        uses_witness: whether the suite's second model changes the values.

    Examples:
        >>> @dataclass(frozen=True)
        ... class WorstError(Metric):
        ...     "Largest difference of one colour value of the reconstruction from the image's own."
        ...     name, label, direction = "worst_error", "Worst error", "lower"
        ...     def compute(self, scoring):
        ...         errors = (scoring.reconstructions[:] - scoring.images[:]).abs()
        ...         return Values(errors.amax((1, 2, 3)).tolist())
        >>> WorstError.description()
        "Largest difference of one colour value of the reconstruction from the image's own."
    """

    name: ClassVar[str]
    label: ClassVar[str]
    unit: ClassVar[str] = ""
    direction: ClassVar[Direction]
    group: ClassVar[Group] = "Fidelity"
    version: ClassVar[int] = 1
    digits: ClassVar[int] = 3
    pooled: ClassVar[bool] = False
    tolerance: ClassVar[float] = cast(float, _TenOfTheLastDigit())
    headline: ClassVar[bool] = False
    uses_edits: ClassVar[bool] = False
    uses_witness: ClassVar[bool] = False

    @classmethod
    def description(cls) -> str:
        """Return the class's docstring above its sections as one line: what the measure measures."""
        return " ".join(re.split(r"^\w+:$", inspect.cleandoc(cls.__doc__ or ""), maxsplit=1, flags=re.M)[0].split())

    def needs(self) -> tuple[Need, ...]:
        """Return what must be on this machine before the measure can be computed (`invsuite fetch` brings it)."""
        return ()

    def prepare(self, device: torch.device) -> dict[str, str]:
        """Load what the measure needs and return facts for the record (digests, variants).

        Raises:
            Unavailable: if it cannot be had: the value is then recorded as skipped with the reason.
        """
        return {}

    @abstractmethod
    def compute(self, scoring: Scoring) -> Values:
        """Return the values for ``scoring``, one per image.

        Raises:
            NotApplicable: if the measure has no meaning here: it is then recorded as undefined with the reason.
        """

    def params(self) -> dict[str, Any]:
        """Return the parameters, as they go into a record."""
        return asdict(self)
