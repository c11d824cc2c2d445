"""Photos of every kind become upright RGB in [0, 1]; masks follow; splits are disjoint; bad files are named."""

from __future__ import annotations

import errno
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from invsuite._system.spill import SpilledTensor
from invsuite.data.base import Instance, Sample, Source, check_images, from_unit_range
from invsuite.data.coco import CocoInstances, CocoSource
from invsuite.data.edits import editable, relight, turn_hue
from invsuite.data.folder import FolderSource, PhotoFolder
from invsuite.data.geometry import Geometry, Resampling
from invsuite.data.hub import HubPhotos
from invsuite.data.imagenet import ImageNetFolder, ImageNetSource
from invsuite.data.photo import Colour
from invsuite.data.photo_files import PhotoFile, verify
from invsuite.data.scenes import Scenes, ScenesSource
from invsuite.data.sources import DataSpec, open_splits
from invsuite.data.split import HeldBackSource, Split, Splits, hold_back
from invsuite.errors import DataError, Unavailable, UsageError

SIZE = (32, 32)
MEMORY, DISK = "invsuite._system.spill.MEMORY_SHARE", "invsuite._system.spill.DISK_SHARE"


def gradient(width: int = 48, height: int = 40) -> np.ndarray:
    x = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return np.stack([x, y, 255 - x], -1).round().astype(np.uint8)


