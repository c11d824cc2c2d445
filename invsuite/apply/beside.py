"""The inverses of a suite, kept as folders beside its records: one per fit, from what the run kept of it.

The tensors are hard links to the files that serve measures added later (`invsuite.results.kept`), so that they take no
room of their own; where a disk has no links they are copied, within the same limit.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

from invsuite._system.files import file_name, write_atomically
from invsuite.apply.card import CARD, Card, ModelFacts, read_card
from invsuite.apply.inverse import FILES, TENSORS, card_of, is_keepable, listing_of, model_facts, write_inverse
from invsuite.benchmark.cells import Cell, LoadedModel, Plan
from invsuite.benchmark.runner import Reporter
from invsuite.errors import InvsuiteError, one_line
from invsuite.methods.problem import Context, Problem
from invsuite.results.kept import InverterFile, KeptTensors
from invsuite.results.record import Record
from invsuite.results.store import Store


def inverses_folder(out: Path, suite: str) -> Path:
    """Return where the inverses of a suite are kept, below the folder of its runs."""
    return out / "inverses" / suite


def keep_inverses(
    plan: Plan, records: Sequence[Record], store: Store, out: Path, limit: int, report: Reporter
) -> list[Path]:
    """Keep an inverse of every fit of a plan that the store has, and return their folders.

    One that is there already is left alone, unless more was measured since.

    Args:
        plan: that was run.
        records: of its cells.
        store: where they are, with what was kept beside them.
        out: the folder of the run.
        limit: bytes that may be kept in all; 0 keeps none.
        report: is told in a line what has no inverse though it could have one.
    """
    if not limit:
        return []
    by_cell = {record.cell.id: record for record in records}
    folder, kept = inverses_folder(out, plan.suite.name), store.kept(limit)
    folders: list[Path] = []
    lacking: list[str] = []
    with store.claim("inverses", wait=True):  # other processes may run the same plan
        for entry in plan.models:
            if isinstance(entry, LoadedModel):
                keeper = _Keeper(plan, entry, by_cell, kept, folder)
                for fit_id, cells in _by_fit(entry.cells).items():
                    try:
                        written = keeper.keep(fit_id, cells)
                    except InvsuiteError as error:  # records and tables are whole without it
                        report.note(f"no inverse of '{fit_id}' is kept: {one_line(error)}")
                        continue
                    folders += written
                    if not written and keeper.could(cells):
                        lacking.append(cells[0].method.name)
    if lacking:
        named = ", ".join(dict.fromkeys(lacking))
        report.note(
            f"{len(lacking)} fits ({named}) have no inverse in '{folder}': their tensors had no room within --keep, or "
            "were pruned; fit them again with --refresh"
        )
    return folders


def prune_inverses(out: Path, suite: str) -> int:
    """Delete the inverses of a suite and return the bytes that were freed; other files in their place stay."""
    folder, freed = inverses_folder(out, suite), 0
    for card in sorted(folder.glob(f"*/{CARD}")):
        for path in [card.parent / name for name in FILES]:
            if path.exists():
                freed += path.stat().st_size if path.stat().st_nlink == 1 else 0
                path.unlink()
        if not any(card.parent.iterdir()):
            card.parent.rmdir()
    for empty in (folder, folder.parent):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()
    return freed


class _Keeper:
    """What keeping the inverses of one model needs.

    Args:
        plan: that was run.
        entry: the model.
        records: by their cells' ids.
        kept: the tensors beside them.
        folder: of the inverses.
    """

    def __init__(
        self, plan: Plan, entry: LoadedModel, records: Mapping[str, Record], kept: KeptTensors, folder: Path
    ) -> None:
        self.plan, self.entry, self.records, self.kept, self.folder = plan, entry, records, kept, folder

    @cached_property
    def _model(self) -> ModelFacts:
        return model_facts(self.entry.model)

    def could(self, cells: Sequence[Cell]) -> bool:
        """Tell whether a fit has reconstructed something by a method whose inverses are kept."""
        return is_keepable(cells[0].method.method) and any(record.ok for record in self._records(cells))

    def keep(self, fit_id: str, cells: Sequence[Cell]) -> list[Path]:
        """Write what is kept of a fit, and return the folders that hold it.

        That is one for all its stages, and where later runs added stages one more for each of those.
        """
        if not is_keepable(cells[0].method.method):
            return []
        covered: set[str] = set()
        folders = []
        for file in self.kept.inverter_files(fit_id):
            if set(file.stages) <= covered:
                continue
            own = f"{self.entry.spec.name}-{cells[0].method.name}-s{cells[0].seed}"
            name = f"{own}-{'+'.join(file.stages)}" if covered else own
            covered |= set(file.stages)
            folders.append(self._write(self.folder / file_name(name), file, f"{fit_id}/{file.path.stem}", cells))
        return folders

    def _records(self, cells: Sequence[Cell]) -> list[Record]:
        return [self.records[cell.id] for cell in cells if cell.id in self.records]

    def _write(self, folder: Path, file: InverterFile, fit: str, cells: Sequence[Cell]) -> Path:
        """Write an inverse unless it is there with all that is known of it; returns its folder."""
        records = self._records(cells)
        card = self._known(folder, file, fit)
        fresh = card is None
        if card is None:
            problem = self._problem(file, cells[0])
            notes = {stage: file.notes.get(stage, {}) for stage in file.stages}
            card = card_of(cells[0].method.method, problem, self._model, cells[0].method.name)
            card = replace(card, notes=notes, cost=file.cost, fit=fit)
        refused = {r.cell.stage: r.reason for r in records if r.settled and r.cell.stage not in file.stages}
        updated = replace(card.with_quality(records), refused=dict(card.refused) | refused)
        if fresh:
            data = file.path.read_bytes()
            return write_inverse(folder, updated, data, listing_of(problem), partial(self._link, file.path))
        if updated != card:
            updated.write(folder)
        return folder

    def _known(self, folder: Path, file: InverterFile, fit: str) -> Card | None:
        """Return the card of an inverse that is there already and whole; None for another fit's, or none."""
        try:
            card = read_card(folder)
            whole = (folder / TENSORS).stat().st_size == file.path.stat().st_size
        except (InvsuiteError, OSError):
            return None
        return card if whole and card.fit == fit else None

    def _problem(self, file: InverterFile, cell: Cell) -> Problem:
        model, splits, suite = self.entry.model, self.entry.splits, self.plan.suite
        return Problem(
            model,
            model.order(file.stages),
            model.order(self.entry.spec.stages),
            splits.fit,
            splits.select,
            cell.method.budget(suite.budget),
            cell.seed,
            Context(engine=suite.engine),
        )

    def _link(self, source: Path, path: Path, data: bytes) -> None:
        """Link the file of an inverse to the one that is kept; copy it where that cannot be, if there is room.

        Raises:
            InvsuiteError: if there is none.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, path)
        except OSError:
            copies = sum(p.stat().st_size for p in self.folder.rglob(TENSORS) if p.stat().st_nlink == 1)
            if not self.kept.has_room(copies + len(data)):
                shutil.rmtree(path.parent, ignore_errors=True)
                raise InvsuiteError(
                    f"'{self.folder}' reaches the limit of {self.kept.limit / 2**30:.3g} GiB; raise it with --keep, or "
                    "make room with: invsuite prune"
                ) from None
            write_atomically(path, data)


def _by_fit(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    fits: dict[str, list[Cell]] = {}
    for cell in cells:
        fits.setdefault(cell.fit_id, []).append(cell)
    return fits
