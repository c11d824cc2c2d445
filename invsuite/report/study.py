"""Blind user studies: which of two reconstructions keeps more of the object?

The plan of a study, its page, the answers, and strengths of methods from them by the model of Bradley & Terry 1952
(doi 10.1093/biomet/39.3-4.324).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, log_expit
from tabulate import tabulate

from invsuite._system.validation import Natural, NotEmpty, build
from invsuite.errors import DataError, UsageError
from invsuite.report.figures import Pictures, first_pictures, originals
from invsuite.report.html import environment
from invsuite.report.results import Results
from invsuite.results.record import CellName, Record
from invsuite.results.regime import regime_of
from invsuite.results.statistics import percentile_interval

FORMAT = 1  # of keys and answers
SIDES = (256, 128)  # pixels of a picture's longer side: people look closely
QUALITY = 95  # of WebP
RESAMPLES = 500
LIMIT = 10.0  # largest log-odds of a strength; those of a resample in which a method always wins would have no end
OPEN = LIMIT / 2  # an end of an interval beyond this is none: it comes from such resamples

Array = NDArray[np.float64]
Choice = Literal["left", "right", "tie"]
WON: dict[Choice, float] = {"left": 1.0, "right": 0.0, "tie": 0.5}  # how much of the win is the left one's
T = TypeVar("T", "Key", "AnswerFile")


@dataclass(frozen=True)
class Pair:
    """One question: an image as two methods reconstruct it from one stage.

    Attributes:
        model: whose stage it is.
        stage: of the representation.
        image: number of the image in the model's strips.
        left: method on the left side, chosen by chance.
        right: method on the other.
        cells: ids of the two cells.
    """

    model: str
    stage: str
    image: Natural
    left: str
    right: str
    cells: tuple[str, str]


@dataclass(frozen=True)
class Key:
    """What tells the methods behind a study's page: it is kept away from those who answer.

    Attributes:
        format: `FORMAT`.
        suite: whose pictures are shown.
        study: digest of the pairs, by which answers find their key.
        pairs: in the order of the questions.
        budgets: the regime of every method, in words.
    """

    format: int
    suite: str
    study: str
    pairs: Annotated[tuple[Pair, ...], NotEmpty()]
    budgets: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AnswerEntry:
    """One answer as the page saves it: the number of the pair, the choice, and the seconds it took."""

    pair: Natural
    choice: Choice
    seconds: float = 0.0


@dataclass(frozen=True)
class AnswerFile:
    """The answers of one rater as the page saves them."""

    format: int
    study: str
    rater: str
    answers: Annotated[tuple[AnswerEntry, ...], NotEmpty()]
    suite: str = ""


@dataclass(frozen=True)
class Answer:
    """One answer: methods by number, and how much of the win is the first's: 1, 0, or one half for a tie."""

    rater: str
    first: int
    second: int
    won: float


@dataclass(frozen=True)
class Strength:
    """A method's strength.

    Attributes:
        method: its row name.
        strength: log-odds against the mean method.
        low: end of the 95 % interval, None where the answers set no bound.
        high: other end.
        n: answers.
        wins: how many of them it won.
        ties: how many were ties.
    """

    method: str
    strength: float
    low: float | None
    high: float | None
    n: int
    wins: int
    ties: int


def plan_pairs(records: Sequence[Record], images: int, count: int, seed: int) -> list[Pair]:
    """Return ``count`` questions in random order and with random sides, spread evenly over the pairs of methods.

    Args:
        records: finished cells with pictures, of one seed; their order does not matter.
        images: how many images have pictures.
        count: questions; fewer if there are not so many.
        seed: of all chance.

    Raises:
        UsageError: if no two methods share a stage.
    """
    rng = np.random.default_rng(seed)
    stages: dict[tuple[str, str], list[CellName]] = {}
    for cell in sorted((record.cell for record in records), key=lambda cell: cell.id):
        stages.setdefault((cell.model, cell.stage), []).append(cell)
    by_methods: dict[tuple[str, ...], list[Pair]] = {}
    for (model, stage), cells in stages.items():
        for two in combinations(cells, 2):
            left, right = (two[i] for i in rng.permutation(2))
            for image in range(images):
                left, right = (left, right) if rng.random() < 0.5 else (right, left)
                pair = Pair(model, stage, image, left.method, right.method, (left.id, right.id))
                by_methods.setdefault(tuple(sorted((left.method, right.method))), []).append(pair)
    if not by_methods:
        raise UsageError("a study needs two methods with pictures at the same stage: run the suite first")
    for pairs in by_methods.values():
        rng.shuffle(pairs)  # type: ignore[arg-type]
    depth = max(map(len, by_methods.values()))
    rounds = [[pairs[i] for pairs in by_methods.values() if i < len(pairs)] for i in range(depth)]
    for each in rounds:
        rng.shuffle(each)  # type: ignore[arg-type]
    chosen = [pair for each in rounds for pair in each][:count]
    rng.shuffle(chosen)  # type: ignore[arg-type]
    return chosen


