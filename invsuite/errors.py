"""Errors a user can act on. Each message is one line that names the thing and the fix.

Exit codes of the command line: 0 ok, 1 a cell failed or a regression, 2 usage, 3 environment.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class InvsuiteError(Exception):
    """Base of every error that the suite raises on purpose.

    Attributes:
        exit_code: what the command line returns.
        fault: how a record calls what happened.

    Examples:
        >>> import invsuite
        >>> try:
        ...     invsuite.load_suite("quik")
        ... except invsuite.InvsuiteError as error:
        ...     print(error.exit_code, str(error).partition(" known")[0])
        2 unknown suite 'quik': did you mean quick?
    """

    exit_code = 1
    fault = "error"


class UsageError(InvsuiteError):
    """A name, option or suite key that does not exist or does not fit (exit code 2).

    Examples:
        >>> import invsuite
        >>> try:
        ...     invsuite.Budget(image_passes=64, seconds=60)
        ... except invsuite.UsageError as error:
        ...     print(error.fault)
        usage
    """

    exit_code = 2
    fault = "usage"


class SetupError(InvsuiteError):
    """Something outside the suite is missing or damaged: weights, photos, a device (exit code 3)."""

    exit_code = 3


class WeightsError(SetupError):
    """Weights that are damaged or do not fit the model."""

    fault = "weights"


class DiskError(SetupError):
    """A file that cannot be written. A record of it could not be written either, so the run ends."""


class Unavailable(SetupError):
    """Weights or data that cannot be had on this machine; a cell that needs them is recorded as ``skipped``.

    Examples:
        >>> import invsuite
        >>> try:
        ...     invsuite.open_images("/no/such/folder", (96, 96))
        ... except invsuite.Unavailable as error:
        ...     print(error)
        photo folder '/no/such/folder' does not exist
    """

    fault = "unavailable"


class MissingPath(Unavailable):
    """A file or folder that the user named and that is not there.

    The cells that need it are recorded as ``skipped``, and the run ends with exit code 3.
    """

    fault = "missing path"


class NotApplicable(InvsuiteError):
    """A method that by its nature cannot answer at a stage, such as an exact inverse of a map that has none.

    The cell is recorded as ``skipped`` with the reason: nothing broke, and no other method replaces it.

    Examples:
        A method raises it from `Method.fit` for all stages, or puts it into ``Fitted.refused`` for one:

        >>> from invsuite import NotApplicable
        >>> NotApplicable("a pooling layer has no exact inverse").fault
        'not applicable'
    """

    fault = "not applicable"


class DataError(InvsuiteError):
    """An image, mask or representation with wrong values."""

    fault = "data"


class ConvergenceError(InvsuiteError):
    """A fit that produced NaN or infinity."""

    fault = "no convergence"


class OutOfMemoryError(InvsuiteError):
    """Memory that does not suffice even for the smallest batch."""

    fault = "out of memory"


class TimeLimitError(InvsuiteError):
    """A cell that took longer than it may."""

    fault = "time limit"


class LostWorkerError(InvsuiteError):
    """A worker process that ended during a cell, more often than a cell is tried again."""

    fault = "lost worker"


class PartedError(SetupError):
    """A fit that broke in one of the processes that did it together: they are out of step, so the run ends."""


class OutsideError(InvsuiteError):
    """What code or a file raised that is not the suite's: a model's loader, a plug-in, a photo, a processor."""

    fault = "outside"


MOST_LETTERS = 400  # of what a library says in a message of ours


def one_line(error: BaseException) -> str:
    """Return an error as one line: what the suite says itself, or kind and reason of any other, cut where long."""
    if isinstance(error, InvsuiteError):
        return " ".join(str(error).split())
    kind, reason = type(error).__name__, reason_of(error)
    reason = reason if len(reason) <= MOST_LETTERS else f"{reason[:MOST_LETTERS]} ..."
    return kind if reason == kind else f"{kind}: {reason}"


@contextmanager
def boundary(what: str, error_class: type[InvsuiteError] = OutsideError) -> Iterator[None]:
    """Stand around everything that is not the suite's: whatever it raises becomes one line that names ``what``.

    Args:
        what: how the line begins.
        error_class: of the error that is raised instead.

    Raises:
        InvsuiteError: of that class, for any exception that the suite does not raise on purpose; `SystemExit` is one.
    """
    try:
        yield
    except InvsuiteError:
        raise
    except (Exception, SystemExit) as error:
        raise error_class(f"{what}: {one_line(error)}") from error


def exit_code_of(fault: str) -> int:
    """Return the exit code of the error by whose ``fault`` a record calls what happened; 1 for any other."""
    kinds = [InvsuiteError]
    for kind in kinds:
        if kind.fault == fault:
            return kind.exit_code
        kinds += kind.__subclasses__()
    return 1


def reason_of(error: BaseException) -> str:
    """Return what an exception of another library says, in one line: its first, or its kind where it says nothing.

    A line that ends in a colon is read on. torch's advice to load a file without ``weights_only``, which would run what
    the file says, is not passed on.
    """
    if "Weights only load failed" in str(error):
        return "it is no file of torch.save, or holds more than tensors"
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


SHOWN_NAMES = 60  # of a longer list only so many are shown


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a name that matches nothing: the nearest names, then the list, cut where it is long."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return UsageError(f"unknown {kind} '{name}': {hint}known: {', '.join(names[:SHOWN_NAMES]) or 'none'}{more}")
