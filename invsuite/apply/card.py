"""The card of a kept inverse: what it was fitted to, on what, how good it was where it was scored, and its tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from invsuite._system.files import write_atomically
from invsuite._system.seal import is_intact, sealed
from invsuite._system.validation import Natural, build
from invsuite.apply.probe import Probe
from invsuite.errors import MissingPath, OutsideError, UsageError, WeightsError, one_line
from invsuite.methods.problem import Budget, Engine
from invsuite.models.base import Layout, TaskKind, WeightsOrigin
from invsuite.results.record import Record

CARD = "card.json"
SEAL = "card_sha256"  # first key of a card: what tells that it was not edited later
FORMAT = 1  # raise when a key changes its meaning
UNSTATED = "not stated"  # licence of an inverse that nobody gave one


@dataclass(frozen=True)
class MethodFacts:
    """The method of an inverse.

    Attributes:
        row: what tables call it.
        kind: name under which it is registered.
        parameters: as a suite file gives them (`invsuite.methods.make_method`).
        version: of the method that was fitted.
        family: of methods that it belongs to.
        source: paper.
    """

    row: str
    kind: str
    parameters: Mapping[str, Any]
    version: int
    family: str
    source: str


@dataclass(frozen=True)
class ModelFacts:
    """The model that an inverse was fitted to.

    Attributes:
        name: what tables call it.
        source: by which `invsuite.load_model` loads it; "" where Python code made it.
        random_weights: whether it is loaded with random weights.
        weights: where they come from, with the digest of their file, their licence and the normalisation.
        fingerprint: SHA-256 over all weights as they are in memory: what another model's is compared with.
        image_size: (H, W) of the images.
        task: what it predicts.
        resampling: how its checkpoint wants photos resized.
    """

    name: str
    source: str
    random_weights: bool
    weights: WeightsOrigin
    fingerprint: str
    image_size: tuple[int, int]
    task: TaskKind
    resampling: Mapping[str, Any]


@dataclass(frozen=True)
class ImagesFacts:
    """The images that an inverse was fitted, selected or scored on.

    Attributes:
        name: of the data set.
        digest: SHA-256 over all that changes their pixels.
        count: how many there are.
        geometry: how photos took the model's size; None where nothing was resized.
    """

    name: str
    digest: str
    count: Natural
    geometry: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> ImagesFacts:
        """Return what `invsuite.data.split.Split.facts` says, or a record of them."""
        return cls(facts["name"], facts["digest"], facts["count"], facts.get("geometry"))


@dataclass(frozen=True)
class Quality:
    """What a measure gave at a stage.

    Attributes:
        label: of the measure in tables.
        unit: "" for a plain number.
        direction: which way is better (``higher``, ``lower``, ``one``, ``zero``).
        mean: over the images on which it is defined.
        n: how many these are.
        low: lower end of the 95 % interval, None where there is none.
        high: upper end.
    """

    label: str
    unit: str
    direction: str
    mean: float
    n: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class TensorFacts:
    """Type and shape of a kept tensor."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class TensorsFile:
    """The file of an inverse's tensors.

    Attributes:
        file: its name, beside the card.
        sha256: of the file.
        tensors: type and shape by name.
    """

    file: str
    sha256: str
    tensors: Mapping[str, TensorFacts]


