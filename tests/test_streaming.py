"""Shards of a WebDataset and streamed datasets: the photos of a folder, where they lie and no more than asked."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from invsuite.data import photo_files
from invsuite.data.folder import PhotoFolder
from invsuite.data.geometry import BICUBIC, Geometry
from invsuite.data.hub import HubPhotos
from invsuite.data.shards import photos_in, shards_of
from invsuite.data.split import Split
from invsuite.data.webdataset import WebDatasetSource
from invsuite.errors import DataError, Unavailable, UsageError

SIZE = (24, 24)


def content(number: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.effect_noise((40, 30), 20 + number).convert("RGB").save(file, kind)
    return file.getvalue()


def write_shard(path: Path, members: dict[str, bytes], mode: Any = "w") -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards of three photos each beside their labels, and the same photos as files."""
    folder = tmp_path / "files"
    folder.mkdir()
    for shard in range(2):
        members: dict[str, bytes] = {}
        for number in range(3 * shard, 3 * shard + 3):
            members |= {f"{number:04d}.cls": b"7", f"{number:04d}.png": content(number)}
            members[f"{number:04d}.seg.png"] = content(99)
            (folder / f"{number:04d}.png").write_bytes(members[f"{number:04d}.png"])
        write_shard(tmp_path / f"train-{shard:02d}.tar", members)
    return tmp_path


def test_shards_have_the_photos_of_the_folder_they_were_made_of(shards: Path) -> None:
    source = WebDatasetSource(str(shards / "train-{00..01}.tar"))
    source.check(SIZE)
    (need,) = source.needs()
    assert need.state == "here"
    inside, outside = source.open(SIZE, BICUBIC), PhotoFolder(shards / "files", Geometry(SIZE, "crop", BICUBIC))
    assert [inside.key(i) for i in (0, 5)] == ["train-00.tar/0000.png", "train-01.tar/0005.png"]
    assert len(inside) == len(outside) == 6
    assert inside.digest() == outside.digest()
    assert [inside.identity(i) for i in range(6)] == [outside.identity(i) for i in range(6)]
    rows = tuple(range(6))
    assert torch.equal(Split(inside, rows).images(slice(None)), Split(outside, rows).images(slice(None)))


def test_no_shard_is_opened_behind_the_photos_of_use(shards: Path) -> None:
    (shards / "train-01.tar").write_bytes(b"no tar file at all" * 100)
    pattern = str(shards / "train-*.tar")
    assert len(WebDatasetSource(pattern, 3).open(SIZE, BICUBIC)) == 3
    whole = WebDatasetSource(pattern).open(SIZE, BICUBIC)
    assert len(whole) == 3
    (reason,) = whole.unreadable.values()
    assert "train-01.tar' cannot be read" in reason


