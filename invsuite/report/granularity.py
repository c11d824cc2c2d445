"""Granularity: what a finer or coarser cut of one network costs modular inverses, and what it brings.

Models of a suite that have the same weights and differ by their stages are cuts of one network. At every stage that
two of them share, the modular rows of all cuts stand side by side, with what training the whole chain of modules down
to the image took; rows of other methods, which no cut concerns, stand below them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from invsuite.errors import UsageError
from invsuite.report.budget import gain_text, paired_ends
from invsuite.report.devices import Devices, device_of
from invsuite.report.figures import CurvePanel
from invsuite.report.markdown import VALUES
from invsuite.report.page import Page
from invsuite.report.results import Results
from invsuite.report.texts import budgets_text, data_texts, heading, listed, markdown_table, value_text
from invsuite.results.record import Measurement, Record
from invsuite.results.rows import Row, measures_of, rows_of

FAMILY = "modular"
MEASURES = ("psnr", "ssim", "lpips", "feature_error")
TERA = 1e12

TITLE = "Granularity: how finely should modular inverses cut a model?"
READING = """\
Rendered from records. A modular inverse of a late stage is a chain of modules, one for each stage of its cut. The same
network is cut here at more or fewer stages. Operations (own training and the model's frozen passes; a multiply-add is
two), seconds and the values that are held of a fit are of all modules of a chain; each module has the budget that its
row names. Values are means over images with 95 % bootstrap intervals; differences are paired over the same images, in
bold where they can be told from 0. In the figures, bars are intervals after each image's own level has been taken out,
which all points of a panel share, so that they tell cuts apart.
"""


@dataclass(frozen=True)
class Reading:
    """A stage as one cut of the network reads it.

    Attributes:
        cut: the model's name in the suite.
        row: with its measurements.
        chain: the rows of the modules that it is composed of, itself the last; of another method the row alone.
    """

    cut: str
    row: Row
    chain: tuple[Row, ...]

    @property
    def modular(self) -> bool:
        """Tell whether it is composed of the modules of its cut."""
        return self.row.regime.family == FAMILY

    @property
    def flops(self) -> float | None:
        """Return the operations of training the chain, frozen passes among them; None where they were not counted."""
        costs = [record.cost for row in self.chain for record in row.done[:1]]
        own = [cost.fit_flops for cost in costs if cost is not None]
        if len(own) < len(self.chain) or None in own:
            return None
        frozen = max(cost.fit_frozen_flops or 0.0 for cost in costs if cost is not None)
        return sum(flops for flops in own if flops is not None) + frozen

    @property
    def seconds(self) -> float:
        """Return the seconds that training the chain took, frozen passes among them (of `device`)."""
        costs = [record.cost for row in self.chain for record in row.done[:1] if record.cost is not None]
        return sum(cost.fit_seconds for cost in costs) + max(cost.fit_shared_seconds for cost in costs)

    @property
    def device(self) -> str:
        """Return the device on which the chain was trained, with its clock; "" where it was several."""
        return device_of(Row(row.done[:1]) for row in self.chain)

    @property
    def values(self) -> int:
        """Return how many values the chain has that were trained or solved."""
        return sum(row.cost().parameters for row in self.chain)


def readings_of(results: Results) -> dict[str, list[Reading]]:
    """Return, by each stage that cuts of one network reach in more or fewer modules, how every row reads it."""
    tables = {model: _rows(records) for model, records in results.models.items()}
    networks: dict[str, list[str]] = {}
    for model, records in results.models.items():
        for digest in {record.weights.sha256 for record in records if record.ok and record.weights is not None}:
            networks.setdefault(digest, []).append(model)
    readings: dict[str, list[Reading]] = {}
    for models in networks.values():
        for stage in dict.fromkeys(stage for model in models for stage, _ in tables[model]):
            own = [
                Reading(model, row, _chain(tables[model], row))
                for model in models
                for row in tables[model].values()
                if row.stage == stage
            ]
            if len({len(reading.chain) for reading in own if reading.modular}) > 1:
                readings[stage] = own
    return readings


def _rows(records: Sequence[Record]) -> dict[tuple[str, str], Row]:
    rows = [row for row in rows_of(records) if row.done and not row.uses_image]
    return {(row.stage, row.method): row for row in sorted(rows, key=lambda row: row.records[0].cell.position)}


def _chain(rows: dict[tuple[str, str], Row], row: Row) -> tuple[Row, ...]:
    if row.regime.family != FAMILY:
        return (row,)
    position = row.records[0].cell.position
    return tuple(
        other for other in rows.values() if other.method == row.method and other.records[0].cell.position <= position
    )


def write_granularity(suites: Iterable[Results], folder: Path) -> list[Path]:
    """Write ``granularity.md`` and its figures to a folder, and return the files.

    Raises:
        UsageError: for a suite in which no network is cut in two ways.
        DiskError: if the disk refuses.
    """
    page, every = Page(folder / "granularity.md", TITLE, READING), []
    quoted: list[str] = []
    for results in suites:
        readings = readings_of(results)
        every.append(readings)
        if not readings:
            raise UsageError(
                f"suite '{results.name}' has no two models of the same weights, cut at other stages, with a modular "
                "row at the same late stage: name one source twice, with other stages before it"
            )
        done = [record for records in results.models.values() for record in records if record.ok]
        page.suite(results)
        page.lines += [*(f"{text}." for text in data_texts(done)), ""]
        for model, records in results.models.items():
            stages = dict.fromkeys(r.cell.stage for r in sorted(records, key=lambda r: r.cell.position) if r.ok)
            page.lines.append(f"- `{model}`: {', '.join(stages)}")
        devices = Devices(reading.device for own in readings.values() for reading in own)
        page.lines += ["", *(line for note in devices.note("reading") for line in (note, ""))]
        panels = [[panel for stage, own in readings.items() if (panel := _panel(stage, own)).lines]]
        if panels[0]:
            name = f"{results.name}-granularity.png"
            page.curves(name, "What a finer cut costs and brings", "training, TFLOP, frozen passes included", panels)
        for stage, own in readings.items():
            statements = _statements(own)
            page.lines += [f"**{stage}**", "", *(f"- {one}" for one in statements), "", _table(own, devices), ""]
        quoted.append(f"At {stage}: {statements[0] if statements else 'nothing was measured.'}")
    return page.write(_opening(every, quoted))


def _opening(suites: Sequence[dict[str, list[Reading]]], quoted: Sequence[str]) -> list[str]:
    """Return three sentences: what the page shows, at which budget, and what the finest cut is worth where it ends."""
    every = [reading for readings in suites for own in readings.values() for reading in own]
    cuts = sorted({len(reading.chain) for reading in every if reading.modular})
    counts = sorted({len(reading.row.images) for reading in every})
    return [
        f"This page shows what chains of {listed(map(str, cuts))} modules read of the same stages of one network, and "
        f"what they cost, on {listed(map(str, counts))} scored images.",
        f"The rows are {budgets_text(reading.row for reading in every)}; a chain has this budget for each module.",
        " ".join(quoted),
    ]


def _statements(readings: Sequence[Reading]) -> list[str]:
    """Return sentences: what the finest cut reads more than the coarsest, and than other methods, and for how much."""
    modular = sorted((reading for reading in readings if reading.modular), key=lambda reading: len(reading.chain))
    coarse, fine = modular[0], modular[-1]
    measure = fine.row.measurement(MEASURES[0])
    if measure is None or not coarse.row.having(MEASURES[0]):
        return []
    others = [coarse, *(reading for reading in readings if not reading.modular and reading.row.having(MEASURES[0]))]
    lines = []
    for other in others:
        name = f"{len(other.chain)} (`{other.cut}`)" if other.modular else f"`{other.row.method}`"
        cost = f", for {fine.flops / other.flops:.2f} times the operations" if fine.flops and other.flops else ""
        lines.append(
            f"{measure.label} of {len(fine.chain)} modules (`{fine.cut}`) minus that of {name}: "
            f"{gain_text(fine.row, other.row, measure)} {measure.unit}{cost}."
        )
    return lines


def _table(readings: Sequence[Reading], devices: Devices) -> str:
    known = measures_of([reading.row for reading in readings])
    measures = [known[name] for name in MEASURES if name in known]
    labels = [heading(measure) for measure in measures]
    head = [
        "Method",
        "Cut",
        "Modules",
        "Budget",
        *labels,
        "Fit TFLOP ↓",
        f"Fit s ({devices.clocks}) ↓",
        VALUES,
    ]
    body = []
    for reading in sorted(readings, key=lambda reading: not reading.modular):
        named = [reading.cut, str(len(reading.chain))] if reading.modular else ["-", "-"]
        flops, seconds = reading.flops, devices.marked(f"{reading.seconds:.0f}", reading.device)
        body.append(
            [reading.row.method, *named, reading.row.regime.text]
            + [value_text(reading.row, measure) for measure in measures]
            + ["-" if flops is None else f"{flops / TERA:.1f}", seconds, f"{reading.values:,}"]
        )
    return markdown_table(body, head)


def _panel(stage: str, readings: Sequence[Reading]) -> CurvePanel:
    """Return PSNR against operations: a line per method along its cuts, methods without operations as levels."""
    lines: dict[str, list[tuple[float, float, float, float]]] = {}
    levels: dict[str, float] = {}
    points: list[tuple[Row, float, float]] = []  # with its operations and its mean
    label = ""
    measure: Measurement | None = None
    for reading in readings:
        own, flops = reading.row.measurement(MEASURES[0]), reading.flops
        if own is None or own.mean is None:
            continue
        measure, label = own, f"{own.label} {own.unit}"
        if flops is None:
            levels[reading.row.method] = own.mean
        else:
            points.append((reading.row, flops, own.mean))
    ends = paired_ends([row for row, _, _ in points], measure) if measure is not None and points else []
    for (row, flops, mean), (low, high) in zip(points, ends, strict=True):
        lines.setdefault(row.method, []).append((flops / TERA, mean, mean + low, mean + high))
    return CurvePanel(stage, label, {method: sorted(own) for method, own in lines.items()}, levels)
