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

from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Literal

from invsuite._system.files import expand_path
from invsuite._system.validation import Natural, Positive
from invsuite.errors import MissingPath, UsageError
from invsuite.models.cards import read_card

CARDS = files("invsuite") / "models" / "onnx" / "cards"
Triple = tuple[float, float, float]
Size = tuple[Positive, Positive]


@dataclass(frozen=True)
class StageCard:
    """One stage: its tensors and, for tokens, their grid and how many have no place."""

    tensors: str | tuple[str, ...]
    kind: Literal["map", "tokens", "queries"] | None = None
    grid: Size | None = None
    prefix: Natural = 0
    blocks: Natural = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of its tensors."""
        return (self.tensors,) if isinstance(self.tensors, str) else self.tensors


@dataclass(frozen=True)
class PredictionCard:
    """What the graph predicts."""

    task: Literal["classification", "detection"]
    logits: str
    boxes: str | None = None
    no_object: bool = True
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.task == "detection") is (self.boxes is None):
            raise UsageError("'prediction.boxes' is for the task detection, and needed there")

    @property
    def answers(self) -> tuple[str, ...]:
        """Return the names of its tensors."""
        return (self.logits,) if self.boxes is None else (self.logits, self.boxes)


@dataclass(frozen=True)
class OnnxCard:
    """A whole card."""

    input: str
    prediction: PredictionCard
    size: Size | None = None
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    licence: str = "see the file's source"
    stages: dict[str, str | tuple[str, ...] | StageCard] = field(default_factory=dict)

    @property
    def stage_cards(self) -> dict[str, StageCard]:
        """Return the stages in order, those that the card names by their tensors alone too."""
        return {name: s if isinstance(s, StageCard) else StageCard(s) for name, s in self.stages.items()}


def find_card(model: Path, named: str) -> OnnxCard:
    """Return the card of an ONNX file: the ``named`` one, else ``MODEL.toml`` beside it, else the package's own.

    Raises:
        MissingPath: if the named one does not exist.
        UsageError: if there is none, or it is not a card, naming the key.
    """
    if named:
        path = expand_path(named)
        if not path.is_file():
            raise MissingPath(f"card '{path}' does not exist")
        return read_card(OnnxCard, path.read_text(encoding="utf-8"), str(path))
    beside, inside = model.with_suffix(".toml"), CARDS / f"{model.stem}.toml"
    if beside.is_file():
        return read_card(OnnxCard, beside.read_text(encoding="utf-8"), str(beside))
    if inside.is_file():
        return read_card(OnnxCard, inside.read_text(encoding="utf-8"), inside.name)
    raise UsageError(
        f"'{model.name}' needs a card that names its stages: write {beside.name} beside it, or name one as "
        "onnx:FILE.onnx@CARD.toml; what it holds is in invsuite/models/onnx/card.py"
    )
