"""What an inverse is worth elsewhere: on images of another kind, and on models of other weights.

An inverse that was fitted to one model and one kind of images is scored in other places, and beside it in each the mean
colour of every image, which any inverse should beat. So one sees how far an inverse of a published model reads the
representations of a model that was trained on from it, and what is left of it on photos if it has seen none.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from invsuite.apply.inverse import load_inverse
from invsuite.data.sources import open_images
from invsuite.data.split import Split
from invsuite.errors import UsageError
from invsuite.models.base import Model
from invsuite.report.texts import heading, listed, markdown_table
from invsuite.results.record import Measurement, Record
from invsuite.results.regime import regime_of
from invsuite.results.statistics import distance_from_best, summary_text
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


@dataclass(frozen=True)
class Transfer:
    """What one inverse gave, at every stage in every place.

    Attributes:
        inverse: as the user named it.
        fitted: on which images, in words.
        rows: what it gave.
        unfit: why of sources of models that cannot be read by it.
    """

    inverse: str
    fitted: str
    rows: Sequence[Transferred]
    unfit: Mapping[str, str]

    @property
    def what(self) -> str:
        """Return which method of which model it is."""
        cell = self.rows[0].record.cell
        return f"`{cell.method}` of `{cell.model}`"

    @property
    def spent(self) -> str:
        """Return on what it was fitted, and at which budget."""
        regime = regime_of([self.rows[0].record]).text
        return f"fitted on {self.fitted}{'' if regime == '-' else f', {regime}'}"

    @property
    def stages(self) -> list[str]:
        """Return the stages that it inverts."""
        return list(dict.fromkeys(row.record.cell.stage for row in self.rows))

    @property
    def headline(self) -> Measurement:
        """Return the first measure with a value."""
        return next(one for one in self.rows[0].record.measurements.values() if one.mean is not None)


def transfer(
    paths: Sequence[str | Path],
    images_of: Callable[[Model], Mapping[str, Split]],
    models: Sequence[str] = (),
    metrics: Sequence[str] = ("psnr", "ssim"),
    device: str = "auto",
) -> list[Transfer]:
    """Score kept inverses on several kinds of images, for their own models and for others that take the same images.

    Args:
        paths: of the inverses, as `invsuite.load_inverse` takes them.
        images_of: images for a model by what they are to be called; none of them may be among those of the fit.
        models: sources of further models with the same stages (``timm:NAME@my-finetuned.pth``); ``random`` is an
            inverse's own with random weights. One that fits some of several inverses is left out for the others.
        metrics: names of measures.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UsageError: without images, or for a model that has other stages or another image size than every inverse.
        Unavailable: if an inverse or a model cannot be had.
    """
    transfers = [_transfer(path, images_of, models, metrics, device) for path in paths]
    for source in models:
        if all(source in one.unfit for one in transfers):
            raise UsageError(transfers[0].unfit[source])
    return transfers


def _transfer(
    path: str | Path,
    images_of: Callable[[Model], Mapping[str, Split]],
    models: Sequence[str],
    metrics: Sequence[str],
    device: str,
) -> Transfer:
    own = load_inverse(path, device=device)
    images = images_of(own.model)
    if not images:
        raise UsageError("nothing to score on: name a folder of photos, or scenes")
    places, unfit = {OWN: own}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of weights that are others: that is what is asked
        for source in models:
            other: str | Model = own.model.randomised(own.card.seed + 1) if source == "random" else source
            try:
                places[source] = load_inverse(path, model=other, force=True, device=device)
            except UsageError as error:
                unfit[source] = str(error)
    unread = open_images("scenes", own.model.image_size, seed=UNSCORED, count=2)  # the floor's fit looks at none
    rows = []
    for model, inverse in places.items():
        for name, split in images.items():
            floors = score(fit(FLOOR, inverse.model, inverse.stages, unread, device=device), split, metrics)
            for record in score(inverse, split, metrics):
                [floor] = [one for one in floors if one.cell.stage == record.cell.stage]
                rows.append(Transferred(model, name, record, floor))
    first = rows[0].record
    if all(measurement.mean is None for measurement in first.measurements.values()):
        reasons = [first.reason, *(measurement.reason for measurement in first.measurements.values())]
        raise UsageError(f"'{path}' gave no value: {next(filter(None, reasons), 'name a measure')}")
    seen = own.card.data["fit"]
    return Transfer(str(path), f"{seen.count:,} images of {seen.name}", rows, unfit)


READING = """\
Each inverse was fitted to its own model. Below it is scored on other images and on other weights of the same
architecture; beside each value stands what the mean colour of each image scores, which an inverse should beat. *Kept*
is the share of the gain over that floor which its own model gives on the same images, where it gives any. Values are
means over images with 95 % bootstrap intervals.
"""


def transfer_markdown(transfers: Sequence[Transfer]) -> str:
    """Return a page of what `transfer` gave: for every inverse a table per stage."""
    named = listed(dict.fromkeys(one.what.replace("`", "") for one in transfers))
    lines = [f"# Transfer: {named}, elsewhere", "", *_opening(transfers), "", READING]
    for one in transfers:
        lines += _part(one)
    return "\n".join(lines).rstrip() + "\n"


def _opening(transfers: Sequence[Transfer]) -> list[str]:
    """Return three sentences: what the page shows at which budget, what is gained on each kind of images, and kept."""
    inverses = [f"{one.what} ({one.spent})" for one in transfers]
    every = [row for one in transfers for row in one.rows]
    places = listed(dict.fromkeys(f"{row.images} (n={len(row.record.images)})" for row in every))
    gains, kept = [], []
    for one in transfers:
        measure, ends = one.headline, (one.stages[0], one.stages[-1])
        own = [row for row in one.rows if row.model == OWN and row.record.cell.stage in ends]
        said = [
            f"{gain:.{measure.digits}f} on {row.images} at {row.record.cell.stage}"
            for row in own
            if (gain := _gain(measure.name, row)) is not None
        ]
        gains.append(f"{one.what}, {listed(said)}")
        for model in dict.fromkeys(row.model for row in one.rows if row.model != OWN):
            known = [_kept(measure.name, row, one.rows) for row in one.rows if row.model == model]
            shares = [share for share in known if share is not None]
            if shares:
                kept.append(f"{100 * min(shares):.0f} to {100 * max(shares):.0f} % on `{model}` by {one.what}")
    measure = transfers[0].headline
    return [
        f"This page shows what {listed(inverses)} {'is' if len(transfers) == 1 else 'are'} worth on {places}, and on "
        "models of other weights.",
        f"Over the mean colour of each image, {measure.label} gains in {measure.unit or 'its own unit'}: "
        f"{'; '.join(gains)}.",
        f"Of that gain is kept with other weights: {'; '.join(kept) or 'there is no gain to keep'}."
        if any(row.model != OWN for row in every)
        else "No other weights were tried.",
    ]


def _part(one: Transfer) -> list[str]:
    """Return the lines of one inverse."""
    lines = [f"## {one.what}", "", f"The inverse is '{one.inverse}': {one.spent}."]
    lines += [f"Left out is {source}: {reason}." for source, reason in one.unfit.items()]
    lines += [""]
    kept: dict[tuple[str, str], list[str]] = {}
    for row in one.rows:
        if row.model != OWN:
            kept.setdefault((row.model, row.images), []).append(_share(_kept(one.headline.name, row, one.rows)))
    if kept:
        text = markdown_table([[*place, *shares] for place, shares in kept.items()], ["Model", "Images", *one.stages])
        lines += [f"**Kept of {one.headline.label}**", "", text, ""]
    for stage in one.stages:
        own = [row for row in one.rows if row.record.cell.stage == stage]
        names = [name for name, measurement in own[0].record.measurements.items() if measurement.mean is not None]
        head = ["Model", "Images"]
        for name in names:
            head += [heading(own[0].record.measurements[name]), "floor", "kept"]
        body = []
        for row in own:
            line = [row.model, row.images]
            for name in names:
                line += _cells(name, row, own)
            body.append(line)
        lines += [f"**{stage}**", "", markdown_table(body, head), ""]
    return lines


def _gain(name: str, row: Transferred) -> float | None:
    """Return by how much an inverse is better than the floor; None where one of the two has no value."""
    one, floor = row.record.measurements.get(name), row.floor.measurements.get(name)
    if one is None or one.mean is None or floor is None or floor.mean is None:
        return None
    gain = distance_from_best(one.direction, floor.mean) - distance_from_best(one.direction, one.mean)
    return float(gain)


def _kept(name: str, row: Transferred, rows: Sequence[Transferred]) -> float | None:
    """Return the share that is kept of the gain for the inverse's own model; None where that has none."""
    place = (OWN, row.images, row.record.cell.stage)
    [home] = [one for one in rows if (one.model, one.images, one.record.cell.stage) == place]
    gain, whole = _gain(name, row), _gain(name, home)
    return None if row is home or gain is None or whole is None or whole <= 0 else gain / whole


def _share(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _cells(name: str, row: Transferred, rows: Sequence[Transferred]) -> list[str]:
    """Return value, floor and the kept share of one measure."""
    one, floor = row.record.measurements.get(name), row.floor.measurements.get(name)
    if one is None or one.mean is None or floor is None or floor.mean is None:
        return ["-", "-", "-"]
    value = summary_text(one.mean, one.low, one.high, one.n, one.digits)
    return [value, f"{floor.mean:.{one.digits}f}", _share(_kept(name, row, rows))]
