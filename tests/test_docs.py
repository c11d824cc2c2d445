"""The site documents every registered unit."""

from __future__ import annotations

import re
from pathlib import Path

from invsuite.registry import METHODS, METRICS

ROOT = Path(__file__).resolve().parent.parent


def test_every_method_and_measure_has_its_place_on_the_site() -> None:
    text = "".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    for kind, registry in (("method", METHODS), ("metric", METRICS)):
        assert sorted(re.findall(rf"^<!-- {kind} (\S+) -->$", text, re.M)) == sorted(registry)
