"""What one cell of the matrix gave, as typed objects: a `Record` holds everything that tables and checks need.

A record carries the facts of its method and of every measure (label, unit, direction, digits, tolerance ...), so that
it can be rendered and compared where neither is installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Generic, Literal, TypeVar

SCHEMA = 3  # raise when a key changes its meaning

Direction = Literal["higher", "lower", "one", "zero"]  # better when higher, when lower, when closer to one, to zero
Status = Literal["ok", "skipped", "failed"]
MeasurementStatus = Literal["ok", "skipped", "undefined", "failed"]


@dataclass(slots=True)
class Measurement:
    """What one measure gave for one cell.

    Attributes:
        name: of the measure.
        identity: 12 hexadecimal digits over all that changes its values beside the cell's own identity: the measure's
            version and parameters, how many images are edited, the second model.
        label: column title in tables.
        unit: of the values, "" for a plain number.
        direction: which way is better.
        group: the table it stands in.
        digits: after the point in tables.
        tolerance: how much a mean may lose before a check calls it worse, in the measure's unit.
        headline: whether a terminal shows it.
        description: what it measures, in a sentence or two.
        version: of the measure.
        pooled: whether it is a statistic of all images together rather than a mean over images.
        status: ``ok``; ``skipped`` where something it needs cannot be had; ``undefined`` where it does not apply;
            ``failed`` where it raised.
        reason: why there is no value, or why it is not defined for some images.
        n: images on which it is defined.
        mean: over them.
        low: lower end of the 95 % interval, None where there is none.
        high: upper end.
        ceiling: value of a perfect reconstruction where it is no constant.
        floor: value of a reconstruction that knows nothing of its image.
        values: per image, None where it is not defined.
        facts: what else the measure says, e.g. digests of the networks it used.
    """

    name: str
    identity: str
    label: str
    unit: str
    direction: Direction
    group: str
    digits: int
    tolerance: float
    headline: bool
    description: str
    version: int
    pooled: bool
    status: MeasurementStatus
    reason: str = ""
    n: int = 0
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    ceiling: float | None = None
    floor: float | None = None
    values: list[float | None] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Tell whether it has values."""
        return self.status == "ok"


@dataclass(slots=True)
class CellName:
    """Which cell of the matrix a record belongs to, and what tables must know of its method.

    Attributes:
        id: file name of the record.
        suite: name of the suite.
        model: row name of the model.
        stage: whose representation was inverted.
        position: of the stage in the model's cut, 0 for the first.
        method: row name of the method.
        kind: name under which the method is registered.
        family: of the method.
        seed: of the fit.
        uses_image: whether the method is a floor that is shown the image itself.
        title: heading of the suite's tables.
        model_position: of the model in the suite, for the order of tables.
        method_position: of the method in the suite.
        own_budget: whether the suite gives the row a budget of its own; None where a record does not say.
    """

    id: str
    suite: str
    model: str
    stage: str
    position: int
    method: str
    kind: str
    family: str
    seed: int
    uses_image: bool = False
    title: str = ""
    model_position: int = 0
    method_position: int = 0
    own_budget: bool | None = None

    @property
    def key(self) -> str:
        """Return MODEL/STAGE/METHOD/sSEED: what a baseline and a result have in common."""
        return f"{self.row}/s{self.seed}"

    @property
    def order(self) -> tuple[int, str, int, int, int]:
        """Return what cells of a suite are sorted by: model, seed, stage, method."""
        return self.model_position, self.model, self.seed, self.position, self.method_position

    @property
    def row(self) -> str:
        """Return MODEL/STAGE/METHOD: the row of tables it belongs to."""
        return f"{self.model}/{self.stage}/{self.method}"


@dataclass(slots=True)
class RelationName:
    """Which model a record of stage relations belongs to."""

    id: str
    suite: str
    model: str


