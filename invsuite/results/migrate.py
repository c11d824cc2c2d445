"""Records of older schemas, brought up to the present one as they are read. Their files stay as they were written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from invsuite.errors import UsageError

SCHEMA = 2  # raise when a record's keys change, and say below how the older become the newer


def _name_faults(record: dict[str, Any]) -> dict[str, Any]:
    """Schema 2 says of every cell without numbers what kind of fault it was, and flags are always there."""
    if record["status"] == "ok":
        return record | {"flags": record.get("flags", [])}
    if record["status"] == "skipped":
        return record | {"fault": "not applicable" if record.get("settled") else "unavailable"}
    return record | {"fault": "error"}


#: How a record of each older schema becomes one of the next.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _name_faults}


def migrate(record: dict[str, Any], where: str) -> dict[str, Any] | None:
    """The record in the present schema; None for what is no record of any.

    Raises:
        UsageError: for a record of a schema that is newer than this code, which must not be written over.
    """
    schema = record.get("schema")
    if not isinstance(schema, int) or not (schema in MIGRATIONS or schema >= SCHEMA):
        return None
    if schema > SCHEMA:
        raise UsageError(
            f"record '{where}' has schema {schema}, this invsuite reads up to {SCHEMA}: update it, or use another --out"
        )
    while schema < SCHEMA:
        record = MIGRATIONS[schema](record)
        schema += 1
    return record | {"schema": SCHEMA}
