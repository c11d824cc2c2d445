"""Quality against the cost of fitting: rows of one method at several budgets as a curve, and what the curves say.

A point of a curve is one budget of a method: its quality at every stage, and what fitting all stages of the model took
together, because stages share modules, chains and frozen passes. Between two budgets quality is taken as linear in the
logarithm of the cost. Intervals are bootstraps over the images that the two curves of a comparison share.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import log
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from invsuite.errors import UsageError
from invsuite.report.devices import Devices, device_of
from invsuite.report.figures import CurvePanel
from invsuite.report.page import Page
from invsuite.report.results import Results
from invsuite.report.texts import budgets_text, difference_text, heading, listed, markdown_table, value_text
from invsuite.results.record import Measurement, Record
from invsuite.results.regime import AT, joint_text, short, table_of
from invsuite.results.rows import Row, advantage, measures_of, rows_of
from invsuite.results.statistics import Difference, percentile_interval, resampled_means, summarise

END_TO_END, MODULAR, FLOOR = "layerwise", "modular", "mean"
MEASURES = ("psnr", "ssim")
TERA = 1e12
QUADRUPLING = 4

Array = NDArray[np.float64]
#: What a table says, stage by stage, of a curve against the modules by a measure.
Line = Callable[["Curves", "Curve", "Curve", Measurement], list[str]]


@dataclass(frozen=True)
class Point:
    """One budget of a method: what fitting all stages of a model took, and the rows of its stages.

    Attributes:
        passes: budget of each inverse, in images seen in training, with repeats; one that stops early sees fewer.
        rows: by stage.
        flops: own operations of all stages together, forward, backward and start.
        frozen_flops: of the model's forward passes that the stages share.
        seconds: own and shared, of all stages together.
        device: on which they were measured, with its clock; "" where stages or seeds ran on several.
    """

    passes: int
    rows: dict[str, Row]
    flops: float
    frozen_flops: float
    seconds: float
    device: str


@dataclass(frozen=True)
class Curve:
    """A method at several budgets, the smallest first."""

    method: str
    points: tuple[Point, ...]

    @property
    def last(self) -> Point:
        """Return the largest budget."""
        return self.points[-1]

    def costs(self) -> Array:
        """Return the logarithm of the operations of every budget."""
        return np.log([point.flops for point in self.points])

    def rows(self, stage: str) -> list[Row]:
        """Return the rows of a stage, one per budget."""
        return [point.rows[stage] for point in self.points]


@dataclass(frozen=True)
class Curves:
    """The curves of a model, and the rows that have one budget, or need none.

    Attributes:
        model: row name.
        stages: in chain order.
        curves: of the methods with several budgets.
        levels: rows of one budget by method and stage; methods that have converged, are of closed form, or the mean
            image.
        left_out: what is neither, in words.
    """

    model: str
    stages: list[str]
    curves: list[Curve]
    levels: dict[str, dict[str, Row]]
    left_out: list[str]

    @property
    def devices(self) -> Devices:
        """Return the devices on which the seconds of the points were measured."""
        return Devices(point.device for curve in self.curves for point in curve.points)

    def of(self, method: str) -> Curve | None:
        """Return the curve of a method, if it has one."""
        return next((curve for curve in self.curves if curve.method == method), None)

    def measures(self) -> list[Measurement]:
        """Return those of `MEASURES` that every row of the curves has."""
        rows = [row for curve in self.curves for stage in self.stages for row in curve.rows(stage)]
        known = measures_of(rows)
        return [known[name] for name in MEASURES if name in known and all(row.having(name) for row in rows)]


def curves_of(model: str, records: Iterable[Record]) -> Curves:
    """Return the curves of one model's records."""
    rows = [row for row in rows_of(records) if row.done and not row.uses_image]
    order = sorted(rows, key=lambda row: row.records[0].cell.position)
    tables: dict[str, dict[str, dict[str, Row]]] = {}
    for row in rows:
        table, passes = table_of(row.method)
        tables.setdefault(table, {}).setdefault(passes, {})[row.stage] = row
    several = {table: budgets for table, budgets in tables.items() if len(budgets) > 1}
    stages = list(dict.fromkeys(row.stage for row in order if table_of(row.method)[0] in several))
    curves: list[Curve] = []
    levels: dict[str, dict[str, Row]] = {}
    left_out: list[str] = []
    for table, budgets in tables.items():
        for passes, own in budgets.items():
            stopped = [f"{stage}: {row.regime.text}" for stage, row in own.items() if row.unconverged]
            if stopped:
                left_out.append(
                    f"`{table}{f' at {short(float(passes))} passes' if passes else ''}` ({'; '.join(stopped)})"
                )
        whole = [passes for passes, own in budgets.items() if not any(row.unconverged for row in own.values())]
        points = (
            [] if table not in several else [p for passes in whole if (p := _point(passes, budgets[passes], stages))]
        )
        if table in several and len(points) > 1:
            curves.append(Curve(table, tuple(sorted(points, key=lambda point: point.passes))))
        elif table in several:
            left_out.append(f"`{table}` (fewer than two budgets have numbers at {', '.join(stages)})")
        elif table == FLOOR or family_of(budgets) != "floor":
            [own] = budgets.values()
            kept = {stage: row for stage, row in own.items() if not row.unconverged}
            levels |= {table: kept} if kept else {}
    return Curves(model, stages, curves, levels, left_out)


