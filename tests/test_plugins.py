"""Plug-ins: templates run as they stand, taken names are refused, and records say what was loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from helpers import TINY_SUITE, invoke

from invsuite import registry
from invsuite.data.sources import SOURCES
from invsuite.errors import UsageError
from invsuite.methods import METHODS
from invsuite.registry import ADAPTERS, METRICS, load_plugins

TEMPLATES = Path(__file__).parent.parent / "docs" / "plugins"
REGISTRIES = (ADAPTERS, METHODS, METRICS, SOURCES, registry.TAKERS)


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """Registries as they were before the test."""
    before = [dict(units) for units in REGISTRIES]  # type: ignore[call-overload]
    yield
    registry.PLUGINS.clear()
    for units, kept in zip(REGISTRIES, before, strict=True):
        units.clear()
        units.update(kept)


def write(folder: Path, body: str, name: str = "own.py") -> Path:
    path = folder / name
    path.write_text(body)
    return path


def test_the_templates_are_short() -> None:
    found = {path.stem: len(path.read_text().splitlines()) for path in TEMPLATES.glob("*.py")}
    assert set(found) == {"model", "method", "metric", "dataset"}
    assert all(lines < 40 for lines in found.values()), found


def test_the_templates_run_together_and_the_records_say_so(tmp_path: Path) -> None:
    """A lab's model, inverted by its method on its data, scored by its measure - from the command line."""
    suite = tmp_path / "own.toml"
    text = TINY_SUITE.replace('["psnr", "ssim", "lpips", "correspondence", "hue_gain"]', '["psnr", "worst_error"]')
    text = text.replace('kind = "scenes"', 'kind = "noise"')
    suite.write_text(text + "[methods.grey-world]\nbrightness = 0.9\n")
    options = [word for path in sorted(TEMPLATES.glob("*.py")) for word in ("--plugin", path)]
    words = ("--suite", suite, "--out", tmp_path / "r", *options)
    result = invoke("bench", "--models", "mylab:tiny", "--methods", "grey-world,ridge,modular", *words)
    assert result.exit_code == 0, result.output
    assert "6 cells computed, 0 reused; 6 ok" in result.stdout
    shown = invoke("show", "tiny-block01-grey-world", *words)
    record = json.loads(shown.stdout)
    assert record["metrics"]["psnr"]["n"] == 6
    assert 0 < record["metrics"]["worst_error"]["mean"] <= 1
    assert record["identity"]["method"] == {"name": "grey-world", "version": 1, "brightness": 0.9}
    digests = {Path(p["plugin"]).name: p["sha256"] for p in record["provenance"]["plugins"]}
    assert digests == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in TEMPLATES.glob("*.py")}
    table = (tmp_path / "r" / "tiny.md").read_text()
    assert "Worst error" in table
    assert "RANDOM WEIGHTS, untrained: tiny" in table
    assert "mylab" in invoke("list", "models", *options).stdout


def test_without_plugins_records_name_none(tiny_suite: Path, tmp_path: Path) -> None:
    words = ("--suite", tiny_suite, "--out", tmp_path / "r")
    which = ("--models", "vit", "--stages", "embed", "--methods", "mean", "--metrics", "psnr")
    assert invoke("bench", *words, *which).exit_code == 0
    assert json.loads(invoke("show", "mean", *words).stdout)["provenance"]["plugins"] == []


def test_a_name_that_is_taken_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    template = (TEMPLATES / "method.py").read_text()
    takes = template.replace('name = "grey-world"', 'name = "ridge"')
    ridge = METHODS["ridge"]
    with pytest.raises(UsageError, match="method 'ridge' is already one of the suite; choose another name"):
        load_plugins([write(tmp_path, takes)])
    assert METHODS["ridge"] is ridge
    load_plugins([write(tmp_path, template, "first.py")])
    both = template.replace("registry.method", 'registry.model("mylab", print)\n    registry.method')
    with pytest.raises(UsageError, match=r"'grey-world' is already one of plug-in '.*first\.py'"):
        load_plugins([write(tmp_path, both, "second.py")])
    assert "mylab" not in ADAPTERS, "what a refused plug-in had registered before is taken back"
    load_plugins([tmp_path / "first.py"])
    assert len(registry.PLUGINS) == 1, "a file is loaded once"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("x = 1", "has no function register"),
        ("raise ValueError('of cheese')", "cannot be loaded: ValueError: of cheese"),
        ("def register(registry): registry.method(dict)", "is no method: derive it from Method"),
        ("def register(registry): registry.metric(3)", "is no metric: derive it from Metric"),
        ("def register(registry): registry.model('m', 3)", "cannot be called"),
        ("def register(registry): registry.dataset('d', dict)", "no dataclass with a method open"),
    ],
)
def test_a_file_that_is_no_plugin_is_one_line(tmp_path: Path, body: str, said: str) -> None:
    result = invoke("list", "methods", "--plugin", write(tmp_path, body))
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'.*none\.py' does not exist"):
        load_plugins([tmp_path / "none.py"])


def test_entry_points_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package's plug-in: an entry point that names its module, or its function."""
    write(tmp_path, (TEMPLATES / "metric.py").read_text(), "mylab_measures.py")
    write(tmp_path, (TEMPLATES / "dataset.py").read_text(), "mylab_data.py")
    monkeypatch.syspath_prepend(tmp_path)
    points = [
        EntryPoint("measures", "mylab_measures", registry.GROUP),
        EntryPoint("data", "mylab_data:register", registry.GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "invsuite.registry" else [])
    load_plugins()
    assert "worst_error" in METRICS
    assert "noise" in SOURCES
    assert [p["plugin"] for p in registry.PLUGINS] == ["measures (mylab_measures)", "data (mylab_data:register)"]
    code = (tmp_path / "mylab_data.py").read_bytes()
    assert registry.PLUGINS[1]["sha256"] == hashlib.sha256(code).hexdigest()
