"""Work on many photos by all processors, its results in order; here alone it is decided who does it.

Threads do it where they suffice: nearly all of a photo's time is spent in Pillow's C code, beside which other threads
run. Python's own part, about an eighth for a photo of 640x480, holds the interpreter's lock, so that more than eight
threads get no further, and many processors work on many photos by processes. These are forked, as those of torch's
``DataLoader`` are on Linux: each is there at once, with what this process knows, where a new one would import torch and
run the user's script once more. What a fork may leave unusable (a device, OpenMP's threads) they do not touch. Where
there is no safe fork (not on Linux), in a process that may have no children (a worker of the executor ``process``), and
once a process has died, threads do the work, too.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from functools import partial
from itertools import chain
from multiprocessing import current_process, get_context
from typing import Any, TypeVar

import torch

from invsuite._system.devices import processors
from invsuite._system.signals import end_with_parent
from invsuite.data.photo import quiet, readable_suffixes

ENOUGH_THREADS = 2  # so many share the interpreter's lock without waiting for it
WORTH_PROCESSES = 500  # photos, which take ten times as long as the start of the processes and more
AHEAD = 2  # pieces of work for each processor that are begun before the result of the first is asked for

T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], pieces: Iterable[T], photos: int) -> Iterator[R]:
    """Yield what ``work`` makes of each piece, in order; `AHEAD` limits how many results wait.

    Args:
        work: done in other threads or processes; from these results come back pickled.
        pieces: of the work, taken as they are begun.
        photos: in all pieces together.
    """
    readable_suffixes()  # plug-ins are registered before threads use them
    workers, rest, begun = processors(), iter(pieces), deque[T]()
    with quiet():
        if _by_processes(workers, photos):
            make = partial(ProcessPoolExecutor, workers, get_context("fork"), _begin, (work,))
            # one may be killed, or there may be no memory: threads need less
            with suppress(BrokenProcessPool, OSError), make() as processes:
                yield from _by(processes, _inherited, rest, workers, begun)
        again = chain(list(begun), rest)
        with ThreadPoolExecutor(workers) as threads:
            yield from _by(threads, work, again, workers, deque())


def _by_processes(workers: int, photos: int) -> bool:
    """Tell whether processes do the work, rather than threads."""
    may = sys.platform == "linux" and not current_process().daemon
    return may and workers > ENOUGH_THREADS and photos >= WORTH_PROCESSES


def _by(pool: Executor, work: Callable[[T], R], pieces: Iterator[T], workers: int, begun: deque[T]) -> Iterator[R]:
    """Yield the results of a pool in order, and cancel what is not begun if nobody asks for more.

    ``begun`` holds the pieces whose results were not yielded.
    """
    waiting = deque[Future[R]]()
    try:
        for piece in pieces:
            begun.append(piece)
            waiting.append(pool.submit(work, piece))
            if len(waiting) > AHEAD * workers:
                result = waiting.popleft().result()
                begun.popleft()
                yield result
        while waiting:
            result = waiting.popleft().result()
            begun.popleft()
            yield result
    finally:
        for future in waiting:
            future.cancel()


def ahead(items: Generator[T], count: int) -> Generator[T]:
    """Yield ``items`` in order, ``count`` of which another thread has made before they are asked for."""
    waiting = deque[Future[T | None]]()
    with closing(items), ThreadPoolExecutor(max_workers=1) as thread:
        try:
            while True:
                while len(waiting) <= count:
                    waiting.append(thread.submit(next, items, None))
                item = waiting.popleft().result()
                if item is None:
                    return
                yield item
        finally:
            for future in waiting:
                future.cancel()


_work: Callable[[Any], Any]  # in a process: what it does


def _inherited(piece: Any) -> Any:
    return _work(piece)


def _begin(work: Callable[[Any], Any]) -> None:
    """Make ready a process that was forked: signals are for its parent, without which it ends."""
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    threading.Thread(target=end_with_parent, daemon=True).start()
