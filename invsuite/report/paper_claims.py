"""What records say about the claims of the paper: number, interval, n and verdict, side by side for ViT and DETR.

No verdict goes beyond its rule in `invsuite.report.claims`; what was not measured is said to be so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, Literal

import numpy as np
from tabulate import tabulate

from invsuite.report.claims import BEHIND_ENCODER, CLAIMS, FAMILIES, FEWEST, FLOOR, Check, Claim, Family, Quantity, Rule
from invsuite.results.record import Record, RelationRecord
from invsuite.results.rows import Row, rows_of
from invsuite.results.statistics import Array, percentile_interval, resampled_means

Verdict = Literal["holds", "fails", "cannot be told"]

INTRODUCTION = """\
# Findings: the paper's claims, measured

Generated from records. The claims are those of Rathjens et al. 2024 (arXiv 2412.06534), whose method is `modular`; the
numbers below are of the method `{method}`. Each number is a mean over images (and seeds, where there are several) with
its 95 % bootstrap interval; differences between models are paired over the images both were scored on, and unpaired
where they share none. A check **holds** where its whole interval lies on the side its rule names, **fails** where it
lies on the other side, and otherwise, or with fewer than {fewest} images, **cannot be told**. A claim holds where every
check that was measured holds, fails where every one fails, and cannot be told as a whole otherwise. Intervals are not
corrected for the number of checks. Every statement is about these models, these stages and these images, and about what
this method reads out: what it does not reconstruct may still be there.
"""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval (None where it has none), images and seeds, and the stages it is of."""

    value: float
    low: float | None
    high: float | None
    n: int
    seeds: int
    where: str
    floor: float | None = None


@dataclass(frozen=True)
class Statistic:
    """A number computed from the means of rows, so that two of them can be compared by one bootstrap.

    Attributes:
        rows: the rows that enter, over ``images``: arrays (seeds, images).
        images: keys of the images.
        of: from means (..., rows) to the number (...).
        where: the stages it is of.
        floor: what the measure gives for a reconstruction that knows nothing.
    """

    rows: tuple[Array, ...]
    images: tuple[str, ...]
    of: Callable[[Array], Array]
    where: str
    floor: float | None = None


@dataclass(frozen=True)
class Subject:
    """A model of a known family: rows of the chosen method and of the floor by stage, in chain order."""

    name: str
    family: Family
    rows: dict[str, Row]
    floors: dict[str, Row]
    relation: RelationRecord | None = None

    @property
    def encoder(self) -> list[str]:
        """The stages up to the end of the encoder."""
        return [stage for stage in self.rows if not stage.startswith(BEHIND_ENCODER)]


def findings_markdown(
    suites: Sequence[tuple[str, Sequence[Record], Sequence[RelationRecord]]], method: str = "modular"
) -> str:
    """The page.

    Args:
        suites: title, records of the cells, and records that relate the stages of a model (``stages``, and ``cka`` with
            ``value``, ``low``, ``high``, ``n``), which may be none.
        method: the row whose reconstructions are read.
    """
    lines = [INTRODUCTION.format(method=method, fewest=FEWEST)]
    for title, records, relations in suites:
        lines += [f"## {title}", ""]
        found = subjects(records, relations, method)
        if not found:
            lines += [f"No model of a known family has finished cells of `{method}`.", ""]
            continue
        lines += [f"- `{s.name}` ({s.family}): {', '.join(s.rows)}; encoder up to `{s.encoder[-1]}`." for s in found]
        lines.append("")
        for claim in CLAIMS:
            lines += claim_section(claim, found)
    return "\n".join(lines).rstrip() + "\n"


def subjects(records: Sequence[Record], relations: Sequence[RelationRecord], method: str) -> list[Subject]:
    """The models that the claims speak of, with at least one encoder stage inverted by ``method``."""
    by_model: dict[str, list[Row]] = {}
    for row in rows_of(records):
        if row.done:
            by_model.setdefault(row.model, []).append(row)
    found = []
    for name, rows in by_model.items():
        weights = rows[0].done[0].weights
        family = family_of(name, weights.source if weights is not None else "")
        own = {row.stage: row for row in rows if row.method == method}
        floors = {row.stage: row for row in rows if row.method == FLOOR}
        relation = next((r for r in relations if r.cell.model == name and r.ok), None)
        if family is not None and any(not stage.startswith(BEHIND_ENCODER) for stage in own):
            found.append(Subject(name, family, own, floors, relation))
    return found


def family_of(name: str, source: str) -> Family | None:
    """The family of a model by its name and where its weights come from; None for one no claim is about."""
    text = f"{name} {source}".lower()
    return next((family for family, words in FAMILIES.items() if any(word in text for word in words)), None)


