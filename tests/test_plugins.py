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
from invsuite.errors import UsageError
from invsuite.registry import ADAPTERS, METHODS, METRICS, SOURCES, load_plugins, loaded_plugins, register

TEMPLATES = Path(__file__).parent.parent / "docs" / "plugins"


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """Registries without plug-ins after each test."""
    yield
    registry.forget_plugins()


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
    assert record["measurements"]["psnr"]["n"] == 6
    assert 0 < record["measurements"]["worst_error"]["mean"] <= 1
    digests = {Path(p["plugin"]).name: p["sha256"] for p in record["provenance"]["plugins"]}
    edition = {"plugins": {"grey-world": digests["method.py"]}}
    assert record["identity"]["method"] == {"name": "grey-world", "version": 1, "brightness": 0.9} | edition
    assert record["identity"]["plugins"] == {"mylab": digests["model.py"], "noise": digests["dataset.py"]}
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
    both = template.replace("@register.method", "register.model('mylab')(print)\n\n\n@register.method")
    with pytest.raises(UsageError, match=r"'grey-world' is already one of plug-in '.*first\.py'"):
        load_plugins([write(tmp_path, both, "second.py")])
    assert "mylab" not in ADAPTERS, "what a refused plug-in had registered before is taken back"
    load_plugins([tmp_path / "first.py"])
    assert len(loaded_plugins()) == 1, "a file is loaded once"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("x = 1", "registers nothing: decorate its units with invsuite.register"),
        ("raise ValueError('of cheese')", "cannot be loaded: ValueError: of cheese"),
        ("register.method(dict)", "is no method: derive it from Method"),
        ("register.metric(3)", "is no metric: derive it from Metric"),
        ("register.model('m')(3)", "cannot be called"),
        ("register.dataset('d')(dict)", "no dataclass that is derived from Source"),
    ],
)
def test_a_file_that_is_no_plugin_is_one_line(tmp_path: Path, body: str, said: str) -> None:
    result = invoke("list", "methods", "--plugin", write(tmp_path, f"from invsuite import register\n{body}"))
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'.*none\.py' does not exist"):
        load_plugins([tmp_path / "none.py"])


def test_entry_points_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package's plug-in: an entry point that names its module, or a unit."""
    write(tmp_path, (TEMPLATES / "metric.py").read_text(), "mylab_measures.py")
    write(tmp_path, (TEMPLATES / "dataset.py").read_text(), "mylab_data.py")
    monkeypatch.syspath_prepend(tmp_path)
    points = [
        EntryPoint("measures", "mylab_measures", registry.GROUP),
        EntryPoint("data", "mylab_data:NoiseSource", registry.GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "invsuite.plugins" else [])
    load_plugins()
    assert "worst_error" in METRICS
    assert "noise" in SOURCES
    assert [plugin.name for plugin in loaded_plugins()] == [
        "measures (mylab_measures)",
        "data (mylab_data:NoiseSource)",
    ]
    code = (tmp_path / "mylab_data.py").read_bytes()
    assert loaded_plugins()[1].sha256 == hashlib.sha256(code).hexdigest()


def test_entry_points_need_no_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that looks up an installed plug-in's unit finds it."""
    write(tmp_path, (TEMPLATES / "metric.py").read_text(), "mylab_more.py")
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("measures", "mylab_more", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    fresh = registry.Registry("metric", "invsuite.metrics")
    monkeypatch.setattr(registry, "METRICS", fresh)
    monkeypatch.setattr(registry, "REGISTRIES", (fresh,))
    assert "worst_error" in fresh


def test_a_plugin_that_imports_a_unit_of_the_suite_does_not_own_it(tmp_path: Path) -> None:
    body = (
        "from invsuite import register\nfrom invsuite.methods.ridge import Ridge\n\n\n"
        "@register.method\nclass Own(Ridge):\n    name = 'own'\n"
    )
    load_plugins([write(tmp_path, body)])
    assert METHODS.owners() == {"own": str(tmp_path / "own.py")}
    registry.forget_plugins()
    assert "ridge" in METHODS
    assert "own" not in METHODS


def test_a_unit_of_a_script_or_notebook_may_be_defined_again_and_is_named_in_records() -> None:
    for _ in range(2):
        register.method(type("Own", (METHODS["ridge"],), {"name": "own", "__module__": "lab"}))
    assert METHODS.owners() == {"own": "lab"}
    assert [plugin.name for plugin in loaded_plugins()] == ["lab"]
