"""The report as one HTML page that needs nothing else: no network, no other file, no framework."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.colors import to_hex

from invsuite.report.charts import HEIGHT, WIDTH, charts
from invsuite.report.devices import Devices, device_of
from invsuite.report.figures import Pictures, first_pictures, kept_pictures, originals
from invsuite.report.markdown import NOTES, PUBLISHED, READING, VALUES, cost_texts, methods_note
from invsuite.report.results import Results
from invsuite.report.texts import ARROWS, data_texts
from invsuite.results.matrices import Matrix
from invsuite.results.pictures import EACH, best_and_worst, ranking
from invsuite.results.published import published_measures, published_rows
from invsuite.results.record import Measurement, Provenance, Record
from invsuite.results.regime import MARK, regime_of
from invsuite.results.rows import Places, Row, by_model, measures_of
from invsuite.results.statistics import distance_from_best

COST_HEADS = ("Fit s", "Invert ms/image", "Peak MiB", VALUES)
MAP = [to_hex(colour) for colour in matplotlib.colormaps["viridis"](range(256))]
DARK_BELOW = 0.55  # of the map: there text is white
CELLS = 1000  # cells whose pictures a page shows; of a larger matrix the first
BETTER = {
    "higher": "higher is better",
    "lower": "lower is better",
    "one": "closer to 1 is better",
    "zero": "closer to 0 is better",
}


def environment() -> Environment:
    """Return the templates of the package; whatever they are given is escaped."""
    return Environment(
        loader=PackageLoader("invsuite.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def html_page(results: Results, explore: str = "") -> str:
    """Return the page of a suite's results.

    Args:
        results: of the suite.
        explore: address of the page of its pictures (`invsuite.report.explore`); "" where there is none.
    """
    rows, done = results.rows, results.done
    measures = measures_of(rows)
    texts = {name: [cell_text(row, measure, results.places) for row in rows] for name, measure in measures.items()}
    described = {name: _describe(measure, done) for name, measure in measures.items()}
    pictures = Pictures()
    pictured = [row.done[0] for row in rows if row.done][:CELLS]
    walls = [_wall(model, records, results, pictures) for model, records in by_model(pictured).items()]
    wall = [part for part in walls if part is not None]
    images = _images(pictured, list(measures.values()), results, pictures)
    return (
        environment()
        .get_template("page.html")
        .render(
            title=results.title,
            explore=explore,
            runs=results.notes,
            states=list(results.states.items()),
            cells=len(results),
            measures=list(described.values()),
            board=_board(rows, texts, results.devices),
            devices=results.devices.note(),
            cost_heads=COST_HEADS,
            clocks=results.devices.clocks,
            published=_published(results),
            published_title=PUBLISHED,
            maps=[(described[name], _maps(rows, name, line)) for name, line in texts.items()],
            charts=[(model, drawn) for model, records in results.models.items() if (drawn := charts(records))],
            plot=(WIDTH, HEIGHT),
            wall=bool(wall),
            each=EACH,
            beyond=sum(bool(row.done) for row in rows) - len(pictured),
            relations=[(model, list(map(_matrix, between))) for model, between in results.between.items() if between],
            relations_failed=[relation for relation in results.relations if not relation.ok],
            reading=READING.replace("**", ""),
            missing=_missing(results.missing),
            origins=_origins(results),
            weights={record.cell.model: record.weights for record in done if record.weights},
            data=data_texts(done),
            records=results.records,
            notes=[note.replace("**", "").replace("`", "") for note in (methods_note(done).removeprefix("- "), *NOTES)],
            page={
                "measures": [{"label": measure.label, "unit": measure.unit} for measure in measures.values()],
                "wall": wall,
                "images": images,
                "pictures": pictures.encode(),
            },
        )
    )


def row_anchor(row: Row) -> str:
    """Return the id of a row's line on the page; a name may have letters that an id or an address has not."""
    return f"row-{quote(row.name)}"


