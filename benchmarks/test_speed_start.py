"""How long a command takes to begin, as a ratio to ``import torch``: ``pytest benchmarks/test_speed_start.py -s``.

The aim is a ratio of at most 1.3 for everything that needs no model (measured: 0.1).
"""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from pytest_benchmark.fixture import BenchmarkFixture


def start(*words: str) -> float:
    """Return the seconds that a fresh Python process takes."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, *words], capture_output=True, check=True)
    return time.perf_counter() - begun


@pytest.mark.parametrize("words", ["--help", "list suites"])
def test_start(benchmark: BenchmarkFixture, words: str) -> None:
    ratios = []

    def both() -> None:
        ratios.append(start("-m", "invsuite", *words.split()) / start("-c", "import torch"))

    benchmark.pedantic(both, rounds=3, warmup_rounds=1)
    benchmark.extra_info["ratio to import torch"] = min(ratios)
    print(f"\ninvsuite {words}: {min(ratios):.2f} of the time of import torch")
