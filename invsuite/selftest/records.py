"""Faults of records and baselines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from invsuite.results import baseline
from invsuite.results.store import Store
from invsuite.selftest.base import Fault, after, plant
from invsuite.selftest.bench import little_run


def edit(path: Path) -> None:
    """Do to a record's file what happens between the run and the report: nothing."""


def _better_by_hand(path: Path) -> None:
    text = path.read_text()
    mean = text.partition('"mean": ')[2].partition(",")[0]
    path.write_text(text.replace(f'"mean": {mean}', f'"mean": {float(mean) + 1}', 1))


def _read_again() -> None:
    with TemporaryDirectory() as folder:
        record = little_run("mean", Path(folder))
        store = Store(Path(folder) / "records")
        edit(store.path(record.cell.id))
        list(store.records())


def _check_against_baseline() -> str | None:
    with TemporaryDirectory() as folder:
        record = little_run("mean", Path(folder))
        path = Path(folder) / "baseline.json"
        baseline.pin([record], path)
        bad = [one for one in baseline.judge([record], baseline.load_baseline(path)) if one.bad]
    return "; ".join(f"{one.verdict}: {one.detail}" for one in bad) or None


def _of_other_data(pinned: baseline.Baseline) -> baseline.Baseline:
    cells = {key: replace(cell, id=cell.id[:-12] + "0" * 12) for key, cell in pinned.cells.items()}
    return replace(pinned, cells=cells)


FAULTS = (
    Fault(
        "a record edited by hand",
        "a record's file",
        "Store.records",
        plant(f"{__name__}:edit", lambda _: _better_by_hand),
        _read_again,
        "was changed after it was written",
    ),
    Fault(
        "a baseline of other data",
        "a baseline's file",
        "invsuite.results.baseline.judge",
        plant("invsuite.results.baseline:load_baseline", after(_of_other_data)),
        _check_against_baseline,
        "not comparable: identity",
    ),
)
