"""Results against a pinned baseline: one verdict per cell and measure. Time is never judged.

A measure is *worse* when the mean of the paired per-image differences is worse by more than its tolerance and the
whole 95 % interval of those differences is on the worse side; *better* the same way round. Cells that a baseline
has and the results lack are *missing*, which is as bad as worse; cells whose data, weights or method differ from
the baseline's are *not comparable*, which asks for a new baseline and fails the check as well.

The tolerance is the one that the measure declares, pinned beside its values, or twice what six seeds moved that very
cell, where that is more (`RunRange.reach`): some cells stand still under reseeding to a hundredth of a decibel, others
do not. Runs of the same seed on another processor count like other seeds: where a sum is rounded otherwise, hundreds of
iterations of a descent lead elsewhere. The same goes for the number of images on which a measure is defined.

A baseline holds numbers alone: what had none when it was pinned has nothing to lose. Descents that were cut off before
they converged are pinned only where a second run tells how far their numbers move: those of a converged descent differ
between processors by less than a third of a tolerance (measured on the suite "quick", AVX-512 against AVX2), those of
one that was cut off by more.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tabulate import tabulate

from invsuite._system.files import write_atomically
from invsuite._system.validation import build
from invsuite.errors import UsageError
from invsuite.results.record import Direction, Measurement, Record
from invsuite.results.regime import regime_of
from invsuite.results.statistics import differences, distance_from_best

Verdict = Literal["same", "better", "worse", "newly failing", "missing", "new", "not comparable"]
BAD: frozenset[Verdict] = frozenset({"worse", "newly failing", "missing", "not comparable"})

#: A mean may also lose as much as this many times the range of its means over the seeds that were pinned along. Six
#: seeds range over about 2.5 standard deviations, so two ranges are 3.6 of those of a difference between two seeds.
#: Measured on the suite "quick" cut down to 480 image passes and 320 fit images, seeds 0 to 5, on one core: the PSNR of
#: trained cells ranges over 0.02 dB at the ViT's embedding, 0.07 to 0.17 dB at its blocks, 0.12 to 0.27 dB at DETR's
#: backbone and encoder, and 0.19 to 0.72 dB at its decoder, where SSIM ranges over 0.07 and correspondence is not
#: defined for every seed. No tolerance for all cells would let those pass and stop half a decibel in the others. With
#: five of these seeds pinned along, the sixth was red in 0 of 30 tries; with three, in 40 of 180 (on how many images a
#: measure is defined takes more seeds to see); with one, in 27 of 30. So pin six.
RUN_RANGES = 2.0
#: Expected range of so many normal values, in standard deviations (Tippett 1925): fewer seeds than six range over less,
#: and count for as much more.
EXPECTED_RANGE = {2: 1.128, 3: 1.693, 4: 2.059, 5: 2.326, 6: 2.534}
BASELINE_SCHEMA = 3
ORIGIN = ("git", "source_sha256", "versions", "device", "threads")  # facts of the provenance that are pinned


@dataclass(frozen=True)
class RunRange:
    """How far a measure of a row moved between runs: of other seeds, or of the same on other machines.

    Attributes:
        runs: how many there are.
        mean: largest minus smallest mean, as distances from the best.
        fewest: images on which it is defined in the run that has fewest.
        most: in the run that has most.
    """

    runs: int
    mean: float
    fewest: int
    most: int

    @property
    def reach(self) -> float:
        """Return how many times the range over its pinned runs a measure may move."""
        return RUN_RANGES * EXPECTED_RANGE[6] / EXPECTED_RANGE[min(6, self.runs)]


@dataclass(frozen=True)
class PinnedMeasure:
    """The pinned values of one measure of one cell.

    Attributes:
        identity, version: of the measurement: others are not comparable.
        direction: which way is better.
        tolerance: what the mean may lose, as the measure declared.
        mean, n: over the images on which it is defined.
        values: per image.
        run_range: how far it moved between runs, where there are several.
    """

    identity: str
    version: int
    direction: Direction
    tolerance: float
    mean: float
    n: int
    values: list[float | None]
    run_range: RunRange | None = None

    @property
    def allowed(self) -> float:
        """Return how much the mean may lose."""
        moved = self.run_range
        return self.tolerance if moved is None else max(self.tolerance, moved.reach * moved.mean)

    @property
    def fewest(self) -> int:
        """Return on how many images it must be defined: as many as were pinned, or as few as another run may leave."""
        if self.run_range is None:
            return self.n
        moved = self.run_range.reach * (self.run_range.most - self.run_range.fewest)
        return max(0, round(self.n - 1 - moved))  # one may always tip over


@dataclass(frozen=True)
class PinnedCell:
    """The pinned measures of one cell, and the ``id`` that its data, weights and method give it."""

    id: str
    measures: dict[str, PinnedMeasure]


@dataclass(frozen=True)
class Baseline:
    """Pinned results of a suite, by the cells' MODEL/STAGE/METHOD/sSEED, and where they come from."""

    suite: str
    origin: dict[str, Any]
    cells: dict[str, PinnedCell]
    schema: int = BASELINE_SCHEMA


