"""Records as a table of numbers: one line per cell and measure, as a pandas frame or as CSV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from invsuite.results.published import PublishedValue
from invsuite.results.record import CellCost, Record
from invsuite.results.regime import regime_of

if TYPE_CHECKING:
    import pandas as pd

#: Columns and their types in a frame.
COLUMNS = {
    "suite": "string",
    "model": "string",
    "stage": "string",
    "method": "string",
    "seed": "Int64",
    "status": "string",
    "budget": "string",
    "converged": "boolean",
    "measure": "string",
    "unit": "string",
    "direction": "string",
    "n": "Int64",
    "mean": "float64",
    "low": "float64",
    "high": "float64",
    "ceiling": "float64",
    "floor": "float64",
    "reason": "string",
    "cell": "string",
}
CSV_NAMES = {"low": "ci95_low", "high": "ci95_high"}

#: What of a cell's cost a table holds, and in which unit; less is better but of shares of the time a GPU was used.
COSTS = {
    "fit_seconds": "s",
    "fit_shared_seconds": "s",
    "fit_image_passes": "images",
    "fit_flops": "FLOP",
    "fit_frozen_flops": "FLOP",
    "parameters": "values",
    "invert_seconds_per_image": "s",
    "invert_flops_per_image": "FLOP",
    "fit_peak_bytes": "bytes",
    "invert_peak_bytes": "bytes",
    "fit_busy": "share",
    "invert_busy": "share",
}


def to_frame(records: Iterable[Record], costs: bool = False) -> pd.DataFrame:
    """Return one line per cell and measure, with unit, direction, n, mean and 95 % interval (``low``, ``high``).

    ``budget`` is what was spent on the cell, in the words of the tables, and ``converged`` is empty for methods without
    a stopping rule. A cell without numbers has one line with its status and the reason.

    Args:
        records: in the order of the lines.
        costs: whether time, memory, operations and held values are lines too.
    """
    import pandas as pd

    return pd.DataFrame(_lines(records, costs), columns=list(COLUMNS)).astype(COLUMNS)


def to_csv(records: Iterable[Record], published: Iterable[PublishedValue] = ()) -> str:
    """Return measures and costs as CSV, every number with all of its digits.

    Args:
        records: in the order of the lines.
        published: what papers state: lines of their own behind the others, with the status ``published`` and, as their
            reason, the source.
    """
    import pandas as pd

    lines = list(_lines(records, costs=True))
    suite = lines[0][0] if lines else None
    frame = pd.DataFrame([*lines, *_published(suite, published)], columns=list(COLUMNS), dtype=object)
    return frame.rename(columns=CSV_NAMES).to_csv(index=False, lineterminator="\n")


def _lines(records: Iterable[Record], costs: bool) -> Iterator[tuple[Any, ...]]:
    """Yield what every column holds, a line at a time; None where it holds nothing."""
    for record in records:
        cell = record.cell
        head = (cell.suite, cell.model, cell.stage, cell.method, cell.seed)
        if not record.ok:
            yield (*head, record.status, *[None] * 11, record.reason, cell.id)
        regime = regime_of([record])
        spent = (regime.text, regime.converged)
        for m in record.measurements.values() if record.ok else ():
            numbers = (m.n if m.status in ("ok", "undefined") else None, m.mean, m.low, m.high, m.ceiling, m.floor)
            yield (*head, m.status, *spent, m.name, m.unit, m.direction, *numbers, m.reason, cell.id)
        if record.cost is not None and costs and record.ok:
            yield from ((*head, "ok", *spent, *line, cell.id) for line in _costs(record.cost, record.provenance.device))


def _published(suite: str | None, values: Iterable[PublishedValue]) -> Iterator[tuple[Any, ...]]:
    """Yield what every column holds of published values."""
    for value in values:
        held = asdict(value) | {"suite": suite, "status": "published", "mean": value.value, "reason": value.source}
        held |= {"budget": value.budget or None, "n": value.n or None}
        yield tuple(held.get(column) for column in COLUMNS)


def _costs(cost: CellCost, device: str) -> Iterator[tuple[Any, ...]]:
    """Yield the columns from ``measure`` to ``reason`` of every cost that was counted on a device."""
    for name, unit in COSTS.items():
        value = getattr(cost, name)
        if value is not None:
            direction = "higher" if unit == "share" else "lower"
            yield (name, unit, direction, 1, value, None, None, None, None, f"clock: {cost.clock} of {device}")
