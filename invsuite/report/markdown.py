"""Leaderboards rendered from records: markdown for people, CSV for programs."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from invsuite.metrics.base import Metric
from invsuite.registry import METRICS
from invsuite.report.algebra import algebra_section
from invsuite.report.gap import gap_section
from invsuite.report.interlayer import interlayer_section
from invsuite.results.merge import devices_of
from invsuite.results.rows import Row, by_model, measures_of, places_of, rows_of
from invsuite.results.store import Record

ARROWS = {"higher": "↑", "lower": "↓", "one": "→1", "zero": "→0"}

#: what a terminal has room for
HEADLINES = ("psnr", "ssim", "lpips", "correspondence", "hue_gain", "feature_error")

#: What holds for every table; markdown.
NOTES = (
    (
        "Values are means over images with 95 % bootstrap intervals over images, of rows with several seeds over "
        "seeds and images; n counts images and is in the heading or beside the value."
    ),
    (
        "**Bold** is every value of a stage that cannot be told apart from the best. **#** is the place: one more than "
        "the number of rows of the stage that are better beyond doubt, where the interval of the paired difference "
        "(distance from 1 where 1 is best, else the value, image by image) leaves out 0. The intervals of all pairs of "
        "a stage hold together with 95 % confidence (simultaneous sup-t bootstrap), which corrects for the number of "
        "comparisons within one stage and measure, not across them. Equal places are not equal quality: the images "
        "are too few to tell. Rows defined on fewer than half of the images of the others have no place, and neither "
        "have those that see the image: they mark a level that methods, shown the representation alone, are held to."
    ),
    (
        "**Fit s** is the stage's own training time plus the frozen forward passes that all stages of the method "
        "shared; **Invert** is the time to reconstruct one image from its representation, forward pass included. The "
        "clock is in the heading: `wall` seconds on a CPU, `cuda-event` on a GPU. Compare times only within one table."
    ),
    "**Peak MiB** is resident memory of the process on a CPU, allocated memory on a GPU.",
    "**Trained values** counts what the stage's own inverse has trained or solved for.",
)

#: Place of a row by a measure: {measure: {row name: place}}.
Places = dict[str, dict[str, int]]

CSV_KEY = ("suite", "model", "stage", "method", "seed")
CSV_END = ("ceiling", "floor", "reason", "cell")


def markdown(
    title: str,
    records: Sequence[Record],
    strips: Mapping[str, str] | None = None,
    relations: Sequence[Record] = (),
    maps: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    placed: Places | None = None,
) -> str:
    """The leaderboard: for every model a table a group of measures, a row a stage and method over all seeds, stages in
    chain order; in bold every value of a stage that cannot be told apart from the best.

    Args:
        title: heading, which says what suite this is.
        records: in the order of the matrix.
        strips: file names of the strips of pictures to show, by model.
        relations: records of how the stages of models relate.
        maps: file names of their heat maps, by model.
        notes: what to say of the records before all else.
        placed: the places of all rows, where they are known.
    """
    done, strips = [r for r in records if r["status"] == "ok"], strips or {}
    placed = all_places(ranked_rows(records)) if placed is None else placed
    lines = [f"# {title}", ""]
    lines += [*(f"- {note}" for note in notes), ""] if notes else []
    lines += _facts(records, done)
    for model, own in by_model(records).items():
        lines += [f"## {model}", "", *_tables(ranked_rows(own), placed)]
        lines += [f"![{strips[model]}]({strips[model]})\n"] if model in strips else []
    lines += algebra_section(done)
    lines += gap_section(done)
    lines += interlayer_section(done, relations, maps or {})
    lines += _missing_section(records)
    lines += _legend(done)
    return "\n".join(lines).rstrip() + "\n"


def terminal(records: Sequence[Record]) -> str:
    """The main numbers without intervals, narrow enough for a terminal."""
    rows = ranked_rows(records)
    names = [name for name in measures_of(rows) if name in HEADLINES]
    return _table(rows, names, all_places(rows), costs=True, compact=True)


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
            writer.writerow([*head, record["status"], *[""] * 9, record["reason"], cell["id"]])
            continue
        for name, found in record["metrics"].items():
            numbers = [found.get(k) for k in ("n", "mean", "low", "high", "ceiling", "floor")]
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
            row = [
                *head,
                "ok",
                name,
                unit,
                "lower",
                1,
                cost[name],
                "",
                "",
                "",
                "",
                f"clock: {cost['clock']}",
                cell["id"],
            ]
            writer.writerow(row)
    return buffer.getvalue()


def code_of(provenance: dict[str, Any]) -> str:
    """The code a record was made with."""
    git = provenance["git"]
    shown = f"commit {git['sha'][:10]}{' (dirty)' if git['dirty'] else ''}" if git["sha"] else "installed package"
    return f"{shown}, source {provenance['source_sha256'][:12]}"


def versions_of(provenance: dict[str, Any]) -> str:
    """The packages a record was made with."""
    return ", ".join(f"{name} {version}" for name, version in provenance["versions"].items() if version)


def weights_of(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Where the weights of each model come from, of those that could be had."""
    return {r["cell"]["model"]: r["weights"] for r in records if "weights" in r}


