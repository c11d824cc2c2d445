"""Line charts as numbers that a template draws: quality against cost, one panel per stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from invsuite.report.budget import TERA
from invsuite.report.efficiency import trained_cells
from invsuite.results.record import Record, devices_of
from invsuite.results.regime import MARK, regime_of

WIDTH, HEIGHT = 300, 190  # of the plot itself, in SVG units
MEANS = "Curves are kept as means, so they have no interval; the scored values have one."


@dataclass(frozen=True)
class Line:
    """One method's curve: ``points`` (cost, quality), and their ``places`` in the plot; ``colour`` numbers methods."""

    method: str
    colour: int
    points: Sequence[tuple[float, float]]
    places: list[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One stage: its lines and the ticks (position, label) of both axes."""

    stage: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


@dataclass(frozen=True)
class Chart:
    """Panels of one model with the same axes."""

    title: str
    x_label: str
    y_label: str
    note: str
    methods: list[tuple[str, int]]
    panels: list[Panel]


Curves = dict[str, dict[str, list[tuple[float, float]]]]  # by stage and method


def charts(records: Sequence[Record]) -> list[Chart]:
    """Return the charts of a model's first seed, those over seconds for each device apart; none without curves."""
    rows = [r for r in records if r.ok]
    rows = [r for r in rows if r.cell.seed == rows[0].cell.seed]
    iterative = [record for record in rows if record.notes.get("inversion_curve")]
    devices = devices_of(iterative)
    own = [[record for record in iterative if devices_of([record]) == [device]] for device in devices]
    return [*_training(rows), *(_inversion(records, len(devices) > 1) for records in own)]


def _training(rows: Sequence[Record]) -> list[Chart]:
    """Return quality against the operations of training."""
    curves: Curves = {}
    for cell in trained_cells(rows):
        if not cell.flops:  # nobody counted them
            continue
        points = [(passes / cell.passes * cell.flops / TERA, value) for passes, value in cell.curve]
        curves.setdefault(cell.stage, {})[cell.method] = points
    if not curves:
        return []
    n = next(record.data.select for record in rows if record.data)
    note = (
        f"Mean PSNR of the selection images (n = {n}) as training goes on, against the inverse's own operations; "
        f"frozen forward passes are left out. {MEANS}"
    )
    return [_chart("Training", "own training, TFLOP", note, curves)]


def _inversion(iterative: Sequence[Record], named: bool) -> Chart:
    """Return quality against the seconds of iterative inversions on one device, which may be ``named``."""
    stopped: dict[str, list[str]] = {}
    for record in iterative:
        if regime_of([record]).converged is False:
            stopped.setdefault(record.cell.method, []).append(record.cell.stage)
    curves: Curves = {}
    for record in iterative:
        method = record.cell.method
        marked = f"{method} ({MARK} not converged at {', '.join(stopped[method])})" if method in stopped else method
        points = [(step["seconds_per_image"], step["psnr"]) for step in record.notes["inversion_curve"]]
        curves.setdefault(record.cell.stage, {})[marked] = points
    clock = next(record.cost.clock for record in iterative if record.cost)
    counts = " or ".join(str(n) for n in sorted({len(record.images) for record in iterative}))
    where = f" on {iterative[0].provenance.device}" if named else ""
    note = (
        f"Mean PSNR of the scored images (n = {counts}) as an iterative inversion goes on, against "
        f"{clock} seconds per image{where}. {MEANS}"
    )
    return _chart(f"Inversion{where}", f"{clock} s per image", note, curves)


def _chart(title: str, x_label: str, note: str, curves: Curves) -> Chart:
    """Return a chart of PSNR with the same axes for every stage."""
    points = [p for lines in curves.values() for line in lines.values() for p in line]
    x_all, y_all = _axis([0.0, *(x for x, _ in points)], 1e-6), _axis([y for _, y in points], 0.01)
    methods = list(dict.fromkeys(method for lines in curves.values() for method in lines))

    def right(x: float) -> float:
        return round(_share(x, x_all) * WIDTH, 1)

    def down(y: float) -> float:
        return round((1 - _share(y, y_all)) * HEIGHT, 1)

    panels = []
    for stage, lines in curves.items():
        drawn = [
            Line(method, methods.index(method), line, [(right(x), down(y)) for x, y in line])
            for method, line in lines.items()
        ]
        panels.append(Panel(stage, drawn, [(right(x), f"{x:g}") for x in x_all], [(down(y), f"{y:g}") for y in y_all]))
    return Chart(title, x_label, "PSNR dB", note, list(zip(methods, range(len(methods)), strict=True)), panels)


def _axis(values: Sequence[float], least: float) -> list[float]:
    """Return round ticks, of which the first and last enclose all values; they are ``least`` apart or more."""
    low, high = min(values), max(values)
    if high - low < least:
        low, high = low - least / 2, high + least / 2
    ticks = MaxNLocator(4).tick_values(low, high)
    return [round(float(tick), 10) for tick in ticks]


def _share(value: float, ticks: Sequence[float]) -> float:
    return (value - ticks[0]) / (ticks[-1] - ticks[0])
