"""What closed-form inversions found: rank and condition number of an embedding, convergence of each block."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from invsuite.results.record import Record


def algebra_section(records: Sequence[Record]) -> list[str]:
    """Lines of markdown on the linear ceiling of embeddings and the fixed points of blocks; none without such cells."""
    return [*_ceilings(records), *_fixed_points(records)]


def _ceilings(records: Sequence[Record]) -> list[str]:
    rows = []
    for record in records:
        notes, cell = record.notes, record.cell
        if "condition_number" not in notes:
            continue
        psnr = record.measurements.get("psnr")
        condition = notes["condition_number"]
        rows.append(
            [
                cell.model,
                cell.stage,
                f"{notes['rank']} of {notes['patch_values']}",
                "-" if condition is None else f"{condition:.0f}",
                "yes" if notes["unique"] else "no",
                f"{psnr.mean:.2f} (n={psnr.n})" if psnr is not None and psnr.ok else "-",
            ]
        )
    if not rows:
        return []
    head = ["Model", "Stage", "Rank", "Condition number", "Unique", "PSNR dB ↑"]
    return [
        "## Linear ceiling",
        "",
        "The patch embedding inverted by its pseudo-inverse (`exact`). Where its rank is that of the patch the inverse "
        "is unique; elsewhere this is the likeliest patch under the fit patches' covariance: what a linear readout of "
        "the token can reach.",
        "",
        tabulate(rows, head, tablefmt="github", disable_numparse=True),
        "",
    ]


def _fixed_points(records: Sequence[Record]) -> list[str]:
    rows = []
    for record in records:
        cell = record.cell
        for block in record.notes.get("blocks", []):
            rows.append(
                [
                    cell.model,
                    cell.stage,
                    block["block"],
                    "yes" if block["converged"] else f"{100 * block['converged_share']:.0f} % of images",
                    f"{block['residual']:.1e}",
                    block["iterations"],
                    block["images"],
                ]
            )
    if not rows:
        return []
    head = ["Model", "From stage", "Block", "Converged", "Mean residual", "Iterations", "n"]
    return [
        "## Fixed points",
        "",
        "Residual blocks inverted by iteration (`fixedpoint`), the deepest first; where one does not converge, all "
        "before it start from a wrong representation.",
        "",
        tabulate(rows, head, tablefmt="github", disable_numparse=True),
        "",
    ]
