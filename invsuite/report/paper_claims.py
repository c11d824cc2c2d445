"""The claims of the paper as checks with declared rules, and what records say about them, for ViT and DETR.

The claims are those of Rathjens et al. 2024 (arXiv 2412.06534). `CLAIMS` is the one place to change them. No verdict
goes beyond its rule; what was not measured is said to be so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import erfc, inf, sqrt
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from invsuite.errors import unknown_name
from invsuite.report.results import Results
from invsuite.report.texts import budgets_text, listed, markdown_table
from invsuite.results.record import RelationRecord
from invsuite.results.regime import AT, table_of
from invsuite.results.rows import Row, rows_of
from invsuite.results.statistics import Array, percentile_interval, resampled_means

Conclusion = Literal["holds", "fails", "cannot be told"]
Family = Literal["ViT", "DETR"]
#: Words in a model's name or weights that show its family; the first that matches counts.
FAMILIES: dict[Family, tuple[str, ...]] = {"DETR": ("detr", "deim", "d-fine", "dfine"), "ViT": ("vit", "deit")}
#: First letters of stages that are no part of an encoder: what a detector's decoder and any model's answer hold.
BEHIND_ENCODER = ("decoder", "prediction", "head", "quer")
LEVEL = 0.05  # of the error that any verdict of a page is wrong by chance
Z95 = 1.959964  # standard errors from the mean to either end of a 95 % interval
MOST_IMAGES = 1e6  # beyond which a number counts as on its bound
FEWEST = 8  # images below which an interval is not trusted with a verdict
FLOOR = "mean"  # the method whose reconstruction knows nothing of the image

#: What is computed from a measure: ``left`` is the share of the first stage's gain over the mean image that is left at
#: the last encoder stage; ``last`` its value there; ``between`` the least favourable pair of neighbouring stages.
Quantity = Literal["left", "last", "between"]


@dataclass(frozen=True)
class Rule:
    """What a number must be for a claim to hold.

    It holds where the whole interval lies on ``side`` of ``bound``, fails where it lies on the other side, and else, or
    with fewer than `FEWEST` images, cannot be told. ``bound`` None is the floor in the record: what the measure gives
    by random permutation.
    """

    side: Literal["above", "below"]
    bound: float | None


@dataclass(frozen=True)
class Check:
    """One number that a claim is held against.

    Attributes:
        measure: name in the records.
        quantity: what is computed from it.
        description: what the number is, in words.
        vit: the rule for a ViT; None where the claim says nothing of it.
        detr: the rule for a DETR.
        difference: the rule for ViT minus DETR.
    """

    measure: str
    quantity: Quantity
    description: str
    vit: Rule | None = None
    detr: Rule | None = None
    difference: Rule | None = None

    def rule(self, family: Family) -> Rule | None:
        """Return the rule for a model of ``family``."""
        return self.vit if family == "ViT" else self.detr


@dataclass(frozen=True)
class Claim:
    """A claim in the paper's sense, and its checks."""

    title: str
    text: str
    checks: tuple[Check, ...]


LEFT = "share of the gain over the mean image that is left from the first to the last encoder stage"
LAST = "at the last encoder stage"
MOST, LEAST = Rule("above", 0.5), Rule("below", 0.5)
MORE, LESS = Rule("above", 0.0), Rule("below", 0.0)
OVER_FLOOR, UNDER_FLOOR = Rule("above", None), Rule("below", None)


def _kept(measure: str) -> Check:
    """Return the check that a ViT keeps most of a measure from its first to its last encoder stage, a DETR little."""
    return Check(measure, "left", LEFT, MOST, LEAST, MORE)


def _beats_floor(measure: str, description: str, rule: Rule) -> Check:
    """Return the check that both families are beyond the floor of a measure."""
    return Check(measure, "last", f"{description} {LAST}", rule, rule)


