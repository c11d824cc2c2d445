"""One JSON record a cell, written atomically. A failure never replaces a success.

Several processes may share a folder, also on a network disk whose file locks work: a lock orders their writes, and a
claim on each fit keeps two of them from computing the same. The operating system takes locks back from a process that
died, however it did.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from invsuite._system.files import refused, write_atomically
from invsuite.errors import DataError
from invsuite.results.migrate import SCHEMA, migrate

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
        """A record in the present schema and whether it is as it was written; None for a file that is no record.

        Raises:
            UsageError: for a record of a newer schema.
        """
        try:
            with open(f"{self.folder}/{cell_id}.json", encoding="utf-8") as file:  # pathlib takes longer than the disk
                text = file.read()
            record: Record = json.loads(text)
        except (OSError, json.JSONDecodeError, UnicodeDecodeError):
            return None
        current = migrate(record, str(self.path(cell_id))) if isinstance(record, dict) else None
        if current is None:
            return None
        if SEAL not in record:  # written before records were sealed
            return current, True
        return current, _digest(text.replace(_seal(record[SEAL]), _seal(""), 1)) == record[SEAL]

    def finished(self, cell_id: str) -> bool:
        """True if the cell has a record that running it again would not change: a success, or a stage that its
        method does not apply to (``settled``)."""
        record = self.read(cell_id)
        return record is not None and (record["status"] == "ok" or record.get("settled", False))

    def write(self, record: Record) -> None:
        """Write a record, unless it is not a success and a success is already there.

        Raises:
            DiskError: if the disk refuses.
        """
        cell_id = record["cell"]["id"]
        text = json.dumps({SEAL: ""} | record | {SEAL: "", "schema": SCHEMA}, indent=1, allow_nan=False)
        data = text.replace(_seal(""), _seal(_digest(text)), 1).encode()
        with self._lock("writing", wait=True):
            finished = self.finished(cell_id)  # asked of a success too: it refuses what a newer schema wrote
            if record["status"] == "ok" or not finished:
                write_atomically(self.path(cell_id), data)

    def stamp(self, cell_id: str) -> int | None:
        """Changes whenever the cell's record is written; None while there is none."""
        try:
            return self.path(cell_id).stat().st_mtime_ns
        except OSError:
            return None

    def claim(self, fit_id: str, wait: bool) -> AbstractContextManager[bool]:
        """Enter to keep other processes from the fit; gives False if one of them has it and ``wait`` is not asked.

        Raises:
            DiskError: if the disk refuses.
        """
        return self._lock(fit_id, wait)

    @contextmanager
    def _lock(self, name: str, wait: bool) -> Iterator[bool]:
        path = self.folder / "locks" / f"{name}.lock"
        lock = FileLock(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=wait)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise refused(path, error) from error
        try:
            yield True
        finally:
            lock.release()

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
