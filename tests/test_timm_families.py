"""Contract of the timm adapter over families: pieces run alone, the chain is the forward, stages are timm's maps."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import pytest
import timm
import torch
from helpers import TINY_SUITE, invoke
from safetensors.torch import save_file
from torch import nn

from invsuite.errors import NotApplicable, UsageError, WeightsError
from invsuite.inverses.networks import Architecture, InverseSettings, make_inverse
from invsuite.methods import make_method
from invsuite.methods.problem import Problem
from invsuite.models.arrangement import OneTensor
from invsuite.models.base import Layout, Model, WeightsOrigin, image_layout, means_stage
from invsuite.models.boundaries import arrangement_of
from invsuite.models.checks import check_chain
from invsuite.models.load import load_model
from invsuite.models.timm import timm_chain

ORIGIN = WeightsOrigin("random weights, for a test", "0" * 64, random=True)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SLIM = {"embed_dim": 48, "depth": 3, "num_heads": 3, "img_size": 64}

#: a model of each family, with what makes it small; prefix tokens it must have
FAMILIES: dict[str, tuple[dict[str, Any], int]] = {
    "test_vit": ({}, 1),
    "test_vit_relpos": ({"img_size": 64}, 0),
    "deit3_small_patch16_224": (SLIM, 1),
    "deit_tiny_distilled_patch16_224": (SLIM, 2),
    "vit_small_patch14_reg4_dinov2": (SLIM | {"img_size": 56}, 5),
    "vit_base_patch16_clip_224": (SLIM, 1),
    "vit_base_patch16_siglip_224": (SLIM, 0),
    "eva02_tiny_patch14_224": (SLIM | {"img_size": 56}, 1),
    "beit_base_patch16_224": (SLIM, 1),
    "cait_xxs24_224": (SLIM, 0),
    "xcit_nano_12_p16_224": (SLIM, 0),
    "convit_tiny": (SLIM, 0),
    "mixer_s32_224": ({"img_size": 64}, 0),
    "resmlp_12_224": ({"img_size": 64}, 0),
    "swin_tiny_patch4_window7_224": ({"img_size": 64, "embed_dim": 24, "window_size": 4}, 0),
    "swinv2_tiny_window8_256": ({"img_size": 64, "embed_dim": 24, "window_size": 4}, 0),
    "test_convnext": ({}, 0),
    "test_maxvit": ({"img_size": 64}, 0),
    "mobilevit_xxs": ({}, 0),
    "pvt_v2_b0": ({}, 0),
    "test_resnet": ({}, 0),
    "test_efficientnet": ({}, 0),
    "test_nfnet": ({}, 0),
    "test_byobnet": ({}, 0),
    "regnetx_002": ({}, 0),
    "mobilenetv3_small_050": ({}, 0),
    "poolformerv2_s12": ({}, 0),
    "efficientformer_l1": ({}, 0),
    "mvitv2_tiny": ({"img_size": 64}, 0),
    "twins_svt_small": ({"img_size": 64, "depths": (1, 1, 1, 1)}, 0),
    "levit_128s": ({"img_size": 64}, 0),
    "fastvit_t8": ({}, 0),
    "hiera_tiny_224": ({"img_size": 64, "stages": (1, 1, 1, 1), "q_pool": 3}, 0),
    "coat_lite_tiny": ({"img_size": 64}, 1),
    "densenet121": ({"block_config": (1, 1, 1, 1)}, 0),
    "edgenext_xx_small": ({}, 0),
}
FIXED_SIZES = {"efficientformer_l1": 224}


def build(name: str, options: dict[str, Any], classes: int = 7) -> tuple[nn.Module, Model]:
    """The network with random weights and its chain, on images as small as it takes."""
    size = options.get("img_size", FIXED_SIZES.get(name, 64))
    torch.manual_seed(1)
    network = timm.create_model(name, pretrained=False, num_classes=classes, **options)
    for weight in network.parameters():  # many heads and residual branches begin at zero: nothing would be tested
        weight.data.add_(0.02 * torch.randn(weight.shape))
    return network, timm_chain(name, network, (size, size), MEAN, STD, ORIGIN)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[nn.Module, Model, int]:
    """A family's network, its chain and how many prefix tokens it has; built once for all tests of it."""
    options, prefix = FAMILIES[request.param]
    return *build(request.param, options), prefix


