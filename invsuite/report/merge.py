"""Runs of one suite side by side: ranked where that is fair, and told apart, in words, where it is not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from invsuite.store import Record


@dataclass(frozen=True)
class Merged:
    """Records of several runs in the order of the matrix, and what a reader must know about them, a line each."""

    records: list[Record]
    notes: list[str]


def merge_runs(runs: Mapping[str, Sequence[Record]]) -> Merged:
    """Merge runs of one suite, by name.

    Of a cell that several runs have, the newest record counts. A model that was fitted or scored on several revisions
    of the data becomes as many models: images that differ cannot rank methods. Times of several devices stay in the
    records; the tables leave them out (`invsuite.report.leaderboard`).
    """
    found = [record for records in runs.values() for record in records]
    notes = [f"Run {name}: {len(records)} cells, {_origin(records)}." for name, records in runs.items()]
    revisions: dict[str, list[str]] = {}
    for record in found:
        if (revision := _revision(record)) and revision not in revisions.setdefault(_model(record), []):
            revisions[_model(record)].append(revision)
    for model, several in revisions.items():
        if len(several) > 1:
            notes.append(
                f"Model {model} was run on {len(several)} revisions of the data ({', '.join(several)}): quality is "
                "not ranked across them, each has a table of its own."
            )
    newest: dict[tuple[Any, ...], Record] = {}
    for record in found:
        cell = dict(record["cell"])
        if len(revisions.get(cell["model"], ())) > 1:
            cell["model"] += f" (data {_revision(record) or 'unknown'})"
        key = (cell["model"], cell["seed"], cell.get("position", 0), cell["stage"], cell["method"])
        if key not in newest or _rank(newest[key]) <= _rank(record):
            newest[key] = record | {"cell": cell}
    if len(found) > len(newest):
        notes.append(f"{len(found) - len(newest)} cells are in several runs; of each the newest success counts.")
    models = list(dict.fromkeys(record["cell"]["model"] for record in newest.values()))
    order = {model: place for place, model in enumerate(models)}
    records = sorted(newest.values(), key=lambda r: (order[_model(r)], r["cell"]["seed"], r["cell"].get("position", 0)))
    devices = devices_of(records)
    if len(devices) > 1:
        notes.append(
            f"Times and memory were measured on {len(devices)} devices ({'; '.join(devices)}): they are not ranked or "
            "shown side by side across them."
        )
    return Merged(records, notes)


def devices_of(records: Sequence[Record]) -> list[str]:
    """The devices, with their clocks, on which times were measured."""
    return sorted({f"{r['provenance']['device']}, {r['cost']['clock']}" for r in records if r["status"] == "ok"})


def _model(record: Record) -> str:
    return str(record["cell"]["model"])


def _revision(record: Record) -> str:
    """8 digits of the SHA-256 of the three splits' digests; empty for a cell whose data was never opened."""
    data = record["identity"].get("data")
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:8] if data else ""


def _rank(record: Record) -> tuple[bool, str]:
    return record["status"] == "ok", record["provenance"]["written"]


def _origin(records: Sequence[Record]) -> str:
    codes = {r["provenance"]["git"]["sha"] or r["provenance"]["source_sha256"] for r in records}
    devices = {r["provenance"]["device"] for r in records}
    return f"code {', '.join(sorted(code[:10] for code in codes))}, device {'; '.join(sorted(devices))}"
