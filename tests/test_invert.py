"""Photos are inverted at every stage, edited where asked, and drawn so that every pixel and every word is there."""

from __future__ import annotations

import io
import json
import math
import warnings
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import invoke
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import invsuite
from invsuite.apply.edits import Edit
from invsuite.apply.figure import figure_bytes, save_figure, show
from invsuite.apply.images import as_images
from invsuite.apply.inverse import Inverse
from invsuite.apply.invert import InvertedPhoto, Row, folder_names, invert
from invsuite.data.edits import turn_hue
from invsuite.data.scenes import ScenesSource
from invsuite.errors import DataError, MissingPath, UsageError
from invsuite.methods.base import Inverter
from invsuite.models.base import Model, Representation

SIDE = 96


@pytest.fixture(scope="module")
def ridge(vit: Model) -> Inverse:
    return invsuite.fit("ridge", vit, ["embed", "block03"], ScenesSource(61, 24))


class Copy(Inverter):
    """An inverter that loses nothing."""

    uses_image = True

    def invert_with_image(self, representation: Representation, images: torch.Tensor) -> torch.Tensor:
        return images


@pytest.fixture
def lossless(ridge: Inverse) -> Inverse:
    return replace(ridge, fitted=replace(ridge.fitted, inverter=Copy()))


@pytest.fixture
def photo() -> Image.Image:
    """A grey photo of 200 x 120 with a red square, 40 px, from (100, 30)."""
    pixels = np.full((120, 200, 3), 120, dtype=np.uint8)
    pixels[30:70, 100:140] = (200, 40, 40)
    return Image.fromarray(pixels)


def test_a_photo_is_inverted_at_every_stage(ridge: Inverse, photo: Image.Image) -> None:
    inversion = invert(photo, ridge, edits=["hue=120", "grey"])
    [one] = inversion.photos
    shown = as_images(photo, ridge.model)
    assert inversion.stages == ("embed", "block03")
    assert [row.label for row in one.rows] == ["as it is", "hue +120°", "grey"]
    assert torch.equal(one.rows[0].image, shown[0])
    for stage in inversion.stages:
        assert torch.allclose(inversion[stage], ridge(shown, stage), atol=1e-5)
        error = float((one[stage] - shown[0]).square().mean())
        assert one.rows[0].psnr[stage] == pytest.approx(-10 * math.log10(error), abs=1e-3)
    everywhere = np.ones((SIDE, SIDE), dtype=bool)
    assert torch.equal(one.rows[1].image, turn_hue(shown[0], everywhere, 1 / 3))
    assert float((one.rows[2].image.amax(0) - one.rows[2].image.amin(0)).max()) < 0.01
    grey = one.rows[2].reconstructions["embed"]
    assert torch.allclose(grey, ridge(one.rows[2].image, "embed")[0], atol=1e-5)
    assert one.heading == ("vit inverted by ridge", "closed form, fitted on 21 images of scenes")
    with pytest.raises(UsageError, match="unknown inverted stage 'block06': did you mean block03"):
        inversion["block06"]


def test_several_photos_stay_in_order(ridge: Inverse) -> None:
    images = torch.rand(20, 3, SIDE, SIDE)
    inversion = invert(images, ridge, stages=["3"], edits=["chroma=0.5"])  # more than one batch
    assert inversion.stages == ("block03",)
    assert torch.equal(torch.stack([photo.rows[0].image for photo in inversion.photos]), images)
    assert torch.allclose(inversion["block03"], ridge(images, "block03"), atol=1e-5)
    assert [photo.name for photo in inversion.photos[:2]] == ["image 1", "image 2"]


