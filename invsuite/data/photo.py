"""From a photo's file of any kind to upright 8-bit sRGB: turned, flattened and scaled as the file itself says."""

from __future__ import annotations

import contextlib
import io
import os
import re
import warnings
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from invsuite.data.shards import bytes_of
from invsuite.errors import DataError, reason_of

Colour = Literal["sRGB", "stored"]

#: suffixes of photos; which of them are read depends on Pillow and its plug-ins (`readable_suffixes`)
SUFFIXES = frozenset(
    f".{name}"
    for name in (
        "jpg", "jpeg", "jpe", "jfif", "mpo", "png", "webp", "bmp", "tif", "tiff", "gif",
        "jp2", "j2k", "jpx", "avif", "heic", "heif", "hif",
    )
)  # fmt: skip
HEIF = frozenset({".heic", ".heif", ".hif"})  # read where pillow-heif is installed
ORIENTATION = 0x0112  # EXIF tag; 1 is upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BITS, SAMPLE_FORMAT, PHOTOMETRIC = 258, 339, 262  # TIFF tags
#: an ICC profile that moves no colour by more than this, of 255, is sRGB: those of cameras differ by up to 3
SAME_COLOUR = 4
#: the mode of Pillow's that pixels of an ICC profile's colour space are in
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}
BYTES = re.compile(r" <_io\.BytesIO.*?>")  # what Pillow calls a photo without a file
TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")


@cache
def readable_suffixes() -> frozenset[str]:
    """Return the `SUFFIXES` that this Pillow reads, with the plug-ins that are installed."""
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    suffixes = Image.registered_extensions()
    readers = {*Image.OPEN, "MPO"}  # JPEG's reader opens MPO
    return SUFFIXES & {suffix for suffix, kind in suffixes.items() if kind in readers}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what Pillow warns of (damaged EXIF, many pixels) off the screen: what cannot be read is named by us."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def orientation(photo: Image.Image) -> int | None:
    """Return the EXIF orientation of a photo, 1 to 8; None where its EXIF cannot be read at all.

    Only this tag is read, and nothing is written back: what else of the EXIF is malformed does not matter.
    """
    try:
        value = photo.getexif().get(ORIENTATION, 1)
    except Exception:  # a parser raises what it will over damaged bytes
        return None
    return int(value) if value in TURNS else 1


def kinds_of(photo: Image.Image, colour: Colour = "sRGB") -> tuple[str, ...]:
    """Return what `to_rgb` has to change of a photo or to pass over, for the count in the record.

    The kinds are ``rotated``, ``EXIF unreadable``, ``grey``, ``CMYK``, ``alpha``, ``palette``, ``deep`` (more than 8
    bits), ``animated`` (the first picture is taken), and ``profile``, ``profile kept`` or ``profile unreadable`` for an
    ICC profile that is not sRGB: it was converted, left as the source asks, or means nothing for these pixels.
    """
    mode, turn = photo.mode, orientation(photo)
    profile = _profile(photo)
    kinds = {
        "rotated": turn not in (1, None),
        "EXIF unreadable": turn is None,
        "grey": mode in ("1", "L", "LA"),
        "CMYK": mode == "CMYK",
        "alpha": mode in TRANSPARENT or "transparency" in photo.info,
        "palette": mode in ("P", "PA"),
        "deep": _is_deep(photo),
        "animated": _is_animated(photo),
        "profile": colour == "sRGB" and isinstance(profile, tuple),
        "profile kept": colour == "stored" and isinstance(profile, tuple),
        "profile unreadable": profile == "unreadable",
    }
    return tuple(name for name, there in kinds.items() if there)


def to_rgb(photo: Image.Image, upright: bool = True, colour: Colour = "sRGB") -> Image.Image:
    """Return any photo as 8-bit RGB: EXIF rotation applied (``upright``), alpha over white, deep pixels scaled.

    Deep pixels are scaled by what the type of the file has for white (65535 of 16 bits, 1 of floats), never by the
    brightest of them.

    Args:
        photo: as Pillow opened it.
        upright: whether the EXIF rotation is applied.
        colour: ``sRGB`` converts colours of another ICC profile, ``stored`` takes the numbers as they are, as timm and
            torchvision do.

    Raises:
        DataError: if the file is truncated or cannot be decoded, or nothing says what its pixels mean.
    """
    try:
        return _to_rgb(photo, upright, colour)
    except DataError:
        raise
    except Exception as error:  # a decoder raises what it will over damaged bytes
        raise DataError(f"cannot be decoded ({reason_of(error)})") from error


