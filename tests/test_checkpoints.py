"""Files of weights as people save them: found, or refused with what the file holds."""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from invsuite.errors import MissingPath, UsageError, WeightsError
from invsuite.models.adapters.timm import converted
from invsuite.models.checkpoint import check_finite, find_weights, misfit
from invsuite.models.load import load_model, name_of, needs

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def weights() -> Tensors:
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=7).state_dict()


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + key: value for key, value in tensors.items()}


FORMS: dict[str, Callable[[Tensors], Any]] = {
    "plain": lambda w: w,
    "timm's train.py": lambda w: {"arch": "a", "state_dict": w, "args": argparse.Namespace(lr=1), "epoch": 3},
    "model": lambda w: {"model": w, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}},
    "an average alone": lambda w: {"model_ema": w},
    "DDP": lambda w: prefixed("module.", w),
    "Lightning": lambda w: {"state_dict": prefixed("model.", w) | {"criterion.weight": torch.ones(2)}},
    "compiled": lambda w: {"model": prefixed("_orig_mod.", w)},
    "compiled in DDP in a wrapper": lambda w: {"a": {"b": prefixed("net.module._orig_mod.", w)}},
    "half precision": lambda w: {key: value.half() for key, value in w.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_found_wherever_they_lie(form: str, weights: Tensors, tmp_path: Path) -> None:
    torch.save(FORMS[form](weights), tmp_path / "w.ckpt")
    model = load_model(f"timm:test_vit@{tmp_path / 'w.ckpt'}")
    tolerance = 1e-3 if form == "half precision" else 0.0
    for key, value in model.network.state_dict().items():
        torch.testing.assert_close(value, weights[key], atol=tolerance, rtol=tolerance)


REFUSED: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "no weights": (lambda w: {"epoch": 3, "lr": 0.1}, r"has 0 of the 80 tensors of this network; it holds epoch, lr"),
    "another network": (
        lambda w: {"model": timm.create_model("test_resnet").state_dict()},
        r"it holds 92 tensors under 'model' \(bn1.bias ...\)",
    ),
    "two sets of weights": (
        lambda w: {"state_dict": w, "state_dict_ema": w},
        r"holds the weights 2 times, under state_dict and state_dict_ema: name one, as in FILE#state_dict",
    ),
    "a teacher and a student": (
        lambda w: prefixed("teacher.", w) | prefixed("student.", w),
        r"under teacher and student: name one, as in FILE#teacher",
    ),
    "not a number": (
        lambda w: w | {"norm.bias": torch.full((64,), float("nan"))},
        r"w.pth': 64 of the 64 values of 'norm.bias' are not finite",
    ),
    "infinite": (
        lambda w: w | {"norm.bias": torch.tensor([float("inf")] + 63 * [0.0])},
        r"1 of the 64 values of 'norm.bias'",
    ),
    "a whole pickled network": (
        lambda w: nn.Linear(2, 2),
        r"it holds a torch.nn.modules.linear.Linear, which loading would have to run: save model.state_dict\(\) alone",
    ),
    "a tensor": (lambda w: torch.ones(3), r"holds a Tensor, expected tensors by name"),
    "another shape": (lambda w: w | {"norm.bias": torch.ones(3)}, r"'norm.bias' is \(3,\), expected \(64,\)"),
    "one tensor too many": (lambda w: w | {"extra": torch.ones(3)}, r"'extra' is \(3,\), expected absent"),
    "another image size that is not square": (
        lambda w: timm.create_model("test_vit", img_size=(96, 128)).state_dict(),
        r"'pos_embed' is \(1, 49, 64\), expected \(1, 101, 64\); if it is of another image size, give it: @HxW",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_does_not_fit_is_named_with_what_it_holds(case: str, weights: Tensors, tmp_path: Path) -> None:
    make, said = REFUSED[case]
    torch.save(make(weights), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=said) as caught:
        load_model(f"timm:test_vit@{tmp_path / 'w.pth'}")
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    for name, content, said in (
        ("w.pth", b"", "cannot be read"),
        ("w.safetensors", b"hello", "cannot be read"),
        ("packed.pth", gzip.compress(b"hello"), "it is no file of torch.save, or holds more than tensors$"),
        ("p.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=said):
            load_model(f"timm:test_vit@{tmp_path / name}")


def test_one_of_several_is_named(weights: Tensors, tmp_path: Path) -> None:
    """It is another model for a record: the digest differs from that of its neighbour in the same file."""
    other = {key: value + 1 for key, value in weights.items()}
    path = tmp_path / "w.pth"
    torch.save({"a": weights, "b": prefixed("net.", other)}, path)
    first, second = (load_model(f"timm:test_vit@{path}#{place}") for place in ("a", "b/net"))
    assert first.origin.sha256 != second.origin.sha256
    torch.testing.assert_close(second.network.norm.bias, first.network.norm.bias + 1)
    assert name_of(f"timm:test_vit@{path}#b/net") == "test_vit-w-b-net"
    with pytest.raises(WeightsError, match="no weights of this network under 'c'; known: a, b/net"):
        load_model(f"timm:test_vit@{path}#c")
    torch.save(weights, tmp_path / "odd#name.pth")
    assert load_model(f"timm:test_vit@{tmp_path / 'odd#name.pth'}").image_size == (160, 160)


def test_weights_of_another_image_size_are_used_at_theirs(tmp_path: Path) -> None:
    for size in ((96, 96), (96, 128)):
        path = tmp_path / f"{size[1]}.pth"
        torch.save(timm.create_model("test_vit", num_classes=3, img_size=size).state_dict(), path)
    model = load_model(f"timm:test_vit@{tmp_path / '96.pth'}")
    assert model.image_size == (96, 96)
    assert model.layout("head").channels == 3
    assert load_model(f"timm:test_vit@{tmp_path / '128.pth'}@96x128").image_size == (96, 128)
    assert load_model(f"timm:test_vit@{tmp_path / '96.pth'}@64x32").image_size == (64, 32)


def test_the_size_of_a_network_that_must_be_made_for_it_is_set() -> None:
    """ConViT cannot be changed later; others refuse a size by name, and so is a text that is no size."""
    assert load_model("timm:convit_tiny@64", random_weights=True).image_size == (64, 64)
    with pytest.raises(UsageError, match=r"does not run on images of 70x96"):
        load_model("timm:test_vit@70x96", random_weights=True)
    with pytest.raises(UsageError, match="'0x96' has no pixels"):
        load_model("timm:test_vit@0x96", random_weights=True)
    for text in ("64x", "x64", "64x64x64", "typo.pth"):
        with pytest.raises(MissingPath, match=rf"weights file '{text}' does not exist \(.*@HxW sets"):
            load_model(f"timm:test_vit@{text}", random_weights=True)


def test_a_card_beside_the_file_says_what_the_file_does_not(weights: Tensors, tmp_path: Path) -> None:
    path, card = tmp_path / "w.safetensors", tmp_path / "w.toml"
    save_file(weights, path)
    plain = load_model(f"timm:test_vit@{path}")
    card.write_text(
        'mean = [0.1, 0.2, 0.3]\nstd = [0.5, 0.5, 0.5]\nsize = [64, 96]\ninterpolation = "bilinear"\ncrop_pct = 0.9\n'
        'classes = ["a", "b", "c", "d", "e", "f", "g"]\nlicence = "mine"\n'
    )
    model = load_model(f"timm:test_vit@{path}")
    assert model.image_size == (64, 96)
    assert model.classes == tuple("abcdefg")
    assert (model.resampling.interpolation, model.resampling.crop_pct) == ("bilinear", 0.9)
    assert model.origin.licence == "mine"
    assert model.origin.normalisation == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    assert model.origin.sha256 != plain.origin.sha256, "other representations of the same file"
    assert load_model(f"timm:test_vit@{path}@32").image_size == (32, 32), "the source comes first"
    for text, said in (
        ("means = [0, 0, 0]", "unknown key 'means': did you mean mean"),
        ("std = [0, 1, 1]", r"'std\[0\]' is 0, expected more than 0"),
        ("mean = [0.1", "is not TOML"),
        ('classes = ["a"]', "names 1 classes, its weights have 7"),
    ):
        card.write_text(text)
        with pytest.raises(UsageError, match=said):
            load_model(f"timm:test_vit@{path}")


def test_timms_own_folders(weights: Tensors, tmp_path: Path) -> None:
    """With the normalisation, the classes and the image size that timm wrote there."""
    network = timm.create_model("test_vit", num_classes=7)
    network.load_state_dict(weights)
    folder = tmp_path / "my@64"  # a path that exists wins
    config = {"label_names": list("abcdefg"), "pretrained_cfg": {"mean": [0.1, 0.2, 0.3]}}
    timm.models.save_for_hf(network, folder, model_config=config)
    model = load_model(f"timm:local-dir:{folder}")
    torch.testing.assert_close(model.network.state_dict()["norm.bias"], weights["norm.bias"])
    assert model.classes == tuple("abcdefg")
    assert load_model(f"timm:local-dir:{folder}@96x64").image_size == (96, 64)
    tree = json.loads((folder / "config.json").read_text())
    tree["pretrained_cfg"]["mean"] = [0.3, 0.3, 0.3]
    (folder / "config.json").write_text(json.dumps(tree))
    other = load_model(f"timm:local-dir:{folder}")
    assert other.origin.normalisation[0] == (0.3, 0.3, 0.3)
    assert other.origin.sha256 != model.origin.sha256
    for path in (*folder.glob("*.safetensors"), *folder.glob("*.bin")):
        path.unlink()
    with pytest.raises(MissingPath, match="has no file of weights"):
        load_model(f"timm:local-dir:{folder}")
    (folder / "config.json").unlink()
    with pytest.raises(MissingPath, match=r"has no config\.json"):
        load_model(f"timm:local-dir:{folder}")
    with pytest.raises(MissingPath, match="does not exist"):
        load_model(f"timm:local-dir:{tmp_path / 'typo'}")


def test_timm_converts_the_form_of_a_papers_own_code() -> None:
    """DINOv2's files have a mask token that no inference needs; an unknown form stays as it is."""
    network = timm.create_model("vit_small_patch14_dinov2", embed_dim=48, depth=1, num_heads=3, img_size=56)
    published = dict(network.state_dict()) | {"mask_token": torch.zeros(1, 48)}
    assert "mask_token" in misfit(published, network)
    assert not misfit(converted(published, network), network)
    assert converted({"a": torch.zeros(1)}, nn.Linear(1, 1)).keys() == {"a"}


def test_what_a_local_model_needs_is_listed(tmp_path: Path) -> None:
    """With the state of each path, as photos are."""
    (tmp_path / "w.pth").write_bytes(b"")
    for source, state in (
        (f"timm:test_vit@{tmp_path / 'w.pth'}@64", "here"),
        (f"timm:test_vit@{tmp_path / 'typo.pth'}", "by hand"),
        (f"timm:local-dir:{tmp_path}", "here"),
        (f"detr:{tmp_path / 'typo'}@64x64", "by hand"),
        (f"transformers:{tmp_path}", "here"),
        (f"onnx:{tmp_path / 'typo.onnx'}", "by hand"),
    ):
        (need,) = needs(source)
        assert need.state == state
        assert str(tmp_path) in need.what


def test_names_of_local_models_are_plain(tmp_path: Path) -> None:
    assert name_of("detr:./typo") == "typo"
    assert name_of("detr:../a b/c") == "a-b-c"
    assert name_of("timm:hf-hub:user/model@224") == "hf-hub-user-model-224"
    assert name_of("detr:facebook/detr-resnet-50") == "facebook-detr-resnet-50"


def test_constants_may_be_infinite_and_weights_not() -> None:
    """Masks of attention, and the constants of an ONNX graph, which are parameters there."""
    network = nn.Linear(2, 2)
    network.register_buffer("mask", torch.full((2,), -torch.inf))
    check_finite(network, "here")
    network.bias.data[0] = torch.inf
    check_finite(network, "here", infinite=False)
    with pytest.raises(WeightsError, match="weights of here: 1 of the 2 values of 'bias' are not finite"):
        check_finite(network, "here")
    network.get_buffer("mask")[0] = torch.nan
    with pytest.raises(WeightsError, match="'mask'"):
        check_finite(network, "here", infinite=False)


def test_optimisers_are_no_weights() -> None:
    """Even where their state has the names of the network's tensors."""
    network = nn.Linear(2, 2)
    tree = {"weights": dict(network.state_dict()), "momenta": {"weight": torch.zeros(2, 2)}}
    assert find_weights(Path("w"), tree, network).keys() == {"weight", "bias"}
