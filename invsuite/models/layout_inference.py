"""What the axes of an unknown network's tensors mean, from their shapes and what else the network shows.

A tensor of one image is a vector, rows (tokens or queries) or a map. Which axis holds channels, how many rows have no
place and on which grid the others lie follows from the image's proportions, from the grids of the maps that the network
made before, and from the widths of its layers. Where two readings are left, a person must say which
(``layouts={"block3": "tokens 8x8+1"}``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from invsuite.errors import UsageError
from invsuite.models.arrangement import Turned
from invsuite.models.base import Layout

MOST_PREFIX = 16  # rows without a place that are thought of, and at most half as many as have one
#: a layout as a person writes it, and as it is stated
WORDS = re.compile(
    r"(?P<kind>map|tokens|queries|vector)(?: (?P<height>\d+)x(?P<width>\d+)(?:\+(?P<prefix>\d+))?)?"
    r"(?: channels-(?P<channels>first|last))?"
)
FORMS = "'vector', 'queries', 'tokens 14x14+1' or 'map 14x14', maybe with ' channels-first' or ' channels-last'"

Grid = tuple[int, int]


@dataclass(frozen=True)
class Evidence:
    """What a network shows beside the shape of a tensor.

    Attributes:
        size: (H, W) of its images.
        grids: of the maps that it made before, the latest last.
        widths: of its layers that work on the last axis (linear ones, layer normalisation).
        filters: of its layers that work on the axis after the batch (convolutions, batch normalisation).
    """

    size: Grid
    grids: tuple[Grid, ...] = ()
    widths: frozenset[int] = field(default_factory=frozenset)
    filters: frozenset[int] = field(default_factory=frozenset)


@dataclass(frozen=True)
class _Reading:
    """One way to read a tensor."""

    kind: str
    order: tuple[int, ...]
    shape: tuple[int, ...]
    layout: Layout
    channels: str  # "first" or "last" of the axes after the batch; "" for a vector

    @property
    def words(self) -> str:
        """Return it as a person would write it."""
        grid = self.layout.grid
        place = "" if grid is None else f" {grid[0]}x{grid[1]}"
        prefix = f"+{self.layout.prefix}" if self.layout.prefix else ""
        usual = "first" if self.kind == "map" else "last"
        return f"{self.kind}{place}{prefix}" + (
            f" channels-{self.channels}" if self.channels not in ("", usual) else ""
        )


def batch_axis(name: str, small: Sequence[int], large: Sequence[int], counts: tuple[int, int]) -> int:
    """Return the axis of a tensor along which images lie.

    Args:
        name: of the tensor, for messages.
        small: its shape for few images.
        large: its shape for more.
        counts: how many these were.

    Raises:
        UsageError: if there is none, saying what the tensor does instead.
    """
    if len(small) == len(large):
        axes = [axis for axis, pair in enumerate(zip(small, large, strict=True)) if pair[0] != pair[1]]
        if len(axes) == 1 and (small[axes[0]], large[axes[0]]) == counts:
            return axes[0]
        if not axes:
            raise UsageError(f"{name} {tuple(small)} is the same for {counts[0]} and {counts[1]} images: name another")
    raise UsageError(
        f"{name} is {tuple(small)} for {counts[0]} images and {tuple(large)} for {counts[1]}: no axis holds whole "
        "images; name the module around it"
    )


def arrangement_of_shape(name: str, shape: Sequence[int], batch: int, evidence: Evidence, words: str = "") -> Turned:
    """Return how a tensor holds its representation.

    Args:
        name: of the tensor, for messages.
        shape: of it, with its batch axis.
        batch: the batch axis.
        evidence: what else the network shows.
        words: the layout as the user states it; "" infers it.

    Raises:
        UsageError: if no reading fits, or several do, saying how to choose.
    """
    reading = _chosen(name, shape, _readings(shape, batch, evidence, words), evidence, words)
    return Turned(reading.layout, reading.order, reading.shape, reading.words)


def words_of(layout: Layout) -> str:
    """Return a layout in words, with its channels: ``tokens 8x8+1, 64 channels``."""
    if layout.kind == "queries" and layout.count == 1:
        return f"vector of {layout.channels}"
    grid = "" if layout.grid is None else f" {layout.grid[0]}x{layout.grid[1]}"
    count = f" {layout.count}" if layout.grid is None else ""
    prefix = f"+{layout.prefix}" if layout.prefix else ""
    return f"{layout.kind}{grid}{count}{prefix}, {layout.channels} channels"


def _readings(shape: Sequence[int], batch: int, evidence: Evidence, words: str) -> list[_Reading]:
    """Return every reading of a tensor that its axes allow, or that ``words`` state."""
    stated = WORDS.fullmatch(words) if words else None
    axes = [axis for axis in range(len(shape)) if axis != batch]
    lengths = [shape[axis] for axis in axes]
    order = (batch, *axes)
    long = [length for length in lengths if length > 1]
    readings: list[_Reading] = []
    if len(long) <= 1:
        values = max(long, default=1)
        readings.append(_Reading("vector", order, tuple(lengths), Layout("queries", values, None, 1), ""))
    if len(lengths) == 2:
        for channels in ("last", "first"):
            turned = order if channels == "last" else (order[0], order[2], order[1])
            rows, width = lengths if channels == "last" else lengths[::-1]
            grid, prefix = _stated_grid(stated) or _grid_of(rows, evidence)
            if grid is not None and grid[0] * grid[1] + prefix == rows:
                readings.append(
                    _Reading("tokens", turned, (rows, width), Layout("tokens", width, grid, rows, prefix), channels)
                )
                if not prefix:
                    # a map with its places in one axis, (B, channels, places) or (B, places, channels)
                    first = (order[0], order[2], order[1]) if channels == "last" else order
                    readings.append(_Reading("map", first, (width, rows), Layout("map", width, grid), channels))
            readings.append(_Reading("queries", turned, (rows, width), Layout("queries", width, None, rows), channels))
    if len(lengths) == 3:
        a, b, c = lengths
        readings.append(_Reading("map", order, (a, b, c), Layout("map", a, (b, c)), "first"))
        readings.append(_Reading("map", (batch, axes[2], *axes[:2]), (c, a, b), Layout("map", c, (a, b)), "last"))
    return readings


def _stated_grid(stated: re.Match[str] | None) -> tuple[Grid | None, int] | None:
    if stated is None or not stated["height"]:
        return None
    return (int(stated["height"]), int(stated["width"])), int(stated["prefix"] or 0)


def _chosen(name: str, shape: Sequence[int], readings: list[_Reading], evidence: Evidence, words: str) -> _Reading:
    """Return the one reading that is left.

    Raises:
        UsageError: if that is none, or several are.
    """
    if words:
        return _stated(name, readings, words)
    vectors = [reading for reading in readings if reading.kind == "vector"]
    maps = [reading for reading in readings if reading.kind == "map" and len(reading.shape) == 3]
    rows = [reading for reading in readings if reading.kind == "tokens"]
    likely = vectors or _with_places(maps, evidence) or _by_widths(rows, evidence)
    if not likely:
        likely = _by_widths([reading for reading in readings if reading.kind == "queries"], evidence)
    if len(likely) == 1:
        return likely[0]
    left = likely or maps or readings
    advice = (
        "say which: " + " or ".join(f"layouts={{..: {reading.words!r}}}" for reading in left)
        if left
        else "name a module that gives a map (B, C, h, w), rows (B, n, C) or a vector (B, C)"
    )
    raise UsageError(f"the layout of {name} {tuple(shape)} is not clear for images of {_by(evidence.size)}: {advice}")


def _stated(name: str, readings: list[_Reading], words: str) -> _Reading:
    """Return the reading that a user states.

    Raises:
        UsageError: if the words are none, or do not fit.
    """
    stated = WORDS.fullmatch(words)
    if stated is None:
        raise UsageError(f"the layout of {name} is {words!r}, expected {FORMS}")
    kind, (grid, prefix) = stated["kind"], _stated_grid(stated) or (None, 0)
    usual = "first" if kind == "map" else "last"
    fitting = [
        reading
        for reading in readings
        if reading.kind == kind
        and (grid is None or (reading.layout.grid, reading.layout.prefix) == (grid, prefix))
        and (not stated["channels"] or reading.channels in ("", stated["channels"]))
    ]
    if len(fitting) > 1:
        fitting = [reading for reading in fitting if reading.channels == usual]
    if len(fitting) != 1:
        known = ", ".join(dict.fromkeys(repr(reading.words) for reading in readings)) or "none"
        raise UsageError(f"{name} is no {words!r}; by its shape it may be: {known}")
    return fitting[0]


def _with_places(maps: list[_Reading], evidence: Evidence) -> list[_Reading]:
    """Return the readings whose grid has the image's proportions, exactly or else to a row or column."""
    for exact in (True, False):
        near = [
            reading for reading in maps if reading.layout.grid and _is_like(reading.layout.grid, evidence.size, exact)
        ]
        if near:
            return near if len(near) == 1 else _by_widths(near, evidence)
    return []


