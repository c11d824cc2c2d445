"""Rows of a table: the records of one model, stage and method, one a seed, and what they measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from invsuite.errors import UsageError, unknown_name
from invsuite.methods import METHODS
from invsuite.results.statistics import Array, Difference, differences, distance_from_best, places, summarise_seeds
from invsuite.results.store import Record


@dataclass(frozen=True)
class Cost:
    """What a row cost: seconds of the fit, own and shared, and of inverting one image; bytes; trained values."""

    fit_seconds: float
    invert_seconds: float
    peak_bytes: int
    parameters: int

    def texts(self) -> list[str]:
        """Seconds, milliseconds an image, MiB and values, as tables show them."""
        milliseconds, peak = 1000 * self.invert_seconds, self.peak_bytes / 2**20
        return [f"{self.fit_seconds:.1f}", f"{milliseconds:.1f}", f"{peak:.0f}", f"{self.parameters:,}"]


@dataclass(frozen=True)
class Row:
    """All seeds of one model, stage and method."""

    model: str
    stage: str
    method: str
    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        """MODEL/STAGE/METHOD, as `invsuite compare` takes it."""
        return f"{self.model}/{self.stage}/{self.method}"

    @property
    def label(self) -> str:
        """The method; whether it sees the image; its seeds where there are several or not all of them have numbers."""
        done, every = len(self.done), len(self.records)
        facts = ["sees the image"] * self.sees_image
        if every > 1:
            facts.append(f"{every} seeds" if done == every else f"{done} of {every} seeds")
        return f"{self.method} ({', '.join(facts)})" if facts else self.method

    @cached_property
    def sees_image(self) -> bool:
        """Whether this is a floor that is shown the image itself: it marks a level, and competes with no method."""
        kind = METHODS.get(self.records[0]["identity"].get("method", {}).get("name", ""))
        return kind is not None and kind.sees_image

    @cached_property
    def done(self) -> tuple[Record, ...]:
        """The records with numbers."""
        return tuple(r for r in self.records if r["status"] == "ok")

    def having(self, measure: str) -> tuple[Record, ...]:
        """The records in which ``measure`` has a value."""
        return self._having.get(measure, ())

    @cached_property
    def _having(self) -> dict[str, tuple[Record, ...]]:
        found: dict[str, tuple[Record, ...]] = {}
        for record in self.done:
            for measure, entry in record["metrics"].items():
                if entry["status"] == "ok":
                    found[measure] = (*found.get(measure, ()), record)
        return found

    def cost(self) -> Cost:
        """Mean over seeds of the times, the largest peak, and the trained values of the first."""
        costs = [r["cost"] for r in self.done]
        return Cost(
            sum(c["fit_seconds"] + c["fit_shared_seconds"] for c in costs) / len(costs),
            sum(c["invert_seconds_per_image"] for c in costs) / len(costs),
            max(max(c["fit_peak_bytes"], c["invert_peak_bytes"]) for c in costs),
            costs[0]["parameters"],
        )

    def found(self, measure: str) -> dict[str, Any] | None:
        """What a record says of ``measure``; of several seeds, with mean, interval and n over seeds and images.

        None if no seed has the measure at all.
        """
        having = self.having(measure)
        if not having:
            return next((r["metrics"][measure] for r in self.done if measure in r["metrics"]), None)
        first: dict[str, Any] = having[0]["metrics"][measure]
        if len(having) == 1:
            return first
        whole = summarise_seeds(self.values(measure, having[0]["images"]))
        if whole.n == 0:
            return first | {"status": "undefined", "reason": "no image is defined in every seed", "n": 0}
        return first | {"n": whole.n, "mean": whole.mean, "low": whole.low, "high": whole.high}

    def values(self, measure: str, images: Sequence[str]) -> Array:
        """Values (seeds, images) of ``measure``, of the seeds that have it; NaN where it is not defined."""
        rows = []
        for record in self.having(measure):
            values = record["metrics"][measure]["values"]
            if record["images"] != images:
                by_key = dict(zip(record["images"], values, strict=True))
                values = [by_key.get(key) for key in images]
            rows.append(np.array(values, dtype=np.float64))  # None becomes NaN
        return np.stack(rows) if rows else np.full((1, len(images)), np.nan)

    def losses(self, measure: str, images: Sequence[str]) -> Array:
        """Values (seeds, images) as distances from the best: smaller is better."""
        return distance_from_best(
            self.having(measure)[0]["metrics"][measure]["direction"], self.values(measure, images)
        )


def by_model(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of each model, in order."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record["cell"]["model"], []).append(record)
    return found


def rows_of(records: Sequence[Record]) -> list[Row]:
    """Records gathered over seeds, in the order of each row's first record."""
    gathered: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        cell = record["cell"]
        gathered.setdefault((cell["model"], cell["stage"], cell["method"]), []).append(record)
    return [Row(*key, tuple(found)) for key, found in gathered.items()]


def find_row(rows: Sequence[Row], name: str) -> Row:
    """The row MODEL/STAGE/METHOD.

    Raises:
        UsageError: if there is none of that name, with the nearest names, or none of its cells has numbers.
    """
    for row in rows:
        if row.name == name:
            if not row.done:
                raise UsageError(f"row '{name}' has no numbers: {row.records[0]['reason']}")
            return row
    raise unknown_name("row (MODEL/STAGE/METHOD)", name, [row.name for row in rows])


def measures_of(rows: Sequence[Row]) -> list[str]:
    """Names of the measures that any row can have (a classifier has no boxes to find), in the records' order."""
    measured = (pair for row in rows for record in row.done for pair in record["metrics"].items())
    return list(dict.fromkeys(name for name, found in measured if found["status"] != "undefined"))


def places_of(rows: Sequence[Row], measure: str) -> dict[str, int]:
    """Place of each row of one stage by ``measure``, by row name; none where fewer than two rows compete.

    Per-image distances from the best are compared pairwise (`invsuite.results.statistics.places`). Rows without a
    value have no place, and neither have those that see the image, nor those defined on fewer than half as many images
    as the row with most: of them too little is known to let them share one.
    """
    having = [row for row in rows if row.having(measure) and not row.sees_image]
    if not having:
        return {}
    images = _all_images(having)
    losses = {row.name: row.losses(measure, images) for row in having}
    counts = {name: int((~np.isnan(loss)).all(axis=0).sum()) for name, loss in losses.items()}
    ranked = [name for name, n in counts.items() if n >= max(2, max(counts.values()) / 2)]
    if len(ranked) < 2:
        return {}
    return dict(zip(ranked, places([losses[name] for name in ranked]), strict=True))


def advantage(first: Row, second: Row, measure: str) -> Difference:
    """By how much ``first`` is better than ``second`` (negative: worse), over the images they have in common.

    In the measure's unit; for a measure that is best at 1, the difference of distances from 1.

    Raises:
        UsageError: if one of the two has no value of the measure.
    """
    for row in (first, second):
        if not row.having(measure):
            found = row.found(measure)
            reason = "it was not measured" if found is None else found["reason"]
            raise UsageError(f"row '{row.name}' has no '{measure}': {reason}")
    images = _all_images([first, second])
    return differences([second.losses(measure, images), first.losses(measure, images)], [(0, 1)])[0]


def _all_images(rows: Sequence[Row]) -> list[str]:
    """Keys of every image any row was scored on, in the order in which they first come."""
    lists = [record["images"] for row in rows for record in row.done]
    if all(keys == lists[0] for keys in lists):
        return list(lists[0])
    return list(dict.fromkeys(key for keys in lists for key in keys))
