"""User studies: which of two reconstructions keeps more of the object? The plan of a blind study, the answers, and
strengths of methods from them by the model of Bradley & Terry 1952 (doi 10.1093/biomet/39.3-4.324)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, log_expit
from tabulate import tabulate

from invsuite.errors import DataError, UsageError
from invsuite.results.record import Record
from invsuite.results.statistics import percentile_interval

FORMAT = 1  # of plans and answers
CHOICES = ("left", "right", "tie")
RESAMPLES = 500
LIMIT = 10.0  # largest log-odds of a strength; those of a resample in which a method always wins would have no end
OPEN = LIMIT / 2  # an end of an interval beyond this is none: it comes from such resamples

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """One question: the ``image`` (number in the strips of the model) as two methods made it from one stage.

    Attributes:
        left, right: ids of the cells on either side, chosen by chance.
    """

    model: str
    stage: str
    image: int
    methods: tuple[str, str]
    left: str
    right: str


def plan_pairs(records: Sequence[Record], images: int, count: int, seed: int) -> list[Pair]:
    """``count`` questions in random order and with random sides, spread evenly over the pairs of methods.

    Args:
        records: finished cells with pictures, of one seed; order does not matter.
        images: how many images have pictures.
        count: questions wanted; fewer if there are not so many.
        seed: of all chance.

    Raises:
        UsageError: if no two methods share a stage.
    """
    rng = np.random.default_rng(seed)
    stages: dict[tuple[str, str], list[Record]] = {}
    for record in sorted(records, key=lambda r: r.cell.id):
        stages.setdefault((record.cell.model, record.cell.stage), []).append(record)
    by_methods: dict[tuple[str, ...], list[Pair]] = {}
    for (model, stage), cells in stages.items():
        for two in combinations(cells, 2):
            left, right = (two[i].cell for i in rng.permutation(2))
            for image in range(images):
                left, right = (left, right) if rng.random() < 0.5 else (right, left)
                pair = Pair(model, stage, image, (left.method, right.method), left.id, right.id)
                by_methods.setdefault(tuple(sorted(pair.methods)), []).append(pair)
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


def key_of(suite: str, pairs: Sequence[Pair]) -> dict[str, Any]:
    """What tells the methods behind a page: kept away from those who answer."""
    listed = [
        {"model": p.model, "stage": p.stage, "image": p.image, "left": p.methods[0], "right": p.methods[1]}
        | {"cells": [p.left, p.right]}
        for p in pairs
    ]
    digest = hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()[:16]
    return {"format": FORMAT, "suite": suite, "study": digest, "pairs": listed}


@dataclass(frozen=True)
class Answer:
    """One answer: methods by number, and how much of the win is the first's: 1, 0, or one half for a tie."""

    rater: str
    first: int
    second: int
    won: float


def read_key(path: Path) -> dict[str, Any]:
    """The key of a study.

    Raises:
        UsageError: if it is not there or no key.
    """
    key = _read(path, "the key of a study, written by: invsuite study")
    if not isinstance(key.get("pairs"), list) or not isinstance(key.get("study"), str):
        raise UsageError(f"'{path}' is not the key of a study, which `invsuite study` writes")
    return key


def read_answers(paths: Sequence[Path], key: dict[str, Any]) -> tuple[list[str], list[Answer]]:
    """Names of the methods of a study and all answers to it.

    Raises:
        UsageError: naming a file that holds no answers, or answers to another study, or one rater's answers again.
    """
    methods = list(dict.fromkeys(pair[side] for pair in key["pairs"] for side in ("left", "right")))
    answers: list[Answer] = []
    raters: dict[str, Path] = {}
    for path in paths:
        tree = _read(path, "answers, which the page of a study saves")
        rater, given = tree.get("rater"), tree.get("answers")
        if not isinstance(rater, str) or not isinstance(given, list) or not given:
            raise UsageError(f"'{path}' holds no answers: 'rater' and a list 'answers' are what a study's page saves")
        if tree.get("study") != key["study"]:
            raise UsageError(f"'{path}' answers study '{tree.get('study')}', the key is of study '{key['study']}'")
        if rater in raters:
            raise UsageError(f"'{path}' and '{raters[rater]}' are both of rater '{rater}': give each rater once")
        raters[rater] = path
        seen: set[int] = set()
        for number, entry in enumerate(given):
            pair, choice = _entry(entry, len(key["pairs"]), seen, f"'{path}', answer {number + 1}")
            sides = key["pairs"][pair]
            won = {"left": 1.0, "right": 0.0, "tie": 0.5}[choice]
            answers.append(Answer(rater, methods.index(sides["left"]), methods.index(sides["right"]), won))
    return methods, answers


