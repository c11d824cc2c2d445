"""Writing files that are whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from invsuite.errors import SetupError


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part: temp file, fsync, rename.

    Raises:
        SetupError: if the disk refuses, naming the file; the temp file is removed.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise SetupError(f"cannot write '{path}': {error.strerror}") from error
