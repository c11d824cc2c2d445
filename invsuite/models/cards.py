"""Cards: TOML files that say about a file of weights what it does not say itself."""

from __future__ import annotations

import tomllib
from typing import TypeVar

from invsuite._system.validation import build
from invsuite.errors import UsageError

Card = TypeVar("Card")


def read_card(cls: type[Card], text: str, source: str) -> Card:
    """Return the card, a dataclass ``cls``, that ``text`` holds; messages name its ``source``.

    Raises:
        UsageError: if it is not TOML, or not such a card, naming the key.
    """
    try:
        return build(cls, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"card '{source}' is not TOML: {error}") from error
    except UsageError as error:
        raise UsageError(f"card '{source}': {error}") from error