@dataclass(frozen=True)
class CellText:
    """What a table shows of a number.

    Attributes:
        text: the number, or a word for why there is none.
        sort: what the table is sorted by, empty where there is no number.
        interval: empty where there is none.
        n: how many images, or runs, it is of.
        place: within the stage.
        why: there is no number.
        fill: colour of the cell in a heat map.
        ink: colour of its text.
    """

    text: str
    sort: str = ""
    interval: str = ""
    n: int = 0
    place: int | None = None
    why: str = ""
    fill: str = ""
    ink: str = ""

    def painted(self, share: float) -> CellText:
        """Return the same in the colours at ``share`` of the map, 0 to 1."""
        ink = "#ffffff" if share < DARK_BELOW else "#000000"
        return replace(self, fill=MAP[round(share * (len(MAP) - 1))], ink=ink)


def cell_text(row: Row, measure: Measurement, places: Places) -> CellText:
    """Return what a table shows of a measure of a row."""
    measurement, digits, direction = row.measurement(measure.name), measure.digits, measure.direction
    if measurement is None or not measurement.ok:
        why = row.records[0].reason if measurement is None else measurement.reason
        state = "-" if measurement is None else "n/a" if measurement.status == "undefined" else measurement.status
        return CellText(state, why=why or "not measured")
    mean, low, high = measurement.mean, measurement.low, measurement.high
    sort = mean if direction in ("higher", "lower") else distance_from_best(direction, mean)
    interval = "no interval" if low is None else f"[{low:.{digits}f}, {high:.{digits}f}]"
    place = places.get(measure.name, {}).get(row.name)
    return CellText(f"{mean:.{digits}f}", f"{sort:.9g}", interval, measurement.n, place)


def _describe(measure: Measurement, done: Sequence[Record]) -> dict[str, Any]:
    """Return what the page says of a measure: words, direction, and what a perfect reconstruction scores."""
    same = (record.measurements[measure.name] for record in done if measure.name in record.measurements)
    ceiling = next((m.ceiling for m in same if m.ceiling is not None), None)
    return {
        "name": measure.name,
        "label": measure.label,
        "unit": measure.unit,
        "arrow": ARROWS[measure.direction],
        "better": BETTER[measure.direction],
        "first": "descending" if measure.direction == "higher" else "ascending",
        "doc": measure.description.replace("`", ""),
        "ceiling": None if ceiling is None else f"{ceiling:.{measure.digits}f}",
    }


def _board(rows: Sequence[Row], texts: Mapping[str, Sequence[CellText]], devices: Devices) -> list[dict[str, Any]]:
    """Return the lines of the leaderboard.

    Args:
        rows: of the table.
        texts: what it shows of each measure of each row.
        devices: of the page's times.
    """
    return [
        {
            "row": row,
            "anchor": row_anchor(row),
            "position": row.records[0].cell.position,
            "state": row.records[0].state,
            "values": values,
            "costs": _costs(row, devices),
        }
        for row, *values in zip(rows, *texts.values(), strict=True)
    ]


def _published(results: Results) -> dict[str, Any]:
    """Return what papers state of the models of the results, as a table: its heading and its lines."""
    values = [value for model in results.models for value in results.published_of(model)]
    measures = published_measures(values)
    heads = [f"{m.label} {m.unit}".strip() for m in measures.values()]
    lines = []
    for row in published_rows(values):
        numbers = [f"{v.value:.{v.digits}f}" if (v := row.values.get(name)) else "-" for name in measures]
        first = row.first
        named = [first.method, first.stage, first.model]
        lines.append([*named, *numbers, str(first.n or "-"), first.budget or "-", first.source])
    return {"head": ["Method", "Stage", "Model", *heads, "n", "Budget", "Source"], "lines": lines}