def _read(path: Path, what: str) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read ({error.strerror}); it should be {what}") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise UsageError(f"'{path}' is not JSON: {error}") from error
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise UsageError(f"'{path}' is not of format {FORMAT}; it should be {what}")
    return tree


def _entry(entry: Any, pairs: int, seen: set[int], where: str) -> tuple[int, str]:
    """Number of the pair and the choice."""
    pair, choice = (entry.get("pair"), entry.get("choice")) if isinstance(entry, dict) else (None, None)
    if not isinstance(pair, int) or isinstance(pair, bool) or not 0 <= pair < pairs:
        raise UsageError(f"{where}: 'pair' is {pair!r}, expected a whole number from 0 to {pairs - 1}")
    if choice not in CHOICES:
        raise UsageError(f"{where}: 'choice' is {choice!r}, expected {', '.join(CHOICES)}")
    if pair in seen:
        raise UsageError(f"{where}: pair {pair} is answered twice")
    seen.add(pair)
    return pair, choice


def strengths(wins: Array) -> Array:
    """Log-strengths (methods,) of mean 0 that make wins (methods, methods), of the row over the column, most likely.

    A tie is half a win of each. Method i wins against j with probability 1 / (1 + exp(s_j - s_i)). Each is held within
    `LIMIT`, which matters only where some methods never lose to the others: then no strengths are most likely.
    """
    played = wins + wins.T

    def loss(s: Array) -> tuple[float, Array]:
        gap = s[:, None] - s[None, :]
        gradient = wins.sum(1) - (played * expit(gap)).sum(1)
        return -float((wins * log_expit(gap)).sum()), -gradient

    start = np.zeros(len(wins))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(-LIMIT, LIMIT)] * len(wins))
    return np.asarray(found.x - found.x.mean())


@dataclass(frozen=True)
class Strength:
    """A method's strength: log-odds against the mean method, its 95 % interval (an end is None where the answers set no
    bound), ``n`` answers of which it won ``wins`` and tied ``ties``."""

    method: str
    strength: float
    low: float | None
    high: float | None
    n: int
    wins: int
    ties: int


def analyse(methods: Sequence[str], answers: Sequence[Answer], resamples: int = RESAMPLES) -> list[Strength]:
    """Strengths, best first, of the methods that were compared.

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
    found = []
    for i, (name, value) in enumerate(zip(names, strengths(wins), strict=True)):
        low, high = percentile_interval(draws[:, i])
        mine = (first == i) | (second == i)
        share = np.where(first == i, won, 1 - won)[mine]
        found.append(
            Strength(
                name,
                float(value),
                low=low if abs(low) < OPEN else None,
                high=high if abs(high) < OPEN else None,
                n=int(mine.sum()),
                wins=int((share == 1).sum()),
                ties=int((share == 0.5).sum()),
            )
        )
    return sorted(found, key=lambda s: -s.strength)


def _resample(raters: Sequence[NDArray[np.int_]], answers: int, rng: np.random.Generator) -> Array:
    """How often each answer counts: raters drawn with replacement, then each one's answers."""
    counts = np.zeros(answers)
    for rater in rng.integers(len(raters), size=len(raters)):
        mine = raters[rater]
        np.add.at(counts, rng.choice(mine, size=len(mine)), 1)
    return counts


def study_table(found: Sequence[Strength], raters: int, answers: int) -> str:
    """The strengths, for people."""
    body = [
        [
            s.method,
            f"{s.strength:+.2f}",
            f"[{_end(s.low)}, {_end(s.high)}]",
            f"{100 * float(expit(s.strength)):.0f} %",
            s.wins,
            s.ties,
            s.n,
        ]
        for s in found
    ]
    head = ["Method", "Strength", "95 % interval", "Wins against the mean method", "Won", "Tied", "n"]
    return "\n".join(
        [
            tabulate(body, head, disable_numparse=True),
            "",
            f"Which reconstruction keeps more of the object? {answers} answers of {raters} raters; n counts a method's "
            "answers. Strengths are log-odds (Bradley-Terry, a tie is half a win) and add up to 0; intervals by "
            "bootstrap over raters and answers" + ("." if raters > 1 else "; of one rater they speak of no other."),
        ]
    )


def _end(value: float | None) -> str:
    return "no bound" if value is None else f"{value:+.2f}"
