"""A page to look at reconstructions with: photo, stage, method and edit are chosen, and every pixel can be read.

It is made from the pictures beside the records alone, so that it is the same where kept tensors were pruned.
"""

from __future__ import annotations

import io
import os
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from invsuite.errors import unknown_name
from invsuite.report.figures import Choice, Pictures, kept_pictures
from invsuite.report.html import BETTER, MAP, cell_text, environment, row_anchor, value_text
from invsuite.report.results import Results
from invsuite.results.pictures import Pixels
from invsuite.results.record import Measurement, Record
from invsuite.results.rows import Row, measures_of
from invsuite.results.statistics import distance_from_best
from invsuite.results.store import Store

MEGABYTES = 12.0  # of all pictures as they are embedded, unless the caller says otherwise
SCALES = (0.05, 0.1, 0.25, 0.5, 1.0)  # ends of the difference map
#: How pictures are encoded, in the order in which that is tried: quality, None for lossless, and longer side in pixels.
TRIES = ((None, None), (95, None), (90, None), (80, None), (80, 160), (80, 96), (70, 64))
ABOVE = {"psnr", "ssim"}  # measures that stand above the others


def explore_page(
    results: Results,
    choice: Choice | None = None,
    megabytes: float = MEGABYTES,
    report: str = "",
    record_link: Callable[[Record], str] = lambda record: "",
) -> str:
    """Return the page of a suite's pictures, which needs no other file and no network.

    Args:
        results: of the suite; of several seeds the first is shown.
        choice: which photos; the first ones by default.
        megabytes: that all pictures may take as they are embedded: beyond it they are lossy, then smaller.
        report: address of the report's page; "" where there is none.
        record_link: gives the address of a record; "" where it has none.

    Raises:
        UsageError: for names of photos of which no picture is kept.
    """
    pictures, choice = Pictures(), choice or Choice()
    rows = {row.name: row for row in results.rows}
    measures = measures_of(results.rows)
    listed = sorted(measures.values(), key=lambda measure: measure.name not in ABOVE)  # stable
    models = [
        model
        for name, records in results.models.items()
        if (model := _Model(name, records, results, choice, pictures).tree(listed, rows, record_link))
    ]
    if choice.names and not models:
        kept = (record.images[i] for record in results.done for i in kept_pictures(results.store_of(record), record))
        raise unknown_name("photo with pictures", choice.names[0], set(kept))
    encoded, exact, fidelity = _encoded(pictures.pixels, round(megabytes * 1e6))
    return (
        environment()
        .get_template("explore.html")
        .render(
            title=f"Explore {results.title}",
            report=report,
            written=max(record.provenance.written for record in results.records)[:16].replace("T", " "),
            edited=any(model["edits"] for model in models),
            exact=exact,
            fidelity=fidelity,
            scales=SCALES,
            map=MAP,
            page={
                "models": models,
                "measures": [_words(measure) for measure in listed],
                "above": sum(measure.name in ABOVE for measure in listed),
                "report": report,
                "map": MAP,
                "pictures": encoded,
            },
        )
    )


def record_address(results: Results, folder: Path) -> Callable[[Record], str]:
    """Return what gives the address of a record as a page in ``folder`` links it."""

    def address(record: Record) -> str:
        store = results.store_of(record)
        path = store.path(record.cell.id) if store is not None else None
        return quote(Path(os.path.relpath(path, folder)).as_posix()) if path is not None and path.is_file() else ""

    return address


def _encoded(pixels: Sequence[Pixels], limit: int) -> tuple[list[str], bool, str]:
    """Return Base64 of WebP of pictures, whether that is lossless, and what to know of it.

    Args:
        pixels: the pictures.
        limit: bytes that all may take: the first of `TRIES` that it allows is taken, else the last.
    """
    for quality, side in TRIES:
        encoded: list[str] = []
        left = limit
        for picture in pixels:
            encoded.append(_webp(picture, quality, side))
            left -= len(encoded[-1])
            if left < 0 and (quality, side) != TRIES[-1]:
                break
        else:
            break
    size = f"The {len(encoded)} pictures of this page take {sum(map(len, encoded)) / 1e6:.1f} MB"
    if quality is None:
        return encoded, True, f"{size} and are exactly those beside the records, 8 bits a colour."
    lossy = f"{size}. They are lossy here, WebP of quality {quality}"
    if side is not None:
        return encoded, False, f"{lossy}, and made smaller to at most {side} pixels."
    errors = [_error(*pair) for pair in zip(pixels, encoded, strict=True)]
    mean, most = float(np.mean([mean for mean, _ in errors])) / 255, max(most for _, most in errors) / 255
    return encoded, False, f"{lossy}: a value is off by {mean:.4f} on average and by at most {most:.3f}."


def _webp(picture: Pixels, quality: int | None, side: int | None) -> str:
    image, buffer = Image.fromarray(picture), io.BytesIO()
    if side is not None:
        image.thumbnail((side, side))
    image.save(buffer, "WEBP", quality=quality or 60, lossless=quality is None, method=4)
    return b64encode(buffer.getvalue()).decode()


def _error(picture: Pixels, encoded: str) -> tuple[float, float]:
    """Return the mean and the largest error of an encoded picture, of 255."""
    with Image.open(io.BytesIO(b64decode(encoded))) as image:
        errors = np.abs(np.asarray(image.convert("RGB")).astype(np.int16) - picture)
    return float(errors.mean()), float(errors.max())