def family_of(budgets: Mapping[str, Mapping[str, Row]]) -> str:
    """Return the family of a method from its rows, by budget and stage."""
    return next(row.regime.family for rows in budgets.values() for row in rows.values())


def _point(budget: str, rows: dict[str, Row], stages: Sequence[str]) -> Point | None:
    """Return a budget's point; None unless every stage was fitted and its operations counted."""
    if any(stage not in rows for stage in stages):
        return None
    flops, frozen, seconds, shared = [], [], [], []
    for stage in stages:
        costs = [record.cost for record in rows[stage].done if record.cost is not None]
        flops.append(_own_flops(rows[stage]))
        frozen.append(float(np.mean([cost.fit_frozen_flops or 0.0 for cost in costs])))
        seconds.append(float(np.mean([cost.fit_seconds for cost in costs])))
        shared.append(float(np.mean([cost.fit_shared_seconds for cost in costs])))
    if not all(flops):
        return None
    own = {stage: rows[stage] for stage in stages}
    return Point(int(budget), own, sum(flops), max(frozen), sum(seconds) + max(shared), device_of(own.values()))


#: content digests of a record's scored images by their names, {} where they are not known
Listing = Callable[[Record], Mapping[str, str]]


def with_others(
    records: Sequence[Record], others: Iterable[Record], listing: Listing = lambda record: {}
) -> list[Record]:
    """Return the records of a model and, of other suites, what was measured of the same weights and images.

    A record of another suite that differs from one of these by its budget alone is one more point of that curve;
    methods that these records lack come as they are. Of a suite that is scored on more images, which begin with those
    of these records, the first ones are kept.

    Args:
        records: of the model.
        others: of other suites.
        listing: tells the contents of scored images.
    """
    points = {_curve_of(record): table_of(record.cell.method)[0] for record in records if record.ok}
    inputs = {_inputs_of(record) for record in records if record.ok}
    rows = {(record.cell.method, record.cell.stage) for record in records}
    tables = {table_of(record.cell.method)[0] for record in records}
    joined = list(records)
    first = next((record for record in records if record.ok), None)
    for record in others:
        if record.ok and first is not None and _inputs_of(record) not in inputs:
            record = shortened(record, first, listing) or record
        if not record.ok or _inputs_of(record) not in inputs:
            continue
        budget = record.identity.get("budget", {}).get("image_passes")
        table, name = points.get(_curve_of(record)), table_of(record.cell.method)[0]
        if table is not None and budget is not None:
            name = f"{table}{AT}{budget}"
        elif table is not None or name in tables:
            continue
        if (name, record.cell.stage) not in rows:
            joined.append(replace(record, cell=replace(record.cell, method=name)))
    return joined


