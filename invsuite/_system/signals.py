"""Signals: one that asks the process to stop lets a write finish, an alarm ends a cell that takes too long.

A process that was started to work for another one ends with it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.connection import wait
from types import FrameType

from invsuite.errors import TimeLimitError

_held = 0  # how many writes are under way that a signal must not cut
_signalled = False  # whether a signal came meanwhile


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a write finish: a signal that comes inside the block takes effect at its end."""
    global _held, _signalled
    _held += 1
    try:
        yield
    finally:
        _held -= 1
        if not _held and _signalled:
            _signalled = False
            raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGINT and SIGTERM inside the block, but never inside `uninterrupted`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        global _signalled
        if _held:
            _signalled = True
        else:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def time_limit(seconds: float | None, what: str) -> Iterator[None]:
    """Stop the block after ``seconds`` of wall time; None never stops it.

    It rests on SIGALRM, so it works in the main thread of a POSIX system, between two Python instructions: one long
    operation of a library is not cut.

    Raises:
        TimeLimitError: naming ``what``; also where there is no such signal to rest on.
    """
    if seconds is None:
        yield
        return
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        raise TimeLimitError("a time limit needs the main thread of a POSIX system; run without --cell-seconds")

    def handle(number: int, frame: FrameType | None) -> None:
        if not _held:  # else it comes again
            raise TimeLimitError(f"{what} took longer than {seconds:g} s; raise --cell-seconds and run again")

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6), 0.5)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def end_with_parent() -> None:
    """Wait for the end of the parent, which cannot ask its workers to end if it was killed, and end this process."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