def test_photos_of_shards_are_remembered_until_the_shard_changes(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, decoded = WebDatasetSource(str(shards / "train-00.tar")), list[str]()
    own = photo_files._decode
    monkeypatch.setattr(photo_files, "_decode", lambda state: (decoded.append(state[0]), own(state))[1])
    before = source.open(SIZE, BICUBIC).digest()
    assert len(decoded) == 3
    photo_files._looked_at.clear()  # as another process
    assert source.open(SIZE, BICUBIC).digest() == before
    assert len(decoded) == 3, "nothing is decoded a second time"
    write_shard(shards / "train-00.tar", {"0000.png": content(50), "broken.png": b"no photo"})
    os.utime(shards / "train-00.tar", (1, 1))
    changed = source.open(SIZE, BICUBIC)
    assert (len(changed), len(decoded)) == (1, 5)
    assert changed.digest() != before
    (reason,) = changed.unreadable.values()
    assert "train-00.tar/broken.png" in reason
    assert "BytesIO" not in reason


def test_what_is_no_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="names no shard"):
        WebDatasetSource(str(tmp_path / "none-{0..3}.tar")).open(SIZE, BICUBIC)
    torn = tmp_path / "torn.tar"
    torn.write_bytes(gzip.compress(b"no tar file" * 100)[:-20])
    with pytest.raises(Unavailable, match=r"torn\.tar' cannot be read .*whole tar file"):
        WebDatasetSource(str(torn)).open(SIZE, BICUBIC)
    with pytest.raises(DataError, match="cannot be read"):
        photos_in(torn, frozenset({".png"}))
    write_shard(tmp_path / "texts.tar", {"1.txt": b"a text"})
    with pytest.raises(Unavailable, match="none of their 0 photos"):
        WebDatasetSource(str(tmp_path / "texts.tar")).open(SIZE, BICUBIC)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_compressed_shard_has_the_same_photos(shards: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("INVSUITE_CACHE", str(shards / "cache"))
    plain, packed = shards / "train-00.tar", shards / "packed.tar"
    with tarfile.open(plain) as archive:
        members = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
    write_shard(packed, members, f"w:{kind}")
    first, same = (WebDatasetSource(str(shard)).open(SIZE, BICUBIC) for shard in (plain, packed))
    assert first.digest() == same.digest()
    assert same.key(1) == "packed.tar/0001.png"
    assert torch.equal(first[1].image, same[1].image)
    (content_of_it,) = (shards / "cache" / "shards").iterdir()
    content_of_it.rename(shards / "was there")  # what is in the cache may be deleted
    assert WebDatasetSource(str(packed)).open(SIZE, BICUBIC).digest() == first.digest()


@pytest.fixture
def site(shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """The address of a server of the shards, and the names that it was asked for."""
    names = list[str]()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            names.append(self.path)

    monkeypatch.setenv("INVSUITE_CACHE", str(shards / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(shards)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", names
    server.shutdown()
    thread.join()
    server.server_close()


def test_shards_of_an_address_are_fetched_once_as_far_as_they_are_of_use(
    shards: Path, site: tuple[str, list[str]]
) -> None:
    address, names = site
    source = WebDatasetSource(address + "/train-{00..01}.tar")
    (need,) = source.needs()
    assert (need.what, need.state) == (f"shard {address}/train-00.tar", "to fetch")
    local, some = WebDatasetSource(str(shards / "train-{00..01}.tar")), replace(source, count=3)
    assert some.open(SIZE, BICUBIC).digest() == replace(local, count=3).open(SIZE, BICUBIC).digest()
    assert names == ["/train-00.tar"]
    there, here = source.open(SIZE, BICUBIC), local.open(SIZE, BICUBIC)
    assert there.digest() == here.digest()
    assert [there.key(row) for row in range(6)] == [here.key(row) for row in range(6)]
    assert source.needs()[0].state == "here"
    assert names == ["/train-00.tar", "/train-01.tar"]
    assert need.bring is not None
    assert need.bring(print) == f"sha256:{hashlib.sha256((shards / 'train-00.tar').read_bytes()).hexdigest()}"


def test_a_shard_that_cannot_be_fetched_is_named(site: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    address, names = site
    with pytest.raises(Unavailable, match=rf"shard '{address}/none\.tar' cannot be fetched: .*404"):
        WebDatasetSource(f"{address}/none.tar").open(SIZE, BICUBIC)
    del names[:]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Unavailable, match=r"train-00\.tar' is not here, and --offline forbids to fetch it"):
        WebDatasetSource(f"{address}/train-00.tar").open(SIZE, BICUBIC)
    assert names == []


def test_braces_stand_for_shards_in_their_order(tmp_path: Path) -> None:
    for name in ("val-9", "val-10", "train-9", "train-10"):
        write_shard(tmp_path / f"{name}.tar", {})
    names = [path.stem for path in shards_of(f"{tmp_path}/{{train,val}}-{{9..11}}.tar")]
    assert names == ["train-9", "train-10", "val-9", "val-10"]
    assert [path.stem for path in shards_of(str(tmp_path))] == ["train-10", "train-9", "val-10", "val-9"]


class Stream:
    """What ``datasets`` streams, as far as it is used; it says how many rows were asked for."""

    def __init__(self, values: list[Any]) -> None:
        self.values, self.pulled, self.features = values, 0, {"image": "images", "label": "numbers"}
        self.undecoded = ""

    def cast_column(self, column: str, feature: Any) -> Stream:
        assert feature.decode is False
        self.undecoded = column
        return self

    def __iter__(self) -> Iterator[dict[str, Any]]:
        assert self.undecoded == "image"
        for value in self.values:
            self.pulled += 1
            if isinstance(value, Exception):
                raise value
            yield {"image": value, "label": 3}


def streamed(monkeypatch: pytest.MonkeyPatch, values: list[Any]) -> Stream:
    stream = Stream(values)

    def load_dataset(name: str, config: str | None, split: str, streaming: bool) -> Stream:
        assert streaming
        return stream

    class Undecoded:
        def __init__(self, decode: bool) -> None:
            self.decode = decode

    module = SimpleNamespace(load_dataset=load_dataset, Image=Undecoded)
    monkeypatch.setitem(__import__("sys").modules, "datasets", module)
    return stream


def test_a_stream_is_read_no_further_than_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "local.png"
    file.write_bytes(content(3))
    rows = [{"bytes": content(n, "JPEG"), "path": f"{n}.jpg"} for n in range(2)]
    values = [rows[0], None, {"bytes": None, "path": str(file)}, {"bytes": b"no photo", "path": "x"}, rows[1]]
    stream = streamed(monkeypatch, [*values, *[rows[0]] * 50])
    data = HubPhotos("owner/photos", "train", "image", 3, Geometry(SIZE), stream=True)
    assert stream.pulled <= 6
    assert [data.key(i) for i in range(3)] == [f"owner/photos/train/{row}" for row in (0, 2, 4)]
    assert sorted(data.unreadable) == ["owner/photos/train/1", "owner/photos/train/3"]
    with Image.open(file) as photo:
        assert torch.equal(data[1].image, Geometry(SIZE).tensor(photo.convert("RGB")))
    assert torch.equal(data[2].image, data[2].image)
    assert data.identity(0) != data.identity(2)


def test_what_a_stream_cannot_give_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"bytes": content(1), "path": None}
    with pytest.raises(UsageError, match="say how many images with 'count'"):
        HubPhotos("owner/photos", "train", "image", 0, Geometry(SIZE), stream=True)
    streamed(monkeypatch, [row, ConnectionError("the line is dead")])
    with pytest.raises(Unavailable, match="cannot be streamed further: the line is dead"):
        HubPhotos("owner/photos", "train", "image", 2, Geometry(SIZE), stream=True)
    streamed(monkeypatch, [5])
    with pytest.raises(UsageError, match="holds int, no images"):
        HubPhotos("owner/photos", "train", "image", 2, Geometry(SIZE), stream=True)
    streamed(monkeypatch, [row])
    with pytest.raises(UsageError, match="no column 'picture': image, label"):
        HubPhotos("owner/photos", "train", "picture", 2, Geometry(SIZE), stream=True)
