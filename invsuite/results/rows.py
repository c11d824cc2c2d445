"""Rows of a table: the records of one model, stage and method, one per seed, and what they measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from invsuite.errors import UsageError, unknown_name
from invsuite.results.record import Measurement, Record, devices_of
from invsuite.results.regime import MARK, Regime, regime_of
from invsuite.results.statistics import Array, Difference, differences, distance_from_best, places, summarise_seeds

#: Place of a row by a measure: {measure: {row name: place}}.
Places = dict[str, dict[str, int]]
ROUNDING = 1e-6  # of a value: two that differ by less are the same


@dataclass(frozen=True)
class RowCost:
    """What a row took.

    Attributes:
        fit_seconds: of the fit, own and shared.
        invert_seconds: per image.
        peak_bytes: most memory of the fit and the inversion.
        parameters: values that the inverse holds.
    """

    fit_seconds: float
    invert_seconds: float
    peak_bytes: int
    parameters: int

    def texts(self) -> list[str]:
        """Return seconds, milliseconds per image, MiB and values, as tables show them."""
        milliseconds, peak = 1000 * self.invert_seconds, self.peak_bytes / 2**20
        return [f"{self.fit_seconds:.1f}", f"{milliseconds:.1f}", f"{peak:.0f}", f"{self.parameters:,}"]


@dataclass(frozen=True)
class Row:
    """The records of all seeds of one model, stage and method."""

    records: tuple[Record, ...]

    @property
    def model(self) -> str:
        """Return the row name of the model."""
        return self.records[0].cell.model

    @property
    def stage(self) -> str:
        """Return the stage whose representation was inverted."""
        return self.records[0].cell.stage

    @property
    def method(self) -> str:
        """Return the row name of the method."""
        return self.records[0].cell.method

    @cached_property
    def name(self) -> str:
        """Return MODEL/STAGE/METHOD, as `invsuite compare` takes it."""
        return self.records[0].cell.row

    @property
    def uses_image(self) -> bool:
        """Tell whether its method is shown the image itself: it marks a level, and competes with no method."""
        return self.records[0].cell.uses_image

    @cached_property
    def regime(self) -> Regime:
        """Return what was spent on it, and whether its descents have converged."""
        return regime_of(self.done)

    @property
    def unconverged(self) -> bool:
        """Tell whether its descents were stopped before they converged: it then competes with no method."""
        return self.regime.converged is False

    @cached_property
    def label(self) -> str:
        """Return the method and what to know of it.

        That is `MARK` if it has not converged, whether it sees the image, and its seeds if they are several or not all
        have numbers.
        """
        name = f"{self.method} {MARK}" if self.unconverged else self.method
        finished, every = len(self.done), len(self.records)
        facts = ["sees the image"] * self.uses_image
        if every > 1:
            facts.append(f"{every} seeds" if finished == every else f"{finished} of {every} seeds")
        return f"{name} ({', '.join(facts)})" if facts else name

    @cached_property
    def images(self) -> tuple[str, ...]:
        """Return the keys of the images that it was scored on."""
        return tuple(self.done[0].images) if self.done else ()

    @property
    def scored(self) -> str | None:
        """Return the digest of the scored images; None where the records do not say."""
        data = self.done[0].identity.get("data") if self.done else None
        return data.get("score") if data else None

    @cached_property
    def done(self) -> tuple[Record, ...]:
        """Return the records with numbers."""
        return tuple(record for record in self.records if record.ok)

    def having(self, measure: str) -> tuple[Record, ...]:
        """Return the records in which ``measure`` has a value."""
        return self._having.get(measure, ())

    @cached_property
    def _having(self) -> dict[str, tuple[Record, ...]]:
        having: dict[str, tuple[Record, ...]] = {}
        for record in self.done:
            for measure, measurement in record.measurements.items():
                if measurement.ok:
                    having[measure] = (*having.get(measure, ()), record)
        return having

    @property
    def devices(self) -> list[str]:
        """Return the devices, with their clocks, on which its times were measured; several where its seeds differ."""
        return devices_of(self.done)

    def cost(self) -> RowCost:
        """Return the mean times over seeds, the largest peak, and the held values of the first."""
        costs = [record.cost for record in self.done if record.cost is not None]
        return RowCost(
            sum(cost.fit_seconds + cost.fit_shared_seconds for cost in costs) / len(costs),
            sum(cost.invert_seconds_per_image for cost in costs) / len(costs),
            max(max(cost.fit_peak_bytes, cost.invert_peak_bytes) for cost in costs),
            costs[0].parameters,
        )

    def measurement(self, measure: str) -> Measurement | None:
        """Return a measurement; of several seeds, with mean, interval and n over seeds and images.

        None if no seed has the measure at all.
        """
        having = self.having(measure)
        if not having:
            return next((r.measurements[measure] for r in self.done if measure in r.measurements), None)
        first = having[0].measurements[measure]
        if len(having) == 1:
            return first
        whole = summarise_seeds(self.values(measure, having[0].images))
        if whole.n == 0:
            return replace(first, status="undefined", reason="no image is defined in every seed", n=0)
        return replace(first, n=whole.n, mean=whole.mean, low=whole.low, high=whole.high)

    def values(self, measure: str, images: Sequence[str]) -> Array:
        """Return values (seeds, images) of the seeds that have ``measure``; NaN where it is not defined."""
        rows = []
        for record in self.having(measure):
            values = record.measurements[measure].values
            if record.images != images:
                by_key = dict(zip(record.images, values, strict=True))
                values = [by_key.get(key) for key in images]
            rows.append(np.array(values, dtype=np.float64))  # None becomes NaN
        return np.stack(rows) if rows else np.full((1, len(images)), np.nan)

    def losses(self, measure: str, images: Sequence[str]) -> Array:
        """Return values (seeds, images) as distances from the best: smaller is better."""
        direction = self.having(measure)[0].measurements[measure].direction
        return np.asarray(distance_from_best(direction, self.values(measure, images)))


def by_model(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Return the records of each model, in order."""
    models: dict[str, list[Record]] = {}
    for record in records:
        models.setdefault(record.cell.model, []).append(record)
    return models


