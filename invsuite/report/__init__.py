"""Tables and pictures, rendered from records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from invsuite.files import write_atomically
from invsuite.report.leaderboard import markdown, to_csv
from invsuite.report.strips import draw_strip
from invsuite.store import Record, Store


def full_title(title: str, records: Sequence[Record]) -> str:
    """The suite's ``title``, which names the models with random weights, if any."""
    random = dict.fromkeys(r["cell"]["model"] for r in records if r.get("weights", {}).get("random"))
    return f"{title} - RANDOM WEIGHTS, untrained: {', '.join(random)}" if random else title


def write_report(name: str, title: str, records: Sequence[Record], store: Store, out: Path) -> list[Path]:
    """Write ``NAME.md``, ``NAME.csv`` and a strip per model to ``out``; returns the files."""
    title = full_title(title, records)
    strips = []
    for model in dict.fromkeys(r["cell"]["model"] for r in records):
        path = out / f"{name}-{model}.png"
        if draw_strip(model, records, store, path):
            strips.append(path)
    table, values = out / f"{name}.md", out / f"{name}.csv"
    write_atomically(table, markdown(title, records, [s.name for s in strips]).encode())
    write_atomically(values, to_csv(records).encode())
    return [table, values, *strips]
