"""Privacy against usefulness: what inverses still read of disturbed representations, and what the model still knows.

Rows are those of the method `disturbed`, whose records hold the disturbance and how useful the model is under it. Rows
of the methods that they start from, undisturbed, stand beside them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from invsuite.errors import UsageError
from invsuite.report.figures import CurvePanel
from invsuite.report.page import Page
from invsuite.report.results import Results
from invsuite.report.texts import budgets_text, heading, listed, markdown_table, value_text
from invsuite.results.record import Measurement, Record
from invsuite.results.rows import Row, rows_of
from invsuite.results.statistics import summarise, summary_text

MEASURES = ("psnr", "ssim", "lpips")
USEFUL = 0.9  # share of the model's answers that a defence must leave
UNITS = {"noise": "SD", "quantise": "bits"}  # of others the amount is a share
FLOOR = "mean"  # the method that knows nothing of the image

TITLE = "Privacy against usefulness: disturbed representations"
READING = """\
Rendered from records. A representation is disturbed before anyone reads it. *Usefulness* is how far the model's own
answers from it are those from the undisturbed one, on selection images (1: all are); the other numbers say what an
inverse still reads. The amount of noise is in standard deviations (SD) of each channel, that of rounding in bits per
value, all others are shares of values, places or queries. *Told* methods were fitted to disturbed representations: they
know the defence. The others were fitted to undisturbed ones: a defence that stops only these is none. Values are means
over images with 95 % bootstraps. A good defence lies at the lower right of a panel: useful, and not readable. Lines
across a panel are what is read of undisturbed representations, and the mean image, which reads nothing.
"""


@dataclass(frozen=True)
class Reading:
    """One row on disturbed representations.

    Attributes:
        row: with its measurements.
        start: the name of the method that inverts.
        disturbance: in words.
        told: whether that method was fitted to disturbed representations.
        usefulness: per selection image, 0 to 1; None where the model cannot go on from the stage.
    """

    row: Row
    start: str
    disturbance: str
    told: bool
    usefulness: Sequence[float] | None

    @property
    def useful(self) -> float:
        """Return the mean usefulness, NaN where there is none."""
        return float("nan") if self.usefulness is None else float(np.mean(self.usefulness))


def readings_of(records: Sequence[Record]) -> list[Reading]:
    """Return the rows of records that are of disturbed representations."""
    rows = [record.identity.get("method", {}) for record in records]
    names = {_as_text(method): record.cell.method for method, record in zip(rows, records, strict=True)}
    readings = []
    for row in rows_of(records):
        for record in row.done[:1]:
            notes, method = record.notes, record.identity.get("method", {})
            if "disturbance" in notes:
                words = f"{notes['disturbance']} {_amount(notes['disturbance'], notes['amount'])}"
                kind = method["start"]["kind"]
                itself = {"name": kind, "version": method["start_version"]} | method["start_params"]
                start = names.get(_as_text(itself), kind)
                readings.append(Reading(row, start, words, bool(notes["told"]), notes.get("usefulness")))
    return readings


def _as_text(method: Mapping[str, Any]) -> str:
    return json.dumps(method, sort_keys=True)


def _amount(kind: str, amount: float) -> str:
    if kind in UNITS:
        return f"{amount:g} {UNITS[kind]}"
    return f"{100 * amount:g} %"


def write_privacy(suites: Iterable[Results], folder: Path) -> list[Path]:
    """Write ``privacy.md`` and its figures to a folder, and return the files.

    Raises:
        UsageError: for a suite without a row of disturbed representations.
        DiskError: if the disk refuses.
    """
    page, every = Page(folder / "privacy.md", TITLE, READING), []
    for results in suites:
        models = {model: own for model, records in results.models.items() if (own := readings_of(records))}
        if not models:
            raise UsageError(
                f"suite '{results.name}' has no row of disturbed representations; a table of the method 'disturbed' "
                "makes one"
            )
        page.suite(results)
        for model, readings in models.items():
            clean = _clean(results.models[model])
            every.append((model, clean, readings))
            page.model(model, results.models[model])
            panels = _panels(readings, clean)
            if panels:
                title = f"{model}: what is read, and how useful it still is to the model"
                axis = "usefulness: share of answers that stay"
                page.curves(f"{results.name}-{model}-privacy.png", title, axis, panels, logarithmic=False)
            for stage in dict.fromkeys(reading.row.stage for reading in readings):
                own = [reading for reading in readings if reading.row.stage == stage]
                page.lines += _stage_lines(stage, clean, own)
    return page.write(_opening(every))


Clean = dict[tuple[str, str], Row]  # rows on undisturbed representations, by stage and method


def _clean(records: Sequence[Record]) -> Clean:
    return {(row.stage, row.method): row for row in rows_of(records) if row.done}


def _opening(models: Sequence[tuple[str, Clean, Sequence[Reading]]]) -> list[str]:
    """Return three sentences: what the page shows, at which budget, and what hides most at the last stage."""
    every = [reading for _, _, readings in models for reading in readings]
    kinds = listed(dict.fromkeys(reading.disturbance.split()[0] for reading in every))
    starts = listed(dict.fromkeys(f"`{reading.start}`" for reading in every))
    told = {reading.told for reading in every}
    who = "told of it or not" if len(told) > 1 else "told of it" if True in told else "not told of it"
    counts = listed(str(n) for n in sorted({len(reading.row.images) for reading in every}))
    rows = [row for _, clean, readings in models for key, row in clean.items() if key[1] in {r.start for r in readings}]
    spent = budgets_text(rows or [reading.row for reading in every])
    return [
        f"This page shows what {starts}, {who}, read of representations of "
        f"{listed(f'`{model}`' for model, *_ in models)} under {kinds}, and how useful these still are to the "
        f"model, on {counts} scored images.",
        f"The methods are {spent}.",
        " ".join(_defence(model, clean, readings) for model, clean, readings in models),
    ]


def _defence(model: str, clean: Clean, readings: Sequence[Reading]) -> str:
    """Return what hides most from who knows of it, among the disturbances of the last stage that leave most answers."""
    stage = readings[-1].row.stage
    own = [reading for reading in readings if reading.row.stage == stage and reading.useful >= USEFUL]
    measure = _measurement(own, MEASURES[0])
    if measure is None:
        return f"At {stage} of `{model}` no disturbance leaves {100 * USEFUL:.0f} % of the model's answers."
    hardest: dict[str, float] = {}
    for reading in own:
        value = reading.row.measurement(measure.name)
        if value is not None and value.mean is not None:
            hardest[reading.disturbance] = max(hardest.get(reading.disturbance, -inf), value.mean)
    words = min(hardest, key=lambda words: hardest[words])
    chosen = [reading for reading in own if reading.disturbance == words]
    said = [f"`{r.start}`{', told,' if r.told else ''} has {value_text(r.row, measure)}" for r in chosen]
    before = [value_text(clean.get((stage, start)), measure) for start in dict.fromkeys(r.start for r in chosen)]
    return (
        f"Of what leaves {100 * USEFUL:.0f} % of the answers of `{model}` at {stage}, {words} hides most: by "
        f"{measure.label}{f' in {measure.unit}' if measure.unit else ''} {listed(said)}, undisturbed {listed(before)}."
    )


def _stage_lines(stage: str, clean: Clean, readings: Sequence[Reading]) -> list[str]:
    """Return the lines of one stage: disturbances down, methods and measures across."""
    starts = list(dict.fromkeys((reading.start, reading.told) for reading in readings))
    measures = [m for name in MEASURES if (m := _measurement(readings, name)) is not None]
    body: list[list[str]] = []
    head = ["Disturbance", "Usefulness ↑"]
    for start, told in starts:
        regime = next(reading.row.regime.text for reading in readings if (reading.start, reading.told) == (start, told))
        head += [f"{start}{', told' if told else ''} ({regime}): {heading(m)}" for m in measures]
    undisturbed = ["none", "1.00"]
    for start, _ in starts:
        undisturbed += [value_text(clean.get((stage, start)), m) for m in measures]
    body.append(undisturbed)
    for words in dict.fromkeys(reading.disturbance for reading in readings):
        own = {(r.start, r.told): r for r in readings if r.disturbance == words}
        line = [words, _usefulness(next(iter(own.values())))]
        for key in starts:
            line += [value_text(own[key].row if key in own else None, m) for m in measures]
        body.append(line)
    return [f"**{stage}**", "", markdown_table(body, head), ""]


def _measurement(readings: Sequence[Reading], name: str) -> Measurement | None:
    """Return a measure as any of the rows has it, with a number; None if none has."""
    known = (reading.row.measurement(name) for reading in readings)
    return next((one for one in known if one is not None and one.mean is not None), None)


def _usefulness(reading: Reading) -> str:
    if reading.usefulness is None:
        return "-"
    own = summarise(list(reading.usefulness))
    return summary_text(own.mean, own.low, own.high, own.n, 2)


def _panels(readings: Sequence[Reading], clean: Clean) -> list[list[CurvePanel]]:
    """Return panels, kinds of disturbance down and stages across: a line per method, along its amounts."""
    stages = list(dict.fromkeys(reading.row.stage for reading in readings if reading.usefulness is not None))
    grid = []
    for kind in dict.fromkeys(reading.disturbance.split()[0] for reading in readings):
        line = [_panel(kind, stage, readings, clean) for stage in stages]
        if all(panel.lines for panel in line):
            grid.append(line)
    return grid


def _panel(kind: str, stage: str, readings: Sequence[Reading], clean: Clean) -> CurvePanel:
    """Return what is read against how useful it is, beside what is read of undisturbed ones, and the mean image."""
    lines: dict[str, list[tuple[float, float, float, float]]] = {}
    label = ""
    for reading in readings:
        own = reading.row.measurement(MEASURES[0])
        if (reading.disturbance.split()[0], reading.row.stage) != (kind, stage) or own is None or own.mean is None:
            continue
        label = f"{own.label} {own.unit}"
        low, high = (own.mean, own.mean) if own.low is None or own.high is None else (own.low, own.high)
        name = f"{reading.start}{', told' if reading.told else ''}"
        lines.setdefault(name, []).append((reading.useful, own.mean, low, high))
    beside = {f"{start}, undisturbed": start for start in dict.fromkeys(reading.start for reading in readings)}
    levels = {
        name: own.mean
        for name, method in (beside | {"mean image": FLOOR}).items()
        if (row := clean.get((stage, method))) and (own := row.measurement(MEASURES[0])) and own.mean is not None
    }
    return CurvePanel(f"{kind}, {stage}", label, {name: sorted(points) for name, points in lines.items()}, levels)
