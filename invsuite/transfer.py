"""What an inverse is worth elsewhere: on images of another kind, and on models of other weights.

An inverse that was fitted to one model and one kind of images is scored in other places, and beside it in each the mean
colour of every image, which any inverse should beat. So one sees how far an inverse of a published model reads the
representations of a model that was trained on from it, and what is left of it on photos if it has seen none.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from invsuite.apply.inverse import Inverse, load_inverse
from invsuite.data.sources import open_images
from invsuite.data.split import Split
from invsuite.errors import UsageError
from invsuite.models.base import Model
from invsuite.report.texts import heading, markdown_table
from invsuite.results.record import Record
from invsuite.results.regime import regime_of
from invsuite.results.statistics import summary_text
from invsuite.single import fit, score

FLOOR = "mean-colour"  # the method that any inverse should beat
OWN = "its own"
UNSCORED = 2**31 - 1  # seed of scenes that nobody scores


@dataclass(frozen=True)
class Transferred:
    """What an inverse gave at one stage in one place.

    Attributes:
        model: whose representations were inverted, as the user named it; `OWN` for that of the fit.
        images: what they are called.
        record: of the inverse.
        floor: of the mean colour of each image.
    """

    model: str
    images: str
    record: Record
    floor: Record


def transfer(
    path: str | Path,
    images: Mapping[str, Split],
    models: Sequence[str] = (),
    metrics: Sequence[str] = ("psnr", "ssim"),
    device: str = "auto",
) -> list[Transferred]:
    """Score a kept inverse on several kinds of images, for its own model and for others that take the same images.

    Args:
        path: of the inverse, as `invsuite.load_inverse` takes it.
        images: by what they are to be called; none of them may be among those of its fit.
        models: sources of further models with the same stages (``timm:NAME@my-finetuned.pth``); ``random`` is its own
            with random weights.
        metrics: names of measures.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UsageError: without images, or for a model that has other stages or takes another image size.
        Unavailable: if the inverse or a model cannot be had.
    """
    if not images:
        raise UsageError("nothing to score on: name a folder of photos, or scenes")
    own = load_inverse(path, device=device)
    places: dict[str, Inverse] = {OWN: own}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of weights that are others: that is what is asked
        for source in models:
            other: str | Model = own.model.randomised(own.card.seed + 1) if source == "random" else source
            places[source] = load_inverse(path, model=other, force=True, device=device)
    unread = open_images("scenes", own.model.image_size, seed=UNSCORED, count=2)  # the floor's fit looks at none
    rows = []
    for model, inverse in places.items():
        for name, split in images.items():
            floors = score(fit(FLOOR, inverse.model, inverse.stages, unread, device=device), split, metrics)
            for record in score(inverse, split, metrics):
                [floor] = [one for one in floors if one.cell.stage == record.cell.stage]
                rows.append(Transferred(model, name, record, floor))
    return rows


def transfer_markdown(rows: Sequence[Transferred], inverse: str | Path) -> str:
    """Return a page of what `transfer` gave: a table for every stage."""
    first = rows[0].record
    lines = [
        f"# Transfer: {first.cell.method} of {first.cell.model}, elsewhere",
        "",
        f"The inverse '{inverse}' ({regime_of([first]).text}) was fitted to its own model. Below it is scored on other "
        "images and on other weights of the same architecture; beside each value stands what the mean colour of each "
        "image scores, which an inverse should beat. *Kept* is the share of the gain over that floor which its own "
        "model gives on the same images. Values are means over images with 95 % bootstrap intervals.",
        "",
    ]
    stages = list(dict.fromkeys(row.record.cell.stage for row in rows))
    name, label = next((name, one.label) for name, one in first.measurements.items() if one.mean is not None)
    kept: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.model != OWN:
            kept.setdefault((row.model, row.images), []).append(_cells(name, row, _home(rows, row))[2])
    if kept:
        text = markdown_table([[*place, *shares] for place, shares in kept.items()], ["Model", "Images", *stages])
        lines += [f"**Kept of {label}**", "", text, ""]
    for stage in stages:
        own = [row for row in rows if row.record.cell.stage == stage]
        names = [name for name, one in own[0].record.measurements.items() if one.mean is not None]
        head = ["Model", "Images"]
        for name in names:
            head += [heading(own[0].record.measurements[name]), "floor", "kept"]
        body = []
        for row in own:
            line = [row.model, row.images]
            for name in names:
                line += _cells(name, row, _home(own, row))
            body.append(line)
        lines += [f"**{stage}**", "", markdown_table(body, head), ""]
    return "\n".join(lines).rstrip() + "\n"


def _home(rows: Sequence[Transferred], row: Transferred) -> Transferred:
    """Return what the inverse gave at the same stage on the same images, but for its own model."""
    place = (OWN, row.images, row.record.cell.stage)
    return next(one for one in rows if (one.model, one.images, one.record.cell.stage) == place)


def _cells(name: str, row: Transferred, home: Transferred) -> list[str]:
    """Return value, floor and the kept share of one measure."""
    one, floor = row.record.measurements.get(name), row.floor.measurements.get(name)
    if one is None or one.mean is None or floor is None or floor.mean is None:
        return ["-", "-", "-"]
    best = home.record.measurements[name].mean
    gain = None if best is None or best == floor.mean else (one.mean - floor.mean) / (best - floor.mean)
    kept = "-" if gain is None or row is home else f"{100 * gain:.0f} %"
    value = summary_text(one.mean, one.low, one.high, one.n, one.digits)
    return [value, f"{floor.mean:.{one.digits}f}", kept]
