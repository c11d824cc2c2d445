"""One JSON record per cell, written atomically. A failure never replaces a success.

Several processes may share a folder, also on a network disk whose file locks work: a lock orders their writes, and a
claim on each fit keeps two of them from computing the same. The operating system takes locks back from a process that
died, however it did.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic

from filelock import FileLock, Timeout

from invsuite._system.files import file_name, refused, write_atomically
from invsuite._system.seal import is_intact, sealed
from invsuite.errors import DataError, UsageError, unknown_name
from invsuite.results.pictures import (
    EditFacts,
    EditPictures,
    Pixels,
    edit_sheet,
    first_sheet,
    read_edit_sheet,
    read_sheet,
)
from invsuite.results.record import (
    SCHEMA,
    Addition,
    AnyRecord,
    Measurement,
    Provenance,
    Record,
    RelationRecord,
    from_json,
    to_json,
)

if TYPE_CHECKING:
    from invsuite.results.kept import KeptTensors

SEAL = "record_sha256"  # first key of a record: what tells that a number was not edited later


class RecordFolder(Generic[AnyRecord]):
    """Records of one kind in ``folder``, a file each.

    Args:
        folder: where they are.
    """

    kind: type[AnyRecord]

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, record_id: str) -> Path:
        """Return the file of a record."""
        return self.folder / f"{record_id}.json"

    def read(self, record_id: str) -> AnyRecord | None:
        """Return a record; None if it is not there, damaged, edited or of another schema: it is computed again."""
        try:
            return self._load(record_id)
        except (DataError, UsageError):
            return None

    def finished(self, record_id: str) -> bool:
        """Tell whether there is a record that running again would not change."""
        record = self.read(record_id)
        return record is not None and record.finished

    def records(self) -> Iterator[AnyRecord]:
        """Yield every readable record, by file name.

        Raises:
            DataError: naming a record that was changed after it was written.
            UsageError: naming a record of another schema.
        """
        for path in sorted(self.folder.glob("*.json")):
            record = self._load(path.stem)
            if record is not None:
                yield record

    def write(self, record: AnyRecord) -> None:
        """Write a record, unless it is not a success and a success is already there.

        Raises:
            DiskError: if the disk refuses.
        """
        with self._lock("writing", wait=True):
            if record.ok or not self.finished(record.cell.id):
                self._write(record)

    def _write(self, record: AnyRecord) -> None:
        write_atomically(self.path(record.cell.id), sealed(SEAL, to_json(record)).encode())

    def stamp(self, record_id: str) -> int | None:
        """Return a number that changes whenever the record is written; None while there is no record."""
        try:
            return self.path(record_id).stat().st_mtime_ns
        except OSError:
            return None

    def _load(self, record_id: str) -> AnyRecord | None:
        """Return a record; None for a file that holds none.

        Raises:
            DataError: if it was changed after it was written.
            UsageError: if it is of another schema.
        """
        path = f"{self.folder}/{record_id}.json"  # pathlib takes longer than the disk
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
            tree = json.loads(text)
        except (OSError, json.JSONDecodeError, UnicodeDecodeError):
            return None
        if not isinstance(tree, dict) or not isinstance(tree.get("schema"), int):
            return None
        if tree["schema"] != SCHEMA:
            raise UsageError(
                f"record '{path}' has schema {tree['schema']}, this invsuite reads {SCHEMA}: "
                "delete it, or use another --out, and run the suite again"
            )
        if not is_intact(SEAL, text, str(tree.get(SEAL))):
            raise DataError(f"record '{path}' was changed after it was written; delete it and run the suite again")
        return from_json(self.kind, tree)

    @contextmanager
    def _lock(self, name: str, wait: bool) -> Iterator[bool]:
        """Hold the lock ``name``; gives False if another process has it and ``wait`` is not asked."""
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


class RelationFolder(RecordFolder[RelationRecord]):
    """Records of how the stages of models relate."""

    kind = RelationRecord


class Store(RecordFolder[Record]):
    """Records of one suite's cells, and what is kept beside them."""

    kind = Record

    def find(self, part: str) -> Record:
        """Return the one record whose id is ``part``, or else begins with it and a seed, or else contains it.

        Raises:
            UsageError: if none or several match.
        """
        records = {record.cell.id: record for record in self.records()}
        for matches in (part.__eq__, lambda cell: cell.startswith(f"{part}-s"), lambda cell: part in cell):
            matching = [record for cell, record in records.items() if matches(cell)]
            if len(matching) == 1:
                return matching[0]
            if matching:
                several = ", ".join(record.cell.id for record in matching[:5])
                raise UsageError(f"'{part}' matches {len(matching)} cells: {several}")
        raise unknown_name("cell", part, records)

    def write(self, record: Record, order: Sequence[str] = ()) -> None:
        """Write a cell's record, unless it is not a success and a success is already there.

        Measurements that the record on disk has beside its own stay: both are of the same fit and reconstructions.

        Args:
            record: the record.
            order: names of measures in the order of tables.

        Raises:
            DiskError: if the disk refuses.
        """
        with self._lock("writing", wait=True):
            known = self.read(record.cell.id)
            if known is not None and known.ok and record.ok:
                united = known.with_measurements(record.measurements.values(), order)
                record = replace(record, measurements=united.measurements, earlier=united.earlier)
            if record.ok or known is None or not known.finished:
                self._write(record)

    def add(
        self, cell_id: str, measurements: Sequence[Measurement], provenance: Provenance, order: Sequence[str]
    ) -> Record | None:
        """Unite the record of a cell with measurements of its kept reconstructions, and return it; None if it is gone.

        Args:
            cell_id: of a cell with numbers.
            measurements: what was computed later.
            provenance: of these.
            order: names of measures in the order of tables.

        Raises:
            DiskError: if the disk refuses.
        """
        with self._lock("writing", wait=True):
            known = self.read(cell_id)
            if known is None or not known.ok:
                return None
            record = known.with_measurements(measurements, order)
            fresh = [m.name for m in measurements if known.find(m.name, m.identity) is None]
            if fresh:
                record = replace(record, additions=[*record.additions, Addition(fresh, provenance)])
            self._write(record)
            return record

    def kept(self, limit: int | None = None, note: Callable[[str], None] = lambda text: None) -> KeptTensors:
        """Return what is kept beside the records for measures that are added later (`invsuite.results.kept`).

        Torch is imported here, and not by those who read records alone.
        """
        from invsuite.results.kept import LIMIT, KeptTensors

        return KeptTensors(self.folder / "kept", LIMIT if limit is None else limit, note)

    def write_listing(self, images: Sequence[tuple[str, str]]) -> str:
        """Write the names and content digests of images once, and return the file's name below this folder.

        The name is a digest of what it holds, so that records of many cells share it and nobody edits it unseen.

        Raises:
            DiskError: if the disk refuses.
        """
        data = json.dumps(images, indent=0).encode()
        name = f"images/{hashlib.sha256(data).hexdigest()}.json"
        if not (self.folder / name).exists():
            write_atomically(self.folder / name, data)
        return name

    def read_listing(self, name: str) -> dict[str, str]:
        """Return the content digests of images by their names, which `write_listing` wrote to ``name``; {} without."""
        try:
            return dict(json.loads((self.folder / name).read_bytes()))
        except (OSError, ValueError):
            return {}

    def originals_path(self, model: str) -> Path:
        """Return the file of a model's first few scored images."""
        return self.folder / f"{file_name(model)}-originals.webp"

    def first_path(self, cell_id: str) -> Path:
        """Return the file of a cell's first few reconstructions."""
        return self.folder / f"{cell_id}.webp"

    def best_and_worst_path(self, cell_id: str) -> Path:
        """Return the file of a cell's best and worst reconstructions, below their images."""
        return self.folder / f"{cell_id}-best-and-worst.webp"

    def write_edit(
        self, cell_id: str, edit: tuple[str, str], positions: Sequence[int], edited: Pixels, reconstructions: Pixels
    ) -> None:
        """Write the pictures of edited images and of a cell's reconstructions of them.

        The edited images are written once for all cells: their file is called by a digest of what it shows.

        Args:
            cell_id: of the cell.
            edit: its name, parameters included, and its target, ``object`` or ``image``.
            positions: of the images among the scored ones.
            edited: the edited images (n, H, W, 3).
            reconstructions: of these, of the same shape.

        Raises:
            DiskError: if the disk refuses.
        """
        sheet = first_sheet(edited)
        facts = EditFacts(*edit, list(positions), f"images/{hashlib.sha256(sheet).hexdigest()}.webp")
        if not (self.folder / facts.edited).exists():
            write_atomically(self.folder / facts.edited, sheet)
        digest = hashlib.sha256(repr(edit).encode()).hexdigest()[:12]
        write_atomically(self.folder / f"{cell_id}-edit-{digest}.webp", edit_sheet(reconstructions, facts))

    def edits(self, cell_id: str) -> list[EditPictures]:
        """Return the edits of which a cell has pictures, in the order of their names."""
        sheets = map(read_edit_sheet, self.folder.glob(f"{cell_id}-edit-*.webp"))
        edits = [EditPictures(facts, self._edited(facts), lines) for facts, lines in filter(None, sheets)]
        return sorted(edits, key=lambda edit: edit.facts.words)

    def _edited(self, facts: EditFacts) -> list[Pixels]:
        return next(iter(read_sheet(self.folder / "images" / Path(facts.edited).name)), [])

    def fit_path(self, fit_id: str) -> Path:
        """Return the folder for the state of a fit that is under way."""
        return self.folder / "fits" / fit_id

    def claim(self, fit_id: str, wait: bool) -> AbstractContextManager[bool]:
        """Keep other processes from a fit; gives False if one of them has it and ``wait`` is not asked.

        Raises:
            DiskError: if the disk refuses.
        """
        return self._lock(fit_id, wait)

    def interlayer(self) -> RelationFolder:
        """Return the records of how the stages of a model relate, which belong to no cell."""
        return RelationFolder(self.folder / "interlayer")