def key_of(suite: str, pairs: Sequence[Pair], budgets: Mapping[str, str] | None = None) -> Key:
    """Return the key of a study, with the regime of every method in words."""
    listed = json.dumps([asdict(pair) for pair in pairs], sort_keys=True)
    return Key(FORMAT, suite, hashlib.sha256(listed.encode()).hexdigest()[:16], tuple(pairs), dict(budgets or {}))


def make_study(results: Results, methods: Collection[str], count: int, seed: int) -> tuple[Key, str]:
    """Return the key of a study and its page: reconstructions side by side, and nothing that tells whose they are.

    Args:
        results: of a suite; cells of the first seed whose pictures are kept are compared, but none that was stopped
            before it converged.
        methods: names of those that are compared.
        count: questions.
        seed: of all chance; also of the order of the pictures in the page, which would else tell how they were
            collected.

    Raises:
        UsageError: if no two methods have pictures at the same stage.
    """
    pictures = {
        record.cell.id: first
        for record in results.done
        if record.cell.method in methods
        and regime_of([record]).converged is not False
        and record.cell.seed == results[0].cell.seed
        and (first := first_pictures(results.store_of(record), record))
    }
    records = [record for record in results.done if record.cell.id in pictures]
    images = {record.cell.model: originals(results.store_of(record), record) for record in records}
    depth = min(map(len, (*pictures.values(), *images.values())), default=0)
    budgets: dict[str, dict[str, None]] = {}
    for record in records:
        budgets.setdefault(record.cell.method, {})[regime_of([record]).text] = None
    pairs = plan_pairs(records, depth, count, seed)
    key = key_of(results.name, pairs, {method: "; ".join(regimes) for method, regimes in budgets.items()})
    embedded = Pictures()
    numbers = [
        [embedded.add(row[pair.image]) for row in (images[pair.model], *(pictures[cell] for cell in pair.cells))]
        for pair in key.pairs
    ]
    order = np.random.default_rng([seed, 1]).permutation(len(embedded.pixels))
    place = np.argsort(order)
    encoded = embedded.encode(SIDES, QUALITY)
    page = {
        "format": FORMAT,
        "suite": key.suite,
        "study": key.study,
        "choices": get_args(Choice),
        "pairs": [[int(place[number]) for number in each] for each in numbers],
        "pictures": [encoded[number] for number in order],
    }
    return key, environment().get_template("study.html").render(title="Which reconstruction keeps more?", page=page)


def key_path(folder: Path, suite: str) -> Path:
    """Return the file of the key of a suite's study."""
    return folder / f"{suite}-study-key.json"


def read_key(path: Path) -> Key:
    """Return the key of a study.

    Raises:
        UsageError: if it is not there or no key.
    """
    return _read(path, Key, "the key of a study, written by: invsuite study")


def read_answers(paths: Sequence[Path], key: Key) -> tuple[list[str], list[Answer]]:
    """Return the names of a study's methods and all answers to it.

    Raises:
        UsageError: naming a file that holds no answers, or answers to another study, or one rater's answers again.
    """
    methods = list(dict.fromkeys(method for pair in key.pairs for method in (pair.left, pair.right)))
    answers: list[Answer] = []
    raters: dict[str, Path] = {}
    for path in paths:
        file = _read(path, AnswerFile, "answers, which the page of a study saves")
        if file.study != key.study:
            raise UsageError(f"'{path}' answers study '{file.study}', the key is of study '{key.study}'")
        if file.rater in raters:
            other = raters[file.rater]
            raise UsageError(f"'{path}' and '{other}' are both of rater '{file.rater}': give each rater once")
        raters[file.rater] = path
        answered: set[int] = set()
        for number, entry in enumerate(file.answers):
            if entry.pair >= len(key.pairs) or entry.pair in answered:
                fault = "answered twice" if entry.pair in answered else f"not one of {len(key.pairs)}"
                raise UsageError(f"'{path}', answers[{number}]: pair {entry.pair} is {fault}")
            answered.add(entry.pair)
            pair = key.pairs[entry.pair]
            left, right = methods.index(pair.left), methods.index(pair.right)
            answers.append(Answer(file.rater, left, right, WON[entry.choice]))
    return methods, answers


def strengths(wins: Array) -> Array:
    """Return log-strengths (methods,) of mean 0 that make wins (methods, methods), of row over column, most likely.

    A tie is half a win of each. Method i wins against j with probability 1 / (1 + exp(s_j - s_i)). Each is held within
    `LIMIT`, which matters only where some methods never lose to the others: then no strengths are most likely.
    """
    played = wins + wins.T

    def loss(s: Array) -> tuple[float, Array]:
        gap = s[:, None] - s[None, :]
        gradient = wins.sum(1) - (played * expit(gap)).sum(1)
        return -float((wins * log_expit(gap)).sum()), -gradient

    start = np.zeros(len(wins))
    optimum = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(-LIMIT, LIMIT)] * len(wins))
    return np.asarray(optimum.x - optimum.x.mean())