CLAIMS = (
    Claim(
        "Detail",
        "ViT keeps fine detail deep into its encoder; DETR loses it.",
        (
            *(_kept(measure) for measure in ("psnr", "ssim", "lpips")),
            Check("psnr", "last", f"PSNR {LAST}", difference=MORE),
            Check("ssim", "last", f"SSIM {LAST}", difference=MORE),
            Check("lpips", "last", f"LPIPS {LAST}", difference=LESS),
        ),
    ),
    Claim(
        "Spatial correspondence",
        "A change of one object changes the reconstruction in the same place, in both models.",
        (
            _beats_floor("correspondence", "change within the object over its share of the area", OVER_FLOOR),
            _beats_floor("change_auc", "the change as a detector of the object", OVER_FLOOR),
            _beats_floor("leak", "share of the change outside of the object", UNDER_FLOOR),
            _beats_floor("centroid_shift", "distance of the change's centre from the object's", UNDER_FLOOR),
            _beats_floor("patch_match", "patches that match best in their own place", OVER_FLOOR),
        ),
    ),
    Claim(
        "Colour",
        "ViT reproduces changes of colour; DETR drifts to the usual colour of the object's class.",
        (
            Check("hue_gain", "last", f"share of a hue turn that is reproduced {LAST}", MOST, LEAST, MORE),
            Check("hue_gain_lch", "last", f"the same at constant lightness {LAST}", MOST, LEAST, MORE),
            Check("chroma_gain", "last", f"share of a change of chroma that is reproduced {LAST}", MOST, LEAST, MORE),
            Check("pull_to_prototype", "last", f"pull to the class's usual hue {LAST}", LEAST, MOST, LESS),
        ),
    ),
    Claim(
        "Inter-layer",
        "Representations of neighbouring stages are correlated, and an inverse of one serves the next.",
        (
            Check(
                "cross_application",
                "between",
                "error of an inverse at the neighbouring stage over that at its own, worst pair",
                Rule("below", 1.5),
                Rule("below", 1.5),
            ),
            Check("cka", "between", "debiased linear CKA of neighbouring stages, worst pair", MOST, MOST),
        ),
    ),
)

INTRODUCTION = """\
Generated from records. The claims are those of Rathjens et al. 2024 (arXiv 2412.06534), whose method is `modular`; the
numbers below are of {methods}, in the regime that each heading names: the image passes of its training at
its largest budget, or the iterations after which its search converged; what was stopped before it converged is left
out. Each number is a mean over images (and seeds, where there are several) with
its 95 % bootstrap interval; differences between models are paired over the images both were scored on, and unpaired
where they share none. A check **holds** where its whole interval lies on the side its rule names, **fails** where it
lies on the other side, and otherwise, or with fewer than {fewest} images, **cannot be told**. Intervals hold one by
one; verdicts are corrected for the {checks} checks of this page by Holm's method (family-wise error 5 %, normal
approximation to the bootstrap), so that those that stand hold together. What cannot be told says about how many images
would tell, if mean and spread stay. A claim holds where every check that was measured holds, fails where every one
fails, **holds in part** where some hold and others fail, and cannot be told otherwise. Every statement is about these
models, these stages and these images, and about what a method reads out: what it does not reconstruct may still be
there. What every method says is likely of the model; where one says otherwise than another it is of the method. Shares
and numbers that name no unit have none.
"""


@dataclass(frozen=True)
class Number:
    """A number with its interval (None where it has none), how many images and seeds it is of, and at which stages."""

    value: float
    low: float | None
    high: float | None
    n: int
    seeds: int
    where: str
    floor: float | None = None


@dataclass(frozen=True)
class Combination:
    """A number computed from the means of rows, so that two of them can be compared by one bootstrap.

    Attributes:
        rows: the rows that enter, over ``images``: arrays (seeds, images).
        images: keys of the images.
        formula: from means (..., rows) to the number (...).
        where: the stages it is of.
        floor: what the measure gives for a reconstruction that knows nothing.
    """

    rows: tuple[Array, ...]
    images: tuple[str, ...]
    formula: Callable[[Array], Array]
    where: str
    floor: float | None = None

    def number(self) -> Number | None:
        """Return the number with its interval; None if no image is defined in all rows."""
        means, draws, n = resampled_means(self.rows)
        if n == 0:
            return None
        low, high = percentile_interval(self.formula(draws), n) if n >= 2 else (None, None)
        return Number(float(self.formula(means)), low, high, n, _seeds(self.rows), self.where, self.floor)

    def over(self, images: Sequence[str]) -> tuple[Array, ...]:
        """Return the rows over some of the images."""
        place = {key: index for index, key in enumerate(self.images)}
        chosen = [place[key] for key in images]
        return tuple(row[:, chosen] for row in self.rows)


