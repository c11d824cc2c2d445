"""Photos through a model and back: what an inverse makes of each stage, of the photo as it is and edited."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from invsuite._system.files import expand_path, file_name, write_atomically
from invsuite._system.memory import halving
from invsuite.apply.images import Images, Photo, geometry_of, on_canvas, open_photos, resized, size_of, to_tensor
from invsuite.apply.inverse import BATCH, Inverse
from invsuite.data.base import Mask, from_unit_range
from invsuite.data.edits import scale_chroma, turn_hue, turn_hue_lch
from invsuite.data.geometry import FitMode, Geometry
from invsuite.data.photo import TRANSPARENT, TURNS, orientation, quiet
from invsuite.errors import DataError, MissingPath, UsageError, reason_of, unknown_name
from invsuite.metrics.fidelity import psnr
from invsuite.models.base import means_stage
from invsuite.results.regime import short

OVERLAP = 4  # pieces of a large photo share 1/OVERLAP of their side with the next
Box = tuple[float, float, float, float]
MaskLike = str | Path | Image.Image | NDArray[Any] | torch.Tensor
#: Called with the images done, and how many there are in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class EditKind:
    """A kind of edit.

    Attributes:
        apply: takes an image (3, h, w), a mask (h, w) and the amount.
        shown: how a figure writes it, for ``str.format``.
        least: smallest amount.
        most: largest amount.
        amount: of an edit that names none; None where it must.
    """

    apply: Callable[[torch.Tensor, Mask, float], torch.Tensor]
    shown: str
    least: float
    most: float
    amount: float | None = None


EDITS = {
    "hue": EditKind(lambda i, m, degrees: turn_hue(i, m, degrees / 360), "hue {:+g}°", -360, 360),
    "hue-lch": EditKind(lambda i, m, degrees: turn_hue_lch(i, m, degrees / 360), "CIELCh hue {:+g}°", -360, 360),
    "chroma": EditKind(scale_chroma, "chroma x {:g}", 0, 100),
    "grey": EditKind(lambda i, m, share: scale_chroma(i, m, 1 - share), "grey", 1, 1, 1),
}


@dataclass(frozen=True)
class Edit:
    """An edit of colours: a turn of hue, in HSV or at constant lightness (CIELCh), a scaled chroma, or grey.

    Attributes:
        kind: one of `EDITS`.
        amount: degrees, or the factor of chroma.

    Raises:
        UsageError: for another kind, or an amount that it cannot have.

    Examples:
        >>> Edit.of("hue=120").label
        'hue +120°'
    """

    kind: str
    amount: float

    def __post_init__(self) -> None:
        if self.kind not in EDITS:
            raise unknown_name("edit", self.kind, EDITS)
        kind = EDITS[self.kind]
        if not kind.least <= self.amount <= kind.most:
            raise UsageError(f"edit {self.kind}={self.amount:g}: expected {kind.least:g} to {kind.most:g}")

    @classmethod
    def of(cls, text: str | Edit) -> Edit:
        """Return an edit as a person writes it: ``hue=120``, ``chroma=0.5``, ``grey``.

        Raises:
            UsageError: if it is none.
        """
        if isinstance(text, Edit):
            return text
        kind, _, amount = text.partition("=")
        default = EDITS[kind].amount if kind in EDITS else 0.0
        if not amount:
            if default is None:
                raise UsageError(f"edit '{kind}' needs an amount, e.g. {kind}={'120' if 'hue' in kind else '0.5'}")
            return cls(kind, default)
        try:
            return cls(kind, float(amount))
        except ValueError as error:
            raise UsageError(f"edit '{text}': '{amount}' is no number") from error

    @property
    def text(self) -> str:
        """Return the edit as a person writes it."""
        return self.kind if EDITS[self.kind].amount is not None else f"{self.kind}={self.amount:g}"

    @property
    def label(self) -> str:
        """Return the edit as a figure writes it."""
        return EDITS[self.kind].shown.format(self.amount)

    def apply(self, image: torch.Tensor, mask: Mask) -> torch.Tensor:
        """Return an image (3, h, w) in [0, 1] with the pixels of a mask (h, w) edited."""
        return EDITS[self.kind].apply(image, mask, self.amount)


@dataclass(frozen=True)
class Row:
    """An image that a model was shown, and what was made of each stage.

    Attributes:
        edit: of the photo; None for the photo as it is.
        image: (3, h, w) in [0, 1].
        reconstructions: of the same shape, by stage.
        psnr: of each against ``image``, in dB.
    """

    edit: Edit | None
    image: torch.Tensor
    reconstructions: Mapping[str, torch.Tensor]
    psnr: Mapping[str, float]

    @property
    def label(self) -> str:
        """Return how a figure calls the row."""
        return "as it is" if self.edit is None else self.edit.label


@dataclass(frozen=True)
class InvertedPhoto:
    """One photo with its reconstructions.

    Attributes:
        name: of its file, or its number.
        heading: the model and the method, then what was spent on the inverse.
        treatment: in words, how the photo took the size of the model's input.
        rows: the photo as it is, then each edit.
        region: (h, w), true where edits act; None where they act everywhere.
    """

    name: str
    heading: tuple[str, str]
    treatment: str
    rows: tuple[Row, ...]
    region: Mask | None = None

    @property
    def stages(self) -> tuple[str, ...]:
        """Return the stages, in the model's order."""
        return tuple(self.rows[0].reconstructions)

    def __getitem__(self, stage: str) -> torch.Tensor:
        """Return the reconstruction (3, h, w) of the photo as it is.

        Raises:
            UsageError: for a stage that was not inverted.
        """
        if stage not in self.rows[0].reconstructions:
            raise unknown_name("inverted stage", stage, self.stages)
        return self.rows[0].reconstructions[stage]

    def tree(self) -> dict[str, Any]:
        """Return its name and values as JSON has them; a PSNR without an end (a copy) is None."""
        rows = [
            {
                "edit": row.edit.text if row.edit is not None else None,
                "psnr": {stage: value if math.isfinite(value) else None for stage, value in row.psnr.items()},
            }
            for row in self.rows
        ]
        return {"photo": self.name, "shown": self.treatment, "inverse": ", ".join(self.heading), "rows": rows}

    def save(self, folder: str | Path) -> list[Path]:
        """Write every picture as a PNG file, ``original.png`` and one per stage, edited ones below a folder per edit.

        Returns:
            The files.

        Raises:
            DiskError: if the disk refuses.
        """
        files = []
        for row in self.rows:
            place = Path(folder) if row.edit is None else Path(folder) / file_name(row.edit.text)
            for name, image in {"original": row.image, **row.reconstructions}.items():
                buffer = io.BytesIO()
                Image.fromarray(pixels_of(image)).save(buffer, "PNG")
                files.append(place / f"{file_name(name)}.png")
                write_atomically(files[-1], buffer.getvalue())
        return files


