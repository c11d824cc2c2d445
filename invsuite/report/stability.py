"""Stability: of images that hardly differ, do the reconstructions differ hardly?

Measures whose records name a disturbance give, per image, the change of the reconstruction over that of the image. A
page holds them against 1, what the image itself has, and against what two different images have; rows are compared
with each other, method by method and stage by stage, on the same images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from invsuite.errors import UsageError
from invsuite.report.budget import END_TO_END
from invsuite.report.figures import CurvePanel
from invsuite.report.page import Page
from invsuite.report.paper_claims import Conclusion, Correction, Number, Rule, conclude, holm, p_value
from invsuite.report.results import Results
from invsuite.report.texts import budgets_text, difference_text, heading, listed, markdown_table, value_text
from invsuite.results.record import Measurement, Record
from invsuite.results.rows import Row, rows_of
from invsuite.results.statistics import differences

MORE_THAN_IMAGE, MORE = Rule("above", 1.0), Rule("above", 0.0)
AMPLIFIED, DAMPED = "amplified", "damped"
WORDS: dict[Conclusion | None, str] = {
    "holds": AMPLIFIED,
    "fails": DAMPED,
    "cannot be told": "cannot be told",
    None: "-",
}
COMPARED: dict[Conclusion | None, str] = {"holds": "more", "fails": "less"}
TRAINED, READOUT = "trained networks", "linear readouts"
IMAGE, OTHERS = "the image itself", "two different images"

TITLE = "Stability: are similar images reconstructed alike?"
READING = """\
Rendered from records. The image is changed so little that nobody sees it: by noise of so many of 255 levels, a shift by
so many pixels, or JPEG of that quality. *Change x* is by how much its reconstruction
changes, over how much it did itself, as Euclidean lengths: 1 as the image itself, below it the change is **damped**,
above it **amplified**. Two different images' reconstructions differ by the *floor*, measured on the same images: an
inverse there takes similar images for any two; *of the floor* is the change over it. *Most* is the largest change of
any image. *Followed* is the part of the change made that is in the change
returned: what is beyond it is change of another kind. To smooth is to damp, so read this beside PSNR; methods that give
the same answer for every image (the mean image) are left out. Values are means over images with 95 % bootstrap
intervals, which hold one by one; verdicts, and what is bold, are corrected for the {checks} checks of this page by
Holm's method (family-wise error 5 %).
"""


@dataclass(frozen=True)
class Change:
    """By how much the reconstructions of a row change under one disturbance, over how much the images do."""

    row: Row
    measure: Measurement

    @property
    def number(self) -> Number:
        """Return the mean over images."""
        own = self.measure
        assert own.mean is not None, "only measures with values are read"
        return Number(own.mean, own.low, own.high, own.n, len(self.row.having(own.name)), self.row.stage, own.floor)

    @property
    def values(self) -> list[float]:
        """Return the values of images and seeds."""
        return [float(v) for v in self.row.values(self.measure.name, self.row.images).flat if v == v]

    @property
    def disturbance(self) -> str:
        """Return what was done to the images."""
        return str(self.measure.facts["disturbance"])

    @property
    def of_floor(self) -> float | None:
        """Return the mean over that of two different images; None where the record has no such."""
        return self.number.value / self.measure.floor if self.measure.floor else None

    @property
    def followed(self) -> float | None:
        """Return the part of the change made that is in the change returned, over seeds."""
        facts = [record.measurements[self.measure.name].facts for record in self.row.having(self.measure.name)]
        known = [float(own["followed"]) for own in facts if "followed" in own]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Comparison:
    """How much more the reconstructions of one row change than those of another, on the images that both have."""

    first: Change
    second: Change
    number: Number | None

    @classmethod
    def of(cls, first: Change, second: Change) -> Comparison:
        """Return the mean of ``first`` minus that of ``second``, paired over images."""
        name = first.measure.name
        images = list(dict.fromkeys([*first.row.images, *second.row.images]))
        [own] = differences([change.row.values(name, images) for change in (first, second)], [(0, 1)])
        if own.mean is None:
            return cls(first, second, None)
        return cls(first, second, Number(own.mean, own.low, own.high, own.n, 1, first.row.stage))

    def text(self, correction: Correction) -> str:
        """Return the difference, bold where it is told from nothing."""
        number = self.number
        if number is None:
            return "no image in common"
        told = conclude(number, MORE, correction) in COMPARED
        digits = self.first.measure.digits + 1
        return difference_text(number.value, number.low, number.high, number.n, digits, told)

    def verdict(self, correction: Correction) -> str:
        """Return whether the first changes more or less."""
        conclusion = None if self.number is None else conclude(self.number, MORE, correction)
        return COMPARED.get(conclusion, "cannot be told")


@dataclass(frozen=True)
class Part:
    """What is known of one model.

    Attributes:
        model: its name.
        changes: by disturbance, stage and method, in the order of tables. Rows that always answer the same, that see
            the image, or whose search was stopped, are left out.
        left_out: of these the last.
    """

    model: str
    changes: dict[tuple[str, str, str], Change]
    left_out: tuple[Row, ...]

    @classmethod
    def of(cls, model: str, records: Sequence[Record]) -> Part:
        """Return what records say of a model."""
        rows = [row for row in rows_of(records) if row.done and not row.uses_image]
        rows.sort(key=lambda row: row.records[0].cell.position)
        own: dict[tuple[str, str, str], Change] = {}
        for row in rows:
            changes = [Change(row, measure) for measure in _measures(row)]
            if not row.unconverged and any(change.number.value for change in changes):
                own |= {(change.measure.name, row.stage, row.method): change for change in changes}
        stopped = tuple(row for row in rows if row.unconverged and any(_measures(row)))
        return cls(model, own, stopped)

    @property
    def measures(self) -> dict[str, Measurement]:
        """Return one measurement of each disturbance, by the measure's name."""
        measures: dict[str, Measurement] = {}
        for (name, _, _), change in self.changes.items():
            measures.setdefault(name, change.measure)
        return measures

    @property
    def stages(self) -> list[str]:
        """Return the stages in the model's order."""
        return list(dict.fromkeys(stage for _, stage, _ in self.changes))

    @property
    def methods(self) -> list[str]:
        """Return the methods in the suite's order."""
        order = sorted(self.changes.values(), key=lambda change: change.row.records[0].cell.method_position)
        return list(dict.fromkeys(change.row.method for change in order))

    @property
    def reference(self) -> str:
        """Return the method that the others are held against: the end-to-end network, or the first."""
        return END_TO_END if END_TO_END in self.methods else self.methods[0]

    def of_method(self, measure: str, method: str) -> list[Change]:
        """Return the changes of one method under one disturbance, stage by stage."""
        return [change for (name, _, own), change in self.changes.items() if (name, own) == (measure, method)]

    @cached_property
    def between_methods(self) -> list[Comparison]:
        """Return every method minus the reference at the same stage."""
        return [
            Comparison.of(change, other)
            for (name, stage, method), change in self.changes.items()
            if method != self.reference and (other := self.changes.get((name, stage, self.reference)))
        ]

    @cached_property
    def between_stages(self) -> list[Comparison]:
        """Return every stage minus the one before it, by the same method."""
        return [
            Comparison.of(after, before)
            for name in self.measures
            for method in self.methods
            for before, after in pairwise(self.of_method(name, method))
        ]

    def chances(self) -> list[float]:
        """Return how likely each change, and each difference, is so far from 1, or from 0, by chance."""
        values = [p_value(change.number, MORE_THAN_IMAGE) for change in self.changes.values()]
        compared = [one.number for one in (*self.between_methods, *self.between_stages) if one.number is not None]
        return [p for p in (*values, *(p_value(number, MORE) for number in compared)) if p is not None]


