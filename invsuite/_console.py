"""What commands print: text for people, and trees for ``--json``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from invsuite._system.needs import Need
from invsuite.api import Outlook
from invsuite.apply.card import Quality
from invsuite.apply.inverse import Inverse
from invsuite.errors import MissingPath, exit_code_of
from invsuite.report.markdown import terminal
from invsuite.report.results import Results
from invsuite.results.outcome import RunOutcome
from invsuite.results.record import Record, RelationRecord, to_json

Tree = dict[str, Any]


def results_text(results: Results, table: Path | None) -> str:
    """Return a run's main numbers, its counts, and a line for every reason why numbers are missing."""
    outcome = _outcome(results)
    added = f" (measures added to {outcome.added})" if outcome.added else ""
    states = ", ".join(f"{count} {state}" for state, count in results.states.items())
    counts = f"{outcome.computed} cells computed, {outcome.reused} reused{added}; {states or 'no records'}"
    if not results:
        return counts
    reading = f"* cannot be told apart from the best of its stage. Intervals, n and how to read each column: {table}"
    return "\n".join([f"{results.title}\n", terminal(results), "", reading, counts, *_problems(results)])


def results_tree(results: Results) -> Tree:
    """Return a run's counts and records."""
    outcome = _outcome(results)
    tree = {"suite": results.name if results else "", "computed": outcome.computed, "reused": outcome.reused}
    tree["cells"] = [to_json(record) for record in results]
    if results.relations:
        tree["interlayer"] = [to_json(relation) for relation in results.relations]
    return tree


def results_code(results: Results) -> int:
    """Return a run's exit code: of what kept a model from running, else 1 if any cell or measure failed.

    A path that the user named and that is not there counts as that, though its cells are skipped.
    """
    everything: list[Record | RelationRecord] = [*results.records, *results.relations]
    failures = [record for record in everything if record.status == "failed"]
    refused = [record for record in failures if "refused" in record.identity]
    refused += [record for record in everything if record.fault == MissingPath.fault]
    codes = [exit_code_of(record.fault) for record in refused]
    return codes[0] if codes else int(bool(failures or _outcome(results).failed or [*_failed_measures(results)]))


def inverse_text(inverse: Inverse, folder: Path) -> str:
    """Return what an inverse measures at every stage, why it has no others, and where it lies."""
    card = inverse.card
    lines = [str(folder)]
    if card.quality:
        measures = list(dict.fromkeys(name for values in card.quality.values() for name in values))
        rows = [
            [stage, *(_measured(values[name]) if name in values else "" for name in measures)]
            for stage, values in card.quality.items()
        ]
        count = card.scored_on.count if card.scored_on else 0
        lines = [tabulate(rows, headers=["stage", *measures]), f"on {count} images that were held back\n", *lines]
    lines += [f"{stage} is not inverted: {reason}" for stage, reason in card.refused.items()]
    return "\n".join([*lines, *inverse.remarks])


def _measured(quality: Quality) -> str:
    interval = "" if quality.low is None else f" [{quality.low:.4g}, {quality.high:.4g}]"
    return f"{quality.mean:.4g}{f' {quality.unit}' if quality.unit else ''}{interval}"


def inverse_tree(inverse: Inverse, folder: Path) -> Tree:
    """Return the folder and the card of an inverse."""
    return {"folder": str(folder), "card": asdict(inverse.card)}


def _outcome(results: Results) -> RunOutcome:
    assert results.outcome is not None, "results of a run have counts"
    return results.outcome


def _problems(results: Results) -> list[str]:
    cells: dict[tuple[str, str], list[str]] = {}
    everything: list[Record | RelationRecord] = [*results.records, *results.relations]
    for record in everything:
        if not record.ok:
            cells.setdefault((record.state, record.reason), []).append(record.cell.id)
    for failed, reason in _failed_measures(results):
        cells.setdefault(("failed", reason), []).append(failed.cell.id)
    return [
        f"{state}: {first}{f' and {len(others)} more' if others else ''}: {reason}"
        for (state, reason), (first, *others) in cells.items()
    ]


