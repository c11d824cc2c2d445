"""Environment variables of libraries, most of which read theirs once, when they are imported."""

from __future__ import annotations

import os
import sys

SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
#: A thread that waits for the others sleeps. By default it spins, and where another process has its core, the threads
#: of one operation spin for each other: training is 5 times slower then.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}


def thread_variables(threads: int) -> dict[str, str]:
    """Return the variables of a worker process whose libraries may start ``threads`` threads each."""
    return {"OMP_NUM_THREADS": str(threads)} | {name: os.environ.get(name, value) for name, value in WAITING.items()}


def prepare_threads() -> None:
    """Let waiting threads sleep, unless the user's environment says otherwise; call it before torch is imported."""
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)


def go_offline() -> None:
    """Switch every hub client of this process, and of those it starts, to its cache: the promise of ``--offline``."""
    for name in SWITCHES:
        os.environ[name] = "1"
    # a client that was imported before has read its switch already
    for module, name in (
        ("huggingface_hub.constants", "HF_HUB_OFFLINE"),
        ("datasets.config", "HF_HUB_OFFLINE"),
        ("datasets.config", "HF_DATASETS_OFFLINE"),
    ):
        if module in sys.modules:
            setattr(sys.modules[module], name, True)


def is_offline() -> bool:
    """Tell whether hub clients must answer from their caches."""
    return os.environ.get(SWITCHES[0], "").upper() in ("1", "ON", "YES", "TRUE")


def started_together() -> bool:
    """Tell whether ``torchrun`` started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ


def is_helper() -> bool:
    """Tell whether another process than this one writes files and says what happens."""
    return started_together() and os.environ["RANK"] != "0"
