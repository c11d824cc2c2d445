"""Strips for a paper: native pixels, a choice of photos by name and number, a file per picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from invented import measurement, record
from matplotlib.figure import Figure
from PIL import Image

from invsuite.errors import UsageError
from invsuite.report.figures import GAP, HEAD, Choice, CurvePanel, draw_curves, draw_strip, label_width
from invsuite.results.pictures import Pixels, first_sheet, paired_sheet
from invsuite.results.record import Record
from invsuite.results.store import Store

SIDE = 150
METHODS = ("ridge", "mean")
LEFT = label_width(["original", *METHODS])


def noise(seed: int, count: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def test_what_lies_outside_of_a_panel_is_named_where_no_line_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr("invsuite.report.figures._save", lambda figure, path: figures.append(figure))
    lines = {"layerwise": [(1.0, 20.0, 19.5, 20.5), (4.0, 22.0, 21.5, 22.5)]}
    levels = {"ridge": 23.0, "refined": 40.0, "mean": 1.0, "nearest": 2.0}
    draw_curves("curves", "TFLOP", [[CurvePanel("embed", "PSNR dB", lines, levels)]], tmp_path / "c.png")
    [axis] = figures[0].axes
    figures[0].draw_without_rendering()
    above, below = sorted(axis.texts, key=lambda text: text.get_text())
    assert (above.get_text(), below.get_text()) == ("above: refined 40", "below: mean 1\nbelow: nearest 2")
    to_data = axis.transData.inverted()
    lowest, highest = (to_data.transform(text.get_window_extent())[:, 1] for text in (above, below))
    assert lowest[0] > 23.0, "above the line of ridge"
    assert highest[1] < 19.5, "below the lowest bar"


@pytest.fixture
def made(tmp_path: Path) -> tuple[list[Record], Store]:
    """Two invented cells of ten photos with the pictures of six, and of the last one."""
    store, records = Store(tmp_path / "s"), []
    for number, method in enumerate(METHODS):
        one = record(method=method, measurements=[measurement("psnr", [float(i) for i in range(10)])], images=10)
        one = replace(one, images=[f"photo-{i}.jpg" for i in range(10)], best_and_worst=[9])
        store.write(one)
        store.first_path(one.cell.id).write_bytes(first_sheet(noise(10 + number, 6)))
        store.best_and_worst_path(one.cell.id).write_bytes(paired_sheet(noise(50, 1), noise(60 + number, 1)))
        records.append(one)
    store.originals_path("vit").write_bytes(first_sheet(noise(0, 6)))
    return records, store


def drawn(made: tuple[list[Record], Store], path: Path, choice: Choice | None = None) -> Pixels:
    records, store = made
    assert draw_strip("vit", records, lambda record: store, path, choice or Choice())[0] == path
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_strip_has_every_pixel_of_its_pictures(made: tuple[list[Record], Store], tmp_path: Path) -> None:
    strip = drawn(made, tmp_path / "strip.png")
    for row, expected in enumerate((noise(0, 6), noise(10, 6), noise(11, 6))):
        top = HEAD + row * (SIDE + GAP)
        shown = strip[top : top + SIDE, LEFT : LEFT + 6 * SIDE]
        assert (shown == np.concatenate(expected, axis=1)).all()


def test_photos_are_chosen_by_name_and_number(made: tuple[list[Record], Store], tmp_path: Path) -> None:
    two = drawn(made, tmp_path / "two.png", Choice(count=2))
    named = drawn(made, tmp_path / "named.png", Choice(names=("photo-9*", "photo-3.jpg")))
    assert np.abs(two[HEAD : HEAD + SIDE, LEFT + SIDE : LEFT + 2 * SIDE].astype(int) - noise(0, 6)[1]).mean() < 1
    assert np.abs(named[HEAD : HEAD + SIDE, LEFT : LEFT + SIDE].astype(int) - noise(0, 6)[3]).mean() < 1
    last = named[HEAD : HEAD + SIDE, LEFT + SIDE : LEFT + 2 * SIDE].astype(int)
    assert np.abs(last - noise(50, 1)[0]).mean() < 60, "lossy, but this photo"
    with pytest.raises(UsageError, match=r"unknown photo with pictures 'photo-8.jpg': did you mean photo-"):
        drawn(made, tmp_path / "none.png", Choice(names=("photo-8.jpg",)))


def test_each_picture_is_a_file_on_request(made: tuple[list[Record], Store], tmp_path: Path) -> None:
    drawn(made, tmp_path / "strip.png", Choice(count=2, files=True))
    files = {str(path.relative_to(tmp_path)) for path in (tmp_path / "strip").rglob("*.png")}
    names = ("original", *(f"embed-{method}" for method in METHODS))
    assert files == {f"strip/photo-{i}.jpg/{name}.png" for i in (0, 1) for name in names}
    with Image.open(tmp_path / "strip" / "photo-1.jpg" / "embed-ridge.png") as image:
        assert (np.asarray(image) == noise(10, 6)[1]).all()


def test_what_would_be_too_large_is_smaller_and_antialiased(
    made: tuple[list[Record], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("invsuite.report.figures.STRIP_PIXELS", 18 * 75 * 75)
    strip = drawn(made, tmp_path / "strip.png")
    assert strip.shape[0] < HEAD + 3 * (75 + GAP) + 5
    picture = strip[HEAD : HEAD + 75, LEFT:][:, :75].astype(int)
    assert picture.std() < 0.7 * noise(0, 1).std(), "noise is averaged, not sampled"
    assert drawn(made, tmp_path / "native.png", Choice(native=True)).shape[0] > 3 * SIDE
