"""What a suite needs is said before it is fetched; offline nothing is; a dry run estimates."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import invoke, small_suite

from invsuite._system.environment import SWITCHES, go_offline
from invsuite._system.flops import count_flops
from invsuite._system.needs import Need
from invsuite.benchmark.cells import Selection, make_plan
from invsuite.benchmark.estimate import MEASURE, cell_passes, plan_cost, time_model
from invsuite.benchmark.fetch import fetch, needs
from invsuite.benchmark.runner import Todo, work
from invsuite.benchmark.suite import load_suite
from invsuite.data import coco
from invsuite.data.coco import ARCHIVES, Archive, CocoSource
from invsuite.data.folder import FolderSource
from invsuite.errors import DataError, Unavailable, UsageError
from invsuite.methods.optimisation.search import WEIGHTS
from invsuite.models.base import Model
from invsuite.registry import forget_plugins, load_plugins


@pytest.fixture(autouse=True)
def switches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `go_offline` sets is taken back; sockets lead nowhere, so that a test that reaches for one fails."""
    for name in SWITCHES:
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was touched"))


@pytest.fixture
def no_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INVSUITE_IMAGENET", "INVSUITE_COCO", "INVSUITE_FIT_PHOTOS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("name", "sources"),
    [
        ("paper", {"ImageNetSource", "CocoSource"}),
        ("general", {"ImageNetSource", "CocoSource"}),
        ("fia-flow", {"ImageNetSource"}),
    ],
)
def test_the_large_suites_load_and_dry_run(name: str, sources: set[str], no_photos: None, tmp_path: Path) -> None:
    """Without weights and photos every cell is laid out, and the models are named as not in the estimate."""
    suite = load_suite(name)
    assert {suite.data_of(m).score.__class__.__name__ for m in suite.models} == sources
    result = invoke("bench", "--suite", name, "--dry-run", "--offline", "--json", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    tree = json.loads(result.stdout)
    seeds = {m.name: len(suite.seeds) if m.method.seeded else 1 for m in suite.methods}
    assert len(tree["cells"]) == sum(len(m.stages) for m in suite.models) * sum(seeds.values())
    assert set(tree["estimate"]["unknown"]) == {m.name for m in suite.models}
    said = invoke("bench", "--suite", name, "--dry-run", "--offline", "--out", tmp_path).stdout
    assert "not in the estimate" in said
    assert " hours on this " not in said, "nothing was timed"


def test_the_paper_suite_has_the_papers_models() -> None:
    suite = load_suite("paper")
    assert [m.source for m in suite.models] == [
        "timm:vit_base_patch16_224",
        "timm:deit3_base_patch16_224",
        "timm:swin_base_patch4_window7_224",
        "detr:facebook/detr-resnet-50@480x640",
    ]
    assert [m.name for m in suite.methods] == ["modular", "layerwise", "optimisation"]
    data = suite.data_of(suite.models[-1])
    assert isinstance(data.fit, CocoSource)
    assert data.fit.geometry == "squash"


def test_data_of_a_model_must_be_named(tiny_suite: Path) -> None:
    text = tiny_suite.read_text()
    tiny_suite.write_text(text.replace('stages = ["embed", "block03"]', 'stages = ["embed"]\ndata = "cocoa"'))
    with pytest.raises(UsageError, match=r"unknown models\.vit\.data 'cocoa'"):
        load_suite(str(tiny_suite))


def test_a_dry_run_estimates_from_timed_pieces(
    tiny_suite: Path, tmp_path: Path, vit: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine would stretch one piece and not another: what is compared is timed by a clock that counts
    operations."""
    result = invoke("bench", "--suite", tiny_suite, "--dry-run", "--json", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    estimate = json.loads(result.stdout)["estimate"]
    assert 0 < estimate["hours"] < 1
    assert estimate["unknown"] == []
    monkeypatch.setattr("invsuite.benchmark.estimate.timed", lambda work, device: 1e-11 * (1 + count_flops(work)))
    found = time_model(vit, ["embed", "block06"], torch.device("cpu"))
    weights = sum(p.numel() * 4 for p in vit.network.parameters())
    assert found.weight_bytes == weights
    # at least each block's input and its hidden layer, twice as wide, of 145 tokens of 96 values
    assert found.kept_bytes > 6 * 3 * 145 * 96 * 4
    assert found.memory(8) == weights + 8 * found.kept_bytes
    assert found.forward["block06"] > found.forward["embed"]
    plan = make_plan(load_suite(str(tiny_suite)), Selection(methods=("mean", "modular", "layerwise")), lambda _: None)
    ids = {cell.method.name: {c.id for c in plan.cells if c.method == cell.method} for cell in plan.cells}
    costs = {name: plan_cost(plan, cells, torch.device("cpu")).hours for name, cells in ids.items()}
    assert costs["layerwise"] > costs["modular"] > costs["mean"] > 0


def test_images_that_a_method_does_not_edit_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("invsuite.benchmark.estimate.timed", lambda work, device: 1e-11 * (1 + count_flops(work)))
    settings = "kind = 'optimisation', iterations = 50, tv = 1.0"
    methods = {"all": f"{{ {settings} }}", "none": f"{{ {settings}, edits = 0 }}"}
    path = tmp_path / "edited.toml"
    path.write_text(small_suite("edited", methods, metrics=("psnr", "hue_gain")))
    plan = make_plan(load_suite(str(path)), Selection(), lambda _: None)
    costs = {
        cell.method.name: plan_cost(plan, [cell.id], torch.device("cpu")).hours
        - plan_cost(plan, [], torch.device("cpu")).hours
        for cell in plan.cells
    }
    assert costs["all"] == pytest.approx(1.5 * costs["none"], rel=0.02), "of 4 images, 2 edited, too"


OWN_DESCENTS = """
from dataclasses import dataclass, replace

from invsuite import Method, register
from invsuite.methods.optimisation.presets import Optimisation


@register.method
@dataclass(frozen=True)
class Own(Method):
    rounds: int = 3

    name = "own"
    family = "hybrid"
    source = "a test"

    def fit(self, problem):
        raise NotImplementedError

    def work(self, facts):
        return replace(super().work(facts), updates=self.rounds)


@register.method
@dataclass(frozen=True)
class Preset(Optimisation):
    ensemble: int = 2

    name = "preset"
"""


def test_the_time_left_knows_fit_images_and_measures(tmp_path: Path) -> None:
    """24 fit images read once for two stages, 4 scored and twice 2 edited; each measure is worth some passes more.

    A search of the prior's weight comes on top of the descents.
    """
    fixed = "iterations = 5, until = 'iterations'"
    methods = {
        "mean": "{}",
        "ridge": "{}",
        "layerwise": "{ width = 8 }",
        "optimisation": f"{{ {fixed}, tv = 1.0 }}",
        "searched": f"{{ kind = 'optimisation', {fixed}, search_images = 3, search_iterations = 2 }}",
    }
    path = tmp_path / "left.toml"
    path.write_text(small_suite("left", methods, metrics=("psnr", "ssim")))
    one, two = (
        make_plan(load_suite(str(path)), Selection(metrics=measures), lambda _: None)
        for measures in (("psnr",), ("psnr", "ssim"))
    )
    passes = {cell.method.name: cell_passes(one, cell) for cell in one.cells}
    searched = passes.pop("searched")
    assert passes == {"mean": 8, "ridge": 8 + 24 / 2, "layerwise": 8 + 32, "optimisation": 8 + 5 * 8}
    assert searched == passes["optimisation"] + 2 * 3 * len(WEIGHTS)
    whole = Todo(inversion=True)
    more = [work(two, b, whole) - work(one, a, whole) for a, b in zip(one.cells, two.cells, strict=True)]
    assert more == pytest.approx([MEASURE * 8] * len(one.cells))
    assert work(two, two.cells[0], Todo(False, two.metrics[:1])) == MEASURE * 8, (
        "a measure that is added inverts nothing"
    )


@pytest.fixture
def _plugins_are_forgotten() -> Iterator[None]:
    yield
    forget_plugins()


@pytest.mark.usefixtures("_plugins_are_forgotten")
def test_a_plugin_that_descends_is_costed_by_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method of any class and family says its updates per image; one that is derived from a preset has its own."""
    plugin = tmp_path / "own.py"
    plugin.write_text(OWN_DESCENTS)
    load_plugins([plugin])
    path = tmp_path / "own.toml"
    path.write_text(
        small_suite(
            "own",
            {"own": "{ rounds = 7 }", "preset": "{ iterations = 5, until = 'iterations', tv = 1.0 }", "mean": "{}"},
        )
    )
    plan = make_plan(load_suite(str(path)), Selection(), lambda _: None)
    passes = {cell.method.name: cell_passes(plan, cell) for cell in plan.cells}
    assert passes == {"own": 8 + 7 * 8, "preset": 8 + 5 * 2 * 8, "mean": 8}
    monkeypatch.setattr("invsuite.benchmark.estimate.timed", lambda piece, device: 1e-11 * (1 + count_flops(piece)))
    ids = {name: {cell.id for cell in plan.cells if cell.method.name == name} for name in passes}
    hours = {name: plan_cost(plan, cells, torch.device("cpu")).hours for name, cells in ids.items()}
    updates = {name: hours[name] - hours["mean"] for name in ("own", "preset")}
    assert updates["preset"] == pytest.approx(updates["own"] * 10 / 7)


def zipped(tmp_path: Path, names: list[str]) -> Path:
    path = tmp_path / "served.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name in names:
            packed.writestr(name, "x")
    return path


@pytest.fixture
def coco_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A COCO site with small archives, and the suite ``photos`` that reads them."""
    served: dict[str, str] = {}

    def serve(address: str, target: str, progress: bool) -> None:
        served[address] = target
        Path(target).write_bytes(archives[address].read_bytes())

    names = {"val2017": ["val2017/1.jpg"], "annotations": ["annotations/instances_val2017.json"]}
    archives: dict[str, Path] = {}
    for part, inside in names.items():
        (tmp_path / part).mkdir()
        path = zipped(tmp_path / part, inside)
        digest = hashlib.sha1(path.read_bytes()).hexdigest()
        published = Archive(f"zips/{part}.zip", path.stat().st_size, digest)
        monkeypatch.setitem(ARCHIVES, part, published)
        archives[coco.SITE + published.path] = path
    monkeypatch.setattr("torch.hub.download_url_to_file", serve)
    monkeypatch.setenv("INVSUITE_COCO", str(tmp_path / "coco"))
    monkeypatch.setenv("INVSUITE_FIT_PHOTOS", str(tmp_path))
    monkeypatch.delenv(SWITCHES[0])
    return served


def test_sizes_first_then_data_with_digests(coco_server: dict[str, str], tmp_path: Path) -> None:
    items = {i.what: i for i in needs(load_suite("photos"))}
    root = tmp_path / "coco"
    states = {what: item.state for what, item in items.items()}
    assert states[f"COCO val2017 in {root}"] == states[f"COCO annotations in {root}"] == "to fetch"
    assert states[f"photos {tmp_path}"] == "here"
    assert not coco_server, "looking fetches nothing"
    wanted = [item for what, item in items.items() if what.startswith("COCO")]
    assert all(item.size for item in wanted)
    brought = dict(fetch(wanted, lambda _: None))
    assert (root / "val2017" / "1.jpg").is_file()
    assert (root / "annotations" / "instances_val2017.json").is_file()
    assert not list(root.glob("*.zip"))
    assert brought[f"COCO val2017 in {root}"] == f"sha1:{ARCHIVES['val2017'].sha1}"
    again = {i.what: i.state for i in needs(load_suite("photos"))}
    assert again[f"COCO val2017 in {root}"] == "here"


def test_a_wrong_digest_is_refused(
    coco_server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = ARCHIVES["val2017"]
    monkeypatch.setitem(ARCHIVES, "val2017", Archive(good.path, good.size, "0" * 40))
    items = [i for i in needs(load_suite("photos")) if i.what.startswith("COCO val")]
    with pytest.raises(DataError, match="is not the published 0000"):
        fetch(items, lambda _: None)
    assert not (tmp_path / "coco" / "val2017").exists()


def test_the_command_lists_and_offline_refuses(
    no_photos: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVSUITE_COCO", str(tmp_path))
    listed = invoke("fetch", "paper", "--offline")
    assert listed.exit_code == 0, listed.output
    for word in ("facebook/detr-resnet-50", "18,441 MiB", "COCO train2017", "set INVSUITE_IMAGENET first", "--yes"):
        assert word in " ".join(listed.stdout.split()), word
    refused = invoke("fetch", "paper", "--offline", "--yes")
    assert refused.exit_code == 3
    assert "--offline forbids" in refused.output
    assert invoke("fetch", "papr").exit_code == 2
    assert "alexnet-owt-7be5be79.pth" in invoke("fetch", "quick", "--offline").stdout


def test_a_server_that_says_no_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCHES[0])

    def bring(log: object) -> str:
        raise OSError("404 not found\nand a long story")

    with pytest.raises(Unavailable, match=r"^weights x cannot be fetched: OSError: 404 not found$"):
        fetch([Need("weights x", 5, bring, "")], lambda _: None)


def test_offline_switches_every_client(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SWITCHES:
        monkeypatch.delenv(name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    go_offline()
    import huggingface_hub.constants

    assert huggingface_hub.constants.HF_HUB_OFFLINE is True
    assert all(os.environ[name] == "1" for name in SWITCHES)


def test_folders_are_the_users_own(tmp_path: Path) -> None:
    (item,) = FolderSource(str(tmp_path / "gone")).needs()
    assert item.state == "by hand"
    assert "bring your own" in item.note
