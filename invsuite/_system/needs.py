"""What a data source, a model or a measure needs from outside the package before it can work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Log = Callable[[str], None]


@dataclass(frozen=True)
class Need:
    """One thing that must be on this machine: weights, photos, annotations.

    Attributes:
        what: how a person would name it.
        size: bytes to fetch; 0 where it is here already, None where nobody says.
        bring: a function that fetches it and returns its digest; None where it is here, or must be brought by hand.
        note: where it is, or how to bring it by hand.
    """

    what: str
    size: int | None
    bring: Callable[[Log], str] | None
    note: str

    @property
    def state(self) -> Literal["here", "to fetch", "by hand"]:
        """Return whether it is here, can be fetched, or must be brought by hand."""
        if self.bring is not None:
            return "to fetch"
        return "here" if self.size == 0 else "by hand"


def path_need(kind: str, path: Path, by_hand: str = "it does not exist") -> Need:
    """Return the need for a file or folder that the user named, of this ``kind``, which nobody can fetch."""
    here = path.exists()
    return Need(f"{kind} {path}", 0 if here else None, None, str(path) if here else by_hand)
