"""The site documents every registered unit, and the examples run."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from invsuite.registry import METHODS, METRICS, forget_plugins

ROOT = Path(__file__).resolve().parent.parent


def test_every_method_and_measure_has_its_place_on_the_site() -> None:
    text = "".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    for kind, registry in (("method", METHODS), ("metric", METRICS)):
        assert sorted(re.findall(rf"^<!-- {kind} (\S+) -->$", text, re.M)) == sorted(registry)


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_examples_run(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As scripts, in this process: one of their own would need longer to import torch than to run."""
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / example), run_name="__main__")
    forget_plugins()  # units that an example registered
    said = capsys.readouterr().out
    # a table, or how to use a file of functions
    assert "mean" in said or f"module:examples/{example}" in said
