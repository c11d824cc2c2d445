"""The chain gap: what composing modules costs against one network trained end to end."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from invsuite.results.record import Record

REFERENCE = "layerwise"


def chain_gaps(records: Sequence[Record]) -> list[tuple[Record, float]]:
    """Records of chains of modules with their chain gap: mean squared error of their images over that of the
    end-to-end network (method ``layerwise``) of the same model, stage and seed, both on the selection images.

    Records without such a partner, or without selection errors in their notes, are left out.
    """
    errors = {
        _key(r): r.notes["selection_image_mse"]
        for r in records
        if r.cell.method == REFERENCE and "selection_image_mse" in r.notes
    }
    return [
        (r, r.notes["selection_image_mse"] / errors[_key(r)])
        for r in records
        if r.cell.method != REFERENCE and "selection_image_mse" in r.notes and errors.get(_key(r), 0.0) > 0
    ]


def gap_section(records: Sequence[Record]) -> list[str]:
    """Lines of markdown with the gaps as a table; none where no chain has an end-to-end partner."""
    found = chain_gaps(records)
    if not found:
        return []
    rows = []
    for record, gap in found:
        cell = record.cell
        mse = f"{record.notes['selection_image_mse']:.5f}"
        rows.append([cell.model, cell.stage, cell.method, cell.seed, mse, f"{gap:.2f}"])
    head = ["Model", "Stage", "Method", "Seed", "Selection MSE ↓", "Chain gap ↓"]
    return [
        "## Chain gap",
        "",
        "Mean squared error of the images of a chain of modules over that of the end-to-end network "
        f"(`{REFERENCE}`) of the same stage, both on the selection images. 1 means composing costs nothing.",
        "",
        tabulate(rows, head, tablefmt="github", disable_numparse=True),
        "",
    ]


def _key(record: Record) -> tuple[str, str, int]:
    return record.cell.model, record.cell.stage, record.cell.seed