def shown(path: Path | str) -> str:
    """Return a path as text that every terminal and file takes, also where its bytes are no UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def open_photo(path: Path, upright: bool = True, colour: Colour = "sRGB", content: bytes | None = None) -> Image.Image:
    """Return the photo of a file as RGB, upright, or as its pixels are stored.

    Args:
        path: of the file.
        upright: as `to_rgb` takes it.
        colour: as `to_rgb` takes it.
        content: the bytes of the file, where they have been read.

    Raises:
        DataError: naming the file and the reason.
    """
    try:
        with Image.open(io.BytesIO(bytes_of(path) if content is None else content)) as photo:
            return to_rgb(photo, upright, colour)
    except Exception as error:
        named = BYTES.sub("", reason_of(error))
        raise DataError(named if str(path) in named else f"{shown(path)}: {named}") from error


def _to_rgb(photo: Image.Image, upright: bool, colour: Colour) -> Image.Image:
    photo.load()
    profile, white = _profile(photo) if colour == "sRGB" else None, _white(photo)
    turn = TURNS.get(orientation(photo) or 1) if upright else None
    if white is not None:
        photo = _to_8_bits(photo, white)
    if turn is not None:
        photo = photo.transpose(turn)
    if photo.mode not in TRANSPARENT and "transparency" not in photo.info:
        return _to_srgb(photo, profile)
    rgba = photo.convert("RGBA")
    painted = Image.merge("RGBA", (*_to_srgb(rgba.convert("RGB"), profile).split(), rgba.getchannel("A")))
    background = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(background, painted).convert("RGB")


def _is_animated(photo: Image.Image) -> bool:
    """Tell whether a photo has further frames; an MPO file has them for other purposes."""
    try:
        return photo.format != "MPO" and bool(getattr(photo, "is_animated", False))
    except Exception:  # what follows the first frame is damaged, and is not read
        return True


def _is_deep(photo: Image.Image) -> bool:
    """Tell whether a photo's pixels are wider than 8 bits as Pillow holds them."""
    return photo.mode.startswith("I") or photo.mode == "F"


def _white(photo: Image.Image) -> float | None:
    """Return the value that the type of a photo's file has for white, negative where 0 is white; None for 8 bits.

    Raises:
        DataError: for signed and 32-bit integers, for which no two programs agree on one.
    """
    if not _is_deep(photo):
        return None
    if photo.mode == "F":
        return 1.0
    tags: Any = getattr(photo, "tag_v2", {})
    bits, sample_format = tags.get(BITS, (16,))[0], tags.get(SAMPLE_FORMAT, (1,))[0]
    if sample_format != 1 or bits > 16:
        raise DataError(
            f"{'signed ' if sample_format == 2 else ''}{bits}-bit integers do not say which value is white: "
            "save it with 8 or 16 unsigned bits"
        )
    white = float(2**bits - 1)
    return -white if tags.get(PHOTOMETRIC) == 0 else white


def _to_8_bits(photo: Image.Image, white: float) -> Image.Image:
    """Return deep pixels, of which ``white`` is the brightest that can be, as 8 bits of grey.

    Raises:
        DataError: for NaN and for values outside of what the type says.
    """
    values: NDArray[np.float64] = np.asarray(photo, dtype=np.float64)
    top, low, high = abs(white), float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if not (low >= 0 and high <= top):  # NaN is in no range
        raise DataError(
            f"pixels of type {'float' if photo.mode == 'F' else 'integer'} lie in [{low:.6g}, {high:.6g}], expected "
            f"[0, {top:.6g}]: scale them, or save with 8 or 16 bits"
        )
    levels = (values / top * 255).round().astype(np.uint8)
    return Image.fromarray(255 - levels if white < 0 else levels)


def _profile(photo: Image.Image) -> tuple[str, ImageCms.ImageCmsTransform] | Literal["unreadable"] | None:
    """Return the mode and the transform that bring a photo's colours to sRGB; None where they are sRGB already.

    A profile that is damaged, or of another colour space than the pixels, is ``unreadable``.
    """
    content = photo.info.get("icc_profile")
    if not content:
        return None
    try:
        profile = _transform(bytes(content))
    except Exception:  # Pillow without LittleCMS raises ImportError, LittleCMS over damaged bytes what it will
        return "unreadable"
    grey = photo.mode in ("1", "L", "LA", "La") or _is_deep(photo)
    if profile is None or profile[0] == "RGB" or (profile[0] == "L" and grey) or profile[0] == photo.mode:
        return profile
    return "unreadable"


@lru_cache(maxsize=64)
def _transform(content: bytes) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """Return the mode of an ICC profile's pixels and the transform to sRGB; None for a profile that is sRGB.

    What it does to colours tells, for names and versions of profiles do not.
    """
    profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
    mode = MODES[profile.profile.xcolor_space.strip()]
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    srgb = ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(
        profile, srgb, mode, "RGB", renderingIntent=intent, flags=ImageCms.Flags.BLACKPOINTCOMPENSATION
    )
    if mode in ("RGB", "L"):
        levels = np.linspace(0, 255, 6 if mode == "RGB" else 256).round().astype(np.uint8)
        grid = np.stack(np.meshgrid(*[levels] * len(mode), indexing="ij"), -1)
        probe = Image.fromarray(grid.reshape(len(levels), -1, 3) if mode == "RGB" else grid)
        shown = np.asarray(ImageCms.applyTransform(probe, transform), dtype=int)
        if np.abs(shown - np.asarray(probe.convert("RGB"), dtype=int)).max() <= SAME_COLOUR:
            return None
    return mode, transform


def _to_srgb(photo: Image.Image, profile: tuple[str, ImageCms.ImageCmsTransform] | str | None) -> Image.Image:
    """Return a photo without alpha as RGB, its colours converted by a profile of `_profile`."""
    if not isinstance(profile, tuple):
        return photo.convert("RGB")
    mode, transform = profile
    converted = ImageCms.applyTransform(photo.convert(mode), transform)
    assert converted is not None  # it is None for a change in place alone
    return converted
