"""What is known of photo files: whether they can be read, the digest of their bytes, what must be converted.

To know it every photo is decoded once. The facts of readable ones are remembered in the user's cache
(`invsuite._system.cache`) by path, size and time of change, so that a second start decodes none; some are read again
at every start, and if the bytes of one have changed behind its size and time, nothing that was remembered is believed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import PIL
from PIL import Image

from invsuite._system.cache import cache_folder, cache_limit
from invsuite._system.needs import Log
from invsuite.data.photo import Colour, kinds_of, open_photo, readable_suffixes, shown
from invsuite.data.shards import bytes_of, file_facts
from invsuite.data.workers import in_order
from invsuite.errors import DataError

SECONDS_OF_SILENCE = 10.0  # between two lines of progress while photos are looked at
SAMPLE = 8  # remembered photos whose bytes are read again at a start
WAIT = 10.0  # seconds for another process that writes to the cache
READING = 1  # version of what `PhotoFile` says of a file; to be raised when it changes
#: kinds whose pixels were read in another way before those that a digest of bytes alone tells apart
READ_ANEW = frozenset({"profile", "deep"})
_listener: ContextVar[Log] = ContextVar("listener", default=lambda text: None)


@dataclass(frozen=True)
class PhotoFile:
    """A readable photo.

    Attributes:
        path: where it lies.
        sha256: of its bytes, the same for two copies of one photo.
        kinds: what had to be converted (`invsuite.data.photo.kinds_of`).
        stored: (width, height) of the pixels as they are stored.
        upright: (width, height) after the EXIF rotation.
    """

    path: Path
    sha256: str
    kinds: tuple[str, ...] = ()
    stored: tuple[int, int] = (0, 0)
    upright: tuple[int, int] = (0, 0)

    @property
    def content(self) -> str:
        """Return what a digest of pixels holds of this photo: its bytes' digest, and how they were read."""
        return self.sha256 + "".join(f"-{kind}" for kind in self.kinds if kind in READ_ANEW)


#: what tells one state of a file from another: path, time of change in nanoseconds, size in bytes, treatment of colours
State = tuple[str, int, int, Colour]
_looked_at: dict[State, PhotoFile | str] = {}  # in this process


@contextmanager
def telling(log: Log) -> Iterator[None]:
    """Tell ``log`` how far it is where many photos are looked at within."""
    token = _listener.set(log)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(text: str) -> None:
    """Tell who listens (`telling`) a line of progress."""
    _listener.get()(text)


def verify(paths: Sequence[Path], colour: Colour = "sRGB") -> tuple[list[PhotoFile], dict[str, str]]:
    """Return the readable photos and ``{path: reason}`` of the others; those that are not known yet are decoded."""
    states = {path: _state(path, colour) for path in paths}
    unknown = [state for state in states.values() if isinstance(state, tuple) and state not in _looked_at]
    _looked_at.update(_recalled(unknown))
    fresh = [state for state in unknown if state not in _looked_at]
    last = time.monotonic()
    for done, (state, result) in enumerate(zip(fresh, in_order(_decode, fresh, len(fresh)), strict=True), start=1):
        _looked_at[state] = result
        if time.monotonic() - last > SECONDS_OF_SILENCE:
            last = time.monotonic()
            tell(f"looked at {done} of {len(fresh)} photos")
    _remember({state: file for state in fresh if isinstance(file := _looked_at[state], PhotoFile)})
    results = {path: state if isinstance(state, str) else _looked_at[state] for path, state in states.items()}
    readable = [file for path in paths if isinstance(file := results[path], PhotoFile)]
    return readable, {shown(path): reason for path, reason in results.items() if isinstance(reason, str)}


