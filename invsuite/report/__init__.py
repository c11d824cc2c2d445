"""Tables and pictures, rendered from records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from invsuite.files import write_atomically
from invsuite.report.html import html_page
from invsuite.report.interlayer import draw_heatmaps
from invsuite.report.leaderboard import markdown, to_csv
from invsuite.report.strips import draw_strip
from invsuite.store import Record, Store


def full_title(title: str, records: Sequence[Record]) -> str:
    """The suite's ``title``, which names the models with random weights, if any."""
    random = dict.fromkeys(r["cell"]["model"] for r in records if r.get("weights", {}).get("random"))
    return f"{title} - RANDOM WEIGHTS, untrained: {', '.join(random)}" if random else title


def write_report(
    name: str, title: str, records: Sequence[Record], store: Store, out: Path, relations: Sequence[Record] = ()
) -> list[Path]:
    """Write ``NAME.md``, ``NAME.csv``, the page ``NAME.html``, a strip per model and, where stages are related, heat
    maps to ``out``; returns the files.

    Args:
        relations: records of how the stages of models relate.
    """
    title = full_title(title, records)
    strips, maps = [], []
    for model in dict.fromkeys(r["cell"]["model"] for r in records):
        path = out / f"{name}-{model}.png"
        if draw_strip(model, records, store, path):
            strips.append(path)
        path = out / f"{name}-{model}-interlayer.png"
        if draw_heatmaps(model, records, relations, path):
            maps.append(path)
    table, values, page = (out / f"{name}.{ending}" for ending in ("md", "csv", "html"))
    text = markdown(title, records, [s.name for s in strips], relations, [m.name for m in maps])
    write_atomically(table, text.encode())
    write_atomically(values, to_csv(records).encode())
    write_atomically(page, html_page(title, records, store, relations).encode())
    return [table, values, page, *strips, *maps]