def write_photos(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rgb = Image.fromarray(gradient())
    rgb.save(folder / "rgb.png")
    rgb.convert("L").save(folder / "grey.png")
    rgb.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    rgb.convert("P").save(folder / "palette.png")
    rgba = rgb.convert("RGBA")
    rgba.putalpha(Image.fromarray(np.full((40, 48), 128, np.uint8)))
    rgba.save(folder / "alpha.png")
    Image.fromarray(gradient()[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90 degrees
    rgb.save(folder / "turned.jpg", exif=exif, quality=95)
    return folder


def test_every_kind_of_photo_is_read_alike(tmp_path: Path) -> None:
    data = PhotoFolder(write_photos(tmp_path), Geometry(SIZE))
    assert not data.unreadable
    found = {data[i].key: data[i].image for i in range(len(data))}
    for image in found.values():
        check_images(image[None])
        assert image.shape == (3, *SIZE)
    grey = found["rgb.png"].mul(torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0)
    torch.testing.assert_close(found["grey.png"][0], grey, atol=0.01, rtol=0)
    torch.testing.assert_close(found["cmyk.jpg"], found["rgb.png"], atol=0.1, rtol=0)
    torch.testing.assert_close(found["alpha.png"], found["rgb.png"] * 0.502 + 0.498, atol=0.02, rtol=0)
    torch.testing.assert_close(found["deep.png"][1], found["rgb.png"][0], atol=0.01, rtol=0)
    turned = torch.rot90(found["rgb.png"], -1, (1, 2))
    torch.testing.assert_close(found["turned.jpg"], turned, atol=0.1, rtol=0)


def test_unreadable_photos_are_named_and_counted(tmp_path: Path) -> None:
    write_photos(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"not a photo")
    whole = (tmp_path / "rgb.png").read_bytes()
    (tmp_path / "truncated.png").write_bytes(whole[: len(whole) // 2])
    data = PhotoFolder(tmp_path, Geometry(SIZE))
    assert len(data) == 7
    assert {Path(p).name for p in data.unreadable} == {"broken.jpg", "truncated.png"}
    assert all("broken" in r or "truncated" in r for r in data.unreadable.values())


def test_a_folder_without_photos_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no photos in it"):
        PhotoFolder(tmp_path, Geometry(SIZE))
    with pytest.raises(Unavailable, match="does not exist"):
        PhotoFolder(tmp_path / "nowhere", Geometry(SIZE))


def test_resize_is_antialiased() -> None:
    """A one-pixel checkerboard shrinks to its mean, not to aliased stripes."""
    board = np.indices((256, 256)).sum(0) % 2 * 255
    photo = Image.fromarray(np.stack([board] * 3, -1).astype(np.uint8))
    small = Geometry(SIZE).tensor(photo)
    assert float((small - 0.5).abs().max()) < 0.03


@pytest.mark.parametrize("mode", ["crop", "squash"])
@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (64, 64)])
def test_masks_follow_the_photo(mode: str, shape: tuple[int, int]) -> None:
    """A white rectangle and its mask land on the same pixels."""
    mask = np.zeros(shape, dtype=bool)
    mask[shape[0] // 4 : shape[0] // 2, shape[1] // 3 : shape[1] // 2] = True
    photo = Image.fromarray(np.stack([mask * 255] * 3, -1).astype(np.uint8))
    geometry = Geometry(SIZE, mode)  # type: ignore[arg-type]
    pixels = geometry.tensor(photo)[0].numpy()
    resized = geometry.mask(mask)
    assert resized.any()
    assert ((pixels > 0.5) != resized).mean() < 0.03


@given(width=st.integers(1, 900), height=st.integers(1, 900), rows=st.integers(1, 512), columns=st.integers(1, 512))
def test_the_crop_stays_inside_the_photo_and_keeps_the_aspect(width: int, height: int, rows: int, columns: int) -> None:
    left, top, right, bottom = Geometry((rows, columns)).source_box(width, height)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert (right - left) * rows == pytest.approx((bottom - top) * columns, rel=1e-9)
    assert left == pytest.approx(width - right, abs=1e-9)
    assert right - left == pytest.approx(width) or bottom - top == pytest.approx(height)


@pytest.mark.parametrize("mode", ["crop", "squash"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.7])
def test_masks_go_there_and_back(mode: str, crop_pct: float) -> None:
    """Every photo pixel's place survives: ramps of x and y, read inside the mask, say where the mask was."""
    height, width = 90, 140
    y, x = np.mgrid[:height, :width]
    mask = (abs(x - 62) < 22) & (abs(y - 48) < 17)
    ramps = np.stack([x * 255 / width, y * 255 / height, 0 * x], -1).round().astype(np.uint8)
    geometry = Geometry((64, 96), mode, Resampling("bilinear", crop_pct))  # type: ignore[arg-type]
    image, moved = geometry.tensor(Image.fromarray(ramps)).numpy(), geometry.mask(mask)
    for channel, coordinate, side in ((0, x, width), (1, y, height)):
        back = image[channel][moved] * side
        assert abs(back.min() - coordinate[mask].min()) < 2.5
        assert abs(back.max() - coordinate[mask].max()) < 2.5


def test_the_checkpoints_own_resampling_is_used() -> None:
    photo = Image.fromarray(gradient(200, 160))
    whole, part = Geometry((40, 50)).source_box(200, 160), Geometry((40, 50), "crop", Resampling("bicubic", 0.8))
    assert whole == (0, 0, 200, 160)
    assert part.source_box(200, 160) == pytest.approx((20, 16, 180, 144))
    images = [Geometry((40, 50), "crop", Resampling(how)).tensor(photo) for how in ("bilinear", "bicubic", "nearest")]
    assert not torch.equal(images[0], images[2])
    torch.testing.assert_close(images[0], images[1], atol=0.02, rtol=0)
    with pytest.raises(UsageError, match="did you mean bilinear"):
        Resampling("bilinea")
    with pytest.raises(UsageError, match=r"crop_pct is 1\.5"):
        Resampling("bicubic", 1.5)


@dataclass(frozen=True)
class PhotosOfAPlugin(Source):
    """A source that knows a model's input size and resampling from `open` alone."""

    path: str
    count: int = 0

    def open(self, size: tuple[int, int], resampling: Resampling) -> PhotoFolder:
        return PhotoFolder(Path(self.path), Geometry(size, "crop", resampling))


def test_photos_of_a_plugin_are_resized_as_bundled_kinds_are(tmp_path: Path) -> None:
    """A model whose checkpoint wants bilinear and a tight crop gets the same pixels from either."""
    folder, how = str(write_photos(tmp_path)), Resampling("bilinear", 0.8)
    sources = (FolderSource(folder), PhotosOfAPlugin(folder))
    specs = [DataSpec(source, HeldBackSource(2), ScenesSource(1, 2)) for source in sources]
    bundled, own = (open_splits(spec, SIZE, how).fit for spec in specs)
    assert own.digest() == bundled.digest()
    assert torch.equal(own.images(slice(None)), bundled.images(slice(None)))
    assert not torch.equal(own.images(slice(None)), open_splits(specs[1], SIZE).fit.images(slice(None)))


def test_conversions_are_counted(tmp_path: Path) -> None:
    folder = write_photos(tmp_path)
    spec = DataSpec(FolderSource(str(folder)), HeldBackSource(2), ScenesSource(1, 2))
    found = open_splits(spec, SIZE).converted
    assert found == {"CMYK": 1, "alpha": 1, "deep": 1, "grey": 1, "palette": 1, "rotated": 1}


def imagenet_root(root: Path, folder: str) -> Path:
    for wnid in ("n01440764", "n01443537"):
        (root / folder / wnid).mkdir(parents=True)
        for number in range(6):
            shade = np.roll(gradient(), number + 7 * (wnid == "n01443537"), 1)
            Image.fromarray(shade).save(root / folder / wnid / f"{wnid}_{number}.JPEG")
    return root


@pytest.mark.parametrize("folder", ["ILSVRC/Data/CLS-LOC/val", "val", ""])
def test_imagenet_in_any_of_its_layouts(tmp_path: Path, folder: str) -> None:
    data = ImageNetFolder(imagenet_root(tmp_path, folder), "val", 0, Geometry(SIZE))
    assert len(data) == 12
    assert {"n01440764", "n01443537"} <= set(data.classes)


def test_imagenet_photos_are_spread_and_only_those_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = imagenet_root(tmp_path, "train")
    decoded: list[Path] = []

    def spy(paths: list[Path], colour: Colour) -> tuple[list[PhotoFile], dict[str, str]]:
        decoded.extend(paths)
        return verify(paths, colour)

    monkeypatch.setattr("invsuite.data.photo_files.verify", spy)
    data = ImageNetFolder(root, "train", 6, Geometry(SIZE))
    assert len(data) == len(decoded) == 6
    assert len({file.path.parent.name for file in data.files}) == 2
    bad = data.files[0].path
    bad.write_bytes(b"no photo")
    again = ImageNetFolder(root, "train", 6, Geometry(SIZE))
    assert len(again) == 6, "another takes its place"
    assert list(again.unreadable) == [str(bad)]
    spec = DataSpec(ImageNetSource(str(root), "train", 6), HeldBackSource(2), ScenesSource(1, 2))
    assert len(open_splits(spec, SIZE).fit) == 4
    with pytest.raises(Unavailable, match="does not exist"):
        ImageNetFolder(tmp_path / "nowhere", "val", 2, Geometry(SIZE))


class FakeRows(list):  # type: ignore[type-arg]
    """What ``datasets.load_dataset`` gives back, as far as it is used."""

    column_names = ("image", "label")


def test_a_hub_dataset_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def load_dataset(name: str, config: str | None, split: str) -> FakeRows:
        asked.append((name, config, split))
        if name == "owner/gone":
            raise ConnectionError("no route to the hub")
        grey = Image.fromarray(gradient()[..., 0])
        return FakeRows([{"image": Image.fromarray(gradient())}, {"image": None}, {"image": grey}, {"image": 3}])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    data = HubPhotos("owner/photos:small", "test", "image", 2, Geometry(SIZE))
    assert asked == [("owner/photos", "small", "test")]
    check_images(torch.stack([data[0].image, data[1].image]))
    assert data.identity(0) != data.identity(1)
    assert data.key(1) == data[1].key == "owner/photos:small/test/2"
    assert data.conversions(1) == ("grey",)
    assert data.unreadable == {"owner/photos:small/test/1": "owner/photos:small/test/1: the row has no image"}
    with pytest.raises(UsageError, match="holds int, no images"):
        HubPhotos("owner/photos:small", "test", "image", 3, Geometry(SIZE))
    with pytest.raises(Unavailable, match="cannot be had: no route to the hub"):
        HubPhotos("owner/gone", "test", "image", 3, Geometry(SIZE))
    with pytest.raises(UsageError, match="no column 'picture': image, label"):
        HubPhotos("owner/photos", "test", "picture", 3, Geometry(SIZE))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(Unavailable, match=r"pip install 'invsuite\[datasets\]'"):
        HubPhotos("owner/photos", "test", "image", 3, Geometry(SIZE))


def coco_root(tmp_path: Path, mask_error: bool = False) -> Path:
    root = tmp_path / "coco"
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations = [], []
    for number in range(3):
        Image.fromarray(np.roll(gradient(), number, 1)).save(root / "val2017" / f"{number:012d}.jpg")
        height = 20 if mask_error else 40
        images.append({"id": number, "file_name": f"{number:012d}.jpg", "width": 48, "height": height})
        annotations.append(
            {
                "id": number + 1,
                "image_id": number,
                "category_id": 18,
                "iscrowd": 0,
                "bbox": [10, 8, 20, 10],
                "area": 200,
                "segmentation": [[10, 8, 30, 8, 30, 18, 10, 18]],
            }
        )
    annotations.append(
        {**annotations[0], "id": 99, "iscrowd": 1, "segmentation": {"counts": [0, 1920], "size": [40, 48]}}
    )
    tree = {"images": images, "annotations": annotations, "categories": [{"id": 18, "name": "dog"}]}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(tree))
    return root


def test_coco_gives_masks_without_crowds(tmp_path: Path) -> None:
    data = CocoInstances(coco_root(tmp_path), "val2017", Geometry((40, 40)))
    assert len(data) == 3
    assert data.classes == ("dog",)
    sample = data[0]
    assert len(sample.instances) == 1
    assert sample.instances[0].mask.sum() == pytest.approx(200, rel=0.1)
    assert sample.instances[0].box == pytest.approx((6, 8, 26, 18), abs=1)


def test_coco_names_missing_photos(tmp_path: Path) -> None:
    root = coco_root(tmp_path)
    (root / "val2017" / f"{1:012d}.jpg").unlink()
    data = CocoInstances(root, "val2017", Geometry(SIZE))
    assert len(data) == 2
    assert [Path(p).name for p in data.unreadable] == [f"{1:012d}.jpg"]
    assert data.missing == (f"{1:012d}.jpg",)
    spec = DataSpec(ScenesSource(1, 8), ScenesSource(2, 4), CocoSource(str(root), "val2017", 3))
    with pytest.raises(UsageError, match=r"name 1 that are missing, first 000000000001\.jpg"):
        open_splits(spec, SIZE)
    for path in (root / "val2017").iterdir():
        path.unlink()
    with pytest.raises(Unavailable, match=r"none of its 3 photos .* 3 are missing \(first: 000000000000.jpg, "):
        CocoInstances(root, "val2017", Geometry(SIZE))


@pytest.mark.parametrize("stored", [True, False])
def test_coco_masks_of_a_rotated_photo_fit(tmp_path: Path, stored: bool) -> None:
    """Whether annotations were made before or after the EXIF rotation, the mask lies on what was marked."""
    root = coco_root(tmp_path)
    file = root / "val2017" / f"{0:012d}.jpg"
    upright = np.zeros((40, 48, 3), dtype=np.uint8)
    upright[8:18, 10:30] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = upright if stored else np.rot90(upright)  # shown turned by 90 degrees clockwise
    Image.fromarray(pixels).save(file, exif=exif, quality=95)
    data = CocoInstances(root, "val2017", Geometry((40, 48)))
    sample = data[0]
    assert float(sample.image[0].numpy()[sample.instances[0].mask].mean()) > 0.9
    assert torch.equal(data.pixels(0), from_unit_range(sample.image))


def test_coco_of_photos_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotations are for 48 x 20 pixels, the photo is 48 x 40"):
        CocoInstances(coco_root(tmp_path, mask_error=True), "val2017", Geometry(SIZE))


def test_coco_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="instances_val2017"):
        CocoInstances(tmp_path, "val2017", Geometry(SIZE))


def test_a_sample_refuses_a_mask_of_another_size() -> None:
    instance = Instance(np.ones((31, 32), dtype=bool), 0, (0, 0, 1, 1))
    with pytest.raises(DataError, match=r"mask 0 of x is \(31, 32\)"):
        Sample("x", torch.zeros(3, 32, 32), (instance,))


def test_splits_that_share_an_image_are_refused(tmp_path: Path) -> None:
    data = Scenes(1, 30)
    with pytest.raises(UsageError, match="2 images are in both the fit and the score split"):
        Splits(Split(data, tuple(range(10))), Split(data, (20, 21)), Split(data, (8, 9, 22)))
    first, second = write_photos(tmp_path / "a"), tmp_path / "b"
    second.mkdir()
    (second / "copy.png").write_bytes((first / "rgb.png").read_bytes())
    spec = DataSpec(FolderSource(str(first)), HeldBackSource(2), FolderSource(str(second)))
    with pytest.raises(UsageError, match=r"copy\.png"):
        open_splits(spec, SIZE)


def test_held_back_images_are_chosen_by_content() -> None:
    data = Scenes(1, 30)
    rest, held = hold_back(Split(data, tuple(range(30))), 5)
    assert len(rest) == 25
    assert len(held) == 5
    assert not rest.identities() & held.identities()
    assert held.rows != tuple(range(25, 30))
    few, some = hold_back(Split(data, tuple(range(12))), 5)
    assert set(few.rows) | set(some.rows) == set(range(12))
    with pytest.raises(UsageError, match="cannot hold back 25 of the 25"):
        hold_back(rest, 25)


@pytest.mark.parametrize(
    ("limits", "kept"),
    [({}, torch.Tensor), ({MEMORY: 0}, SpilledTensor), ({MEMORY: 0, DISK: 0.0}, type(None))],
)
def test_splits_hold_the_same_pixels_in_memory_in_a_file_and_on_demand(
    limits: dict[str, float], kept: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, limit in limits.items():
        monkeypatch.setattr(name, limit)
    split = Split(Scenes(1, 6), (1, 3, 5))
    expected = torch.stack([Scenes(1, 6)[i].image for i in (3, 5)])
    assert torch.equal(split.images(slice(1, 3)), expected)
    assert torch.equal(split.images([2, 1]), expected.flip(0))
    assert type(split._pixels) is kept


def test_pixels_that_the_disk_does_not_take_are_decoded_at_every_use(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(MEMORY, 0)
    monkeypatch.setattr(SpilledTensor, "__init__", full)
    assert torch.equal(Split(Scenes(1, 6), (1,)).images([0])[0], Scenes(1, 6)[1].image)
    assert full.called


def test_an_unset_variable_in_a_path_is_named() -> None:
    spec = DataSpec(FolderSource("$NO_SUCH_FOLDER_HERE"), HeldBackSource(2), ScenesSource(1, 2))
    with pytest.raises(Unavailable, match="set NO_SUCH_FOLDER_HERE first"):
        open_splits(spec, SIZE)


def test_coco_source_takes_the_first_photos(tmp_path: Path) -> None:
    root = str(coco_root(tmp_path))
    spec = DataSpec(ScenesSource(1, 8), ScenesSource(2, 4), CocoSource(root, "val2017", 2))
    assert len(open_splits(spec, SIZE).score) == 2
    with pytest.raises(UsageError, match="has 3 readable images, the suite asks for 9"):
        open_splits(DataSpec(ScenesSource(1, 8), ScenesSource(2, 4), CocoSource(root, "val2017", 9)), SIZE)


def test_the_limit_of_a_fit_source_holds_where_some_are_held_back(tmp_path: Path) -> None:
    spec = DataSpec(FolderSource(str(write_photos(tmp_path)), 5), HeldBackSource(2), ScenesSource(1, 2))
    assert len(open_splits(spec, SIZE).fit) == 3


def test_edits_touch_the_object_only() -> None:
    sample = Scenes(9, 5)[3]
    found = editable(sample)
    assert found is not None
    assert found.mask.sum() == max(i.mask.sum() for i in sample.instances)
    outside = torch.from_numpy(~found.mask)
    for edited in (turn_hue(sample.image, found.mask, 1 / 3), relight(sample.image, found.mask, 0.3)):
        check_images(edited[None])
        assert torch.equal(edited[:, outside], sample.image[:, outside])
        assert float((edited - sample.image).abs().max()) > 0.1
    back = turn_hue(turn_hue(sample.image, found.mask, 0.25), found.mask, 0.75)
    torch.testing.assert_close(back, sample.image, atol=1e-5, rtol=0)