@dataclass(frozen=True)
class Subject:
    """A model of a known family.

    Attributes:
        name: row name.
        family: of the claims.
        rows: of the chosen method, by stage, in chain order.
        floors: of the mean image, by stage.
        relation: how its stages relate.
        left_out: rows of the method that were stopped before they converged.
    """

    name: str
    family: Family
    rows: dict[str, Row]
    floors: dict[str, Row]
    relation: RelationRecord | None = None
    left_out: tuple[Row, ...] = ()

    @property
    def encoder(self) -> list[str]:
        """Return the stages up to the end of the encoder."""
        return [stage for stage in self.rows if not stage.startswith(BEHIND_ENCODER)]

    @property
    def regime(self) -> str:
        """Return the regime of the rows in words; of each stage where they differ."""
        stages: dict[str, list[str]] = {}
        for stage, row in self.rows.items():
            stages.setdefault(row.regime.text, []).append(stage)
        if len(stages) == 1:
            return next(iter(stages))
        return "; ".join(f"{', '.join(own)}: {regime}" for regime, own in stages.items())


@dataclass(frozen=True)
class Part:
    """What one method says of the models of one suite.

    Attributes:
        results: of the suite.
        method: whose reconstructions are read.
        models: of a known family, with finished cells of it.
        claims: with what records say of their checks.
    """

    results: Results
    method: str
    models: list[Subject]
    claims: dict[Claim, list[Line]]


def findings_markdown(suites: Iterable[Results], methods: Sequence[str] = ("modular",)) -> str:
    """Return the page of findings.

    Args:
        suites: results of each suite.
        methods: rows whose reconstructions are read, one after the other; of rows with several budgets those of the
            largest.

    Raises:
        UsageError: for a method of which a suite has no records.
    """
    parts = [_part(results, method) for results in suites for method in methods]
    every = [entry for part in parts for rows in part.claims.values() for row in rows for entry in row.entries]
    known = [p for entry in every if (p := entry.p) is not None]
    named = f"the method{'s' * (len(methods) > 1)} {' and '.join(f'`{method}`' for method in methods)}"
    correction, lines = holm(known), ["# Findings: the paper's claims, measured", ""]
    read = [part for part in parts if part.models]
    if read:
        lines += [*_opening(read, correction), ""]
    lines.append(INTRODUCTION.format(methods=named, fewest=FEWEST, checks=len(known)))
    if read:
        head = ["Claim", *(f"{part.results.name}, `{part.method}`" for part in read)]
        body = [[claim.text, *(_verdict(part.claims[claim], correction) for part in read)] for claim in CLAIMS]
        lines += [markdown_table(body, head), ""]
    heading = None
    for part in parts:
        if part.results is not heading:
            lines += [f"## {part.results.title}", ""]
            heading = part.results
        if not part.models:
            lines += [f"No model of a known family has finished cells of `{part.method}`.", ""]
            continue
        lines += [_subject_line(subject, part.method) for subject in part.models] + [""]
        for claim, rows in part.claims.items():
            lines += claim_section(claim, part.models, rows, part.method, correction)
    return "\n".join(lines).rstrip() + "\n"


def _opening(parts: Sequence[Part], correction: Correction) -> list[str]:
    """Return three sentences: what the page shows, at which budgets, and how many claims hold."""
    models = [(part, subject) for part in parts for subject in part.models]
    rows = [row for _, subject in models for row in subject.rows.values()]
    said = []
    for claim in CLAIMS:
        verdicts: dict[str, list[str]] = {}
        for part in parts:
            counts = _counts([[_cell(entry, correction) for entry in line.entries] for line in part.claims[claim]])
            verdicts.setdefault(overall(counts), []).append(f"{part.results.name} by `{part.method}`")
        each = [f"{verdict} ({', '.join(where)})" for verdict, where in verdicts.items()]
        said.append(f"{claim.title} {listed(each) if len(each) > 1 else next(iter(verdicts))}")
    return [
        f"This page shows which of {len(CLAIMS)} claims of Rathjens et al. 2024 hold for "
        f"{listed(dict.fromkeys(f'`{subject.name}`' for _, subject in models))}, as "
        f"{listed(dict.fromkeys(f'`{part.method}`' for part in parts))} read their representations, on "
        f"{listed(dict.fromkeys(str(len(row.images)) for row in rows))} scored images.",
        f"The methods are {budgets_text(rows)}.",
        f"Claim by claim: {'; '.join(said)}.",
    ]


