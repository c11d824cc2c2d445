"""Two rows against each other: means side by side and the paired difference of every measure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from invsuite.errors import UsageError, unknown_name
from invsuite.results.record import Direction, Record
from invsuite.results.rows import Row, advantage, comparable, find_row, measures_of, rows_of, why_apart

NOTE = (
    "First better by: mean paired difference over the images both rows have, positive where the first row is better, "
    "in the measure's unit (of distances from 1 where 1 is best), with its 95 % bootstrap interval, over seeds too "
    "where there are several. Each measure on its own: the intervals of several measures do not hold all at once."
)


@dataclass(frozen=True)
class Comparison:
    """Two rows by one measure.

    Attributes:
        measure, unit, direction, digits: facts of the measure.
        rows: names of the two.
        means: of each over its own images.
        difference: mean by which the first is better, over common images.
        low, high: ends of its 95 % interval.
        n: common images.
        seeds: of each row.
        verdict: in words.
        budgets: regime of each row.
    """

    measure: str
    unit: str
    direction: Direction
    digits: int
    rows: tuple[str, str]
    means: tuple[float | None, float | None]
    difference: float | None
    low: float | None
    high: float | None
    n: int
    seeds: tuple[int, int]
    verdict: str
    budgets: tuple[str, str]

    def line(self) -> list[str]:
        """Return the cells of a table's line."""
        digits = self.digits
        interval = "" if self.low is None else f" [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"
        difference = "-" if self.difference is None else f"{self.difference:+.{digits}f}{interval}"
        means = [f"{mean:.{digits}f}" for mean in self.means]
        seeds = " / ".join(map(str, self.seeds))
        return [f"{self.measure} {self.unit}".rstrip(), *means, difference, str(self.n), seeds, self.verdict]


def folder_of(row: str) -> str:
    """Return the folder in front of a row's name: of ``FOLDER:MODEL/STAGE/METHOD``; "" where there is none.

    Examples:
        >>> folder_of("before:vit/block03/ridge"), folder_of("vit/block03/ridge")
        ('before', '')
    """
    return row.rpartition(":")[0]


def compare_rows(
    records: Iterable[Record], first: str, second: str, measures: Sequence[str] | None = None
) -> list[Comparison]:
    """Compare two rows of one suite by each measure.

    Args:
        records: of the suite.
        first: row as MODEL/STAGE/METHOD.
        second: row that it is held against.
        measures: names; None takes every measure that both rows have values of, and that can be compared.

    Raises:
        UsageError: for a row or measure that is not there, or rows that no image has in common.
    """
    rows = rows_of(records)
    pair = (find_row(rows, first), find_row(rows, second))
    apart = why_apart(*pair)
    if apart:
        raise UsageError(f"'{first}' and '{second}' cannot be compared: {apart}")
    known = measures_of(pair)
    for name in measures or ():
        if name not in known:
            raise unknown_name("measure of these rows", name, known)
    chosen = measures or [name for name in known if all(row.having(name) for row in pair) and comparable(*pair, name)]
    if not chosen:
        raise UsageError(f"'{first}' and '{second}' have no measure in common")
    comparisons = [_compare(*pair, name) for name in chosen]
    if not measures:
        comparisons = [comparison for comparison in comparisons if comparison.n]
    if not comparisons or not all(comparison.n for comparison in comparisons):
        named = f" '{measures[0]}'" if measures and len(measures) == 1 else ""
        raise UsageError(f"'{first}' and '{second}' have no image on which the measure{named} is defined for both")
    return comparisons


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    """Return the comparisons as a table for people."""
    head = ["Measure", *comparisons[0].rows, "First better by", "n", "Seeds", "Verdict"]
    body = [comparison.line() for comparison in comparisons]
    spent = [f"{row}: {budget}." for row, budget in zip(comparisons[0].rows, comparisons[0].budgets, strict=True)]
    table = tabulate(body, head, tablefmt="simple", disable_numparse=True)
    return "\n".join([table, "", *spent, "", NOTE])


def _compare(first: Row, second: Row, name: str) -> Comparison:
    """Compare two rows that both have values of the measure ``name``."""
    difference = advantage(first, second, name)
    verdict = "cannot be told apart"
    if difference.distinguishable:
        assert difference.mean is not None
        verdict = f"{first.name if difference.mean > 0 else second.name} is better"
    one, two = first.measurement(name), second.measurement(name)
    assert one is not None
    assert two is not None
    return Comparison(
        name,
        one.unit,
        one.direction,
        one.digits,
        (first.name, second.name),
        (one.mean, two.mean),
        difference.mean,
        difference.low,
        difference.high,
        difference.n,
        (len(first.having(name)), len(second.having(name))),
        verdict,
        (first.regime.text, second.regime.text),
    )
