"""Records of how the stages of each model relate: one per model, beside the cells, whatever the methods are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import torch

from invsuite._system.files import file_name
from invsuite._system.provenance import set_determinism
from invsuite.benchmark.cells import LoadedModel, Plan
from invsuite.benchmark.runner import origin, problem_record
from invsuite.metrics.interlayer import RELATE_VERSION, relate
from invsuite.models.stage_words import ordinary
from invsuite.results.record import RelationName, RelationRecord
from invsuite.results.store import Store

SEED = 0


def identity(entry: LoadedModel) -> dict[str, Any]:
    """Return what changes the record of a model: its weights, the stages and the images."""
    return {
        "version": RELATE_VERSION,
        "weights": entry.model.origin.sha256,
        "image_size": entry.model.image_size,
        "stages": entry.model.order(ordinary(entry.spec.stages)),
        "data": {part: getattr(entry.splits, part).digest() for part in ("fit", "score")},
    } | {part: known for part, known in entry.cells[0].identity.items() if part == "plugins"}


def relation_id(entry: LoadedModel) -> str:
    """Return the name of the record: the model's, and 12 digits of the identity's SHA-256."""
    digest = hashlib.sha256(json.dumps(identity(entry), sort_keys=True).encode()).hexdigest()
    return f"{file_name(entry.spec.name)}-{digest[:12]}"


def relate_models(plan: Plan, store: Store, device: torch.device, note: Callable[[str], None]) -> list[RelationRecord]:
    """Relate the stages of every model of the plan that has no such record yet, and return the records of all of them.

    A model that cannot be had has none: its cells say why. These records have a folder of their own in the store.
    """
    folder, records = store.interlayer(), []
    for entry in plan.models:
        if not isinstance(entry, LoadedModel):
            continue
        name = relation_id(entry)
        if not folder.finished(name):
            note(f"relating the stages of '{entry.spec.name}'")
            folder.write(_relate(plan, entry, name, device))
        record = folder.read(name)
        assert record is not None
        records.append(record)
    return records


def _relate(plan: Plan, entry: LoadedModel, name: str, device: torch.device) -> RelationRecord:
    set_determinism(SEED)
    model = entry.model.to(device)
    try:
        relations = relate(model, ordinary(entry.spec.stages), entry.splits.fit, entry.splits.score)
        body: dict[str, Any] = {"status": "ok", "body": relations}
    except Exception as error:
        body = problem_record(error)
    model.to("cpu")
    cell = RelationName(name, plan.suite.name, entry.spec.name)
    return RelationRecord(cell, identity(entry), provenance=origin(device, SEED, plan.suite.text, ""), **body)