def _part(results: Results, method: str) -> Part:
    methods = {name for record in results for name in (record.cell.method, table_of(record.cell.method)[0])}
    if method not in methods:
        raise unknown_name(f"method of suite '{results.name}'", method, methods)
    models = subjects(results, method)
    return Part(results, method, models, {claim: lines_of(claim, models) for claim in CLAIMS} if models else {})


def _subject_line(subject: Subject, method: str) -> str:
    left = "; ".join(f"{row.stage} ({row.regime.text})" for row in subject.left_out)
    return (
        f"- `{subject.name}` ({subject.family}): {', '.join(subject.rows)}, read out by `{method}` ({subject.regime}); "
        f"encoder up to `{subject.encoder[-1]}`{f'. Left out: {left}' if left else ''}."
    )


def _verdict(lines: Sequence[Line], correction: Correction) -> str:
    """Return the conclusion on a claim, and how many checks say what."""
    counts = _counts([[_cell(entry, correction) for entry in line.entries] for line in lines])
    conclusion = overall(counts)
    return f"**{conclusion}** ({_counted(counts)})" if len(counts) > 1 else f"**{conclusion}** ({counts.total()})"


def subjects(results: Results, method: str) -> list[Subject]:
    """Return the models that the claims speak of, with at least one encoder stage inverted by ``method``."""
    by_model: dict[str, list[Row]] = {}
    for row in rows_of(results.records):
        if row.done:
            by_model.setdefault(row.model, []).append(row)
    models = []
    for name, rows in by_model.items():
        weights = rows[0].done[0].weights
        family = family_of(name, weights.source if weights is not None else "")
        read = _largest_budget(rows, method)
        own = {row.stage: row for row in read if not row.unconverged}
        floors = {row.stage: row for row in rows if row.method == FLOOR}
        relation = next((r for r in results.relations if r.cell.model == name and r.ok), None)
        if family is not None and any(not stage.startswith(BEHIND_ENCODER) for stage in own):
            left_out = tuple(row for row in read if row.unconverged)
            models.append(Subject(name, family, own, floors, relation, left_out))
    return models


def _largest_budget(rows: Sequence[Row], method: str) -> list[Row]:
    """Return the rows of a method; those of its largest budget where the suite gives it several."""
    own = [row for row in rows if row.method == method]
    budgets = {int(passes) for row in rows for table, passes in [table_of(row.method)] if table == method and passes}
    return own or [row for row in rows if budgets and row.method == f"{method}{AT}{max(budgets)}"]


def family_of(name: str, source: str) -> Family | None:
    """Return the family of a model by its name and where its weights come from; None if no claim is about it."""
    text = f"{name} {source}".lower()
    return next((family for family, words in FAMILIES.items() if any(word in text for word in words)), None)


@dataclass(frozen=True)
class Correction:
    """What tells several checks from chance together, by Holm's method (1979).

    Attributes:
        cutoff: the largest probability of chance that still counts as told.
        following: what the next one would have to be.
    """

    cutoff: float
    following: float


#: for a check by itself
ALONE = Correction(1.0, LEVEL)


@dataclass(frozen=True)
class Entry:
    """A number that is held against a rule.

    Attributes:
        number: None where it was not measured.
        rule: None where the claim says nothing of it.
        missing: why there is no number.
    """

    number: Number | None
    rule: Rule | None
    missing: str = ""

    @property
    def p(self) -> float | None:
        """Return how likely such a distance from the bound is by chance; None where nothing is held against one."""
        return None if self.number is None or self.rule is None else p_value(self.number, self.rule)


@dataclass(frozen=True)
class Line:
    """A check of a claim: an entry per model, and one per pair of a ViT and a DETR."""

    check: Check
    entries: tuple[Entry, ...]


