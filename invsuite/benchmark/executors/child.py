"""Where a worker process begins.

It imports nothing heavy before its environment is set: CUDA and OpenMP read theirs when they are loaded.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path

from invsuite._system.signals import end_with_parent, interruptible


def main(
    connection: Connection,
    environment: Mapping[str, str],
    plugins: tuple[Path, ...],
    job: bytes,
    device: str,
    threads: int,
) -> None:
    """Answer tasks until the parent sends SIGTERM or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; what happens then is the parent's
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ.update(environment)
    from invsuite.benchmark.executors.base import Broken
    from invsuite.benchmark.executors.worker import Worker
    from invsuite.errors import InvsuiteError

    try:
        with interruptible():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            worker = Worker(plugins, job, device, threads, connection.send)
            connection.send(worker.ready())
            while True:
                connection.send(worker.compute(connection.recv()))
    except InvsuiteError as error:  # of the start: a worker that is ready answers with its errors
        connection.send(Broken(error))
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        return
