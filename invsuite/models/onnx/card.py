"""What an ONNX file does not say about itself, in a TOML card: normalisation, stages, and what its answer means.

input = "images"                                  # the graph's image input, (B, 3, H, W)
size = [320, 320]                                 # where the graph leaves it free
mean = [0.485, 0.456, 0.406]                      # normalisation for images in [0, 1]; left out: none
std = [0.229, 0.224, 0.225]

[prediction]
task = "detection"                                # or "classification", with logits (B, classes) alone
logits = "NAME OF A TENSOR"                       # (B, queries, classes)
boxes = "NAME OF A TENSOR"                        # (B, queries, 4) as (cx, cy, w, h) in [0, 1]
no_object = false                                 # whether the last class is "no object"
classes = ["person", "bicycle"]                   # may be left out: names of the classes, in the logits' order

[stages]                                          # in the order of the network
backbone = "NAME OF A TENSOR"                     # (B, C, h, w): a map
encoder = ["FINE", "COARSE"]                      # several maps: a pyramid, finest first
block1 = { tensors = "NAME", kind = "tokens", grid = [14, 14], prefix = 1, blocks = 1 }
decoder = { tensors = "NAME", kind = "queries" }  # (B, N, C)
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from invsuite._system.files import expand_path
from invsuite.errors import UsageError, unknown_name

CARDS = files("invsuite") / "models" / "cards"
KEYS = {"input", "size", "mean", "std", "licence", "prediction", "stages"}
STAGE_KEYS = {"tensors", "kind", "grid", "prefix", "blocks"}
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class StageCard:
    """One stage: its tensors and, for tokens, their grid and how many have no place."""

    tensors: tuple[str, ...]
    kind: str = ""
    grid: tuple[int, int] | None = None
    prefix: int = 0
    blocks: int = 0


@dataclass(frozen=True)
class OnnxCard:
    """A whole card."""

    image: str
    size: tuple[int, int] | None
    mean: Triple
    std: Triple
    licence: str
    task: str
    logits: str
    boxes: str | None
    no_object: bool
    classes: tuple[str, ...]
    stages: dict[str, StageCard]


def find_card(model: Path, named: str) -> OnnxCard:
    """The card of an ONNX file: the ``named`` one, else ``MODEL.toml`` beside it, else the package's of a known export.

    Raises:
        UsageError: if there is none, or it is not a card, naming the key.
    """
    if named:
        path = expand_path(named)
        if not path.is_file():
            raise UsageError(f"card '{path}' does not exist")
        return _card(path.read_text(encoding="utf-8"), str(path))
    beside, inside = model.with_suffix(".toml"), CARDS / f"{model.stem}.toml"
    if beside.is_file():
        return _card(beside.read_text(encoding="utf-8"), str(beside))
    if inside.is_file():
        return _card(inside.read_text(encoding="utf-8"), inside.name)
    raise UsageError(
        f"'{model.name}' needs a card that names its stages: write {beside.name} beside it, or name one as "
        "onnx:FILE.onnx@CARD.toml; what it holds is in invsuite/models/onnx/card.py"
    )


def _card(text: str, source: str) -> OnnxCard:
    try:
        tree = tomllib.loads(text)
        _check(tree, KEYS)
        answer = tree["prediction"]
        _check(answer, {"task", "logits", "boxes", "no_object", "classes"})
        if answer["task"] not in ("classification", "detection"):
            raise unknown_name("task", answer["task"], ("classification", "detection"))
        return OnnxCard(
            image=tree["input"],
            size=tuple(tree["size"]) if "size" in tree else None,
            mean=tuple(tree.get("mean", (0.0, 0.0, 0.0))),
            std=tuple(tree.get("std", (1.0, 1.0, 1.0))),
            licence=tree.get("licence", "see the file's source"),
            task=answer["task"],
            logits=answer["logits"],
            boxes=answer["boxes"] if answer["task"] == "detection" else None,
            no_object=bool(answer.get("no_object", True)),
            classes=tuple(answer.get("classes", ())),
            stages={name: _stage(entry) for name, entry in tree.get("stages", {}).items()},
        )
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"card '{source}' is not TOML: {error}") from error
    except KeyError as error:
        raise UsageError(f"card '{source}': {error} is missing") from error
    except UsageError as error:
        raise UsageError(f"card '{source}': {error}") from error


def _stage(entry: Any) -> StageCard:
    tree = entry if isinstance(entry, dict) else {"tensors": entry}
    _check(tree, STAGE_KEYS)
    tensors = tree["tensors"]
    kind = tree.get("kind", "")
    if kind not in ("", "map", "tokens", "queries"):
        raise unknown_name("kind", kind, ("map", "tokens", "queries"))
    return StageCard(
        tensors=(tensors,) if isinstance(tensors, str) else tuple(tensors),
        kind=kind,
        grid=tuple(tree["grid"]) if "grid" in tree else None,
        prefix=int(tree.get("prefix", 0)),
        blocks=int(tree.get("blocks", 0)),
    )


def _check(tree: dict[str, Any], known: set[str]) -> None:
    for key in tree:
        if key not in known:
            raise unknown_name("key", key, known)