def claim_section(claim: Claim, found: Sequence[Subject]) -> list[str]:
    """Lines of markdown: the checks as a table, a column a model and one for each pair of a ViT and a DETR."""
    pairs = [(a, b) for a, b in product(found, found) if (a.family, b.family) == ("ViT", "DETR")]
    body, verdicts = [], []
    for check in claim.checks:
        line = [f"{check.says} (`{check.measure}`)"]
        for subject in found:
            number = estimate(check, subject)
            text, verdict = _cell(number, check.rule(subject.family))
            line.append(text if number else _missing(check, subject))
            verdicts.append(verdict)
        for pair in pairs:
            text, verdict = _cell(gap(check, *pair), check.gap) if check.gap else ("", None)
            line.append(text)
            verdicts.append(verdict)
        body.append(line)
    head = ["Check", *(f"{s.name} ({s.family})" for s in found), *(f"{a.name} minus {b.name}" for a, b in pairs)]
    counts = Counter(v for v in verdicts if v is not None)
    told = ", ".join(f"{counts[v]} {v}" for v in ("holds", "fails", "cannot be told") if counts[v]) or "none measured"
    return [
        f"### {claim.title}: {overall(counts)}",
        "",
        f"*{claim.text}* Checks: {told}.",
        "",
        tabulate(body, head, tablefmt="github", disable_numparse=True),
        "",
    ]


def overall(counts: Counter[Verdict]) -> str:
    """The verdict on a claim from those on its checks."""
    if not counts:
        return "not measured"
    for verdict in ("holds", "fails"):
        if set(counts) == {verdict}:
            return verdict
    return "cannot be told"


def verdict_of(found: Estimate, rule: Rule) -> Verdict | None:
    """The verdict of a rule; None if its bound is a floor that the records do not have."""
    bound = found.floor if rule.bound is None else rule.bound
    if bound is None:
        return None
    if found.low is None or found.high is None or found.n < FEWEST:
        return "cannot be told"
    above, below = found.low > bound, found.high < bound
    if above or below:
        return "holds" if above == (rule.side == "above") else "fails"
    return "cannot be told"


def estimate(check: Check, subject: Subject) -> Estimate | None:
    """The check's number for one model; None if the records do not have it."""
    if check.quantity == "between":
        return _between(check, subject)
    statistic = _statistic(check.measure, check.quantity, subject)
    return None if statistic is None else _estimate(statistic)


def gap(check: Check, first: Subject, second: Subject) -> Estimate | None:
    """The difference of the check's number between two models, paired over the images both have."""
    a, b = (_statistic(check.measure, check.quantity, subject) for subject in (first, second))
    if a is None or b is None:
        return None
    where = f"{first.name} {a.where} - {second.name} {b.where}"
    theirs = set(b.images)
    images = tuple(key for key in a.images if key in theirs)
    if len(images) >= 2:
        rows = (*_over(a, images), *_over(b, images))
        means, draws, n = resampled_means(rows)
        if n >= 2:
            split = len(a.rows)
            drawn = a.of(draws[:, :split]) - b.of(draws[:, split:])
            value = float(a.of(means[:split]) - b.of(means[split:]))
            return Estimate(value, *percentile_interval(drawn, n), n, _seeds(rows), where)
    (one, a_draws, n_a), (two, b_draws, n_b) = resampled_means(a.rows), resampled_means(b.rows)
    if min(n_a, n_b) < 2:
        return None
    # no images in common: each model's own resamples, put together at random
    other = b.of(b_draws)[np.random.default_rng(0).permutation(len(b_draws))]
    value = float(a.of(one) - b.of(two))
    low, high = percentile_interval(a.of(a_draws) - other, min(n_a, n_b))
    return Estimate(value, low, high, min(n_a, n_b), _seeds((*a.rows, *b.rows)), f"{where}, unpaired")


def _statistic(measure: str, quantity: Quantity, subject: Subject) -> Statistic | None:
    first, last = subject.encoder[0], subject.encoder[-1]
    if quantity == "last":
        return _of_rows(measure, [subject.rows[last]], lambda means: means[..., 0], last)
    if first == last or last not in subject.floors:
        return None
    rows = [subject.rows[first], subject.rows[last], subject.floors[last]]
    found = _of_rows(measure, rows, _left, f"{first} to {last}")
    # a share of nothing says nothing: the first stage must be better than the mean image
    if found is None or not _gains(rows[0], measure, resampled_means(found.rows)[0]):
        return None
    return found


