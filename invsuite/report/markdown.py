"""The leaderboard of a suite as markdown, and its main numbers for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from invsuite.report.devices import MARK as OTHER_DEVICE
from invsuite.report.devices import Devices, device_of, devices_of_rows
from invsuite.report.results import Results
from invsuite.report.texts import ARROWS, budgets_text, data_texts, families_text, heading, listed, markdown_table
from invsuite.results.matrices import Matrix
from invsuite.results.published import PublishedValue, published_measures, published_rows
from invsuite.results.record import Measurement, Record
from invsuite.results.regime import MARK, table_of
from invsuite.results.rows import Places, Row, measures_of

#: heading of what papers state: no number of it was computed by the suite
PUBLISHED = "Published, not run here"
VALUES = "Values held"  # heading of the size of inverses, which not all are trained

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
        "are too few to tell. A row that is scored on fewer images is compared with each other row on those both have, "
        "and shares no place with rows of all images: where it cannot be told apart from each of them it has none. "
        "Rows defined on fewer than half of the images on which others are have no place, and neither have those that "
        "see the image: they mark a level that methods, shown the representation alone, are held to."
    ),
    (
        "**Budget** is the regime of a row: the images its training saw, with repeats (25.6k passes); for methods that "
        "search for each image the iterations after which they converged, on average; or the closed form. "
        f"**{MARK}** marks a row whose search was stopped at its ceiling before at least 95 % of the images met the "
        "stopping rule: its numbers are those of that ceiling, and it has no place."
    ),
    (
        "**Fit s** is the stage's own training time plus the frozen forward passes that all stages of the method "
        "shared; **Invert** is the time to reconstruct one image from its representation, forward pass included. The "
        "clock is in the heading: `wall` seconds on a CPU, `cuda-event` on a GPU. Compare times only within one table, "
        f"and there only between rows of one device: **{OTHER_DEVICE}** marks times and memory of another device than "
        "most rows have. Operations compare across devices."
    ),
    "**Peak MiB** is resident memory of the process on a CPU, allocated memory on a GPU.",
    f"**{VALUES}** counts what the stage's own inverse keeps of its fit: weights that were trained or solved for, a "
    "mean image, or the representations of the fit images among which `nearest` looks.",
)

READING = (
    "Rows are the stages that are read, columns those that are predicted or applied to; 95 % intervals over images. "
    "**CKA**: debiased linear CKA of whole representations (Kornblith et al. 2019; Nguyen et al. 2021): 1 for the same "
    "up to rotation and scale, about 0 for unrelated ones; its interval is a jackknife. **Ridge R2**: variance of the "
    "column's stage that is linear in the row's, on images not fitted on, place by place; ᵐ where the two share no "
    "grid, of their means over places or queries. **Cross-application**: error of the row's inverse given the "
    "column's representation, over its error at its own stage."
)

END_TO_END = "layerwise"  # the method that chains of modules are held against


def markdown(results: Results, strips: Mapping[str, str] | None = None, maps: Mapping[str, str] | None = None) -> str:
    """Return the leaderboard: for every model a table per group of measures, with a row per stage and method.

    Rows are over all seeds, stages in chain order. Every value of a stage that cannot be told apart from the best is
    bold.

    Args:
        results: of a suite.
        strips: file names of the strips of pictures to show, by model.
        maps: file names of the heat maps to show, by model.
    """
    strips = strips or {}
    lines = [f"# {results.title}", "", *_opening(results)]
    lines += [*(f"- {note}" for note in results.notes), ""] if results.notes else []
    lines += _facts(results)
    tables: dict[str, list[Row]] = {model: [] for model in results.models}
    for row in results.rows:
        tables[row.model].append(row)
    for model, rows in tables.items():
        lines += [f"## {model}", "", *_tables(rows, results)]
        lines += _published(results.published_of(model))
        lines += [f"![{strips[model]}]({strips[model]})\n"] if model in strips else []
    lines += _ceilings(results.done)
    lines += _fixed_points(results.done)
    lines += _chain_gaps(results.done)
    lines += _between_stages(results, maps or {})
    lines += _missing(results)
    lines += _legend(results.done)
    return "\n".join(lines).rstrip() + "\n"


def _opening(results: Results) -> list[str]:
    """Return three sentences, none without numbers: what the table shows, at which budgets, and which are best."""
    rows = [row for row in results.rows if row.done]
    if not rows:
        return []
    stages: dict[str, list[str]] = {}
    for row in rows:
        stages.setdefault(row.model, []).append(row.stage)
    cut = [f"`{model}` ({', '.join(dict.fromkeys(own))})" for model, own in stages.items()]
    counts = sorted({len(row.images) for row in rows}, reverse=True)
    number = f"{counts[0]} images{f', some methods on {counts[-1]}' if len(counts) > 1 else ''}"
    first, best = _best(results, rows)
    return [
        f"This page shows how well images are reconstructed from representations of {listed(cut)}, scored on {number}.",
        f"The methods are {budgets_text(rows)}.",
        f"Best by {first.label}{f' in {first.unit}' if first.unit else ''}, or not told apart from the best: {best}."
        if first is not None
        else "No measure ranks them.",
        "",
    ]


def _best(results: Results, rows: Sequence[Row]) -> tuple[Measurement | None, str]:
    """Return the first measure that ranks rows, and in words which of them are best by it, stage by stage."""
    for name, measure in measures_of(rows).items():
        if not results.places.get(name):
            continue
        best: dict[str, dict[str, list[str]]] = {}
        usual = _common_n(rows, name)
        for row in rows:
            own = row.measurement(name)
            if results.places[name].get(row.name) == 1 and own is not None:
                fewer = "" if own.n == usual else f", n={own.n}"
                text = f"`{row.method}` ({own.mean:.{own.digits}f}{fewer})"
                best.setdefault(row.model, {}).setdefault(row.stage, []).append(text)
        models = [
            f"on `{model}` {', '.join(f'at {stage} {listed(methods)}' for stage, methods in own_stages.items())}"
            for model, own_stages in best.items()
        ]
        return measure, "; ".join(models)
    return None, ""


def terminal(results: Results) -> str:
    """Return the main numbers without intervals, narrow enough for a terminal."""
    measures = [measure for measure in measures_of(results.rows).values() if measure.headline]
    lines = [_table(results.rows, measures, results.places, results.devices, compact=True), *results.devices.note()]
    return "\n\n".join(lines)


def chain_gaps(records: Iterable[Record]) -> list[tuple[Record, float]]:
    """Return records of chains of modules with their chain gap.

    The gap is the mean squared error of a chain's images over that of the end-to-end network (`END_TO_END`) of the same
    model, stage, seed and budget, both on the selection images. Records without such a partner, or without selection
    errors in their notes, are left out.
    """
    errors: dict[tuple[str, str, int, str], float] = {}
    chains: list[tuple[Record, float]] = []
    for record in records:
        error = record.notes.get("selection_image_mse")
        if error is not None and table_of(record.cell.method)[0] == END_TO_END:
            errors[_peers(record)] = error
        elif error is not None:
            chains.append((record, error))
    return [(record, error / errors[_peers(record)]) for record, error in chains if errors.get(_peers(record), 0.0) > 0]


def _peers(record: Record) -> tuple[str, str, int, str]:
    """Return what a chain and the end-to-end network that it is held against have in common."""
    return record.cell.model, record.cell.stage, record.cell.seed, table_of(record.cell.method)[1]


def _facts(results: Results) -> list[str]:
    """Return lines that say how many cells there are, and what they were measured on and with."""
    states = ", ".join(f"{n} {state}" for state, n in results.states.items())
    lines, done = [f"{len(results)} cells: {states}."], results.done
    if done:
        lines.append(f"{'. '.join([*data_texts(done), where_text(done)])}.")
        lines += results.devices.note()
        weights = {record.cell.model: record.weights for record in done if record.weights}
        named = ", ".join(f"{model}: {w.source} (SHA-256 {w.sha256[:12]})" for model, w in weights.items())
        lines.append(f"Weights: {named}.")
        codes = Counter(code for record in done for code in {f"{p.code}; {p.packages}": 0 for p in record.provenances})
        whose = {code: f" of {n} cell{'s' * (n > 1)}" if len(codes) > 1 else "" for code, n in codes.items()}
        lines += [f"Code{whose[code]}: {code}." for code in codes]
        if codes.total() > len(done):
            lines.append("A cell counts for every code that computed its fit, its inversion or some of its measures.")
    return [*lines, ""]


def _tables(rows: Sequence[Row], results: Results) -> list[str]:
    """Return a table per group of measures; the first also has the costs."""
    lines: list[str] = []
    groups: dict[str, list[Measurement]] = {}
    for measure in measures_of(rows).values():
        groups.setdefault(measure.group, []).append(measure)
    for number, (group, measures) in enumerate(groups.items() or {"": []}.items()):
        lines += [f"**{group}**", ""] if len(groups) > 1 else []
        lines += [_table(rows, measures, results.places, results.devices if number == 0 else None), ""]
    return lines


def _table(
    rows: Sequence[Row],
    measures: Sequence[Measurement],
    places: Places,
    devices: Devices | None,
    compact: bool = False,
) -> str:
    """Return one table.

    Args:
        rows: of the table.
        measures: its columns.
        places: of the rows.
        devices: of the page's times, which mark those of another one than most; None for a table without costs.
        compact: whether it leaves out intervals and names the model in each row.
    """
    common = {measure.name: _common_n(rows, measure.name) for measure in measures}
    head = (["Model"] if compact else []) + ["Stage", "Method", "Budget"]
    head += [heading(measure, common[measure.name]) for measure in measures]
    head += [f"Fit s ({devices_of_rows(rows).clocks}) ↓", "Invert ms/image ↓", "Peak MiB ↓", VALUES] if devices else []
    body = []
    for row in rows:
        line = ([row.model] if compact else []) + [row.stage, row.label, row.regime.text]
        if not row.done:
            body.append([*line, *[row.records[0].status] * len(measures), *[""] * (4 if devices else 0)])
            continue
        for name, n in common.items():
            line.append(_value(row.measurement(name), places[name].get(row.name), n, compact))
        body.append([*line, *(cost_texts(row, devices) if devices else [])])
    return tabulate(body, head, tablefmt="simple" if compact else "github", disable_numparse=True)


def cost_texts(row: Row, devices: Devices) -> list[str]:
    """Return what a row took, as tables show it: times and memory of another device than most are marked."""
    *spent, values = row.cost().texts()
    return [*(devices.marked(text, device_of([row])) for text in spent), values]


def where_text(done: Sequence[Record]) -> str:
    """Return what records were computed on: devices, of measures that were added later too, and threads."""
    devices = sorted({origin.device for record in done for origin in record.provenances})
    threads = sorted({record.provenance.threads for record in done})
    whole = " or ".join(map(str, threads))
    return f"Device{'s' * (len(devices) > 1)}: {'; '.join(devices)}; {whole} thread{'s' * (threads != [1])}"


def _published(values: Sequence[PublishedValue]) -> list[str]:
    """Return lines with a table of what papers state of a model; none where they state nothing."""
    if not values:
        return []
    measures = published_measures(values)
    head = ["Stage", "Method", *(heading(measure) for measure in measures.values()), "n", "Budget", "Source"]
    body = []
    for row in published_rows(values):
        numbers = [f"{v.value:.{v.digits}f}" if (v := row.values.get(name)) else "-" for name in measures]
        first = row.first
        body.append([first.stage, first.method, *numbers, first.n or "-", first.budget or "-", first.source])
    return [f"**{PUBLISHED}**", "", markdown_table(body, head), ""]


def _common_n(rows: Sequence[Row], name: str) -> int | None:
    """Return the n that most rows have, which the heading shows; rows with another n show their own."""
    counts = Counter(m.n for row in rows if (m := row.measurement(name)) and m.n)
    return counts.most_common(1)[0][0] if counts else None


def _value(measurement: Measurement | None, place: int | None, n: int | None, compact: bool) -> str:
    if measurement is None:
        return "-"
    if not measurement.ok:
        return "n/a" if measurement.status == "undefined" else measurement.status
    digits = measurement.digits
    text = f"{measurement.mean:.{digits}f}"
    if not compact and measurement.low is not None:
        text += f" [{measurement.low:.{digits}f}, {measurement.high:.{digits}f}]"
    if place == 1:
        text = f"{text} *" if compact else f"**{text}**"
    if place and not compact:
        text += f" #{place}"
    return text if measurement.n == n else f"{text} (n={measurement.n})"


def _ceilings(records: Iterable[Record]) -> list[str]:
    """Return lines on the linear ceiling of embeddings: rank and condition number; none without such cells."""
    rows = []
    for record in records:
        notes, psnr = record.notes, record.measurements.get("psnr")
        if "condition_number" in notes:
            condition = notes["condition_number"]
            rows.append(
                [
                    record.cell.model,
                    record.cell.stage,
                    f"{notes['rank']} of {notes['patch_values']}",
                    "-" if condition is None else f"{condition:.0f}",
                    "yes" if notes["unique"] else "no",
                    f"{psnr.mean:.2f} (n={psnr.n})" if psnr is not None and psnr.ok else "-",
                ]
            )
    text = (
        "The patch embedding inverted by its pseudo-inverse (`exact`). Where its rank is that of the patch the inverse "
        "is unique; elsewhere this is the likeliest patch under the fit patches' covariance: what a linear readout of "
        "the token can reach."
    )
    head = ["Model", "Stage", "Rank", "Condition number", "Unique", "PSNR dB ↑"]
    return _section("Linear ceiling", text, head, rows)


def _fixed_points(records: Iterable[Record]) -> list[str]:
    """Return lines on the convergence of blocks that were inverted by iteration; none without such cells."""
    rows = [
        [
            record.cell.model,
            record.cell.stage,
            block["block"],
            "yes" if block["converged"] else f"{100 * block['converged_share']:.0f} % of images",
            f"{block['residual']:.1e}",
            block["iterations"],
            block["images"],
        ]
        for record in records
        for block in record.notes.get("blocks", [])
    ]
    text = (
        "Residual blocks inverted by iteration (`fixedpoint`), the deepest first; where one does not converge, all "
        "before it start from a wrong representation."
    )
    head = ["Model", "From stage", "Block", "Converged", "Mean residual", "Iterations", "n"]
    return _section("Fixed points", text, head, rows)


def _chain_gaps(records: Iterable[Record]) -> list[str]:
    """Return lines on what composing modules costs; none where no chain has an end-to-end partner."""
    rows = []
    for record, gap in chain_gaps(records):
        cell, error = record.cell, record.notes["selection_image_mse"]
        count = "-" if record.data is None else record.data.select
        rows.append([cell.model, cell.stage, cell.method, cell.seed, count, f"{error:.5f}", f"{gap:.2f}"])
    text = (
        "Mean squared error of the images of a chain of modules over that of the end-to-end network "
        f"(`{END_TO_END}`) of the same stage, both on the n selection images, without an interval. 1 means "
        "composing costs nothing."
    )
    head = ["Model", "Stage", "Method", "Seed", "n", "Selection MSE ↓", "Chain gap ↓"]
    return _section("Chain gap", text, head, rows)


def _section(title: str, text: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return lines of markdown: heading, text and table; none without rows."""
    if not rows:
        return []
    return [f"## {title}", "", text, "", markdown_table(rows, head), ""]