def shortened(record: Record, like: Record, listing: Listing) -> Record | None:
    """Return what ``record`` has of the scored images of another suite's record, or None if they are others.

    Args:
        record: scored on more images, or a method of that suite on its first ones.
        like: a record of the same model, whose measures are kept.
        listing: tells the contents of scored images.
    """
    scored = {"score": like.identity.get("data", {}).get("score")}
    alike = replace(record, identity=record.identity | {"data": record.identity.get("data", {}) | scored})
    if _inputs_of(alike) != _inputs_of(like):
        return None
    mine, theirs = listing(record), listing(like)
    count = min(len(record.images), len(theirs))
    begun = list(theirs.items())[:count]
    if not begun or begun != [(name, mine.get(name)) for name in record.images[:count]]:
        return None
    measurements = {}
    for name in like.measurements:
        measurement = record.measurements.get(name)
        if measurement is not None and measurement.ok and not measurement.pooled:
            values = measurement.values[:count]
            found = summarise(values)
            measurements[name] = replace(
                measurement, values=values, n=found.n, mean=found.mean, low=found.low, high=found.high
            )
    data = None if record.data is None else replace(record.data, score=count)
    return replace(alike, images=record.images[:count], measurements=measurements, data=data)


def listings_of(suites: Iterable[Results]) -> Listing:
    """Return what tells the contents of the scored images of records of ``suites``, from the files beside them."""
    stores = [store for results in suites for store in results.stores.values() if store is not None]

    @cache
    def read(name: str) -> Mapping[str, str]:
        return next((found for store in stores if (found := store.read_listing(name))), {})

    def listing(record: Record) -> Mapping[str, str]:
        name = record.data.parts.get("score", {}).get("listing") if record.data is not None else None
        return read(name) if name else {}

    return listing


def _inputs_of(record: Record) -> str:
    """Return what a record was computed from: weights, image size and the digests of the images."""
    return json.dumps([record.identity.get(key) for key in ("weights", "image_size", "data")], sort_keys=True)


def _curve_of(record: Record) -> str:
    """Return all that identifies a record but its budget."""
    budget = {key: value for key, value in record.identity.get("budget", {}).items() if key != "image_passes"}
    return json.dumps(record.identity | {"budget": budget}, sort_keys=True)


def write_budget(suites: Iterable[Results], folder: Path, beside: Iterable[Results] = ()) -> list[Path]:
    """Write ``budget.md`` and its figures to a folder, and return the files.

    Args:
        suites: whose methods have rows at several budgets.
        folder: for the files.
        beside: suites whose rows on the same weights and images stand on the curves and beside them (`with_others`).

    Raises:
        UsageError: for a suite in which no method has rows at several budgets.
        DiskError: if the disk refuses.
    """
    page = Page(folder / "budget.md", TITLE, READING)
    every: list[Curves] = []
    quoted: list[str] = []
    suites, beside = list(suites), list(beside)
    others, listing = [record for results in beside for record in results.records], listings_of([*suites, *beside])
    for results in suites:
        records = {model: with_others(own, others, listing) for model, own in results.models.items()}
        models = [curves for model, own in records.items() if (curves := curves_of(model, own)).curves]
        if not models:
            raise UsageError(
                f"no method of suite '{results.name}' has rows at several budgets; a method's table gives them by "
                "image_passes = [1600, 6400, 25600]"
            )
        page.suite(results)
        every += models
        for curves in models:
            page.model(curves.model, records[curves.model])
            if curves.left_out:
                page.lines += [f"Left out: {'; '.join(curves.left_out)}.", ""]
            several = curves.devices.several
            for seconds in (False,) if several else (False, True):
                name = f"{results.name}-{curves.model}-curves{'-seconds' * seconds}.png"
                page.curves(name, *_figure(curves, seconds))
            if several:
                page.lines += ["No curves over seconds are drawn.", *curves.devices.note("point"), ""]
            lines, answer = answers(curves)
            page.lines += lines
            quoted.append(answer)
    return page.write(_opening(every, quoted))


def _opening(models: Sequence[Curves], quoted: Sequence[str]) -> list[str]:
    """Return three sentences: what the page shows, at which budgets, and what it answers for each model."""
    curves = [(own, curve) for own in models for curve in own.curves]
    rows = [point.rows[stage] for own, curve in curves for point in curve.points for stage in own.stages]
    passes = listed(short(count) for count in sorted({point.passes for _, curve in curves for point in curve.points}))
    levels = [row for own in models for rows_of_method in own.levels.values() for row in rows_of_method.values()]
    beside = f", beside {budgets_text(levels)}" if levels else ""
    counts = listed(dict.fromkeys(str(len(row.images)) for row in rows))
    return [
        f"This page shows what reconstruction quality costs to fit, on {listed(f'`{own.model}`' for own in models)} "
        f"with {counts} scored images.",
        f"Methods are {listed(dict.fromkeys(f'`{curve.method}`' for _, curve in curves))} at {passes} image passes"
        f"{beside}.",
        " ".join(quoted),
    ]


