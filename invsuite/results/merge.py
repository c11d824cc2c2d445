"""Runs of one suite side by side: ranked where that is fair, and told apart, in words, where it is not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from invsuite.results.record import MergedRun, Record, RelationRecord

#: What must be the same of two runs of a model for their quality to be compared, and its name in the tables.
KINDS = {"data": "the data", "weights": "the weights"}


@dataclass(frozen=True)
class Merged:
    """Records of several runs in the order of the matrix, each with its ``run``: name, and what the model is called
    there; records of how stages relate; and what a reader must know about them, a line each."""

    records: list[Record]
    relations: list[RelationRecord]
    notes: list[str]


def merge_runs(
    runs: Mapping[str, Sequence[Record]], relations: Mapping[str, Sequence[RelationRecord]] | None = None
) -> Merged:
    """Merge runs of one suite, by name.

    Of a cell that several runs have, the newest success counts. A model that was fitted or scored on several revisions
    of the data, or that has several weights, becomes as many models: images that differ cannot rank methods. Times of
    several devices stay in the records; the tables leave them out (`invsuite.report.markdown`).
    """
    found = [
        replace(record, run=MergedRun(name, record.cell.model)) for name, records in runs.items() for record in records
    ]
    notes = [f"Run {name}: {len(records)} cells, {_origin(records)}." for name, records in runs.items()]
    revisions: dict[tuple[str, str], list[str]] = {}
    for record in found:
        for kind in KINDS:
            seen = revisions.setdefault((record.cell.model, kind), [])
            if (revision := _revision(record, kind)) and revision not in seen:
                seen.append(revision)
    several = {key: seen for key, seen in revisions.items() if len(seen) > 1}
    for (model, kind), seen in several.items():
        notes.append(
            f"Model {model} was run on {len(seen)} revisions of {KINDS[kind]} ({', '.join(seen)}): quality is "
            "not ranked across them, each has a table of its own."
        )
    newest: dict[tuple[Any, ...], Record] = {}
    for record in found:
        cell = record.cell
        kinds = [kind for kind in KINDS if (cell.model, kind) in several]
        if kinds:
            told = ", ".join(f"{kind} {_revision(record, kind) or 'unknown'}" for kind in kinds)
            cell = replace(cell, model=f"{cell.model} ({told})")
        key = (cell.model, cell.seed, cell.position, cell.stage, cell.method)
        if key not in newest or _rank(newest[key]) <= _rank(record):
            newest[key] = replace(record, cell=cell)
    if len(found) > len(newest):
        notes.append(f"{len(found) - len(newest)} cells are in several runs; of each the newest success counts.")
    models = list(dict.fromkeys(record.cell.model for record in newest.values()))
    order = {model: place for place, model in enumerate(models)}
    records = sorted(newest.values(), key=lambda r: (order[r.cell.model], r.cell.seed, r.cell.position))
    devices = devices_of(records)
    if len(devices) > 1:
        notes.append(
            f"Times and memory were measured on {len(devices)} devices ({'; '.join(devices)}): they are not ranked or "
            "shown side by side across them."
        )
    return Merged(records, _relations(records, relations or {}), notes)


def _relations(records: Sequence[Record], runs: Mapping[str, Sequence[RelationRecord]]) -> list[RelationRecord]:
    """For every model of the merged ``records``, the newest success of relating its stages on the same images with the
    same weights, else the newest failure."""
    every = sorted((relation for found in runs.values() for relation in found), key=_rank)
    newest: dict[str, RelationRecord] = {}
    for record in {r.cell.model: r for r in records if r.ok}.values():
        for relation in every:
            if relation.cell.model == record.original_model and _related(relation) == _related(record):
                newest[record.cell.model] = replace(relation, cell=replace(relation.cell, model=record.cell.model))
    return list(newest.values())


def _related(record: Record | RelationRecord) -> tuple[Any, ...]:
    """What a cell and the relation of its model's stages have in common: weights, fit and scored images."""
    identity = record.identity
    data = identity.get("data", {})
    return identity.get("weights"), data.get("fit"), data.get("score")


def devices_of(records: Sequence[Record]) -> list[str]:
    """The devices, with their clocks, on which times were measured."""
    return sorted({f"{r.provenance.device}, {r.cost.clock}" for r in records if r.ok and r.cost})


def _revision(record: Record, kind: str) -> str:
    """8 digits of the SHA-256 of a part of the identity; empty for a cell that never had it."""
    part = record.identity.get(kind)
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:8] if part else ""


def _rank(record: Record | RelationRecord) -> tuple[bool, str]:
    return record.ok, record.provenance.written


def _origin(records: Sequence[Record]) -> str:
    codes = {r.provenance.git["sha"] or r.provenance.source_sha256 for r in records}
    devices = {r.provenance.device for r in records}
    return f"code {', '.join(sorted(code[:10] for code in codes))}, device {'; '.join(sorted(devices))}"