def take(
    paths: Sequence[Path],
    count: int,
    colour: Colour,
    refuse: Callable[[int, PhotoFile], str] = lambda number, file: "",
) -> tuple[dict[int, PhotoFile], dict[str, str]]:
    """Look at photos in order until there are ``count`` of use, and at no others.

    Args:
        paths: of the photos.
        count: of photos; 0 takes all.
        colour: as `open_photo` takes it.
        refuse: gives the reason why a readable photo, by its position, is of no use; "" where it is.

    Returns:
        The photos by their position among ``paths``, and ``{path: reason}`` of those left out.
    """
    files: dict[int, PhotoFile] = {}
    reasons: dict[str, str] = {}
    count, tried = min(count, len(paths)) or len(paths), 0
    while tried < len(paths) and (lacking := count - len(files)):
        batch = paths[tried : tried + lacking]
        readable, unreadable = verify(batch, colour)
        reasons |= unreadable
        by_path = {file.path: file for file in readable}
        for number, path in enumerate(batch, start=tried):
            if path not in by_path:
                continue
            if reason := refuse(number, by_path[path]):
                reasons[shown(path)] = reason
            else:
                files[number] = by_path[path]
        tried += len(batch)
    return files, reasons


def _state(path: Path, colour: Colour) -> State | str:
    """Return the state of a file, or why it cannot be told."""
    try:
        facts = file_facts(path)
    except (OSError, ValueError) as error:
        return f"{shown(path)}: {error}"
    return str(path), facts.st_mtime_ns, facts.st_size, colour


def _decode(state: State) -> PhotoFile | str:
    """Return what a photo's file says when it is decoded, or why it cannot be; the file is read once."""
    path, colour = Path(state[0]), state[3]
    try:
        content = bytes_of(path)
        upright = open_photo(path, colour=colour, content=content).size
        with Image.open(io.BytesIO(content)) as photo:
            kinds, stored = kinds_of(photo, colour), photo.size
        return PhotoFile(path, hashlib.sha256(content).hexdigest(), kinds, stored, upright)
    except DataError as error:
        return str(error)
    except (OSError, ValueError) as error:
        return f"{shown(path)}: {error}"


@contextmanager
def _memory() -> Iterator[sqlite3.Connection]:
    """Open the remembered facts, in a transaction that other processes wait for."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(folder / "photos.sqlite", timeout=WAIT)) as memory, memory:
        memory.execute(
            "CREATE TABLE IF NOT EXISTS photos (path BLOB, colour TEXT, reader TEXT, changed INTEGER, size INTEGER, "
            "sha256 TEXT, facts TEXT, PRIMARY KEY (path, colour, reader)) WITHOUT ROWID"
        )
        yield memory


def _reader() -> str:
    """Return what reads photos: facts that another reader found are not believed."""
    text = f"{READING}, Pillow {PIL.__version__}, {sorted(readable_suffixes())}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _recalled(states: Sequence[State]) -> dict[State, PhotoFile]:
    """Return what is remembered of files in these states, of which a sample is read again."""
    files: dict[State, PhotoFile] = {}
    if not states or not cache_limit():
        return files
    reader = _reader()
    with suppress(sqlite3.Error, OSError, ValueError, TypeError), _memory() as memory:
        for state in states:
            path, changed, size, colour = state
            row = memory.execute(
                "SELECT sha256, facts FROM photos WHERE path = ? AND colour = ? AND reader = ? AND changed = ? "
                "AND size = ?",
                (os.fsencode(path), colour, reader, changed, size),
            ).fetchone()
            if row:
                kinds, stored, upright = json.loads(row[1])
                files[state] = PhotoFile(Path(path), row[0], tuple(kinds), tuple(stored), tuple(upright))
    for state in random.sample(list(files), min(SAMPLE, len(files))):
        if not _unchanged(files[state]):
            tell(f"{shown(state[0])} has changed, though not its size and time: all photos are looked at again")
            return {}
    return files


def _unchanged(file: PhotoFile) -> bool:
    try:
        return hashlib.sha256(bytes_of(file.path)).hexdigest() == file.sha256
    except OSError:
        return False


def _remember(files: dict[State, PhotoFile]) -> None:
    """Remember facts, where a cache can be written; one that cannot costs time at the next start, and nothing else."""
    if not files or not cache_limit():
        return
    reader = _reader()
    rows = [
        (os.fsencode(path), colour, reader, changed, size, file.sha256, _as_json(file))
        for (path, changed, size, colour), file in files.items()
    ]
    with suppress(sqlite3.Error, OSError), _memory() as memory:
        memory.executemany("INSERT OR REPLACE INTO photos VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def _as_json(file: PhotoFile) -> str:
    return json.dumps([file.kinds, file.stored, file.upright])
