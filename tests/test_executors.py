"""The same suite by one process, several and a Ray cluster gives the same records, whoever is killed meanwhile."""

from __future__ import annotations

import io
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from helpers import SMALL_MODELS, TINY_SUITE, invoke
from kill_resume import quality
from pretended import pretended_gpu
from rich.console import Console
from typer.main import get_command
from typer.testing import Result

from invsuite._system.devices import pick_devices
from invsuite._system.provenance import source_digest
from invsuite.benchmark.cells import Plan, Selection, make_plan
from invsuite.benchmark.executors import EXECUTORS, auto, make_executor
from invsuite.benchmark.executors.base import (
    Broken,
    CellDone,
    Finished,
    Job,
    Lost,
    Message,
    Placement,
    Progress,
    Ready,
    Said,
    Task,
    Working,
)
from invsuite.benchmark.executors.pool import Pool, tasks_of
from invsuite.benchmark.executors.process import environment
from invsuite.benchmark.executors.worker import Worker
from invsuite.benchmark.progress import ConsoleReporter
from invsuite.benchmark.runner import Run, RunOptions, Silent, begin, problem_record, weights_of, work_left
from invsuite.benchmark.suite import load_suite
from invsuite.cli import app
from invsuite.errors import DiskError, NotApplicable, SetupError, UsageError
from invsuite.results.record import to_json
from invsuite.results.store import Store

#: A method whose first training kills its process in the middle, as an out-of-memory killer would.
FRAGILE = """
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

from invsuite import register
from invsuite.methods.networks import Modular


@register.method
@dataclass(frozen=True)
class Fragile(Modular):
    name = "fragile"

    def fit(self, problem):
        def kill_once(done, total, note):
            marker = Path(os.environ["INVSUITE_TEST_MARKER"])
            if "training" in note and not marker.exists():
                marker.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            problem.context.progress(done, total, note)

        return super().fit(replace(problem, context=replace(problem.context, progress=kill_once)))
"""
SUITE = TINY_SUITE.replace('["psnr", "ssim", "lpips", "correspondence", "hue_gain"]', '["psnr", "ssim"]')
SUITE = SUITE.replace('"embed", "block03"', '"embed"').replace('"backbone", "decoder"', '"block01"')
# a second ViT, for which no worker has to import transformers
SUITE = SUITE.replace("models.detr", "models.twin").replace(SMALL_MODELS["detr"], SMALL_MODELS["vit"])
SUITE += "[methods.fragile]\nwidth = 8\ndepth = 1\n"
METHOD_NAMES = "mean,optimisation,fragile"
PAGE = Path(__file__).parent.parent / "docs" / "cluster.md"
SCRIPT = "import sys; from invsuite.cli import app; app(sys.argv[1:])"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite and the plug-in."""
    folder = tmp_path_factory.mktemp("executors")
    (folder / "tiny.toml").write_text(SUITE)
    (folder / "fragile.py").write_text(FRAGILE)
    return folder


def bench(folder: Path, out: str, *words: object) -> Result:
    """Run the suite, its trained method killed once where ``out`` has no marker yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INVSUITE_TEST_MARKER", str(folder / f"{out}.pid"))
        suite = (
            "--suite",
            folder / "tiny.toml",
            "--plugin",
            folder / "fragile.py",
            "--methods",
            METHOD_NAMES,
        )
        return invoke("bench", *suite, "--out", folder / out, "--device", "cpu", "--threads", 1, *words)


Contents = dict[str, dict[str, Any]]  # of records, by the cell's id


@pytest.fixture(scope="module")
def serial(folder: Path) -> Contents:
    threads = torch.get_num_threads()
    (folder / "serial.pid").write_text("nobody is killed")
    result = bench(folder, "serial")
    torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    return contents(folder / "serial")


def contents(out: Path) -> Contents:
    """What every record says of quality, costs in time and memory, and where it comes from, left out."""
    found = {r.cell.id: to_json(r) for r in Store(out / "records" / "tiny").records()}
    for record in found.values():
        del record["provenance"]
        record["cost"] = {k: v for k, v in record["cost"].items() if "seconds" not in k and "bytes" not in k}
        for curve in ("curve", "inversion_curve"):  # quality beside seconds
            record["notes"].pop(curve, None)
    return found


