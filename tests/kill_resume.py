"""Kill a run with SIGKILL again and again: nothing that was finished is lost, and the end is that of an unbroken run.

python tests/kill_resume.py --suite quick --kills 50 runs the whole test (about twice the time of the suite and half a
minute a kill); tests/test_kill_resume.py a short one. Both compare every quality digit of the leaderboard.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from invsuite.benchmark.suite import load_suite
from invsuite.results.store import Store

#: The command line with a checkpoint after every evaluation, however short the time since the last.
CHILD = """
import sys
import invsuite.api
from invsuite.methods.training import engine
engine.CHECKPOINT_SECONDS = 0.0
from invsuite.cli import app
app(sys.argv[1:])
"""
MACHINE = ("s", "bytes")  # units of the numbers that differ from run to run; the others do not, operations neither

Moment = Callable[[subprocess.Popen[str]], None]


def start(suite: str, out: Path, said: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    """The command that a user gives, and gives again; ``said`` is where its standard output goes (a pipe that nobody
    reads would stop it at the end)."""
    words = ["bench", "--suite", suite, "--out", str(out), "--device", "cpu", "--json"]
    return subprocess.Popen([sys.executable, "-c", CHILD, *words], stdout=said, stderr=subprocess.DEVNULL, text=True)


def finish(suite: str, out: Path) -> dict[str, int]:
    """Run to the end; returns how many cells were computed and how many reused."""
    process = start(suite, out, subprocess.PIPE)
    said, _ = process.communicate()
    assert process.returncode == 0, f"the run ended with exit code {process.returncode}"
    tree = json.loads(said)
    return {"computed": tree["computed"], "reused": tree["reused"]}


def kill(suite: str, out: Path, moment: Moment) -> bool:
    """Run, and kill once ``moment`` returns; False if the run was faster. No finished record may be lost or changed."""
    store = Store(out / "records" / load_suite(suite).name)
    before = contents(store)
    process = start(suite, out)
    moment(process)
    killed = process.poll() is None
    process.kill()
    process.communicate()
    after = contents(store)
    lost = [name for name, data in before.items() if after.get(name) != data]
    assert not lost, f"finished cells were lost or changed: {lost}"
    assert len(list(store.records())) == len(after), "a record is damaged"
    return killed


def contents(store: Store) -> dict[str, bytes]:
    """Every record, byte for byte."""
    return {path.name: path.read_bytes() for path in store.folder.glob("*.json")}


def quality(suite: str, out: Path) -> list[dict[str, str]]:
    """The lines of the leaderboard's CSV that do not measure the machine, digit for digit."""
    with (out / f"{load_suite(suite).name}.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["unit"] not in MACHINE]


def after(seconds: float, out: Path) -> Moment:
    """``seconds`` after the run has begun to work, which the first model's original pictures show; or when it has
    ended. (A lock would not do: that of a fit which goes on is there already, and taking it leaves no trace.)"""

    def wait(process: subprocess.Popen[str]) -> None:
        begun = time.time()
        while process.poll() is None and not any(
            path.stat().st_mtime >= begun - 0.01 for path in out.rglob("*-originals.webp") if path.exists()
        ):
            time.sleep(0.02)
        end = time.perf_counter() + seconds
        while process.poll() is None and time.perf_counter() < end:
            time.sleep(0.01)

    return wait


def when(condition: Callable[[], bool]) -> Moment:
    """As soon as ``condition`` holds, or when the run has ended."""

    def wait(process: subprocess.Popen[str]) -> None:
        while process.poll() is None and not condition():
            time.sleep(0.002)

    return wait


def main() -> None:
    """The whole test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unbroken", type=Path, help="--out of a finished run to compare with, else one is made first")
    parser.add_argument("--seconds", type=float, help="that a run works, over which kills are spread, else measured")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = options.unbroken or Path(folder) / "whole", Path(folder) / "broken"
        begun = time.perf_counter()
        print(f"unbroken: {finish(options.suite, whole)}", flush=True)
        seconds, expected = options.seconds or time.perf_counter() - begun, quality(options.suite, whole)
        kills = 0
        while kills < options.kills:
            # so that the kills are spread over one whole run; should it end too early, another begins
            if kill(options.suite, broken, after(draw.uniform(0, 2 * seconds / options.kills), broken)):
                kills += 1
                finished = len(list(broken.rglob("records/*/*.json")))
                print(f"kill {kills}: {finished} cells finished, none lost", flush=True)
            else:
                assert quality(options.suite, broken) == expected
                print("a run was finished before its kill, and equals the unbroken one; beginning anew", flush=True)
                shutil.rmtree(broken)
        print(f"resumed: {finish(options.suite, broken)}")
        assert quality(options.suite, broken) == expected, "the leaderboard is another"
        print(f"{len(expected)} lines of the leaderboard are the same in every quality digit after {kills} kills")


if __name__ == "__main__":
    main()
