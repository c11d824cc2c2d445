"""Photos inside WebDataset shards, tar files of samples, read where they lie: nothing is unpacked.

A photo in a shard has a path as one in a folder has, ``SHARD.tar/NAME.jpg``, so that what is known of photos is
remembered alike. Only the headers of a shard are read to know what it holds, and no shard behind the photos of use.
Shards that have an address, and the content of compressed ones, lie in the user's cache (`invsuite._system.cache`).
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from glob import glob
from io import BufferedIOBase
from itertools import product
from pathlib import Path

from invsuite._system.cache import cache_folder
from invsuite._system.environment import is_offline
from invsuite._system.files import file_digest, file_name, whole
from invsuite._system.needs import Log, Need
from invsuite._system.torch_hub import download
from invsuite.errors import DataError, Unavailable, boundary, reason_of

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
ADDRESS = re.compile(r"https?://")
#: how a compressed file begins, and what reads it
COMPRESSED: dict[bytes, Callable[[Path], BufferedIOBase]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
#: by shard: the tar file that holds it, where in it the bytes of each photo begin, and how many there are
_indices: dict[Path, tuple[Path, Mapping[str, tuple[int, int]]]] = {}
#: by shard in the cache: where it comes from
_addresses: dict[Path, str] = {}


def shards_of(pattern: str) -> list[Path]:
    """Return the shards that a pattern names, in the order of its braces, then by name.

    Args:
        pattern: a shard, or several by ``{000..127}``, ``{train,val}`` and wildcards; a folder has those below it. Of
            addresses (``https://HOST/train-{000..127}.tar``) the shards are where they will lie in the cache.

    Examples:
        >>> shards_of("no/such-{0..3}.tar")
        []
    """
    shards: dict[Path, None] = {}
    for name in _braces(pattern):
        if ADDRESS.match(name):
            shards[_place_of(name)] = None
            continue
        path = Path(name)
        found = sorted(path.rglob("*.tar")) if path.is_dir() else sorted(map(Path, glob(name)))
        shards |= dict.fromkeys(shard for shard in found if shard.is_file())
    return list(shards)


def _braces(pattern: str) -> Iterator[str]:
    """Yield what a pattern with braces stands for; numbers keep their zeros."""
    parts, choices, end = [], [], 0
    for match in re.finditer(f"{RANGE.pattern}|{CHOICE.pattern}", pattern):
        parts.append(pattern[end : match.start()])
        end = match.end()
        first, last, names = match.groups()
        numbers = [] if names else range(int(first), int(last) + 1)
        choices.append(names.split(",") if names else [f"{number:0{len(first)}}" for number in numbers])
    for chosen in product(*choices):
        yield "".join(text for pair in zip(parts, chosen, strict=True) for text in pair) + pattern[end:]


def photos_in(shard: Path, suffixes: frozenset[str]) -> list[Path]:
    """Return the photo of every sample of a shard, in its order: the first member with nothing but a photo's suffix.

    ``0001.jpg`` is one, ``0001.seg.png`` belongs to it.

    Raises:
        DataError: if it is no whole tar file, naming it.
        Unavailable: if it must be fetched and cannot.
    """
    _bring(shard)
    index: dict[str, tuple[int, int]] = {}
    samples = set[str]()
    try:
        file = _uncompressed(shard)
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                key, dot, ending = name.partition(".")
                sample = f"{folder}/{key}"
                if not member.isfile() or not key or f"{dot}{ending}".lower() not in suffixes or sample in samples:
                    continue
                samples.add(sample)
                index[member.name] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(
            f"shard '{shard}' cannot be read ({reason_of(error)}): it must be a whole tar file, or one that is "
            "compressed by gzip, bzip2 or xz"
        ) from error
    _indices[shard] = file, index
    return [shard / name for name in index]


def shard_need(shard: Path) -> Need | None:
    """Return the need for a shard that has an address; None for one that the user brings."""
    address = _addresses.get(shard)
    if address is None:
        return None
    if shard.is_file():
        return Need(f"shard {address}", 0, None, str(shard))

    def bring(log: Log) -> str:
        _bring(shard)
        return f"sha256:{file_digest(shard)}"

    return Need(f"shard {address}", None, bring, address)


def _place_of(address: str) -> Path:
    """Return where the shard of an address lies in the cache: shards of one place lie in one folder, named like it."""
    place, _, name = address.rpartition("/")
    digest = hashlib.sha256(place.encode()).hexdigest()[:16]
    path = cache_folder() / "shards" / digest / file_name(place.split("/")[-1]) / file_name(name)
    _addresses[path] = address
    return path


def _bring(shard: Path) -> None:
    """Fetch a shard that has an address and is not here.

    Raises:
        Unavailable: if it cannot be fetched, or this process is offline.
    """
    if shard not in _addresses or shard.is_file():
        return
    address = _addresses[shard]
    if is_offline():
        raise Unavailable(f"shard '{address}' is not here, and --offline forbids to fetch it")
    with boundary(f"shard '{address}' cannot be fetched", Unavailable):
        download(address, shard)


def _uncompressed(shard: Path) -> Path:
    """Return a tar file that can be read at any place: the shard, or the content of a compressed one in the cache.

    Raises:
        OSError: if either cannot be read, or the cache not written; damaged content raises what its format does.
    """
    with shard.open("rb") as file:
        begin = file.read(max(map(len, COMPRESSED)))
    opener = next((opener for magic, opener in COMPRESSED.items() if begin.startswith(magic)), None)
    if opener is None:
        return shard
    facts = shard.stat()
    name = hashlib.sha256(f"{shard.absolute()} {facts.st_mtime_ns} {facts.st_size}".encode()).hexdigest()[:32]
    path = cache_folder() / "shards" / f"{name}.tar"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with opener(shard) as content, whole(path) as file:
            shutil.copyfileobj(content, file, 2**20)
    return path


def _place(path: Path) -> tuple[Path, Path, int, int] | None:
    """Return the shard of a photo, the tar file and where its bytes are; None for a photo that is a file of its own."""
    if _indices:
        for folder in path.parents:
            if folder in _indices:
                file, index = _indices[folder]
                return (folder, file, *index[path.relative_to(folder).as_posix()])
    return None


def bytes_of(path: Path) -> bytes:
    """Return the bytes of a photo, of its file or inside a shard."""
    place = _place(path)
    if place is None:
        return path.read_bytes()
    _, archive, offset, size = place
    with archive.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def file_facts(path: Path) -> os.stat_result:
    """Return the facts of the file that holds a photo: a shard's for one that is in it."""
    place = _place(path)
    return (path if place is None else place[0]).stat()
