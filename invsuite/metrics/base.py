"""What every measure is: per-image values with a unit and a direction, computed from images, masks and a callable
that reconstructs other images the same way."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, TypeVar, cast

import numpy as np
import torch

from invsuite._system.needs import Need
from invsuite._system.spill import Rows, joined
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
MODEL_BATCH = 32  # images a forward pass of the model


@dataclass
class Scoring:
    """One cell's material.

    Attributes:
        samples: the scored samples (image and instances).
        images: their images (N, 3, H, W) in [0, 1]: a tensor while they are few, else rows of a file, which are chosen
            and split in the same way; `batches` gives tensors of either.
        reconstructions: what the method made of them, same shape and range.
        reconstruct: reconstructs any other images (B, 3, H, W) by the same model, stage and method.
        edit_limit: how many images measures that need further reconstructions use (of edited images, of other stages).
        model: the frozen model that was inverted; measures ask it what it sees in images, and change nothing.
        stage: whose representation was inverted.
        stages: every stage of the suite's cut of this model, in chain order.
        fit: the fit images with their instances, for what is usual (class colours, distances of random pairs).
        invert: the cell's inverse applied to any tensor (B, ...) of its stage's layout; images (B, 3, H, W) in [0, 1].
        classes: names of the labels of the samples' instances, by label; empty where nothing is labelled.
        witness: a second model that the method never saw, or why there is none.
        of_model: what measures found once for this model and its scored images, shared by its cells.
    """

    samples: Sequence[Sample]
    images: Rows
    reconstructions: Rows
    reconstruct: Callable[[torch.Tensor], torch.Tensor]
    edit_limit: int
    model: Model
    stage: str
    stages: tuple[str, ...]
    fit: Split
    invert: Callable[[torch.Tensor], torch.Tensor]
    classes: tuple[str, ...] = ()
    witness: Model | InvsuiteError = field(default_factory=lambda: NotApplicable("the suite names no witness"))
    of_model: dict[Hashable, Any] = field(default_factory=dict)
    _of_cell: dict[Hashable, Any] = field(default_factory=dict)
    _edits: dict[str, Edits] = field(default_factory=dict)

    def once_a_model(self, key: Hashable, make: Callable[[], T]) -> T:
        """``make()``, kept for every cell of this model: what depends on neither method nor stage."""
        if key not in self.of_model:
            self.of_model[key] = make()
        found: T = self.of_model[key]
        return found

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """``make()``, kept for the other measures of this cell."""
        if key not in self._of_cell:
            self._of_cell[key] = make()
        found: T = self._of_cell[key]
        return found

    def of_both(self, key: Hashable, see: Callable[[Rows], T]) -> tuple[T, T]:
        """``see`` of the scored images, kept for all cells of this model, and of their reconstructions, for this."""
        made = self.once(key, lambda: see(self.reconstructions))
        return self.once_a_model(key, lambda: see(self.images)), made

    def edits(self, name: str, edit: Callable[[torch.Tensor, Mask], torch.Tensor], target: Target = "object") -> Edits:
        """Apply ``edit(image, mask)`` to the ``target`` of the first images that have one, and reconstruct.

        The result is kept under ``name`` and ``target`` so that two measures of one edit pay for it once.
        """
        key = f"{target}: {name}"
        if key not in self._edits:
            rows: list[int] = []
            masks: list[Mask] = []
            labels: list[int | None] = []
            for row, sample in enumerate(self.samples):
                if len(rows) == self.edit_limit:
                    break
                found = editable(sample) if target == "object" else None
                if found is None and target == "object":
                    continue
                rows.append(row)
                masks.append(np.ones(sample.image.shape[-2:], dtype=bool) if found is None else found.mask)
                labels.append(None if found is None else found.label)
            before = self.images[rows]
            edited = [edit(image, mask) for image, mask in zip(before, masks, strict=True)]
            shown = torch.stack(edited) if rows else before
            after = self.reconstruct(shown) if rows else shown
            where = torch.from_numpy(np.stack(masks)) if rows else torch.zeros(shown[:, 0].shape, dtype=torch.bool)
            self._edits[key] = Edits(
                rows, where.to(shown.device), labels, before, shown, self.reconstructions[rows], after
            )
        return self._edits[key]


@dataclass(frozen=True)
class Edits:
    """Images before and after an edit, (n, 3, H, W), and their reconstructions.

    Attributes:
        rows: which of the scored images these are.
        masks: (n, H, W), true where the edit was made.
        labels: class of each edited object; None for a whole image.
    """

    rows: list[int]
    masks: torch.Tensor
    labels: list[int | None]
    shown_before: torch.Tensor
    shown_after: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor


@dataclass(frozen=True)
class Values:
    """Per-image values; None where the measure is not defined for that image, with the reason in ``undefined``.

    ``ceiling`` is the mean value of a perfect reconstruction where that is not a constant, ``floor`` that of one that
    knows nothing of this image (by random permutation). ``interval`` is the 95 % interval of a ``pooled`` measure
    (`Metric`), ``facts`` what else belongs in the record.

    Raises:
        DataError: for a value that is NaN or infinite.
    """

    per_image: list[float | None]
    undefined: str = ""
    ceiling: float | None = None
    floor: float | None = None
    interval: tuple[float, float] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = [index for index, value in enumerate(self.per_image) if value is not None and not math.isfinite(value)]
        if wrong:
            raise DataError(
                f"a measure gave {self.per_image[wrong[0]]} for image {wrong[0]} and {len(wrong) - 1} others; "
                "where it is not defined its value must be None"
            )


def batches(*stacks: Rows, size: int = MODEL_BATCH) -> Iterator[tuple[torch.Tensor, ...]]:
    """Tensors, or rows of files, of the same length, ``size`` rows at a time."""
    return zip(*(stack.split(size) for stack in stacks), strict=True)


def by_image(measure: Callable[..., torch.Tensor], *stacks: Rows, size: int = MODEL_BATCH) -> torch.Tensor:
    """``measure`` (B, ...) of batches of the ``stacks``, joined over all images: (N, ...)."""
    return joined((measure(*batch) for batch in batches(*stacks, size=size)), len(stacks[0]))


class _TenOfTheLastDigit:
    """The tolerance of a measure that declares none, from the ``digits`` of its own class."""

    def __get__(self, instance: Metric | None, owner: type[Metric]) -> float:
        return 10.0 ** (1 - owner.digits)


@dataclass(frozen=True)
class Metric(ABC):
    """A measure. ``version`` must be raised when its values change. Parameters are dataclass fields.

    Attributes:
        name: column key in records.
        label: column title in tables.
        unit: of the values ("" for a plain number).
        direction: which way is better.
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
        """Return the first paragraph of the class's docstring as one line: what the measure measures."""
        return " ".join(inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0].split())

    def needs(self) -> tuple[Need, ...]:
        """Return what must be on this machine before the measure can be computed (`invsuite fetch` brings it)."""
        return ()

    def prepare(self, device: torch.device) -> dict[str, str]:
        """Load what the measure needs; returns facts for the record (digests, variants).

        Raises:
            Unavailable: if it cannot be had: the value is then recorded as skipped with the reason.
        """
        return {}

    @abstractmethod
    def compute(self, scoring: Scoring) -> Values:
        """Values for ``scoring``, one an image."""

    def params(self) -> dict[str, Any]:
        """The parameters, as they go into a record."""
        return asdict(self)