@dataclass(frozen=True)
class Inversion:
    """Photos with their reconstructions: what `invert` returns and `show` draws.

    Attributes:
        photos: one by one.
        left_out: ``{path: reason}`` of the files of a folder that could not be read.

    Examples:
        >>> import invsuite
        >>> scenes = invsuite.open_images("scenes", (96, 96), seed=1, count=24)
        >>> inverse = invsuite.fit("ridge", "bundled:vit", ["embed", "block03"], scenes)
        >>> inversion = invsuite.invert(scenes.images([0, 1]), inverse, edits=["grey"])
        >>> inversion["block03"].shape, [row.label for row in inversion.photos[0].rows]
        (torch.Size([2, 3, 96, 96]), ['as it is', 'grey'])
    """

    photos: tuple[InvertedPhoto, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def stages(self) -> tuple[str, ...]:
        """Return the stages, in the model's order."""
        return self.photos[0].stages

    def __getitem__(self, stage: str) -> torch.Tensor:
        """Return the reconstructions (B, 3, H, W) in [0, 1] of the photos as they are.

        Raises:
            UsageError: for a stage that was not inverted, or photos that were reconstructed at sizes of their own.
        """
        images = [photo[stage] for photo in self.photos]
        if len({image.shape for image in images}) > 1:
            raise UsageError("the photos were reconstructed at sizes of their own: take them from .photos one by one")
        return torch.stack(images)

    def save(self, folder: str | Path) -> list[Path]:
        """Write every picture as a PNG file, in a folder per photo, and return the files.

        Raises:
            DiskError: if the disk refuses.
        """
        places = folder_names([photo.name for photo in self.photos])
        return [
            file for photo, name in zip(self.photos, places, strict=True) for file in photo.save(Path(folder) / name)
        ]


@dataclass(frozen=True)
class Request:
    """What is to be done with each photo.

    Attributes:
        stages: to invert, of the inverse's; none for all.
        edits: of which each gives a row of its own.
        mask: where edits act, of the photo's size: true or bright pixels, or those that are not transparent.
        box: where they act, instead: (x, y, width, height) in pixels of the photo as a viewer shows it.
        tile: whether a photo is reconstructed at its own size, in pieces of the model's size.
        geometry: ``crop`` or ``squash``; as in the inverse's fit by default.
    """

    stages: Sequence[str] = ()
    edits: Sequence[str | Edit] = ()
    mask: MaskLike | None = None
    box: Box | None = None
    tile: bool = False
    geometry: FitMode | str = ""


def invert(
    images: Images,
    inverse: Inverse,
    stages: Sequence[str] = (),
    edits: Sequence[str | Edit] = (),
    mask: MaskLike | None = None,
    box: Box | None = None,
    tile: bool = False,
    geometry: FitMode | str = "",
) -> Inversion:
    """Reconstruct photos from what a model holds of them at each stage, as they are and edited.

    Args:
        images: photos of any kind and size: paths, folders, PIL images, arrays, tensors, a list of these, or a dict of
            these by the names that figures show.
        inverse: of the model.
        stages: to invert, of the inverse's; all by default.
        edits: ``hue=DEGREES`` (HSV), ``hue-lch=DEGREES`` (lightness kept), ``chroma=FACTOR``, ``grey``; each gives a
            row of its own.
        mask: where edits act, of the size of the one photo: true or bright pixels, or those that are not transparent.
        box: where they act, instead: (x, y, width, height) in pixels of the one photo as a viewer shows it.
        tile: whether photos are reconstructed at their own size, in pieces of the model's size.
        geometry: ``crop`` covers the model's size and cuts the rest off, ``squash`` scales each side by itself; by
            default as the inverse's own photos were.

    Raises:
        UsageError: for images, a stage, an edit or a mask that does not fit.
        DataError: for a file that cannot be decoded.
        Unavailable: for a path that is not there, or a folder without photos.

    Examples:
        >>> import invsuite
        >>> scenes = invsuite.open_images("scenes", (96, 96), seed=1, count=24)
        >>> inverse = invsuite.fit("ridge", "bundled:vit", ["embed"], scenes)
        >>> photo = invsuite.invert(np.zeros((60, 80, 3), dtype=np.uint8), inverse).photos[0]
        >>> photo.treatment
        'cropped to the centre 60 x 60 of 80 x 60 px, enlarged to 96 x 96'
    """
    photos, left_out = open_photos(images)
    request = Request(stages, edits, mask, box, tile, geometry)
    return Inversion(tuple(inverted(photos, inverse, request)), left_out)


def inverted(
    photos: Sequence[Photo], inverse: Inverse, request: Request, progress: Progress = lambda done, count: None
) -> Iterator[InvertedPhoto]:
    """Yield photos with their reconstructions one by one, several of them inverted side by side.

    Raises:
        UsageError: for a stage, an edit or a mask that does not fit.
        DataError: for a file that cannot be decoded.
    """
    chosen = chosen_stages(inverse, request.stages)
    edits = [Edit.of(edit) for edit in request.edits]
    _check_region(request, len(photos), bool(edits))
    geometry = _geometry(inverse, request.geometry)
    heading = heading_of(inverse)
    together = 1 if request.tile else max(1, BATCH // (1 + len(edits)))
    for start in range(0, len(photos), together):
        prepared = [_prepare(photo, edits, geometry, request) for photo in photos[start : start + together]]
        images = torch.stack([image for part in prepared for image in part.images])
        if request.tile:
            by_stage = _piecewise(inverse, images, chosen, geometry.size, progress)
        else:
            by_stage = reconstruct(inverse, images, chosen)
        values = {stage: psnr(shown, images).tolist() for stage, shown in by_stage.items()}
        first = 0
        for photo, part in zip(photos[start : start + together], prepared, strict=True):
            rows = tuple(
                Row(
                    edit,
                    images[first + n],
                    {stage: shown[first + n] for stage, shown in by_stage.items()},
                    {stage: value[first + n] for stage, value in values.items()},
                )
                for n, edit in enumerate([None, *edits])
            )
            first += len(rows)
            yield InvertedPhoto(photo.name, heading, part.treatment, rows, part.region)
        if not request.tile:
            progress(min(start + together, len(photos)), len(photos))


def chosen_stages(inverse: Inverse, words: Sequence[str]) -> tuple[str, ...]:
    """Return the stages of an inverse that any of ``words`` means, in the model's order; all without words.

    Raises:
        UsageError: for a word that means none of them, with those that there are.
        NotApplicable: for one that means a stage that the method refused.
    """
    if not words:
        return inverse.stages
    for word in words:
        if not any(means_stage(word, stage) for stage in inverse.stages):
            inverse.stage_of(word)  # raises what there is to say
    return tuple(stage for stage in inverse.stages if any(means_stage(word, stage) for word in words))


def heading_of(inverse: Inverse) -> tuple[str, str]:
    """Return which model is inverted by which method, then what was spent on it and what puts it in doubt."""
    card, method = inverse.card, inverse.method
    count = f"fitted on {card.data['fit'].count:,} images of {card.data['fit'].name}"
    if method.uses_budget:
        budget = card.budget
        amounts = {
            "passes": f"{short(budget.limit)} image passes",
            "seconds": f"{budget.limit:g} s",
            "flops": f"{budget.limit / 1e12:g} TFLOP",
        }
        spent = f"budget {amounts[budget.kind]} per inverse, {count}"
    elif method.reads_fit:
        spent = f"{method.family}, {count}"
    else:
        spent = f"{method.family}, nothing trained"
    return f"{inverse.model.name} inverted by {card.method.row}", "; ".join([spent, *inverse.remarks])


@torch.no_grad()
def reconstruct(inverse: Inverse, images: torch.Tensor, stages: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the reconstructions of images (B, 3, H, W) by stage, on the CPU, from one forward pass of the model.

    Raises:
        OutOfMemoryError: if not even one image at a time can be inverted.
    """

    def in_batches(batch: int) -> dict[str, list[torch.Tensor]]:
        parts: dict[str, list[torch.Tensor]] = {stage: [] for stage in stages}
        for part in images.to(inverse.model.device).split(batch):
            for stage, representation in inverse.model.represent(part, stages).items():
                parts[stage].append(inverse.fitted.invert(representation, part).detach().float().cpu())
        return parts

    by_stage = halving(in_batches, BATCH, f"inverting by '{inverse.card.method.row}'")
    return {stage: torch.cat(parts) for stage, parts in by_stage.items()}


def box_of(text: str) -> Box:
    """Return the box that a person writes as ``x,y,width,height``.

    Raises:
        UsageError: if it is not four numbers.
    """
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"box '{text}': expected four numbers, x,y,width,height in pixels of the photo") from error
    return x, y, width, height


def pixels_of(image: torch.Tensor) -> NDArray[np.uint8]:
    """Return an image (3, h, w) in [0, 1] as 8-bit pixels (h, w, 3)."""
    return np.ascontiguousarray(from_unit_range(image.cpu()).permute(1, 2, 0).numpy())


def folder_names(names: Sequence[str]) -> list[str]:
    """Return a name for the files of each photo: its own without the suffix, with a number where two have the same."""
    plain = [file_name(str(Path(name).with_suffix(""))) or "photo" for name in names]
    results: list[str] = []
    for name in plain:
        number, unique = 1, name
        while unique in results:
            number += 1
            unique = f"{name}-{number}"
        results.append(unique)
    return results


@dataclass(frozen=True)
class _Prepared:
    images: list[torch.Tensor]  # the photo, then each edit of it
    treatment: str
    region: Mask | None


def _prepare(photo: Photo, edits: Sequence[Edit], geometry: Geometry, request: Request) -> _Prepared:
    """Return what the model is shown of a photo.

    Raises:
        UsageError: if nothing of the region is left of the photo.
    """
    picture = photo.picture()
    size = size_of(picture)
    region = _region(request, size, photo.name)
    if request.tile:
        image, treatment = _large(picture, geometry)
        if region is not None:
            canvas = Image.fromarray(region).resize((image.shape[2], image.shape[1]), Image.Resampling.NEAREST)
            region = np.array(canvas)
    else:
        image, treatment = on_canvas(picture, geometry), describe_treatment(size, geometry)
        if isinstance(picture, torch.Tensor) and image is picture:
            treatment = f"{size[0]} x {size[1]} px, as it is"
        elif region is not None:
            region = geometry.mask(region)
        if region is not None and not region.any():
            raise UsageError(
                f"nothing of the mask or box is left of {photo.name}: {treatment}; choose another place, or squash the "
                "photo instead"
            )
    everywhere = np.ones(image.shape[1:], dtype=bool)
    mask = everywhere if region is None else region
    return _Prepared([image, *(edit.apply(image, mask) for edit in edits)], treatment, region)


def describe_treatment(size: tuple[int, int], geometry: Geometry) -> str:
    """Return in words how a photo of ``size`` (width, height) takes the size of a geometry."""
    (width, height), (high, wide) = size, geometry.size
    left, top, right, bottom = geometry.source_box(width, height)
    w, h = right - left, bottom - top
    part = f"whole of {width} x {height} px" if (round(w), round(h)) == size else ""
    part = part or f"cropped to the centre {w:.0f} x {h:.0f} of {width} x {height} px"
    if (round(w), round(h)) == (wide, high):
        return part
    if abs(w * high - h * wide) > 0.5 * max(w, h, wide, high):
        return f"{part}, squashed to {wide} x {high}"
    return f"{part}, {'reduced' if w > wide else 'enlarged'} to {wide} x {high}"


def _check_region(request: Request, count: int, edited: bool) -> None:
    """Raise `UsageError` for a mask and a box together, one for several photos, or one without an edit."""
    named = [name for name, value in (("mask", request.mask), ("box", request.box)) if value is not None]
    if len(named) > 1:
        raise UsageError("a mask and a box were given: edits act in one of them")
    if named and not edited:
        raise UsageError(f"a {named[0]} says where edits act, and there are none: add one, e.g. hue=120")
    if named and count > 1:
        raise UsageError(f"a {named[0]} belongs to one photo, and there are {count}: invert that photo alone")


def _geometry(inverse: Inverse, mode: FitMode | str) -> Geometry:
    """Return how photos take the model's size: by ``mode``, or as they did when the inverse was fitted."""
    fitted = inverse.card.data["fit"].geometry
    return geometry_of(inverse.model, mode or (str(fitted["mode"]) if fitted is not None else ""))


def _region(request: Request, size: tuple[int, int], name: str) -> Mask | None:
    """Return where edits act on a photo of ``size`` (width, height); None for everywhere.

    Raises:
        UsageError: if the mask has another size, or nothing is inside.
        DataError: for a mask's file that cannot be decoded.
    """
    width, height = size
    if request.box is not None:
        x, y, w, h = request.box
        if not all(map(math.isfinite, request.box)) or w <= 0 or h <= 0:
            raise UsageError(f"box {_box_text(request.box)}: expected x,y,width,height in pixels, none of them empty")
        mask = np.zeros((height, width), dtype=bool)
        columns, rows = (slice(max(0, round(a)), max(0, round(a + b))) for a, b in ((x, w), (y, h)))
        mask[rows, columns] = True
        if not mask.any():
            raise UsageError(f"box {_box_text(request.box)} lies outside of {name}, which has {width} x {height} px")
        return mask
    if request.mask is None:
        return None
    mask = _bright(request.mask)
    if mask.shape != (height, width):
        raise UsageError(f"the mask has {mask.shape[1]} x {mask.shape[0]} px, {name} has {width} x {height}")
    if not mask.any():
        raise UsageError("the mask has no bright pixel: edits would act nowhere")
    return mask


def _box_text(box: Box) -> str:
    return ",".join(f"{value:g}" for value in box)


def _bright(mask: MaskLike) -> Mask:
    """Return a mask (h, w) of whatever it comes as: true where it is brighter than half of its brightest pixel.

    A picture with transparent pixels is a cut-out: its mask is where it is opaque.
    """
    if isinstance(mask, str | Path):
        place = expand_path(str(mask))
        if not place.is_file():
            raise MissingPath(f"mask '{mask}' does not exist")
        try:
            with quiet(), Image.open(place) as opened:
                opened.load()
                return _bright(opened)
        except OSError as error:
            raise DataError(f"mask '{mask}' cannot be decoded: {reason_of(error)}") from error
    if isinstance(mask, Image.Image):
        turn = TURNS.get(orientation(mask) or 1)
        picture = mask if turn is None else mask.transpose(turn)
        if picture.mode in TRANSPARENT:
            alpha = np.asarray(picture.convert("RGBA").getchannel("A"))
            if alpha.min() < 255:
                return _bright(alpha)
        if picture.mode == "P":  # as object masks are published: each object a colour, all else black
            coloured: Mask = np.asarray(picture.convert("RGB")).max(2) > 0
            return coloured
        return _bright(
            np.asarray(picture if picture.mode in ("1", "L") or picture.mode[0] in "IF" else picture.convert("L"))
        )
    values = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values.squeeze(0 if values.shape[0] == 1 else 2)
    if values.ndim != 2 or values.dtype.kind not in "buif":
        raise UsageError(f"the mask has shape {values.shape} and dtype {values.dtype}, expected (H, W) of numbers")
    bright: Mask = values > 0.5 * max(float(values.max(initial=0)), 0.0)
    return bright


def _large(picture: Image.Image | torch.Tensor, geometry: Geometry) -> tuple[torch.Tensor, str]:
    """Return a picture at its own size, or as large as one piece where it is smaller, and what was done in words."""
    (width, height), (high, wide) = size_of(picture), geometry.size
    image, text = to_tensor(picture), f"whole of {width} x {height} px"
    scale = max(wide / width, high / height)
    if scale > 1:
        width, height = max(wide, round(width * scale)), max(high, round(height * scale))
        image = resized(image, (width, height), geometry, (0, 0, image.shape[2], image.shape[1]))
        text += f", enlarged to {width} x {height}"
    count = len(_starts(width, wide)) * len(_starts(height, high))
    pieces = f"{count} pieces of {wide} x {high}, blended" if count > 1 else "one piece"
    return image, f"{text}, in {pieces}"


def _starts(length: int, side: int) -> list[int]:
    """Return where pieces of ``side`` pixels begin that cover ``length``, evenly, each with an overlap."""
    step = max(1, side - side // OVERLAP)
    count = 1 + math.ceil((length - side) / step)
    return [round(index * (length - side) / max(1, count - 1)) for index in range(count)]


def _piecewise(
    inverse: Inverse, images: torch.Tensor, stages: Sequence[str], size: tuple[int, int], progress: Progress
) -> dict[str, torch.Tensor]:
    """Return the reconstructions of large images (B, 3, h, w) by stage, put together from pieces of ``size`` (H, W).

    Where pieces overlap they fade into each other.
    """
    high, wide = size
    corners = [(y, x) for y in _starts(images.shape[2], high) for x in _starts(images.shape[3], wide)]
    places = [(number, y, x) for number in range(len(images)) for y, x in corners]
    fade = _ramp(high)[:, None] * _ramp(wide)[None, :]
    totals = {stage: torch.zeros_like(images) for stage in stages}
    weight = torch.zeros(images.shape[2:])
    for y, x in corners:
        weight[y : y + high, x : x + wide] += fade
    for start in range(0, len(places), BATCH):
        some = places[start : start + BATCH]
        pieces = torch.stack([images[n, :, y : y + high, x : x + wide] for n, y, x in some])
        for stage, shown in reconstruct(inverse, pieces, stages).items():
            for (n, y, x), piece in zip(some, shown, strict=True):
                totals[stage][n, :, y : y + high, x : x + wide] += fade * piece
        progress(min(start + BATCH, len(places)), len(places))
    return {stage: (total / weight).clamp(0, 1) for stage, total in totals.items()}


def _ramp(side: int) -> torch.Tensor:
    """Return weights (side,) of a piece's pixels: 1 in its middle, less towards its borders."""
    position = torch.arange(side) + 0.5
    return (torch.minimum(position, side - position) / max(1, side // OVERLAP)).clamp(max=1)
