"""One JSON record a cell, written atomically. A failure never replaces a success."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invsuite.errors import DataError
from invsuite.files import write_atomically

SCHEMA = 1
SEAL = "record_sha256"  # first key of a record: what tells that a number was not edited later
Record = dict[str, Any]


@dataclass(frozen=True)
class Store:
    """Records of one suite in ``folder``."""

    folder: Path

    def path(self, cell_id: str) -> Path:
        """File of a cell's record."""
        return self.folder / f"{cell_id}.json"

    def strip_path(self, cell_id: str) -> Path:
        """File of a cell's first few reconstructions."""
        return self.folder / f"{cell_id}.png"

    def extremes_path(self, cell_id: str) -> Path:
        """File of a cell's best and worst reconstructions, below their images."""
        return self.folder / f"{cell_id}-extremes.webp"

    def fit_path(self, fit_id: str) -> Path:
        """Folder for the state of a fit that is under way."""
        return self.folder / "fits" / fit_id

    def read(self, cell_id: str) -> Record | None:
        """The record of a cell, or None; a damaged file counts as none, and so does one that was edited, so that the
        next run computes it again."""
        found = self._parse(cell_id)
        return found[0] if found and found[1] else None

    def _parse(self, cell_id: str) -> tuple[Record, bool] | None:
        """A record and whether it is as it was written; None for a file that is no record of this schema."""
        try:
            text = self.path(cell_id).read_text(encoding="utf-8")
            record: Record = json.loads(text)
        except (OSError, json.JSONDecodeError, UnicodeDecodeError):
            return None
        if record.get("schema") != SCHEMA:
            return None
        if SEAL not in record:  # written before records were sealed
            return record, True
        return record, _digest(text.replace(_seal(record[SEAL]), _seal(""), 1)) == record[SEAL]

    def finished(self, cell_id: str) -> bool:
        """True if the cell has a record that running it again would not change: a success, or a stage that its
        method does not apply to (``settled``)."""
        record = self.read(cell_id)
        return record is not None and (record["status"] == "ok" or record.get("settled", False))

    def write(self, record: Record) -> None:
        """Write a record, unless it is not a success and a success is already there."""
        cell_id = record["cell"]["id"]
        if record["status"] != "ok" and self.finished(cell_id):
            return
        text = json.dumps({SEAL: ""} | record | {SEAL: "", "schema": SCHEMA}, indent=1, allow_nan=False)
        write_atomically(self.path(cell_id), text.replace(_seal(""), _seal(_digest(text)), 1).encode())

    def interlayer(self) -> Store:
        """Records of how the stages of a model relate, which belong to no cell."""
        return Store(self.folder / "interlayer")

    def records(self) -> Iterator[Record]:
        """Every readable record, by file name.

        Raises:
            DataError: naming a record that was changed after it was written.
        """
        for path in sorted(self.folder.glob("*.json")):
            found = self._parse(path.stem)
            if found is None:
                continue
            record, intact = found
            if not intact:
                raise DataError(f"record '{path}' was changed after it was written; delete it and run the suite again")
            yield record


def _digest(text: str) -> str:
    """SHA-256 of a record's text with an empty seal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _seal(digest: str) -> str:
    """The line of a record's text that holds its digest; the first of its kind, for the seal is the first key."""
    return f'"{SEAL}": "{digest}"'