def lines_of(claim: Claim, models: Sequence[Subject]) -> list[Line]:
    """Return what the records say of a claim's checks."""
    lines = []
    for check in claim.checks:
        entries = [Entry(number_of(check, one), check.rule(one.family), _why_missing(check, one)) for one in models]
        for pair in _pairs(models):
            number = difference(check, *pair) if check.difference else None
            entries.append(Entry(number, check.difference, "not measured" if check.difference else ""))
        lines.append(Line(check, tuple(entries)))
    return lines


def _pairs(models: Sequence[Subject]) -> list[tuple[Subject, Subject]]:
    """Return every pair of a ViT and a DETR."""
    return [(a, b) for a, b in product(models, models) if (a.family, b.family) == ("ViT", "DETR")]


def claim_section(
    claim: Claim,
    models: Sequence[Subject],
    lines: Sequence[Line],
    method: str = "modular",
    correction: Correction = ALONE,
) -> list[str]:
    """Return lines of markdown: the checks as a table, with a column per model and per pair of a ViT and a DETR.

    Args:
        claim: that is checked.
        models: its subjects.
        lines: what the records say of its checks (`lines_of`).
        method: name of the rows that are read.
        correction: for the number of checks.
    """
    cells = [[_cell(entry, correction) for entry in line.entries] for line in lines]
    body = [
        [f"{line.check.description} (`{line.check.measure}`{_unit(line.check, models)})", *(text for text, _ in row)]
        for line, row in zip(lines, cells, strict=True)
    ]
    head = [
        "Check",
        *(f"{s.name} ({s.family}), {s.regime}" for s in models),
        *(f"{a.name} minus {b.name}" for a, b in _pairs(models)),
    ]
    counts = _counts(cells)
    regimes = " and ".join(dict.fromkeys(subject.regime for subject in models))
    return [
        f"### {claim.title}: {overall(counts)}, by `{method}` ({regimes})",
        "",
        f"*{claim.text}* Checks: {_counted(counts)}.",
        "",
        markdown_table(body, head),
        "",
    ]


def _unit(check: Check, models: Sequence[Subject]) -> str:
    """Return the unit of a check's number, behind a comma; "" for a share, or a measure without one."""
    rows = [subject.rows[subject.encoder[-1]] for subject in models] if check.quantity == "last" else []
    units = (own.unit for row in rows if (own := row.measurement(check.measure)) is not None and own.unit)
    return "".join(f", {unit}" for unit in dict.fromkeys(units))


def _counts(cells: Sequence[Sequence[tuple[str, Conclusion | None]]]) -> Counter[Conclusion]:
    return Counter(conclusion for row in cells for _, conclusion in row if conclusion is not None)


def _counted(counts: Counter[Conclusion]) -> str:
    known: tuple[Conclusion, ...] = ("holds", "fails", "cannot be told")
    return ", ".join(f"{counts[one]} {one}" for one in known if counts[one]) or "none measured"


def overall(counts: Counter[Conclusion]) -> str:
    """Return the conclusion on a claim from those on its checks."""
    if not counts:
        return "not measured"
    if counts["holds"] and counts["fails"]:
        return "holds in part"
    return next(iter(counts)) if len(counts) == 1 else "cannot be told"


def conclude(number: Number, rule: Rule, correction: Correction = ALONE) -> Conclusion | None:
    """Return what a number says by a rule; None if the rule's bound is a floor that the records do not have.

    Args:
        number: with its interval.
        rule: that it is held against.
        correction: for the number of checks.
    """
    bound, p = _bound(number, rule), p_value(number, rule)
    if bound is None:
        return None
    if number.low is None or number.high is None or number.n < FEWEST or p is None or p > correction.cutoff:
        return "cannot be told"
    above, below = number.low > bound, number.high < bound
    if above or below:
        return "holds" if above == (rule.side == "above") else "fails"
    return "cannot be told"


def _bound(number: Number, rule: Rule) -> float | None:
    return number.floor if rule.bound is None else rule.bound


