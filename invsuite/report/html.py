"""The report as one HTML page that needs nothing else: no network, no other file, no framework."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.colors import to_hex

from invsuite.report.charts import HEIGHT, WIDTH, charts
from invsuite.report.interlayer import READING, Matrix, matrices
from invsuite.report.markdown import (
    ARROWS,
    NOTES,
    Places,
    all_places,
    code_of,
    missing,
    ranked_rows,
    versions_of,
    weights_of,
)
from invsuite.report.pictures import CELLS, Pictures, StoreOf, extremes, strip
from invsuite.results.merge import devices_of
from invsuite.results.pictures import EACH, extreme_rows, ranking
from invsuite.results.record import Measurement, Record, RelationRecord
from invsuite.results.rows import Row, by_model, measures_of
from invsuite.results.statistics import distance_from_best

COSTS = ("Fit s", "Invert ms/image", "Peak MiB", "Trained values")
MAP = [to_hex(colour) for colour in matplotlib.colormaps["viridis"](range(256))]
DARK_BELOW = 0.55  # of the map: there text is white


def environment() -> Environment:
    """Templates of the package; whatever they are given is escaped."""
    return Environment(
        loader=PackageLoader("invsuite.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def html_page(
    title: str,
    records: Sequence[Record],
    store_of: StoreOf,
    relations: Sequence[RelationRecord] = (),
    notes: Sequence[str] = (),
    placed: Places | None = None,
) -> str:
    """The page.

    Args:
        title: heading, which says what suite this is.
        records: in the order of the matrix.
        store_of: where their pictures are.
        relations: records of how the stages of models relate.
        notes: what to say of the records before all else.
        placed: the places of all rows, where they are known.
    """
    rows, models = ranked_rows(records), by_model(records)
    measures, placed = measures_of(rows), all_places(rows) if placed is None else placed
    values = {name: [value(row, measure, placed) for row in rows] for name, measure in measures.items()}
    done = [r for r in records if r.ok]
    pictures = Pictures()
    shown = [row.done[0] for row in rows if row.done][:CELLS]
    wall = [part for model, own in by_model(shown).items() if (part := _wall(model, own, store_of, pictures))]
    images = _images(shown, list(measures.values()), store_of, pictures)
    failed = [r for r in relations if not r.ok]
    return (
        environment()
        .get_template("page.html")
        .render(
            title=title,
            runs=notes,
            states=sorted(Counter(r.state for r in records).items()),
            cells=len(records),
            measures=[_measure(measure, done) for measure in measures.values()],
            board=_board(rows, values, timed=len(devices_of(done)) < 2),
            cost_heads=COSTS,
            clocks="/".join(sorted({r.cost.clock for r in done if r.cost})) or "wall",
            maps=[(_measure(measures[name], done), _maps(rows, name, found)) for name, found in values.items()],
            charts=[(model, found) for model, own in models.items() if (found := charts(own))],
            plot=(WIDTH, HEIGHT),
            wall=bool(wall),
            each=EACH,
            beyond=sum(bool(row.done) for row in rows) - len(shown),
            relations=[
                (model, [_matrix(m) for m in between])
                for model, own in models.items()
                if (between := matrices(model, own, relations))
            ],
            relations_failed=failed,
            reading=READING.replace("**", ""),
            missing=_missing(records),
            origins=_origins(records),
            weights=weights_of(done),
            data=_data(done),
            records=records,
            notes=[note.replace("**", "").replace("`", "") for note in NOTES],
            page={
                "measures": [{"label": measure.label, "unit": measure.unit} for measure in measures.values()],
                "wall": wall,
                "images": images,
                "pictures": pictures.encode(),
            },
        )
    )


def _measure(metric: Measurement, done: Sequence[Record]) -> dict[str, Any]:
    name = metric.name
    ceilings = [r.measurements[name].ceiling for r in done if name in r.measurements]
    ceiling = next((c for c in ceilings if c is not None), None)
    return {
        "name": name,
        "label": metric.label,
        "unit": metric.unit,
        "arrow": ARROWS[metric.direction],
        "better": {
            "higher": "higher is better",
            "lower": "lower is better",
            "one": "closer to 1 is better",
            "zero": "closer to 0 is better",
        }[metric.direction],
        "first": "descending" if metric.direction == "higher" else "ascending",
        "doc": metric.description.replace("`", ""),
        "ceiling": None if ceiling is None else f"{ceiling:.{metric.digits}f}",
    }


def _board(rows: Sequence[Row], values: dict[str, list[Shown]], timed: bool) -> list[dict[str, Any]]:
    """Lines of the leaderboard, given what it shows of each measure of each row; ``timed`` tells whether times and
    memory may stand side by side."""
    return [
        {
            "row": row,
            "position": row.records[0].cell.position,
            "state": row.records[0].state,
            "values": shown,
            "costs": _costs(row, timed),
        }
        for row, *shown in zip(rows, *values.values(), strict=True)
    ]


@dataclass(frozen=True)
class Shown:
    """What a table shows of a number: its text, interval, n and place (each empty where there is none), what it is
    sorted by, why there is no value, and the colours of its cell in a heat map."""

    text: str
    sort: str = ""
    interval: str = ""
    n: int = 0
    place: int | None = None
    why: str = ""
    fill: str = ""
    ink: str = ""

    def painted(self, share: float) -> Shown:
        """The same in the colours at ``share`` of the map, 0 to 1."""
        ink = "#ffffff" if share < DARK_BELOW else "#000000"
        return replace(self, fill=MAP[round(share * (len(MAP) - 1))], ink=ink)


def value(row: Row, measure: Measurement, placed: Places) -> Shown:
    """What a table shows of a measure of a row."""
    found, digits, direction = row.measurement(measure.name), measure.digits, measure.direction
    if found is None or not found.ok:
        why = row.records[0].reason if found is None else found.reason
        state = "-" if found is None else "skipped" if found.status == "skipped" else "n/a"
        return Shown(state, why=why or "not measured")
    sort = found.mean if direction in ("higher", "lower") else distance_from_best(direction, found.mean)
    interval = "no interval"
    if found.low is not None:
        interval = f"[{found.low:.{digits}f}, {found.high:.{digits}f}]"
    place = placed.get(measure.name, {}).get(row.name)
    return Shown(f"{found.mean:.{digits}f}", f"{sort:.9g}", interval, found.n, place)


def _costs(row: Row, timed: bool) -> list[Shown]:
    none = Shown("-")
    if not row.done:
        return [none] * len(COSTS)
    cost = row.cost()
    numbers = (cost.fit_seconds, cost.invert_seconds, cost.peak_bytes, cost.parameters)
    found = [Shown(text, f"{number:.9g}", n=len(row.done)) for text, number in zip(cost.texts(), numbers, strict=True)]
    return found if timed else [none, none, none, found[-1]]


def _maps(rows: Sequence[Row], name: str, values: Sequence[Shown]) -> list[dict[str, Any]]:
    """A heat map of a measure, given what is shown of it of each row, for every model: stages down, methods across;
    the brighter the better, on the scale of the rows that compete: those that see the image would darken all others."""
    found = []
    models: dict[str, list[tuple[Row, Shown]]] = {}
    for row, shown in zip(rows, values, strict=True):
        models.setdefault(row.model, []).append((row, shown))
    for model, own in models.items():
        cells = {(row.stage, row.label): shown for row, shown in own}
        losses = {
            (row.stage, row.label): float(distance_from_best(entry.direction, entry.mean))
            for row, shown in own
            if shown.sort and (entry := row.measurement(name))
        }
        if not losses:
            continue
        blind = {(row.stage, row.label) for row, _ in own if not row.uses_image}
        scale = [loss for key, loss in losses.items() if key in blind] or list(losses.values())
        low, high = min(scale), max(scale)
        for key, loss in losses.items():
            share = 1 - (min(max(loss, low), high) - low) / (high - low) if high > low else 0.5
            cells[key] = cells[key].painted(share)
        stages, methods = (list(dict.fromkeys(key[part] for key in cells)) for part in (0, 1))
        lines = [(stage, [cells.get((stage, method)) for method in methods]) for stage in stages]
        found.append({"model": model, "methods": methods, "lines": lines})
    return found


def _matrix(matrix: Matrix) -> dict[str, Any]:
    """Shares on a linear scale from 0, ratios on a logarithmic one."""
    numbers = np.array([[np.nan if v is None else v for v in line] for line in matrix.value], dtype=np.float64)
    scaled = numbers / matrix.top if matrix.top else np.log(numbers.clip(1e-12))
    known = scaled[~np.isnan(scaled)]
    low, high = (0.0, 1.0) if matrix.top or not known.size else (float(known.min()), float(known.max()))
    shares = np.clip((scaled - low) / (high - low if high > low else 1.0), 0, 1)
    lines = []
    for i, stage in enumerate(matrix.stages):
        cells: list[Shown | None] = []
        for j, number in enumerate(matrix.value[i]):
            ends = matrix.low[i][j], matrix.high[i][j]
            interval = "by definition" if i == j else "no interval"
            if i != j and ends[0] is not None and ends[1] is not None:
                interval = f"[{ends[0]:.2f}, {ends[1]:.2f}]"
            if number is None:
                cells.append(None)
            else:
                cells.append(Shown(f"{number:.2f}{matrix.marks[i][j]}", interval=interval).painted(float(shares[i, j])))
        lines.append((stage, cells))
    return {"title": matrix.title, "stages": matrix.stages, "lines": lines}


def _wall(model: str, own: Sequence[Record], store_of: StoreOf, pictures: Pictures) -> dict[str, Any] | None:
    """Numbers of the pictures of a model by stage, method and image; None where no picture was kept."""
    originals = next((found for r in own if (found := strip(store_of(r), r, original=True))), [])
    made = {(r.cell.stage, r.cell.method): [pictures.add(p) for p in strip(store_of(r), r)] for r in own}
    if not originals or not any(made.values()):
        return None
    stages, methods = (list(dict.fromkeys(key[part] for key in made)) for part in (0, 1))
    return {
        "model": model,
        "stages": stages,
        "methods": methods,
        "images": own[0].images[: len(originals)],
        "originals": [pictures.add(p) for p in originals],
        "made": [[made.get((stage, method), []) for method in methods] for stage in stages],
    }


def _images(
    shown: Sequence[Record], measures: Sequence[Measurement], store_of: StoreOf, pictures: Pictures
) -> list[dict[str, Any]]:
    """For every row its best and worst images: keys, numbers of pictures, and what every measure says of each."""
    found = []
    originals: dict[tuple[str, str], int] = {}
    for record in shown:
        kept, cell, measured = extremes(store_of(record), record), record.cell, record.measurements
        images: dict[int, dict[str, Any]] = {}
        for row in extreme_rows(measured):
            key = record.images[row]
            entry: dict[str, Any] = {"key": key, "values": [_one(measured.get(m.name), row) for m in measures]}
            if row in kept:
                original = originals.setdefault((cell.model, key), pictures.add(kept[row][0]))
                entry |= {"original": original, "made": pictures.add(kept[row][1])}
            images[row] = entry
        orders = [ranking(measured[m.name]) if m.name in measured else [] for m in measures]
        numbers = {row: number for number, row in enumerate(images)}
        found.append(
            {
                "cell": [cell.model, cell.stage, cell.method],
                "images": list(images.values()),
                "n": [len(order) for order in orders],
                # the numbers of the best images, best first, and of the worst, worst first
                "best": [[numbers[row] for row in order[:EACH] if row in numbers] for order in orders],
                "worst": [[numbers[row] for row in order[::-1][:EACH] if row in numbers] for order in orders],
            }
        )
    return found


def _one(measurement: Measurement | None, row: int) -> str | None:
    """A measure of one image as text."""
    if measurement is None or not measurement.ok or measurement.values[row] is None:
        return None
    return f"{measurement.values[row]:.{measurement.digits}f}"


def _missing(records: Sequence[Record]) -> list[tuple[str, list[Record], list[str]]]:
    """Reasons, what failed first, with their records and tracebacks."""
    reasons = sorted(missing(records).items(), key=lambda entry: not entry[0].startswith("failed"))
    return [
        (reason, found, list(dict.fromkeys(r.traceback for r in found if r.traceback))) for reason, found in reasons
    ]


def _origins(records: Sequence[Record]) -> list[dict[str, Any]]:
    """What runs the records come from: provenance but for seed and time, with the number of cells of each."""
    counts: Counter[str] = Counter()
    for record in records:
        origin = record.provenance
        facts = {
            "Code": code_of(origin),
            "Device": f"{origin.device}, {origin.threads} threads",
            "Platform": origin.platform,
            "Determinism": f"deterministic {origin.deterministic}, TF32 {origin.tf32}",
            "Versions": versions_of(origin),
            "Plug-ins": ", ".join(" ".join(map(str, p.values())) for p in origin.plugins) or "none",
        }
        counts[json.dumps(facts)] += 1
    return [json.loads(facts) | {"Cells": n} for facts, n in counts.items()]


def _data(done: Sequence[Record]) -> list[str]:
    """The sizes of the splits, each once."""
    return list(
        dict.fromkeys(
            f"fit on {d.fit} images, selected on {d.select}, scored on {d.score}; the three are disjoint"
            for r in done
            if (d := r.data)
        )
    )
