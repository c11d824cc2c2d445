"""Leaderboards rendered from records: markdown for people, CSV for programs."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from invsuite.metrics import METRICS
from invsuite.metrics.base import Metric
from invsuite.report.algebra import algebra_section
from invsuite.report.gap import gap_section
from invsuite.report.interlayer import interlayer_section
from invsuite.store import Record

ARROWS = {"higher": "↑", "lower": "↓", "one": "→1"}

CSV_KEY = ("suite", "model", "stage", "method", "seed")
CSV_END = ("ceiling", "reason", "cell")


def distance_from_best(direction: str, value: float) -> float:
    """A number that is smaller for a better ``value``, whatever the measure's direction."""
    return {"higher": -value, "lower": value, "one": abs(value - 1)}[direction]


def markdown(
    title: str,
    records: Sequence[Record],
    strips: Sequence[str] = (),
    relations: Sequence[Record] = (),
    maps: Sequence[str] = (),
) -> str:
    """The leaderboard: one table a model, stages in chain order, best value of each stage in bold.

    Args:
        title: heading, which says what suite this is.
        records: in the order of the matrix.
        strips: file names of the strips of pictures to show.
        relations: records of how the stages of models relate.
        maps: file names of their heat maps.
    """
    done = [r for r in records if r["status"] == "ok"]
    lines = [f"# {title}", ""]
    lines += _facts(records, done)
    for model in dict.fromkeys(r["cell"]["model"] for r in records):
        rows = [r for r in records if r["cell"]["model"] == model]
        lines += [f"## {model}", "", _table(rows), ""]
        lines += [f"![{name}]({name})\n" for name in strips if name.endswith(f"-{model}.png")]
    lines += algebra_section(done)
    lines += gap_section(done)
    lines += interlayer_section(done, relations, maps)
    lines += _missing(records)
    lines += _legend(done)
    return "\n".join(lines).rstrip() + "\n"


def terminal(records: Sequence[Record]) -> str:
    """The same numbers without intervals, narrow enough for a terminal."""
    return _table(list(records), compact=True)


def to_csv(records: Sequence[Record]) -> str:
    """One line a cell and measure, plus its costs: every number with unit, direction, n and interval."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        [*CSV_KEY, "status", "measure", "unit", "direction", "n", "mean", "ci95_low", "ci95_high", *CSV_END]
    )
    for record in records:
        cell = record["cell"]
        head = [cell[key] for key in CSV_KEY]
        if record["status"] != "ok":
            writer.writerow([*head, record["status"], *[""] * 8, record["reason"], cell["id"]])
            continue
        for name, found in record["metrics"].items():
            numbers = [found.get(k) for k in ("n", "mean", "low", "high", "ceiling")]
            described = [name, found["unit"], found["direction"], *("" if v is None else v for v in numbers)]
            writer.writerow([*head, found["status"], *described, found["reason"], cell["id"]])
        cost = record["cost"]
        for name, unit in (
            ("fit_seconds", "s"),
            ("fit_shared_seconds", "s"),
            ("fit_image_passes", "images"),
            ("fit_flops", "FLOP"),
            ("fit_frozen_flops", "FLOP"),
            ("parameters", "values"),
            ("invert_seconds_per_image", "s"),
            ("invert_flops_per_image", "FLOP"),
            ("fit_peak_bytes", "bytes"),
            ("invert_peak_bytes", "bytes"),
        ):
            if cost.get(name) is None:  # not counted for this method
                continue
            row = [*head, "ok", name, unit, "lower", 1, cost[name], "", "", "", f"clock: {cost['clock']}", cell["id"]]
            writer.writerow(row)
    return buffer.getvalue()


def state_of(record: Record) -> str:
    """The record's status for people: a stage that a method does not apply to is no missing result."""
    return "not applicable" if record.get("settled") else str(record["status"])


def _facts(records: Sequence[Record], done: Sequence[Record]) -> list[str]:
    states = Counter(state_of(r) for r in records)
    lines = [f"{len(records)} cells: " + ", ".join(f"{n} {state}" for state, n in sorted(states.items())) + "."]
    if done:
        origin = done[0]["provenance"]
        code = origin["git"]["sha"]
        shown = f"commit {code[:10]}{' (dirty)' if origin['git']['dirty'] else ''}" if code else "installed package"
        versions = ", ".join(f"{k} {v}" for k, v in origin["versions"].items() if v)
        devices = sorted({r["provenance"]["device"] for r in done})
        data = done[0]["data"]
        lines.append(
            f"Fit on {data['fit']} images, selected on {data['select']}, scored on {data['score']}; the three are "
            f"disjoint. Device: {'; '.join(devices)}, {origin['threads']} threads."
        )
        weights = {r["cell"]["model"]: r["weights"] for r in done}
        named = ", ".join(f"{m}: {w['source']} (SHA-256 {w['sha256'][:12]})" for m, w in weights.items())
        lines.append(f"Weights: {named}.")
        lines.append(f"Code: {shown}, source {origin['source_sha256'][:12]}; {versions}.")
    return [*lines, ""]


