"""Pictures: strips of reconstructions and heat maps as PNG files, and the pictures that a page embeds."""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import LogLocator, NullLocator
from PIL import Image

from invsuite._system.files import file_name, write_atomically
from invsuite.errors import UsageError, unknown_name
from invsuite.results.matrices import Matrix
from invsuite.results.pictures import FIRST, Pixels, read_sheet
from invsuite.results.record import Record
from invsuite.results.regime import MARK, regime_of
from invsuite.results.store import Store

ACROSS = 4  # heat maps beside each other
DPI = 110
HEAD, GAP, MARKED = 52, 6, 16  # pixels: above a strip, between pictures, below marked ones
TITLE, LABEL = 11, 9  # points of letters: above a strip, beside it
LEAST = 96  # pixels of a picture's height up to which it is enlarged
MOST_PIXELS = 65_000  # of a side: what can be drawn
STRIP_PIXELS = 12_000_000  # of all pictures of a strip
ORIGINAL = "original"
SIDES = (128, 96, 64, 48)  # pixels of the longer side; the more pictures, the smaller
BYTES = 5_000_000  # of all pictures of a page together, as they are embedded
QUALITY = 80  # of WebP
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#444444")  # Okabe & Ito 2008, darker
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
BEHIND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
ROOM = 0.08  # of a panel's height, for a line of text at its edge
DASHES = ((0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 3)))

#: Gives the store that has the pictures of a record, if there is one.
StoreOf = Callable[[Record], Store | None]


@dataclass
class Pictures:
    """Pictures (H, W, 3) by number, the same pixels once: what a page embeds."""

    pixels: list[Pixels] = field(default_factory=list)
    _numbers: dict[bytes, int] = field(default_factory=dict)

    def add(self, picture: Pixels) -> int:
        """Return the number of ``picture``, which is added if it is not there."""
        key = str(picture.shape).encode() + picture.tobytes()
        if key not in self._numbers:
            self._numbers[key] = len(self.pixels)
            self.pixels.append(picture)
        return self._numbers[key]

    def encode(self, sides: Sequence[int] = SIDES, quality: int = QUALITY) -> list[str]:
        """Return Base64 of WebP by number, of the first of ``sides`` that `BYTES` allow, else the last."""
        encoded: list[str] = []
        for side in sides:
            encoded = [_webp(picture, side, quality) for picture in self.pixels]
            if sum(map(len, encoded)) <= BYTES:
                break
        return encoded


def first_pictures(store: Store | None, record: Record) -> list[Pixels]:
    """Return the first reconstructions of a cell; none where no file is."""
    return _line(store.first_path(record.cell.id)) if store is not None else []


def originals(store: Store | None, record: Record) -> list[Pixels]:
    """Return the images of which `first_pictures` are the reconstructions."""
    return _line(store.originals_path(record.original_model)) if store is not None else []


def kept_pictures(store: Store | None, record: Record) -> dict[int, tuple[Pixels, Pixels]]:
    """Return image and reconstruction by the image's position, of a cell's best and worst and of its first images."""
    pairs = read_sheet(store.best_and_worst_path(record.cell.id)) if store is not None else []
    kept = dict(zip(record.best_and_worst, zip(*pairs, strict=True), strict=True)) if pairs else {}
    first = zip(originals(store, record), first_pictures(store, record), strict=False)
    return kept | dict(enumerate(first))  # what other parts of the page show is embedded once


@dataclass(frozen=True)
class Choice:
    """Which photos the strips show, and how.

    Attributes:
        names: of photos or shell patterns; None takes the first ones.
        count: how many at most.
        native: whether every picture keeps all its pixels, however large the strip becomes.
        files: whether each picture is also a PNG file of its own.
    """

    names: tuple[str, ...] | None = None
    count: int = FIRST
    native: bool = False
    files: bool = False

    def of(self, record: Record, store: Store | None) -> dict[str, tuple[Pixels, Pixels]]:
        """Return image and reconstruction of the chosen photos whose pictures are kept of a cell, by name."""
        if self.names is None:
            pairs = dict(enumerate(zip(originals(store, record), first_pictures(store, record), strict=False)))
        else:
            pairs = kept_pictures(store, record)
        keys = {record.images[position]: pairs[position] for position in sorted(pairs)}
        chosen = [key for key in keys if self.names is None or any(fnmatchcase(key, name) for name in self.names)]
        return {key: keys[key] for key in chosen[: self.count]}