@dataclass(slots=True)
class CellCost:
    """What fitting and inverting took.

    Attributes:
        clock: ``wall`` or ``cuda-event``: what the seconds were read from.
        fit_seconds: the stage's own training.
        fit_shared_seconds: frozen forward passes that all stages of the fit shared.
        fit_image_passes: images seen in training, with repeats.
        fit_flops: operations of the stage's own training; None where they were not counted.
        fit_frozen_flops: operations of the frozen forward passes it would have needed alone.
        fit_total_seconds: the whole fit, for all its stages.
        fit_peak_bytes: most memory during the fit.
        parameters: values that the stage's inverse keeps of its fit: trained, solved for, or of fit images.
        invert_seconds_per_image: forward pass and inversion.
        invert_flops_per_image: operations of the inversion.
        invert_cpu_seconds_per_image: processor time of the inversion.
        invert_peak_bytes: most memory during the inversion.
        fit_busy: share of the fit's time in which the GPU ran something (0 to 1); None where that is not known.
        invert_busy: the same of the inversion.
    """

    clock: str
    fit_seconds: float = 0.0
    fit_shared_seconds: float = 0.0
    fit_image_passes: int = 0
    fit_flops: float | None = None
    fit_frozen_flops: float | None = None
    fit_total_seconds: float = 0.0
    fit_peak_bytes: int = 0
    parameters: int = 0
    invert_seconds_per_image: float = 0.0
    invert_flops_per_image: float | None = None
    invert_cpu_seconds_per_image: float = 0.0
    invert_peak_bytes: int = 0
    fit_busy: float | None = None
    invert_busy: float | None = None


@dataclass(slots=True)
class Weights:
    """Where a model's weights come from (`invsuite.models.base.WeightsOrigin`)."""

    source: str
    sha256: str
    licence: str = "unknown"
    normalisation: Sequence[Sequence[float]] | None = None
    random: bool = False


@dataclass(slots=True)
class DataCounts:
    """How many images a cell was fitted, selected and scored on, and what happened to their files.

    Attributes:
        fit: images for fitting.
        select: images for choosing among fitted weights.
        score: scored images.
        unreadable: reason by path of every photo that was left out.
        converted: how many photos were rotated, grey, CMYK, had alpha ...
        resampling: how photos were resized.
        parts: for fit, select and score the data set's name, the digest of the images, the geometry, and in ``listing``
            the file below the results' folder that holds name and content digest of every image.
        copies: how many photos are copies of another one of their part, by content.
        passed_over: how many files beside the photos are no photos that are read, by suffix.
        left_out: reason by name of the first annotations that were left out.
        left_out_count: of all annotations that were left out.
    """

    fit: int
    select: int
    score: int
    unreadable: Mapping[str, str] = field(default_factory=dict)
    converted: Mapping[str, int] = field(default_factory=dict)
    resampling: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    copies: int = 0
    passed_over: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    left_out_count: int = 0


@dataclass(slots=True)
class Provenance:
    """Where numbers come from: code, versions, plug-ins, device, precision, and when they were written.

    ``suite`` is the text of the suite's file as it was read, ``command`` the command line; both are "" where Python
    code made the run.
    """

    git: Mapping[str, Any]
    source_sha256: str
    versions: Mapping[str, str | None]
    plugins: Sequence[Mapping[str, str]]
    platform: str
    device: str
    threads: int
    seed: int
    deterministic: bool
    tf32: bool
    written: str
    suite: str = ""
    command: str = ""

    @property
    def code(self) -> str:
        """Return which code it is, for people."""
        sha, dirty = self.git["sha"], " (dirty)" if self.git.get("dirty") else ""
        return f"{f'commit {sha[:10]}{dirty}' if sha else 'installed package'}, source {self.source_sha256[:12]}"

    def changes_to(self, versions: Mapping[str, str | None]) -> list[str]:
        """Return which packages have another version in ``versions``, in words; those only one of the two names count
        as unchanged.
        """
        return [
            f"{name} {before or 'none'} -> {versions[name] or 'none'}"
            for name, before in self.versions.items()
            if name in versions and versions[name] != before
        ]

    @property
    def packages(self) -> str:
        """Return the packages and their versions, for people."""
        return ", ".join(f"{name} {version}" for name, version in self.versions.items() if version)