def _table(rows: Sequence[Record], compact: bool = False) -> str:
    rows = [r for r in rows if not r.get("settled")]
    done = [r for r in rows if r["status"] == "ok"]
    # a measure that no row of the table can have (a classifier has no boxes) is told below the tables, not shown
    names = list(dict.fromkeys(n for r in done for n, found in r["metrics"].items() if found["status"] != "undefined"))
    common = {name: _common_n(done, name) for name in names}
    clocks = "/".join(sorted({r["cost"]["clock"] for r in done})) or "wall"
    head = (["Model"] if compact else []) + ["Stage", "Method"]
    head += [_heading(name, common[name]) for name in names]
    head += [f"Fit s ({clocks}) ↓", "Invert ms/image ↓", "Peak MiB ↓", "Trained values"]
    seeds = {r["cell"]["seed"] for r in rows}
    body = []
    for record in rows:
        cell = record["cell"]
        method = cell["method"] + (f" (seed {cell['seed']})" if len(seeds) > 1 else "")
        line = ([cell["model"]] if compact else []) + [cell["stage"], method]
        if record["status"] != "ok":
            body.append([*line, *[record["status"]] * len(names), "", "", "", ""])
            continue
        peers = [r for r in done if (r["cell"]["model"], r["cell"]["stage"]) == (cell["model"], cell["stage"])]
        for name in names:
            line.append(_value(name, record["metrics"].get(name), peers, common[name], compact))
        cost = record["cost"]
        peak = max(cost["fit_peak_bytes"], cost["invert_peak_bytes"]) / 2**20
        line += [
            f"{cost['fit_seconds'] + cost['fit_shared_seconds']:.1f}",
            f"{cost['invert_seconds_per_image'] * 1000:.1f}",
            f"{peak:.0f}",
            f"{cost['parameters']:,}",
        ]
        body.append(line)
    return tabulate(body, head, tablefmt="simple" if compact else "github", disable_numparse=True)


def _heading(name: str, n: int | None) -> str:
    metric = _metric(name)
    unit = f" {metric.unit}" if metric.unit else ""
    return f"{metric.label}{unit} {ARROWS[metric.direction]}" + (f" (n={n})" if n else "")


def _metric(name: str) -> type[Metric]:
    return METRICS[name]


def _common_n(rows: Sequence[Record], name: str) -> int | None:
    """The n most cells have, shown once in the heading; cells with another n show their own."""
    counts = Counter(r["metrics"][name]["n"] for r in rows if r["metrics"].get(name, {}).get("n"))
    return counts.most_common(1)[0][0] if counts else None


def _value(name: str, found: dict[str, Any] | None, peers: Sequence[Record], n: int | None, compact: bool) -> str:
    if found is None:
        return "-"
    if found["status"] != "ok":
        return "skipped" if found["status"] == "skipped" else "n/a"
    digits = _metric(name).digits
    text = f"{found['mean']:.{digits}f}"
    if not compact and found["low"] is not None:
        text += f" [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"
    others = [r["metrics"][name] for r in peers if r["metrics"].get(name, {}).get("status") == "ok"]
    best = min(distance_from_best(o["direction"], o["mean"]) for o in others)
    if distance_from_best(found["direction"], found["mean"]) == best and len(others) > 1:
        text = f"{text} *" if compact else f"**{text}**"
    return text if found["n"] == n else f"{text} (n={found['n']})"


def _missing(records: Sequence[Record]) -> list[str]:
    """Why cells or measures are missing, each reason once."""
    reasons: dict[str, list[str]] = {}
    for record in records:
        cell = record["cell"]
        where = f"{cell['model']}/{cell['stage']}/{cell['method']}"
        if record["status"] != "ok":
            reasons.setdefault(f"{state_of(record)}: {record['reason']}", []).append(where)
            continue
        for name, found in record["metrics"].items():
            if found["reason"]:
                state = found["status"] if found["status"] != "ok" else "not defined for some images"
                reasons.setdefault(f"{_metric(name).label} {state}: {found['reason']}", []).append(where)
    if not reasons:
        return []
    lines = ["## What is missing and why", ""]
    for reason, cells in reasons.items():
        shown = ", ".join(cells[:4]) + (f" and {len(cells) - 4} more" if len(cells) > 4 else "")
        lines.append(f"- {reason} ({shown})")
    return [*lines, ""]


def _legend(done: Sequence[Record]) -> list[str]:
    lines = ["## How to read this", ""]
    names = list(dict.fromkeys(name for r in done for name in r["metrics"]))
    for name in names:
        metric = _metric(name)
        doc = " ".join((metric.__doc__ or "").split())
        ceilings = [r["metrics"][name].get("ceiling") for r in done if r["metrics"][name].get("ceiling") is not None]
        top = f" A perfect reconstruction scores {ceilings[0]:.{metric.digits}f} here." if ceilings else ""
        lines.append(f"- **{metric.label}** ({ARROWS[metric.direction]}): {doc}{top}")
    lines += [
        "- Values are means over images with 95 % bootstrap intervals over images; n is in the heading or beside the "
        "value. Bold is the best mean of its stage; overlapping intervals are not a ranking.",
        "- **Fit s** is the stage's own training time plus the frozen forward passes that all stages of the method "
        "shared; **Invert** is the time to reconstruct one image from its representation, forward pass included. The "
        "clock is in the heading: `wall` seconds on a CPU, `cuda-event` on a GPU. Compare times only within one table.",
        "- **Peak MiB** is resident memory of the process on a CPU, allocated memory on a GPU.",
        "- **Trained values** counts what the stage's own inverse has trained or solved for.",
    ]
    return [*lines, ""]
