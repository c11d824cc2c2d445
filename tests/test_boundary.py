"""The boundary around what is not the suite's: loaders, plug-ins, measures; one line, and the rest goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import copy, invoke, scoring, small_suite

from invsuite import registry
from invsuite.benchmark.cells import LoadedModel, Selection, UnavailableModel, make_plan
from invsuite.benchmark.runner import Run, RunOptions, Silent
from invsuite.benchmark.scoring import measure, measure_all
from invsuite.benchmark.suite import load_suite
from invsuite.errors import DataError, OutsideError, UsageError, boundary
from invsuite.metrics import make_metric
from invsuite.metrics.base import Metric, Values
from invsuite.registry import METHODS, METRICS, load_plugins, register
from invsuite.results.store import Store

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """Registries without plug-ins after each test."""
    yield
    registry.forget_plugins()


def own(compute: Callable[[Any], Any], **facts: Any) -> Metric:
    """A measure of the user's."""
    body = {"compute": lambda self, scoring: compute(scoring), "label": "Mine", "direction": "lower"} | facts
    return type("Mine", (Metric,), {"name": "mine", "__doc__": "Mine."} | body)()


def leave(_: object) -> Values:
    sys.exit(3)


WRONG = {
    "too few values": (lambda s: Values([1.0]), "it gave 1 values for 2 images"),
    "no Values": (lambda s: [1.0] * len(s.images), "it gave list, not Values"),
    "nothing": (lambda s: None, "it gave NoneType, not Values"),
    "NaN": (lambda s: Values([1.0, float("nan")]), "gave nan for image 1 and 0 others"),
    "NaN of another kind": (lambda s: Values(torch.tensor([1.0, torch.inf])), "gave inf for image 1"),
    "a text": (lambda s: Values(["1.0", "2.0"]), "gave str for image 0, not a number"),
    "tensors of several entries": (lambda s: Values([torch.ones(2)] * 2), "gave Tensor for image 0, not a number"),
    "a number": (lambda s: Values(1.0), "gave float, not one value per image"),
    "a ceiling that is NaN": (lambda s: Values([1.0, 2.0], ceiling=float("nan")), "gave nan for its ceiling"),
    "facts that are no JSON": (lambda s: Values([1.0, 2.0], facts={"x": torch.ones(2)}), "TypeError"),
    "facts that are NaN": (lambda s: Values([1.0, 2.0], facts={"x": float("nan")}), "ValueError"),
    "an exception": (lambda s: 1 / 0, "ZeroDivisionError: division by zero"),
    "an exception of several lines": (lambda s: int("a\nb"), r"ValueError: invalid literal for int() with base 10: "),
    "the end of the process": (leave, "SystemExit: 3"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_measure_that_is_wrong_fails_alone_and_is_named(case: str) -> None:
    compute, said = WRONG[case]
    mine, psnr = measure_all([own(compute), make_metric("psnr")], ["0", "1"], scoring(copy, 2), CPU)
    assert mine.status == "failed"
    assert mine.reason.startswith("measure 'mine' failed: ")
    assert said in mine.reason
    assert "\n" not in mine.reason
    assert psnr.ok
    json.dumps([mine.values, mine.facts], allow_nan=False)


RIGHT = {
    "tensor": lambda: torch.tensor([1, 2]),
    "half": lambda: torch.tensor([1.0, 2.0], dtype=torch.float16),
    "array": lambda: np.array([1.0, 2.0], dtype=np.float32),
    "tensors": lambda: [torch.tensor(1.0), torch.tensor([2.0])],
    "scalars": lambda: [np.float32(1), np.int64(2)],
    "whole numbers": lambda: (True, 2),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_numbers_of_any_kind_become_numbers(kind: str) -> None:
    measured = measure(
        own(lambda s: Values(RIGHT[kind](), interval=(torch.tensor(0.5), 3))), "0", scoring(copy, 2), CPU
    )
    assert measured.values == [1.0, 2.0]
    assert all(type(value) is float for value in measured.values)
    assert (measured.low, measured.high) == (0.5, 3.0)
    json.dumps(measured.values)


def test_a_preparation_that_breaks_is_asked_again_and_fails_its_measure_alone(tmp_path: Path) -> None:
    def prepare(self: Metric, device: torch.device) -> dict[str, str]:
        raise ImportError("no module 'x'")

    broken = own(lambda s: Values([1.0, 2.0]), prepare=prepare)
    assert measure(broken, "0", scoring(copy, 2), CPU).reason == "measure 'mine' failed: ImportError: no module 'x'"
    run = Run(None, Store(tmp_path), CPU, Silent(), RunOptions(), {})  # type: ignore[arg-type]
    assert not run._is_unavailable(broken)


def test_the_boundary_lets_the_suites_own_errors_through() -> None:
    with pytest.raises(DataError, match="ours"), boundary("x"):
        raise DataError("ours")
    with pytest.raises(OutsideError, match=r"^model: RuntimeError: in loading: size mismatch$"), boundary("model"):
        raise RuntimeError("in loading:\n\tsize mismatch\n\tmore")
    with pytest.raises(OutsideError, match=r"^x: KeyError: 'a{50}") as caught, boundary("x"):
        raise KeyError("a" * 50 + " b" * 1000)
    assert len(str(caught.value)) < 500


LOADERS = {
    "raises": ("raise RuntimeError('Error(s) in loading')", "cannot be loaded: RuntimeError: Error(s) in loading"),
    "leaves": ("raise SystemExit(1)", "cannot be loaded: SystemExit: 1"),
    "gives nothing": ("return None", "the loader of 'mylab:x' gave NoneType, not a Model"),
}


def plugin(folder: Path, body: str, name: str = "own.py") -> Path:
    path = folder / name
    path.write_text(f"from invsuite import *\nfrom invsuite import register\n\n\n{body}\n")
    return path


def two_models(folder: Path, source: str = "mylab:x") -> Path:
    path = folder / "s.toml"
    text = small_suite("s", {"mean": "{}"}, stages=("embed",))
    path.write_text(text + f'models.mine = {{ source = "{source}", stages = ["embed"] }}\n')
    return path


@pytest.mark.parametrize("case", LOADERS)
def test_a_loader_that_breaks_is_its_models_record_and_the_others_run(case: str, tmp_path: Path) -> None:
    body, said = LOADERS[case]
    load_plugins([plugin(tmp_path, f"@register.model('mylab')\ndef load(source, name):\n    {body}")])
    plan = make_plan(load_suite(str(two_models(tmp_path))), Selection(), lambda text: None)
    vit, mine = plan.models
    assert isinstance(vit, LoadedModel)
    assert isinstance(mine, UnavailableModel)
    assert str(mine.error).endswith(said)
    assert "mylab:x" in str(mine.error)


def test_data_that_breaks_is_a_record_and_a_line(tmp_path: Path) -> None:
    body = (
        "from dataclasses import dataclass\n\n\n@register.dataset('mine')\n@dataclass(frozen=True)\n"
        "class Mine(Source):\n    count: int = 4\n\n"
        "    def open(self, size, resampling):\n        return open('/no/such/file')\n"
    )
    path = tmp_path / "s.toml"
    text = small_suite("s", {"mean": "{}"}, stages=("embed",))
    path.write_text(text.replace('score = { kind = "scenes", seed = 63', 'score = { kind = "mine"'))
    words = ("--suite", path, "--out", tmp_path / "r", "--device", "cpu", "--plugin", plugin(tmp_path, body))
    result = invoke("bench", *words)
    assert result.exit_code == 1, result.output
    [line] = [line for line in result.stdout.splitlines() if line.startswith("failed: ")]
    assert "the data of model 'vit' cannot be opened: FileNotFoundError" in line
    assert "Traceback" not in result.output


def test_notes_that_are_no_json_fail_their_cell_alone(tmp_path: Path) -> None:
    suite = load_suite(str(two_models(tmp_path, "bundled:vit")))
    plan = make_plan(suite, Selection(models=["vit"]), lambda text: None)
    run = Run(plan, Store(tmp_path), CPU, Silent(), RunOptions(), {})
    [cell] = plan.cells
    run.finish(cell, {"status": "ok", "notes": {"loss": float("nan")}})
    record = run.store.read(cell.id)
    assert record is not None
    assert record.status == "failed"
    assert record.reason.startswith("what 'vit/embed/mean/s0' notes of itself is no JSON: ValueError: ")


UNITS = {
    "class M(Metric):\n    name = 'm'\n    label = 'M'\n    direction = 'lower'": "metric 'm' lacks compute()",
    "class M(Metric):\n    name = 'm'\n    direction = 'lower'\n    compute = print": "'label' of metric 'm' is None",
    "class M(Metric):\n    name = 'm'\n    label = 'M'\n    direction = 'down'\n    compute = print": (
        "'direction' of metric 'm' is 'down', expected higher or lower or one or zero"
    ),
    "class M(Metric):\n    name, label, direction, digits = 'm', 'M', 'lower', -1\n    compute = print": "'digits'",
    "class M(Metric):\n    name = '../m'\n    compute = print": "the name of metric '../m' is not letters a to z",
}


@pytest.mark.parametrize("body", UNITS)
def test_a_unit_that_lacks_what_tables_need_is_refused_by_name(body: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_plugins([plugin(tmp_path, f"@register.metric\n{body}")])
    assert UNITS[body] in str(caught.value)
    assert "m" not in METRICS


def test_parameters_that_a_plugin_refuses_are_usage(tmp_path: Path) -> None:
    body = (
        "from dataclasses import dataclass\n\n\n@register.method\n@dataclass(frozen=True)\nclass Mine(Method):\n"
        "    name, family, source = 'mine', 'floor', 'me'\n    size: int = 1\n\n    def __post_init__(self):\n"
        "        if self.size > 3:\n            raise ValueError('too large')\n\n    fit = print\n"
    )
    load_plugins([plugin(tmp_path, body)])
    path = tmp_path / "s.toml"
    path.write_text(small_suite("s", {"mine": "{ size = 4 }"}))
    with pytest.raises(UsageError, match=r"'methods\.mine' is refused: ValueError: too large"):
        load_suite(str(path))


GREY = """@register.method
class Mine(Method):
    name, family, source = "mine", "floor", "me"
    fit = print


@register.metric
class Own(Metric):
    name, label, direction = "own", "Own", "lower"
    compute = print


@register.model("mylab")
def load(source, name):
    from invsuite import load_model
    return load_model("bundled:vit", name)
"""


def identities(folder: Path, body: str) -> tuple[str, str, Any]:
    """What a plug-in's text decides: ids of a cell of its method and a measurement, and its adapter's edition."""
    registry.forget_plugins()
    load_plugins([plugin(folder, body)])
    path = folder / "s.toml"
    text = small_suite("s", {"mine": "{}"}, stages=("embed",), metrics=("own",), source="mylab:x")
    path.write_text(text)
    plan = make_plan(load_suite(str(path)), Selection(), lambda text: None)
    [entry], [cell] = plan.models, plan.cells
    assert isinstance(entry, LoadedModel)
    return cell.id, entry.identity_of(plan.metrics[0], 2), cell.identity.get("plugins")


def test_an_edited_plugin_is_another_method_measure_and_model(tmp_path: Path) -> None:
    first, same = identities(tmp_path, GREY), identities(tmp_path, GREY)
    assert first == same
    edited = identities(tmp_path, f"{GREY}# a fault was mended\n")
    assert all(one != other for one, other in zip(first, edited, strict=True))


def test_a_version_that_a_plugin_says_is_what_counts(tmp_path: Path) -> None:
    versioned = GREY.replace('"me"\n', '"me"\n    version = 3\n')
    load_plugins([plugin(tmp_path, versioned)])
    assert METHODS.edition("mine") == ""
    assert METRICS.edition("own") != ""
    assert METHODS.edition("ridge") == ""


def test_a_unit_of_a_notebook_is_told_by_its_text() -> None:
    class Mine(METHODS["ridge"]):  # type: ignore[misc]
        name = "mine"

    Mine.__module__ = "a_notebook"
    register.method(Mine)
    assert len(METHODS.edition("mine")) == 64


def test_a_seed_given_twice_is_one(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(small_suite("s", {"modular": "{}"}, stages=("embed",)).replace("seeds = [0]", "seeds = [0, 1, 0]"))
    suite = load_suite(str(path))
    assert suite.seeds == (0, 1)
    plan = make_plan(suite, Selection(seeds=[3, 3]), lambda text: None)
    assert [cell.seed for cell in plan.cells] == [3]