def _failed_measures(results: Results) -> Iterator[tuple[Record, str]]:
    for record in results.done:
        for measurement in record.measurements.values():
            if measurement.status == "failed":
                yield record, measurement.reason


def outlook_text(outlook: Outlook) -> str:
    """Return what a run would do, cell by cell, and what it would cost."""
    rows, cost, device = _cells(outlook), outlook.cost, outlook.device.type
    passes = _passes_to_run(outlook)
    to_run = sum(row["state"] == "to run" for row in rows)
    lines = [f"{len(rows)} cells, {to_run} to run, about {passes:,} passes of an image through a model"]
    if cost.hours or not cost.unknown:
        lines.append(
            f"about {cost.hours:.2g} hours on this {device}, and {cost.memory / 2**30:.2g} GiB of its memory for a "
            f"batch of {outlook.plan.suite.budget.batch}: an estimate from timed pieces of its work"
        )
    if cost.decoding:
        lines.append(f"of these about {cost.decoding:.2g} hours to decode photos, once")
    if cost.disk:
        lines.append(f"about {cost.disk / 2**30:.2g} GiB of disk for reconstructions that are kept and decoded photos")
    lines += [f"it does not fit: {shortage}" for shortage in cost.shortages]
    if cost.unknown:
        lines.append(f"not in the estimate, for their weights or data are not here: {', '.join(cost.unknown)}")
    return "\n".join([tabulate(rows, headers="keys"), "", *lines])


def outlook_tree(outlook: Outlook) -> Tree:
    """Return what a run would do, cell by cell, and what it would cost."""
    estimate = asdict(outlook.cost) | {"device": outlook.device.type}
    return {"cells": _cells(outlook), "image_passes": _passes_to_run(outlook), "estimate": estimate}


def _cells(outlook: Outlook) -> list[Tree]:
    return [
        {"cell": cell, "state": state, "image passes": outlook.passes[cell]} for cell, state in outlook.states.items()
    ]


def _passes_to_run(outlook: Outlook) -> int:
    return sum(outlook.passes[cell] for cell, state in outlook.states.items() if state == "to run")


def total_text(needed: Sequence[Need]) -> str:
    """Return how much is to be fetched."""
    waiting = _waiting(needed)
    unknown = sum(need.size is None for need in waiting)
    also = f" and {unknown} of unknown size" if unknown else ""
    return f"{len(waiting)} to fetch, {sum(need.size or 0 for need in waiting) / 2**30:.2f} GiB{also}"


def needs_text(needed: Sequence[Need], fetched: Sequence[tuple[str, str]], advice: str) -> str:
    """Return what a suite needs, and what was fetched; if nothing was and something waits, how to fetch it."""
    ending = [f"{what}: {digest}" for what, digest in fetched] or ["nothing to fetch"]
    if advice and _waiting(needed):
        ending = [total_text(needed), advice]
    return "\n".join([tabulate(_items(needed), headers="keys", maxcolwidths=60), "", *ending])


def needs_tree(needed: Sequence[Need], fetched: Sequence[tuple[str, str]]) -> Tree:
    """Return what a suite needs, and the digests of what was fetched."""
    waiting = _waiting(needed)
    return {
        "items": _items(needed),
        "bytes": sum(need.size or 0 for need in waiting),
        "unknown_sizes": sum(need.size is None for need in waiting),
        "fetched": dict(fetched),
    }


def _waiting(needed: Sequence[Need]) -> list[Need]:
    return [need for need in needed if need.bring is not None]


def _items(needed: Sequence[Need]) -> list[Tree]:
    return [
        {
            "what": need.what,
            "state": need.state,
            "size": "" if need.size == 0 else "unknown" if need.size is None else f"{need.size / 2**20:,.0f} MiB",
            "where": need.note,
        }
        for need in needed
    ]
