"""The store under several processes, old and new schemas."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import invented
import pytest
from helpers import SMALL_MODELS, SMALL_NETWORK, invoke, small_suite

from invsuite.errors import DiskError, UsageError
from invsuite.results.record import SCHEMA, Record
from invsuite.results.store import Store

SUITE = small_suite("two", {"mean": "{}", "nearest": "{}", "modular": SMALL_NETWORK, "layerwise": SMALL_NETWORK})


def success() -> Record:
    return invented.record(method="mean")


def failure() -> Record:
    return invented.record(method="mean", status="failed", fault="error")


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "two.toml"
    path.write_text(SUITE)
    return path


def python(code: str, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from invsuite.results.record import CellName, Provenance, Record
from invsuite.results.store import Store
store, status = Store(Path(sys.argv[1])), sys.argv[2]
cell = CellName("a", "two", "vit", "embed", 0, "mean", "mean", "floor", 0)
origin = Provenance({}, "", {}, (), "", "", 1, 0, True, False, "")
for number in range(60):
    store.write(Record(cell, {}, status, origin, notes={"number": number}))
"""


def test_a_failure_of_one_process_never_hides_a_success_of_another(tmp_path: Path) -> None:
    """The look and the write are one: a failure that saw no success cannot land after it."""
    writers = [python(WRITER, tmp_path, status) for status in ("failed", "ok", "failed")]
    for writer in writers:
        _, said = writer.communicate(timeout=60)
        assert writer.returncode == 0, said
    [record] = Store(tmp_path).records()
    assert record.ok
    assert record.notes["number"] == 59


def test_a_failure_waits_for_a_success_that_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a failure's look at the store and its write there is no room for a success."""
    store, other, states = Store(tmp_path), Store(tmp_path), []

    def read(self: Store, cell_id: str) -> None:
        with other._lock("writing", wait=False) as free:
            states.append(free)

    monkeypatch.setattr(Store, "read", read)
    store.write(failure())
    assert states == [False], "the lock is held while the store is looked at"


HOLDER = """
import sys, time
from dataclasses import replace
from pathlib import Path
from invsuite.results.store import Store
with Store(Path(sys.argv[1])).claim("fit", wait=True) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


def test_a_claim_survives_no_crash_of_its_process(tmp_path: Path) -> None:
    holder = python(HOLDER, tmp_path)
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "True"
    store = Store(tmp_path)
    with store.claim("fit", wait=False) as mine:
        assert not mine
    with store.claim("another fit", wait=False) as mine:
        assert mine
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.communicate()
    start = time.perf_counter()
    with store.claim("fit", wait=True) as mine:
        assert mine
    assert time.perf_counter() - start < 5


COUNTED = """
import sys
from invsuite.registry import METHODS
for method in METHODS.values():
    def counted(self, problem, fit=method.fit, name=method.name):
        with open(sys.argv[1], "a") as log:
            log.write(f"{name} {','.join(problem.stages)}\\n")
        return fit(self, problem)
    method.fit = counted
from invsuite.cli import app
app(sys.argv[2:])
"""


def test_two_processes_share_the_fits_and_lose_nothing(suite: Path, tmp_path: Path) -> None:
    words = ("bench", "--suite", suite, "--out", tmp_path / "r", "--device", "cpu", "--json")
    both = [python(COUNTED, tmp_path / "fits.log", *words) for _ in range(2)]
    said = [process.communicate(timeout=600) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    trees = [json.loads(out) for out, _ in said]
    assert sum(tree["computed"] for tree in trees) == 8, "every cell was computed by one of the two"
    assert all(tree["computed"] + tree["reused"] == 8 for tree in trees)
    fits = (tmp_path / "fits.log").read_text().splitlines()
    assert sorted(fits) == sorted(f"{m} embed,block03" for m in ("mean", "nearest", "modular", "layerwise"))
    records = list(Store(tmp_path / "r" / "records" / "two").records())
    assert len(records) == 8
    for tree in trees:
        assert [c["measurements"] for c in tree["cells"]] == [c["measurements"] for c in trees[0]["cells"]]
        assert len(tree["cells"]) == 8


def test_a_folder_that_takes_no_lock_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("a file where a folder should be")
    with pytest.raises(DiskError, match="cannot write"):
        Store(tmp_path).write(success())


@pytest.mark.parametrize("schema", [SCHEMA - 1, SCHEMA + 1])
def test_a_record_of_another_schema_is_computed_again_and_no_report_reads_it(tmp_path: Path, schema: int) -> None:
    store = Store(tmp_path)
    store.write(success())
    path = store.path(success().cell.id)
    path.write_text(path.read_text().replace(f'"schema": {SCHEMA}', f'"schema": {schema}'))
    assert store.read(path.stem) is None
    with pytest.raises(UsageError, match=f"{path.name}' has schema {schema}, this invsuite reads {SCHEMA}: delete it"):
        list(store.records())
    store.write(success())
    assert store.finished(path.stem)


# What to redo


def statuses(store: Store) -> dict[str, tuple[str, int | None]]:
    return {r.cell.id: (r.status, store.stamp(r.cell.id)) for r in store.records()}


def test_what_is_computed_again_and_what_is_left(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    words = ("bench", "--suite", suite, "--out", out, "--device", "cpu", "--methods", "mean,nearest")
    assert "4 cells computed, 0 reused" in invoke(*words).stdout
    store = Store(out / "records" / "two")
    first = statuses(store)
    gone, failed, *kept = first
    store.path(gone).unlink()
    broken = store.read(failed)
    assert broken is not None
    store.path(failed).unlink()
    store.write(replace(broken, status="failed", reason="it broke"))

    missing = invoke(*words, "--only-missing")
    assert "1 cells computed, 3 reused" in missing.stdout
    assert missing.exit_code == 1, "one cell is still a failure"
    after = statuses(store)
    assert after[gone][0] == "ok"
    assert after[failed][0] == "failed"
    store.path(gone).unlink()

    assert "1 to run" in invoke(*words, "--retry-failed", "--dry-run").stdout
    assert "1 cells computed, 3 reused" in invoke(*words, "--retry-failed").stdout
    after = statuses(store)
    assert gone not in after, "what has no record was not asked for"
    assert after[failed][0] == "ok"

    assert "1 cells computed, 3 reused" in invoke(*words).stdout
    assert all(statuses(store)[cell] == first[cell] for cell in kept), "finished cells were not touched"
    assert "4 cells computed, 0 reused" in invoke(*words, "--refresh").stdout
    assert all(statuses(store)[cell][1] != first[cell][1] for cell in kept)
    clash = invoke(*words, "--refresh", "--only-missing")
    assert clash.exit_code == 2
    assert "exclude each other" in clash.stderr


def test_a_model_that_cannot_be_had_later_does_not_hide_its_results(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    words = ("--suite", suite, "--out", out)
    assert invoke("bench", *words, "--device", "cpu", "--methods", "mean").exit_code == 0
    suite.write_text(SUITE.replace(SMALL_MODELS["vit"], "detr:/no/such/checkpoint"))
    assert "2 skipped" in invoke("bench", *words, "--device", "cpu", "--methods", "mean").stdout
    suite.write_text(SUITE)
    assert invoke("report", *words).exit_code == 0
    assert "2 cells: 2 ok." in (out / "two.md").read_text()
