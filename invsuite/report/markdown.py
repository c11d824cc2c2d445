"""Leaderboards rendered from records: markdown for people, CSV for programs."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence

from tabulate import tabulate

from invsuite.report.algebra import algebra_section
from invsuite.report.gap import gap_section
from invsuite.report.interlayer import interlayer_section
from invsuite.results.merge import devices_of
from invsuite.results.record import Measurement, Provenance, Record, RelationRecord, Weights
from invsuite.results.rows import Row, by_model, measures_of, places_of, rows_of

ARROWS = {"higher": "↑", "lower": "↓", "one": "→1", "zero": "→0"}

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
    relations: Sequence[RelationRecord] = (),
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
    done, strips = [r for r in records if r.ok], strips or {}
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
    measures = [measure for measure in measures_of(rows).values() if measure.headline]
    return _table(rows, measures, all_places(rows), costs=True, compact=True)


def to_csv(records: Sequence[Record]) -> str:
    """One line a cell and measure, plus its costs: every number with unit, direction, n and interval."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        [*CSV_KEY, "status", "measure", "unit", "direction", "n", "mean", "ci95_low", "ci95_high", *CSV_END]
    )
    for record in records:
        cell, cost = record.cell, record.cost
        head = [getattr(cell, key) for key in CSV_KEY]
        if not record.ok or cost is None:
            writer.writerow([*head, record.status, *[""] * 9, record.reason, cell.id])
            continue
        for name, m in record.measurements.items():
            n = "" if m.status == "skipped" else m.n
            numbers = ["" if v is None else v for v in (m.mean, m.low, m.high)]
            ends = ["" if v is None else v for v in (m.ceiling, m.floor)]
            writer.writerow([*head, m.status, name, m.unit, m.direction, n, *numbers, *ends, m.reason, cell.id])
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
            value = getattr(cost, name)
            if value is not None:  # else it was not counted for this method
                ends = ["", "", "", "", f"clock: {cost.clock}", cell.id]
                writer.writerow([*head, "ok", name, unit, "lower", 1, value, *ends])
    return buffer.getvalue()


def code_of(provenance: Provenance) -> str:
    """The code a record was made with."""
    git = provenance.git
    shown = f"commit {git['sha'][:10]}{' (dirty)' if git['dirty'] else ''}" if git["sha"] else "installed package"
    return f"{shown}, source {provenance.source_sha256[:12]}"


def versions_of(provenance: Provenance) -> str:
    """The packages a record was made with."""
    return ", ".join(f"{name} {version}" for name, version in provenance.versions.items() if version)


def weights_of(records: Sequence[Record]) -> dict[str, Weights]:
    """Where the weights of each model come from, of those that could be had."""
    return {r.cell.model: r.weights for r in records if r.weights is not None}


def _facts(records: Sequence[Record], done: Sequence[Record]) -> list[str]:
    states = Counter(r.state for r in records)
    lines = [f"{len(records)} cells: " + ", ".join(f"{n} {state}" for state, n in sorted(states.items())) + "."]
    if done:
        origin, data = done[0].provenance, next(r.data for r in done if r.data)
        devices = sorted({r.provenance.device for r in done})
        lines.append(
            f"Fit on {data.fit} images, selected on {data.select}, scored on {data.score}; the three are "
            f"disjoint. Device: {'; '.join(devices)}, {origin.threads} threads."
        )
        named = ", ".join(f"{m}: {w.source} (SHA-256 {w.sha256[:12]})" for m, w in weights_of(done).items())
        lines.append(f"Weights: {named}.")
        codes = Counter(f"{code_of(r.provenance)}; {versions_of(r.provenance)}" for r in done)
        whose = {code: f" of {n} cell{'s' * (n > 1)}" if len(codes) > 1 else "" for code, n in codes.items()}
        lines += [f"Code{whose[code]}: {code}." for code in codes]
    return [*lines, ""]


def ranked_rows(records: Sequence[Record]) -> list[Row]:
    """The rows of tables: a stage that a method does not apply to is none."""
    return rows_of([r for r in records if not r.settled])


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
    groups: dict[str, list[Measurement]] = {}
    for measure in measures_of(rows).values():
        groups.setdefault(measure.group, []).append(measure)
    for number, (group, measures) in enumerate(groups.items() or {"": []}.items()):
        lines += [f"**{group}**", ""] if len(groups) > 1 else []
        lines += [_table(rows, measures, placed, costs=number == 0), ""]
    return lines