def state_of(record: Record) -> str:
    """The record's status for people: a stage that a method does not apply to is no missing result."""
    return "not applicable" if record.get("settled") else str(record["status"])


def _facts(records: Sequence[Record], done: Sequence[Record]) -> list[str]:
    states = Counter(state_of(r) for r in records)
    lines = [f"{len(records)} cells: " + ", ".join(f"{n} {state}" for state, n in sorted(states.items())) + "."]
    if done:
        origin = done[0]["provenance"]
        devices = sorted({r["provenance"]["device"] for r in done})
        data = done[0]["data"]
        lines.append(
            f"Fit on {data['fit']} images, selected on {data['select']}, scored on {data['score']}; the three are "
            f"disjoint. Device: {'; '.join(devices)}, {origin['threads']} threads."
        )
        named = ", ".join(f"{m}: {w['source']} (SHA-256 {w['sha256'][:12]})" for m, w in weights_of(done).items())
        lines.append(f"Weights: {named}.")
        codes = Counter(f"{code_of(r['provenance'])}; {versions_of(r['provenance'])}" for r in done)
        whose = {code: f" of {n} cell{'s' * (n > 1)}" if len(codes) > 1 else "" for code, n in codes.items()}
        lines += [f"Code{whose[code]}: {code}." for code in codes]
    return [*lines, ""]


def ranked_rows(records: Sequence[Record]) -> list[Row]:
    """The rows of tables: a stage that a method does not apply to is none."""
    return rows_of([r for r in records if not r.get("settled")])


def all_places(rows: Sequence[Row]) -> Places:
    """Places within each stage that at least two rows of it compete for."""
    stages: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        stages.setdefault((row.model, row.stage), []).append(row)
    found: Places = {}
    for name in measures_of(rows):
        found[name] = {}
        for peers in stages.values():
            found[name] |= places_of(peers, name)
    return found


def _tables(rows: Sequence[Row], placed: Places) -> list[str]:
    """One table a group of measures; the first also has the costs."""
    lines: list[str] = []
    groups: dict[str, list[str]] = {}
    for name in measures_of(rows):
        groups.setdefault(metric_of(name).group, []).append(name)
    for number, (group, names) in enumerate(groups.items() or {"": []}.items()):
        lines += [f"**{group}**", ""] if len(groups) > 1 else []
        lines += [_table(rows, names, placed, costs=number == 0), ""]
    return lines


def _table(rows: Sequence[Row], names: Sequence[str], placed: Places, costs: bool, compact: bool = False) -> str:
    done = [r for row in rows for r in row.done]
    common = {name: _common_n(rows, name) for name in names}
    clocks = "/".join(sorted({r["cost"]["clock"] for r in done})) or "wall"
    one_device = len(devices_of(done)) < 2  # times of several are not for comparing
    head = (["Model"] if compact else []) + ["Stage", "Method"]
    head += [heading(name, common[name]) for name in names]
    head += [f"Fit s ({clocks}) ↓", "Invert ms/image ↓", "Peak MiB ↓", "Trained values"] if costs else []
    body = []
    for row in rows:
        line = ([row.model] if compact else []) + [row.stage, row.label]
        if not row.done:
            body.append([*line, *[row.records[0]["status"]] * len(names), *[""] * (4 * costs)])
            continue
        for name in names:
            line.append(_value(name, row.found(name), placed[name].get(row.name), common[name], compact))
        texts = row.cost().texts()
        body.append([*line, *((texts if one_device else ["-", "-", "-", texts[-1]]) if costs else [])])
    return tabulate(body, head, tablefmt="simple" if compact else "github", disable_numparse=True)


