"""How several stages read together are named: ``block03+block06`` beside each other, ``sum(block01..block12)``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from invsuite.errors import UsageError

JOIN, RANGE, SUM = "+", "..", "sum("
SUMMED = re.compile(r"sum\((?P<items>.*)\)")


def is_joined(word: str) -> bool:
    """Tell whether a word means several stages read together."""
    return JOIN in word or RANGE in word or word.startswith(SUM)


def ordinary(stages: Sequence[str]) -> tuple[str, ...]:
    """Return those ``stages`` that are places in the chain."""
    return tuple(stage for stage in stages if not is_joined(stage))


def chain_in(cut: Sequence[str], stage: str) -> tuple[str, ...]:
    """Return the stages of ``cut`` through which an inverse of ``stage`` goes, from the image on.

    In a model's order (`Model.order`) several stages read together stand in front of the first of them: an inverse of
    them goes back to what comes before all.
    """
    return (*ordinary(cut[: cut.index(stage)]), stage)


@dataclass(frozen=True)
class Words:
    """What a word for several stages says.

    Attributes:
        summed: whether they are added up; else they stand beside each other.
        items: words of a stage, or of the first and last of a row of them.
    """

    summed: bool
    items: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, word: str) -> Words:
        """Return what ``word`` says.

        Raises:
            UsageError: if a stage is missing in it.
        """
        match = SUMMED.fullmatch(word)
        items = tuple(tuple(item.split(RANGE)) for item in (match["items"] if match else word).split(JOIN))
        if any(len(item) > 2 or not all(item) or "(" in "".join(item) for item in items):
            raise UsageError(
                f"'{word}' is no list of stages: write block03+block06, block03..block06, or sum(...) of it"
            )
        return cls(match is not None, items)

    @property
    def name(self) -> str:
        """Return the word."""
        text = JOIN.join(RANGE.join(item) for item in self.items)
        return f"sum({text})" if self.summed else text