def test_every_piece_runs_alone_and_together_they_are_the_forward(family: tuple[nn.Module, Model, int]) -> None:
    """On other images and another batch than the adapter tried at load, with gradients."""
    network, model, prefix = family
    assert model.uncut == ""
    images = torch.rand(3, 3, *model.image_size, generator=torch.Generator().manual_seed(5))
    maps = network.forward_intermediates(
        model.components[0].module.parts["normalise"](images), intermediates_only=True, output_fmt="NCHW"
    )
    assert len(model.stages) in (len(maps) + 1, len(maps) + 2)
    assert model.stages[0] == "embed"
    tensor, found = images, {}
    for component in model.components:
        given = tensor.clone().requires_grad_()
        made = component.module(given)
        assert torch.equal(given.detach(), tensor), "a component leaves what it is given as it was"
        assert tuple(made.shape[1:]) == component.layout.shape
        gradient = torch.autograd.grad(made.square().sum(), given)[0]
        assert (gradient.flatten(1).norm(dim=1) > 0).all(), "gradients flow to what a component is given"
        tensor = found[component.stage] = made.detach()
    expected = model.reference(images)
    torch.testing.assert_close(model.predict(images).logits, expected.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tensor.squeeze(1), expected.logits, atol=1e-5, rtol=1e-4)
    stages = model.stages[-1 - len(maps) : -1]
    for stage, wanted in zip(stages, maps, strict=True):
        torch.testing.assert_close(model.layout(stage).to_map(found[stage]), wanted, atol=1e-4, rtol=1e-4)
    assert model.layout(stages[0]).prefix == prefix
    assert all(layout.spatial for layout in map(model.layout, model.stages[:-1]))


def test_every_stage_has_an_inverse(family: tuple[nn.Module, Model, int]) -> None:
    """Networks of both architectures join each representation to the one before it, whatever their layouts."""
    model = family[1]
    target = image_layout(model.image_size)
    for stage in model.stages:
        source = model.layout(stage)
        for architecture in get_args(Architecture):
            blocks = min(1, model.blocks(None, stage))
            network = make_inverse(source, target, InverseSettings(architecture, 8, 1, blocks)).eval()
            with torch.no_grad():
                made = network(torch.randn(1, *source.shape))
            assert tuple(made.shape[1:]) == target.shape
        target = source


def test_names_and_blocks_of_stages() -> None:
    flat = build("test_vit", {})[1]
    assert flat.stages == ("embed", *(f"block{n:02d}" for n in range(1, 7)), "head")
    assert [c.blocks for c in flat.components] == [0, 1, 1, 1, 1, 1, 1, 0]
    pyramid = build("swin_tiny_patch4_window7_224", FAMILIES["swin_tiny_patch4_window7_224"][0])[1]
    assert pyramid.stages == ("embed", "stage1", "stage2", "stage3", "stage4", "head")
    assert [c.blocks for c in pyramid.components] == [0, 2, 2, 6, 2, 0]
    assert pyramid.layout("stage2") == Layout("map", 48, (8, 8))
    assert flat.find_stages(["embed", "block3", "6"]) == ("embed", "block03", "block06")
    assert flat.find_stages(["every"]) == flat.stages
    assert flat.find_stages(["0", "block*1"]) == ("embed", "block01")
    assert flat.usual_stages() == ("embed", "block02", "block03", "block04", "block06")
    assert pyramid.usual_stages() == pyramid.stages[:-1]
    with pytest.raises(UsageError, match="unknown stage of model 'test_vit' 'block7': did you mean block0"):
        flat.find_stages(["block7"])
    assert not means_stage("block30", "block03")
    assert not means_stage("1", "block11")
    assert not means_stage("block10", "block100")


