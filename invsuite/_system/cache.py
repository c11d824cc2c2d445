"""The user's cache: what took long to compute, lies in files, and may be deleted at any time.

``INVSUITE_CACHE`` names another folder, ``INVSUITE_CACHE_GIB`` how much it may hold (20 by default; 0 keeps nothing).
"""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

import platformdirs

from invsuite.errors import UsageError

GIB = 20.0  # that the folder may hold unless the user says otherwise


def cache_folder() -> Path:
    """Return the folder, which need not exist."""
    return Path(os.environ.get("INVSUITE_CACHE") or platformdirs.user_cache_path("invsuite"))


def cache_limit() -> int:
    """Return how many bytes it may hold.

    Raises:
        UsageError: if the environment variable is no such number.
    """
    words = os.environ.get("INVSUITE_CACHE_GIB", "")
    try:
        limit = float(words or GIB)
    except ValueError:
        limit = math.nan
    if not 0 <= limit < math.inf:
        raise UsageError(f"INVSUITE_CACHE_GIB is '{words}': give a number of GiB, 0 to keep nothing")
    return round(limit * 2**30)


def make_room(folder: Path, size: int) -> bool:
    """Delete the files of ``folder`` that were used longest ago until ``size`` more bytes may be kept.

    Returns:
        Whether they may; nothing is deleted where no deletion would help.
    """
    limit = cache_limit()
    if size > limit or not _is_there(folder) or size > shutil.disk_usage(folder).free / 2:
        return False
    files = sorted((facts.st_mtime, facts.st_size, path) for path, facts in _files(folder))
    used = sum(length for _, length, _ in files)
    for _, length, path in files:
        if used + size <= limit:
            break
        path.unlink(missing_ok=True)
        used -= length
    return True


def prune_cache() -> int:
    """Delete everything and return the bytes that were freed."""
    folder = cache_folder()
    freed = sum(facts.st_size for _, facts in _files(folder))
    shutil.rmtree(folder, ignore_errors=True)
    return freed


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """Return the files below a folder that are there, with their facts; another process may delete any of them."""
    files = []
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                files.append((path, path.stat()))
        except OSError:
            continue
    return files


def _is_there(folder: Path) -> bool:
    """Tell whether the folder is there, or could be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return True