@dataclass(frozen=True)
class Judgement:
    """A verdict on one measure of one cell (``measure`` is empty where the whole cell is meant)."""

    cell: str
    measure: str
    verdict: Verdict
    detail: str

    @property
    def bad(self) -> bool:
        """Tell whether it fails the check."""
        return self.verdict in BAD


def pin(
    records: Iterable[Record], path: Path, seeds: Collection[int] | None = None, others: Iterable[Record] = ()
) -> Baseline:
    """Write the records' values as the baseline ``path``, and return it.

    Args:
        records: of a suite.
        path: the file.
        seeds: only cells of these are pinned; records of others tell how far reseeding moves them. None pins all.
        others: further records of the same rows, of other machines, which tell how far that moves them.

    Raises:
        UsageError: if no record with numbers is of these seeds.
    """
    records = [record for record in records if record.ok and any(m.ok for m in record.measurements.values())]
    pinned = [record for record in records if seeds is None or record.cell.seed in seeds]
    if not pinned:
        named = f" has a seed of the suite ({', '.join(map(str, seeds))}); run it without --seeds" if seeds else ""
        raise UsageError(f"no record with numbers{named or ': there is nothing to pin'}")
    ranges = _run_ranges([*records, *(record for record in others if record.ok)])
    cells = {record.original_key: _pin_cell(record, ranges) for record in pinned}
    origin = {name: getattr(pinned[0].provenance, name) for name in ORIGIN}
    baseline = Baseline(pinned[0].cell.suite, origin, cells)
    write_atomically(path, (json.dumps(_plain(baseline), indent=1) + "\n").encode())
    return baseline