def p_value(number: Number, rule: Rule) -> float | None:
    """Return how likely a number at least so far from its bound is by chance; None without bound or interval.

    The bootstrap's interval is taken as that of a normal distribution, on the side of the bound.
    """
    bound = _bound(number, rule)
    if bound is None or number.low is None or number.high is None:
        return None
    distance = abs(number.value - bound)
    reach = number.value - number.low if number.value > bound else number.high - number.value
    if reach <= 0:
        return float(distance == 0)
    return erfc(distance / reach * Z95 / sqrt(2))


def holm(values: Sequence[float], level: float = LEVEL) -> Correction:
    """Return the correction for several probabilities of chance, so that any error is as likely as ``level``.

    Examples:
        >>> holm([0.04, 0.001, 0.02])
        Correction(cutoff=0.04, following=0.05)
        >>> holm([0.04, 0.001, 0.03])
        Correction(cutoff=0.001, following=0.025)
    """
    cutoff = 0.0
    for place, value in enumerate(sorted(values)):
        following = level / (len(values) - place)
        if value > following:
            return Correction(cutoff, following)
        cutoff = value
    return Correction(cutoff, level)


def images_to_tell(number: Number, rule: Rule, correction: Correction = ALONE) -> float:
    """Return about how many images would tell a number from its bound, if its mean and their spread stay.

    Intervals shrink with the square root of n; infinite for a number that lies on the bound or has no interval.
    """
    p = p_value(number, rule)
    if p is None or p >= 1:
        return inf
    standard_errors = (_normal(probability) for probability in (min(LEVEL, correction.following), p))
    wanted, reached = standard_errors
    return max(FEWEST, number.n * (wanted / reached) ** 2) if reached else inf


def _normal(p: float) -> float:
    """Return how many standard errors from the mean both tails of a normal distribution are as likely as ``p``."""
    return NormalDist().inv_cdf(1 - p / 2)


def number_of(check: Check, subject: Subject) -> Number | None:
    """Return the check's number for one model; None if the records do not have it."""
    if check.quantity == "between":
        return _between(check, subject)
    combination = _combination(check.measure, check.quantity, subject)
    return None if combination is None else combination.number()


def difference(check: Check, first: Subject, second: Subject) -> Number | None:
    """Return the difference of the check's number between two models, paired over the images both have."""
    a, b = (_combination(check.measure, check.quantity, subject) for subject in (first, second))
    if a is None or b is None:
        return None
    where = f"{first.name} {a.where} - {second.name} {b.where}"
    theirs = set(b.images)
    images = tuple(key for key in a.images if key in theirs)
    if len(images) >= 2:
        rows = (*a.over(images), *b.over(images))
        means, draws, n = resampled_means(rows)
        if n >= 2:
            split = len(a.rows)
            drawn = a.formula(draws[:, :split]) - b.formula(draws[:, split:])
            value = float(a.formula(means[:split]) - b.formula(means[split:]))
            return Number(value, *percentile_interval(drawn, n), n, _seeds(rows), where)
    (one, a_draws, n_a), (two, b_draws, n_b) = resampled_means(a.rows), resampled_means(b.rows)
    if min(n_a, n_b) < 2:
        return None
    # no images in common: each model's own resamples, put together at random
    other = b.formula(b_draws)[np.random.default_rng(0).permutation(len(b_draws))]
    value = float(a.formula(one) - b.formula(two))
    low, high = percentile_interval(a.formula(a_draws) - other, min(n_a, n_b))
    return Number(value, low, high, min(n_a, n_b), _seeds((*a.rows, *b.rows)), f"{where}, unpaired")


def _combination(measure: str, quantity: Quantity, subject: Subject) -> Combination | None:
    """Return how a quantity is computed from a model's rows; None if the records do not have them."""
    first, last = subject.encoder[0], subject.encoder[-1]
    if quantity == "last":
        return _combine(measure, [subject.rows[last]], lambda means: means[..., 0], last)
    if first == last or last not in subject.floors:
        return None
    rows = [subject.rows[first], subject.rows[last], subject.floors[last]]
    combination = _combine(measure, rows, _left, f"{first} to {last}")
    # a share of nothing says nothing: the first stage must be better than the mean image
    if combination is None or not _gains(rows[0], measure, resampled_means(combination.rows)[0]):
        return None
    return combination


def _left(means: Array) -> Array:
    """Return the share of the gain over the floor that is left, from means (..., 3) of first, last stage and floor."""
    gain = means[..., 0] - means[..., 2]
    return (means[..., 1] - means[..., 2]) / np.where(gain == 0, np.nan, gain)


