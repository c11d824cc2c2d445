"""What memory has no room for is read from a file: every number stays the same, and the budget is one for all."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY_SUITE, invoke

from invsuite._system import memory
from invsuite._system.memory import available_memory
from invsuite._system.spill import MEMORY_SHARE, SpilledTensor, TensorLike, collect, memory_budget
from invsuite.benchmark.suite import load_suite
from invsuite.data import split as data_split
from invsuite.data.scenes import Scenes
from invsuite.data.split import Samples, Split
from invsuite.registry import METRICS
from invsuite.report.results import load_results, store_of
from invsuite.results.record import Measurement

NAMES = ", ".join(f'"{name}"' for name in METRICS)
SUITE = TINY_SUITE.replace('"psnr", "ssim", "lpips", "correspondence", "hue_gain"', NAMES)
SUITE = SUITE.replace('"embed", "block03"', '"block03"').replace('"backbone", "decoder"', '"decoder"')
SUITE = SUITE.replace("seed = 33\ncount = 6", "seed = 33\ncount = 20")  # more than any measure's batch of maps
# a method that is watched while it inverts on the classifier, a network on the detector
SUITE = SUITE.replace("[methods.optimisation]", '[methods.optimisation]\nmodels = ["vit"]')
SUITE = SUITE.replace("[methods.modular]", '[methods.modular]\nmodels = ["detr"]')
METHODS = ("optimisation", "modular")
MEMORY = "invsuite._system.spill.MEMORY_SHARE"


def run(folder: Path) -> dict[tuple[str, ...], tuple[dict[str, Measurement], bytes, list[int]]]:
    """Measures, strip and extreme images of every cell of the suite."""
    (folder / "tiny.toml").write_text(SUITE)
    done = invoke("bench", "--suite", folder / "tiny.toml", "--out", folder, "--methods", ",".join(METHODS))
    assert done.exit_code == 0, done.output
    suite = load_suite(str(folder / "tiny.toml"))
    store = store_of(suite.name, folder)
    return {
        (record.cell.model, record.cell.stage, record.cell.method): (
            record.measurements,
            store.first_path(record.cell.id).read_bytes(),
            record.best_and_worst,
        )
        for record in load_results(folder)
    }


def test_every_measure_is_the_same_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "file").mkdir()
    expected = run(tmp_path / "memory")
    read: list[SpilledTensor] = []
    split = SpilledTensor.split

    def watched(self: SpilledTensor, size: int) -> Any:
        read.append(self)
        return split(self, size)

    monkeypatch.setattr(SpilledTensor, "split", watched)
    monkeypatch.setattr(MEMORY, 0)
    found = run(tmp_path / "file")
    assert len(found) == 2
    assert len(read) > 2 * len(METRICS) / 2, "the measures read files"
    assert {tuple(rows.shape) for rows in read} >= {(20, 3, 48, 48), (20, 48, 48)}, "images, and segments"
    for cell, (measures, strip, extremes) in expected.items():
        assert found[cell][0] == measures, cell
        assert found[cell][1:] == (strip, extremes), cell


@pytest.mark.parametrize("share", [0.25, 0.0])
def test_rows_are_chosen_assigned_and_split_as_a_tensors_are(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MEMORY, share)
    whole = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0))
    rows: TensorLike = collect((whole[start : start + 3] for start in (0, 3, 6)), 7)
    assert isinstance(rows, SpilledTensor if share == 0 else torch.Tensor)
    assert len(rows) == 7
    assert rows.shape == whole.shape
    assert rows.numel() == whole.numel()
    for chosen in (slice(None), slice(2, 5), slice(-2, None), slice(3, 3), [5, 0, 5], []):
        assert torch.equal(rows[chosen], whole[chosen]), chosen
    assert [len(part) for part in rows.split(4)] == [4, 3]
    assert torch.equal(torch.cat(list(rows.split(4))), whole)
    for chosen in (slice(2, 4), [6, 0, 1]):
        other = torch.randn(whole[chosen].shape)
        rows[chosen], whole[chosen] = other, other
        assert torch.equal(rows[:], whole)
    with pytest.raises(IndexError):
        rows[[7]]


def test_rows_keep_the_order_of_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MEMORY, 0)
    whole = torch.randn(4, 3, 5, 6).to(memory_format=torch.channels_last)
    rows = collect(whole.split(3), 4)
    assert isinstance(rows, SpilledTensor)
    assert torch.equal(rows[:], whole)
    assert rows[1:].stride() == whole[1:].stride()


def test_rows_stay_in_memory_where_the_disk_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MEMORY, 0)
    monkeypatch.setattr("invsuite._system.spill.DISK_SHARE", 0.0)
    assert isinstance(collect([torch.ones(2, 3)], 2), torch.Tensor)


def test_a_disk_that_fills_up_ends_the_run_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk had room for the file, and says no when it is written."""

    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(MEMORY, 0)
    monkeypatch.setattr("invsuite._system.spill.tempfile.TemporaryFile", lambda prefix: Full())
    monkeypatch.delattr("invsuite._system.spill.os.posix_fallocate")
    (tmp_path / "tiny.toml").write_text(TINY_SUITE)
    done = invoke("bench", "--suite", tmp_path / "tiny.toml", "--out", tmp_path, "--methods", "mean")
    assert done.exit_code == 3
    assert "No space left on device; finished cells are kept: free some space" in done.stderr


def test_samples_that_are_not_kept_are_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    split = Split(Scenes(1, 6), (1, 3, 5))
    size = split.sample(0).image.nbytes + sum(item.mask.nbytes for item in split.sample(0).instances)
    monkeypatch.setattr(data_split, "memory_budget", lambda: size)
    samples = Samples(split)
    assert [sample.key for sample in samples] == [split.sample(i).key for i in range(3)]
    assert samples[0] is samples[0]
    assert samples[-1] is not samples[-1]
    assert torch.equal(samples[-1].image, split.sample(2).image)
    assert [sample.key for sample in samples[1:]] == [samples[1].key, samples[2].key]
    with pytest.raises(IndexError):
        samples[3]


def test_the_budget_is_a_share_of_what_the_job_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster gives a job less than the machine has; copies of files that it read count as free."""
    cpu, machine = torch.device("cpu"), memory_budget()
    assert 0 < machine < 2**50
    for name, text in {"max": "3000000", "current": "2000000", "stat": "anon 9\ninactive_file 500000\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(memory, "CONTROL_GROUPS", tmp_path)
    assert available_memory(cpu) == 1_500_000
    assert memory_budget() == int(MEMORY_SHARE * 1_500_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_budget() > 1_500_000
