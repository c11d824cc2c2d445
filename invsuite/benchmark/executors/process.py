"""One process per device on this machine, or several on its CPU."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import torch

from invsuite._system.devices import pick_devices, processors
from invsuite._system.environment import thread_variables
from invsuite.benchmark.cells import Plan
from invsuite.benchmark.executors.base import Job, Lost, Message, Placement, Task
from invsuite.benchmark.executors.child import main
from invsuite.benchmark.executors.pool import STOP_SECONDS, Pool, tasks_of
from invsuite.benchmark.runner import Reporter, begin
from invsuite.registry import plugin_files
from invsuite.results.outcome import RunOutcome
from invsuite.results.store import Store


class Executor:
    """An executor whose workers are processes of this machine; each sees its own device only."""

    def __init__(self, placement: Placement) -> None:
        self.devices = pick_devices(placement.device)
        self.device = self.devices[0]
        self.placement = placement
        cores = processors()
        if self.device.type == "cpu":
            self.threads = placement.threads or torch.get_num_threads()
            self.workers = placement.workers or max(1, cores // self.threads)
        else:
            self.workers = placement.workers or len(self.devices)
            self.threads = placement.threads or max(1, cores // self.workers)
        self.crowded = self.workers * self.threads > cores

    def run(self, plan: Plan, job: Job, report: Reporter) -> RunOutcome:
        """Give fits to whichever worker is free, those of one model to one worker as far as possible."""
        run = begin(plan, Store(job.folder), self.device, report, job.options)
        tasks = tasks_of(run)
        if tasks:
            if self.crowded:
                report.note(
                    f"{self.workers} workers of {self.threads} threads are more than this machine has cores: a smaller "
                    "--threads is faster (and changes last digits)"
                )
            crew = ProcessCrew(self.workers, self.devices, self.threads, pickle.dumps(job))
            Pool(run, crew, tasks, self.placement.retries).work()
        return run.outcome


@dataclass(eq=False)
class ProcessHandle:
    """A worker process and the pipe to it."""

    number: int
    process: SpawnProcess
    connection: Connection


class ProcessCrew:
    """The worker processes of a run, on ``devices`` in turn."""

    def __init__(self, size: int, devices: Sequence[torch.device], threads: int, job: bytes) -> None:
        self.size, self.devices, self.threads, self.job = size, devices, threads, job
        self._handles: dict[Connection, ProcessHandle] = {}

    def start(self, number: int) -> ProcessHandle:
        """Start a process that sees one device."""
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        device = self.devices[number % len(self.devices)]
        arguments = (theirs, environment(device, self.threads), plugin_files(), self.job, device.type, self.threads)
        process = context.Process(target=main, args=arguments, daemon=True)
        process.start()
        theirs.close()  # so that the pipe ends with the process
        handle = self._handles[ours] = ProcessHandle(number, process, ours)
        return handle

    def submit(self, worker: ProcessHandle, task: Task) -> None:
        """Send a task through the worker's pipe; `listen` tells if the pipe is broken."""
        with contextlib.suppress(OSError):
            worker.connection.send(pickle.dumps(task))

    def listen(self) -> Iterator[tuple[ProcessHandle, Message]]:
        """Yield a message of every worker that has some; the end of a pipe is the end of its worker."""
        for connection in wait(list(self._handles), timeout=1.0):
            handle = self._handles.get(connection)  # type: ignore[call-overload]
            if handle is None:  # discarded just now
                continue
            try:
                message: Message = handle.connection.recv()
            except (EOFError, OSError):
                message = Lost(_ending(handle.process))
            yield handle, message

    def discard(self, worker: ProcessHandle) -> None:
        """Send SIGTERM to a worker, which finishes the file that it writes."""
        self._handles.pop(worker.connection, None)
        worker.connection.close()
        worker.process.terminate()

    def close(self) -> None:
        """Send SIGTERM to all workers, and kill those that take too long."""
        left = list(self._handles.values())
        for handle in left:
            self.discard(handle)
        end = time.monotonic() + STOP_SECONDS
        for handle in left:
            handle.process.join(max(0.0, end - time.monotonic()))
            handle.process.kill()


def _ending(process: SpawnProcess) -> str:
    """Return why a process is gone."""
    process.join(STOP_SECONDS)
    code = process.exitcode
    return f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"


def environment(device: torch.device, threads: int) -> dict[str, str]:
    """Return the variables of a worker: it sees ``device`` only, and a library starts ``threads`` threads at most."""
    variables = thread_variables(threads) | {"CUDA_VISIBLE_DEVICES": ""}
    if device.type == "cuda":
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        index = device.index or 0
        variables["CUDA_VISIBLE_DEVICES"] = visible[index] if visible else str(index)
    return variables