TITLE = "Budget: quality against the cost of fitting"
READING = """\
Rendered from records. A point is one method at one budget of image passes: the images that the training of each of its
inverses may see, with repeats (one that stops early sees fewer: "192 of 256 passes"). Its cost is that of all stages
of the model together, because stages share modules and chains; *own* operations (TFLOP, a multiply-add is two) are
forward, backward and start of the inverses, *frozen* ones the model's forward passes. Methods without a budget stand
beside the curves in their own regime: in closed form, or converged by their stopping rule; what was stopped before it
converged is left out. In the figures, bars are intervals after each image's own level has been taken out, which all
curves of a panel share, so that they tell methods apart, and a line of fewer images stands where its paired difference
from a row of all images puts it, from the one beside which it varies least. Between two budgets quality is taken as
linear in the logarithm of the cost. Values are means over images; intervals are 95 % bootstraps over images, for
differences and ratios over the images that both methods have. They hold one by one, not all at once. What holds at
these budgets says nothing of larger ones: see which methods still rise.
"""


def answers(curves: Curves) -> tuple[list[str], str]:
    """Return the part of the page that answers its questions for one model, and what the opening quotes of it."""
    measures = curves.measures()
    equal = equal_quality(curves, measures)
    lines = equal.lines
    if equal.sentences:
        lines += _table("Where do the curves cross?", _CROSSING, curves, measures, _crossing_line)
        lines += _table(f"What is the difference from `{MODULAR}` worth?", _WORTH, curves, measures, _worth_line)
    rising = _rising(curves, measures)
    lines += [_RISING, "", markdown_table(rising, ["By", "Method", "Passes", *curves.stages]), ""]
    lines += _over_levels(curves, measures)
    for measure in measures:
        lines += _points(curves, measure)
    if not measures:
        return lines, f"`{curves.model}` has no measure that all rows share."
    if equal.sentences:
        own = equal.sentences[measures[0].name]
        return lines, " ".join(f"On `{curves.model}`, {one[0].lower()}{one[1:]}" for one in own)
    label, method, spent, *gains = rising[0]
    places = listed(f"{gain} at {stage}" for gain, stage in zip(gains, curves.stages, strict=True))
    unit = f" in {measures[0].unit}" if measures[0].unit else ""
    return lines, (
        f"On `{curves.model}`, by {label}{unit}, four times the image passes bring `{method}` {places} (from its "
        f"last two budgets, {spent} passes)."
    )


_CROSSING = (
    f"At equal operations, `{MODULAR}` against each other method, from the smallest cost that both curves have to the "
    "largest; with the share of resamples of the images in which that is so."
)
_WORTH = (
    f"At the largest budget of each ({{budgets}}): by how much the method is better than `{MODULAR}`, paired over "
    "images; bold where that is told from nothing."
)


@dataclass(frozen=True)
class EqualQuality:
    """What each method takes to become as good as the modules at their largest budget.

    Attributes:
        lines: the part of the page; none where modules have no curve, or no other to be held against.
        sentences: by measure, what it comes to against each other method.
    """

    lines: list[str]
    sentences: dict[str, list[str]]


