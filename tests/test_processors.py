"""Checkpoints of transformers: the chain feeds what the image processor feeds, has the classes, or names the key."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY_SUITE, invoke
from PIL import Image
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
from transformers import AutoImageProcessor, DetrConfig, DetrForObjectDetection, DetrImageProcessor, ResNetConfig

from invsuite.errors import InvsuiteError, MissingPath, UsageError, WeightsError
from invsuite.metrics.boxes import Boxes
from invsuite.metrics.detection import shared_classes
from invsuite.models.load import load_model
from invsuite.models.pretrained import classes_of

LABELS = {0: "box", 1: "cat"}
SIDES = {"height": 64, "width": 64}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small DETR as its author would save it."""
    torch.manual_seed(0)
    body = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 16, 24], depths=[1, 1, 1, 1], out_features=["stage4"])
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes = {"d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_queries": 5}
    config = DetrConfig(backbone_config=body, id2label=LABELS, label2id={"box": 0, "cat": 1}, **layers, **sizes)
    folder = tmp_path_factory.mktemp("detr")
    DetrForObjectDetection(config).save_pretrained(folder)
    DetrImageProcessor(size=SIDES).save_pretrained(folder)
    return folder


def edited(saved: Path, folder: Path, file: str, keys: dict[str, Any]) -> Path:
    """A copy with other ``keys`` in one of its JSON files."""
    shutil.copytree(saved, folder)
    tree = json.loads((folder / file).read_text()) | keys
    (folder / file).write_text(json.dumps(tree))
    return folder


OBEYED: dict[str, dict[str, Any]] = {
    "as usual": {},
    "no rescaling": {"do_rescale": False},
    "another factor": {"rescale_factor": 1 / 127.5},
    "no normalisation": {"do_normalize": False},
    "one number for all channels": {"image_mean": 0.5, "image_std": 0.5},
    "a canvas": {"pad_size": {"height": 96, "width": 128}},
    "no padding": {"do_pad": False},
    "a number and the longest": {"size": 64, "max_size": 64},
}


@pytest.mark.parametrize("case", OBEYED)
def test_the_chain_feeds_what_the_processor_feeds(case: str, saved: Path, tmp_path: Path) -> None:
    folder = edited(saved, tmp_path / "m", "preprocessor_config.json", OBEYED[case])
    model = load_model(f"detr:{folder}@64x64" if case.startswith("a number") else f"detr:{folder}")
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        expected = model.network(**processor(images=[Image.fromarray(picture)], return_tensors="pt"))
    answer = model.predict(torch.tensor(picture).permute(2, 0, 1)[None].float() / 255)
    torch.testing.assert_close(answer.logits, expected.logits, atol=1e-4, rtol=1e-4)


SIZES: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "the shortest and the longest edge": ({"size": {"shortest_edge": 96, "longest_edge": 160}}, (96, 128)),
    "the longest edge": ({"size": {"longest_edge": 128}}, (96, 128)),
    "limits": ({"size": {"max_height": 96, "max_width": 200}}, (96, 128)),
    "a low limit": ({"size": {"max_height": 96, "max_width": 64}}, (32, 64)),
    "a number": ({"size": 96, "max_size": 1333}, (96, 128)),
    "a centre crop": ({"do_center_crop": True, "crop_size": {"height": 48, "width": 48}}, (48, 48)),
}