def _measures(row: Row) -> Iterator[Measurement]:
    """Yield what a row has of measures that name a disturbance."""
    for name in dict.fromkeys(name for record in row.done for name in record.measurements):
        own = row.measurement(name)
        if own is not None and own.mean is not None and "disturbance" in own.facts:
            yield own


def kind_of(row: Row) -> str:
    """Return whether a row is of a trained network, a linear readout, or "" where it is neither."""
    if row.regime.passes is not None:
        return TRAINED
    return READOUT if row.regime.family == "closed form" else ""


def write_stability(suites: Iterable[Results], folder: Path) -> list[Path]:
    """Write ``stability.md`` and its figures to a folder, and return the files.

    Raises:
        UsageError: for a suite whose records have no measure of stability.
        DiskError: if the disk refuses.
    """
    parts: list[tuple[Results, list[Part]]] = []
    for results in suites:
        own = [part for model, records in results.models.items() if (part := Part.of(model, records)).changes]
        if not own:
            raise UsageError(
                f"suite '{results.name}' has no measure of stability with values; add them with: invsuite bench "
                f"--suite {results.name} --metrics 'stability_*' (the suite needs edits)"
            )
        parts.append((results, own))
    every = [part for _, own in parts for part in own]
    chances = [p for part in every for p in part.chances()]
    correction = holm(chances)
    page = Page(folder / "stability.md", TITLE, READING.format(checks=len(chances)))
    for results, own in parts:
        page.suite(results)
        for part in own:
            _write_part(page, results.name, part, correction)
    return page.write(_opening(every, correction))