def equal_quality(curves: Curves, measures: Sequence[Measurement]) -> EqualQuality:
    """Return what each method takes to become as good as the modules at their largest budget."""
    modular = curves.of(MODULAR)
    if modular is None or len(curves.curves) < 2:
        return EqualQuality([], {})
    ratios = {
        (measure.name, curve.method): [cost_ratio(curve, modular, stage, measure) for stage in curves.stages]
        for measure in measures
        for curve in curves.curves
    }
    text = (
        f"Own operations of all stages that each method needs, over those of `{MODULAR}`, to be as good at a stage as "
        f"`{MODULAR}` with {short(modular.last.passes)} passes ({modular.last.flops / TERA:.3g} TFLOP). Above 1 "
        f"`{MODULAR}` is cheaper. ∞: at no budget tried; ≤: at its smallest already. Of `{MODULAR}` itself: where it "
        "first was as good."
    )

    def line(curves: Curves, curve: Curve, modular: Curve, measure: Measurement) -> list[str]:
        return [ratio.text() for ratio in ratios[measure.name, curve.method]]

    lines = _table(f"Is `{MODULAR}` cheaper at equal quality?", text, curves, measures, line, itself=True)
    others = [curve for curve in curves.curves if curve is not modular]
    sentences = {
        measure.name: [
            _sentence(curves, curve, modular, measure, ratios[measure.name, curve.method]) for curve in others
        ]
        for measure in measures
    }
    lines += [f"- {sentence}" for own in sentences.values() for sentence in own]
    return EqualQuality([*lines, *_alone(curves, modular), ""], sentences)


def _alone(curves: Curves, modular: Curve) -> list[str]:
    """Return a line on what the deepest stage alone takes: a chain needs all of its modules, a network only itself."""
    other, stage = curves.of(END_TO_END), curves.stages[-1]
    if other is None or len(curves.stages) < 2:
        return []
    own = _own_flops(other.last.rows[stage])
    return [
        f"- For `{stage}` alone, `{MODULAR}` takes all of its modules ({modular.last.flops / TERA:.3g} TFLOP for "
        f"{short(modular.last.passes)} passes of each), `{END_TO_END}` one network ({own / TERA:.3g} TFLOP for "
        f"{short(other.last.passes)} passes): {own / modular.last.flops:.2f} times as much."
    ]


def _own_flops(row: Row) -> float:
    """Return the operations of a row's own training, on average over its seeds."""
    return float(np.mean([record.cost.fit_flops or 0.0 for record in row.done if record.cost is not None]))


def _sentence(curves: Curves, curve: Curve, modular: Curve, measure: Measurement, ratios: Sequence[Needed]) -> str:
    """Return in words at which stages ``modular`` is cheaper than ``curve`` at its own quality."""
    verdicts: dict[str, list[str]] = {}
    counts = dict.fromkeys(ratio.n for ratio in ratios)
    for stage, ratio in zip(curves.stages, ratios, strict=True):
        verdicts.setdefault(ratio.verdict, []).append(stage)
    named = "; ".join(f"{verdict} at {', '.join(stages)}" for verdict, stages in verdicts.items())
    return (
        f"By {measure.label}, as good as `{MODULAR}` with {short(modular.last.passes)} passes, against "
        f"`{curve.method}` up to {short(curve.last.passes)} passes (n={'/'.join(map(str, counts))}): "
        f"`{MODULAR}` is {named}."
    )


@dataclass(frozen=True)
class Needed:
    """What a curve takes to reach a quality, in some unit.

    Attributes:
        value: infinite where the quality is reached at no budget, 0 where the smallest budget has it already.
        low: end of the 95 % interval.
        high: other end.
        least: what the smallest budget takes.
        n: images.
    """

    value: float
    low: float
    high: float
    least: float
    n: int

    @property
    def verdict(self) -> str:
        """Return whether a reference whose cost is the unit is cheaper, in words."""
        if self.low > 1:
            return "cheaper"
        if self.high < 1 and self.least < 1:
            return "dearer"
        return "not told apart in cost"

    def text(self, show: Callable[[float], str] = "{:.2f}".format) -> str:
        """Return the value with its interval and n, numbers as ``show`` has them."""

        def end(value: float) -> str:
            return "∞" if value == np.inf else f"≤{show(self.least)}" if value == 0 else show(value)

        return _with_n(f"{end(self.value)} [{end(self.low)}, {end(self.high)}]", self.n)


def cost_ratio(curve: Curve, reference: Curve, stage: str, measure: Measurement) -> Needed:
    """Return the operations of ``curve``, over those of ``reference`` at its largest budget, to be as good there."""
    return _needed(curve, curve.costs() - log(reference.last.flops), reference.last.rows[stage], measure)


def passes_to(curve: Curve, level: Row, measure: Measurement) -> Needed:
    """Return the image passes after which ``curve`` is as good as a row without a budget."""
    return _needed(curve, np.log([point.passes for point in curve.points]), level, measure)