def changed(photo: InvertedPhoto) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where the edit of the first edited row acted."""
    return ((photo.rows[1].image - photo.rows[0].image).abs().amax(0) > 0.01).numpy()


def test_a_box_lies_where_the_photo_has_it(ridge: Inverse, photo: Image.Image, tmp_path: Path) -> None:
    # cropped to 120 x 120 from x = 40: the square is at (60, 30), and a pixel of the model is 1.25 of the photo
    expected = np.zeros((SIDE, SIDE), dtype=bool)
    expected[24:56, 48:80] = True
    one = invert(photo, ridge, edits=["hue=120"], box=(100, 30, 40, 40)).photos[0]
    assert one.region is not None
    assert (one.region == expected).all()
    assert (changed(one) <= expected).all()
    assert changed(one).sum() > 0.9 * expected.sum()
    squashed = invert(photo, ridge, edits=["hue=120"], box=(100, 30, 40, 40), geometry="squash").photos[0]
    assert squashed.region is not None
    assert squashed.region.any(0).nonzero()[0].tolist() == list(range(48, 67))
    # a camera held on its side: the box is that of the photo as viewers turn it
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)
    turned = invert(path, ridge, edits=["hue=120"], box=(100, 30, 40, 40)).photos[0]
    assert turned.treatment == one.treatment
    assert changed(turned)[26:54, 50:78].mean() > 0.95
    assert not changed(turned)[~expected].any()


def test_a_mask_comes_in_many_forms(ridge: Inverse, photo: Image.Image, tmp_path: Path) -> None:
    inside = np.zeros((120, 200), dtype=bool)
    inside[30:70, 100:140] = True
    cut_out = photo.convert("RGBA")
    cut_out.putalpha(Image.fromarray(inside.astype(np.uint8) * 255))
    palette = Image.fromarray(inside.astype(np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, 0, 0, 90])
    path = tmp_path / "mask.png"
    Image.fromarray(inside.astype(np.uint8) * 255).save(path)
    expected = invert(photo, ridge, edits=["grey"], box=(100, 30, 40, 40)).photos[0].region
    numbers = torch.from_numpy(inside).float()
    pictures = (path, str(path), cut_out, palette, Image.fromarray(inside), Image.open(path).convert("LA"))
    for mask in (inside, inside.astype(np.uint8), numbers, numbers[None], *pictures):
        assert (invert(photo, ridge, edits=["grey"], mask=mask).photos[0].region == expected).all()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"edits": ["hue"]}, "edit 'hue' needs an amount, e.g. hue=120"),
        ({"edits": ["hue=red"]}, "edit 'hue=red': 'red' is no number"),
        ({"edits": ["hue=nan"]}, "edit hue=nan: expected -360 to 360"),
        ({"edits": ["hues=3"]}, "unknown edit 'hues': did you mean hue"),
        ({"edits": ["chroma=-1"]}, "edit chroma=-1: expected 0 to 100"),
        ({"stages": ["block04"]}, "unknown stage of the inverse .* 'block04'.*known: block03, embed"),
        ({"box": (0, 0, 9, 9)}, "a box says where edits act, and there are none"),
        ({"edits": ["grey"], "box": (0, 0, 0, 9)}, "box 0,0,0,9: expected x,y,width,height"),
        ({"edits": ["grey"], "box": (300, 0, 9, 9)}, "box 300,0,9,9 lies outside of image, which has 200 x 120 px"),
        ({"edits": ["grey"], "box": (0, 0, 30, 30)}, "nothing of the mask or box is left of image: cropped to the"),
        ({"edits": ["grey"], "mask": np.ones((9, 9)), "box": (0, 0, 9, 9)}, "a mask and a box were given"),
        ({"edits": ["grey"], "mask": np.ones((9, 7))}, "the mask has 7 x 9 px, image has 200 x 120"),
        ({"edits": ["grey"], "mask": np.zeros((120, 200))}, "the mask has no bright pixel"),
        ({"edits": ["grey"], "mask": np.ones((2, 120, 200))}, r"the mask has shape \(2, 120, 200\)"),
        ({"geometry": "fit"}, "unknown geometry 'fit'"),
    ],
)
def test_what_does_not_fit_is_one_line(
    ridge: Inverse, photo: Image.Image, request_: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        invert(photo, ridge, **request_)


def test_masks_that_cannot_be_read_are_named(ridge: Inverse, photo: Image.Image, tmp_path: Path) -> None:
    with pytest.raises(MissingPath, match=r"mask 'none\.png' does not exist"):
        invert(photo, ridge, edits=["grey"], mask="none.png")
    broken = tmp_path / "mask.png"
    broken.write_text("no picture")
    with pytest.raises(DataError, match=r"mask\.png' cannot be decoded"):
        invert(photo, ridge, edits=["grey"], mask=broken)
    with pytest.raises(UsageError, match="a box belongs to one photo, and there are 2"):
        invert([photo, photo], ridge, edits=["grey"], box=(0, 0, 9, 9))


def test_large_photos_are_put_together_from_pieces(lossless: Inverse) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (131, 217, 3), dtype=np.uint8)
    [one] = invert(pixels, lossless, ["embed"], tile=True, edits=["grey"], box=(200, 100, 17, 31)).photos
    assert one.treatment == "whole of 217 x 131 px, in 6 pieces of 96 x 96, blended"
    assert torch.equal(one.rows[0].image, torch.from_numpy(pixels).permute(2, 0, 1) / 255)
    assert one.rows[0].psnr["embed"] > 100  # rounding alone, wherever a piece lies
    assert one.rows[1].psnr["embed"] > 100
    assert changed(one)[100:, 200:].mean() > 0.8
    assert not changed(one)[:100].any()
    assert not changed(one)[:, :200].any()
    [small] = invert(pixels[:48, :30], lossless, tile=True).photos
    assert small.treatment == "whole of 30 x 48 px, enlarged to 96 x 154, in 2 pieces of 96 x 96, blended"
    assert small["embed"].shape == (3, 154, 96)


def test_how_a_photo_took_its_size_is_said(ridge: Inverse) -> None:
    def treatment(height: int, width: int, **more: Any) -> str:
        return invert(np.zeros((height, width, 3), dtype=np.uint8), ridge, stages=["embed"], **more).photos[0].treatment

    assert treatment(96, 96) == "whole of 96 x 96 px"
    assert treatment(48, 48) == "whole of 48 x 48 px, enlarged to 96 x 96"
    assert treatment(400, 300) == "cropped to the centre 300 x 300 of 300 x 400 px, reduced to 96 x 96"
    assert treatment(400, 300, geometry="squash") == "whole of 300 x 400 px, squashed to 96 x 96"
    assert invert(torch.zeros(3, 96, 96), ridge).photos[0].treatment == "96 x 96 px, as it is"


def test_photos_take_their_size_as_those_of_the_fit_did(ridge: Inverse, photo: Image.Image) -> None:
    facts = ridge.card.data["fit"]
    card = replace(ridge.card, data=dict(ridge.card.data) | {"fit": replace(facts, geometry={"mode": "squash"})})
    squashed = replace(ridge, card=card)
    [one] = invert(photo, squashed).photos
    assert one.treatment == "whole of 200 x 120 px, squashed to 96 x 96"
    assert torch.allclose(squashed(photo, "embed")[0], one["embed"], atol=1e-5)
    assert invert(photo, squashed, geometry="crop").photos[0].treatment.startswith("cropped to the centre 120 x 120")


def test_descents_that_were_stopped_are_said(lossless: Inverse, photo: Image.Image) -> None:
    class Stopped(Copy):
        def findings(self, stage: str) -> dict[str, Any]:
            return {"converged": stage == "embed", "converged_share": 0.25, "iterations": 900.0, "ceiling": 2000}

    stopped = replace(lossless, fitted=replace(lossless.fitted, inverter=Stopped()))
    remark = "Not converged at block03 (25 % of the descents ended within 2,000 iterations)."
    inversion = invert({"one": photo, "two": photo}, stopped)
    assert [one.remark for one in inversion.photos] == [remark, remark]
    assert inversion.photos[0].tree()["remark"] == remark
    for figure in (show(inversion), show(inversion.photos[0])):
        assert remark in " ".join(text.get_text() for text in figure.texts).replace("\xa0", " ")
    assert invert(photo, lossless).photos[0].remark == ""


def test_edits_are_written_as_they_are_read() -> None:
    for text in ("hue=120", "hue=-90", "hue-lch=30", "chroma=0.5", "grey"):
        assert Edit.of(text).text == text
    assert [Edit.of(text).label for text in ("hue=-90", "chroma=0.5")] == ["hue -90°", "chroma x 0.5"]


LONG = "IMG_20260101_" + "with-a-name-that-goes-on-and-on_" * 5 + "$1$ 日本.jpeg"


def invented(
    size: tuple[int, int] = (24, 24), stages: tuple[str, ...] = ("embed", "block03"), edits: int = 1, name: str = "cat"
) -> InvertedPhoto:
    """An inverted photo of random pictures."""
    generator = torch.Generator().manual_seed(0)
    rows = tuple(
        Row(
            Edit.of(f"hue={number}") if number else None,
            torch.rand(3, *size, generator=generator),
            {stage: torch.rand(3, *size, generator=generator) for stage in stages},
            dict.fromkeys(stages, 12.345),
        )
        for number in range(1 + edits)
    )
    region = np.zeros(size, dtype=bool)
    region[2:9, 3:11] = True
    return InvertedPhoto(name, ("vit inverted by ridge", "closed form"), "as it is", rows, region)


def picture_of(figure: Figure) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(figure_bytes(figure, "png"))).convert("RGB"))


@pytest.mark.parametrize(
    "photos",
    [
        [invented()],
        [invented((224, 224), tuple(f"block{n:02d}" for n in range(12)), edits=2)],
        [invented((24, 40), ("block03+block06+block12+block18+block24",), name=LONG)],
        [invented(name=LONG), invented((30, 70)), invented((600, 500))],
    ],
)
def test_nothing_is_cut_off_or_lies_on_something_else(photos: list[InvertedPhoto]) -> None:
    figure = show(invsuite.Inversion(tuple(photos)))
    renderer = FigureCanvasAgg(figure).get_renderer()
    warnings.filterwarnings("ignore", "Glyph")
    words = [text for text in figure.texts if text.get_text().strip()]
    boxes = [text.get_window_extent(renderer) for text in words]
    pictures = [axis.get_window_extent(renderer) for axis in figure.axes]
    width, height = figure.canvas.get_width_height()
    for box in (*boxes, *pictures):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
    for (one, box), (two, other) in combinations(zip([*words, *figure.axes], [*boxes, *pictures], strict=True), 2):
        across = min(box.x1, other.x1) - max(box.x0, other.x0)
        down = min(box.y1, other.y1) - max(box.y0, other.y0)
        assert not (across > 1 and down > 1), (one, two)
    said = "".join(text.get_text() for text in words).replace(" ", "")
    for photo in photos:
        assert photo.name.replace(" ", "") in said
        assert all(stage in said for stage in photos[0].stages)
    assert "12.3dB" in said


@pytest.mark.parametrize("size", [(24, 24), (96, 96), (224, 160), (480, 333)])
def test_every_pixel_of_a_picture_is_in_the_figure(size: tuple[int, int]) -> None:
    photo = invented(size, edits=0)
    figure = show(photo)
    drawn = picture_of(figure)
    height = drawn.shape[0]
    for axis, image in zip(figure.axes, (photo.rows[0].image, *photo.rows[0].reconstructions.values()), strict=True):
        place = axis.get_position()
        left, top = round(place.x0 * drawn.shape[1]), round(height - place.y1 * height)
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        scale = round(place.height * height / size[0])
        expected = pixels.repeat(scale, 0).repeat(scale, 1)
        part = drawn[top : top + expected.shape[0], left : left + expected.shape[1]]
        assert (part == expected).all()


def test_figures_are_written_by_their_suffix(tmp_path: Path) -> None:
    figure = show(invented())
    for suffix, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml"), (".PDF", b"%PDF")):
        path = save_figure(figure, tmp_path / f"figure{suffix}")
        assert path.read_bytes().startswith(start)
        assert figure_bytes(show(invented()), suffix[1:].lower()) == path.read_bytes()
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"figure 'cat\.jpg': its name must end in \.png, \.pdf or \.svg"):
        save_figure(figure, "cat.jpg")


def test_photos_of_one_name_have_folders_of_their_own() -> None:
    assert folder_names(["a/cat.jpg", "cat.png", "cat.jpg", "cat-2.jpg"]) == ["a-cat", "cat", "cat-2", "cat-2-2"]


def test_the_command_writes_pictures_and_figures(ridge: Inverse, tmp_path: Path) -> None:
    kept = ridge.save(tmp_path / "inverse")
    out, pdf = tmp_path / "out", tmp_path / "paper" / "figure.pdf"
    done = invoke("invert", "--sample", "--inverse", kept, "--edit", "grey", "--out", out, "--figure", pdf, "--json")
    assert done.exit_code == 0, done.output
    trees = json.loads(done.stdout)
    assert [tree.get("photo") for tree in trees] == ["astronaut", "cat", "coffee", None]
    assert [row["edit"] for row in trees[1]["rows"]] == [None, "grey"]
    assert trees[1]["shown"] == "cropped to the centre 300 x 300 of 451 x 300 px, reduced to 96 x 96"
    for tree in trees:
        assert all(Path(path).is_file() for path in (*tree["figures"], *tree["pictures"]))
    assert {path.relative_to(out / "cat").as_posix() for path in (out / "cat").rglob("*.*")} == {
        *(f"{name}.png" for name in ("original", "embed", "block03", "figure")),
        *(f"grey/{name}.png" for name in ("original", "embed", "block03")),
        "figure.pdf",
    }
    assert (out / "sheet.png").is_file()
    assert pdf.is_file()
    kept_picture = np.asarray(Image.open(out / "cat" / "block03.png"), dtype=int)
    expected = ridge(invsuite.apply.images.sample_photos()[1].content, "block03")[0].permute(1, 2, 0) * 255
    assert np.abs(kept_picture - expected.numpy()).max() <= 0.5 + 1e-2


def test_bundled_inverses_answer_at_once(photo: Image.Image) -> None:
    for name, first in (("bundled:vit/modular", "embed"), ("bundled:detr/ridge", "backbone")):
        inversion = invert({"square": photo}, name)
        assert inversion.stages[0] == first
        assert inversion.photos[0].rows[0].psnr[first] > 15
        assert inversion.photos[0].name == "square"


def test_the_command_says_what_is_wrong_in_one_line(ridge: Inverse, tmp_path: Path) -> None:
    kept = ridge.save(tmp_path / "inverse")
    for words, code, line in (
        (["--inverse", kept], 2, "error: no photos: name files or folders"),
        (["--sample", "--inverse", kept, "--edit", "hue=1", "--box", "1,2,3"], 2, "error: box '1,2,3': expected four"),
        (["--sample", "--inverse", kept, "--figure", "a.jpg"], 2, "error: figure 'a.jpg': its name must end in"),
        (["no.jpg", "--inverse", kept], 3, "error: photo 'no.jpg' does not exist"),
        (["--sample", "--inverse", tmp_path / "none"], 3, "does not exist"),
        (["--sample"], 2, "error: no inverse: name its folder with --inverse"),
        (["--sample", "--model", "vit", "--method", "rigde"], 2, "error: no inverse of model 'vit' by 'rigde' comes"),
        (["--sample", "--inverse", kept, "--method", "ridge"], 2, "error: --method ridge chooses among the inverses"),
    ):
        done = invoke("invert", "--out", tmp_path / "out", *words)
        assert done.exit_code == code
        assert line in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