def _table(
    rows: Sequence[Row], measures: Sequence[Measurement], placed: Places, costs: bool, compact: bool = False
) -> str:
    done = [r for row in rows for r in row.done]
    common = {measure.name: _common_n(rows, measure.name) for measure in measures}
    clocks = "/".join(sorted({r.cost.clock for r in done if r.cost})) or "wall"
    one_device = len(devices_of(done)) < 2  # times of several are not for comparing
    head = (["Model"] if compact else []) + ["Stage", "Method"]
    head += [heading(measure, common[measure.name]) for measure in measures]
    head += [f"Fit s ({clocks}) ↓", "Invert ms/image ↓", "Peak MiB ↓", "Trained values"] if costs else []
    body = []
    for row in rows:
        line = ([row.model] if compact else []) + [row.stage, row.label]
        if not row.done:
            body.append([*line, *[row.records[0].status] * len(measures), *[""] * (4 * costs)])
            continue
        for name, n in common.items():
            line.append(_value(row.measurement(name), placed[name].get(row.name), n, compact))
        texts = row.cost().texts()
        body.append([*line, *((texts if one_device else ["-", "-", "-", texts[-1]]) if costs else [])])
    return tabulate(body, head, tablefmt="simple" if compact else "github", disable_numparse=True)


def heading(measure: Measurement, n: int | None) -> str:
    unit = f" {measure.unit}" if measure.unit else ""
    return f"{measure.label}{unit} {ARROWS[measure.direction]}" + (f" (n={n})" if n else "")


def _common_n(rows: Sequence[Row], name: str) -> int | None:
    """The n most rows have, shown once in the heading; rows with another n show their own."""
    counts = Counter(m.n for row in rows if (m := row.measurement(name)) and m.n)
    return counts.most_common(1)[0][0] if counts else None


def _value(measurement: Measurement | None, place: int | None, n: int | None, compact: bool) -> str:
    if measurement is None:
        return "-"
    if not measurement.ok:
        return "skipped" if measurement.status == "skipped" else "n/a"
    digits = measurement.digits
    text = f"{measurement.mean:.{digits}f}"
    if not compact and measurement.low is not None:
        text += f" [{measurement.low:.{digits}f}, {measurement.high:.{digits}f}]"
    if place == 1:
        text = f"{text} *" if compact else f"**{text}**"
    if place and not compact:
        text += f" #{place}"
    return text if measurement.n == n else f"{text} (n={measurement.n})"


def missing(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Why cells or measures are missing, and what the suite noticed about those that are there: the records of each
    reason."""
    reasons: dict[str, list[Record]] = {}
    for record in records:
        if not record.ok:
            reasons.setdefault(f"{record.state}: {record.reason}", []).append(record)
            continue
        for flag in record.flags:
            reasons.setdefault(f"flagged: {flag}", []).append(record)
        for measurement in record.measurements.values():
            if measurement.reason:
                state = "not defined for some images" if measurement.ok else measurement.status
                reasons.setdefault(f"{measurement.label} {state}: {measurement.reason}", []).append(record)
    return reasons


def _missing_section(records: Sequence[Record]) -> list[str]:
    lines = []
    for reason, found in missing(records).items():
        cells = [r.cell.row for r in found]
        shown = ", ".join(cells[:4]) + (f" and {len(cells) - 4} more" if len(cells) > 4 else "")
        lines.append(f"- {reason} ({shown})")
    return ["## What is missing or flagged, and why", "", *lines, ""] if lines else []


def _bounds(measure: Measurement, done: Sequence[Record]) -> str:
    """What a perfect reconstruction scores, and the range of what ignorant ones do."""
    digits, same = measure.digits, [r.measurements[measure.name] for r in done if measure.name in r.measurements]
    ceilings = {f"{m.ceiling:.{digits}f}" for m in same if m.ceiling is not None}
    floors = [m.floor for m in same if m.floor is not None]
    text = f" A perfect reconstruction scores {', '.join(sorted(ceilings))} here." if 0 < len(ceilings) < 4 else ""
    if floors:
        low, high = f"{min(floors):.{digits}f}", f"{max(floors):.{digits}f}"
        text += f" Floor by permutation: {low if low == high else f'{low} to {high}'}."
    return text


def _legend(done: Sequence[Record]) -> list[str]:
    lines = ["## How to read this", ""]
    measures: dict[str, Measurement] = {}
    for record in done:
        for name, measurement in record.measurements.items():
            measures.setdefault(name, measurement)
    for measure in measures.values():
        arrow, bounds = ARROWS[measure.direction], _bounds(measure, done)
        lines.append(f"- **{measure.label}** ({arrow}): {measure.description}{bounds}")
    lines += [f"- {note}" for note in NOTES]
    return [*lines, ""]
