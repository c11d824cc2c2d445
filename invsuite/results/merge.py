"""Runs of one suite side by side: ranked where that is fair, and kept apart, in words, where it is not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from invsuite.results.record import AnyRecord, MergedRun, Record, RelationRecord

#: What must be the same of two runs of a model for their quality to be compared, and its name in the tables.
KINDS = {"data": "the data", "weights": "the weights"}


@dataclass(frozen=True)
class Merged:
    """Records of several runs.

    Attributes:
        records: in the order of the matrix; each knows its ``run``.
        relations: how stages relate, for the models of the records.
        notes: what a reader must know of them, a line each.
    """

    records: list[Record]
    relations: list[RelationRecord]
    notes: list[str]


def merge_runs(runs: Mapping[str, Sequence[Record]], relations: Mapping[str, Sequence[RelationRecord]]) -> Merged:
    """Merge runs of one suite, by name.

    Of a cell that several runs have, the newest success counts. A model that was fitted or scored on several revisions
    of the data, or that has several weights, becomes as many models: images that differ cannot rank methods. Times of
    several devices stay in the records; the tables leave them out (`invsuite.report.markdown`).

    Args:
        runs: records of cells.
        relations: records of how stages relate.
    """
    notes = [f"Run {name}: {len(records)} cells, {_origin(records)}." for name, records in runs.items()]
    every = _in_runs(runs)
    several = _several_revisions(every)
    for (model, kind), revisions in several.items():
        notes.append(
            f"Model {model} was run on {len(revisions)} revisions of {KINDS[kind]} ({', '.join(revisions)}): quality "
            "is not ranked across them, each has a table of its own."
        )
    newest: dict[tuple[str, str], Record] = {}
    for record in every:
        cell = record.cell
        kinds = [kind for kind in KINDS if (cell.model, kind) in several]
        if kinds:
            revisions = [f"{kind} {_revision(record, kind) or 'unknown'}" for kind in kinds]
            cell = replace(cell, model=f"{cell.model} ({', '.join(revisions)})")
        key = (cell.model, cell.key)
        if key not in newest or _rank(newest[key]) <= _rank(record):
            newest[key] = replace(record, cell=cell)
    if len(every) > len(newest):
        notes.append(f"{len(every) - len(newest)} cells are in several runs; of each the newest success counts.")
    models = {model: place for place, model in enumerate(dict.fromkeys(r.cell.model for r in newest.values()))}
    records = sorted(newest.values(), key=lambda r: (models[r.cell.model], r.cell.seed, r.cell.position))
    devices = devices_of(records)
    if len(devices) > 1:
        notes.append(
            f"Times and memory were measured on {len(devices)} devices ({'; '.join(devices)}): they are not ranked or "
            "shown side by side across them."
        )
    return Merged(records, _relations(records, _in_runs(relations)), notes)


def devices_of(records: Iterable[Record]) -> list[str]:
    """Return the devices, with their clocks, on which times were measured."""
    return sorted({f"{r.provenance.device}, {r.cost.clock}" for r in records if r.ok and r.cost})


def _in_runs(runs: Mapping[str, Sequence[AnyRecord]]) -> list[AnyRecord]:
    """Return the records of all runs, each with its run, and what its model is called there."""
    return [replace(r, run=MergedRun(name, r.cell.model)) for name, records in runs.items() for r in records]


def _several_revisions(records: Iterable[Record]) -> dict[tuple[str, str], list[str]]:
    """Return the revisions of what must be the same of a model (its name, and a kind), where there are several."""
    revisions: dict[tuple[str, str], dict[str, None]] = {}
    for record in records:
        for kind in KINDS:
            revision = _revision(record, kind)
            if revision:
                revisions.setdefault((record.cell.model, kind), {})[revision] = None
    return {key: list(own) for key, own in revisions.items() if len(own) > 1}


def _revision(record: Record, kind: str) -> str:
    """Return 8 digits of the SHA-256 of a part of the identity; empty for a cell that never had it."""
    part = record.identity.get(kind)
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:8] if part else ""


def _relations(records: Iterable[Record], relations: Iterable[RelationRecord]) -> list[RelationRecord]:
    """Return how the stages of every model of the ``records`` relate, on the same images with the same weights.

    Of several relations the newest success counts, else the newest failure.
    """
    by_age = sorted(relations, key=_rank)
    newest: dict[str, RelationRecord] = {}
    for record in {r.cell.model: r for r in records if r.ok}.values():
        for relation in by_age:
            if relation.cell.model == record.original_model and _related(relation) == _related(record):
                newest[record.cell.model] = replace(relation, cell=replace(relation.cell, model=record.cell.model))
    return list(newest.values())


def _related(record: Record | RelationRecord) -> tuple[str | None, str | None, str | None]:
    """Return what a cell and the relation of its model's stages have in common: weights, fit and scored images."""
    data = record.identity.get("data", {})
    return record.identity.get("weights"), data.get("fit"), data.get("score")


def _rank(record: Record | RelationRecord) -> tuple[bool, str]:
    return record.ok, record.provenance.written


def _origin(records: Iterable[Record]) -> str:
    codes = {r.provenance.git["sha"] or r.provenance.source_sha256 for r in records}
    devices = {r.provenance.device for r in records}
    return f"code {', '.join(sorted(code[:10] for code in codes))}, device {'; '.join(sorted(devices))}"
