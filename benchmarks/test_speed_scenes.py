"""How fast scenes are drawn: ``pytest benchmarks`` (milliseconds a scene; the aim is well under 20)."""

from __future__ import annotations

from itertools import count

from pytest_benchmark.fixture import BenchmarkFixture

from invsuite.data.scenes import Scenes


def test_render_a_scene(benchmark: BenchmarkFixture) -> None:
    data, index = Scenes(1, 10**9), count()
    benchmark(lambda: data[next(index)])