def _needed(curve: Curve, costs: Array, target: Row, measure: Measurement) -> Needed:
    """Return what ``curve``, whose points have these logarithms of costs, takes to be as good as a row of a stage."""
    order = np.argsort(costs, kind="stable")  # a larger budget that stopped earlier costs less
    rows = curve.rows(target.stage)
    means, draws, n = _qualities([*(rows[i] for i in order), target], measure.name)
    costs = costs[order]
    low, high = percentile_interval(np.exp(cost_to_reach(costs, draws[:, :-1], draws[:, -1])), n)
    [value] = np.exp(cost_to_reach(costs, means[None, :-1], means[-1:]))
    return Needed(float(value), low, high, float(np.exp(costs[0])), n)


def cost_to_reach(costs: Array, quality: Array, target: Array) -> Array:
    """Return the cost at which each of several curves first reaches its target.

    Args:
        costs: of the points (points,), ascending.
        quality: of every curve at them (curves, points), higher is better; linear between two.
        target: (curves,).

    Returns:
        (curves,); infinite where the target is not reached, minus infinite where the first point has it.

    Examples:
        >>> cost_to_reach(np.array([0.0, 2.0]), np.array([[1.0, 3.0]] * 3), np.array([2.0, 4.0, 1.0]))
        array([  1.,  inf, -inf])
    """
    reached = np.full(len(target), np.inf)
    for i in reversed(range(len(costs) - 1)):
        left, right = quality[:, i], quality[:, i + 1]
        inside = (left < target) & (right >= target)
        share = (target - left) / np.where(inside, right - left, 1.0)
        reached = np.where(inside, costs[i] + share * (costs[i + 1] - costs[i]), reached)
    return np.where(quality[:, 0] >= target, -np.inf, reached)


def _qualities(rows: Sequence[Row], measure: str) -> tuple[Array, Array, int]:
    """Return means (rows,) and draws (resamples, rows), the higher the better, over the images that all rows have."""
    images = list(dict.fromkeys(key for row in rows for key in row.images))
    means, draws, n = resampled_means([row.losses(measure, images) for row in rows])
    return -means, -draws, n


def _crossing_line(curves: Curves, curve: Curve, modular: Curve, measure: Measurement) -> list[str]:
    return [crossing(curve, modular, stage, measure) for stage in curves.stages]


def crossing(curve: Curve, reference: Curve, stage: str, measure: Measurement) -> str:
    """Return where two curves cross at a stage, or which is above, and how often in resamples of the images."""
    orders = [np.argsort(each.costs(), kind="stable") for each in (curve, reference)]
    ours, theirs = (each.costs()[order] for each, order in zip((curve, reference), orders, strict=True))
    rows = [each.rows(stage)[i] for each, order in zip((curve, reference), orders, strict=True) for i in order]
    low, high = max(ours[0], theirs[0]), min(ours[-1], theirs[-1])
    if low >= high:
        return "no cost in common"
    knots = np.unique([low, high, *(cost for cost in (*ours, *theirs) if low < cost < high)])
    means, draws, _ = _qualities(rows, measure.name)
    weights = np.vstack([_interpolation(ours, knots), -_interpolation(theirs, knots)])
    gaps, resampled = means @ weights, draws @ weights
    signs = np.sign(gaps)
    changes = np.flatnonzero(signs[:-1] * signs[1:] < 0)
    alike = float((np.sign(resampled) == signs).all(axis=1).mean())
    if not len(changes):
        above = curve.method if gaps.sum() > 0 else reference.method
        return f"`{above}` above from {_tera(low)} to {_tera(high)} TFLOP ({100 * alike:.0f} %)"
    crosses = [knots[i] + gaps[i] / (gaps[i] - gaps[i + 1]) * (knots[i + 1] - knots[i]) for i in changes]
    after = curve.method if gaps[-1] > 0 else reference.method
    return f"at {', '.join(map(_tera, crosses))} TFLOP, then `{after}` above ({100 * alike:.0f} %)"


def _interpolation(costs: Array, knots: Array) -> Array:
    """Return weights (points, knots) that make the values at ``knots`` of those at ``costs``."""
    return np.stack([np.interp(knots, costs, unit) for unit in np.eye(len(costs))])