def test_a_network_without_classes_ends_in_an_embedding() -> None:
    network, model = build("vit_small_patch14_reg4_dinov2", SLIM | {"img_size": 56}, classes=0)
    assert model.task == "embedding"
    assert model.layout("head") == Layout("queries", 48, None, 1)
    images = torch.rand(2, 3, 56, 56)
    torch.testing.assert_close(model.predict(images).logits, model.reference(images).logits)
    assert network.num_features == 48


def test_arrangements_undo_themselves() -> None:
    """Windows in another order, prefix tokens and channels last are found, and put back."""
    feature_map = torch.randn(2, 5, 4, 6)
    rows = feature_map.flatten(2).transpose(1, 2)
    order = torch.randperm(24)
    for tensor, kind, prefix in (
        (feature_map, "map", 0),
        (feature_map.permute(0, 2, 3, 1), "map", 0),
        (rows, "tokens", 0),
        (torch.cat([torch.randn(2, 3, 5), rows], 1), "tokens", 3),
        (torch.cat([torch.randn(2, 1, 5), rows[:, order]], 1), "tokens", 1),
        (rows[:, order].unflatten(1, (4, 6)), "map", 0),
    ):
        arrangement = arrangement_of(tensor, feature_map)
        assert isinstance(arrangement, OneTensor)
        assert (arrangement.layout.kind, arrangement.layout.prefix) == (kind, prefix)
        representation = arrangement.read([tensor])
        assert tuple(representation.shape[1:]) == arrangement.layout.shape
        assert torch.equal(arrangement.layout.to_map(representation), feature_map)
        assert torch.equal(arrangement.write(representation)[0], tensor)
    assert arrangement_of(rows + 1e-3, feature_map) is None
    assert arrangement_of(rows[:, :20], feature_map) is None


@pytest.mark.parametrize("name", ["pit_ti_224", "crossvit_tiny_240"])
def test_a_network_with_branches_says_so_and_methods_that_see_representations_run(
    name: str, make_problem: Callable[..., Problem]
) -> None:
    size = 64 if name == "pit_ti_224" else 240
    torch.manual_seed(1)
    network = timm.create_model(name, pretrained=False, num_classes=7, img_size=size)
    model = timm_chain(name, network, (size, size), MEAN, STD, ORIGIN)
    assert "module" in model.uncut
    images = torch.rand(2, 3, size, size)
    torch.testing.assert_close(model.predict(images).logits, model.reference(images).logits)
    stage, later = model.stages[0], model.stages[1]
    with pytest.raises(NotApplicable, match="does not follow from"):
        model.run(torch.zeros(1, *model.layout(stage).shape), stage, later)
    found = model.represent(images, [stage, later])
    maps = network.forward_intermediates(
        model.components[0].module.parts["normalise"](images), intermediates_only=True, output_fmt="NCHW"
    )
    assert torch.equal(found[later].tensor, maps[1])
    if size > 64:
        return
    problem = make_problem(model, (stage, later), passes=16, fit=16)
    for method, params in (
        ("ridge", {}),
        ("nearest", {}),
        ("optimisation", {"iterations": 1}),
        ("layerwise", {"width": 8, "depth": 1}),
        ("modular", {"width": 8, "depth": 1}),
    ):
        fitted = make_method(method, params).fit(problem)
        made = fitted.invert(found[later], images)
        assert made.shape == images.shape
        assert torch.isfinite(made).all()
    with pytest.raises(NotApplicable, match="no blocks that run alone"):
        make_method("fixedpoint", {}).fit(problem)