@dataclass(frozen=True)
class Card:
    """Everything that must be known of an inverse but its tensors.

    Attributes:
        method: with its parameters.
        model: that it was fitted to.
        stages: that it inverts, in the model's order.
        cut: the stages at which the chain was cut when it was fitted.
        refused: why other stages of the fit are not inverted, by stage.
        layouts: of the representation at every stage of the cut.
        probes: numbers that tell what the model computes there (`invsuite.apply.probe`); empty on cards without them.
        data: the images for fitting (``fit``) and for choosing among fitted weights (``select``).
        budget: that each trained inverse might spend.
        engine: how training ran.
        seed: of the fit.
        quality: what measures gave, by stage and measure; empty where it was not scored.
        scored_on: the images of those numbers.
        notes: what the method says of its fit, by stage.
        cost: what the fit took (`invsuite.methods.base.FitCost`).
        fit: name of the fit in the records of a suite, and of the file that was kept of it; "" where no suite made it.
        licence: of the inverse itself; that of the model's weights stands with the model.
        version: of invsuite that wrote the card.
        written: when, in UTC.
        images: the file beside the card that tells the fit's images by their content; "" where there is none.
        images_sha256: of that file.
        tensors: the file of its tensors; None where the method has none.
        format: of the card.

    Examples:
        >>> import invsuite
        >>> scenes = invsuite.open_images("scenes", (96, 96), seed=1, count=24)
        >>> card = invsuite.fit("ridge", "bundled:vit", ["block03"], scenes).card
        >>> card.stages, card.model.source, card.data["fit"].count
        (('block03',), 'bundled:vit', 21)
    """

    method: MethodFacts
    model: ModelFacts
    stages: tuple[str, ...]
    cut: tuple[str, ...]
    refused: Mapping[str, str]
    layouts: Mapping[str, Layout]
    data: Mapping[str, ImagesFacts]
    budget: Budget
    engine: Engine
    seed: int
    version: str
    written: str
    probes: Mapping[str, Probe] = field(default_factory=dict)
    quality: Mapping[str, Mapping[str, Quality]] = field(default_factory=dict)
    scored_on: ImagesFacts | None = None
    notes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    fit: str = ""
    licence: str = UNSTATED
    images: str = ""
    images_sha256: str = ""
    tensors: TensorsFile | None = None
    format: int = FORMAT

    @property
    def name(self) -> str:
        """Return MODEL-ROW-sSEED: what a folder of it is called."""
        return f"{self.model.name}-{self.method.row}-s{self.seed}"

    @property
    def recipe(self) -> str:
        """Return 12 hexadecimal digits over all that decides what a fit gives: method, model, data, budget and seed."""
        weights = (self.model.fingerprint, self.model.weights.sha256)  # the second also tells the code that uses them
        parts = (self.method, *weights, self.stages, self.cut, self.data, self.budget, self.engine)
        return hashlib.sha256(repr((*parts, self.seed)).encode()).hexdigest()[:12]

    @property
    def photo_mode(self) -> str:
        """Return how photos took the model's size when it was fitted (``crop`` or ``squash``); "" where none did."""
        geometry = self.data["fit"].geometry if "fit" in self.data else None
        return str(geometry["mode"]) if geometry else ""

    def with_quality(self, records: Iterable[Record]) -> Card:
        """Return the card with what ``records`` of its stages measured; of other stages nothing is taken over."""
        quality = {stage: dict(values) for stage, values in self.quality.items()}
        scored_on = self.scored_on
        for record in records:
            if record.ok and record.cell.stage in self.stages:
                quality[record.cell.stage] = {
                    m.name: Quality(m.label, m.unit, m.direction, m.mean, m.n, m.low, m.high)
                    for m in record.measurements.values()
                    if m.ok and m.mean is not None
                }
                if record.data is not None and "score" in record.data.parts:
                    facts = dict(record.data.parts["score"]) | {"count": record.data.score}
                    scored_on = ImagesFacts.of(facts)
        ordered = {stage: quality[stage] for stage in self.stages if stage in quality}
        return replace(self, quality=ordered, scored_on=scored_on)

    def write(self, folder: Path) -> Path:
        """Write the card into ``folder`` and return its file.

        Raises:
            OutsideError: if the notes of the method, or its parameters, are no JSON.
            DiskError: if the disk refuses.
        """
        path = folder / CARD
        try:
            text = sealed(SEAL, asdict(self))
        except (TypeError, ValueError) as error:
            raise OutsideError(f"the card of '{self.name}' is no JSON: {one_line(error)}") from error
        write_atomically(path, text.encode())
        return path


def read_card(folder: Path) -> Card:
    """Return the card in ``folder``.

    Raises:
        MissingPath: if there is none.
        WeightsError: if it was changed after it was written.
        UsageError: if another format wrote it.
    """
    path = folder / CARD
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingPath(f"'{folder}' is no inverse: it holds no {CARD}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"card '{path}' cannot be read: {one_line(error)}") from error
    try:
        tree = json.loads(text)
        seal = str(tree.pop(SEAL))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(f"'{path}' is no card of an inverse, or was changed after it was written") from error
    if not is_intact(SEAL, text, seal):
        raise WeightsError(f"card '{path}' was changed after it was written: get the inverse again, or fit it anew")
    if tree.get("format") != FORMAT:
        raise UsageError(f"card '{path}' has format {tree.get('format')}, this invsuite reads {FORMAT}: fit it anew")
    return build(Card, tree, CARD)
