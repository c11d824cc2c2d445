"""What a planted fault is, and how one is tried: the guard must pass without it and stop with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from time import perf_counter
from typing import Any

from invsuite.errors import InvsuiteError

#: Runs a part of the suite as a user would; returns what it flagged, or None. Errors of the suite count as caught.
Trial = Callable[[], str | None]
#: Changes a component of the suite for as long as it is entered.
Plant = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Fault:
    """A fault to plant.

    Attributes:
        name: what is wrong, in a few words.
        where: the component that is changed.
        guard: the check that must notice.
        plant: puts the fault in place and takes it out again.
        trial: the suite's own code path that the fault sits on.
        says: part of the guard's message, so that an accident elsewhere does not count as caught.
    """

    name: str
    where: str
    guard: str
    plant: Plant
    trial: Trial
    says: str


@dataclass(frozen=True)
class Verdict:
    """What came of one fault. ``control`` is what the guard said without the fault: nothing, if it is right."""

    fault: Fault
    message: str
    control: str
    seconds: float

    @property
    def caught(self) -> bool:
        """Tell whether the right guard stopped the fault, and only the fault."""
        return self.fault.says in self.message and not self.control


def try_fault(fault: Fault) -> Verdict:
    """Run the fault's trial without and with it."""
    start = perf_counter()
    control = _said(fault.trial)
    with fault.plant():
        message = _said(fault.trial)
    return Verdict(fault, message, control, perf_counter() - start)


def _said(trial: Trial) -> str:
    try:
        return trial() or ""
    except InvsuiteError as error:
        return " ".join(str(error).split())
    except Exception as error:  # an accident is no guard: shown, and never equal to what the guard says
        return f"{type(error).__name__}: {error}"


@contextmanager
def swapped(target: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Replace ``MODULE:NAME`` or ``MODULE:CLASS.NAME`` by ``wrap`` of what is there, and put it back afterwards."""
    module, _, path = target.partition(":")
    owner: Any = import_module(module)
    *holders, name = path.split(".")
    for holder in holders:
        owner = getattr(owner, holder)
    original = getattr(owner, name)
    setattr(owner, name, wrap(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


def plant(target: str, wrap: Callable[[Any], Any]) -> Plant:
    """Return the plant that replaces ``target`` by ``wrap`` of it."""
    return lambda: swapped(target, wrap)


def after(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a wrap that sends the function's result through ``change``."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def changed(*args: Any, **kwargs: Any) -> Any:
            return change(original(*args, **kwargs))

        return changed

    return wrap