def _costs(row: Row, devices: Devices) -> list[CellText]:
    """Return what a row took; only times and memory of the device that most rows have are sorted by."""
    if not row.done:
        return [CellText("-")] * len(COST_HEADS)
    cost, usual = row.cost(), devices.usual(device_of([row]))
    spent = (cost.fit_seconds, cost.invert_seconds, cost.peak_bytes)
    keys = [*(f"{number:.9g}" if usual else "" for number in spent), f"{cost.parameters:.9g}"]
    return [
        CellText(text, key, n=len(row.done) if text != "-" else 0)
        for text, key in zip(cost_texts(row, devices), keys, strict=True)
    ]


def _maps(rows: Sequence[Row], name: str, texts: Sequence[CellText]) -> list[dict[str, Any]]:
    """Return a heat map of a measure for every model: stages down, methods across; the brighter the better.

    The scale is that of the rows that compete: those that see the image would darken all others. What has not converged
    is marked in its cell.

    Args:
        rows: of the table.
        name: of the measure.
        texts: what the table shows of it, by row.
    """
    maps = []
    models: dict[str, list[tuple[Row, CellText]]] = {}
    for row, text in zip(rows, texts, strict=True):
        models.setdefault(row.model, []).append((row, text))
    for model, own in models.items():
        labels = {row.method: row.label for row, _ in own if row.done and not row.unconverged}
        labels = {row.method: row.label for row, _ in own} | labels
        cells = {
            (row.stage, row.method): replace(text, text=f"{text.text} {MARK}") if row.unconverged else text
            for row, text in own
        }
        losses = {
            (row.stage, row.method): float(distance_from_best(measurement.direction, measurement.mean))
            for row, text in own
            if text.sort and (measurement := row.measurement(name))
        }
        if not losses:
            continue
        competing = {(row.stage, row.method) for row, _ in own if not (row.uses_image or row.unconverged)}
        scale = [loss for key, loss in losses.items() if key in competing] or list(losses.values())
        low, high = min(scale), max(scale)
        for key, loss in losses.items():
            share = 1 - (min(max(loss, low), high) - low) / (high - low) if high > low else 0.5
            cells[key] = cells[key].painted(share)
        stages, methods = (list(dict.fromkeys(key[part] for key in cells)) for part in (0, 1))
        lines = [(stage, [cells.get((stage, method)) for method in methods]) for stage in stages]
        maps.append({"model": model, "methods": [labels[method] for method in methods], "lines": lines})
    return maps


def _matrix(matrix: Matrix) -> dict[str, Any]:
    """Return a matrix as a heat map: shares on a linear scale from 0, ratios on a logarithmic one."""
    numbers = np.array([[np.nan if v is None else v for v in line] for line in matrix.value], dtype=np.float64)
    scaled = numbers / matrix.top if matrix.top else np.log(numbers.clip(1e-12))
    known = scaled[~np.isnan(scaled)]
    low, high = (0.0, 1.0) if matrix.top or not known.size else (float(known.min()), float(known.max()))
    shares = np.clip((scaled - low) / (high - low if high > low else 1.0), 0, 1)
    lines = []
    for i, stage in enumerate(matrix.stages):
        cells: list[CellText | None] = []
        for j, number in enumerate(matrix.value[i]):
            ends = matrix.low[i][j], matrix.high[i][j]
            interval = "by definition" if i == j else "no interval"
            if i != j and ends[0] is not None and ends[1] is not None:
                interval = f"[{ends[0]:.2f}, {ends[1]:.2f}]"
            if number is None:
                cells.append(None)
            else:
                text = CellText(f"{number:.2f}{matrix.marks[i][j]}", interval=interval)
                cells.append(text.painted(float(shares[i, j])))
        lines.append((stage, cells))
    return {"title": matrix.title, "stages": matrix.stages, "lines": lines}