Name = TypeVar("Name", CellName, RelationName)


@dataclass(slots=True)
class MergedRun:
    """The run that a merged record comes from: its name, and what its model is called there."""

    name: str
    model: str


@dataclass(slots=True)
class BaseRecord(Generic[Name]):
    """What records of cells and of stage relations have in common.

    Attributes:
        cell: whose record it is.
        identity: all that changes its fit and its reconstructions; the cell's id is a digest of it.
        status: ``ok``, ``skipped`` where nothing broke but there can be no numbers, or ``failed``.
        provenance: of the numbers.
        reason: why there are no numbers.
        fault: the kind of what went wrong (`invsuite.errors`), "" where nothing did.
        settled: whether the identity decides that there are no numbers: nothing to fetch or to try again.
        traceback: of a failure.
        run: the run a merged record comes from; it is not stored.
    """

    cell: Name
    identity: dict[str, Any]
    status: Status
    provenance: Provenance
    reason: str = ""
    fault: str = ""
    settled: bool = False
    traceback: str = ""
    run: MergedRun | None = None

    @property
    def ok(self) -> bool:
        """Tell whether it has numbers."""
        return self.status == "ok"

    @property
    def finished(self) -> bool:
        """Tell whether computing it again would change nothing."""
        return self.ok or self.settled

    @property
    def state(self) -> str:
        """Return the status for people: a stage that a method does not apply to is no missing result."""
        return "not applicable" if self.settled else self.status

    @property
    def original_model(self) -> str:
        """Return what the model is called in the run that the record comes from: merged runs may rename it."""
        return self.cell.model if self.run is None else self.run.model


@dataclass(slots=True)
class Record(BaseRecord[CellName]):
    """One cell's results, or why it has none; its provenance is that of the fit and the inversion.

    Attributes:
        measurements: by name of the measure.
        earlier: measurements under other settings that later runs replaced, kept so that no number is lost.
        additions: which measures were computed after the inversion, by a later run, and where those numbers come from.
        images: keys of the scored images, in the order of every measurement's values.
        best_and_worst: positions of the best and the worst reconstructions, whose pictures are kept.
        cost: of the fit and the inversion.
        notes: what the method says of its fit and its inversions.
        flags: what the suite noticed about the reconstructions.
        weights: of the model.
        data: counts of images.

    Examples:
        >>> import invsuite
        >>> images = invsuite.open_images("scenes", (96, 96), seed=1, count=16)
        >>> inverse = invsuite.fit("mean", "bundled:vit", ["embed"], images)
        >>> [record] = invsuite.score(inverse, invsuite.open_images("scenes", (96, 96), seed=2, count=4), ["psnr"])
        >>> record.cell.row, record.status, record.measurements["psnr"].n
        ('vit/embed/mean', 'ok', 4)
    """

    measurements: dict[str, Measurement] = field(default_factory=dict)
    earlier: list[Measurement] = field(default_factory=list)
    additions: list[Addition] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    best_and_worst: list[int] = field(default_factory=list)
    cost: CellCost | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    weights: Weights | None = None
    data: DataCounts | None = None

    @property
    def original_key(self) -> str:
        """Return MODEL/STAGE/METHOD/sSEED by what the model is called in the run that the record comes from."""
        return replace(self.cell, model=self.original_model).key

    @property
    def provenances(self) -> list[Provenance]:
        """Return where its numbers come from: the fit's run first, then those that added measures."""
        return [self.provenance, *(addition.provenance for addition in self.additions)]

    def measured(self) -> Iterator[Measurement]:
        """Yield every measurement, those of earlier settings last."""
        yield from self.measurements.values()
        yield from self.earlier

    def find(self, name: str, identity: str) -> Measurement | None:
        """Return the measurement of this name and identity, whichever settings came last; None if there is none."""
        for measurement in self.measured():
            if measurement.name == name and measurement.identity == identity:
                return measurement
        return None

    def with_measurements(self, added: Iterable[Measurement], order: Sequence[str] = ()) -> Record:
        """Return this record united with ``added``: none that is there is lost.

        A measurement of the same name and identity is replaced unless it is the better known one (``ok`` or
        ``undefined`` beside ``skipped`` or ``failed``); one of the same name and other settings moves to ``earlier``.

        Args:
            added: newer measurements of the same reconstructions.
            order: names of measures in the order of tables; others come after them.
        """
        current, earlier = dict(self.measurements), list(self.earlier)
        for measurement in added:
            known = self.find(measurement.name, measurement.identity)
            if known is not None and known.status in ("ok", "undefined") and not measurement.ok:
                measurement = known
            earlier = [m for m in earlier if (m.name, m.identity) != (measurement.name, measurement.identity)]
            before = current.get(measurement.name)
            if before is not None and before.identity != measurement.identity:
                earlier.append(before)
            current[measurement.name] = measurement
        ranks = {name: rank for rank, name in enumerate(order)}
        names = sorted(current, key=lambda name: ranks.get(name, len(ranks)))
        return replace(self, measurements={name: current[name] for name in names}, earlier=earlier)