@pytest.mark.parametrize("name", ["test_vit4", "levit_128s", "hiera_tiny_224"])
def test_random_weights_are_others_and_the_chain_follows_them(name: str) -> None:
    """Also where attention keeps something it worked out of its weights."""
    options = FAMILIES.get(name, ({}, 0))[0]
    model = build(name, options)[1]
    images = torch.rand(2, 3, *model.image_size)
    before = model.predict(images).logits
    other = model.randomised(3)
    assert other.origin.random
    assert other.origin.source.startswith("random weights, seed 3")
    torch.testing.assert_close(other.predict(images).logits, other.reference(images).logits, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(other.predict(images).logits, before)
    torch.testing.assert_close(model.predict(images).logits, before)


def test_random_weights_are_always_the_same_and_leave_the_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    one = load_model("timm:test_vit", "t", random_weights=True)
    assert torch.equal(torch.rand(1), expected)
    two = load_model("timm:test_vit", "t", random_weights=True)
    assert one.fingerprint() == two.fingerprint() == one.origin.sha256
    assert one.origin.random
    assert one.origin.source == "random weights, seed 0 (architecture of timm test_vit)"
    bundled = load_model("bundled:vit", "b", random_weights=True)
    assert bundled.origin.random
    assert bundled.origin.sha256 != load_model("bundled:vit", "b").origin.sha256


NEVER_NAMED = ("shvit_s1", "starnet_s050", "test_mambaout")


def test_families_that_the_code_never_names_run_from_the_command_line(tmp_path: Path) -> None:
    """Their tables and records say random weights; other models of the suite are not among them."""
    code = "".join(path.read_text() for path in Path(str(files("invsuite"))).rglob("*.py"))
    assert not any(family in code for family in ("mambaout", "starnet", "shvit"))
    suite = tmp_path / "tiny.toml"
    text = TINY_SUITE.replace("image_passes = 64\nbatch = 16", "image_passes = 4\nbatch = 2")
    text = text.replace("count = 64", "count = 4").replace("count = 8", "count = 2").replace("count = 6", "count = 2")
    suite.write_text(text)
    words = (
        "--suite",
        suite,
        "--out",
        tmp_path / "r",
        "--metrics",
        "psnr",
        "--methods",
        "mean,ridge,layerwise,modular",
    )
    models = ",".join(f"timm:{name}@96" for name in NEVER_NAMED)
    result = invoke("bench", "--models", models, "--random-weights", "--stages", "0,2", *words)
    assert result.exit_code == 0, result.output
    assert "24 cells computed, 0 reused; 24 ok" in result.stdout
    table = (tmp_path / "r" / "tiny.md").read_text()
    assert table.splitlines()[0].endswith(
        "tests - RANDOM WEIGHTS, untrained: " + ", ".join(f"{n}-96-random" for n in NEVER_NAMED)
    )
    record = json.loads(
        invoke("show", "starnet_s050-96-random-stage2-modular", "--suite", suite, "--out", tmp_path / "r").stdout
    )
    assert record["weights"]["random"] is True
    assert record["weights"]["source"] == "random weights, seed 0 (architecture of timm starnet_s050)"
    assert "RANDOM WEIGHTS" in result.stdout.splitlines()[0]
    again = invoke("report", "--suite", suite, "--out", tmp_path / "r")
    assert again.exit_code == 0
    assert (tmp_path / "r" / "tiny.md").read_text() == table


def test_models_beside_a_suite_and_bad_names(tmp_path: Path) -> None:
    """An unknown model is one line with the nearest names and exit code 2, and the others go on."""
    suite = tmp_path / "tiny.toml"
    suite.write_text(TINY_SUITE)
    words = ("--suite", suite, "--out", tmp_path / "r", "--metrics", "psnr", "--methods", "mean")
    result = invoke("bench", "--models", "vit,timm:tset_vit", "--stages", "embed,block3", *words)
    assert result.exit_code == 2
    assert "2 failed, 2 ok" in result.stdout
    said = "unknown timm model 'tset_vit': did you mean test_vit"
    assert sum(said in line for line in result.stdout.splitlines()) == 1
    assert "RANDOM" not in result.stdout
    for which, message in (
        (("--models", "timn:test_vit"), "unknown model adapter 'timn': did you mean timm?"),
        (
            ("--models", "timm:test_vit", "--random-weights", "--stages", "embed,blok3"),
            "unknown stage 'blok3': did you",
        ),
        (("--models", "timm:a,timm:hub/a,detr:a"), "2 models would be called 'a' in the tables"),
    ):
        refused = invoke("bench", *which, *words)
        assert refused.exit_code == 2, refused.output
        assert message in refused.stderr
    stages = invoke("bench", "--models", "vit,timm:test_vit", "--random-weights", "--stages", "block9,head", *words)
    assert stages.exit_code == 2
    missing = invoke("bench", "--models", "timm:convnext_atto", *words)
    assert missing.exit_code == 0
    assert "skipped" in missing.stdout
    assert "hf download timm/convnext_atto" in missing.stdout


def test_a_stage_that_no_model_has_is_a_failed_record_with_the_list(tmp_path: Path) -> None:
    suite = tmp_path / "tiny.toml"
    suite.write_text(TINY_SUITE)
    words = ("--suite", suite, "--out", tmp_path / "r", "--metrics", "psnr", "--methods", "mean", "--random-weights")
    result = invoke("bench", "--models", "timm:test_vit", "--stages", "blok3", *words)
    assert result.exit_code == 2
    assert "unknown stage of model 'test_vit-random' 'blok3': did you mean block03" in result.stdout
    assert "known: block01, block02" in result.stdout


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_a_local_file_of_any_family_loads_or_says_which_tensor_does_not_fit(name: str, tmp_path: Path) -> None:
    """The classifier has another name in each; the number of classes is the file's."""
    weights = timm.create_model(name, pretrained=False, num_classes=5).state_dict()
    path = tmp_path / "w.safetensors"
    save_file(weights, path)
    model = load_model(f"timm:{name}@{path}", "t")
    assert model.predict(torch.rand(1, 3, *model.image_size)).logits.shape == (1, 5)
    assert not model.origin.random
    key = next(iter(weights))
    weights[key] = torch.zeros(3)
    save_file(weights, path)
    with pytest.raises(WeightsError, match=rf"'{re.escape(key)}' is \(3,\), expected"):
        load_model(f"timm:{name}@{path}", "t")


@pytest.mark.parametrize("source", ["test_vit", "test_resnet"])
def test_the_input_size_can_be_set(source: str, tmp_path: Path) -> None:
    """With random weights and with those of a file, where a network depends on it and where not."""
    path = tmp_path / "w@1.safetensors"
    save_file(timm.create_model(source, pretrained=False).state_dict(), path)
    images = torch.rand(1, 3, 96, 64)
    for model in (
        load_model(f"timm:{source}@96x64", random_weights=True),
        load_model(f"timm:{source}@{path}@96x64", "t"),
    ):
        assert model.image_size == (96, 64)
        check_chain(model, images)
    assert load_model(f"timm:{source}@96", random_weights=True).image_size == (96, 96)
    assert load_model(f"timm:{source}@{path}", "t").image_size == (160, 160)


def test_the_list_of_models_tells_stages_weights_and_licence() -> None:
    rows = {row["model"]: row for row in json.loads(invoke("list", "models", "--json").stdout)}
    assert rows["vit"]["stages"].startswith("embed, block01, block02")
    assert rows["vit"]["licence"] == "Apache-2.0"
    assert rows["swin-b"]["source"] == "timm:swin_base_patch4_window7_224"
    assert rows["swin-b"]["weights"].startswith("hub timm/swin_base_patch4_window7_224")
    assert rows["swin-b"]["licence"] == "mit"
    assert "stage1" in rows["timm:NAME"]["stages"]
    assert all(row["source"] and row["weights"] and row["licence"] for row in rows.values())
