"""Inverted photos as files: every picture, a figure of each photo, and contact sheets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from invsuite.apply.figure import check_format, save_figure, show
from invsuite.apply.images import Photo
from invsuite.apply.inverse import Inverse
from invsuite.apply.invert import Inversion, InvertedPhoto, Request, folder_names, inverted
from invsuite.apply.pieces import Progress

FIGURE, SHEET = "figure.png", "sheet.png"
ON_A_SHEET = 20  # photos


@dataclass(frozen=True)
class Written:
    """What was written of one photo, or of a contact sheet.

    Attributes:
        figures: of it, in the formats that were asked for.
        pictures: its files; none of a sheet.
        photo: with its values; None for a sheet.
    """

    figures: list[Path]
    pictures: list[Path]
    photo: InvertedPhoto | None = None

    def tree(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        files = {"figures": list(map(str, self.figures)), "pictures": list(map(str, self.pictures))}
        return files if self.photo is None else self.photo.tree() | files


def write_inversions(
    photos: Sequence[Photo],
    inverse: Inverse,
    request: Request,
    out: Path,
    figure: Path | None = None,
    progress: Progress = lambda done, count: None,
) -> Iterator[Written]:
    """Invert photos, write the files of each into a folder of its own, and yield what was written.

    Several photos also get contact sheets, of `ON_A_SHEET` photos each.

    Args:
        photos: that are opened one after the other.
        inverse: of the model.
        request: what is done with each.
        out: folder for the photos' own, and for the sheets.
        figure: a file of another format: the figure of the one photo, or the sheet of several, whose own figures are
            written in that format too.
        progress: is told how far it is.

    Raises:
        UsageError: for a stage, an edit, a mask or the suffix of a figure that does not fit.
        DataError: for a file that cannot be decoded.
        DiskError: if the disk refuses.
    """
    if figure is not None:
        check_format(figure)
    several, on_sheet, sheets = len(photos) > 1, [], 0
    names = folder_names([photo.name for photo in photos])
    for name, photo in zip(names, inverted(photos, inverse, request, progress), strict=True):
        pictures = photo.save(out / name)
        files = [out / name / FIGURE]
        if figure is not None:
            files.append((out / name / FIGURE).with_suffix(figure.suffix) if several else figure)
        yield Written(_write(photo, files), pictures, photo)
        on_sheet.append(replace(photo, rows=photo.rows[:1]))  # its edits are on its own figure
        done = sheets * ON_A_SHEET + len(on_sheet)
        if several and (len(on_sheet) == ON_A_SHEET or done == len(photos)):
            sheets += 1
            number = f"-{sheets}" if len(photos) > ON_A_SHEET else ""
            files = [path.with_stem(path.stem + number) for path in (out / SHEET, *([figure] if figure else []))]
            yield Written(_write(Inversion(tuple(on_sheet)), files), [])
            on_sheet = []


def _write(inversion: Inversion | InvertedPhoto, files: Sequence[Path]) -> list[Path]:
    drawn = show(inversion)
    return [save_figure(drawn, file) for file in dict.fromkeys(files)]
