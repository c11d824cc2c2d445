"""The regime that a row's numbers were measured in: the image passes of its training, or how far its descents came."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from invsuite.results.record import Record

MARK = "†"  # beside the name of a row whose descents have not converged
AT = "@"  # between the name of a method's table and the image passes of its row, where the suite gives it several
UNITS = ((10**9, "G"), (10**6, "M"), (10**3, "k"))


@dataclass(frozen=True)
class Regime:
    """What was spent on a row, and whether that was enough where a rule says so.

    Attributes:
        passes: images that training saw, with repeats; None where nothing is trained.
        budget: image passes that it might have seen; None where the budget is none of image passes.
        iterations: mean number per image of an inversion that repeats one step; its ceiling where it has not converged;
            None where there is none, or nobody counted.
        converged: whether the descents met their stopping rule before the ceiling; None for methods without such a
            rule: their regime is their budget.
        share: of the images whose descent has converged, 0 to 1.
        family: of the method.
    """

    passes: float | None
    budget: float | None
    iterations: float | None
    converged: bool | None
    share: float | None
    family: str

    @property
    def text(self) -> str:
        """Return the regime in words: "25.6k passes", "1,000 iterations, 40 % converged", "closed form".

        A training that stopped early is "192 of 256 passes".
        """
        early = self.passes is not None and self.budget is not None and self.passes < self.budget
        limit = f" of {short(self.budget)}" if early and self.budget is not None else ""
        parts = [] if self.passes is None else [f"{short(self.passes)}{limit} passes"]
        count = "" if self.iterations is None else f"{self.iterations:,.0f} iterations"
        if self.converged and not (self.iterations is None and self.family == "closed form"):
            parts.append(f"converged after {count}" if count else "converged")
        elif self.converged is not False:
            parts += [count] if count else []
        else:
            reached = "not converged" if self.share is None else f"{100 * self.share:.0f} % converged"
            parts.append(f"{count}, {reached}" if count else reached)
        if parts:
            return ", ".join(parts)
        return "closed form" if self.family == "closed form" else "-"


def joint_text(regimes: Sequence[Regime]) -> str:
    """Return in words what was spent on a method at several stages: of numbers that differ the range."""
    texts = list(dict.fromkeys(regime.text for regime in regimes))
    if len(texts) == 1:
        return texts[0]
    passes = [regime.passes for regime in regimes if regime.passes is not None]
    iterations = [regime.iterations for regime in regimes if regime.iterations is not None]
    parts = [f"{_range([short(min(passes)), short(max(passes))])} passes"] if passes else []
    if iterations:
        whole = all(regime.converged for regime in regimes if regime.converged is not None)
        count = _range([f"{min(iterations):,.0f}", f"{max(iterations):,.0f}"])
        parts.append(f"{'converged after ' if whole else ''}{count} iterations{'' if whole else ', not all converged'}")
    return ", ".join(parts) or "; ".join(texts)


def _range(ends: Sequence[str]) -> str:
    return " to ".join(dict.fromkeys(ends))


def short(count: float) -> str:
    """Return a count with at most three digits: 1600 is "1.6k"."""
    for unit, letter in UNITS:
        if count >= unit:
            return f"{count / unit:.3g}{letter}"
    return f"{count:.0f}"


def table_of(method: str) -> tuple[str, str]:
    """Return the name of a method's table in the suite, and the image passes of its row, "" where it has but one.

    Examples:
        >>> table_of("layerwise@1600"), table_of("ridge")
        (('layerwise', '1600'), ('ridge', ''))
    """
    table, _, passes = method.partition(AT)
    return table, passes


def regime_of(records: Iterable[Record]) -> Regime:
    """Return the regime of the records of a row, one per seed: means, and converged where every one is."""
    each = [_regime(record) for record in records]
    known = [regime.converged for regime in each if regime.converged is not None]
    return Regime(
        _mean(regime.passes for regime in each),
        _mean(regime.budget for regime in each),
        _mean(regime.iterations for regime in each),
        all(known) if known else None,
        _mean(regime.share for regime in each),
        each[0].family if each else "",
    )


def _regime(record: Record) -> Regime:
    notes, cost = record.notes, record.cost
    trained = "budget" in record.identity or "curve" in notes
    converged, share, iterations = notes.get("converged"), notes.get("converged_share"), notes.get("iterations")
    if converged is False:
        iterations = notes.get("ceiling", iterations)
    blocks: list[dict[str, Any]] = notes.get("blocks", [])  # each inverted by iterations of its own
    if blocks:
        iterations = max(block["iterations"] for block in blocks)
        share = min(block["converged_share"] for block in blocks)
    if iterations is None and "inversion_curve" in notes:  # the record of an earlier version
        iterations = notes["inversion_curve"][-1]["iteration"]
    passes = float(cost.fit_image_passes) if trained and cost is not None else None
    budget = record.identity.get("budget", {}).get("image_passes")
    return Regime(passes, budget, iterations, converged, share, record.cell.family)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