def _write_part(page: Page, suite: str, part: Part, correction: Correction) -> None:
    page.model(part.model, {id(r): r for change in part.changes.values() for r in change.row.done}.values())
    if part.left_out:
        left = ", ".join(f"`{row.method}` at {row.stage} ({row.regime.text})" for row in part.left_out)
        page.lines += [f"Left out: {left}.", ""]
    page.lines += [*_answers(part, correction), ""]
    if len(part.stages) > 1:
        title = f"{part.model}: change of the reconstruction over that of the image"
        name = f"{suite}-{part.model}-stability.png"
        page.curves(name, title, "stage", [_panels(part)], logarithmic=False, ticks=part.stages)
    for name, measure in part.measures.items():
        page.lines += [f"**{heading(measure)}** ({measure.facts['disturbance']}). {measure.description}", ""]
        page.lines += [_values(part, name, correction), ""]
    beside = [(one.first.row.stage, one) for one in part.between_methods]
    along = [(f"{one.first.row.stage} minus {one.second.row.stage}", one) for one in part.between_stages]
    for what, against, columns in (
        ("methods", f"`{part.reference}` at the same stage", beside),
        ("stages", "the one before it, by the same method", along),
    ):
        if columns:
            text = f"**Between {what}**: each minus {against}, paired over images."
            page.lines += [text, "", _differences(part, columns, correction), ""]


def _verdict(change: Change, correction: Correction) -> str:
    """Return whether a change is damped or amplified."""
    return WORDS[conclude(change.number, MORE_THAN_IMAGE, correction)]


def _answers(part: Part, correction: Correction) -> list[str]:
    """Return sentences: whether similar images give similar reconstructions, where not, and what networks do."""
    every, lines = list(part.changes.values()), []
    for name in part.measures:
        own = [change for change in every if change.measure.name == name]
        lines.append(f"- Under {own[0].disturbance}, {_range(own)}.")
    verdicts: dict[str, dict[str, list[Change]]] = {}
    for change in every:
        verdicts.setdefault(change.row.method, {}).setdefault(_verdict(change, correction), []).append(change)
    amplified = [f"`{method}` ({_places(said[AMPLIFIED])})" for method, said in verdicts.items() if AMPLIFIED in said]
    lines.append(f"- Amplified beyond doubt: {listed(amplified) if amplified else 'by no method'}.")
    for method in part.methods:
        own = [change for change in every if change.row.method == method]
        if kind_of(own[0].row) == TRAINED:
            said = "; ".join(f"{verdict} {_places(where)}" for verdict, where in verdicts[method].items())
            lines.append(f"- By {budgets_text(change.row for change in own)}: {said}.")
    for method in part.methods:
        against = [one for one in part.between_methods if one.first.row.method == method]
        if against:
            lines.append(f"- `{method}` changes {_counted(against, correction)} than `{part.reference}`.")
    deeper = [one for one in part.between_stages if one.first.row.method == part.reference]
    if deeper:
        lines.append(f"- `{part.reference}` changes {_counted(deeper, correction)} than at the stage before.")
    for name in part.measures:
        own = [change for change in part.of_method(name, part.reference) if change.followed is not None]
        if own:
            shares = [f"{_rounded(c.followed)} of {c.number.value:.2f} at {c.row.stage}" for c in own]
            lines.append(
                f"- Under {own[0].disturbance}, what follows the image's change in that of `{part.reference}`: "
                f"{listed(shares)}."
            )
    return lines


def _places(changes: Iterable[Change]) -> str:
    """Return under which disturbances, and at which stages, changes are."""
    stages: dict[str, list[str]] = {}
    for change in changes:
        stages.setdefault(change.disturbance, []).append(change.row.stage)
    return ", ".join(f"{what} at {listed(where)}" for what, where in stages.items())


def _rounded(share: float | None) -> str:
    """Return a share with two digits, and no sign before a zero."""
    return "-" if share is None else f"{round(share, 2) + 0.0:.2f}"


def _range(changes: Sequence[Change]) -> str:
    """Return by how much rows change, the least and the most, and what the most is of two different images."""
    low, high = (end(changes, key=lambda change: change.number.value) for end in (min, max))
    digits = high.measure.digits
    ends = " to ".join(
        f"{change.number.value:.{digits}f} (`{change.row.method}` at {change.row.stage})"
        for change in ([high] if low is high else [low, high])
    )
    share = high.of_floor
    beside = "" if share is None else f"; the most is {100 * share:.0f} % of what two different images have"
    return f"reconstructions change by {ends} of what images do{beside}"


def _counted(compared: Sequence[Comparison], correction: Correction) -> str:
    """Return in how many comparisons the first changes less and more."""
    counts = Counter(one.verdict(correction) for one in compared)
    return f"less in {counts['less']} and more in {counts['more']} of {len(compared)} cases"


