"""Two rows against each other: means side by side and the paired difference of every measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from invsuite.errors import UsageError, unknown_name
from invsuite.registry import METRICS
from invsuite.results.rows import Row, advantage, find_row, measures_of, rows_of
from invsuite.results.store import Record

NOTE = (
    "First better by: mean paired difference over the images both rows have, positive where the first row is better, "
    "in the measure's unit (of distances from 1 where 1 is best), with its 95 % bootstrap interval, over seeds too "
    "where there are several. Each measure on its own: the intervals of several measures do not hold all at once."
)


def compare_rows(
    records: Sequence[Record], first: str, second: str, measures: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """One entry a measure: both means, the difference, its interval, n, seeds and the verdict.

    Args:
        records: of one suite.
        first, second: rows as MODEL/STAGE/METHOD.
        measures: names; None takes every measure that both rows have values of.

    Raises:
        UsageError: for a row or measure that is not there.
    """
    rows = rows_of(records)
    pair = (find_row(rows, first), find_row(rows, second))
    known = measures_of(pair)
    for name in measures or ():
        if name not in known:
            raise unknown_name("measure of these rows", name, known)
    chosen = measures or [name for name in known if all(row.having(name) for row in pair)]
    if not chosen:
        raise UsageError(f"'{first}' and '{second}' have no measure in common")
    return [_entry(*pair, name) for name in chosen]


def comparison_table(entries: Sequence[dict[str, Any]]) -> str:
    """The entries for people."""
    body = []
    for entry in entries:
        digits = METRICS[entry["measure"]].digits if entry["measure"] in METRICS else 3
        interval = "" if entry["low"] is None else f" [{entry['low']:+.{digits}f}, {entry['high']:+.{digits}f}]"
        difference = "-" if entry["difference"] is None else f"{entry['difference']:+.{digits}f}{interval}"
        unit = f" {entry['unit']}" if entry["unit"] else ""
        means = [f"{mean:.{digits}f}" for mean in entry["means"]]
        body.append([f"{entry['measure']}{unit}", *means, difference, entry["n"], _seeds(entry), entry["verdict"]])
    head = ["Measure", *entries[0]["rows"], "First better by", "n", "Seeds", "Verdict"]
    return tabulate(body, head, tablefmt="simple", disable_numparse=True) + f"\n\n{NOTE}"


def _entry(first: Row, second: Row, name: str) -> dict[str, Any]:
    found = advantage(first, second, name)
    verdict = "cannot be told apart"
    if found.told:
        assert found.mean is not None
        verdict = f"{first.name if found.mean > 0 else second.name} is better"
    facts = [row.found(name) or {} for row in (first, second)]
    return {
        "measure": name,
        "unit": facts[0]["unit"],
        "direction": facts[0]["direction"],
        "rows": [first.name, second.name],
        "means": [fact["mean"] for fact in facts],
        "difference": found.mean,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "seeds": [len(row.having(name)) for row in (first, second)],
        "verdict": verdict,
    }


def _seeds(entry: dict[str, Any]) -> str:
    return " / ".join(map(str, entry["seeds"]))
