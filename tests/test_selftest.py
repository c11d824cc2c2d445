"""A guard that is switched off makes the self-test fail. That every planted fault is caught, tests/test_readme.py
shows: ``invsuite selftest`` is a command of the site."""

from __future__ import annotations

import json

import pytest
from helpers import invoke

from invsuite import selftest
from invsuite.metrics.checks import CHECKS, check_measures
from invsuite.models.base import Model
from invsuite.registry import METRICS
from invsuite.selftest import FAULTS, run_selftest, selftest_table
from invsuite.selftest.base import Fault, try_fault


def test_there_are_enough_faults_and_each_has_its_own_name() -> None:
    assert len(FAULTS) >= 20
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def of_names(*names: str) -> tuple[Fault, ...]:
    return tuple(fault for fault in FAULTS if fault.name in names)


def test_the_command_exits_1_when_a_guard_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = of_names("trainable model weights", "photos decoded as BGR")
    assert len(chosen) == 2
    monkeypatch.setattr(selftest, "FAULTS", chosen)
    monkeypatch.setattr(selftest.run_selftest, "__defaults__", (chosen,))
    good = invoke("selftest")
    assert good.exit_code == 0
    assert "2 of 2 planted faults caught" in good.stdout
    monkeypatch.setattr(Model, "check_frozen", lambda self: None)
    bad = invoke("selftest", "--json")
    assert bad.exit_code == 1
    found = {entry["fault"]: entry["caught"] for entry in json.loads(bad.stdout)}
    assert found == {"trainable model weights": False, "photos decoded as BGR": True}
    assert "NOT CAUGHT: trainable model weights" in invoke("selftest").stdout


def test_a_guard_that_always_speaks_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its message would be the right one, but it is there without the fault too."""
    from invsuite.errors import DataError

    def refuse(geometry: object) -> None:
        raise DataError("channels are swapped, mixed or lost")

    monkeypatch.setattr("invsuite.data.folder.check_geometry", refuse)
    verdicts = run_selftest(lambda line: None, of_names("photos decoded as BGR"))
    assert not verdicts[0].caught
    assert "it also says so without the fault" in selftest_table(verdicts)


def test_an_accident_is_not_a_guard() -> None:
    [fault] = of_names("photos decoded as BGR")

    def broken() -> None:
        raise KeyError("elsewhere")

    verdict = try_fault(Fault(fault.name, fault.where, fault.guard, fault.plant, broken, fault.says))
    assert not verdict.caught
    assert verdict.message == "KeyError: 'elsewhere'"


def test_checks_belong_to_measures() -> None:
    assert set(CHECKS) <= set(METRICS)
    check_measures([METRICS[name]() for name in CHECKS])
