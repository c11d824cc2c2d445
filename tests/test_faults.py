"""Whatever goes wrong with a cell becomes its record; the others go on, the table says what is missing, and the exit
code is 1. What stops the whole run - a full disk, a signal - loses nothing that was finished."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import SMALL_NETWORK, invoke, scene_split, small_suite
from PIL import Image

from invsuite._system.memory import halving
from invsuite._system.signals import interruptible, time_limit, uninterrupted
from invsuite.benchmark import runner
from invsuite.data.base import from_unit_range
from invsuite.errors import OutOfMemoryError, TimeLimitError
from invsuite.methods.floors import Mean
from invsuite.methods.networks import ChainInverter
from invsuite.results.record import Record
from invsuite.results.store import Store

SUITE = small_suite("faults", {"mean": "{}", "modular": SMALL_NETWORK}, stages=("embed",), counts=(24, 4, 6))


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "faults.toml").write_text(SUITE)
    options = ("--device", "cpu", "--keep", "0")  # some tests count the files that are written
    return ("bench", "--suite", str(tmp_path / "faults.toml"), "--out", str(tmp_path / "r"), *options)


def records(folder: Path) -> dict[str, Record]:
    return {r.cell.method: r for r in Store(folder / "r" / "records" / "faults").records()}


def rewrite(folder: Path, old: str, new: str) -> None:
    assert old in SUITE
    (folder / "faults.toml").write_text(SUITE.replace(old, new))


def gpu_is_full(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore about it")


def fails_alone(folder: Path, words: tuple[str, ...], fault: str, reason: str) -> None:
    """Run: the trained cell fails of ``fault``, the floor has its numbers."""
    result = invoke(*words)
    assert result.exit_code == 1, result.output
    found = records(folder)
    assert found["mean"].status == "ok"
    assert (found["modular"].status, found["modular"].fault) == ("failed", fault)
    assert reason in found["modular"].reason
    table = (folder / "r" / "faults.md").read_text()
    assert "2 cells: 1 failed, 1 ok." in table
    assert f"- failed: {found['modular'].reason} (vit/embed/modular)" in table
    assert "1 failed, 1 ok" in result.stdout


def test_too_large_a_batch_is_halved_to_the_same_numbers(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke(*words).exit_code == 0
    whole = records(tmp_path)["modular"].measurements["psnr"].values
    invert, sizes = ChainInverter.invert, []

    def small(self: ChainInverter, representation: Any) -> torch.Tensor:
        sizes.append(len(representation.tensor))
        return invert(self, representation) if sizes[-1] <= 2 else gpu_is_full()

    monkeypatch.setattr(ChainInverter, "invert", small)
    assert invoke(*words, "--refresh").exit_code == 0
    assert max(sizes) == 6
    assert records(tmp_path)["modular"].measurements["psnr"].values == pytest.approx(whole, abs=1e-4)


def test_an_inversion_that_never_fits_is_recorded(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChainInverter, "invert", gpu_is_full)
    fails_alone(tmp_path, words, "out of memory", "needs more memory than there is, even one image at a time")


def test_a_fit_that_does_not_fit_is_recorded_with_what_helps(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("invsuite.methods.training.engine._run", gpu_is_full)
    fails_alone(
        tmp_path, words, "out of memory", "fitting ran out of memory; a smaller batch or width needs less: CUDA"
    )
    assert "more about it" not in records(tmp_path)["modular"].reason


def test_halving_ends_at_one_and_lets_other_errors_through() -> None:
    tried: list[int] = []

    def never(batch: int) -> None:
        tried.append(batch)
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    with pytest.raises(OutOfMemoryError, match="this needs more memory"):
        halving(never, 12, "this")
    assert tried == [12, 6, 3, 1]
    with pytest.raises(ZeroDivisionError):
        halving(lambda batch: 1 // 0, 12, "this")


def test_a_loss_that_becomes_nan_is_recorded(words: tuple[str, ...], tmp_path: Path) -> None:
    rewrite(tmp_path, "depth = 1", 'depth = 1, start = "random", recipe = { learning_rate = 1e30 }')
    fails_alone(tmp_path, words, "no convergence", "lower the learning rate")


def test_a_cell_that_takes_too_long_is_recorded(words: tuple[str, ...], tmp_path: Path) -> None:
    rewrite(tmp_path, "image_passes = 32", "image_passes = 3200000")
    start = time.perf_counter()
    fails_alone(tmp_path, (*words, "--cell-seconds", "3"), "time limit", "took longer than 3 s; raise --cell-seconds")
    assert time.perf_counter() - start < 60


def test_a_time_limit_covers_the_inversion_too(words: tuple[str, ...], tmp_path: Path) -> None:
    endless = "{ iterations = 1000000, until = 'iterations', tv = 1.0 }"
    rewrite(tmp_path, "methods.modular = { width = 8, depth = 1 }", f"methods.optimisation = {endless}")
    assert invoke(*words, "--cell-seconds", "3").exit_code == 1
    found = records(tmp_path)
    assert found["mean"].status == "ok"
    assert found["optimisation"].fault == "time limit"
    assert "inverting and scoring 'vit/embed/optimisation/s0'" in found["optimisation"].reason


def test_a_time_limit_leaves_no_alarm_behind_and_waits_for_writes() -> None:
    with pytest.raises(TimeLimitError, match=r"the work took longer than 0\.05 s"), time_limit(0.05, "the work"):
        time.sleep(5)
    with time_limit(0.05, "nothing"):
        pass
    time.sleep(0.1)
    written: list[bool] = []

    def write() -> None:
        with time_limit(0.01, "a write"):
            with uninterrupted():
                time.sleep(0.1)
                written.append(True)
            time.sleep(5)

    with pytest.raises(TimeLimitError):
        write()
    assert written
    said: list[BaseException] = []

    def elsewhere() -> None:
        try:
            with time_limit(1, "x"):
                pass
        except TimeLimitError as error:
            said.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "main thread" in str(said[0])


def test_photos_that_vanish_under_way_fail_their_model_and_no_other(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, image in enumerate(scene_split(909, 6).images(slice(0, 6))):
        Image.fromarray(from_unit_range(image).permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    rewrite(tmp_path, '{ kind = "scenes", seed = 63, count = 6 }', f'{{ kind = "folder", path = "{folder}" }}')
    check = runner.check_measures

    def vanish(metrics: Any) -> None:
        shutil.rmtree(folder)
        check(metrics)

    monkeypatch.setattr(runner, "check_measures", vanish)
    result = invoke(*words)
    assert result.exit_code == 1, result.output
    assert {r.status for r in records(tmp_path).values()} == {"failed"}
    assert "0.png" in records(tmp_path)["mean"].reason


def test_a_full_disk_is_one_line_and_loses_nothing(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, room = os.fsync, [7]  # strip, two sheets, three lists of images, the first record

    def full(number: int) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(number)

    monkeypatch.setattr("invsuite._system.files.os.fsync", full)
    result = invoke(*words)
    assert result.exit_code == 3, result.output
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "No space left on device; finished cells are kept: free some space and run the same command to go on" in line
    assert list(records(tmp_path)) == ["mean"], "nothing was recorded as failed for want of space"
    assert not list(tmp_path.rglob(".*.tmp"))
    monkeypatch.undo()
    assert "1 cells computed, 1 reused" in invoke(*words).stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_write_finish_and_ends_with_130(
    number: signal.Signals, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, writes = os.fsync, [0]

    def signalled(handle: int) -> None:
        writes[0] += 1
        if writes[0] == 7:  # the strip, the first cell's two sheets, three lists of images, and now its record
            signal.raise_signal(number)
        fsync(handle)

    before = signal.getsignal(number)
    monkeypatch.setattr("invsuite._system.files.os.fsync", signalled)
    result = invoke(*words)
    assert result.exit_code == 130
    assert "interrupted; finished cells are kept, run the same command to go on" in result.stderr
    assert [(name, r.status) for name, r in records(tmp_path).items()] == [("mean", "ok")]
    assert not list(tmp_path.rglob(".*.tmp"))
    assert signal.getsignal(number) == before
    monkeypatch.undo()
    assert "1 cells computed, 1 reused" in invoke(*words).stdout


def test_a_signal_in_the_middle_of_a_fit_is_no_failure(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signalled(self: Mean, problem: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Mean, "fit", signalled)
    assert invoke(*words).exit_code == 130
    assert records(tmp_path) == {}


def test_signals_in_another_thread_are_left_alone() -> None:
    thread = threading.Thread(target=lambda: interruptible().__enter__())
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before