def _gains(row: Row, measure: str, means: Array) -> bool:
    """Tell whether the first stage's mean is better than the floor's."""
    sign = -1 if row.having(measure)[0].measurements[measure].direction == "lower" else 1
    return bool(sign * (means[0] - means[2]) > 0)


def _combine(measure: str, rows: Sequence[Row], formula: Callable[[Array], Array], where: str) -> Combination | None:
    if not all(row.having(measure) for row in rows):
        return None
    images = tuple(dict.fromkeys(key for row in rows for record in row.done for key in record.images))
    floor = rows[0].having(measure)[0].measurements[measure].floor
    return Combination(tuple(row.values(measure, list(images)) for row in rows), images, formula, where, floor)


def _seeds(rows: Sequence[Array]) -> int:
    return max(len(row) for row in rows)


def _between(check: Check, subject: Subject) -> Number | None:
    """Return the number of the least favourable pair of neighbouring encoder stages."""
    rule = check.rule(subject.family)
    assert rule is not None, "a check between stages has a rule for both families"
    numbers = _neighbours_cka(subject) if check.measure == "cka" else _neighbours_cross(check.measure, subject)
    worst = min if rule.side == "above" else max
    return worst(numbers, key=lambda number: number.value) if numbers else None


def _neighbours_cka(subject: Subject) -> list[Number]:
    if subject.relation is None:
        return []
    stages, cka = subject.relation.body["stages"], subject.relation.body["cka"]
    numbers = []
    for first, second in pairwise(stage for stage in stages if not stage.startswith(BEHIND_ENCODER)):
        i, j = stages.index(first), stages.index(second)
        value, low, high = (cka[key][i][j] for key in ("value", "low", "high"))
        if value is not None:
            numbers.append(Number(value, low, high, cka["n"], 1, f"{first} and {second}"))
    return numbers


def _neighbours_cross(measure: str, subject: Subject) -> list[Number]:
    """Return numbers of the first seed: a measurement holds a summary for each other stage of the same layout."""
    numbers = []
    for first, second in pairwise(subject.encoder):
        for stage, other in ((first, second), (second, first)):
            having = subject.rows[stage].having(measure)
            row: dict[str, Any] = having[0].measurements[measure].facts.get("row", {}) if having else {}
            if other in row and row[other]["mean"] is not None:
                mean, low, high, n = (row[other][key] for key in ("mean", "low", "high", "n"))
                numbers.append(Number(mean, low, high, n, 1, f"inverse of {stage} at {other}"))
    return numbers


def _why_missing(check: Check, subject: Subject) -> str:
    """Return why there is no number."""
    stages = (subject.encoder[0], subject.encoder[-1])
    if check.quantity == "left" and all(subject.rows[stage].having(check.measure) for stage in stages):
        if stages[0] == stages[1] or stages[1] not in subject.floors:
            return f"needs two encoder stages and the method `{FLOOR}`"
        return f"{stages[0]} is no better than the mean image"
    return "not measured"


def _cell(entry: Entry, correction: Correction) -> tuple[str, Conclusion | None]:
    """Return the text of a table's cell and what it says, which is None where there is no rule or no number."""
    number, rule = entry.number, entry.rule
    if number is None:
        return entry.missing, None
    interval = "" if number.low is None or number.high is None else f" [{number.low:.2f}, {number.high:.2f}]"
    seeds = f", {number.seeds} seeds" if number.seeds > 1 else ""
    text = f"{number.value:.2f}{interval} (n={number.n}{seeds}; {number.where})"
    conclusion = conclude(number, rule, correction) if rule else None
    if rule is None or conclusion is None:
        return text + (", no floor to hold it against" if rule else ""), None
    bound = f"floor {number.floor:.2f}" if rule.bound is None else f"{rule.bound:g}"
    text = f"{text}, {rule.side} {bound}: **{conclusion}**"
    if conclusion == "cannot be told" and interval:
        needed = images_to_tell(number, rule, correction)
        text += " (no number of images would)" if needed > MOST_IMAGES else f" (about {needed:,.0f} images would)"
    return text, conclusion
