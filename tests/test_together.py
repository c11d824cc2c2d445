"""Several processes fit one method together to the numbers of one; sums go on after a kill (tests/together.py)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import invoke
from together import FINGERPRINT, LAYERWISE, SMALL, STAGES, SUITE, SUMS, Killed, answers, killer, problem

from invsuite._system.linear import Examples, NormalEquations
from invsuite.benchmark.executors import make_executor
from invsuite.benchmark.executors.base import Placement
from invsuite.benchmark.fitting import fit_method
from invsuite.errors import UsageError
from invsuite.methods import floors, passes, ridge
from invsuite.methods.base import Method
from invsuite.methods.problem import Budget
from invsuite.methods.training.initialisation import Moments
from invsuite.models.base import Layout
from invsuite.results.store import Store

SCRIPT = Path(__file__).with_name("together.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave."""
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", SCRIPT, folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("3 cells computed, 0 reused; 3 ok") == 1, "one of them says what happened"
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "found.pt")
    return found


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several batches of sums, of few images."""
    monkeypatch.setattr(ridge, "BATCH", SMALL)
    monkeypatch.setattr(floors, "FIT_BATCH", SMALL)


def close(these: dict[str, torch.Tensor], those: dict[str, torch.Tensor], tolerance: float) -> None:
    for stage in STAGES:
        assert torch.allclose(these[stage], those[stage], rtol=0, atol=tolerance), stage


def test_two_processes_train_to_the_weights_of_one(found: dict[str, Any]) -> None:
    method, budget = LAYERWISE
    alone = problem(budget)
    fitted = fit_method(method, alone, FINGERPRINT)
    close(found["layerwise"], answers(fitted), 1e-4)
    assert found["passes"] == fitted.cost.image_passes == dict.fromkeys(STAGES, 60)
    assert found["flops"] == pytest.approx(fitted.cost.fit_flops)
    for stage in STAGES:
        together, one = found["notes"][stage], fitted.notes[stage]
        assert together["processes"] == 2
        assert "processes" not in one
        assert together["selection_image_mse"] == pytest.approx(one["selection_image_mse"], rel=1e-4)
        losses = [[point[2] for point in notes["curve"]] for notes in (together, one)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        assert losses[0][-1] < 0.7 * losses[0][0], "it has learned something"


def test_a_budget_of_seconds_ends_at_the_same_step_in_all(found: dict[str, Any]) -> None:
    (passes_of_first, first), (passes_of_second, second) = found["timed"]
    assert passes_of_first == passes_of_second
    assert min(passes_of_first.values()) >= 15
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_training_that_is_killed_goes_on_together_or_alone(found: dict[str, Any], folder: Path) -> None:
    assert found["resumed steps"] == [(5, 16)] * 2, "from the checkpoint of step 4"
    steps: list[int] = []
    alone = problem(
        Budget(image_passes=240, batch=15),
        checkpoints=folder / "alone" / "trained",
        progress=lambda done, total, note: steps.append(done) if "training" in note else None,
    )
    close(found["resumed"], answers(fit_method(LAYERWISE[0], alone, FINGERPRINT)), 1e-4)
    assert (steps[0], steps[-1]) == (5, 16), "one process goes on with what two have left"
    unbroken = problem(Budget(image_passes=240, batch=15))
    close(found["resumed"], answers(fit_method(LAYERWISE[0], unbroken, FINGERPRINT)), 1e-4)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("kind", SUMS, ids=lambda kind: kind.name)
def test_sums_are_shared_and_go_on_after_a_kill_whoever_began(
    kind: Method, found: dict[str, Any], folder: Path
) -> None:
    batches = 7 if kind.name == "ridge" else 6  # ridge looks at the selection images too
    unbroken = problem()
    fitted = fit_method(kind, unbroken, FINGERPRINT)
    close(found[kind.name], answers(fitted), 1e-3 if kind.name == "ridge" else 0)
    left = found[f"{kind.name} added"]
    assert sum(left) == batches - 2, "each process had saved the one batch before the last that it added"
    assert max(left) - min(left) <= 1
    assert found[f"{kind.name} notes"]["embed"]["processes"] == 2
    added: list[int] = []
    alone = problem(checkpoints=folder / "alone" / kind.name, progress=lambda done, total, note: added.append(total))
    close(answers(fit_method(kind, alone, FINGERPRINT)), answers(fitted), 1e-3)
    assert set(added) == {batches - 2}, "one process goes on with what two have left"


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("kind", SUMS, ids=lambda kind: kind.name)
def test_one_process_goes_on_to_the_same_bits(kind: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(passes, "SAVE_SHARE", float("inf"))
    unbroken = problem()
    whole = answers(fit_method(kind, unbroken, FINGERPRINT))
    for batch in (3, 2):  # killed twice; the first two of each are saved
        with pytest.raises(Killed):
            kind.fit(problem(checkpoints=tmp_path, progress=killer(batch)))
    added: list[int] = []
    last = problem(checkpoints=tmp_path, progress=lambda done, total, note: added.append(total))
    fitted = fit_method(kind, last, FINGERPRINT)
    assert set(added) == {(7 if kind.name == "ridge" else 6) - 3}
    assert all(torch.equal(answers(fitted)[stage], whole[stage]) for stage in STAGES)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    added.clear()
    again = answers(fit_method(kind, last, FINGERPRINT))
    assert set(added) == {7 if kind.name == "ridge" else 6}, "what is damaged is not taken up"
    assert all(torch.equal(again[stage], whole[stage]) for stage in STAGES)


def test_a_short_pass_writes_nothing(tmp_path: Path) -> None:
    SUMS[0].fit(problem(checkpoints=tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_suite_run_by_two_processes_has_the_numbers_of_one(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "together.toml").write_text(SUITE)
    words = ("--suite", tmp_path / "together.toml", "--out", tmp_path, "--device", "cpu")
    assert invoke("bench", *words).exit_code == 0
    one, two = (
        {record.cell.id: record for record in Store(out / "records" / "together").records()}
        for out in (tmp_path, folder / "out")
    )
    assert one.keys() == two.keys()
    for cell, record in one.items():
        measured = two[cell].measurements["psnr"].values
        assert measured == pytest.approx(record.measurements["psnr"].values, abs=0.01), cell
        shared = two[cell].notes.get("processes", 1)
        assert shared == (1 if record.cell.method == "modular-noised" else 2), "whose noise is drawn for whole batches"
    assert not list((folder / "out").rglob("fits/*/*")), "a finished fit leaves nothing behind"


def test_what_cannot_be_shared_is_one_line(found: dict[str, Any]) -> None:
    assert found["refused"] == [
        "several processes cannot fit 'modular-noised' together: fit it in one, without torchrun",
        "2 processes cannot share batches of 1 images: raise the batch",
    ]


def test_only_processes_that_torchrun_started_can_share(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="start the command as torchrun"):
        make_executor(Placement("torchrun", device="cpu"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UsageError, match="--workers is not for --executor torchrun"):
        make_executor(Placement("auto", workers=2, device="cpu"))


@pytest.mark.parametrize("kind", [NormalEquations, Examples])
def test_equations_around_other_means_add_up(kind: Callable[[], NormalEquations | Examples]) -> None:
    generator = torch.Generator().manual_seed(0)
    places = 1 if kind is Examples else 3
    x = torch.randn(12, places, 5, generator=generator, dtype=torch.float64)
    y = torch.randn(12, places, 2, generator=generator, dtype=torch.float64)
    away_x, away_y = torch.randn(5, generator=generator).double(), torch.randn(2, generator=generator).double()
    whole, first, second = kind(), kind(), kind()
    whole.add(x, y)
    first.add(x[:5], y[:5])
    second.add(x[5:] - away_x, y[5:] - away_y)
    first.include(kind().state(), away_x, away_y)
    first.include(second.state(), away_x, away_y)
    assert first.rows == whole.rows
    for one, other in zip(first.spectrum().solve(0.1), whole.spectrum().solve(0.1), strict=True):
        assert torch.allclose(one, other)
    weight, means = torch.randn(5, 2, generator=generator).double(), whole.means()
    assert first.judge(*means)(weight) == pytest.approx(whole.judge(*means)(weight))


@pytest.mark.parametrize("layout", [Layout("tokens", 4, (2, 3), 6), Layout("map", 4, (2, 3))], ids=["tokens", "map"])
def test_moments_around_other_means_add_up(layout: Layout) -> None:
    values = torch.randn(9, *layout.shape, generator=torch.Generator().manual_seed(0)) + 3
    whole, parts = Moments(layout), [Moments(layout) for _ in range(4)]
    for sums, rows in ((whole, values), (parts[1], values[:2]), (parts[2], values[2:5]), (parts[3], values[5:])):
        for row in rows.split(2):
            sums.add(row)
    for part in parts[1:]:
        parts[0].include(part.state())
        parts[0].include(Moments(layout).state())
    assert torch.allclose(parts[0].mean, whole.mean)
    assert torch.allclose(parts[0].std, whole.std)
