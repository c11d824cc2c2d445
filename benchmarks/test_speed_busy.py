"""What a busy machine costs: ``pytest benchmarks/test_speed_busy.py -s`` on a machine that is otherwise idle.

A piece of a suite runs alone and beside one process that never rests. The aim is twice the time at most. For contrast
it runs beside that process with the libraries' own policy too, by which waiting threads spin.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import small_suite
from pytest_benchmark.fixture import BenchmarkFixture

MOST = 8  # times the idle run that the contrast may take


@contextmanager
def neighbour() -> Iterator[None]:
    """Keep one processor busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def seconds(suite: Path, out: Path, limit: float | None = None, **variables: str) -> float:
    """Return how long a fresh process takes for the suite, with a thread per processor; infinity beyond ``limit``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    words = ("bench", "--suite", str(suite), "--out", str(out), "--device", "cpu")
    begun = time.perf_counter()
    try:
        subprocess.run(
            [sys.executable, "-m", "invsuite", *words],
            env=environment | variables,
            check=True,
            capture_output=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return math.inf
    return time.perf_counter() - begun


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor has no threads that wait for each other")
def test_busy(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    suite = tmp_path / "piece.toml"
    suite.write_text(small_suite("piece", {"modular": "{ width = 32 }"}, passes=3200, counts=(256, 8, 8)))
    alone = seconds(suite, tmp_path / "alone")
    limit = MOST * alone
    spinning_alone = seconds(suite, tmp_path / "spinning-alone", limit, OMP_WAIT_POLICY="ACTIVE")
    with neighbour():
        busy = benchmark.pedantic(lambda: seconds(suite, tmp_path / "busy"), rounds=1)
        spinning = seconds(suite, tmp_path / "spinning", limit, OMP_WAIT_POLICY="ACTIVE")
    ratios = {
        "busy / idle": busy / alone,
        f"busy / idle where threads spin, {MOST} at most": min(spinning / spinning_alone, MOST),
        "idle / idle where threads spin": alone / spinning_alone,
    }
    benchmark.extra_info |= ratios
    print("", *(f"{name}: {ratio:.2f}" for name, ratio in ratios.items()), sep="\n")
    assert busy <= 2 * alone