def _is_like(grid: Grid, size: Grid, exact: bool) -> bool:
    """Tell whether a grid has the proportions of an image's ``size`` (H, W)."""
    if exact:
        return grid[0] * size[1] == grid[1] * size[0]
    stride = (size[0] * size[1] / (grid[0] * grid[1])) ** 0.5
    return all(abs(side / stride - places) <= 1 for side, places in zip(size, grid, strict=True))


def _by_widths(readings: list[_Reading], evidence: Evidence) -> list[_Reading]:
    """Return those readings whose channels are as many as a layer's that works on that axis; all if none are."""
    if len(readings) < 2:
        return readings

    def known(reading: _Reading) -> bool:
        if reading.channels == "first":
            return reading.layout.channels in evidence.filters
        rows = len(reading.shape) == 2  # what convolutions gave is often laid out in rows
        return reading.layout.channels in evidence.widths | (evidence.filters if rows else set())

    return [reading for reading in readings if known(reading)] or readings


def _grid_of(rows: int, evidence: Evidence) -> tuple[Grid | None, int]:
    """Return the grid on which ``rows`` lie, and how many of them, in front, have no place; None where there is none.

    It is that of the latest map of about as many places that the network made before, or else one of the image's
    proportions, rather one whose places are whole numbers of pixels; of these the one with the fewest rows in front.
    """
    size = evidence.size

    def fitting(grids: Collection[Grid], most: int = MOST_PREFIX) -> list[tuple[int, Grid]]:
        prefixes = [(rows - grid[0] * grid[1], grid) for grid in grids]
        return [(p, g) for p, g in prefixes if 0 <= p <= min(most, g[0] * g[1] // 2) and g[0] * g[1] > 1]

    for grid in evidence.grids[::-1]:
        for prefix, one in fitting([grid]):
            return one, prefix
    proportional = [
        (height, height * size[1] // size[0]) for height in range(1, size[0] + 1) if height * size[1] % size[0] == 0
    ]
    whole = [grid for grid in proportional if size[0] % grid[0] == 0]
    for likely in (fitting(whole), fitting(proportional, most=1)):
        if likely:
            prefix, one = min(likely)
            return one, prefix
    return None, 0


def _by(size: Grid) -> str:
    return f"{size[0]}x{size[1]}"
