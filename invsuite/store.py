"""One JSON record a cell, written atomically. A failure never replaces a success."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invsuite.files import write_atomically

SCHEMA = 1
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

    def fit_path(self, fit_id: str) -> Path:
        """Folder for the state of a fit that is under way."""
        return self.folder / "fits" / fit_id

    def read(self, cell_id: str) -> Record | None:
        """The record of a cell, or None; a damaged file counts as none."""
        try:
            record: Record = json.loads(self.path(cell_id).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError, UnicodeDecodeError):
            return None
        return record if record.get("schema") == SCHEMA else None

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
        text = json.dumps(record | {"schema": SCHEMA}, indent=1, allow_nan=False)
        write_atomically(self.path(cell_id), text.encode())

    def interlayer(self) -> Store:
        """Records of how the stages of a model relate, which belong to no cell."""
        return Store(self.folder / "interlayer")

    def records(self) -> Iterator[Record]:
        """Every readable record, by file name."""
        for path in sorted(self.folder.glob("*.json")):
            record = self.read(path.stem)
            if record is not None:
                yield record
