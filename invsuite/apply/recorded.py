"""The images of an earlier fit, of which a kept inverse knows number, digest and content, but no pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from invsuite.apply.card import ImagesFacts
from invsuite.data.base import Dataset, Sample
from invsuite.data.split import Split
from invsuite.errors import Unavailable


@dataclass(frozen=True)
class RecordedImages(Dataset):
    """A dataset without pixels."""

    facts: ImagesFacts

    @property
    def name(self) -> str:  # type: ignore[override]
        """Return the name of the data set that they were of."""
        return self.facts.name

    def __len__(self) -> int:
        return self.facts.count

    def __getitem__(self, index: int) -> Sample:
        raise Unavailable(f"the images of '{self.facts.name}' that the inverse was fitted on are not kept with it")

    def identity(self, index: int) -> str:
        """Return a text that no other image has."""
        return f"{self.facts.digest}-{index}"

    def digest(self) -> str:
        """Return the digest on the card."""
        return self.facts.digest

    def key(self, index: int) -> str:
        """Return a name: that of the image is not kept."""
        return str(index)


@dataclass(frozen=True)
class RecordedSplit(Split):
    """A split without pixels: `Unavailable` is raised by whatever asks for its images.

    Attributes:
        known: digits that tell its images by their content (`Split.content`); none where nobody kept them.
    """

    known: tuple[str, ...] = ()

    @classmethod
    def of(cls, facts: ImagesFacts, known: Sequence[str] = ()) -> RecordedSplit:
        """Return the split that the card of an inverse describes."""
        return cls(RecordedImages(facts), tuple(range(facts.count)), tuple(known))

    def digest(self) -> str:
        """Return the digest on the card."""
        return self.dataset.digest()

    def facts(self) -> dict[str, Any]:
        """Return what a record says of these images, as on the card."""
        assert isinstance(self.dataset, RecordedImages)
        facts = self.dataset.facts
        geometry = {} if facts.geometry is None else {"geometry": dict(facts.geometry)}
        return {"name": facts.name, "digest": facts.digest, "count": facts.count} | geometry

    def content(self) -> tuple[str, ...]:
        """Return the digits that tell its images by their content."""
        return self.known

    def listing(self) -> list[tuple[str, str]]:
        """Return nothing: their names are not kept."""
        return []