def draw_strip(
    model: str, records: Sequence[Record], store_of: StoreOf, path: Path, choice: Choice = Choice()
) -> list[Path]:
    """Draw reconstructions of a model: originals above, methods down, stages across.

    Every pixel of a picture is a square of whole pixels of the strip; only where the strip would have more than
    `STRIP_PIXELS` are pictures made smaller, antialiased.

    Args:
        model: named above the strip.
        records: of the model's cells; those of its first seed are drawn.
        store_of: where the pictures of a record are.
        path: of the PNG file.
        choice: of photos.

    Returns:
        The files; none if no reconstruction is there to draw.

    Raises:
        UsageError: for names of photos of which no picture is kept, with those that are, or a strip too large to draw.
    """
    done = [record for record in records if record.ok]
    own = [record for record in done if record.cell.seed == done[0].cell.seed]
    pictures = {(r.cell.stage, r.cell.method): choice.of(r, store_of(r)) for r in own}
    pictures = {key: pairs for key, pairs in pictures.items() if pairs}
    images = {key: pair[0] for pairs in reversed(pictures.values()) for key, pair in pairs.items()}
    images = {key: images[key] for record in own for key in record.images if key in images}
    images = dict(list(images.items())[: choice.count])
    if not images:
        if choice.names and done:
            kept = {done[0].images[position] for r in own for position in kept_pictures(store_of(r), r)}
            raise unknown_name("photo with pictures", choice.names[0], kept)
        return []
    stages, methods = (list(dict.fromkeys(key[part] for key in pictures)) for part in (0, 1))
    size = next(iter(images.values())).shape[:2]
    scale = _scale(size, len(images) * len(stages) * (len(methods) + 1), choice.native)
    white = np.full((*size, 3), 255, dtype=np.uint8)  # of a cell that was scored on fewer images
    strips = {
        key: [pairs[name][1] if name in pairs else white for name in images] for key, pairs in pictures.items()
    } | {(stage, ORIGINAL): list(images.values()) for stage in stages}
    stopped = {(r.cell.stage, r.cell.method) for r in own if regime_of([r]).converged is False}
    high, wide = (max(1, round(side * scale)) for side in size)
    title = f"{model}: reconstructions from each stage"
    labels = label_width([ORIGINAL, *methods])
    across, down = wide * len(images) + GAP, high + GAP + MARKED * bool(stopped)
    width = labels + max(across * len(stages), text_width(title, TITLE))
    height = HEAD + down * (len(methods) + 1)
    if max(width, height) > MOST_PIXELS:
        raise UsageError(f"the strip of '{model}' would have {width} x {height} pixels: show fewer pictures")
    half = 0.5  # of a pixel more, so that no rounding takes one
    figure = Figure(figsize=((width + half) / DPI, (height + half) / DPI), dpi=DPI)

    def write(text: str, x: float, y: float, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, text, **style)

    pictured: list[tuple[int, int, Pixels]] = []
    for column, stage in enumerate(stages):
        left = labels + column * across
        middle = left + (across - GAP) / 2
        write(stage, middle, HEAD - GAP, ha="center", va="baseline", fontsize=10)
        for row, method in enumerate([ORIGINAL, *methods]):
            top = HEAD + row * down
            strip = strips.get((stage, method))
            if strip is not None:
                pictured.append((left, top, np.concatenate([sized(p, wide, high) for p in strip], axis=1)))
            if (stage, method) in stopped:
                write(f"{MARK} not converged", middle, top + high + 1, ha="center", va="top", fontsize=7)
            if column == 0:
                write(method, labels - GAP, top + high / 2, ha="right", va="center", fontsize=LABEL)
    figure.suptitle(title, fontsize=TITLE, y=1 - 4 / height, va="top")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    page = np.array(canvas.buffer_rgba())[..., :3]
    for left, top, picture in pictured:
        page[top : top + high, left : left + picture.shape[1]] = picture
    _write_png(page, path)
    return [path, *(_separate(strips, list(images), path) if choice.files else ())]