def _worth_line(curves: Curves, curve: Curve, modular: Curve, measure: Measurement) -> list[str]:
    return [gain_text(curve.last.rows[stage], modular.last.rows[stage], measure) for stage in curves.stages]


def gain_text(better: Row, worse: Row, measure: Measurement, factor: float = 1.0) -> str:
    """Return by how much one row is better than another, times ``factor``, with interval and n."""
    return gained_text(advantage(better, worse, measure.name), measure, factor)


def gained_text(gain: Difference, measure: Measurement, factor: float = 1.0) -> str:
    """Return a difference by a measure, times ``factor``, with interval and n; bold where it is told from 0."""
    if gain.mean is None:
        return "no image in common"
    low, high = (None if end is None else factor * end for end in (gain.low, gain.high))
    return difference_text(factor * gain.mean, low, high, gain.n, measure.digits, gain.distinguishable)


def _table(
    title: str, text: str, curves: Curves, measures: Sequence[Measurement], line: Line, itself: bool = False
) -> list[str]:
    """Return lines of a table of every other curve against the modules: measures and methods down, stages across.

    Args:
        title: the question.
        text: how to read the answer.
        curves: of a model.
        measures: that are compared.
        line: what the table says of a curve.
        itself: whether the modules are held against themselves too.
    """
    modular = curves.of(MODULAR)
    assert modular is not None, "there is something to compare with"
    body = []
    for measure in measures:
        for curve in curves.curves:
            if itself or curve is not modular:
                body.append([measure.label, curve.method, *line(curves, curve, modular, measure)])
    budgets = ", ".join(f"{curve.method} {short(curve.last.passes)} passes" for curve in curves.curves)
    return [
        f"**{title}** {text.format(budgets=budgets)}",
        "",
        markdown_table(body, ["By", "Method", *curves.stages]),
        "",
    ]


_RISING = (
    "**Which still rise?** What four times the image passes bring, from the last two budgets, paired over images; bold "
    "where that is told from nothing."
)


def _rising(curves: Curves, measures: Sequence[Measurement]) -> list[list[str]]:
    """Return by measure and method what the last quadrupling of the budget brought at every stage."""
    body = []
    for measure in measures:
        for curve in curves.curves:
            before, last = curve.points[-2], curve.last
            factor = log(QUADRUPLING) / log(last.passes / before.passes)
            gains = [gain_text(last.rows[stage], before.rows[stage], measure, factor) for stage in curves.stages]
            spent = f"{short(before.passes)} to {short(last.passes)}"
            body.append([measure.label, curve.method, spent, *gains])
    return body


def _over_levels(curves: Curves, measures: Sequence[Measurement]) -> list[str]:
    """Return lines on the budget from which on each curve is as good as what has no budget."""
    body = []
    for measure in measures:
        for method, rows in curves.levels.items():
            for curve in curves.curves if method != FLOOR else ():
                cells = []
                for stage in curves.stages:
                    there = stage in rows and bool(rows[stage].having(measure.name))
                    cells.append(passes_to(curve, rows[stage], measure).text(short) if there else "-")
                body.append([measure.label, method, curve.method, *cells])
    if not body:
        return []
    text = (
        "**From which budget on is training as good as what has none?** Image passes of each curve; ∞: at no budget "
        "tried; ≤: at its smallest already."
    )
    return [text, "", markdown_table(body, ["By", "As good as", "Method", *curves.stages]), ""]


def _points(curves: Curves, measure: Measurement) -> list[str]:
    """Return lines with every point of the curves, and the rows beside them."""
    body = []
    for curve in curves.curves:
        for point in curve.points:
            values = [value_text(point.rows[stage], measure) for stage in curves.stages]
            seconds = curves.devices.marked(f"{point.seconds:.0f}", point.device)
            spent = [f"{point.flops / TERA:.3f}", f"{point.frozen_flops / TERA:.3f}", seconds]
            regime = joint_text([point.rows[stage].regime for stage in curves.stages])
            body.append([curve.method, regime, *spent, *values])
    for method, rows in curves.levels.items():
        regimes = [row.regime for stage, row in rows.items() if stage in curves.stages]
        values = [value_text(rows[stage], measure) if stage in rows else "-" for stage in curves.stages]
        body.append([method, joint_text(regimes) if regimes else "-", "", "", "", *values])
    costs = ["Own TFLOP ↓", "Frozen TFLOP ↓", f"Fit s ({curves.devices.clocks}) ↓"]
    head = ["Method", "Budget", *costs, *curves.stages]
    return [f"**{heading(measure)}**", "", markdown_table(body, head), ""]


