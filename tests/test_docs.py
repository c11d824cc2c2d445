"""The site documents every registered unit, and the examples run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from invsuite.registry import METHODS, METRICS

ROOT = Path(__file__).resolve().parent.parent


def test_every_method_and_measure_has_its_place_on_the_site() -> None:
    text = "".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    for kind, registry in (("method", METHODS), ("metric", METRICS)):
        assert sorted(re.findall(rf"^<!-- {kind} (\S+) -->$", text, re.M)) == sorted(registry)


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_examples_run(example: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / example], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # a table, or how to use a file of functions
    assert "mean" in done.stdout or f"module:examples/{example}" in done.stdout
