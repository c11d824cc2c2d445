"""The check of a GPU machine, tried on a processor: packed and unpacked again, steps that end, and its page."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from gpu_check import page, rate
from gpu_check.__main__ import parser
from gpu_check.pack import pack
from gpu_check.run import Steps, run, unpack
from helpers import small_suite
from PIL import Image

import invsuite
from invsuite.benchmark.executors.base import Placement


def photo(path: Path, side: int, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((side, side), 40).convert("RGB").point(lambda v: (v + shade) % 256).save(path)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    for number in range(12):
        photo(tmp_path / "photos" / f"{number}.png", 90, 20 * number)
    known = []
    for number in range(3):
        photo(tmp_path / "coco" / "val2017" / f"{number}.jpg", 60, number)
        known.append({"id": number, "file_name": f"{number}.jpg"})
    objects = [{"id": 10 + entry["id"], "image_id": entry["id"]} for entry in known]
    folder = tmp_path / "coco" / "annotations"
    folder.mkdir()
    (folder / "instances_val2017.json").write_text(json.dumps({"images": known, "annotations": objects}))
    return tmp_path


def test_a_pack_arrives_in_parts_and_is_as_large_as_it_may_be(sources: Path, tmp_path: Path) -> None:
    words = ["pack", "--out", tmp_path / "out", "--photos", sources / "photos", "--coco", sources / "coco"]
    (sources / "known.onnx").write_bytes(b"a network")
    words += ["--detector", sources / "known.onnx"]
    words += ["--scored", 2, "--side", 48, "--mib", 0.02, "--part", 0.02, "--wheels", "", "--model", ""]
    options = parser().parse_args([str(word) for word in words])
    said = pack(options)
    parts = sorted((tmp_path / "out").iterdir())
    assert len(parts) > 1
    assert f"{len(parts)} parts" in said
    work = tmp_path / "work"
    work.mkdir()
    environment = unpack(tmp_path / "out", work)
    fit = list(Path(environment["INVSUITE_FIT_PHOTOS"]).iterdir())
    assert 1 < len(fit) < 12, "as many photos as have room"
    assert sum(path.stat().st_size for path in (work / "pack").rglob("*") if path.is_file()) <= 0.02 * 2**20
    with Image.open(fit[0]) as small:
        assert small.size == (48, 48)
    coco = Path(environment["INVSUITE_COCO"])
    kept = json.loads((coco / "annotations" / "instances_val2017.json").read_text())
    assert [entry["id"] for entry in kept["images"]] == [0, 1]
    assert [entry["image_id"] for entry in kept["annotations"]] == [0, 1]
    assert (coco / "val2017" / "1.jpg").read_bytes() == (sources / "coco" / "val2017" / "1.jpg").read_bytes()
    assert Path(environment["INVSUITE_DETECTOR"]).name == "known.onnx", "its card is found by this name"
    wrong = parser().parse_args([*map(str, words), "--backbone", "squeezenet.safetensors"])
    with pytest.raises(SystemExit, match="is no MEASURE=FILE"):
        pack(wrong)
    parts[0].unlink()
    with pytest.raises(SystemExit, match="lacks part 1"):
        unpack(tmp_path / "out", work)


def test_steps_end_in_time_and_what_became_of_them_is_told(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        steps = Steps({}, log, time.monotonic() + 60)
        steps.run("right", [sys.executable, "-c", "print('hello')"], 30)
        steps.run("wrong", [sys.executable, "-c", "raise SystemExit(3)"], 30)
        steps.run("slow", [sys.executable, "-c", "import time; time.sleep(50)"], 10.2)
        steps.ends = time.monotonic()
        steps.run("late", [sys.executable, "-c", ""], 30)
    outcomes = {step["step"]: step["outcome"] for step in steps.done}
    assert outcomes == {
        "right": "done",
        "wrong": "exit code 3",
        "slow": "stopped, its time was up",
        "late": "no time left",
    }
    assert "hello" in (tmp_path / "log").read_text()


def test_a_machine_without_anything_still_says_what_became_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []

    def step(self: Steps, name: str, command: list[str], seconds: float) -> None:
        done.append((name, command))
        self.done.append({"step": name, "outcome": "done" if name != "bench" else "exit code 1", "seconds": 0.1})

    monkeypatch.setattr(Steps, "run", step)
    words = ["run", "--pack", str(tmp_path), "--out", str(tmp_path / "out"), "--rate", "--batch 4"]
    assert run(parser().parse_args(words)) == 1, "a step went wrong"
    assert [name for name, _ in done] == ["tests", "rate", "bench", "page"]
    assert done[1][1][-4:-2] == ["--batch", "4"]
    assert "--offline" in done[2][1]
    assert len(json.loads((tmp_path / "out" / "steps.json").read_text())["steps"]) == 3


def test_the_page_has_rates_and_every_cell_with_its_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "PRODUCT", {"cpu": 64})
    monkeypatch.setattr(rate, "SELECTED", 4)
    own = rate.per_call
    monkeypatch.setattr(rate, "per_call", lambda work, device: own(work, device, 0.01))
    for number in range(12):
        photo(tmp_path / "photos" / f"{number}.png", 60, 20 * number)
    words = ["--device", "cpu", "--model", "bundled:vit", "--stages", "embed", "--width", "8", "--batch", "4"]
    words += [
        "--steps",
        "2",
        "--variants",
        "float32:graphs:off,nonsense:plain:off",
        "--photos",
        str(tmp_path / "photos"),
    ]
    rate.main([*words, "--out", str(tmp_path / "rate.json")])
    facts = json.loads((tmp_path / "rate.json").read_text())
    first, second = facts["fits"]
    assert facts["photos"] == 12
    assert first["share_of_bound"] > 0
    bound = 1 / facts["frozen"]["forward_backward"] + first["flop_per_image"] / facts["flop_per_second"]["float32"]
    assert first["bound_images_per_second"] == pytest.approx(1 / bound)
    assert first["share_of_bound"] == pytest.approx(first["images_per_second"] * bound)
    assert "nonsense" in second["problem"]

    suite = tmp_path / "gpu.toml"
    text = small_suite("gpu", {"mean": "{}", "ridge": "{}"}, ("embed",), counts=(16, 2, 2), source="bundled:vit")
    suite.write_text(text)
    invsuite.run(str(suite), out=tmp_path / "run", placement=Placement(device="cpu"))
    steps = [{"step": "bench", "outcome": "done", "seconds": 4.0}]
    (tmp_path / "steps.json").write_text(json.dumps({"steps": steps, "suite": "some/gpu.toml"}))
    runs = [str(tmp_path / "run")] * 2
    page.main(["--run", runs[0], "--out", str(tmp_path), "--shared", "3", "--same", *runs])
    text = (tmp_path / "gpu.md").read_text()
    assert "Steps: the suite: done, 4 s." in text
    assert "# gpu" in text
    assert "**3 processes shared the device**" in text
    assert "2 cells of the suite `gpu`" in text
    assert "0 of them further apart" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| vit") and "| ridge" in line]
    assert line.count("|") == 12
    (rated,) = [line for line in text.splitlines() if line.startswith("| float32")]
    assert f"{first['images_per_second']:,.0f}" in rated
    assert "![" not in text
    assert (tmp_path / "gpu.csv").stat().st_size > 100
    records = invsuite.load_results(tmp_path / "run").records
    psnr = records[1].measurements["psnr"]
    assert psnr.mean is not None
    other = replace(records[1], measurements={"psnr": replace(psnr, mean=psnr.mean + 1)})
    lines = page.same("gpu", records, [records[0], other])
    assert "1 of them further apart" in lines[2]
    assert "psnr" in lines[4]
    assert "share no cell" in page.same("gpu", records[:1], [other])[2]
    (tmp_path / "rate.json").unlink()
    page.main(["--run", str(tmp_path / "nothing"), "--out", str(tmp_path)])
    assert (tmp_path / "gpu.md").read_text().startswith("# The suite some/gpu.toml left no records\n")