def _figure(curves: Curves, seconds: bool) -> tuple[str, str, list[list[CurvePanel]]]:
    """Return title, label of the costs, and panels of a model: measures down, stages across.

    Args:
        curves: of the model.
        seconds: whether costs are seconds, not operations.
    """
    labels = {}
    for method, rows in curves.levels.items():
        regimes = {row.regime.text for stage, row in rows.items() if stage in curves.stages}
        shown = next(iter(regimes)) if len(regimes) == 1 else "converged" if regimes else ""
        labels[method] = method if shown in ("", "-") else f"{method} ({shown})"
    panels = []
    for measure in curves.measures():
        line = []
        for stage in curves.stages:
            ends = _spread(curves, stage, measure)
            lines = {}
            for curve in curves.curves:
                spent = [point.seconds if seconds else point.flops / TERA for point in curve.points]
                means = [_mean(row, measure) for row in curve.rows(stage)]
                own = zip(spent, means, ends[curve.method], strict=True)
                lines[curve.method] = [(cost, mean, mean + low, mean + high) for cost, mean, (low, high) in own]
            levels = {
                labels[method]: _level(curves, rows[stage], measure)
                for method, rows in curves.levels.items()
                if stage in rows and rows[stage].having(measure.name)
            }
            line.append(CurvePanel(stage, f"{measure.label} {measure.unit}".rstrip(), lines, levels))
        panels.append(line)
    budgets = sorted({point.passes for curve in curves.curves for point in curve.points})
    spent_as = "fit seconds" if seconds else "own training, TFLOP"
    title = f"{curves.model}: quality against the cost of fitting ({', '.join(map(short, budgets))} passes)"
    return title, f"{spent_as}, all stages", panels


def _spread(curves: Curves, stage: str, measure: Measurement) -> dict[str, list[tuple[float, float]]]:
    """Return the ends of every point's interval by method (`paired_ends`)."""
    ends = iter(paired_ends([row for curve in curves.curves for row in curve.rows(stage)], measure))
    return {curve.method: [next(ends) for _ in curve.points] for curve in curves.curves}


def paired_ends(rows: Sequence[Row], measure: Measurement) -> list[tuple[float, float]]:
    """Return the ends of every row's interval, from its mean, with the level of each image, which all share, taken out.

    So they tell rows of one stage apart, which intervals of the means do not: what makes an image hard for one makes it
    hard for the others.
    """
    means, draws, n = _qualities(rows, measure.name)
    own = draws - draws.mean(axis=1, keepdims=True) - (means - means.mean())
    return [percentile_interval(column, n) if n >= 2 else (0.0, 0.0) for column in own.T]


def _level(curves: Curves, row: Row, measure: Measurement) -> float:
    """Return where the line of a row stands: at its mean, or where its paired difference from another row puts it.

    Of the rows of all images the one beside which it is told most exactly is taken: one that fails on the same images.
    """
    ends = [curve.last.rows[row.stage] for curve in curves.curves]
    if row.images == ends[0].images:
        return _mean(row, measure)
    levels = [rows[row.stage] for rows in curves.levels.values() if row.stage in rows]
    placed = []
    for other in ends + [level for level in levels if level.images == ends[0].images and level.having(measure.name)]:
        (mean, beside), draws, _ = _qualities([row, other], measure.name)
        placed.append((float(np.std(draws[:, 0] - draws[:, 1])), _mean(other, measure) + float(mean - beside)))
    return min(placed)[1]


def _mean(row: Row, measure: Measurement) -> float:
    own = row.measurement(measure.name)
    return float("nan") if own is None or own.mean is None else own.mean


def _with_n(text: str, n: int) -> str:
    return f"{text} (n={n})"


def _tera(cost: float) -> str:
    """Return operations as TFLOP, from their logarithm."""
    return f"{np.exp(cost) / TERA:.3g}"
