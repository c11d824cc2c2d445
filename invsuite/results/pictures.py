"""The pictures beside a cell's record: which images they show, and the one format in which they are written and read.

A sheet is a WebP file of lines of equally large pictures; it says itself how many there are.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from invsuite.results.record import Measurement
from invsuite.results.statistics import distance_from_best

FIRST = 6  # images whose reconstructions by every cell are kept as they are, for strips and studies
EDITED = 3  # of these, images whose edits and their reconstructions are kept as well
EACH = 3  # best and worst images kept of each measure
MOST = 48  # images kept of a cell, however many measures there are
LARGE, SMALL = 512, 160  # pixels of the longer side of first and of best and worst images; larger ones are made smaller
QUALITY, EFFORT = 90, 1  # of lossy WebP; twice the time makes it 4 % smaller
DESCRIPTION = 0x010E  # EXIF's tag for what an image shows

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class EditFacts:
    """What a sheet of reconstructions of edited images says of itself.

    Attributes:
        name: of the edit, its parameters included.
        target: ``object`` or ``image``: what was edited.
        positions: of the edited images among the scored ones.
        edited: file below the folder of the records that shows the edited images themselves.
    """

    name: str
    target: str
    positions: list[int]
    edited: str

    @property
    def words(self) -> str:
        """Return the edit for people, e.g. "hue 0.333, one object"."""
        name = re.sub(r"\d+\.\d{4,}", lambda number: f"{float(number[0]):.3f}", self.name)
        return f"{name}, {'whole image' if self.target == 'image' else 'one object'}"


@dataclass(frozen=True)
class EditPictures:
    """Edited images (H, W, 3), a cell's reconstructions of them, and which edit it is."""

    facts: EditFacts
    edited: list[Pixels]
    reconstructions: list[Pixels]


def ranking(measurement: Measurement) -> list[int]:
    """Return the positions of the images on which a measure is defined, best first; ties in the images' order."""
    values, direction = measurement.values, measurement.direction
    positions = [position for position, value in enumerate(values) if value is not None]
    return sorted(positions, key=lambda position: float(distance_from_best(direction, values[position])))


def best_and_worst(measurements: Mapping[str, Measurement]) -> list[int]:
    """Return the positions of the `EACH` best and worst images by every measure, at most `MOST`.

    The very best and worst come first.
    """
    rankings = [ranking(measurement) for measurement in measurements.values()]
    picked = (
        order[place]
        for depth in range(EACH)
        for order in rankings
        if depth < len(order)
        for place in (-1 - depth, depth)
    )
    return list(dict.fromkeys(picked))[:MOST]


def first_sheet(images: Pixels) -> bytes:
    """Return the sheet of the first images (n, H, W, 3), which loses nothing of those no larger than `LARGE`."""
    return _sheet([images], LARGE, lossless=True, method=0)  # as fast as PNG


def paired_sheet(images: Pixels, reconstructions: Pixels) -> bytes:
    """Return the sheet of images (n, H, W, 3) and, below them, their reconstructions, small and nearly as they are."""
    return _sheet([images, reconstructions], SMALL, quality=QUALITY, method=EFFORT)


def edit_sheet(reconstructions: Pixels, facts: EditFacts) -> bytes:
    """Return the sheet of the reconstructions (n, H, W, 3) of edited images, as lossless as `first_sheet`.

    They are compared with those before the edit, and what a lossy format changes would look like an effect of it.
    """
    return _sheet([reconstructions], LARGE, json.dumps(asdict(facts)), lossless=True, method=0)


def read_sheet(path: Path) -> list[list[Pixels]]:
    """Return the lines of pictures (H, W, 3) in a file; none if it is not there or no sheet."""
    return _read(path)[0]


def read_edit_sheet(path: Path) -> tuple[EditFacts, list[Pixels]] | None:
    """Return what a sheet of reconstructions of edited images shows, and these; None for any other file."""
    lines, note = _read(path)
    return (EditFacts(**json.loads(note)), lines[0]) if note else None


def _read(path: Path) -> tuple[list[list[Pixels]], str]:
    if not path.is_file():
        return [], ""
    with Image.open(path) as image:
        count = re.fullmatch(r"(\d+) lines of (\d+) pictures(?:: (.*))?", str(image.getexif().get(DESCRIPTION)))
        whole = np.asarray(image.convert("RGB"))
    if count is None:
        return [], ""
    lines, columns = int(count[1]), int(count[2])
    return [np.split(line, columns, axis=1) for line in np.split(whole, lines)], count[3] or ""


def _sheet(lines: list[Pixels], side: int, note: str = "", **options: bool | int) -> bytes:
    """Return pictures no larger than ``side`` as WebP, encoded as ``options`` say."""
    joined = np.concatenate([np.concatenate([_shrunk(picture, side) for picture in line], axis=1) for line in lines])
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[DESCRIPTION] = f"{len(lines)} lines of {len(lines[0])} pictures" + f": {note}" * bool(note)
    Image.fromarray(joined).save(buffer, "WEBP", exif=exif, **options)
    return buffer.getvalue()


def _shrunk(picture: Pixels, side: int) -> Pixels:
    image = Image.fromarray(picture)
    image.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=None)
    return np.asarray(image)
