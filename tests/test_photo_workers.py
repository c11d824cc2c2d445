"""Photos are worked on by threads or by processes, with the same results in the same order, also if a process dies."""

from __future__ import annotations

import builtins
import io
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from invsuite.data import decoding, photo_files, workers
from invsuite.data.base import from_unit_range
from invsuite.data.folder import PhotoFolder
from invsuite.data.geometry import Geometry
from invsuite.data.workers import in_order
from invsuite.errors import DataError

COUNT = 20
FORK = get_context("fork")


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processors, and any number of photos worth processes."""
    monkeypatch.setattr(workers, "processors", lambda: 3)
    monkeypatch.setattr(workers, "WORTH_PROCESSES", 1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PhotoFolder:
    """Twenty photos, one of which is turned."""
    monkeypatch.setenv("INVSUITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(photo_files, "_looked_at", {})
    (tmp_path / "photos").mkdir()
    for number in range(COUNT):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 2 else 1
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number:02d}.png", exif=exif)
    return PhotoFolder(tmp_path / "photos", Geometry((24, 24)))


def who(number: int) -> tuple[int, int]:
    return number, os.getpid()


def test_processes_are_for_many_photos_and_many_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    def pids(processors: int, photos: int) -> set[int]:
        monkeypatch.setattr(workers, "processors", lambda: processors)
        results = list(in_order(who, range(40), photos))
        assert [number for number, _ in results] == list(range(40))
        return {pid for _, pid in results}

    assert pids(3, workers.WORTH_PROCESSES - 1) == {os.getpid()}
    assert pids(2, workers.WORTH_PROCESSES) == {os.getpid()}
    others = pids(3, workers.WORTH_PROCESSES)
    assert os.getpid() not in others
    assert 1 <= len(others) <= 3
    assert not others & set(psutil.pids()), "they are gone"


@pytest.mark.usefixtures("processes")
def test_processes_decode_what_threads_do(folder: PhotoFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*range(COUNT), 2]
    before = torch.get_rng_state()
    decoded = torch.cat(list(decoding._decoded(folder, rows)))
    assert torch.equal(decoded, torch.stack([from_unit_range(folder[row].image) for row in rows]))
    assert torch.equal(torch.get_rng_state(), before)
    photo_files._looked_at.clear()
    monkeypatch.setenv("INVSUITE_CACHE_GIB", "0")
    (folder.root / "07.png").write_bytes(b"no photo")
    again = PhotoFolder(folder.root, folder.geometry)
    assert again.files == [file for file in folder.files if file.path.name != "07.png"]
    (reason,) = again.unreadable.values()
    assert reason == f"{folder.root / '07.png'}: cannot identify image file"


@pytest.mark.usefixtures("processes")
def test_a_photo_that_breaks_later_is_named_by_processes_as_by_threads(
    folder: PhotoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.files[11].path.write_bytes(folder.files[11].path.read_bytes()[:60])
    lines = set[str]()
    for worth in (1, COUNT + 1):
        monkeypatch.setattr(workers, "WORTH_PROCESSES", worth)
        with pytest.raises(DataError, match=r"11\.png: \w+") as caught:
            list(decoding._decoded(folder, range(COUNT)))
        lines.add(str(caught.value))
    assert len(lines) == 1


@pytest.mark.usefixtures("processes")
def test_threads_go_on_where_a_process_was_killed() -> None:
    here = os.getpid()

    def work(number: int) -> tuple[int, bool]:
        if number == 9 and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return number, os.getpid() == here

    results = list(in_order(work, range(60), 60))
    assert [number for number, _ in results] == list(range(60))
    assert all(by_thread for number, by_thread in results if number >= 9)


def test_results_that_nobody_asks_for_are_not_computed() -> None:
    begun = list[int]()
    results = in_order(begun.append, range(1000), 1000)
    next(results)
    results.close()
    assert len(begun) <= (workers.AHEAD + 1) * workers.processors() + 1


def in_a_daemon(connection: Connection) -> None:
    connection.send({pid for _, pid in in_order(who, range(9), 9)})


@pytest.mark.usefixtures("processes")
def test_a_process_that_may_have_no_children_has_threads() -> None:
    ours, theirs = FORK.Pipe()
    daemon = FORK.Process(target=in_a_daemon, args=(theirs,), daemon=True)
    daemon.start()
    assert ours.recv() == {daemon.pid}
    daemon.join()


def slowly(connection: Connection) -> None:
    def work(number: int) -> None:
        connection.send(os.getpid())
        time.sleep(60)

    list(in_order(work, range(3), 3))


@pytest.mark.usefixtures("processes")
def test_processes_end_with_a_parent_that_is_killed() -> None:
    ours, theirs = FORK.Pipe()
    parent = FORK.Process(target=slowly, args=(theirs,))
    parent.start()
    children = [psutil.Process(ours.recv()) for _ in range(3)]
    parent.kill()
    parent.join()
    end = time.monotonic() + 20
    while any(alive(children)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(alive(children))


def alive(processes: list[psutil.Process]) -> Iterator[bool]:
    for process in processes:
        try:
            yield process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            yield False


def test_a_photo_is_read_once_when_it_is_looked_at(folder: PhotoFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    names, own = list[str](), open

    def spy(path: Path, *words: Any, **named: Any) -> Any:
        names.append(Path(path).name)
        return own(path, *words, **named)

    monkeypatch.setattr(photo_files, "_looked_at", {})
    monkeypatch.setenv("INVSUITE_CACHE_GIB", "0")
    monkeypatch.setattr(builtins, "open", spy)
    monkeypatch.setattr(io, "open", spy)  # paths open by this one
    assert PhotoFolder(folder.root, folder.geometry).files == folder.files
    assert sorted(names) == [f"{number:02d}.png" for number in range(COUNT)]