def _between_stages(results: Results, maps: Mapping[str, str]) -> list[str]:
    """Return lines on how stages relate, with the heat maps of each model; none where nothing relates them."""
    lines: list[str] = []
    for model, between in results.between.items():
        lines += [f"### {model}", ""] if between else []
        for matrix in between:
            lines += [_matrix_table(matrix), ""]
        lines += [f"![{maps[model]}]({maps[model]})\n"] if model in maps else []
    failed = [f"- {r.cell.model}: {r.status}: {r.reason}" for r in results.relations if not r.ok]
    if not lines and not failed:
        return []
    return ["## Between stages", "", READING, "", *lines, *failed, *([""] if failed else [])]


def _matrix_table(matrix: Matrix) -> str:
    body = []
    for i, stage in enumerate(matrix.stages):
        line = [stage]
        for j, value in enumerate(matrix.value[i]):
            low, high = matrix.low[i][j], matrix.high[i][j]
            interval = "" if i == j or low is None or high is None else f" [{low:.2f}, {high:.2f}]"
            line.append("-" if value is None else f"{value:.2f}{matrix.marks[i][j]}{interval}")
        body.append(line)
    return markdown_table(body, [matrix.title, *matrix.stages])


def _missing(results: Results) -> list[str]:
    """Return lines on what has no number or was flagged; none where nothing is missing."""
    lines = []
    for reason, records in results.missing.items():
        rows = [record.cell.row for record in records]
        named = ", ".join(rows[:4]) + (f" and {len(rows) - 4} more" if len(rows) > 4 else "")
        lines.append(f"- {reason} ({named})")
    return ["## What is missing or flagged, and why", "", *lines, ""] if lines else []