def _wall(model: str, records: Sequence[Record], results: Results, pictures: Pictures) -> dict[str, Any] | None:
    """Return the numbers of a model's pictures by stage, method and image; None where no picture was kept."""
    stores = [(record, results.store_of(record)) for record in records]
    images = next((kept for record, store in stores if (kept := originals(store, record))), [])
    numbers = {
        (record.cell.stage, record.cell.method): [pictures.add(p) for p in first_pictures(store, record)]
        for record, store in stores
    }
    if not images or not any(numbers.values()):
        return None
    budgets = {(record.cell.stage, record.cell.method): regime_of([record]).text for record in records}
    stages, methods = (list(dict.fromkeys(key[part] for key in numbers)) for part in (0, 1))
    return {
        "model": model,
        "stages": stages,
        "methods": methods,
        "images": records[0].images[: len(images)],
        "originals": [pictures.add(p) for p in images],
        "reconstructions": [[numbers.get((stage, method), []) for method in methods] for stage in stages],
        "budgets": [[budgets.get((stage, method), "") for method in methods] for stage in stages],
    }


def _images(
    records: Sequence[Record], measures: Sequence[Measurement], results: Results, pictures: Pictures
) -> list[dict[str, Any]]:
    """Return the best and worst images of every row: keys, numbers of pictures, and every measure's value of each."""
    entries = []
    numbered: dict[tuple[str, str], int] = {}  # pictures of the images themselves, by model and key
    for record in records:
        kept, cell, measurements = kept_pictures(results.store_of(record), record), record.cell, record.measurements
        images: dict[int, dict[str, Any]] = {}
        for position in best_and_worst(measurements):
            key = record.images[position]
            values = [value_text(measurements.get(measure.name), position) for measure in measures]
            images[position] = {"key": key, "values": values}
            if position in kept:
                original = numbered.setdefault((cell.model, key), pictures.add(kept[position][0]))
                images[position] |= {"original": original, "reconstruction": pictures.add(kept[position][1])}
        orders = [ranking(measurements[m.name]) if m.name in measurements else [] for m in measures]
        numbers = {position: number for number, position in enumerate(images)}
        entries.append(
            {
                "cell": [cell.model, cell.stage, cell.method],
                "images": list(images.values()),
                "n": [len(order) for order in orders],
                # the numbers of the best images, best first, and of the worst, worst first
                "best": [[numbers[p] for p in order[:EACH] if p in numbers] for order in orders],
                "worst": [[numbers[p] for p in order[::-1][:EACH] if p in numbers] for order in orders],
            }
        )
    return entries


def value_text(measurement: Measurement | None, position: int) -> str | None:
    """Return a measure's value of one image as text."""
    if measurement is None or not measurement.ok or measurement.values[position] is None:
        return None
    return f"{measurement.values[position]:.{measurement.digits}f}"


def _missing(reasons: Mapping[str, list[Record]]) -> list[tuple[str, list[Record], list[str]]]:
    """Return reasons, what failed first, with their records and tracebacks."""
    ordered = sorted(reasons.items(), key=lambda entry: not entry[0].startswith("failed"))
    return [
        (reason, records, list(dict.fromkeys(record.traceback for record in records if record.traceback)))
        for reason, records in ordered
    ]


def _origins(results: Results) -> list[dict[str, Any]]:
    """Return what runs the numbers come from: provenance but for seed and time, with the number of cells of each."""
    counts: Counter[str] = Counter()
    for record in results.records:
        counts.update({json.dumps(_origin(provenance)): 1 for provenance in record.provenances})
    return [json.loads(facts) | {"Cells": n} for facts, n in counts.items()]


def _origin(provenance: Provenance) -> dict[str, str]:
    plugins = ", ".join(" ".join(map(str, plugin.values())) for plugin in provenance.plugins)
    return {
        "Code": provenance.code,
        "Device": f"{provenance.device}, {provenance.threads} threads",
        "Platform": provenance.platform,
        "Determinism": f"deterministic {provenance.deterministic}, TF32 {provenance.tf32}",
        "Versions": provenance.packages,
        "Plug-ins": plugins or "none",
    }