def label_width(names: Sequence[str]) -> int:
    """Return how many pixels the names of rows take beside a strip, with the space around them."""
    return 2 * GAP + max(text_width(name, LABEL) for name in names)


def text_width(text: str, points: float, dpi: float = DPI) -> int:
    """Return how many pixels a line of text of so many points is wide; a dollar is a dollar."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # letters that the font lacks are boxes, as wide as any
        wide, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=points), ismath=False)
    return math.ceil(wide * dpi / 72)


def _separate(strips: Mapping[tuple[str, str], Sequence[Pixels]], names: Sequence[str], path: Path) -> list[Path]:
    """Write every picture of a strip as a PNG file, with the pixels that are kept, and return the files."""
    files = []
    for (stage, method), strip in strips.items():
        for name, picture in zip(names, strip, strict=True):
            last = f"{ORIGINAL}.png" if method == ORIGINAL else f"{file_name(stage)}-{file_name(method)}.png"
            file = path.with_suffix("") / file_name(name) / last
            file.parent.mkdir(parents=True, exist_ok=True)
            _write_png(picture, file)
            files.append(file)
    return list(dict.fromkeys(files))


def _scale(size: tuple[int, int], count: int, native: bool) -> float:
    """Return the pixels of a strip per pixel of its ``count`` pictures, within `STRIP_PIXELS`."""
    enlarged = max(1, round(LEAST / size[0]))
    most = (STRIP_PIXELS / (size[0] * size[1] * count)) ** 0.5
    return enlarged if native or most >= enlarged else 1.0 if most >= 1 else most


def sized(picture: Pixels, wide: int, high: int) -> Pixels:
    """Return a picture in another size: larger pixel by pixel, smaller antialiased."""
    if picture.shape[:2] == (high, wide):
        return picture
    whole = high % picture.shape[0] == 0 and wide % picture.shape[1] == 0
    resampling = Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(picture).resize((wide, high), resampling))


def draw_heat_maps(model: str, between: Sequence[Matrix], path: Path) -> bool:
    """Draw a panel per matrix: shares from 0 to 1 on a linear scale, ratios of errors on a logarithmic one.

    Args:
        model: named above the panels.
        between: how its stages relate.
        path: of the PNG file.

    Returns:
        False if there is nothing to draw.
    """
    if not between:
        return False
    side = max(len(matrix.stages) for matrix in between) * 0.6 + 1.4
    columns = min(len(between), ACROSS)
    rows = -(-len(between) // columns)
    figure = Figure(figsize=(side * columns, side * rows), layout="compressed")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(between) :]:
        axis.set_visible(False)
    for axis, matrix in zip(axes.flat, between, strict=False):
        numbers = [[float("nan") if v is None else v for v in line] for line in matrix.value]
        limits = {"vmin": 0.0, "vmax": matrix.top} if matrix.top is not None else {"norm": "log"}
        image = axis.imshow(numbers, cmap="viridis", **limits)
        for i, line in enumerate(matrix.value):
            for j, value in enumerate(line):
                if value is not None:
                    colour = "white" if image.norm(value) < 0.6 else "black"
                    axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
        axis.set_xticks(range(len(matrix.stages)), matrix.stages, rotation=90, fontsize=8)
        axis.set_yticks(range(len(matrix.stages)), matrix.stages, fontsize=8)
        axis.set_title(matrix.title, fontsize=8)
    figure.suptitle(f"{model}: between stages", fontsize=10)
    _save(figure, path)
    return True


@dataclass(frozen=True)
class CurvePanel:
    """One panel of `draw_curves`: a measure at a stage.

    Attributes:
        title: above it.
        y_label: what is measured.
        lines: by label, the points (cost, value, low, high) of a curve.
        levels: by label, values of what has no cost on the axis, as horizontal lines.
    """

    title: str
    y_label: str
    lines: Mapping[str, Sequence[tuple[float, float, float, float]]]
    levels: Mapping[str, float]


def draw_curves(
    title: str,
    x_label: str,
    panels: Sequence[Sequence[CurvePanel]],
    path: Path,
    logarithmic: bool = True,
    ticks: Sequence[str] = (),
) -> None:
    """Draw quality against cost, with intervals.

    Levels that lie far from every curve of a panel, and would flatten them, are named at its edge.

    Args:
        title: above all panels.
        x_label: of the costs.
        panels: rows of panels; all have the same lines and levels.
        path: of the PNG file.
        logarithmic: whether the axis of costs is.
        ticks: names of the costs 0, 1, 2 ..., where these are places of something else.
    """
    rows, columns = len(panels), len(panels[0])
    size = (3.4 * columns + 0.6, 2.7 * rows + 1.3)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    labels = list(dict.fromkeys(label for line in panels for panel in line for label in (*panel.lines, *panel.levels)))
    for axis, panel in zip(axes.flat, [panel for line in panels for panel in line], strict=True):
        values = [value for points in panel.lines.values() for point in points for value in point[1:]]
        low, high = min(values), max(values)
        reach = 1.5 * (high - low)
        for label, points in panel.lines.items():
            x, y, bottom, top = (np.array(column) for column in zip(*points, strict=True))
            errors = np.stack([y - bottom, top - y])
            colour, marker = COLOURS[labels.index(label) % len(COLOURS)], MARKERS[labels.index(label) % len(MARKERS)]
            axis.errorbar(
                x, y, errors, label=label, color=colour, marker=marker, markersize=4, capsize=2, lw=1.4, elinewidth=0.7
            )
        outside: dict[bool, list[str]] = {}  # above, or below
        for label, level in panel.levels.items():
            if not low - reach <= level <= high + reach:
                outside.setdefault(level > high, []).append(f"{label} {level:.3g}")
                continue
            colour, dash = COLOURS[labels.index(label) % len(COLOURS)], DASHES[labels.index(label) % len(DASHES)]
            axis.axhline(level, label=label, color=colour, ls=dash, lw=1.2)
        for above, named in outside.items():
            place, side, word = (0.98, "top", "above") if above else (0.02, "bottom", "below")
            text = "\n".join(f"{word}: {level}" for level in named)  # a line each: a long one would push panels apart
            axis.text(0.98, place, text, transform=axis.transAxes, ha="right", va=side, fontsize=7, bbox=BEHIND)
            bottom, top = axis.get_ylim()  # with room for the text, where no line can be taken for what it names
            room = ROOM * len(named) * (top - bottom)
            axis.set_ylim(bottom - room * (not above), top + room * above)
        if logarithmic:
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_locator(NullLocator())
        if ticks:
            axis.set_xticks(range(len(ticks)), ticks)
        axis.set_title(panel.title, fontsize=10)
        axis.set_ylabel(panel.y_label, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3, lw=0.5)
    for axis in axes[-1]:
        axis.set_xlabel(x_label, fontsize=9)
    handles = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())


def _write_png(picture: Pixels, path: Path) -> None:
    """Write a picture (H, W, 3) as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


def _webp(picture: Pixels, side: int, quality: int) -> str:
    image = Image.fromarray(picture)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return base64.b64encode(buffer.getvalue()).decode()


def _line(path: Path) -> list[Pixels]:
    """Return the pictures of a sheet of one line."""
    return next(iter(read_sheet(path)), [])