def rows_of(records: Iterable[Record]) -> list[Row]:
    """Return records gathered over seeds, in the order of each row's first record."""
    rows: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        cell = record.cell
        rows.setdefault((cell.model, cell.stage, cell.method), []).append(record)
    return [Row(tuple(own)) for own in rows.values()]


def find_row(rows: Sequence[Row], name: str) -> Row:
    """Return the row MODEL/STAGE/METHOD.

    Raises:
        UsageError: if there is none of that name, with the nearest names, or none of its cells has numbers.
    """
    for row in rows:
        if row.name == name:
            if not row.done:
                raise UsageError(f"row '{name}' has no numbers: {row.records[0].reason}")
            return row
    raise unknown_name("row (MODEL/STAGE/METHOD)", name, [row.name for row in rows])


def measures_of(rows: Iterable[Row]) -> dict[str, Measurement]:
    """Return the measures that any row can have (a classifier has no boxes to find), in the records' order.

    Each with a measurement that knows the measure's label, unit, direction, group and digits.
    """
    measures: dict[str, Measurement] = {}
    for row in rows:
        for record in row.done:
            for name, measurement in record.measurements.items():
                if measurement.status != "undefined":
                    measures.setdefault(name, measurement)
    return measures


def places_of(rows: Sequence[Row], measure: str) -> dict[str, int]:
    """Return the place of each row of one stage by ``measure``, by row name; none where fewer than two rows compete.

    Per-image distances from the best are compared pairwise (`invsuite.results.statistics.places`). There are no places
    where all rows have the same values, as they have by a measure of the model's stage alone. Rows without a
    value have no place, and neither have those that see the image or have not converged, nor those defined on fewer
    than half as many of their images as the row with most there: of them too little is known to let them share one.
    Nor does a row share one that was not scored on images of at least half of the rows: it has a place where the images
    that it has tell it apart from each row that was. Of a measure of all images together the rows compete that have as
    many images as most rows: of fewer it is another number.
    """
    having = [row for row in rows if row.having(measure) and not (row.uses_image or row.unconverged)]
    if having and having[0].having(measure)[0].measurements[measure].pooled:
        usual = Counter(row.images for row in having).most_common(1)[0][0]
        having = [row for row in having if row.images == usual]
    if not having:
        return {}
    images = _all_images(having)
    losses = {row.name: row.losses(measure, images) for row in having}
    defined = {name: (~np.isnan(loss)).all(axis=0) for name, loss in losses.items()}
    most = np.stack(list(defined.values()))
    own = {row.name: np.isin(images, row.images) for row in having}
    ranked = [
        name for name, where in defined.items() if where.sum() >= max(2, most[:, own[name]].sum(axis=1).max() / 2)
    ]
    if len(ranked) < 2 or not _differ([losses[name] for name in ranked]):
        return {}
    expected = np.mean([defined[name] for name in ranked], axis=0) >= 0.5
    partial = [number for number, name in enumerate(ranked) if (expected & ~own[name]).any()]
    numbers = zip(ranked, places([losses[name] for name in ranked], partial), strict=True)
    placed = {name: place for name, place in numbers if place is not None}
    return placed if len(placed) > 1 else {}