@dataclass(slots=True)
class Addition:
    """Measures that were computed on kept reconstructions, and where their numbers come from."""

    measures: list[str]
    provenance: Provenance


@dataclass(slots=True)
class RelationRecord(BaseRecord[RelationName]):
    """How the stages of one model relate, or why that is not known: a record that belongs to no cell.

    ``body`` is what `invsuite.metrics.interlayer.relate` returns: matrices over pairs of stages.
    """

    body: dict[str, Any] = field(default_factory=dict)


AnyRecord = TypeVar("AnyRecord", Record, RelationRecord)


def devices_of(records: Iterable[Record]) -> list[str]:
    """Return the devices, with their clocks, on which times were measured."""
    return sorted({f"{r.provenance.device}, {r.cost.clock}" for r in records if r.ok and r.cost})


_NESTED: dict[str, type[Any]] = {
    "cost": CellCost,
    "weights": Weights,
    "data": DataCounts,
    "provenance": Provenance,
}


def to_json(record: Record | RelationRecord) -> dict[str, Any]:
    """Return a record as a tree of JSON types."""
    tree = {f.name: _plain(getattr(record, f.name)) for f in fields(record) if f.name != "run"}
    return tree | {"schema": SCHEMA}


def _plain(value: Any) -> Any:
    """Return dataclasses as dictionaries, whatever holds them."""
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value] if value and not isinstance(value[0], float | str) else list(value)
    return value


def from_json(kind: type[AnyRecord], tree: Mapping[str, Any]) -> AnyRecord:
    """Return the record of this ``kind`` that a tree of JSON types describes.

    Raises:
        KeyError, TypeError: if a key is missing or unknown: the tree is no record of this schema.
    """
    if tree["schema"] != SCHEMA:
        raise KeyError(f"schema {tree['schema']}")
    values = {key: value for key, value in tree.items() if key not in ("schema", "record_sha256")}
    for key, cls in _NESTED.items():
        if values.get(key) is not None:
            values[key] = cls(**values[key])
    values["cell"] = (CellName if kind is Record else RelationName)(**values["cell"])
    if kind is Record:
        values["measurements"] = {name: Measurement(**m) for name, m in values.get("measurements", {}).items()}
        values["earlier"] = [Measurement(**m) for m in values.get("earlier", [])]
        values["additions"] = [
            Addition(a["measures"], Provenance(**a["provenance"])) for a in values.get("additions", [])
        ]
    return kind(**values)
