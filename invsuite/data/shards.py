"""Photos inside WebDataset shards, tar files of samples, read where they lie: nothing is unpacked.

A photo in a shard has a path as one in a folder has, ``SHARD.tar/NAME.jpg``, so that what is known of photos is
remembered alike. Only the headers of a shard are read to know what it holds, and no shard behind the photos of use.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from glob import glob
from itertools import product
from pathlib import Path

from invsuite.errors import DataError, reason_of

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
#: by shard: where the bytes of each photo begin, and how many there are
_indices: dict[Path, Mapping[str, tuple[int, int]]] = {}


def shards_of(pattern: str) -> list[Path]:
    """Return the shards that a pattern names, in the order of its braces, then by name.

    Args:
        pattern: a shard, or several by ``{000..127}``, ``{train,val}`` and wildcards; a folder has those below it.

    Examples:
        >>> shards_of("no/such-{0..3}.tar")
        []
    """
    shards: dict[Path, None] = {}
    for name in _braces(pattern):
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
        DataError: if it is no tar file, or a compressed one, naming it.
    """
    index: dict[str, tuple[int, int]] = {}
    samples = set[str]()
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                key, dot, ending = name.partition(".")
                sample = f"{folder}/{key}"
                if not member.isfile() or not key or f"{dot}{ending}".lower() not in suffixes or sample in samples:
                    continue
                samples.add(sample)
                index[member.name] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"shard '{shard}' cannot be read ({reason_of(error)}): it must be a whole tar file, not compressed"
        ) from error
    _indices[shard] = index
    return [shard / name for name in index]


def _place(path: Path) -> tuple[Path, int, int] | None:
    """Return the shard of a photo and where its bytes are; None for a photo that is a file of its own."""
    if _indices:
        for folder in path.parents:
            index = _indices.get(folder)
            if index is not None:
                return (folder, *index[path.relative_to(folder).as_posix()])
    return None


def bytes_of(path: Path) -> bytes:
    """Return the bytes of a photo, of its file or inside a shard."""
    place = _place(path)
    if place is None:
        return path.read_bytes()
    shard, offset, size = place
    with shard.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def file_facts(path: Path) -> os.stat_result:
    """Return the facts of the file that holds a photo: a shard's for one that is in it."""
    place = _place(path)
    return (path if place is None else place[0]).stat()
