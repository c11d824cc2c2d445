"""Photos as people have them: every kind is read as its file says, left out by name, or counted by suffix."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import P3, profile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from invsuite.data.base import check_images
from invsuite.data.folder import FolderSource, PhotoFolder, photos_below
from invsuite.data.geometry import Geometry
from invsuite.data.photo import open_photo, to_rgb
from invsuite.data.photo_files import telling, verify
from invsuite.data.scenes import ScenesSource
from invsuite.data.sources import DataSpec, open_splits
from invsuite.data.split import HeldBackSource, Split, hold_back
from invsuite.errors import DataError, Unavailable, UsageError

SIZE = (32, 32)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
    return path


def noise(seed: int = 0, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def grey_mean(path: Path) -> float:
    return float(np.asarray(open_photo(path)).mean())


RAMP = np.tile(np.linspace(0, 1, 65), (4, 1))


@pytest.mark.parametrize(
    ("name", "pixels", "options", "mean"),
    [
        ("unit.tif", RAMP.astype(np.float32), {}, 127.5),
        ("dark_float.tif", (RAMP / 100).astype(np.float32), {}, 1.27),
        ("dark.png", (RAMP * 255).astype(np.uint16), {}, 0.5),
        ("dark.tif", (RAMP * 255).astype(np.uint16), {}, 0.5),
        ("full.png", (RAMP * 65535).astype(np.uint16), {}, 127.5),
        ("full.jp2", (RAMP * 65535).astype(np.uint16), {}, 127.5),
        ("zero_is_white.tif", (RAMP * 655).astype(np.uint16), {"tiffinfo": {262: 0}}, 253.7),
    ],
)
def test_the_type_of_a_file_says_what_is_white(
    tmp_path: Path, name: str, pixels: np.ndarray, options: dict[str, object], mean: float
) -> None:
    assert grey_mean(save(tmp_path / name, pixels, **options)) == pytest.approx(mean, abs=0.5)


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        ((RAMP * 255).astype(np.float32), r"float lie in \[0, 255\], expected \[0, 1\]"),
        (np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32), "expected"),
        ((RAMP - 0.5).astype(np.float32), r"\[-0\.5, 0\.5\]"),
        ((RAMP * 1e6).astype(np.int32), "32-bit integers do not say which value is white"),
    ],
)
def test_pixels_without_a_known_white_are_refused_by_name(tmp_path: Path, pixels: np.ndarray, said: str) -> None:
    save(tmp_path / "rgb.png", noise())
    save(tmp_path / "odd.tif", pixels)
    data = PhotoFolder(tmp_path, Geometry(SIZE))
    assert len(data) == 1
    with pytest.raises(DataError, match=said):
        raise DataError(data.unreadable[str(tmp_path / "odd.tif")])


ADOBE = profile(((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("wide", [P3, ADOBE])
def test_colours_of_other_profiles_become_those_that_people_see(tmp_path: Path, wide: bytes) -> None:
    """A red that is stored in the numbers of another profile is the same red; alpha and palettes follow."""
    shown = Image.new("RGB", (40, 30), (200, 60, 40))
    profiles = ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(wide))
    stored = ImageCms.applyTransform(shown, ImageCms.buildTransform(*profiles, "RGB", "RGB"))
    assert stored is not None
    stored.save(tmp_path / "rgb.png", icc_profile=wide)
    stored.convert("RGBA").save(tmp_path / "alpha.png", icc_profile=wide)
    stored.quantize(2).save(tmp_path / "palette.png", icc_profile=wide)
    for name in ("rgb.png", "alpha.png", "palette.png"):
        [file], _ = verify([tmp_path / name])
        assert "profile" in file.kinds
        assert np.abs(np.asarray(open_photo(file.path), dtype=int)[5, 5] - (200, 60, 40)).max() <= 2
    [kept], _ = verify([tmp_path / "rgb.png"], colour="stored")
    assert kept.kinds == ("profile kept",)
    assert open_photo(kept.path, colour="stored").getpixel((5, 5)) == stored.getpixel((5, 5))
    data = [PhotoFolder(tmp_path, Geometry(SIZE), 0, colour) for colour in ("sRGB", "stored")]
    assert data[0].digest() != data[1].digest(), "other pixels are another data set"


def test_an_srgb_profile_changes_nothing_and_a_damaged_one_is_counted(tmp_path: Path) -> None:
    save(tmp_path / "srgb.png", noise(), icc_profile=SRGB)
    save(tmp_path / "damaged.png", noise(), icc_profile=b"no profile at all")
    save(tmp_path / "mismatch.jpg", noise()[..., 0], icc_profile=SRGB)
    files, _ = verify(sorted(tmp_path.iterdir()))
    assert [file.kinds for file in files] == [("profile unreadable",), ("grey",), ()]
    for name in ("srgb.png", "damaged.png"):
        assert np.array_equal(np.asarray(open_photo(tmp_path / name)), noise())
    assert "profile unreadable" not in files[2].content


def malformed_exif(turn: int) -> bytes:
    """EXIF of an orientation and a resolution that is said to be text: Pillow reads it and cannot write it back."""
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = turn, 72.0
    raw = bytearray(exif.tobytes())
    at = raw.find(struct.pack(">H", 0x011A), 8)
    raw[at + 2 : at + 4] = struct.pack(">H", 2)
    return bytes(raw)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_all_orientations_give_equal_pixels_whatever_else_the_exif_holds(tmp_path: Path, suffix: str) -> None:
    upright = np.zeros((40, 56, 3), dtype=np.uint8)
    upright[4:16, 8:24] = 255
    undo = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
    for turn, back in undo.items():
        exif = Image.Exif()
        exif[0x0112] = back
        photo = Image.fromarray(upright)
        photo.info["exif"] = exif.tobytes()
        stored = ImageOps.exif_transpose(photo)
        content = malformed_exif(turn) if suffix == "jpg" else Image.Exif()
        if isinstance(content, Image.Exif):
            content[0x0112] = turn
        stored.info.clear()
        stored.save(tmp_path / f"{turn}.{suffix}", exif=content, quality=95)
        pixels = np.asarray(open_photo(tmp_path / f"{turn}.{suffix}"), dtype=int)
        assert pixels.shape == upright.shape
        assert np.abs(pixels - upright).mean() < 3


def test_exif_of_nonsense_and_a_rational_over_zero_do_not_end_a_run(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    raw = bytearray(exif.tobytes())
    raw[-4:] = bytes(4)  # 72 / 0
    save(tmp_path / "zero.jpg", noise(), exif=bytes(raw))
    save(tmp_path / "nonsense.jpg", noise(), exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    data = PhotoFolder(tmp_path, Geometry(SIZE))
    assert len(data) == 2
    assert open_photo(tmp_path / "zero.jpg").size == (24, 32)


def test_what_pillow_reads_is_read_and_the_rest_is_counted_by_suffix(tmp_path: Path) -> None:
    for seed, name in enumerate(("a.JPG", "b.jfif", "c.gif", "d.jp2", "e.JPEG", "f.mpo")):
        save(tmp_path / name, noise(seed), format="JPEG" if name[2] in "Jjm" and name != "d.jp2" else None)
    for name in ("raw.CR2", "notes.txt", "more.txt", "noname", ".hidden.txt"):
        (tmp_path / name).write_bytes(b"?")
    data = PhotoFolder(tmp_path, Geometry(SIZE))
    assert len(data) == 6
    assert data.passed_over == {".cr2": 1, ".txt": 2, "no suffix": 1}
    spec = DataSpec(FolderSource(str(tmp_path)), HeldBackSource(2), ScenesSource(1, 2))
    [said] = list(open_splits(spec, SIZE).remarks())
    assert "6 photos; 4 files are no photos the suite reads: .cr2 1, .txt 2, no suffix 1" in said


def test_heic_is_read_where_its_reader_is_or_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("invsuite.data.folder.readable_suffixes", lambda: {".png"})
    save(tmp_path / "a.png", noise())
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    assert PhotoFolder(tmp_path, Geometry(SIZE)).passed_over == {".heic": 1}
    (tmp_path / "a.png").unlink()
    with pytest.raises(Unavailable, match=r"no photos in it; 1 file is no photo .*: \.heic 1 \(pip install 'inv"):
        PhotoFolder(tmp_path, Geometry(SIZE))


def test_linked_folders_are_followed_once_and_a_loop_ends(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "b.png", noise(1))
    root = tmp_path / "mine"
    save(root / "a.png", noise())
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root)
    (root / "gone.png").symlink_to(tmp_path / "nothing.png")
    listing = photos_below(root)
    assert [path.relative_to(root).as_posix() for path in listing.photos] == ["a.png", "again/b.png"]
    assert [Path(path).name for path in listing.unreadable] == ["gone.png"]


def test_two_photos_of_one_name_differ_by_their_path(tmp_path: Path) -> None:
    for seed, folder in enumerate(("cats", "dogs")):
        save(tmp_path / folder / "01.png", noise(seed))
    data = PhotoFolder(tmp_path, Geometry(SIZE))
    assert [data.key(0), data[1].key] == ["cats/01.png", "dogs/01.png"]


def test_a_count_opens_no_more_photos_and_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(12):
        save(tmp_path / f"{seed:02d}.png", noise(seed))
    (tmp_path / "01.png").write_bytes(b"no photo")
    opened: list[Path] = []

    def spy(path: Path, *words: object, **named: object) -> Image.Image:
        opened.append(path)
        return open_photo(path)

    monkeypatch.setattr("invsuite.data.photo_files.open_photo", spy)
    lines: list[str] = []
    monkeypatch.setattr("invsuite.data.photo_files.SECONDS_OF_SILENCE", 0.0)
    with telling(lines.append):
        data = FolderSource(str(tmp_path), count=4).open(SIZE, Geometry(SIZE).resampling)
    assert len(data) == 4
    assert len(opened) == 5
    assert "looked at 2 of 4 photos" in lines
    FolderSource(str(tmp_path), count=4).open((16, 16), Geometry(SIZE).resampling)
    assert len(opened) == 5, "a second model looks at no file again"


def test_copies_stay_together_and_are_counted(tmp_path: Path) -> None:
    for seed in range(8):
        for name in (f"{seed}.png", f"{seed} (1).png"):
            save(tmp_path / name, noise(seed))
    save(tmp_path / "single.png", noise(9))
    data = PhotoFolder(tmp_path, Geometry(SIZE))
    whole = Split(data, tuple(range(len(data))))
    for count in range(1, 14):
        rest, held = hold_back(whole, count)
        assert not rest.identities() & held.identities()
        assert len(held) in (count, count + 1)
        assert len(rest) + len(held) == 17
    splits = open_splits(DataSpec(FolderSource(str(tmp_path)), HeldBackSource(4), ScenesSource(1, 2)), SIZE)
    assert len(splits.copies) == 8
    assert any("8 photos are copies of others (" in line for line in splits.remarks())


def test_one_folder_is_enough(tmp_path: Path) -> None:
    for seed in range(12):
        save(tmp_path / f"{seed:02d}.png", noise(seed))
    folder = FolderSource(str(tmp_path))
    splits = open_splits(DataSpec(folder, HeldBackSource(3), HeldBackSource(4)), SIZE)
    assert [len(split) for split in splits.parts.values()] == [5, 3, 4]
    other = open_splits(DataSpec(folder, HeldBackSource(1), HeldBackSource(4)), SIZE)
    assert other.score.rows == splits.score.rows, "what is scored does not depend on what is selected by"
    with pytest.raises(UsageError, match="cannot hold back 8 of the 8 images"):
        open_splits(DataSpec(folder, HeldBackSource(8), HeldBackSource(4)), SIZE)


def test_a_listing_names_every_photo_and_its_content(tmp_path: Path) -> None:
    for seed in range(3):
        save(tmp_path / "sub" / f"{seed}.png", noise(seed))
    split = Split(PhotoFolder(tmp_path, Geometry(SIZE, "squash")), (0, 2))
    assert [name for name, _ in split.listing()] == ["sub/0.png", "sub/2.png"]
    assert all(len(digest) == 64 for _, digest in split.listing())
    facts = split.facts()
    assert (facts["count"], facts["geometry"]["mode"]) == (2, "squash")


def encoded(kind: str, exif: bytes | None = None) -> bytes:
    content = io.BytesIO()
    Image.fromarray(noise()).save(content, kind, **({} if exif is None else {"exif": exif}))
    return content.getvalue()


WHOLE: dict[str, Callable[[], bytes]] = {
    "jpg": lambda: encoded("JPEG", malformed_exif(6)),
    "png": lambda: encoded("PNG"),
    "gif": lambda: encoded("GIF"),
    "tif": lambda: encoded("TIFF"),
    "webp": lambda: encoded("WEBP"),
    "bmp": lambda: encoded("BMP"),
    "jp2": lambda: encoded("JPEG2000"),
}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from(sorted(WHOLE)),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=12),
    kept=st.integers(0, 4000),
)
def test_damaged_bytes_are_read_or_named_and_nothing_else(
    tmp_path: Path, suffix: str, changes: list[tuple[int, int]], kept: int
) -> None:
    content = bytearray(WHOLE[suffix]())
    for place, value in changes:
        content[place % len(content)] = value
    path = tmp_path / f"{hash((suffix, bytes(content), kept))}.{suffix}"
    path.write_bytes(content[: kept or None])
    files, reasons = verify([path])
    assert len(files) + len(reasons) == 1
    assert all(str(path) in reason and "\n" not in reason for reason in reasons.values())
    path.unlink()


def test_a_photo_in_memory_is_read_alike() -> None:
    """What a hub hands out has no file: its mode alone says what is white."""
    deep = Image.fromarray((RAMP * 65535).astype(np.uint16))
    assert float(np.asarray(to_rgb(deep)).mean()) == pytest.approx(127.5, abs=0.5)
    check_images(Geometry(SIZE).tensor(to_rgb(Image.fromarray(RAMP.astype(np.float32))))[None])
