"""Images of every kind that a person has become what a model takes, and what is none is named in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from invsuite.apply.images import as_images, geometry_of, open_photos, sample_photos
from invsuite.data.folder import FolderSource
from invsuite.errors import DataError, MissingPath, Unavailable, UsageError
from invsuite.models.base import Model


@pytest.fixture(scope="module")
def pixels() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A photo (120, 200, 3) without symmetry: smooth, with noise on top."""
    rows, columns = np.mgrid[:120, :200]
    smooth = np.stack([rows * 2, columns, 255 - rows - columns // 2], -1)
    return (smooth + np.random.default_rng(0).integers(-10, 10, smooth.shape)).clip(0, 255).astype(np.uint8)


def test_one_photo_is_the_same_image_in_whatever_form(vit: Model, pixels: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    expected = FolderSource(str(tmp_path)).open(vit.image_size, vit.resampling)[0].image[None]
    first = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    photos = (path, str(path), str(tmp_path), Image.fromarray(pixels), pixels, pixels[None], first)
    for same in (*photos, torch.from_numpy(first), [path]):
        assert torch.equal(as_images(same, vit), expected)
    floats = torch.from_numpy(first) / 255
    for array in (floats, floats[None], floats.double().numpy()):
        image = as_images(array, vit)
        assert image.dtype == torch.float32
        assert float((image - expected).abs().max()) < 1.1 / 255  # Pillow rounds 8-bit pixels twice
    assert torch.equal(as_images(floats.permute(1, 2, 0).numpy(), vit), as_images(floats, vit))
    assert [photo.name for photo in open_photos({"mine": pixels, "file": path})[0]] == ["mine", "photo.png"]
    several = as_images([path, floats, pixels[None].repeat(2, 0)], vit)
    assert several.shape == (4, 3, *vit.image_size)
    assert torch.equal(several[0], expected[0])


def test_arrays_of_the_models_size_are_taken_as_they_are(vit: Model) -> None:
    images = torch.rand(2, 3, *vit.image_size)
    assert torch.equal(as_images(images, vit), images)
    assert torch.equal(as_images(list(images.numpy()), vit), images)
    small = (images * 255).round().to(torch.uint8)
    assert torch.equal(as_images(small.permute(0, 2, 3, 1).numpy(), vit), small / 255)


def test_detectors_are_shown_the_whole_photo(vit: Model, detr: Model, pixels: np.ndarray) -> None:
    assert geometry_of(vit).mode == "crop"
    assert geometry_of(detr).mode == "squash"
    ramp = torch.linspace(0, 1, 200).expand(3, 120, 200)
    cropped, whole = as_images(ramp, vit), as_images(ramp, vit, "squash")
    assert float(cropped.min()) > 0.18  # a fifth is cut off on each side
    assert float(whole.min()) < 0.01
    with pytest.raises(UsageError, match="unknown geometry 'pad': known: crop, squash"):
        as_images(ramp, vit, "pad")


IMAGE = torch.full((3, 8, 8), 0.5)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (IMAGE * 300, UsageError, r"image: values in \[150, 150\], expected \[0, 1\]; divide by 255"),
        (IMAGE - 1, UsageError, r"values in \[-0.5, -0.5\].*undo the model's normalisation"),
        (IMAGE / 0, UsageError, "NaN or infinity"),
        ([IMAGE, IMAGE * 3], UsageError, r"image 2: values in \[1.5, 1.5\]"),
        (IMAGE[0], UsageError, r"shape \(8, 8\), expected \(3, H, W\)"),
        (IMAGE[:1], UsageError, "repeat a grey image's channel 3 times"),
        (torch.rand(2, 4, 8, 8), UsageError, "leave the alpha channel out"),
        (IMAGE[None, None], UsageError, r"shape \(1, 1, 3, 8, 8\)"),
        (torch.rand(0, 3, 8, 8), UsageError, "has no pixels"),
        ((IMAGE * 255).long(), UsageError, "image: dtype int64, expected floats in .* or uint8"),
        (np.zeros((8, 8, 3), dtype=np.uint16), UsageError, "dtype uint16"),
        (np.array(["cat.jpg"]), UsageError, "dtype <U7"),
        ([], UsageError, "no images in an empty list"),
        ([[IMAGE]], UsageError, "image is a list: give one flat list"),
        (7, UsageError, "of type int, expected a path, a PIL image"),
        (None, UsageError, "of type NoneType"),
        ("no/such.jpg", MissingPath, "photo 'no/such.jpg' does not exist"),
    ],
)
def test_what_is_no_image_is_one_line(vit: Model, images: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        as_images(images, vit)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_named(vit: Model, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no photos in it"):
        as_images(tmp_path, vit)
    Image.new("RGB", (20, 10)).save(tmp_path / "for $5.png")
    assert as_images(tmp_path / "for $5.png", vit).shape == (1, 3, 96, 96)
    (tmp_path / "for $5.png").unlink()
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match=r"broken\.jpg"):
        as_images(broken, vit)
    Image.new("RGB", (20, 10)).save(tmp_path / "whole.png")
    others, left_out = open_photos(tmp_path)
    assert [photo.name for photo in others] == ["whole.png"]
    assert list(left_out) == [str(broken)]


def test_sample_photos_come_with_scikit_image(vit: Model) -> None:
    photos = sample_photos()
    assert [photo.name for photo in photos] == ["astronaut", "cat", "coffee"]
    images = as_images([photo.content for photo in photos], vit)
    assert (images.std((1, 2, 3)) > 0.15).all()