def _differ(losses: Sequence[Array]) -> bool:
    """Tell whether rows have values (seeds, images) that differ by more than rounding, or no image in common."""
    values = np.concatenate(losses)
    values = values[:, (~np.isnan(values)).sum(axis=0) > 1]
    spread, size = np.nanmax(values, axis=0) - np.nanmin(values, axis=0), np.nanmax(np.abs(values), axis=0)
    return not values.size or bool((spread > ROUNDING * size).any())


def all_places(rows: Iterable[Row]) -> Places:
    """Return the places within each stage that at least two rows of it compete for."""
    stages: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        stages.setdefault((row.model, row.stage), []).append(row)
    places: Places = {}
    for name in measures_of(rows):
        places[name] = {}
        for peers in stages.values():
            places[name] |= places_of(peers, name)
    return places


def why_apart(first: Row, second: Row) -> str:
    """Return why two rows have no image in common, "" if they have some.

    Photos of two folders may share their names: rows of one model need the same digest of the scored images too.
    """
    same_model = first.done[0].original_model == second.done[0].original_model
    if same_model and first.scored != second.scored:
        digests = ", ".join(f"data {row.scored[:8] if row.scored else 'unknown'}" for row in (first, second))
        return f"they were scored on other images ({digests})"
    return "" if set(first.images) & set(second.images) else "they have no scored image in common"


def comparable(first: Row, second: Row, measure: str) -> bool:
    """Tell whether two rows that have ``measure`` can be compared by it: of all images together they need the same."""
    return first.images == second.images or not any(
        row.having(measure)[0].measurements[measure].pooled for row in (first, second)
    )


def advantage(first: Row, second: Row, measure: str) -> Difference:
    """Return by how much ``first`` is better than ``second`` (negative: worse), over their common images.

    In the measure's unit; for a measure that is best at 1, the difference of distances from 1. Without a common image
    n is 0.

    Raises:
        UsageError: if one of the two has no value of the measure, or it is of all images together and theirs differ.
    """
    for row in (first, second):
        if not row.having(measure):
            measurement = row.measurement(measure)
            reason = "it was not measured" if measurement is None else measurement.reason
            raise UsageError(f"row '{row.name}' has no '{measure}': {reason}")
    if not comparable(first, second, measure):
        raise UsageError(
            f"'{measure}' is of all images together, and '{first.name}' has {len(first.images)}, '{second.name}' "
            f"{len(second.images)} of them: of fewer it is another number"
        )
    images = _all_images([first, second])
    if why_apart(first, second):
        return Difference(0, None, None, None)
    return differences([second.losses(measure, images), first.losses(measure, images)], [(0, 1)])[0]


def _all_images(rows: Sequence[Row]) -> list[str]:
    """Return the keys of every image any row was scored on, in the order in which they first come."""
    lists = [record.images for row in rows for record in row.done]
    if all(keys == lists[0] for keys in lists):
        return list(lists[0])
    return list(dict.fromkeys(key for keys in lists for key in keys))
