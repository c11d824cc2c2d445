"""How the stages of a model relate, as matrices: CKA, ridge R2, and cross-application of inverses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from invsuite.results.record import Measurement, Record, RelationRecord

CROSS = "cross_application"  # the measure whose facts hold a value for every other stage

Values = Sequence[Sequence[float | None]]


@dataclass(frozen=True)
class Matrix:
    """Values between stages, with intervals; None where there is none.

    Attributes:
        title: what the values are, with n.
        stages: names of rows and of columns.
        value: (stages, stages), from the row's stage to the column's.
        low: ends of the 95 % intervals.
        high: the other ends.
        marks: what is written behind each value.
        top: the most that a share can be; None for ratios.
    """

    title: str
    stages: Sequence[str]
    value: Values
    low: Values
    high: Values
    marks: Sequence[Sequence[str]]
    top: float | None = None


def matrices(records: Iterable[Record], relations: Iterable[RelationRecord]) -> list[Matrix]:
    """Return every matrix of one model that the records hold, of the first seed.

    Args:
        records: of the model's cells.
        relations: of the model.
    """
    between: list[Matrix] = []
    for relation in relations:
        if relation.ok:
            stages, cka, ridge = (relation.body[key] for key in ("stages", "cka", "ridge_r2"))
            marks = [["ᵐ" if rows == "images" else "" for rows in line] for line in ridge["rows"]]
            for title, shares, marked in (("CKA", cka, _unmarked(stages)), ("Ridge R2", ridge, marks)):
                values = shares["value"], shares["low"], shares["high"]
                between.append(Matrix(f"{title} (n={shares['n']})", stages, *values, marked, 1.0))
    methods: dict[str, dict[str, Measurement]] = {}
    for record in records:
        measurement = record.measurements.get(CROSS)
        if measurement is not None and "row" in measurement.facts:
            methods.setdefault(record.cell.method, {}).setdefault(record.cell.stage, measurement)
    return between + [_cross(method, by_stage) for method, by_stage in methods.items()]


def _cross(method: str, by_stage: Mapping[str, Measurement]) -> Matrix:
    """Return the cross-application of one method: each cell is a row, with a value for every stage of its layout."""
    cells = by_stage.values()
    stages = list(dict.fromkeys(stage for cell in cells for stage in cell.facts["row"]))
    rows = [by_stage[stage].facts["row"] if stage in by_stage else {} for stage in stages]
    value, low, high = (
        [[row.get(stage, {}).get(key) for stage in stages] for row in rows] for key in ("mean", "low", "high")
    )
    title = f"{next(iter(cells)).label}, {method} (n={max(cell.n for cell in cells)})"
    return Matrix(title, stages, value, low, high, _unmarked(stages))


def _unmarked(stages: Sequence[str]) -> list[list[str]]:
    return [[""] * len(stages) for _ in stages]
