"""The regression check: what the suite ``ci`` computes today is held against the pinned ``baselines/ci.json``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import invoke

BASELINE = Path(__file__).resolve().parent.parent / "baselines" / "ci.json"


@pytest.mark.slow
def test_no_number_of_the_suite_ci_has_become_worse(tmp_path: Path) -> None:
    """Where INVSUITE_CHECK_MARKDOWN names a file, the summary for a pull request is written there."""
    done = invoke("bench", "--suite", "ci", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    summary = os.environ.get("INVSUITE_CHECK_MARKDOWN", tmp_path / "check.md")
    checked = invoke("check", "--suite", "ci", "--out", tmp_path, "--baseline", BASELINE, "--markdown", summary)
    assert checked.exit_code == 0, checked.output
