"""What is known of photos, and their pixels, outlive a process, are checked, bounded, and never needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import invoke, small_suite
from PIL import Image

from invsuite._system import spill
from invsuite._system.cache import cache_folder
from invsuite.benchmark.cells import LoadedModel, Selection, make_plan
from invsuite.benchmark.estimate import plan_cost
from invsuite.benchmark.suite import load_suite
from invsuite.data import decoding, photo_files
from invsuite.data.folder import PhotoFolder
from invsuite.data.geometry import Geometry
from invsuite.data.photo_files import PhotoFile, telling, verify
from invsuite.data.split import Split
from invsuite.errors import UsageError
from invsuite.methods.training.draws import draws
from invsuite.methods.training.features import FeatureCache, FeatureStream
from invsuite.models.base import Model

SIZE = (24, 24)
COUNT = 7
Photos = Callable[[], PhotoFolder]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Photos:
    """A function that opens seven photos as a new process would; the user's cache is empty at first."""
    monkeypatch.setenv("INVSUITE_CACHE", str(tmp_path / "cache"))
    for number in range(COUNT):
        save(tmp_path / "photos" / f"{number}.png", number)

    def opened() -> PhotoFolder:
        monkeypatch.setattr(photo_files, "_looked_at", {})
        return PhotoFolder(tmp_path / "photos", Geometry(SIZE))

    return opened


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 40, 3), np.uint8)).save(path)


