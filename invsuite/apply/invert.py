"""Photos through a model and back: what an inverse makes of each stage, of the photo as it is and edited."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from invsuite._system.files import file_name, write_atomically
from invsuite._system.memory import halving
from invsuite.apply.edits import Edit
from invsuite.apply.images import Images, Photo, geometry_of, on_canvas, open_photos, size_of
from invsuite.apply.inverse import BATCH, Inverse, load_inverse
from invsuite.apply.pieces import Progress, at_own_size, piecewise
from invsuite.apply.regions import Box, MaskLike, Region
from invsuite.data.base import Mask, from_unit_range
from invsuite.data.geometry import FitMode, Geometry
from invsuite.errors import UsageError, unknown_name
from invsuite.metrics.fidelity import psnr
from invsuite.models.base import means_stage
from invsuite.results.regime import short


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
        remark: what must be known of its pictures: descents that were stopped before they converged; "" if nothing.

    Examples:
        >>> import invsuite
        >>> scenes = invsuite.open_images("scenes", (96, 96), seed=1, count=24)
        >>> inverse = invsuite.fit("ridge", "bundled:vit", ["block03"], scenes)
        >>> [photo] = invsuite.invert(scenes.images([0]), inverse).photos
        >>> photo.name, photo.stages, photo["block03"].shape
        ('image', ('block03',), torch.Size([3, 96, 96]))
    """

    name: str
    heading: tuple[str, str]
    treatment: str
    rows: tuple[Row, ...]
    region: Mask | None = None
    remark: str = ""

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
        said = {"photo": self.name, "shown": self.treatment, "inverse": ", ".join(self.heading), "rows": rows}
        return said | ({"remark": self.remark} if self.remark else {})

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
        region: where edits act.
        tile: whether a photo is reconstructed at its own size, in pieces of the model's size.
        geometry: ``crop`` or ``squash``; as in the inverse's fit by default.
    """

    stages: Sequence[str] = ()
    edits: Sequence[str | Edit] = ()
    region: Region = field(default_factory=Region)
    tile: bool = False
    geometry: FitMode | str = ""


def invert(
    images: Images,
    inverse: Inverse | str | Path,
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
        inverse: of the model, or where `load_inverse` finds it (``bundled:vit/modular``).
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
    request = Request(stages, edits, Region(mask, box), tile, geometry)
    loaded = inverse if isinstance(inverse, Inverse) else load_inverse(inverse)
    return Inversion(tuple(inverted(photos, loaded, request)), left_out)


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
    request.region.check(len(photos), bool(edits))
    geometry = geometry_of(inverse.model, request.geometry or inverse.geometry)
    heading = heading_of(inverse)
    together = 1 if request.tile else max(1, BATCH // (1 + len(edits)))
    for start in range(0, len(photos), together):
        prepared = [_prepare(photo, edits, geometry, request) for photo in photos[start : start + together]]
        images = torch.stack([image for part in prepared for image in part.images])
        back = partial(reconstruct, inverse, stages=chosen)
        by_stage = piecewise(images, geometry.size, back, progress) if request.tile else back(images)
        remark = _descents(inverse, chosen)
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
            yield InvertedPhoto(photo.name, heading, part.treatment, rows, part.region, remark)
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


def _descents(inverse: Inverse, stages: Sequence[str]) -> str:
    """Return at which stages the descents of the last inversions were stopped before they converged; "" for none."""
    stopped = []
    for stage in stages:
        findings = inverse.inverter.findings(stage)
        if findings.get("converged") is False:
            share, most = findings["converged_share"], findings["ceiling"]
            stopped.append(f"{stage} ({100 * share:.0f} % of the descents ended within {most:,} iterations)")
    return f"Not converged at {', '.join(stopped)}." if stopped else ""


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
    region = request.region.of(size, photo.name)
    if request.tile:
        image, treatment = at_own_size(picture, geometry)
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
