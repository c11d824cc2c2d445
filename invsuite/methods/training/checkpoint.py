"""The state of a training on disk, from which a killed one goes on."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from invsuite._system.files import write_atomically


def save(path: Path, signature: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a tree of tensors and plain values as a whole or not at all, with the ``signature`` of what it belongs to.

    Raises:
        DiskError: if the disk refuses.
    """
    buffer = io.BytesIO()
    torch.save({"signature": signature, "state": state}, buffer)
    write_atomically(path, buffer.getvalue())


def load(path: Path, signature: dict[str, Any]) -> dict[str, Any] | None:
    """Return the state in a file, on the CPU; None if there is none, it is damaged, or its ``signature`` is another."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        state: dict[str, Any] = saved["state"]
        return state if saved["signature"] == signature else None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError):
        return None