class _Model:
    """What a page shows of one model: photos down, and for each of them every stage, method and edit.

    Args:
        name: of the model.
        records: of its cells.
        results: that they belong to.
        choice: of photos.
        pictures: that the page embeds.
    """

    def __init__(
        self, name: str, records: Sequence[Record], results: Results, choice: Choice, pictures: Pictures
    ) -> None:
        done = [record for record in records if record.ok]
        self.name, self.results, self.choice, self.pictures = name, results, choice, pictures
        self.records = [record for record in records if record.cell.seed == done[0].cell.seed] if done else []
        self.seeds = len({record.cell.seed for record in records})

    def tree(
        self, measures: Sequence[Measurement], rows: dict[str, Row], record_link: Callable[[Record], str]
    ) -> dict[str, Any] | None:
        """Return everything as a tree of JSON types; None where no picture was kept."""
        pairs = {r.cell.id: self.choice.of(r, self._store(r)) for r in self.records if r.ok}
        images = {key: pair[0] for own in reversed(pairs.values()) for key, pair in own.items()}
        if not images:
            return None
        order = dict.fromkeys(key for record in self.records for key in record.images)
        photos = [key for key in order if key in images][: self.choice.count]
        edits = _Edits(photos, self.pictures)
        stages = sorted({(r.cell.position, r.cell.stage) for r in self.records})
        methods = sorted({(r.cell.method_position, r.cell.method) for r in self.records})
        cells: list[list[Any]] = [[None] * len(methods) for _ in stages]
        for record in self.records:
            place = stages.index((record.cell.position, record.cell.stage))
            column = methods.index((record.cell.method_position, record.cell.method))
            if not record.ok:
                cells[place][column] = {"why": f"{record.state}: {record.reason}"}
                continue
            own, row, store = pairs[record.cell.id], rows[record.cell.row], self._store(record)
            cells[place][column] = {
                "id": record.cell.id,
                "record": record_link(record),
                "row": row_anchor(row),
                "label": row.label,
                "budget": row.regime.text,
                "pictures": [self.pictures.add(own[key][1]) if key in own else None for key in photos],
                "edits": edits.of(record, store) if store is not None else {},
                "values": [_values(record, row, measure, photos) for measure in measures],
            }
        return {
            "name": self.name,
            "seeds": self.seeds,
            "seed": self.records[0].cell.seed,
            "stages": [stage for _, stage in stages],
            "methods": [method for _, method in methods],
            "photos": photos,
            "originals": [self.pictures.add(images[key]) for key in photos],
            "edits": edits.words,
            "edited": edits.images,
            "cells": cells,
            "first": self._first(stages, measures),
        }

    def _store(self, record: Record) -> Store | None:
        return self.results.store_of(record)

    def _first(self, stages: Sequence[tuple[int, str]], measures: Sequence[Measurement]) -> list[str]:
        """Return stage and method that are shown at first: the best one of a stage in the middle."""
        done = [record for record in self.records if record.ok]
        competing = [record for record in done if not record.cell.uses_image] or done
        middle = stages[(len(stages) - 1) // 2][1]
        best = min(
            competing,
            key=lambda record: (record.cell.stage != middle, [_loss(record, measure.name) for measure in measures[:1]]),
        )
        return [best.cell.stage, best.cell.method]


@dataclass
class _Edits:
    """The edits of a model's photos: their words, and the edited photos by edit and photo."""

    photos: Sequence[str]
    pictures: Pictures
    words: list[str] = field(default_factory=list)
    images: list[list[int | None]] = field(default_factory=list)

    def of(self, record: Record, store: Store) -> dict[int, list[int | None]]:
        """Return the pictures of a cell's reconstructions of edited photos, by edit."""
        reconstructions = {}
        for kept in store.edits(record.cell.id):
            words = kept.facts.words
            if words not in self.words:
                self.words.append(words)
                self.images.append([None] * len(self.photos))
            edit = self.words.index(words)
            line: list[int | None] = [None] * len(self.photos)
            for position, image, picture in zip(kept.facts.positions, kept.edited, kept.reconstructions, strict=False):
                if record.images[position] in self.photos:
                    photo = self.photos.index(record.images[position])
                    line[photo] = self.pictures.add(picture)
                    if self.images[edit][photo] is None:
                        self.images[edit][photo] = self.pictures.add(image)
            reconstructions[edit] = line
        return reconstructions


def _values(record: Record, row: Row, measure: Measurement, photos: Sequence[str]) -> dict[str, Any]:
    """Return what a measure says of each photo, and of the row."""
    measurement, text = record.measurements.get(measure.name), cell_text(row, measure, {})
    positions = [record.images.index(key) if key in record.images else None for key in photos]
    return {
        "images": [None if i is None else value_text(measurement, i) for i in positions],
        "row": text.text,
        "interval": text.interval,
        "n": text.n,
        "why": text.why or (measurement.reason if measurement is not None else ""),
    }


def _words(measure: Measurement) -> dict[str, str]:
    return {
        "label": measure.label,
        "unit": measure.unit,
        "better": BETTER[measure.direction],
        "doc": measure.description.replace("`", ""),
    }


def _loss(record: Record, measure: str) -> float:
    measurement = record.measurements.get(measure)
    if measurement is None or measurement.mean is None:
        return float("inf")
    return float(distance_from_best(measurement.direction, measurement.mean))
