"""Workers of a Ray cluster: one actor each, on whichever node has room.

Nothing large goes through Ray: a worker gets the job and its tasks as a few kilobytes, reads weights and images from
disk, keeps representations to itself, and writes records to the folder of the run, which all nodes share.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from invsuite._system.devices import pick_device
from invsuite._system.environment import thread_variables
from invsuite._system.signals import interruptible
from invsuite.benchmark.cells import Plan
from invsuite.benchmark.executors.base import Broken, Job, Lost, Message, Placement, Task
from invsuite.benchmark.executors.pool import STOP_SECONDS, Pool, tasks_of
from invsuite.benchmark.executors.worker import Worker
from invsuite.benchmark.runner import Reporter, begin
from invsuite.errors import InvsuiteError, SetupError, UsageError
from invsuite.registry import plugin_files
from invsuite.results.outcome import RunOutcome
from invsuite.results.store import Store

try:
    import ray
except ImportError as error:
    raise UsageError("--executor ray needs Ray: pip install 'invsuite[ray]'") from error

#: Variables that workers inherit by their prefix: where weights and photos are, and whether there is a network. Tokens
#: they do not: Ray shows a worker's variables to everybody on the cluster.
INHERITED = ("INVSUITE_", "HF_", "TRANSFORMERS_", "TORCH_HOME")


class Executor:
    """An executor whose workers are actors; those that do not fit the cluster yet start when they do."""

    def __init__(self, placement: Placement) -> None:
        if placement.device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"device '{placement.device}': Ray chooses it; use auto, cpu or cuda, and --gpus")
        self.device = pick_device("cpu" if placement.device == "cpu" else "auto")
        self.placement = placement

    def run(self, plan: Plan, job: Job, report: Reporter) -> RunOutcome:
        """Give fits to whichever worker is free, those of one model to one worker as far as possible."""
        run = begin(plan, Store(job.folder), self.device, report, job.options)
        tasks = tasks_of(run)
        if tasks:
            with _connected(self.placement.address or "auto"):
                share = share_of(self.placement)
                report.note(f"up to {share.workers} workers of {share.cpus} CPUs and {share.gpus:g} GPUs")
                Pool(run, RayCrew(share, pickle.dumps(job)), tasks, self.placement.retries).work()
        return run.outcome


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Connect to the cluster at ``address`` for the time of the block.

    Raises:
        SetupError: if there is none.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        if address != "auto":  # Ray itself tries for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise SetupError(f"no Ray cluster to join at '{address}' ({why}); start one with: ray start --head") from error
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's own ends at once, where a write is to be finished
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Share:
    """How many workers there are, and the CPUs and GPUs that each asks for."""

    workers: int
    cpus: int
    gpus: float


def share_of(placement: Placement) -> Share:
    """Return what workers ask of the cluster to which this process is connected, where the options leave it open.

    Raises:
        SetupError: if no node is large enough for one, and the number of workers is left open too.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    with_gpus = [node for node in nodes if node.get("GPU")]
    gpus = placement.gpus
    if gpus is None:
        gpus = 0.0 if placement.device == "cpu" or (placement.device == "auto" and not with_gpus) else 1.0
    cpus = placement.threads
    if cpus is None:  # as many as this process would use, or a GPU's share of its node
        shares = [int(node.get("CPU", 0) * min(1.0, gpus / node["GPU"])) for node in with_gpus]
        cpus = max(1, min(shares, default=1)) if gpus else torch.get_num_threads()
    on_one = int(1 / gpus + 1e-6) if gpus else 0  # workers on a GPU
    room = sum(int(min(node.get("CPU", 0) // cpus, node.get("GPU", 0) * on_one if gpus else 1e9)) for node in nodes)
    if not (placement.workers or room):
        raise SetupError(f"no node of the Ray cluster has {cpus} CPUs and {gpus:g} GPUs: see --threads and --gpus")
    return Share(placement.workers or room, cpus, gpus)


class Mailbox:
    """The parent's actor: what workers say while they compute, and the word to stop.

    Two of `ray.util.queue.Queue` would do the same with one more process, and could not be given a message without
    waiting for it: a queue that is lost would break the fit that reports its progress.
    """

    def __init__(self) -> None:
        self._messages: list[tuple[int, Message]] = []
        self._stop = asyncio.Event()

    async def put(self, sender: int, message: Message) -> None:
        """Keep a message of worker ``sender``."""
        self._messages.append((sender, message))

    async def take(self) -> list[tuple[int, Message]]:
        """Return all messages since the last time."""
        messages, self._messages = self._messages, []
        return messages

    async def stop(self) -> None:
        """Ask every worker to stop."""
        self._stop.set()

    async def stopped(self) -> None:
        """Wait until workers are asked to stop."""
        await self._stop.wait()


class RayWorker:
    """An actor that is a worker. Its methods run in the main thread of their process, as time limits need.

    Args:
        mailbox: the parent's `Mailbox`.
        sender: the number by which the parent knows this worker.
        folder: the parent's working directory, to which relative paths of a suite refer.
        plugins: see `Worker`.
        job: see `Worker`.
        device: see `Worker`.
        threads: see `Worker`.
    """

    def __init__(
        self,
        mailbox: Any,
        sender: int,
        folder: Path,
        plugins: tuple[Path, ...],
        job: bytes,
        device: str,
        threads: int,
    ) -> None:
        self._mailbox, self._last = mailbox, None
        self._error: InvsuiteError | None = None

        def tell(message: Message) -> None:
            self._last = mailbox.put.remote(sender, message)

        if folder.is_dir():
            os.chdir(folder)
        try:
            self._worker = Worker(plugins, job, device, threads, tell)
        except InvsuiteError as error:
            self._error = error
        threading.Thread(target=self._end_when_asked, daemon=True).start()

    def ready(self) -> Message:
        """Return where this worker is, or why it cannot work."""
        return self._worker.ready() if self._error is None else Broken(self._error)

    def compute(self, task: bytes) -> Message:
        """Compute a pickled `Task`, unless it is stopped."""
        try:
            with interruptible():
                answer = self._worker.compute(task)
                if self._last is not None:
                    ray.get(self._last)  # what was said before the answer arrives before it
                return answer
        except KeyboardInterrupt:
            return Lost("stopped by a signal")

    def _end_when_asked(self) -> None:
        with suppress(ray.exceptions.RayError):  # a lost mailbox is the end of the run, too
            ray.get(self._mailbox.stopped.remote())
        os.kill(os.getpid(), signal.SIGTERM)


@dataclass(eq=False)
class RayHandle:
    """An actor, its call that is under way, and whether that is a task."""

    number: int
    sender: int
    actor: Any
    call: Any
    computing: bool = False


class RayCrew:
    """The actors of a run, each with its share of the cluster."""

    def __init__(self, share: Share, job: bytes) -> None:
        self.size, self.share, self.job = share.workers, share, job
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=True
        )
        self._mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        self._handles: dict[int, RayHandle] = {}
        self._started = 0

    def start(self, number: int) -> RayHandle:
        """Ask for an actor; Ray starts it where there is room."""
        self._started += 1
        share = self.share
        variables = {k: v for k, v in os.environ.items() if k.startswith(INHERITED) and "TOKEN" not in k}
        actor = ray.remote(RayWorker).options(
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            max_restarts=0,  # `Pool` replaces what is lost
            runtime_env={"env_vars": variables | thread_variables(share.cpus)},
        )
        device = "cuda" if share.gpus else "cpu"
        started = actor.remote(self._mailbox, self._started, Path.cwd(), plugin_files(), self.job, device, share.cpus)
        handle = self._handles[self._started] = RayHandle(number, self._started, started, started.ready.remote())
        return handle

    def submit(self, worker: RayHandle, task: Task) -> None:
        """Call the actor with a task."""
        worker.computing = True
        worker.call = worker.actor.compute.remote(pickle.dumps(task))

    def listen(self) -> Iterator[tuple[RayHandle, Message]]:
        """Yield what workers have said, then the answers of calls that ended.

        Raises:
            SetupError: if the mailbox is lost, and the messages in it.
        """
        calls = {handle.call: handle for handle in self._handles.values() if handle.call is not None}
        ended, _ = ray.wait(list(calls), timeout=1.0)
        try:
            messages = ray.get(self._mailbox.take.remote())
        except ray.exceptions.RayError as error:
            raise SetupError(
                f"the actor that workers report to was lost ({_ending(error)}); finished cells are kept: give its node "
                "more memory or fewer workers, and run the same command again"
            ) from error
        for sender, message in messages:
            if sender in self._handles:
                yield self._handles[sender], message
        for call in ended:
            handle = calls[call]
            handle.call, handle.computing = None, False
            try:
                yield handle, ray.get(call)
            except ray.exceptions.RayError as error:
                yield handle, Lost(_ending(error))

    def discard(self, worker: RayHandle) -> None:
        """Give the resources of an actor back."""
        self._handles.pop(worker.sender, None)
        ray.kill(worker.actor)

    def close(self) -> None:
        """Ask all workers to stop, wait for those that compute, and end them."""
        self._mailbox.stop.remote()
        calls = [handle.call for handle in self._handles.values() if handle.computing]
        if calls:
            ray.wait(calls, num_returns=len(calls), timeout=STOP_SECONDS)
        for handle in list(self._handles.values()):
            self.discard(handle)
        ray.kill(self._mailbox)


def _ending(error: Exception) -> str:
    """Return why an actor is gone, on one short line."""
    text = str(error).strip()
    why = text.partition("The actor is dead because ")[2] or text.splitlines()[-1]
    return " ".join(why.split())[:200]
