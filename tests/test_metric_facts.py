"""What every measure of the suite declares and says of itself, beside the contracts that a plug-in's keeps too."""

from __future__ import annotations

import doctest
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, get_args

import pytest
import torch
from helpers import noisy_by_content, scoring

from invsuite.errors import NotApplicable, UsageError
from invsuite.metrics import functional, make_metric
from invsuite.metrics.base import Group, Metric, Scoring, Subject, Values
from invsuite.models.base import Model
from invsuite.registry import METRICS
from invsuite.selftest.measures import stand_in

NAMES = sorted(METRICS)
SECTIONS = ("Formula", "Range", "Ceiling", "Floor", "Undefined", "Pitfalls", "Source")


def sections(cls: type) -> dict[str, str]:
    """The sections of a measure's documentation; those that a class lacks are its base class's, arguments add up."""
    merged: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        text = inspect.cleandoc(vars(base).get("__doc__") or "") if issubclass(base, Metric) else ""
        own = dict(re.findall(r"^([A-Z][a-z]+):\n((?: {4}.*\n?|\n)+)", text, re.M))
        merged |= own | {"Args": merged.get("Args", "") + "\n" + own.get("Args", "")}
    return merged


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_has_every_section_of_the_page(name: str) -> None:
    own = sections(METRICS[name])
    assert [title for title in SECTIONS if not own.get(title, "").strip()] == []
    documented = set(re.findall(r"^    (\w+): ", own["Args"], re.M))
    assert {f.name for f in fields(METRICS[name])} <= documented


@pytest.mark.parametrize("unit", [*(getattr(functional, name) for name in functional.__all__), Metric, Scoring, Values])
def test_public_names_have_an_example_that_runs(unit: Any) -> None:
    [found] = doctest.DocTestFinder(recurse=False).find(unit, globs=dict(vars(sys.modules[unit.__module__])))
    assert found.examples
    assert doctest.DocTestRunner().run(found).failed == 0


@pytest.mark.parametrize("name", NAMES)
def test_facts(name: str) -> None:
    cls = METRICS[name]
    assert cls.group in get_args(Group)
    assert cls.tolerance >= 10.0 ** (1 - cls.digits), "a difference in the last digit shown is rounding"
    assert 20 < len(cls.description()) < 400
    assert cls.description().endswith(".")
    assert make_metric(name).params() == {f.name: f.default for f in fields(cls)}


def test_labels_differ() -> None:
    labels = [metric.label for metric in METRICS.values()]
    assert len(set(labels)) == len(labels)


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown metric 'psrn'.*psnr"):
        make_metric("psrn")


def test_a_measure_that_declares_no_tolerance_has_ten_units_of_its_last_digit() -> None:
    class Plain(Metric):
        """A measure."""

        def compute(self, scoring: Scoring) -> Any:
            """Never called."""

    class Coarse(Plain):
        """A measure of fewer digits."""

        digits = 1

    assert Plain.tolerance == pytest.approx(0.01)
    assert Coarse.tolerance == Coarse().tolerance == 1.0


class Recording(Subject):
    """A subject that notes which of its attributes a measure reads."""

    def __getattribute__(self, name: str) -> Any:
        object.__getattribute__(self, "__dict__").setdefault("read", set()).add(name)
        return super().__getattribute__(name)


@pytest.fixture(scope="module")
def backbones() -> Iterator[None]:
    with stand_in("alex", "squeeze", "vgg"):
        yield


@pytest.mark.parametrize("name", NAMES)
def test_what_it_reads_is_what_it_declares(name: str, backbones: None, vit: Model, detr: Model) -> None:
    metric = make_metric(name)
    metric.prepare(torch.device("cpu"))
    read: set[str] = set()
    computed = 0
    for model, stage in ((vit, "block03"), (detr, "encoder")):
        material = scoring(noisy_by_content, 4, model=model, stage=stage, witness=detr)
        material.subject.__class__ = Recording
        material.subject.read = set()
        try:
            values = metric.compute(material)
        except NotApplicable:
            continue
        computed += 1
        read |= material.subject.read
        assert values.undefined or None not in values.per_image or metric.pooled
        assert (values.interval is None) or metric.pooled
    assert computed
    assert ("edit_limit" in read) == metric.uses_edits
    assert ("witness" in read) == metric.uses_witness


def test_looking_a_measure_up_imports_no_heavy_library() -> None:
    """Libraries are imported where they are used: the list of measures costs little more than torch."""
    heavy = "{'lpips', 'skimage', 'scipy', 'matplotlib', 'pycocotools', 'torchmetrics', 'torchvision', 'transformers'}"
    code = f"import sys; from invsuite.registry import METRICS; len(METRICS); print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
