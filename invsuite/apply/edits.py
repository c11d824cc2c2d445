"""Edits of a photo's colours, as a person writes them and as a figure shows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from invsuite.data.base import Mask
from invsuite.data.edits import scale_chroma, turn_hue, turn_hue_lch
from invsuite.errors import UsageError, unknown_name


@dataclass(frozen=True)
class EditKind:
    """A kind of edit.

    Attributes:
        apply: takes an image (3, h, w), a mask (h, w) and the amount.
        shown: how a figure writes it, for ``str.format``.
        least: smallest amount.
        most: largest amount.
        amount: of an edit that names none; None where it must.
    """

    apply: Callable[[torch.Tensor, Mask, float], torch.Tensor]
    shown: str
    least: float
    most: float
    amount: float | None = None


EDITS = {
    "hue": EditKind(lambda i, m, degrees: turn_hue(i, m, degrees / 360), "hue {:+g}°", -360, 360),
    "hue-lch": EditKind(lambda i, m, degrees: turn_hue_lch(i, m, degrees / 360), "CIELCh hue {:+g}°", -360, 360),
    "chroma": EditKind(scale_chroma, "chroma x {:g}", 0, 100),
    "grey": EditKind(lambda i, m, share: scale_chroma(i, m, 1 - share), "grey", 1, 1, 1),
}


@dataclass(frozen=True)
class Edit:
    """An edit of colours: a turn of hue, in HSV or at constant lightness (CIELCh), a scaled chroma, or grey.

    Attributes:
        kind: one of `EDITS`.
        amount: degrees, or the factor of chroma.

    Raises:
        UsageError: for another kind, or an amount that it cannot have.

    Examples:
        >>> Edit.of("hue=120").label
        'hue +120°'
    """

    kind: str
    amount: float

    def __post_init__(self) -> None:
        if self.kind not in EDITS:
            raise unknown_name("edit", self.kind, EDITS)
        kind = EDITS[self.kind]
        if not kind.least <= self.amount <= kind.most:
            raise UsageError(f"edit {self.kind}={self.amount:g}: expected {kind.least:g} to {kind.most:g}")

    @classmethod
    def of(cls, text: str | Edit) -> Edit:
        """Return an edit as a person writes it: ``hue=120``, ``chroma=0.5``, ``grey``.

        Raises:
            UsageError: if it is none.
        """
        if isinstance(text, Edit):
            return text
        kind, _, amount = text.partition("=")
        default = EDITS[kind].amount if kind in EDITS else 0.0
        if not amount:
            if default is None:
                raise UsageError(f"edit '{kind}' needs an amount, e.g. {kind}={'120' if 'hue' in kind else '0.5'}")
            return cls(kind, default)
        try:
            return cls(kind, float(amount))
        except ValueError as error:
            raise UsageError(f"edit '{text}': '{amount}' is no number") from error

    @property
    def text(self) -> str:
        """Return the edit as a person writes it."""
        return self.kind if EDITS[self.kind].amount is not None else f"{self.kind}={self.amount:g}"

    @property
    def label(self) -> str:
        """Return the edit as a figure writes it."""
        return EDITS[self.kind].shown.format(self.amount)

    def apply(self, image: torch.Tensor, mask: Mask) -> torch.Tensor:
        """Return an image (3, h, w) in [0, 1] with the pixels of a mask (h, w) edited."""
        return EDITS[self.kind].apply(image, mask, self.amount)