def _legend(records: Sequence[Record]) -> list[str]:
    """Return lines that say what each measure means and how to read the tables."""
    measurements: dict[str, list[Measurement]] = {}
    for record in records:
        for name, measurement in record.measurements.items():
            measurements.setdefault(name, []).append(measurement)
    lines = [
        f"- **{every[0].label}** ({ARROWS[every[0].direction]}): {every[0].description}{_bounds(every)}"
        for every in measurements.values()
    ]
    return ["## How to read this", "", methods_note(records), *lines, *(f"- {note}" for note in NOTES), ""]


def methods_note(records: Sequence[Record]) -> str:
    """Return a line that says what the methods of records are; markdown."""
    return f"- **Methods**: {families_text(records)}. `invsuite list methods` says more of each."


def _bounds(measurements: Sequence[Measurement]) -> str:
    """Return what a perfect reconstruction scores by a measure, and the range of what ignorant ones do."""
    digits = measurements[0].digits
    ceilings = {f"{m.ceiling:.{digits}f}" for m in measurements if m.ceiling is not None}
    floors = [m.floor for m in measurements if m.floor is not None]
    text = f" A perfect reconstruction scores {', '.join(sorted(ceilings))} here." if 0 < len(ceilings) < 4 else ""
    if floors:
        low, high = f"{min(floors):.{digits}f}", f"{max(floors):.{digits}f}"
        text += f" Floor by permutation: {low if low == high else f'{low} to {high}'}."
    return text