def heading(name: str, n: int | None) -> str:
    metric = metric_of(name)
    unit = f" {metric.unit}" if metric.unit else ""
    return f"{metric.label}{unit} {ARROWS[metric.direction]}" + (f" (n={n})" if n else "")


def metric_of(name: str) -> type[Metric]:
    return METRICS[name]


def _common_n(rows: Sequence[Row], name: str) -> int | None:
    """The n most rows have, shown once in the heading; rows with another n show their own."""
    counts = Counter(found["n"] for row in rows if (found := row.found(name)) and found.get("n"))
    return counts.most_common(1)[0][0] if counts else None


def _value(name: str, found: dict[str, Any] | None, place: int | None, n: int | None, compact: bool) -> str:
    if found is None:
        return "-"
    if found["status"] != "ok":
        return "skipped" if found["status"] == "skipped" else "n/a"
    digits = metric_of(name).digits
    text = f"{found['mean']:.{digits}f}"
    if not compact and found["low"] is not None:
        text += f" [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"
    if place == 1:
        text = f"{text} *" if compact else f"**{text}**"
    if place and not compact:
        text += f" #{place}"
    return text if found["n"] == n else f"{text} (n={found['n']})"


def missing(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Why cells or measures are missing, and what the suite noticed about those that are there: the records of each
    reason."""
    reasons: dict[str, list[Record]] = {}
    for record in records:
        if record["status"] != "ok":
            reasons.setdefault(f"{state_of(record)}: {record['reason']}", []).append(record)
            continue
        for flag in record.get("flags", ()):
            reasons.setdefault(f"flagged: {flag}", []).append(record)
        for name, found in record["metrics"].items():
            if found["reason"]:
                state = found["status"] if found["status"] != "ok" else "not defined for some images"
                reasons.setdefault(f"{metric_of(name).label} {state}: {found['reason']}", []).append(record)
    return reasons


def _missing_section(records: Sequence[Record]) -> list[str]:
    lines = []
    for reason, found in missing(records).items():
        cells = [f"{r['cell']['model']}/{r['cell']['stage']}/{r['cell']['method']}" for r in found]
        shown = ", ".join(cells[:4]) + (f" and {len(cells) - 4} more" if len(cells) > 4 else "")
        lines.append(f"- {reason} ({shown})")
    return ["## What is missing or flagged, and why", "", *lines, ""] if lines else []


def _bounds(name: str, done: Sequence[Record]) -> str:
    """What a perfect reconstruction scores, and the range of what ignorant ones do."""
    digits, found = metric_of(name).digits, [r["metrics"][name] for r in done if name in r["metrics"]]
    ceilings = {f"{m['ceiling']:.{digits}f}" for m in found if m.get("ceiling") is not None}
    floors = [m["floor"] for m in found if m.get("floor") is not None]
    text = f" A perfect reconstruction scores {', '.join(sorted(ceilings))} here." if 0 < len(ceilings) < 4 else ""
    if floors:
        low, high = f"{min(floors):.{digits}f}", f"{max(floors):.{digits}f}"
        text += f" Floor by permutation: {low if low == high else f'{low} to {high}'}."
    return text


def _legend(done: Sequence[Record]) -> list[str]:
    lines = ["## How to read this", ""]
    names = list(dict.fromkeys(name for r in done for name in r["metrics"]))
    for name in names:
        metric = metric_of(name)
        doc = " ".join((metric.__doc__ or "").split("\n\n")[0].split())
        lines.append(f"- **{metric.label}** ({ARROWS[metric.direction]}): {doc}{_bounds(name, done)}")
    lines += [f"- {note}" for note in NOTES]
    return [*lines, ""]
