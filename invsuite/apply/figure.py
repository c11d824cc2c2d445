"""The figure of an inversion: the original, what each stage gives back, and a row below for each edit.

It is laid out in whole pixels: every pixel of a picture is a square of whole pixels of the figure, but pictures of more
than `MOST` pixels a side are reduced, antialiased. Every text has the room that it takes.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from invsuite._system.files import write_atomically
from invsuite.apply.invert import Inversion, InvertedPhoto, pixels_of
from invsuite.data.base import Mask
from invsuite.errors import UsageError
from invsuite.report.figures import text_width

FORMATS = (".png", ".pdf", ".svg")
WIDE = 15.0  # inches that a figure has at most, as long as its pictures have `SMALLEST`
LARGEST, SMALLEST = 2.0, 1.0  # inches of a picture's longer side
NARROWEST = 4.0  # inches of a figure
SHARPNESS = 110  # pixels per inch that a figure has at least
MOST = 480  # pixels of a picture's longer side
MARGIN, GAP, LABELS = 0.08, 0.06, 1.5  # inches: around everything, between pictures, of the names of a sheet's photos
TITLE, HEAD, NAME, SMALL = 11.0, 9.0, 9.0, 7.0  # points of letters
HINTED = 1.05  # letters fitted to whole pixels are up to so much wider than their outlines
LEADING = 1.3  # of a line of text, in its own height
ORIGINAL = "original"
MEASURE = "Below each picture: its PSNR in dB against the picture at the left of its row."
BESIDE = "Beside each photo: its name, and what of it was shown to the model."
INSIDE = "Edits act inside the outline."


class Picture(Figure):
    """A figure of matplotlib that notebooks show, whatever its backend."""

    def _repr_png_(self) -> bytes:
        return figure_bytes(self, "png")


def show(inversion: Inversion | InvertedPhoto) -> Figure:
    """Draw photos and what was made of each of their stages.

    One photo has a row below for each edit; several have a row each, without edits: a contact sheet. Below each
    picture stands its PSNR in dB, and how a photo took the size of the model's input stands there too.

    Returns:
        A figure of matplotlib, which notebooks show as it is; ``savefig`` writes it.

    Raises:
        UsageError: for an inversion of no photo.

    Examples:
        >>> import invsuite
        >>> scenes = invsuite.open_images("scenes", (96, 96), seed=1, count=24)
        >>> inverse = invsuite.fit("ridge", "bundled:vit", ["embed", "block03"], scenes)
        >>> figure = invsuite.show(invsuite.invert(scenes.images([0]), inverse, edits=["grey"]))
        >>> [axis.get_label() for axis in figure.axes[:3]]
        ['original', 'embed', 'block03']
    """
    photos = (inversion,) if isinstance(inversion, InvertedPhoto) else inversion.photos
    if not photos:
        raise UsageError("an inversion of no photo: there is nothing to show")
    if len(photos) == 1:
        return _draw(*_of_one(photos[0]))
    return _draw(*_of_several(photos))


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, PDF or SVG, by the suffix of its file, and return the file.

    Raises:
        UsageError: for another suffix.
        DiskError: if the disk refuses.
    """
    file = check_format(path)
    write_atomically(file, figure_bytes(figure, file.suffix.lower()[1:]))
    return file


def check_format(path: str | Path) -> Path:
    """Return the path of a figure.

    Raises:
        UsageError: if its suffix is none of `FORMATS`.
    """
    file = Path(path)
    if file.suffix.lower() not in FORMATS:
        raise UsageError(f"figure '{path}': its name must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    return file


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """Return the bytes of a figure as ``png``, ``pdf`` or ``svg``, the same for the same figure."""
    nameless = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "invsuite", "pdf.fonttype": 42}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # names of files in letters that the font lacks: shown as boxes
        figure.savefig(buffer, format=kind, dpi=figure.dpi, metadata=nameless[kind])
    return buffer.getvalue()