@pytest.mark.parametrize("case", SIZES)
def test_every_way_to_say_a_size_is_read(case: str, saved: Path, tmp_path: Path) -> None:
    keys, size = SIZES[case]
    model = load_model(f"detr:{edited(saved, tmp_path / 'm', 'preprocessor_config.json', keys)}")
    assert model.image_size == size
    assert model.resampling.crop_pct == (0.75 if "crop_size" in keys else 1.0)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no resizing": ({"do_resize": False}, "does not say how large images are: append it to the source, @HxW"),
    "two channels": ({"image_mean": [0.5, 0.5]}, "'image_mean' is"),
    "a deviation of zero": ({"image_std": [0, 1, 1]}, "'image_std' is 0"),
    "a mean that is a text": ({"image_mean": "grey"}, "'image_mean' is 'grey'"),
    "a factor that is a text": ({"rescale_factor": "x"}, "'rescale_factor' is 'x'"),
    "an unknown switch": ({"do_flip_channel_order": True}, "'do_flip_channel_order' is true"),
    "an unknown interpolation": ({"resample": 4}, "'resample' is 4"),
    "a negative size": ({"size": {"height": -64, "width": 64}}, "'size' is"),
    "half a size": ({"size": {"height": 64}}, "size must have one of"),
    "a crop of no size": ({"do_center_crop": True}, "'crop_size' is None"),
    "a crop of more than there is": (
        {"do_center_crop": True, "crop_size": {"height": 80, "width": 80}},
        "is no centre crop",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_chain_cannot_obey_is_refused_by_its_key(case: str, saved: Path, tmp_path: Path) -> None:
    keys, said = REFUSED[case]
    with pytest.raises(InvsuiteError, match=said) as caught:
        load_model(f"detr:{edited(saved, tmp_path / 'm', 'preprocessor_config.json', keys)}")
    assert "\n" not in str(caught.value)


def test_a_processor_that_does_more_than_its_keys_say(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = DetrImageProcessor.__call__

    def inverted(self: Any, *args: Any, **kwargs: Any) -> Any:
        batch = inner(self, *args, **kwargs)
        batch["pixel_values"] = -batch["pixel_values"]
        return batch

    monkeypatch.setattr(DetrImageProcessor, "__call__", inverted)
    with pytest.raises(UsageError, match="does more to the values of an image than 'do_rescale'"):
        load_model(f"detr:{saved}")


def test_what_an_edit_changes_is_another_model_for_a_record(saved: Path, tmp_path: Path) -> None:
    """Or the records of the same weights under another normalisation or padding would be taken for its own."""
    plain = load_model(f"detr:{saved}").origin.sha256
    other = edited(saved, tmp_path / "m", "preprocessor_config.json", {"image_mean": 0.5})
    digests = {plain, load_model(f"detr:{other}").origin.sha256, load_model(f"detr:{saved}@64x64/96x96").origin.sha256}
    assert len(digests) == 3
    assert load_model(f"detr:{saved}@32x32").origin.sha256 == plain, "the image size is a field of its own"


def test_classes_are_the_configurations(saved: Path) -> None:
    assert load_model(f"detr:{saved}").classes == ("box", "cat")
    assert classes_of(DetrConfig(num_labels=4)) == (), "nobody named them"
    gaps = SimpleNamespace(id2label={"0": "a", "2": "b"}, num_labels=3)
    assert classes_of(gaps) == ("a", "N/A", "b")


@pytest.mark.parametrize("voc", [False, True])
def test_cocos_ids_with_gaps_map_to_its_80_names(voc: bool) -> None:
    """Of facebook/detr-resnet-50, whose 91 ids are COCO's own; and with the names that checkpoints of RT-DETR have."""
    table = ["N/A", *FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"][1:]]
    assert len(table) == 91
    names = [name for name in table if name != "N/A"]
    assert len(names) == 80
    others = {"couch": "sofa", "tv": "tvmonitor", "airplane": "aeroplane", "motorcycle": "motorbike"} if voc else {}
    config = DetrConfig(id2label={number: others.get(name, name) for number, name in enumerate(table)})
    classes = classes_of(config)
    assert len(classes) == 91
    scoring: Any = SimpleNamespace(
        subject=SimpleNamespace(classes=tuple(names)), model=SimpleNamespace(classes=classes, name="m")
    )
    truth = [Boxes(np.zeros((80, 4)), np.arange(80), np.ones(80), np.ones(80))]
    assert shared_classes(scoring, truth) == [table.index(name) for name in names]
    assert table.index("toothbrush") == 90


def test_pickled_weights_are_read_and_no_code_is_run(saved: Path, tmp_path: Path) -> None:
    folder = edited(saved, tmp_path / "m", "config.json", {})
    model = load_model(f"detr:{folder}")
    torch.save(model.network.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    pickled = load_model(f"detr:{folder}")
    assert pickled.fingerprint() == model.fingerprint()
    torch.save({"model": print}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="cannot be read") as caught:
        load_model(f"detr:{folder}")
    assert "\n" not in str(caught.value)


def test_a_head_that_differs_from_the_configuration_is_named(saved: Path, tmp_path: Path) -> None:
    labels = {str(number): f"c{number}" for number in range(7)}
    keys = {"id2label": labels, "label2id": {name: int(number) for number, name in labels.items()}}
    with pytest.raises(WeightsError, match=r"class_labels_classifier.bias \(\(3,\) in the file, \(8,\) in config.json"):
        load_model(f"detr:{edited(saved, tmp_path / 'm', 'config.json', keys)}")


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_says_which(file: str, saved: Path, tmp_path: Path) -> None:
    folder = edited(saved, tmp_path / "m", "config.json", {})
    (folder / file).unlink()
    with pytest.raises(MissingPath, match=rf"has no {file}: copy|has no weights: {file}"):
        load_model(f"detr:{folder}")


def test_a_path_that_exists_wins_over_a_size(saved: Path, tmp_path: Path) -> None:
    folder = edited(saved, tmp_path / "run@64x96", "config.json", {})
    assert load_model(f"detr:{folder}").image_size == (64, 64)
    assert load_model(f"detr:{folder}@32x64").image_size == (32, 64)
    with pytest.raises(UsageError, match="has no pixels"):
        load_model(f"detr:{folder}@0x64")


@pytest.mark.parametrize("path", ["./typo", "typo", "~/typo", "/typo", "a/b/c", "tests/typo"])
def test_a_local_path_is_never_advice_to_download(path: str) -> None:
    with pytest.raises(MissingPath, match=r"does not exist|is no folder") as caught:
        load_model(f"detr:{path}")
    assert "hf download" not in str(caught.value)


def test_libraries_are_silent(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        load_model(f"detr:{saved}")
    assert capfd.readouterr() == ("", "")


def test_a_folder_without_a_processor_is_exit_code_3(saved: Path, tmp_path: Path) -> None:
    folder = edited(saved, tmp_path / "m", "config.json", {})
    (folder / "preprocessor_config.json").unlink()
    (tmp_path / "tiny.toml").write_text(TINY_SUITE)
    words = ("--suite", tmp_path / "tiny.toml", "--out", tmp_path / "r", "--methods", "mean", "--metrics", "psnr")
    result = invoke("bench", "--models", f"detr:{folder}", *words)
    assert result.exit_code == 3, result.output
    assert "has no preprocessor_config.json" in result.stdout
    assert "hf download" not in result.output
