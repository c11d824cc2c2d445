"""What an inverse is worth elsewhere: on images of another kind, and on models of other weights.

An inverse that was fitted to one model and one kind of images is scored in other places, and beside it in each the mean
colour of every image, which any inverse should beat. So one sees how far an inverse of a published model reads the
representations of a model that was trained on from it, and what is left of it on photos if it has seen none.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from invsuite.apply.inverse import load_inverse
from invsuite.data.sources import open_images
from invsuite.data.split import Split
from invsuite.errors import UsageError
from invsuite.models.base import Model
from invsuite.report.texts import difference_text, heading, listed, markdown_table
from invsuite.results.record import Measurement, Record
from invsuite.results.regime import regime_of
from invsuite.results.rows import Row, advantage
from invsuite.results.statistics import Difference, summary_text
from invsuite.single import fit, score

FLOOR = "mean-colour"  # the method that any inverse should beat
LEAST = {"dB": 1.0, "": 0.05}  # gain over the floor, by unit, of which a share says something
OWN = "its own"
UNSCORED = 2**31 - 1  # seed of scenes that nobody scores


@dataclass(frozen=True)
class Transferred:
    """What an inverse gave at one stage in one place.

    Gains and losses are paired over the images, in the measure's unit.

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

    def gain(self, name: str) -> Difference | None:
        """Return by how much the inverse is better than the floor by a measure; None without values of both."""
        return _over(self.record, self.floor, name)

    def worth_a_share(self, name: str) -> bool:
        """Tell whether the gain is told apart from 0 and so large that shares of it say something."""
        gain, unit = self.gain(name), self.record.measurements[name].unit if name in self.record.measurements else ""
        if gain is None or gain.mean is None or gain.low is None:
            return False
        return gain.low > 0 and gain.mean >= LEAST.get(unit, 0.0)


def _over(record: Record, other: Record, name: str) -> Difference | None:
    """Return by how much one record is better than another by a measure; None without an image in common."""
    rows = Row((record,)), Row((other,))
    if not all(row.having(name) for row in rows):
        return None
    gain = advantage(*rows, name)
    return None if gain.mean is None else gain


@dataclass(frozen=True)
class Transfer:
    """What one inverse gave, at every stage in every place.

    Attributes:
        inverse: as the user named it; of a folder the last two parts of its path.
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

    def home(self, row: Transferred) -> Transferred:
        """Return what the inverse gave for its own model, at the same stage and on the same images."""
        place = (OWN, row.images, row.record.cell.stage)
        return next(one for one in self.rows if (one.model, one.images, one.record.cell.stage) == place)

    def kept(self, row: Transferred, name: str) -> float | None:
        """Return the share of the gain by a measure for its own model that is kept; None where it has none."""
        home, gain = self.home(row), row.gain(name)
        whole = home.gain(name)
        if row is home or gain is None or whole is None or not home.worth_a_share(name):
            return None
        assert gain.mean is not None, "both have values"
        assert whole.mean is not None, "both have values"
        return gain.mean / whole.mean

    def lost(self, row: Transferred, name: str) -> float | None:
        """Return by how much it is better by a measure than for its own model, where no share of a gain is kept."""
        home = self.home(row)
        if row is home or self.kept(row, name) is not None:
            return None
        difference = _over(row.record, home.record, name)
        return None if difference is None else difference.mean

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
    name = _short_name(path)
    unread_by = {source: reason.replace(str(path), name) for source, reason in unfit.items()}
    return Transfer(name, f"{seen.count:,} images of {seen.name}", rows, unread_by)


def _short_name(path: str | Path) -> str:
    """Return what a page calls an inverse: of a folder the last two parts of its path, which no other machine has."""
    return "/".join(Path(path).parts[-2:]) if Path(path).is_dir() else str(path)


READING = f"""\
Each inverse was fitted to its own model. Below it is scored on other images and on other weights of the same
architecture (`random`: untrained ones); beside each value stands what the mean colour of each image scores, which an
inverse should beat. *Kept* is the share of the gain over that floor which its own model gives on the same images: 100 %
is as much, 0 % as good as the floor, less is worse than it. Where the gain for its own model is not told apart from 0,
or is below {LEAST["dB"]:g} dB ({LEAST[""]:g} of a measure without a unit), there is nothing to have a share of: the
difference from the value for its own model stands there, positive where it is better, with that gain. Values are means
over images with 95 % bootstrap intervals; gains and differences are paired over the images.
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
            f"{_signed(gain, measure)} on {row.images} at {row.record.cell.stage}"
            for row in own
            if (gain := row.gain(measure.name)) is not None
        ]
        gains.append(f"{one.what}, {listed(said)}")
        for model in dict.fromkeys(row.model for row in one.rows if row.model != OWN):
            there = [row for row in one.rows if row.model == model]
            shares = [share for row in there if (share := one.kept(row, measure.name)) is not None]
            losses = [loss for row in there if (loss := one.lost(row, measure.name)) is not None]
            parts = [f"{_range(100 * share for share in shares)} %"] if shares else []
            if losses:
                changes = f"{_range(losses, f'+.{measure.digits}f')} {measure.unit}".rstrip()
                parts.append(f"no share, but {changes}, where its own gain is next to nothing")
            if parts:
                kept.append(f"{', and '.join(parts)} on `{model}` by {one.what}")
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
            kept.setdefault((row.model, row.images), []).append(_kept_text(one, row, one.headline))
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
                line += _cells(one, row, name)
            body.append(line)
        lines += [f"**{stage}**", "", markdown_table(body, head), ""]
    return lines


def _signed(gain: Difference, measure: Measurement) -> str:
    assert gain.mean is not None, "there is an image in common"
    return difference_text(gain.mean, gain.low, gain.high, gain.n, measure.digits, bold=False)


def _range(numbers: Iterable[float], form: str = ".0f") -> str:
    """Return the least and the most of numbers in words, or the one that both are."""
    known = sorted(numbers)
    return " to ".join(dict.fromkeys(f"{end:{form}}" for end in (known[0], known[-1])))


def _kept_text(one: Transfer, row: Transferred, measure: Measurement) -> str:
    """Return which share is kept, or the difference where there is next to no gain to keep, with that gain."""
    share, lost, whole = one.kept(row, measure.name), one.lost(row, measure.name), one.home(row).gain(measure.name)
    if share is not None:
        return f"{100 * share:.0f} %"
    if lost is None or whole is None:
        return "-"
    unit = f" {measure.unit}" if measure.unit else ""
    return f"{lost:+.{measure.digits}f}{unit} (own gain {whole.mean:+.{measure.digits}f})"


def _cells(one: Transfer, row: Transferred, name: str) -> list[str]:
    """Return value, floor and the kept share of one measure."""
    own, floor = row.record.measurements.get(name), row.floor.measurements.get(name)
    if own is None or own.mean is None or floor is None or floor.mean is None:
        return ["-", "-", "-"]
    value = summary_text(own.mean, own.low, own.high, own.n, own.digits)
    return [value, f"{floor.mean:.{own.digits}f}", _kept_text(one, row, own)]