@dataclass(frozen=True)
class _Line:
    """A row of pictures: the first is what the model was shown."""

    name: str
    note: str
    pictures: tuple[NDArray[np.uint8], ...]
    values: tuple[float | None, ...]
    outline: Mask | None = None


@dataclass(frozen=True)
class _Text:
    """Lines above and below all rows."""

    title: str
    subtitle: str
    heads: tuple[str, ...]
    footer: str


def _of_one(photo: InvertedPhoto) -> tuple[_Text, list[_Line]]:
    edited = len(photo.rows) > 1
    lines = [
        _Line(
            row.label if edited else "",
            "",
            tuple(pixels_of(image) for image in (row.image, *row.reconstructions.values())),
            (None, *row.psnr.values()),
            photo.region if row.edit is not None else None,
        )
        for row in photo.rows
    ]
    parts = (
        f"Shown to the model: {photo.treatment}.",
        MEASURE,
        INSIDE if photo.region is not None else "",
        photo.remark,
    )
    footer = " ".join(filter(None, parts))
    return _Text(f"{photo.name}: {photo.heading[0]}", photo.heading[1], (ORIGINAL, *photo.stages), footer), lines


def _of_several(photos: Sequence[InvertedPhoto]) -> tuple[_Text, list[_Line]]:
    lines = []
    for photo in photos:
        row = photo.rows[0]
        pictures = tuple(pixels_of(image) for image in (row.image, *row.reconstructions.values()))
        lines.append(_Line(photo.name, photo.treatment, pictures, (None, *row.psnr.values())))
    model, spent = photos[0].heading
    remarks = dict.fromkeys(photo.remark for photo in photos)
    footer = " ".join(
        ["Beside each photo: its name, and what of it was shown to the model.", MEASURE, *remarks]
    ).strip()
    return _Text(f"{len(photos)} photos: {model}", spent, (ORIGINAL, *photos[0].stages), footer), lines


