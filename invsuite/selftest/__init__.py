"""The suite's proof that it catches its own mistakes: plants faults in the real code and shows which guard stops each.

A fault counts as caught only if its guard says nothing without it. A new fault is an entry in one of the files here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import shorten
from typing import Any

from tabulate import tabulate

from invsuite.selftest import data, measures, methods, models, records
from invsuite.selftest.base import Fault, Verdict, try_fault

FAULTS: tuple[Fault, ...] = (*data.FAULTS, *models.FAULTS, *methods.FAULTS, *measures.FAULTS, *records.FAULTS)


def run_selftest(note: Callable[[str], None], faults: Sequence[Fault] = FAULTS) -> list[Verdict]:
    """Try every fault, and call ``note`` with each verdict as it comes."""
    verdicts = []
    for fault in faults:
        verdicts.append(try_fault(fault))
        note(f"{'caught' if verdicts[-1].caught else 'NOT CAUGHT'}: {fault.name} ({verdicts[-1].seconds:.1f} s)")
    return verdicts


def selftest_table(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts for people, those not caught last and named again."""
    body = [[v.fault.name, v.fault.where, v.fault.guard, _outcome(v)] for v in verdicts]
    head = ["Fault", "Planted in", "Guard", "What the guard said"]
    missed = [v for v in verdicts if not v.caught]
    table = tabulate(body, head, tablefmt="simple", maxcolwidths=[28, 28, 30, 60], disable_numparse=True)
    lines = [table, "", f"{len(verdicts) - len(missed)} of {len(verdicts)} planted faults caught"]
    return "\n".join([*lines, *(f"NOT CAUGHT: {v.fault.name}: {_outcome(v)}" for v in missed)])


def selftest_tree(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return the verdicts for programs."""
    return [
        {
            "fault": v.fault.name,
            "planted_in": v.fault.where,
            "guard": v.fault.guard,
            "caught": v.caught,
            "message": v.message,
            "without_the_fault": v.control,
            "seconds": round(v.seconds, 2),
        }
        for v in verdicts
    ]


def _outcome(verdict: Verdict) -> str:
    if verdict.control:
        return f"NOT CAUGHT: it also says so without the fault: {verdict.control}"
    said = shorten(verdict.message, 200, placeholder=" ...")
    return said if verdict.caught else f"NOT CAUGHT: {said or 'nothing was said'}"
