"""What methods that build on another method have in common: its parameters, facts and identity are part of theirs."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import Any, ClassVar

from invsuite.errors import UsageError
from invsuite.methods import make_method, method_table
from invsuite.methods.base import Method


@dataclass(frozen=True)
class BuiltOn(Method, ABC):
    """A method with another one, ``start``: in a suite file the name of its row; in Python it, or a registered name.

    Subclasses declare the field with its default.
    """

    row_parameters = ("start",)
    #: what is as it is of ``start``
    taken: ClassVar[tuple[str, ...]] = ("uses_cut", "uses_whole_cut", "seeded", "uses_budget", "reads_fit")

    def __post_init__(self) -> None:
        super().__post_init__()
        start: str | dict[str, Any] | Method = getattr(self, "start")  # noqa: B009 a field of every subclass
        if not isinstance(start, Method):
            table = {"kind": start} if isinstance(start, str) else dict(start)
            kind = table.pop("kind", "")
            object.__setattr__(self, "start", make_method(kind, table, f"{self.name}.start"))
        if self.begun.uses_image:
            raise UsageError(
                f"'{self.name}.start' is '{self.begun.name}', which inverts nothing: it is shown the image"
            )
        for fact in self.taken:
            object.__setattr__(self, fact, getattr(self.begun, fact))

    @property
    def begun(self) -> Method:
        """Return the other method."""
        start: Method = getattr(self, "start")  # noqa: B009 a field of every subclass
        return start

    def builds_on(self) -> tuple[Method, ...]:
        """Return the other method, whose fit is taken."""
        return (self.begun,)

    def params(self) -> dict[str, Any]:
        """Return the parameters; all that identifies the other method belongs to this cell too."""
        start = {"start_version": self.begun.version, "start_params": self.begun.params()}
        return super().params() | {"start": method_table(self.begun)} | start
