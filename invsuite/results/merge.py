"""Records that may not belong together: ranked where that is fair, and kept apart, in words, where it is not.

Several runs of one suite may be merged, and one folder may hold records of a suite that was changed in between.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from invsuite.results.record import AnyRecord, MergedRun, Record, RelationRecord

#: What must be the same of two records of a model for their quality to be compared, and its name in the tables.
KINDS = {
    "data": "the data",
    "weights": "the weights",
    "image_size": "the image size",
    "budget": "the suite's budget",
    "engine": "how training runs",
    "plugins": "the plug-ins",
}
SPENT = ("budget", "engine", "plugins")  # what a record without is compared with all the same


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
    several devices stay in the records; the tables mark them (`invsuite.report.devices`).

    Args:
        runs: records of cells.
        relations: records of how stages relate.
    """
    notes = [f"Run {name}: {len(records)} cells, {_origin(records)}." for name, records in runs.items()]
    every, apart = tell_apart(_in_runs(runs))
    notes += apart
    newest: dict[str, Record] = {}
    for record in every:
        key = record.cell.key
        if key not in newest or _rank(newest[key]) <= _rank(record):
            newest[key] = record
    if len(every) > len(newest):
        notes.append(f"{len(every) - len(newest)} cells are in several runs; of each the newest success counts.")
    models = {model: place for place, model in enumerate(dict.fromkeys(r.cell.model for r in newest.values()))}
    records = sorted(newest.values(), key=lambda r: (models[r.cell.model], r.cell.seed, r.cell.position))
    return Merged(records, relations_of(records, _in_runs(relations)), notes)


def without_ghosts(records: Sequence[Record]) -> list[Record]:
    """Return the records without those that a model left while it could not be had, once it could be."""
    there: dict[str, str] = {}  # when a model was last there
    for record in records:
        if "refused" not in record.identity:
            there[record.cell.model] = max(there.get(record.cell.model, ""), record.provenance.written)
    return [
        record
        for record in records
        if "refused" not in record.identity or record.provenance.written > there.get(record.cell.model, "")
    ]


def tell_apart(records: Sequence[Record], first: Collection[str] | None = None) -> tuple[list[Record], list[str]]:
    """Return the records with a model for each of its revisions (`KINDS`), and what to say of that, a line each.

    Rows are ranked within a model, so that what was scored on other images, by other weights or at another budget of
    the suite does not meet. Seeds of a row whose method has other parameters than the newest of them are left out.

    Args:
        records: of one suite.
        first: ids of the records whose revision keeps the model's name, those of the run that was made just now; where
            they tell nothing, the newest does. None has every revision named.
    """
    notes = []
    several = _several_revisions(records)
    for (model, kind), revisions in several.items():
        notes.append(
            f"Model {model} was run on {len(revisions)} revisions of {KINDS[kind]} ({', '.join(revisions)}): quality "
            "is not ranked across them, each has a table of its own."
        )
    newest: dict[tuple[str, str], str] = {}  # the revision that is plain where any is
    for record in sorted(records, key=lambda record: (record.cell.id in (first or ()), *_rank(record))):
        newest |= {(record.cell.model, kind): own for kind in KINDS if (own := _revision(record, kind))}
    named = []
    for record in records:
        model = record.cell.model
        words = []
        for kind in KINDS:
            if (model, kind) in several:
                plain = newest[model, kind]
                # one without a revision spent nothing, or never came so far
                absent = "unknown" if first is None and kind not in SPENT else plain
                own = _revision(record, kind) or absent
                if first is None or own != plain:
                    words.append(f"{kind.replace('_', ' ')} {own}")
        if words:
            run = record.run or MergedRun("", model)
            record = replace(record, cell=replace(record.cell, model=f"{model} ({', '.join(words)})"), run=run)
        named.append(record)
    return _of_one_method(named, notes), notes


def _of_one_method(records: Sequence[Record], notes: list[str]) -> list[Record]:
    """Return the records without those of a row whose method is another than the newest's; ``notes`` says which."""
    newest: dict[str, Record] = {}
    for record in sorted(records, key=_rank):
        if "refused" not in record.identity:
            newest[record.cell.row] = record
    kept = []
    lowest: dict[tuple[str, str], int] = {}  # seed of what no seed changes: run with two, it is one result
    results = [(record.cell.row, json.dumps(record.identity, sort_keys=True)) for record in records]
    for record, same in zip(records, results, strict=True):
        lowest[same] = min(lowest.get(same, record.cell.seed), record.cell.seed)
    for record, same in zip(records, results, strict=True):
        if record.cell.seed > lowest[same]:
            continue
        last = newest.get(record.cell.row, record)
        if record.cell.seed != last.cell.seed and "refused" not in record.identity:
            keys = (record.identity.keys() | last.identity.keys()) - {*KINDS, "seed"}
            differing = [key for key in sorted(keys) if _text(record, key) != _text(last, key)]
            if differing:
                notes.append(
                    f"{record.cell.key} is left out: its {' and '.join(differing)} differ from those of the "
                    f"newer {last.cell.key}; run it again to have both seeds."
                )
                continue
        kept.append(record)
    return kept


def _text(record: Record, key: str) -> str:
    return json.dumps(record.identity.get(key), sort_keys=True)


def in_folder(records: Iterable[Record], folder: str) -> list[Record]:
    """Return the records with the name of their folder in front of their model's, "" for none."""
    if not folder:
        return list(records)
    return [
        replace(r, cell=replace(r.cell, model=f"{folder}:{r.cell.model}"), run=MergedRun(folder, r.original_model))
        for r in records
    ]


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
    """Return 8 digits of the SHA-256 of a part of the identity; empty for a cell that never had it.

    The budget that a suite gives one row alone is part of that row, and the suite's is what others share.
    """
    part = record.identity.get(kind)
    if kind == "budget" and record.cell.own_budget is not False:
        return ""
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:8] if part else ""


def relations_of(records: Iterable[Record], relations: Iterable[RelationRecord]) -> list[RelationRecord]:
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
