"""Pictures of a page, from the files beside the records: each is embedded once, as WebP, and small."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from invsuite.results.record import Record
from invsuite.results.store import Store

SIDES = (128, 96, 64, 48)  # pixels of the longer side; the more pictures, the smaller
BYTES = 5_000_000  # of all pictures of a page together, as they are embedded
QUALITY = 80  # of WebP
CELLS = 1000  # cells whose pictures a page shows; of a larger matrix the first

Pixels = NDArray[np.uint8]
#: The store that has the pictures of a record.
StoreOf = Callable[[Record], Store]


@dataclass
class Pictures:
    """Pictures (H, W, 3) by number, the same pixels once."""

    pixels: list[Pixels] = field(default_factory=list)
    _numbers: dict[bytes, int] = field(default_factory=dict)

    def add(self, picture: Pixels) -> int:
        """The number of ``picture``."""
        key = str(picture.shape).encode() + picture.tobytes()
        if key not in self._numbers:
            self._numbers[key] = len(self.pixels)
            self.pixels.append(picture)
        return self._numbers[key]

    def encode(self, sides: Sequence[int] = SIDES, quality: int = QUALITY) -> list[str]:
        """Base64 of WebP by number, of the first of ``sides`` that `BYTES` allow, else the last."""
        found: list[str] = []
        for side in sides:
            found = [_webp(picture, side, quality) for picture in self.pixels]
            if sum(map(len, found)) <= BYTES:
                break
        return found


def _webp(picture: Pixels, side: int, quality: int) -> str:
    image = Image.fromarray(picture)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return base64.b64encode(buffer.getvalue()).decode()


def strip(store: Store, record: Record, original: bool = False) -> list[Pixels]:
    """The first reconstructions of a cell, or, if ``original``, the images themselves; none where no file is."""
    whole = _read(original_path(store, record) if original else store.strip_path(record.cell.id))
    return [] if whole is None else _cut(whole, _width(record, whole))


def original_path(store: Store, record: Record) -> Path:
    """File of the images of which `strip` shows the reconstructions."""
    return store.strip_path(f"{record.original_model}-original")


def extremes(store: Store, record: Record) -> dict[int, tuple[Pixels, Pixels]]:
    """Image and reconstruction by the image's row, of a cell's best and worst images and of the first few."""
    found: dict[int, tuple[Pixels, Pixels]] = {}
    rows = record.extremes
    whole = _read(store.extremes_path(record.cell.id)) if rows else None
    if whole is not None:
        above, below = np.split(whole, 2)
        width = whole.shape[1] // len(rows)
        found = dict(zip(rows, zip(_cut(above, width), _cut(below, width), strict=True), strict=True))
    first = zip(strip(store, record, original=True), strip(store, record), strict=False)
    return found | dict(enumerate(first))  # what other parts of the page show is embedded once


def _width(record: Record, whole: Pixels) -> int:
    """Width of one picture of a strip: models take images of any aspect, which the record's identity knows."""
    height, width = record.identity["image_size"]
    return round(whole.shape[0] * width / height)


def _cut(whole: Pixels, width: int) -> list[Pixels]:
    return [whole[:, start : start + width] for start in range(0, whole.shape[1], width)]


def _read(path: Path) -> Pixels | None:
    if not path.is_file():
        return None
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