def same_after_a_kill(result: Result, folder: Path, out: str, serial: Contents) -> None:
    """Nobody else's cells were touched, and the killed one is as if nothing had happened: bit by bit."""
    assert result.exit_code == 0, result.output
    assert not psutil.pid_exists(int((folder / f"{out}.pid").read_text())), "one worker was killed"
    assert "was lost computing vit-fragile-s0" in result.stderr
    assert "it is tried again" in result.stderr
    assert "6 cells computed, 0 reused; 6 ok" in result.stdout
    assert contents(folder / out) == serial
    suite = str(folder / "tiny.toml")
    assert quality(suite, folder / out) == quality(suite, folder / "serial")


def test_processes_one_killed_in_the_middle_give_the_serial_records(folder: Path, serial: Contents) -> None:
    result = bench(folder, "process", "--executor", "process", "--workers", 2)
    assert "killed by SIGKILL" in result.stderr
    assert "[6/6 cells" in result.stderr
    same_after_a_kill(result, folder, "process", serial)


def test_a_ray_cluster_of_two_nodes_one_worker_killed_gives_the_serial_records(
    folder: Path, serial: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    try:
        cluster.add_node(**node)
        assert len(cluster.list_all_nodes()) == 2, "with room for one worker on each"
        # time limits need the main thread of an actor
        result = bench(folder, "ray", "--executor", "ray", "--address", cluster.address, "--cell-seconds", 600)
        assert not ray.is_initialized(), "the command has left the cluster"
        lost = without_mailbox(folder, cluster.address)
    finally:
        cluster.shutdown()
    assert "up to 2 workers of 1 CPUs and 0 GPUs" in result.stderr
    same_after_a_kill(result, folder, "ray", serial)
    assert lost.exit_code == 3, lost.output
    assert "the actor that workers report to was lost" in lost.stderr
    assert "finished cells are kept: give its node more memory or fewer workers" in lost.stderr


def without_mailbox(folder: Path, address: str) -> Result:
    """Run the suite on a Ray cluster whose memory monitor takes the mailbox when the first fit begins."""
    import ray

    from invsuite.benchmark.executors.ray import RayCrew

    submit = RayCrew.submit

    def submit_and_lose(self: Any, worker: Any, task: Any) -> None:
        submit(self, worker, task)
        ray.kill(self._mailbox)

    (folder / "lost.pid").write_text("no worker is killed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RayCrew, "submit", submit_and_lose)
        return bench(folder, "lost", "--executor", "ray", "--address", address, "--workers", 1)


def test_a_signal_stops_the_workers_and_ends_with_130(folder: Path) -> None:
    text = SUITE.replace("image_passes = 64", "image_passes = 64000000")
    (folder / "long.toml").write_text(text.replace('"tiny"', '"long"'))
    words = ["--suite", "long.toml", "--plugin", "fragile.py", "--models", "vit", "--methods", "mean,modular"]
    words += ["--device", "cpu", "--executor", "process", "--workers", "1", "--out", "r"]
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT, "bench", *words], cwd=folder, stderr=subprocess.PIPE)
    store = Store(folder / "r" / "records" / "long")
    while parent.poll() is None and not any(store.folder.glob("locks/*modular*")):
        time.sleep(0.05)
    workers = [p for p in psutil.Process(parent.pid).children() if "spawn_main" in " ".join(p.cmdline())]
    parent.send_signal(signal.SIGTERM)
    _, said = parent.communicate()
    assert parent.returncode == 130, said
    assert b"interrupted; finished cells are kept" in said
    assert b"Traceback" not in said
    assert len(workers) == 1
    assert not workers[0].is_running()
    assert [r.cell.method for r in store.records()] == ["mean"]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Two models, two fits each, which nobody computes."""
    path = tmp_path_factory.mktemp("plan") / "tiny.toml"
    path.write_text(TINY_SUITE)
    selection = Selection(methods=("mean", "ridge"), metrics=("psnr",))
    return make_plan(load_suite(str(path)), selection, Silent().note)


@pytest.fixture
def begun(plan: Plan, tmp_path: Path) -> Run:
    return begin(plan, Store(tmp_path), torch.device("cpu"), Silent(), RunOptions())


@dataclass(eq=False)
class Scripted:
    number: int


class ScriptedCrew:
    """Workers that say what a script answers to their number and task, without computing anything."""

    def __init__(self, size: int, script: Callable[[int, Task], list[Message]], first: Message | None = None) -> None:
        self.size, self.script, self.first = size, script, first or Ready("here", source_digest())
        self.inbox: deque[tuple[Scripted, Message]] = deque()
        self.started: list[int] = []
        self.given: list[tuple[int, Task]] = []
        self.closed = False

    def start(self, number: int) -> Scripted:
        self.started.append(number)
        worker = Scripted(number)
        self.inbox.append((worker, self.first))
        return worker

    def submit(self, worker: Scripted, task: Task) -> None:
        self.given.append((worker.number, task))
        self.inbox.extend((worker, message) for message in self.script(worker.number, task))

    def listen(self) -> Iterator[tuple[Scripted, Message]]:
        if self.inbox:
            yield self.inbox.popleft()

    def discard(self, worker: Scripted) -> None:
        assert not any(of is worker for of, _ in self.inbox)

    def close(self) -> None:
        self.closed = True


def done(number: int, task: Task) -> list[Message]:
    """A task that goes well."""
    return [Working(task.fit_id, 1.0), Progress(1, 2, ""), *(CellDone(c.id, "ok") for c in task.cells), FINISHED]


FINISHED = Finished(busy=False, reused=0)


def work(run: Run, crew: ScriptedCrew, retries: int = 2) -> Run:
    Pool(run, crew, tasks_of(run), retries).work()
    return run


def test_a_model_stays_with_its_worker_and_idle_workers_help(begun: Run) -> None:
    crew = ScriptedCrew(2, done)
    assert work(begun, crew).outcome.computed == 8
    assert {number: {t.spec.name for n, t in crew.given if n == number} for number in (0, 1)} == {
        0: {"vit"},
        1: {"detr"},
    }
    assert crew.closed
    third = ScriptedCrew(3, done)
    work(begun, third)
    assert sorted(third.started) == [0, 1, 2]
    assert [t.spec.name for n, t in third.given if n == 2] == ["vit"]
    one = ScriptedCrew(1, done)
    work(begun, one)
    assert [t.spec.name for _, t in one.given] == ["vit", "vit", "detr", "detr"]


def test_a_fit_that_loses_every_worker_is_a_record_and_the_others_go_on(begun: Run) -> None:
    def script(number: int, task: Task) -> list[Message]:
        return [Lost("killed by SIGKILL")] if "vit-ridge" in task.fit_id else done(number, task)

    crew = ScriptedCrew(2, script)
    work(begun, crew)
    assert sum("vit-ridge" in task.fit_id for _, task in crew.given) == 3, "once, and two retries"
    records = list(begun.store.records())
    assert {(r.cell.model, r.cell.method) for r in records} == {("vit", "ridge")}
    assert {(r.status, r.fault) for r in records} == {("failed", "lost worker")}
    assert "lost 3 times while it computed this (killed by SIGKILL)" in records[0].reason
    assert records[0].weights is not None
    assert records[0].weights.sha256
    assert (begun.outcome.computed, begun.outcome.failed) == (8, 2)


def test_cells_recorded_before_a_loss_are_not_computed_again(begun: Run) -> None:
    def script(number: int, task: Task) -> list[Message]:
        if len(task.cells) == 2:
            return [CellDone(task.cells[0].id, "ok"), Lost("gone")]
        return done(number, task)

    crew = ScriptedCrew(1, script)
    assert work(begun, crew).outcome.computed == 8
    assert sorted(len(task.cells) for _, task in crew.given) == [1] * 4 + [2] * 4


def test_a_fit_that_another_run_has_comes_last_and_is_waited_for(begun: Run) -> None:
    def script(number: int, task: Task) -> list[Message]:
        if "vit-mean" not in task.fit_id:
            return done(number, task)
        return [*done(number, task)[:-1], Finished(busy=False, reused=2)] if task.wait else [Finished(True, 0)]

    crew = ScriptedCrew(1, script)
    work(begun, crew)
    assert [(t.fit_id.split("-s0")[0], t.wait) for _, t in crew.given][:3] == [
        ("vit-mean", False),
        ("vit-ridge", False),
        ("vit-mean", True),
    ]
    assert (begun.outcome.computed, begun.outcome.reused) == (6, 2)


@pytest.mark.parametrize(
    ("first", "script", "error", "words", "starts"),
    [
        (Ready("there", "0" * 64), done, SetupError, "worker 1 on there runs another version of invsuite", 1),
        (Lost("exit code 1"), done, SetupError, "workers end before they are ready: exit code 1", 3),
        (None, lambda *_: [Broken(DiskError("no space"))], DiskError, "no space", 1),
    ],
)
def test_what_no_worker_can_work_with_ends_the_run(
    begun: Run, first: Message | None, script: Any, error: type[Exception], words: str, starts: int
) -> None:
    crew = ScriptedCrew(1, script, first)
    with pytest.raises(error, match=words):
        work(begun, crew)
    assert len(crew.started) == starts
    assert crew.closed


def test_a_worker_that_sees_other_images_records_it(begun: Run, tmp_path: Path) -> None:
    task = tasks_of(begun)[0]
    cells = tuple(replace(cell, identity=cell.identity | {"data": "others"}, texts={}) for cell in task.cells)
    other = replace(task, fit_id="x", cells=cells, stamps={cell.id: None for cell in cells})
    job = Job(begun.plan.suite, Selection(methods=("mean", "ridge"), metrics=("psnr",)), tmp_path, RunOptions())
    said: list[Message] = []
    worker = Worker((), pickle.dumps(job), "cpu", torch.get_num_threads(), said.append)
    assert worker.compute(pickle.dumps(other)) == Finished(busy=False, failed=len(cells))
    assert {r.fault for r in begun.store.records()} == {"data"}
    assert [type(m) for m in said] == [Said, Said, CellDone, CellDone]
    assert "put them on storage that both see" in next(begun.store.records()).reason


def test_a_worker_s_gpu_is_in_full_precision_before_it_has_a_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = load_suite("quick")
    job = Job(suite, Selection(methods=("mean",), metrics=("psnr",)), tmp_path, RunOptions())
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with pretended_gpu():
        Worker((), pickle.dumps(job), "cuda", torch.get_num_threads(), lambda message: None)
    assert not torch.backends.cudnn.allow_tf32, "the check of a model's chain comes before the first fit"


def test_each_worker_sees_its_own_device_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    waits = {"OMP_NUM_THREADS": "4", "OMP_WAIT_POLICY": "PASSIVE"}
    assert environment(torch.device("cuda", 1), 4) == waits | {"CUDA_VISIBLE_DEVICES": "1"}
    assert environment(torch.device("cpu"), 4)["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    assert environment(torch.device("cuda", 1), 4)["CUDA_VISIBLE_DEVICES"] == "GPU-b"


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_devices("cpu") == [torch.device("cpu")]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that what is there comes back
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    assert pick_devices("auto") == pick_devices("cuda") == [torch.device("cuda", i) for i in range(3)]
    assert pick_devices("cuda:2, cuda:0") == [torch.device("cuda", 2), torch.device("cuda", 0)]
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8", "or products on a GPU are not deterministic"
    with pytest.raises(UsageError, match="devices 'cpu,cuda:1' are of two kinds"):
        pick_devices("cpu,cuda:1")


NODES = [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 6.0}]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (5, 4, 1.0)),  # a worker for every GPU, with the smallest share of the CPUs beside it
        ({"gpus": 0.5}, (10, 2, 0.5)),
        ({"gpus": 0.4, "threads": 1}, (10, 1, 0.4)),  # two on each: what is left of one GPU is no use to another
        ({"device": "cpu", "threads": 4}, (7, 4, 0.0)),
        ({"workers": 20, "threads": 32}, (20, 32, 1.0)),  # nodes may come
    ],
)
def test_what_a_worker_asks_of_ray(
    options: dict[str, Any], expected: tuple[int, int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    from invsuite.benchmark.executors.ray import Share, share_of

    nodes = [{"Alive": True, "Resources": node} for node in NODES] + [{"Alive": False, "Resources": {"CPU": 99.0}}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert share_of(Placement("ray", **options)) == Share(*expected)
    with pytest.raises(SetupError, match="no node of the Ray cluster has 64 CPUs and 1 GPUs"):
        share_of(Placement("ray", threads=64))


@pytest.mark.parametrize(
    ("options", "left", "cores", "expected"),
    [
        ({}, {"vit": 3e4, "detr": 3e4}, 2, ("process", 2, 1)),
        ({}, {"vit": 3e4, "detr": 3e4, "swin": 3e4}, 8, ("process", 3, 2)),
        ({}, {"vit": 3e4, "detr": 3e4}, 1, ("serial", None, None)),
        ({}, {"vit": 3e4, "detr": 100.0}, 2, ("serial", None, None)),  # a process of its own takes longer to start
        ({}, {"vit": 3e4}, 8, ("serial", None, None)),
        ({"threads": 2}, {"vit": 3e4, "detr": 3e4}, 2, ("serial", None, 2)),
        ({"threads": 2}, {"vit": 3e4, "detr": 3e4}, 4, ("process", 2, 2)),
        ({"workers": 2}, {"vit": 0.0}, 1, ("process", 2, None)),
        ({"retries": 0}, {"vit": 0.0}, 2, ("serial", None, None)),
    ],
)
def test_a_process_for_each_of_several_models_where_that_pays(
    options: dict[str, Any],
    left: dict[str, float],
    cores: int,
    expected: tuple[object, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auto, "processors", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)  # other tests compare last digits
    placement = auto.Executor(Placement("auto", "cpu", **options)).chosen(left)
    assert (placement.executor, placement.workers, placement.threads) == expected
    make_executor(placement)  # which takes no option that is not for it


def test_what_is_left_to_compute_is_judged_by_model(plan: Plan, tmp_path: Path) -> None:
    begun = Run(plan, Store(tmp_path), torch.device("cpu"), Silent(), RunOptions(), {})
    left = work_left(begun)
    assert left.keys() == {entry.spec.name for entry in plan.models}
    first, *others = plan.models[0].cells
    begun.stamps[first.id] = None
    begun.finish(first, problem_record(NotApplicable("not here")) | {"weights": weights_of(plan.models[0].model)})
    less = work_left(begun)
    assert others
    assert 0 < less[plan.models[0].spec.name] < left[plan.models[0].spec.name]


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (
            ("--executor", "proces"),
            2,
            "unknown executor 'proces': did you mean process? known: auto, process, ray, serial",
        ),
        (("--executor", "serial", "--workers", 2), 2, "--workers is not for --executor serial, but for auto and "),
        (("--executor", "process", "--gpus", 0.5), 2, "--gpus is not for --executor process, but for ray"),
        (("--executor", "process", "--device", "tpu"), 2, "unknown device 'tpu': use auto, cpu, cuda or cuda:N"),
        (("--executor", "ray", "--device", "cuda:1"), 2, "device 'cuda:1': Ray chooses it; use auto, cpu or cuda"),
        (
            ("--executor", "ray", "--address", "127.0.0.1:1"),
            3,
            "no Ray cluster to join at '127.0.0.1:1' (",
        ),
    ],
)
def test_a_wrong_option_is_one_line(words: tuple[object, ...], code: int, line: str, tiny_suite: Path) -> None:
    if "ray" in words:
        pytest.importorskip("ray")
    result = invoke("bench", "--suite", tiny_suite, "--out", tiny_suite.parent, "--methods", "mean", *words)
    assert result.exit_code == code, result.output
    [error] = [text for text in result.stderr.splitlines() if text.startswith("error:")]
    assert line in error


def test_without_ray_one_line_says_what_to_install(tiny_suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, EXECUTORS["ray"], raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    result = invoke("bench", "--suite", tiny_suite, "--out", tiny_suite.parent, "--executor", "ray")
    assert result.exit_code == 2
    assert "error: --executor ray needs Ray: pip install 'invsuite[ray]'" in result.stderr


def test_progress_names_what_every_worker_does(plan: Plan) -> None:
    stream = io.StringIO()
    reporter = ConsoleReporter(Console(file=stream, width=20))
    cells = plan.cells
    reporter.begin(len(cells), 100.0)
    first, second = reporter.work("vit ridge", 50.0, "worker 1"), reporter.work("detr mean", 50.0, "worker 2")
    first(10, 10, "images")
    second(5, 10, "images")
    reporter.work("vit mean", 1.0, "worker 3")(1, 2, "images")
    reporter.rest("worker 3", finished=False)
    for cell in cells:
        reporter.cell_done(cell, "ok", "worker 1")
    [line] = stream.getvalue().splitlines()
    assert line.startswith("[8/8 cells")
    assert "worker 1: detr ridge: decoder ok; worker 2: detr mean: 5/10 images, done" in line


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(), re.S)


def test_the_page_on_clusters_names_options_that_exist_and_parses() -> None:
    yaml = pytest.importorskip("yaml")
    for script in blocks("sh"):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    [job] = [yaml.safe_load(text) for text in blocks("yaml")]
    commands = re.findall(r"invsuite bench [^`#\n]*", PAGE.read_text())
    assert job["spec"]["entrypoint"] in commands
    known = {option for p in get_command(app).commands["bench"].params for option in p.opts}  # type: ignore[attr-defined]
    named = set(re.findall(r"--[a-z-]+", " ".join(commands)))
    assert {"--executor", "--address", "--device", "--workers", "--threads"} <= named <= known
    placement = {f"--{f.name}" for f in fields(Placement)}
    assert placement <= known
    assert placement <= set(re.findall(r"--[a-z]+", PAGE.read_text()))