def decoded_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the name of every photo is added when its facts are found by decoding it."""
    names: list[str] = []
    decode = photo_files._decode

    def spy(state: photo_files.State) -> PhotoFile | str:
        names.append(Path(state[0]).name)
        return decode(state)

    monkeypatch.setattr(photo_files, "_decode", spy)
    return names


def pixels(folder: PhotoFolder) -> torch.Tensor:
    return Split(folder, tuple(range(len(folder)))).images(slice(None))


def kept_files() -> list[Path]:
    return sorted((cache_folder() / "decoded").glob("*.pixels"))


def test_a_second_start_decodes_no_photo(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    names = decoded_by(monkeypatch)
    first = photos()
    assert len(names) == COUNT
    second = photos()
    assert len(names) == COUNT
    assert second.files == first.files
    assert second.digest() == first.digest()


def test_a_photo_that_changed_is_looked_at_again(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    first, names = photos(), decoded_by(monkeypatch)
    save(first.files[3].path, 99)
    assert photos().files[3].sha256 != first.files[3].sha256
    assert names == ["3.png"]


def test_bytes_that_changed_behind_size_and_time_are_noticed(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    first, lines = photos(), list[str]()
    path, facts = first.files[2].path, first.files[2].path.stat()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1  # of its checksum, which Pillow does not mind
    path.write_bytes(content)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    names = decoded_by(monkeypatch)
    with telling(lines.append):
        second = photos()
    assert second.files[2].sha256 != first.files[2].sha256 or second.unreadable
    assert len(names) == COUNT, "nothing that was remembered is believed"
    assert "has changed, though not its size and time" in lines[0]


def test_an_unreadable_photo_is_tried_at_every_start(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    path = photos().files[0].path
    path.write_bytes(b"no photo")
    names = decoded_by(monkeypatch)
    for _ in range(2):
        assert list(photos().unreadable) == [str(path)]
    assert names == ["0.png", "0.png"]


def test_names_of_any_bytes_are_remembered(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    path = photos().files[0].path
    path.rename(os.fsdecode(os.fsencode(path.parent) + b"/caf\xe9.png"))
    photos()
    names = decoded_by(monkeypatch)
    photos()
    assert names == []


def test_two_writers_lose_nothing(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [file.path for file in photos().files]
    invoke("prune", "--cache")
    with ThreadPoolExecutor(2) as pool:
        for half in pool.map(lambda part: photo_files._remember(part), [facts(paths[:5]), facts(paths[3:])]):
            assert half is None
    monkeypatch.setattr(photo_files, "_looked_at", {})
    names = decoded_by(monkeypatch)
    verify(paths)
    assert names == []


def facts(paths: list[Path]) -> dict[photo_files.State, PhotoFile]:
    states = [photo_files._state(path, "sRGB") for path in paths]
    known = {state: photo_files._decode(state) for state in states if not isinstance(state, str)}
    return {state: file for state, file in known.items() if isinstance(file, PhotoFile)}


@pytest.mark.parametrize("room", ["memory", "a file"])
def test_pixels_are_decoded_once_and_the_same_ever_after(
    photos: Photos, monkeypatch: pytest.MonkeyPatch, room: str
) -> None:
    if room == "a file":
        monkeypatch.setattr(decoding, "memory_budget", lambda: 0)
    expected = torch.stack([photos()[index].image for index in range(COUNT)])
    assert torch.equal(pixels(photos()), expected)
    [path] = kept_files()
    monkeypatch.setattr(decoding, "_write", None)  # a second start does not decode into a file
    folder, lines = photos(), list[str]()
    with telling(lines.append):
        assert torch.equal(pixels(folder), expected)
    assert lines == ["7 decoded images of 'photos' come from the cache"]
    some = Split(folder, (5, 1))
    monkeypatch.setenv("INVSUITE_CACHE_GIB", "0")
    assert torch.equal(some.images(slice(None)), expected[[5, 1]]), "other rows are another file"
    assert kept_files() == [path]


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: bytes(255 - value for value in data)])
def test_a_damaged_file_of_pixels_is_written_again(photos: Photos, damage: Callable[[bytes], bytes]) -> None:
    expected = pixels(photos())
    [path] = kept_files()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert torch.equal(pixels(photos()), expected)
    assert path.read_bytes() == whole


def test_the_cache_is_bounded_and_what_was_used_last_stays(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = photos()
    size = 3 * SIZE[0] * SIZE[1]
    monkeypatch.setenv("INVSUITE_CACHE_GIB", str(2.5 * size / 2**30))
    for row in (0, 1):
        Split(folder, (row,)).images([0])
        [path] = [path for path in kept_files() if path.stat().st_mtime > 1e9]
        os.utime(path, (row, row))  # of long ago, and in this order
    oldest, newer = sorted(kept_files(), key=lambda path: path.stat().st_mtime)
    Split(folder, (2,)).images([0])
    assert not oldest.exists()
    assert newer.exists()
    assert pixels(folder).shape == (COUNT, 3, *SIZE), "what is larger than the limit is not kept"
    assert len(kept_files()) == 2
    assert "MiB freed" in invoke("prune", "--cache").stdout
    assert kept_files() == []


@pytest.mark.parametrize("words", ["a lot", "nan", "-1"])
def test_a_limit_that_is_no_number_is_named(photos: Photos, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setenv("INVSUITE_CACHE_GIB", words)
    with pytest.raises(UsageError, match=f"INVSUITE_CACHE_GIB is '{words}'"):
        photos()


def test_without_a_cache_all_is_the_same(photos: Photos, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = pixels(photos())
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("INVSUITE_CACHE", str(tmp_path / "file"))
    assert torch.equal(pixels(photos()), expected)


def test_a_dry_run_counts_decoding_once_and_says_what_does_not_fit(
    photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = small_suite("dry", {"mean": "{}"}, stages=("embed",), counts=(16, 2, 2), source="bundled:vit")
    text = text.replace('kind = "scenes", seed = 62, count = 2', f'kind = "folder", path = "{photos().root}"')
    (tmp_path / "dry.toml").write_text(text.replace('scenes", seed = 63, count = 2', 'scenes", seed = 63, count = 3'))
    plan = make_plan(load_suite(str(tmp_path / "dry.toml")), Selection(), lambda _: None)
    ids = {cell.id for cell in plan.cells}
    cost = plan_cost(plan, ids, torch.device("cpu"), tmp_path / "not yet" / "there")
    kept, pixels = 3 * 4 * 3 * 96 * 96, COUNT * 3 * 96 * 96
    assert cost.decoding > 0
    assert cost.hours > cost.decoding
    assert cost.disk == kept + pixels
    assert cost.shortages == ()
    [entry] = plan.models
    assert isinstance(entry, LoadedModel)
    entry.splits.select.prepare()
    again = plan_cost(plan, ids, torch.device("cpu"), tmp_path)
    assert (again.decoding, again.disk) == (0.0, kept)
    monkeypatch.setattr("invsuite.benchmark.estimate.available_memory", lambda device: 2**20)
    monkeypatch.setattr("invsuite.benchmark.estimate.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    short = plan_cost(plan, ids, torch.device("cpu"), tmp_path).shortages
    assert [line.split(" ")[0] for line in short] == ["a", "reconstructions"]
    assert "are free on this cpu" in short[0]
    shown = invoke("bench", "--suite", tmp_path / "dry.toml", "--dry-run", "--out", tmp_path / "r").stdout
    assert "it does not fit: reconstructions to keep take" in shown


def test_images_that_are_loaded_ahead_are_the_same(photos: Photos, monkeypatch: pytest.MonkeyPatch, vit: Model) -> None:
    folder = PhotoFolder(photos().root, Geometry(vit.image_size))
    split = Split(folder, tuple(range(len(folder))))

    def batches() -> list[torch.Tensor]:
        stream = FeatureStream(vit, Split(folder, split.rows), ["embed"], 4, FeatureCache("off"), 24)
        some = stream.batches(draws(split, 4, seed=1, flip=True))
        return [next(some)[0] for _ in range(6)]

    expected = batches()
    monkeypatch.setattr(decoding, "memory_budget", lambda: 0)
    assert isinstance(Split(folder, split.rows)._pixels, spill.SpilledTensor)
    for images, same in zip(batches(), expected, strict=True):
        assert torch.equal(images, same)
