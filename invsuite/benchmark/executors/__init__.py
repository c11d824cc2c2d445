"""Who computes the cells of a plan: this process, one per device or model, a Ray cluster, or what torchrun started.

Records do not depend on it: every executor computes fits by `invsuite.benchmark.runner.Session`, into the same store.
Importing this package imports neither torch nor Ray: a worker's environment is set before they are.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

from invsuite._system.environment import started_together
from invsuite.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from invsuite.benchmark.executors.base import Executor, Placement

#: name -> module whose class ``Executor`` it is
EXECUTORS = {
    "auto": "invsuite.benchmark.executors.auto",
    "serial": "invsuite.benchmark.executors.serial",
    "process": "invsuite.benchmark.executors.process",
    "ray": "invsuite.benchmark.executors.ray",
    "torchrun": "invsuite.benchmark.executors.torchrun",
}
#: executors that understand an option which others do not
TAKERS = {
    "workers": ("auto", "process", "ray"),
    "retries": ("auto", "process", "ray"),
    "gpus": ("ray",),
    "address": ("ray",),
}


def make_executor(placement: Placement) -> Executor:
    """Return the executor that ``placement`` names; its workers load the plug-ins of this process.

    Of processes that ``torchrun`` started together ``auto`` takes ``torchrun``.

    Raises:
        UsageError: for an unknown name, an option that is not for it, or one whose package is not installed.
        SetupError: for a device that is not there.
    """
    if placement.executor not in EXECUTORS:
        raise unknown_name("executor", placement.executor, EXECUTORS)
    if placement.executor == "auto" and started_together():
        placement = replace(placement, executor="torchrun")
    for option, takers in TAKERS.items():
        if getattr(placement, option) is not None and placement.executor not in takers:
            raise UsageError(f"--{option} is not for --executor {placement.executor}, but for {' and '.join(takers)}")
    executor: Executor = import_module(EXECUTORS[placement.executor]).Executor(placement)
    return executor
