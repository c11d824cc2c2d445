"""Words and tables that several pages are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tabulate import tabulate

from invsuite.results.published import PublishedValue
from invsuite.results.record import Measurement, Record
from invsuite.results.regime import joint_text, table_of
from invsuite.results.rows import Row, by_model
from invsuite.results.statistics import summary_text

ARROWS = {"higher": "↑", "lower": "↓", "one": "→1", "zero": "→0"}
#: how the methods of a family answer
FAMILIES = {
    "floor": "ignore the representation, look an image up, or are shown the image itself",
    "closed form": "solved by linear algebra on the fit images",
    "optimisation": "nothing is trained: a descent for each image, until its representation matches",
    "layer-wise": "one network per stage, trained end to end on the image",
    "modular": "one small network per component of the model, each trained alone, then composed",
    "hybrid": "modules made to fit together, or another method's image refined by a descent",
}


def markdown_table(body: Sequence[Sequence[object]], head: Sequence[str]) -> str:
    """Return a table in markdown, its cells as they are written."""
    return tabulate(body, head, tablefmt="github", disable_numparse=True)


def listed(names: Iterable[str]) -> str:
    """Return names in a sentence.

    Examples:
        >>> listed(["a", "b", "c"]), listed(["a"])
        ('a, b and c', 'a')
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def budgets_text(rows: Iterable[Row]) -> str:
    """Return methods in a sentence, each with what was spent on it: those of one regime together, of several budgets
    the range.
    """
    own: dict[str, list[Row]] = {}
    for row in rows:
        own.setdefault(table_of(row.method)[0], []).append(row)
    spent: dict[str, list[str]] = {}
    for method, its in own.items():
        spent.setdefault(joint_text([row.regime for row in its]), []).append(f"`{method}`")
    return "; ".join(f"{listed(methods)} ({'no budget' if text == '-' else text})" for text, methods in spent.items())


def difference_text(mean: float, low: float | None, high: float | None, n: int, digits: int, bold: bool) -> str:
    """Return a difference with its sign, interval and n."""
    text = f"{mean:+.{digits}f}"
    if low is not None and high is not None:
        text += f" [{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"{f'**{text}**' if bold else text} (n={n})"


def families_text(records: Iterable[Record]) -> str:
    """Return in a sentence which methods records are of, by family, and how each family answers; markdown."""
    families: dict[str, dict[str, None]] = {}
    for record in records:
        name, kind = table_of(record.cell.method)[0], record.cell.kind
        families.setdefault(record.cell.family, {})[f"`{name}`{f' (a `{kind}`)' if kind != name else ''}"] = None
    return "; ".join(
        f"{listed(names)}: {family}{f' ({FAMILIES[family]})' if family in FAMILIES else ''}"
        for family, names in families.items()
    )


def heading(measure: Measurement | PublishedValue, n: int | None = None) -> str:
    """Return how tables head a measure: its label, unit and direction, and n where all rows have the same."""
    unit = f" {measure.unit}" if measure.unit else ""
    return f"{measure.label}{unit} {ARROWS[measure.direction]}" + (f" (n={n})" if n else "")


def value_text(row: Row | None, measure: Measurement) -> str:
    """Return a row's mean of a measure with its interval and n, with the digits of ``measure``; "-" without one."""
    own = None if row is None else row.measurement(measure.name)
    return "-" if own is None else summary_text(own.mean, own.low, own.high, own.n, measure.digits)


def data_texts(done: Iterable[Record]) -> list[str]:
    """Return how many images models were fitted, selected and scored on: of all at once, or which where they differ."""
    alike: dict[tuple[int, int, int], dict[str, list[Record]]] = {}
    for model, records in by_model(record for record in done if record.data is not None).items():
        counts = [(data.fit, data.select, data.score) for record in records if (data := record.data) is not None]
        fit, select, score = (max(of_split) for of_split in zip(*counts, strict=True))
        alike.setdefault((fit, select, score), {})[model] = records
    named = [(f"{', '.join(models)}: fit" if len(alike) > 1 else "Fit", models) for models in alike.values()]
    return [
        f"{who} on {fit} images, selected on {select}, scored on {score}{_fewer(models, score)}; the three are disjoint"
        for (fit, select, score), (who, models) in zip(alike, named, strict=True)
    ]


def _fewer(models: Mapping[str, Sequence[Record]], most: int) -> str:
    """Return which methods were scored on fewer images than most, in brackets; of which models where these differ."""
    scored: dict[str, dict[int, list[str]]] = {}  # models by method and number of images
    for model, records in models.items():
        for record in records:
            if record.data is not None:
                scored.setdefault(record.cell.method, {}).setdefault(record.data.score, []).append(model)
    fewer: dict[int, list[str]] = {}
    for method, own in scored.items():
        for count in own.keys() - {most}:
            whose = f" of {', '.join(dict.fromkeys(own[count]))}" if len(own) > 1 else ""
            fewer.setdefault(count, []).append(method + whose)
    texts = [f"{', '.join(fewer[count])} on the first {count}" for count in sorted(fewer, reverse=True)]
    return f" ({'; '.join(texts)})" if texts else ""
