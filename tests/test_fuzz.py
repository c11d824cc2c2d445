"""Whatever comes in, the answer is a result or one line of the suite's own: suites, checkpoints, processors, names."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import invoke, small_suite
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from invented import measurement, record

from invsuite._system.files import file_name
from invsuite.benchmark.cells import Selection, make_plan
from invsuite.benchmark.runner import RunOptions, Silent, run
from invsuite.benchmark.suite import load_suite
from invsuite.errors import InvsuiteError, UsageError, WeightsError, boundary, exit_code_of
from invsuite.metrics.base import Values
from invsuite.models.checkpoint import find_weights, read_file
from invsuite.models.preprocessing import Preprocessing
from invsuite.registry import ADAPTERS
from invsuite.results.store import Store

bounded = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SUITE = small_suite("s", {"mean": "{}", "ridge": "{}", "modular": "{ width = 8 }"}, metrics=("psnr", "ssim"))
SCALARS = ["nan", "-inf", "1e400", "-1", "0", "10", "99999999999999999999", "true", "[]", "{}", '""', '"a\\tb"', "'..'"]
SCALARS += ['"../x"', "'C:\\x'", "1979-05-27", "[[1]]", "{ a.b.c = 1 }", '"\\u0000"', "'é'", "0x7f", "[nan]", '"psnr"']
LINES = SUITE.splitlines()


@st.composite
def suites(draw: st.DrawFn) -> bytes:
    """The text of a suite with lines left out, twice, or cut, values exchanged, and bytes of any kind between."""
    lines = []
    for line in LINES:
        what = draw(st.integers(0, 14))
        key, equals, value = line.partition(" = ")
        parts = {
            0: [],
            1: [line, line],
            2: [line[: draw(st.integers(0, len(line)))]],
            3: [f"{key}{equals}{draw(st.sampled_from(SCALARS))}"],
            4: [f"{draw(st.text(max_size=6))}{equals}{value}"],
            5: [line.replace(value[:3], draw(st.sampled_from(SCALARS)), 1)] if value else [],
        }
        lines += parts.get(what, [line])
    text = "\n".join(lines).encode("utf-8", "surrogatepass")
    place = draw(st.integers(0, len(text)))
    return text[:place] + draw(st.binary(max_size=3)) + text[place:] if draw(st.booleans()) else text


@bounded
@given(text=suites())
def test_a_suite_is_read_or_refused(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_bytes(text)
    try:
        suite = load_suite(str(path))
    except UsageError:
        return
    assert math.isfinite(suite.budget.limit)
    for name in (suite.name, *(model.name for model in suite.models)):
        assert (tmp_path / f"{name}.md").parent == tmp_path
        assert name.strip(". ")


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=suites(), command=st.sampled_from(["report", "check", "show", "compare", "findings"]))
def test_a_command_ends_with_a_line_and_a_code(text: bytes, command: str, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_bytes(text)
    words = {"show": ["x"], "compare": ["a/b/c", "d/e/f"], "findings": [str(path)]}.get(command, [])
    options = [] if command == "findings" else ["--suite", str(path)]
    result = invoke(command, *words, *options, "--out", tmp_path / "none")
    assert result.exit_code in range(4)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert len(result.stderr.splitlines()) == 1


def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))


TENSORS = st.sampled_from([torch.zeros(3, 2), torch.ones(3), torch.zeros(2, 3), torch.zeros(2), torch.tensor(math.nan)])
KEYS = st.sampled_from(["0.weight", "0.bias", "1.weight", "1.bias", "module.0.weight", "model", "state_dict", "", "é/"])
LEAVES = st.one_of(TENSORS, st.none(), st.integers(), st.text(max_size=3), st.floats())
TREES = st.recursive(
    LEAVES, lambda inner: st.one_of(st.dictionaries(KEYS, inner, max_size=6), st.lists(inner, max_size=3))
)


@bounded
@given(tree=TREES)
def test_a_checkpoint_is_found_or_named(tree: Any, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(tree, path)
    try:
        weights = find_weights(path, read_file(path), network())
    except WeightsError:
        return
    assert all(isinstance(value, torch.Tensor) for value in weights.values())


@bounded
@given(content=st.binary(max_size=200), suffix=st.sampled_from([".pth", ".safetensors", ".bin"]))
def test_a_file_of_weights_of_any_bytes_is_named(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(InvsuiteError, match="weights file"):
        find_weights(path, read_file(path), network())


SIDES = st.one_of(st.none(), st.integers(-2, 400), st.floats(), st.text(max_size=3), st.booleans())
ENTRIES = st.dictionaries(st.sampled_from(["height", "width", "shortest_edge", "longest_edge", "x"]), SIDES)
VALUES = st.one_of(SIDES, ENTRIES, st.lists(st.floats(), max_size=4))
NAMES = ["do_rescale", "do_normalize", "do_resize", "do_pad", "do_center_crop", "do_flip", "rescale_factor", "size"]
NAMES += ["crop_size", "pad_size", "image_mean", "image_std", "resample", "crop_pct"]


@bounded
@given(configuration=st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_a_processor_is_obeyed_or_refused(configuration: dict[str, Any]) -> None:
    """What it does not say by name goes through the boundary that stands around every loader."""
    try:
        with boundary("model 'x' cannot be loaded"):
            known = Preprocessing.of(SimpleNamespace(**configuration), "preprocessor_config.json")
    except InvsuiteError:
        return
    assert all(math.isfinite(number) for number in (*known.mean, *known.std))


ODD = st.one_of(st.floats(), st.integers(), st.none(), st.text(), st.just(np.float16(1)), st.just(torch.ones(1)))


@bounded
@given(values=st.one_of(st.lists(ODD, max_size=4), ODD), ceiling=ODD)
def test_values_of_a_measure_are_numbers_or_refused(values: Any, ceiling: Any) -> None:
    try:
        kept = Values(values, ceiling=ceiling)
    except InvsuiteError:
        return
    json.dumps([kept.per_image, kept.ceiling], allow_nan=False)


@bounded
@given(text=st.text(max_size=400))
def test_a_name_of_a_file_stays_where_it_is(text: str) -> None:
    name = file_name(f"vit-{text}")
    assert Path("folder", name).parent == Path("folder")
    assert len(name.encode()) < 230


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyError("x"), SystemExit(2), MemoryError(), InvsuiteError("x")])
def test_finished_cells_stay_whatever_a_loader_raises(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(source: str, name: str) -> Any:
        raise error

    path = tmp_path / "s.toml"
    path.write_text(small_suite("s", {"mean": "{}"}, stages=("embed",), source="bundled:vit"))
    store = Store(tmp_path / "r")
    store.write(record(method="mean", measurements=[measurement("psnr", [1.0])]))
    [before] = store.folder.glob("*.json")
    content = before.read_bytes()
    monkeypatch.setitem(ADAPTERS._units, "bundled", SimpleNamespace(load=load, random=None))
    plan = make_plan(load_suite(str(path)), Selection(), lambda text: None)
    outcome = run(plan, store, torch.device("cpu"), Silent(), RunOptions())
    assert (outcome.computed, outcome.failed) == (1, 1)
    assert before.read_bytes() == content
    assert {exit_code_of(one.fault) for one in store.records() if not one.ok} == {1}