def _draw(text: _Text, lines: Sequence[_Line]) -> Figure:
    columns = len(text.heads)
    natural = max(max(line.pictures[0].shape[:2]) for line in lines)
    labels = LABELS if any(line.note for line in lines) else max(_inches(line.name, NAME) for line in lines)
    labels += 2 * GAP if labels else 0.0
    side = min(LARGEST, max(SMALLEST, (WIDE - labels - 2 * MARGIN) / columns - GAP))  # inches of the longest picture
    scale = math.ceil(side * SHARPNESS / natural) if natural <= MOST else MOST / natural
    dpi = natural * scale / side
    drawn = [[_scaled(picture, scale) for picture in line.pictures] for line in lines]
    gap, margin, beside = (round(inches * dpi) for inches in (GAP, MARGIN, labels))
    across = max(row[0].shape[1] for row in drawn)

    width = max(2 * margin + beside + columns * (across + gap) - gap, round(NARROWEST * dpi))
    title = _wrapped(text.title, width - 2 * margin, TITLE, dpi)
    subtitle = _wrapped(text.subtitle, width - 2 * margin, SMALL, dpi)
    footer = _wrapped(text.footer, width - 2 * margin, SMALL, dpi)
    heads = [_wrapped(head, across, HEAD, dpi) for head in text.heads]
    names = [
        (_wrapped(line.name, beside - gap, NAME, dpi), _wrapped(line.note, beside - gap, SMALL, dpi)) for line in lines
    ]
    em = {points: points * LEADING * dpi / 72 for points in (TITLE, HEAD, SMALL)}  # pixels of a line of text
    top = margin + em[TITLE] * len(title) + em[SMALL] * len(subtitle) + gap
    body = top + em[HEAD] * max(map(len, heads)) + gap / 2
    downs = [
        max(row[0].shape[0] + em[SMALL] + gap / 2, em[HEAD] * len(name) + em[SMALL] * len(note)) + gap
        for row, (name, note) in zip(drawn, names, strict=True)
    ]
    height = round(body + sum(downs) + em[SMALL] * len(footer) + margin)

    figure = Picture(figsize=(width / dpi, height / dpi), dpi=dpi, facecolor="white")

    def write(
        x: float, y: float, words: Sequence[str], points: float, colour: str = "black", align: str = "left"
    ) -> None:
        for number, word in enumerate(words):
            figure.text(
                x / width,
                1 - (y + number * points * LEADING * dpi / 72) / height,
                word,
                fontsize=points,
                color=colour,
                ha=align,
                va="top",
                parse_math=False,
            )

    write(margin, margin, title, TITLE)
    write(margin, margin + em[TITLE] * len(title), subtitle, SMALL, "dimgrey")
    y = round(body)
    for number, (line, row, (name, note), down) in enumerate(zip(lines, drawn, names, downs, strict=True)):
        high, wide = row[0].shape[:2]
        for column, (picture, value) in enumerate(zip(row, line.values, strict=True)):
            left = margin + beside + column * (across + gap)
            x = left + (across - wide) // 2
            axis = figure.add_axes(
                (x / width, 1 - (y + high) / height, wide / width, high / height), label=text.heads[column]
            )
            axis.imshow(picture, interpolation="none", aspect="auto")
            axis.set_axis_off()
            if number == 0:
                head = heads[column]
                above = em[HEAD] * (max(map(len, heads)) - len(head))
                write(left + across / 2, top + above, head, HEAD, align="center")
            if column == 0 and line.outline is not None:
                _outline(axis, line.outline, (high, wide))
            if value is not None:
                write(left + across / 2, y + high + gap / 4, [decibels(value)], SMALL, "dimgrey", "center")
        if name:
            block = em[HEAD] * len(name) + em[SMALL] * len(note)
            start = y + max(0.0, (high - block) / 2)
            write(margin, start, name, NAME)
            write(margin, start + em[HEAD] * len(name), note, SMALL, "dimgrey")
        y = round(y + down)
    write(margin, y, footer, SMALL, "dimgrey")
    return figure


def decibels(value: float) -> str:
    """Return a PSNR as a figure writes it."""
    return f"{value:.1f} dB" if math.isfinite(value) else "exact"


def _inches(text: str, points: float) -> float:
    return HINTED * text_width(text, points, 72) / 72


def _scaled(picture: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Return a picture enlarged pixel by pixel, or reduced, antialiased."""
    if scale >= 1:
        return picture.repeat(round(scale), 0).repeat(round(scale), 1)
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _outline(axis: object, region: Mask, size: tuple[int, int]) -> None:
    """Draw the border of a region, black and white, so that it is seen on everything."""
    large = np.asarray(Image.fromarray(region).resize((size[1], size[0]), Image.Resampling.NEAREST))
    if large.all():
        return
    for colour, style in (("black", "solid"), ("white", (0, (3, 3)))):
        axis.contour(large, [0.5], colors=[colour], linewidths=0.9, linestyles=[style])  # type: ignore[attr-defined]


def _wrapped(text: str, width: int, points: float, dpi: float) -> list[str]:
    """Return lines of at most ``width`` pixels, broken at spaces, and within a word that is wider by itself."""
    width = math.floor(width / HINTED)
    lines: list[str] = []
    for word in text.replace(" x ", "\xa0x\xa0").split(" "):  # sizes stay together
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(joined, points, dpi) <= width:
            lines[-1] = joined
            continue
        lines.append(word)
        while text_width(lines[-1], points, dpi) > width and len(lines[-1]) > 1:
            cut = len(lines[-1]) - 1
            while cut > 1 and text_width(lines[-1][:cut], points, dpi) > width:
                cut -= 1
            cut = max((lines[-1].rfind(sign, 1, cut) + 1 for sign in "-_+/,."), default=0) or cut
            lines[-1:] = [lines[-1][:cut], lines[-1][cut:]]
    return lines
