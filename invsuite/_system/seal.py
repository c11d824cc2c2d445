"""JSON that tells whether it was changed after it was written: its first key holds the SHA-256 of the rest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def sealed(key: str, tree: Mapping[str, Any]) -> str:
    """Return ``tree`` as JSON, whose first key, ``key``, is the SHA-256 of the text with that value left empty.

    Raises:
        TypeError: if it holds what is no JSON.
        ValueError: if it holds a number that is not finite.
    """
    text = json.dumps({key: ""} | dict(tree), indent=1, allow_nan=False)
    return text.replace(_line(key, ""), _line(key, _digest(text)), 1)


def is_intact(key: str, text: str, seal: str) -> bool:
    """Tell whether ``text`` is as `sealed` made it, where ``seal`` is the value of its first key."""
    return _digest(text.replace(_line(key, seal), _line(key, ""), 1)) == seal


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _line(key: str, digest: str) -> str:
    """Return the line of the text that holds its digest; the first of its kind, for the seal comes first."""
    return f'"{key}": "{digest}"'
