"""Tables and pictures, rendered from records alone."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from invsuite._system.files import write_atomically
from invsuite.report.figures import draw_strip
from invsuite.report.html import html_page
from invsuite.report.interlayer import draw_heatmaps
from invsuite.report.markdown import all_places, markdown, ranked_rows, to_csv, weights_of
from invsuite.report.pictures import StoreOf
from invsuite.results.record import Record, RelationRecord
from invsuite.results.rows import by_model

BUNDLED = "bundled"  # first word of where the weights of the suite's own small models come from


def full_title(title: str, records: Sequence[Record]) -> str:
    """The suite's ``title``, and which models are not what a reader may take them for: the small bundled ones, and
    those with random weights. It is read from the records, so it holds for whatever models a suite was run on."""
    weights = weights_of(records)
    small = [model for model, origin in weights.items() if origin.source.startswith(f"{BUNDLED} ")]
    random = [model for model, origin in weights.items() if origin.random]
    kinds = {"small bundled models": small, "RANDOM WEIGHTS, untrained": random}
    return " - ".join([title, *(f"{kind}: {', '.join(models)}" for kind, models in kinds.items() if models)])


@contextmanager
def _kept_out_of_collection() -> Iterator[None]:
    """Until the end the garbage collector leaves alone what is there now: walking 10,000 records again and again would
    take as long as rendering them."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@_kept_out_of_collection()
def write_report(
    name: str,
    title: str,
    records: Sequence[Record],
    store_of: StoreOf,
    out: Path,
    relations: Sequence[RelationRecord] = (),
    notes: Sequence[str] = (),
) -> list[Path]:
    """Write ``NAME.md``, ``NAME.csv``, the page ``NAME.html``, a strip per model and, where stages are related, heat
    maps to ``out``; returns the files.

    Args:
        title: heading, which says what suite this is.
        store_of: where the pictures of each record are.
        relations: records of how the stages of models relate.
        notes: what to say of the records before all else.
    """
    title = full_title(title, records)
    strips: dict[str, Path] = {}
    maps: dict[str, Path] = {}
    for model, own in by_model(records).items():
        stem = f"{name}-" + re.sub(r"[^\w.-]+", "-", model).strip("-")  # a merged model's name may have blanks
        strip, between = out / f"{stem}.png", out / f"{stem}-interlayer.png"
        if draw_strip(model, own, store_of, strip):
            strips[model] = strip
        if draw_heatmaps(model, own, relations, between):
            maps[model] = between
    placed = all_places(ranked_rows(records))
    table, values, page = (out / f"{name}.{ending}" for ending in ("md", "csv", "html"))
    shown, related = ({model: path.name for model, path in files.items()} for files in (strips, maps))
    text = markdown(title, records, shown, relations, related, notes, placed)
    write_atomically(table, text.encode())
    write_atomically(values, to_csv(records).encode())
    write_atomically(page, html_page(title, records, store_of, relations, notes, placed).encode())
    return [table, values, page, *strips.values(), *maps.values()]