def _values(part: Part, name: str, correction: Correction) -> str:
    """Return the table of one disturbance: stages and methods down."""
    measure = part.measures[name]
    head = ["Stage", "Method", "Budget", heading(measure), "Verdict", "Images above 1", "Most", "Followed"]
    head += ["Floor: two images", "Of the floor"]
    body = []
    for (own, stage, method), change in part.changes.items():
        if own != name:
            continue
        values, share, followed = change.values, change.of_floor, change.followed
        line = [stage, method, change.row.regime.text, value_text(change.row, measure), _verdict(change, correction)]
        line += [f"{100 * sum(v > 1 for v in values) / len(values):.0f} %", f"{max(values):.{measure.digits}f}"]
        line += [_rounded(followed)]
        floor = change.measure.floor
        line += ["-" if floor is None else f"{floor:.1f}", "-" if share is None else f"{100 * share:.1f} %"]
        body.append(line)
    return markdown_table(body, head)


def _differences(part: Part, columns: Sequence[tuple[str, Comparison]], correction: Correction) -> str:
    """Return a table of comparisons, each in its column: disturbances and methods down."""
    head = list(dict.fromkeys(column for column, _ in columns))
    body = []
    for name in part.measures:
        for method in part.methods:
            own = {
                column: one
                for column, one in columns
                if (one.first.measure.name, one.first.row.method) == (name, method)
            }
            texts = [own[column].text(correction) if column in own else "-" for column in head]
            body += [[str(part.measures[name].facts["disturbance"]), method, *texts]] if own else []
    return markdown_table(body, ["Disturbance", "Method", *head])


def _panels(part: Part) -> list[CurvePanel]:
    """Return a panel per disturbance: a line per method along the stages, floor and ceiling as levels.

    Floors are left out where there is another method: they reach so far that nothing else could be told apart.
    """
    floor = {change.row.method: change.row.regime.family == "floor" for change in part.changes.values()}
    drawn = [method for method in part.methods if not floor[method]] or part.methods
    panels = []
    for name in part.measures:
        lines: dict[str, list[tuple[float, float, float, float]]] = {}
        for place, method in enumerate(drawn):
            apart = 0.05 * (place - (len(drawn) - 1) / 2)  # intervals stand side by side
            for change in part.of_method(name, method):
                mean = change.number
                ends = (mean.value, mean.value) if mean.low is None or mean.high is None else (mean.low, mean.high)
                point = (part.stages.index(change.row.stage) + apart, mean.value, *ends)
                lines.setdefault(method, []).append(point)
        own = [change for change in part.changes.values() if change.measure.name == name]
        floors = [change.measure.floor for change in own if change.measure.floor]
        levels = {IMAGE: 1.0} | ({OTHERS: sum(floors) / len(floors)} if floors else {})
        panels.append(CurvePanel(own[0].disturbance, heading(own[0].measure), lines, levels))
    return panels


def _opening(parts: Sequence[Part], correction: Correction) -> list[str]:
    """Return three sentences: what the page shows at which budget, whether it is so, and where not."""
    changes = [change for part in parts for change in part.changes.values()]
    what = listed(dict.fromkeys(change.disturbance for change in changes))
    counts = list(dict.fromkeys(change.number.n for change in changes))
    shown = (
        f"Of {listed(map(str, counts))} images that {listed(f'`{part.model}`' for part in parts)} see hardly changed "
        f"({what}), this page says how much reconstructions change, over how much the images did, by "
        f"{budgets_text(change.row for change in changes)}."
    )
    shares = [(share, change) for change in changes if (share := change.of_floor) is not None]
    if shares:
        share, most = max(shares, key=lambda pair: pair[0])
        alike = "everywhere more" if share < 1 else "not everywhere more"
        named = f"`{most.row.method}` at {most.row.model}'s {most.row.stage}, {most.disturbance}"
        similar = (
            f"Similar images' reconstructions are {alike} alike than two different images': on average they differ by "
            f"{100 * min(share for share, _ in shares):.0f} to {100 * share:.0f} % of what those do (most: {named})."
        )
    else:
        similar = "What two different images' reconstructions differ by was not measured."
    said = []
    for kind in (TRAINED, READOUT):
        own = [(change, _verdict(change, correction)) for change in changes if kind_of(change.row) == kind]
        worse = dict.fromkeys(f"{change.row.model}'s {change.row.stage}" for change, one in own if one == AMPLIFIED)
        verdicts = Counter(one for _, one in own)
        if own:
            where = f" (at {listed(worse)})" if worse else ""
            said.append(
                f"{kind} damp the change in {verdicts[DAMPED]} of {len(own)} cases and amplify it in "
                f"{verdicts[AMPLIFIED]}{where}"
            )
    verdict = f"Beyond doubt {', '.join(said)}." if said else "No network or linear readout is among them."
    return [shown, similar, verdict]
