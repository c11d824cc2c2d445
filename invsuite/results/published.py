"""Numbers that papers state for a suite's protocol: shown beside the suite's own, and never mixed with them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from invsuite._system.files import refused, write_atomically

FILE = "published.json"


@dataclass(frozen=True)
class PublishedValue:
    """What a paper states of one method at one stage by one measure; nobody ran it here.

    Attributes:
        model: of the suite.
        stage: of the model.
        method: as the paper calls it.
        measure: name of the registered measure that it is closest to.
        label: of that measure.
        unit: likewise.
        direction: likewise.
        digits: likewise.
        value: as stated.
        source: paper and table.
        n: scored images, 0 where the source does not say.
        budget: what the method was given, "" where the source does not say.
    """

    model: str
    stage: str
    method: str
    measure: str
    label: str
    unit: str
    direction: str
    digits: int
    value: float
    source: str
    n: int = 0
    budget: str = ""


@dataclass(frozen=True)
class PublishedRow:
    """The values of one method at one stage, by measure."""

    values: dict[str, PublishedValue]

    @property
    def first(self) -> PublishedValue:
        """Return any of its values, which have all else in common."""
        return next(iter(self.values.values()))


def published_rows(values: Iterable[PublishedValue]) -> list[PublishedRow]:
    """Return values gathered over measures, in the order of each row's first value."""
    rows: dict[tuple[str | int, ...], dict[str, PublishedValue]] = {}
    for value in values:
        key = (value.model, value.stage, value.method, value.source, value.n, value.budget)
        rows.setdefault(key, {})[value.measure] = value
    return [PublishedRow(row) for row in rows.values()]


def published_measures(values: Iterable[PublishedValue]) -> dict[str, PublishedValue]:
    """Return the measures that any value is of, each with a value that knows label, unit and direction."""
    measures: dict[str, PublishedValue] = {}
    for value in values:
        measures.setdefault(value.measure, value)
    return measures


def write_published(folder: Path, values: Sequence[PublishedValue]) -> None:
    """Keep what a suite states as published beside its records, so that a report needs nothing but their folder.

    Raises:
        DiskError: if the disk refuses.
    """
    path = folder / FILE
    if values:
        write_atomically(path, json.dumps([asdict(value) for value in values], indent=1).encode())
    else:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise refused(path, error) from error


def read_published(folder: Path) -> tuple[PublishedValue, ...]:
    """Return what `write_published` kept; nothing where there is no such file, or it was damaged."""
    try:
        return tuple(PublishedValue(**value) for value in json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return ()