def _left(means: Array) -> Array:
    """Share of the gain over the floor that is left, from means (..., 3) of first stage, last stage and floor."""
    gain = means[..., 0] - means[..., 2]
    return (means[..., 1] - means[..., 2]) / np.where(gain == 0, np.nan, gain)


def _gains(row: Row, measure: str, means: Array) -> bool:
    sign = -1 if row.having(measure)[0].measurements[measure].direction == "lower" else 1
    return bool(sign * (means[0] - means[2]) > 0)


def _of_rows(measure: str, rows: Sequence[Row], of: Callable[[Array], Array], where: str) -> Statistic | None:
    if not all(row.having(measure) for row in rows):
        return None
    images = tuple(dict.fromkeys(key for row in rows for record in row.done for key in record.images))
    floor = rows[0].having(measure)[0].measurements[measure].floor
    return Statistic(tuple(row.values(measure, list(images)) for row in rows), images, of, where, floor)


def _over(statistic: Statistic, images: Sequence[str]) -> tuple[Array, ...]:
    """The statistic's rows over some of its images."""
    place = {key: index for index, key in enumerate(statistic.images)}
    chosen = [place[key] for key in images]
    return tuple(row[:, chosen] for row in statistic.rows)


def _estimate(statistic: Statistic) -> Estimate | None:
    means, draws, n = resampled_means(statistic.rows)
    if n == 0:
        return None
    low, high = percentile_interval(statistic.of(draws), n) if n >= 2 else (None, None)
    seeds = _seeds(statistic.rows)
    return Estimate(float(statistic.of(means)), low, high, n, seeds, statistic.where, statistic.floor)


def _seeds(rows: Sequence[Array]) -> int:
    return max(len(row) for row in rows)


def _between(check: Check, subject: Subject) -> Estimate | None:
    """The least favourable pair of neighbouring encoder stages."""
    rule = check.rule(subject.family)
    assert rule is not None, "a check between stages has a rule for both families"
    found = _neighbours_cka(subject) if check.measure == "cka" else _neighbours_cross(check.measure, subject)
    worst = min if rule.side == "above" else max
    return worst(found, key=lambda e: e.value) if found else None


def _neighbours_cka(subject: Subject) -> list[Estimate]:
    if subject.relation is None:
        return []
    stages, cka = subject.relation.body["stages"], subject.relation.body["cka"]
    found = []
    for first, second in pairwise(stage for stage in stages if not stage.startswith(BEHIND_ENCODER)):
        i, j = stages.index(first), stages.index(second)
        value, low, high = (cka[key][i][j] for key in ("value", "low", "high"))
        if value is not None:
            found.append(Estimate(value, low, high, cka["n"], 1, f"{first} and {second}"))
    return found


def _neighbours_cross(measure: str, subject: Subject) -> list[Estimate]:
    """Of the first seed: a cell's measure holds its ``row``, a summary for each other stage of the same layout."""
    found = []
    for first, second in pairwise(subject.encoder):
        for stage, other in ((first, second), (second, first)):
            having = subject.rows[stage].having(measure)
            row: dict[str, Any] = having[0].measurements[measure].facts.get("row", {}) if having else {}
            if other in row and row[other]["mean"] is not None:
                value = row[other]
                where = f"inverse of {stage} at {other}"
                found.append(Estimate(value["mean"], value["low"], value["high"], value["n"], 1, where))
    return found


def _missing(check: Check, subject: Subject) -> str:
    """Why there is no number."""
    stages = (subject.encoder[0], subject.encoder[-1])
    if check.quantity == "left" and all(subject.rows[stage].having(check.measure) for stage in stages):
        if stages[0] == stages[1] or stages[1] not in subject.floors:
            return f"needs two encoder stages and the method `{FLOOR}`"
        return f"{stages[0]} is no better than the mean image"
    return "not measured"


def _cell(found: Estimate | None, rule: Rule | None) -> tuple[str, Verdict | None]:
    """Text of a table's cell and its verdict, which is None where there is no rule or no number."""
    if found is None:
        return "not measured", None
    interval = "" if found.low is None or found.high is None else f" [{found.low:.2f}, {found.high:.2f}]"
    seeds = f", {found.seeds} seeds" if found.seeds > 1 else ""
    text = f"{found.value:.2f}{interval} (n={found.n}{seeds}; {found.where})"
    verdict = verdict_of(found, rule) if rule else None
    if rule is None or verdict is None:
        return text + (", no floor to hold it against" if rule else ""), None
    bound = f"floor {found.floor:.2f}" if rule.bound is None else f"{rule.bound:g}"
    return f"{text}, {rule.side} {bound}: **{verdict}**", verdict
