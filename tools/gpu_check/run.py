"""What happens on the machine, with Python's own library alone: unpack, test, time, benchmark, write the page.

Every step has a share of the time and may fail; what the others gave still comes back.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
TOOL = Path(__file__).resolve().parent
TESTS_SECONDS, RATE_SECONDS = 110.0, 70.0  # at most; an H200 takes 60 for the tests
CELL_SECONDS = 150  # for a fit that stands still, not for one that is slow
PAGE_SECONDS = 40.0  # that the page needs at the end, at most
STOP_SECONDS = 10.0  # that a step which was asked to stop may take to write what it has
LOAD = ("nvidia-smi", "--query-gpu=timestamp,utilization.gpu,memory.used,power.draw", "--format=csv,nounits", "-l", "1")


def run(options: argparse.Namespace) -> int:
    """Run every step and return 0 if all of them did what they should."""
    begun = time.monotonic()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, (options.out / "log.txt").open("w") as log:
        work = Path(name)
        environment = unpack(options.pack, work)
        records = work / "run"
        suite = options.suite or str(ROOT / "benchmarks" / "gpu.toml")
        steps = Steps(environment, log, begun + options.seconds - PAGE_SECONDS)
        with Load(options.out / "load.csv"):
            steps.run("tests", tests(options.device), TESTS_SECONDS)
            rate = [sys.executable, str(TOOL / "rate.py"), "--device", options.device]
            rate += ["--out", str(options.out / "rate.json"), *shlex.split(options.rate)]
            steps.run("rate", [*rate, "--seconds", f"{RATE_SECONDS:g}"], RATE_SECONDS + 30)
            bench = [sys.executable, "-m", "invsuite", "bench", "--suite", suite, "--device", options.device]
            bench += ["--executor", "serial", "--offline", "--keep", "0", "--out", str(records)]
            bench += ["--cell-seconds", str(CELL_SECONDS)]
            steps.run("bench", bench, steps.left)
        steps.ends = begun + options.seconds
        facts = options.out / "steps.json"
        facts.write_text(json.dumps({"steps": steps.done, "suite": suite}, indent=1))
        page = [sys.executable, str(TOOL / "page.py"), "--run", str(records), "--out", str(options.out)]
        steps.run("page", page, steps.left)
        if records.is_dir():
            with tarfile.open(options.out / "records.tgz", "w:gz") as archive:
                archive.add(records, arcname="run", filter=_numbers_alone)
    print(json.dumps(steps.done, indent=1))
    return 0 if all(step["outcome"] == "done" for step in steps.done) else 1


def tests(device: str) -> list[str]:
    """Return the command that compares a GPU's numbers with the processor's: a pretended one's where there is none."""
    chosen = "not pretended" if device.startswith("cuda") else "pretended"
    file = ROOT / "tests" / "test_cuda.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file), "-k", chosen]
    several = device.startswith("cuda") and find_spec("xdist") is not None
    return [*command, "--numprocesses", "4"] if several else command


def _numbers_alone(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave tensors, and pictures of photos, on the machine."""
    return entry if entry.isdir() or entry.name.endswith((".json", ".csv", ".md")) else None


def unpack(folder: Path, work: Path) -> dict[str, str]:
    """Unpack into ``work``, install the wheels there, and return the environment in which the suite finds all of it."""
    found = {int(match[1]): path for path in folder.glob("part*") if (match := re.fullmatch(r"part(\d+)", path.name))}
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT), "INVSUITE_CACHE": str(work / "cache")}
    environment |= {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "MPLCONFIGDIR": str(work / "matplotlib")}
    if not found:
        print(f"no pack in '{folder}': the suite runs with what is here", file=sys.stderr)
        return environment
    missing = sorted(set(range(1, max(found) + 1)) - set(found))
    if missing:
        sys.exit(f"the pack in '{folder}' lacks part {missing[0]}: send all of its parts")
    whole = work / "pack.tar"
    with whole.open("wb") as file:
        for number in sorted(found):
            file.write(found[number].read_bytes())
    try:
        with tarfile.open(whole) as archive:
            archive.extractall(work, filter="data")
    except tarfile.TarError as error:
        sys.exit(f"the pack in '{folder}' is damaged ({error}): send all of its parts again")
    whole.unlink()
    pack = work / "pack"
    wheels = sorted(map(str, (pack / "wheels").glob("*.whl")))
    if wheels:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*command, "--target", str(work / "site"), *wheels], check=True)
        environment["PYTHONPATH"] += os.pathsep + str(work / "site")
    return environment | {
        "HF_HUB_CACHE": str(pack / "hub"),
        "TORCH_HOME": str(pack / "torch"),
        "INVSUITE_FIT_PHOTOS": str(pack / "photos"),
        "INVSUITE_COCO": str(pack / "coco"),
        "INVSUITE_DETECTOR": str(next((pack / "detector").glob("*.onnx"), pack / "detector")),
    }


class Steps:
    """Commands run one after the other, each for so long at most, and what became of them.

    Attributes:
        ends: when the last one must be through, by the monotonic clock.
        done: of each step its name, how it ended and the seconds it took.
    """

    def __init__(self, environment: dict[str, str], log: IO[str], ends: float) -> None:
        self._environment, self._log, self.ends = environment, log, ends
        self.done: list[dict[str, str | float]] = []

    @property
    def left(self) -> float:
        """Return the seconds that are left."""
        return max(0.0, self.ends - time.monotonic())

    def run(self, name: str, command: Sequence[str], seconds: float) -> None:
        """Run one; one that takes longer is asked to stop, then killed."""
        limit, begun = min(seconds, self.left), time.monotonic()
        print(f"--- {name}, at most {limit:.0f} s", flush=True)
        self._log.write(f"\n--- {name}: {shlex.join(command)}\n")
        outcome = "no time left"
        if limit > STOP_SECONDS:
            process = subprocess.Popen(
                command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
            )
            outcome = self._watch(process, begun + limit - STOP_SECONDS)
        self.done.append({"step": name, "outcome": outcome, "seconds": round(time.monotonic() - begun, 1)})
        print(f"--- {name}: {outcome} after {time.monotonic() - begun:.0f} s", flush=True)

    def _watch(self, process: subprocess.Popen[str], until: float) -> str:
        """Wait for a process, its output into the log and its end onto the screen; return how it ended."""
        from threading import Thread

        lines: list[str] = []

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                self._log.write(line)
                self._log.flush()

        reader = Thread(target=read, daemon=True)
        reader.start()
        stopped = ""
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            stopped = "stopped, its time was up"
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        reader.join(STOP_SECONDS)
        print("".join(lines[-40:]), end="", flush=True)
        return stopped or ("done" if process.returncode == 0 else f"exit code {process.returncode}")


class Load:
    """The load of the GPU once a second, into a file, for as long as it is entered; nothing where there is none."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._file = self._path.open("w")
        try:
            self._process: subprocess.Popen[bytes] | None = subprocess.Popen(LOAD, stdout=self._file, stderr=self._file)
        except OSError:
            self._process = None

    def __exit__(self, *raised: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        self._file.close()