def load_baseline(path: Path) -> Baseline:
    """Return the baseline in a file.

    Raises:
        UsageError: if it is not there or not a baseline of this schema.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"baseline '{path}' cannot be read ({error.strerror}); pin one with: invsuite baseline"
        ) from error
    except ValueError as error:
        raise UsageError(f"baseline '{path}' is not JSON: {error}") from error
    schema = tree.get("schema") if isinstance(tree, dict) else None
    if schema != BASELINE_SCHEMA:
        raise UsageError(f"baseline '{path}' has schema {schema}, expected {BASELINE_SCHEMA}; pin it again")
    return build(Baseline, tree, f"baseline '{path}'")


def judge(records: Iterable[Record], baseline: Baseline) -> list[Judgement]:
    """Return the verdicts on every cell of the baseline and every new cell."""
    ids = {pinned.id for pinned in baseline.cells.values()}
    by_key = {r.original_key: r for r in sorted(records, key=lambda r: r.cell.id in ids)}  # the pinned one of several
    judgements: list[Judgement] = []
    for key, pinned in baseline.cells.items():
        judgements += _judge_cell(key, pinned, by_key.get(key))
    for key, record in by_key.items():
        if key not in baseline.cells:
            verdict: Verdict = "new" if record.ok else "newly failing" if record.status == "failed" else "same"
            detail = "not in the baseline" + ("" if record.ok else f"; {_why(record)}")
            judgements.append(Judgement(key, "", verdict, detail))
    return judgements


def changes(records: Iterable[Record], baseline: Baseline) -> list[str]:
    """Return which versions and devices are others than where the baseline was pinned, a line each."""
    pinned = baseline.origin.get("versions", {})
    lines: dict[str, None] = {}
    for record in records:
        for origin in record.provenances if record.ok else ():
            if origin.device != baseline.origin.get("device", origin.device):
                lines[f"changed since it was pinned: device {baseline.origin['device']} -> {origin.device}"] = None
            for change in replace(origin, versions=pinned).changes_to(origin.versions):
                lines[f"changed since it was pinned: {change}"] = None
    return list(lines)


def summary(judgements: Sequence[Judgement]) -> str:
    """Return the number of each verdict, then every one with its digits: the bad ones first, what is "same" last."""
    lines = [_counts(judgements)]
    same = sorted((one for one in judgements if one.verdict == "same"), key=lambda one: (one.cell, one.measure))
    for one in [*_notable(judgements), *same]:
        lines.append(f"  {one.verdict}: {one.cell} {one.measure} {one.detail}".replace("  ", " "))
    return "\n".join(lines)


def summary_markdown(judgements: Sequence[Judgement], suite: str) -> str:
    """Return the summary as a comment on a pull request, with a row for every verdict that is not "same"."""
    bad = sum(one.bad for one in judgements)
    verdict = f"FAILED: {bad} of {len(judgements)} verdicts are bad" if bad else "passed"
    lines = [f"### invsuite check, suite {suite}: {verdict}", "", f"{_counts(judgements)}.", ""]
    rows = [
        [f"**{one.verdict}**" if one.bad else one.verdict, f"`{one.cell}`", one.measure, one.detail.replace("|", "\\|")]
        for one in _notable(judgements)
    ]
    if rows:
        lines += [tabulate(rows, ["Verdict", "Cell", "Measure", "Detail"], tablefmt="github"), ""]
    lines.append(
        "A measure is better or worse where the mean of its paired differences, image by image, is beyond the cell's "
        "tolerance and their 95 % interval leaves out 0. Time is never judged."
    )
    return "\n".join(lines) + "\n"


def _pin_cell(record: Record, ranges: Mapping[tuple[str, str], RunRange]) -> PinnedCell:
    """Return the measures of a record that have values, with how far each moved between runs."""
    measures = {}
    cut_off = regime_of([record]).converged is False
    for name, m in record.measurements.items():
        if m.mean is not None and (not cut_off or (record.cell.row, name) in ranges):
            moved = ranges.get((record.cell.row, name))
            pinned = PinnedMeasure(m.identity, m.version, m.direction, m.tolerance, m.mean, m.n, m.values, moved)
            measures[name] = pinned
    return PinnedCell(record.cell.id, measures)


def _run_ranges(records: Iterable[Record]) -> dict[tuple[str, str], RunRange]:
    """Return how far each row and measure that several runs have moved between them."""
    means: dict[tuple[str, str], list[float]] = {}
    counts: dict[tuple[str, str], list[int]] = {}
    for record in records:
        for name, measurement in record.measurements.items():
            if measurement.status not in ("ok", "undefined"):
                continue
            counts.setdefault((record.cell.row, name), []).append(measurement.n)
            if measurement.ok:
                values = np.array(measurement.values, dtype=np.float64)
                loss = float(np.nanmean(distance_from_best(measurement.direction, values)))
                means.setdefault((record.cell.row, name), []).append(loss)
    return {
        key: RunRange(len(n), max(means[key]) - min(means[key]), min(n), max(n))
        for key, n in counts.items()
        if len(n) > 1 and key in means
    }


def _plain(baseline: Baseline) -> dict[str, Any]:
    """Return a baseline as a tree of JSON types, without the ranges that are not known."""
    tree = asdict(baseline)
    for cell in tree["cells"].values():
        for measure in cell["measures"].values():
            if measure["run_range"] is None:
                del measure["run_range"]
    return tree


def _why(result: Record | Measurement) -> str:
    return f"{result.status}: {result.reason}"


def _judge_cell(key: str, pinned: PinnedCell, record: Record | None) -> Iterator[Judgement]:
    """Yield the verdicts on one pinned cell."""
    if record is None:
        yield Judgement(key, "", "missing", "the baseline has this cell, the results have not")
    elif not record.ok:
        yield Judgement(key, "", "newly failing", _why(record))
    elif record.cell.id != pinned.id:
        yield Judgement(key, "", "not comparable", f"identity {record.cell.id[-12:]}, pinned {pinned.id[-12:]}")
    else:
        for name, before in pinned.measures.items():
            yield Judgement(key, name, *_judge_measure(before, record.measurements.get(name)))
        if not pinned.measures:
            yield Judgement(key, "", "same", "not judged: its descents had not converged when it was pinned")
        for name, measurement in record.measurements.items():
            if measurement.ok and pinned.measures and name not in pinned.measures:
                yield Judgement(key, name, "new", "not in the baseline")


def _judge_measure(before: PinnedMeasure, after: Measurement | None) -> tuple[Verdict, str]:
    """Return the verdict on one pinned measure, and what it rests on."""
    if after is None:
        return "newly failing", "absent"
    if not after.ok:
        if after.status == "undefined" and before.fewest == 0:
            return "same", f"{_why(after)}; so it may be in another run"
        return "newly failing", _why(after)
    if after.version != before.version:
        return "not comparable", f"version {after.version}, was {before.version}"
    if after.identity != before.identity:
        return "not comparable", f"settings {after.identity}, were {before.identity}"
    losses = [
        distance_from_best(before.direction, np.array([values], dtype=np.float64))
        for values in (after.values, before.values)
    ]
    [loss] = differences(losses, [(0, 1)])  # positive: the new value is worse
    tolerance = before.allowed
    interval = "" if loss.low is None else f", worse by {loss.mean:.3f} [{loss.low:.3f}, {loss.high:.3f}]"
    detail = f"{before.mean:.3f} -> {after.mean:.3f} (n={loss.n}, tolerance {tolerance:.3g}{interval})"
    defined = sum(value is not None for value in after.values)
    if defined < before.fewest:
        return "newly failing", f"defined for {defined} of {before.n} images; {detail}"
    if loss.mean is None or abs(loss.mean) <= tolerance:
        return "same", detail
    low, high = (loss.mean if end is None else end for end in (loss.low, loss.high))
    return ("worse" if low > 0 else "better" if high < 0 else "same"), detail


def _notable(judgements: Sequence[Judgement]) -> list[Judgement]:
    """Return every verdict that is not "same", the bad ones first."""
    notable = [one for one in judgements if one.verdict != "same"]
    return sorted(notable, key=lambda one: (not one.bad, one.cell, one.measure))


def _counts(judgements: Sequence[Judgement]) -> str:
    counts = Counter(one.verdict for one in judgements)
    return ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items())) or "nothing to compare"
