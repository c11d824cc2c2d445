"""Paths as users write them, and files that are whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from invsuite._system.signals import uninterrupted
from invsuite.errors import DiskError, Unavailable

LONGEST = 200  # letters of a name that is part of a file's: disks take 255


def file_name(text: str) -> str:
    """Return ``text`` as a part of a file's name: what is safe on every disk, and not too long for any.

    Examples:
        >>> file_name("vit-blocks/3 (a).b")
        'vit-blocks-3--a-.b'
    """
    safe = re.sub(r"[^A-Za-z0-9._@+-]", "-", text).lstrip(".")
    return safe if len(safe) <= LONGEST else safe[: LONGEST - 13] + "-" + hashlib.sha256(text.encode()).hexdigest()[:12]


def expand_path(path: str) -> Path:
    """Return a path with ``~`` and ``$NAME`` expanded (`expand`)."""
    return Path(expand(path))


def expand(path: str) -> str:
    """Return a path or an address with ``~`` and ``$NAME`` expanded.

    Raises:
        Unavailable: naming the environment variable that is not set.
    """
    expanded = os.path.expanduser(os.path.expandvars(path))
    missing = re.search(r"\$\{?(\w+)", expanded)
    if missing:
        raise Unavailable(f"path '{path}': set {missing[1]} first, e.g. export {missing[1]}=/path/to/it")
    return expanded


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part: temp file, fsync, rename.

    SIGINT and SIGTERM wait until it is done.

    Raises:
        DiskError: if the disk refuses, naming the file; the temp file is removed.
    """
    with uninterrupted():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole(path) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o644)
        except OSError as error:
            raise refused(path, error) from error


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to write that is there whole at the end of the block, or not at all, for what can be made again.

    Raises:
        OSError: if the disk refuses.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            yield file
        os.replace(temporary, path)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def refused(path: Path, error: OSError) -> DiskError:
    """Return the error for a disk on which ``path`` cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "; finished cells are kept: free some space and run the same command to go on" if full else ""
    return DiskError(f"cannot write '{path}': {error.strerror}{advice}")
