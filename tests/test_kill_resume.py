"""A run killed by SIGKILL goes on to the numbers of an unbroken one (tests/kill_resume.py has the long version)."""

from __future__ import annotations

import json
from pathlib import Path

from helpers import SMALL_NETWORK, invoke, small_suite
from kill_resume import after, kill, quality, when

from invsuite.results.store import Store

SUITE = small_suite("killed", {"mean": "{}", "modular-finetuned": SMALL_NETWORK}, metrics=("psnr", "ssim"), passes=480)


def test_three_kills_lose_nothing_and_change_no_digit(tmp_path: Path) -> None:
    path = tmp_path / "killed.toml"
    path.write_text(SUITE)
    suite, whole, broken = str(path), tmp_path / "whole", tmp_path / "broken"
    assert invoke("bench", "--suite", suite, "--out", whole, "--device", "cpu").exit_code == 0
    store = Store(broken / "records" / "killed")

    def checkpoint() -> bool:
        return any(store.folder.glob("fits/*/*.pt"))

    def between_the_cells_of_a_fit() -> bool:
        return len(list(store.folder.glob("*modular-finetuned*.json"))) == 1

    assert kill(suite, broken, when(checkpoint)), "killed in the middle of a fit"
    assert checkpoint(), "what it had trained is there"
    kill(suite, broken, when(between_the_cells_of_a_fit))
    assert 3 <= len(list(store.folder.glob("*.json"))) <= 4
    kill(suite, broken, after(0.3, broken))
    last = invoke("bench", "--suite", suite, "--out", broken, "--device", "cpu", "--json")
    assert last.exit_code == 0, last.output
    counts = json.loads(last.stdout)
    assert counts["reused"] >= 3
    assert counts["computed"] + counts["reused"] == 4
    assert quality(suite, broken) == quality(suite, whole)
    assert len([row for row in quality(suite, whole) if row["measure"] in ("psnr", "ssim")]) == 4 * 2
    assert not checkpoint(), "a finished fit leaves nothing behind"