def analyse(methods: Sequence[str], answers: Sequence[Answer], resamples: int = RESAMPLES) -> list[Strength]:
    """Return the strengths, best first, of the methods that were compared.

    Intervals are percentiles of a bootstrap over raters and, within each, over answers.

    Raises:
        DataError: if some methods always won against the rest: then no strengths are most likely.
    """
    compared = sorted({m for a in answers for m in (a.first, a.second)})
    names = [methods[m] for m in compared]
    numbers = {m: i for i, m in enumerate(compared)}
    first, second = (np.array([numbers[getattr(a, side)] for a in answers]) for side in ("first", "second"))
    won = np.array([a.won for a in answers])
    size = len(compared)

    def table(counts: Array) -> Array:
        """Return the wins (methods, methods) where each answer counts as often as ``counts`` says."""
        wins = np.zeros((size, size))
        np.add.at(wins, (first, second), counts * won)
        np.add.at(wins, (second, first), counts * (1 - won))
        return wins

    wins = table(np.ones(len(answers)))
    parts, which = connected_components(wins > 0, directed=True, connection="strong")
    if parts > 1:
        groups = "; ".join(", ".join(n for n, w in zip(names, which, strict=True) if w == p) for p in range(parts))
        raise DataError(
            f"the {len(answers)} answers do not join all methods: groups that only won or only lost against each "
            f"other, or never met ({groups}); more answers are needed"
        )
    raters = [np.flatnonzero([a.rater == rater for a in answers]) for rater in dict.fromkeys(a.rater for a in answers)]
    rng = np.random.default_rng(0)
    draws = np.stack([strengths(table(_resample(raters, len(answers), rng))) for _ in range(resamples)])
    ranked = []
    for i, (name, value) in enumerate(zip(names, strengths(wins), strict=True)):
        low, high = percentile_interval(draws[:, i])
        own = (first == i) | (second == i)
        share = np.where(first == i, won, 1 - won)[own]
        ranked.append(
            Strength(
                name,
                float(value),
                low=low if abs(low) < OPEN else None,
                high=high if abs(high) < OPEN else None,
                n=int(own.sum()),
                wins=int((share == 1).sum()),
                ties=int((share == 0.5).sum()),
            )
        )
    return sorted(ranked, key=lambda s: -s.strength)


def study_table(ranked: Sequence[Strength], raters: int, answers: int, budgets: Mapping[str, str]) -> str:
    """Return the strengths as a table for people.

    Args:
        ranked: strengths, best first.
        raters: how many answered.
        answers: how many answers they gave.
        budgets: the regime of every method.
    """
    body = [
        [
            s.method,
            budgets.get(s.method, "-"),
            f"{s.strength:+.2f}",
            f"[{_end(s.low)}, {_end(s.high)}]",
            f"{100 * float(expit(s.strength)):.0f} %",
            s.wins,
            s.ties,
            s.n,
        ]
        for s in ranked
    ]
    head = ["Method", "Budget", "Strength", "95 % interval", "Wins against the mean method", "Won", "Tied", "n"]
    return "\n".join(
        [
            tabulate(body, head, disable_numparse=True),
            "",
            f"Which reconstruction keeps more of the object? {answers} answers of {raters} raters; n counts a method's "
            "answers. Strengths are log-odds (Bradley-Terry, a tie is half a win) and add up to 0; intervals by "
            "bootstrap over raters and answers" + ("." if raters > 1 else "; of one rater they speak of no other."),
        ]
    )


def _read(path: Path, cls: type[T], what: str) -> T:
    """Return the file of this class at ``path``; ``what`` says in errors what it should be."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read ({error.strerror}); it should be {what}") from error
    except ValueError as error:
        raise UsageError(f"'{path}' is not JSON: {error}") from error
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise UsageError(f"'{path}' is not of format {FORMAT}; it should be {what}")
    try:
        return build(cls, tree)
    except UsageError as error:
        raise UsageError(f"'{path}': {error}; it should be {what}") from error


def _resample(raters: Sequence[NDArray[np.int_]], answers: int, rng: np.random.Generator) -> Array:
    """Return how often each answer counts: raters are drawn with replacement, then each one's answers."""
    counts = np.zeros(answers)
    for rater in rng.integers(len(raters), size=len(raters)):
        own = raters[rater]
        np.add.at(counts, rng.choice(own, size=len(own)), 1)
    return counts


def _end(value: float | None) -> str:
    return "no bound" if value is None else f"{value:+.2f}"
