"""A person's own images, whatever they come as: files, folders, PIL images, numpy arrays, tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from invsuite._system.files import expand_path
from invsuite.data.base import check_images, to_unit_range
from invsuite.data.folder import PhotoFolder
from invsuite.data.geometry import INTERPOLATIONS, FitMode, Geometry
from invsuite.data.photo import open_photo, quiet, readable_suffixes, shown, to_rgb
from invsuite.errors import DataError, MissingPath, UsageError, unknown_name
from invsuite.models.base import Model

#: What `as_images` takes: one of these, a list of them, or a dict of them by name.
Images = str | Path | Image.Image | NDArray[Any] | torch.Tensor | Sequence[Any] | Mapping[str, Any]

MODES: tuple[FitMode, ...] = ("crop", "squash")
SAMPLES = {"astronaut": "astronaut", "cat": "chelsea", "coffee": "coffee"}  # by name: scikit-image's file
ACCEPTED = "a path, a PIL image, a numpy array, a tensor, or a list or dict of these"


@dataclass(frozen=True)
class Photo:
    """One image as a person gave it.

    Attributes:
        name: of its file, or its number.
        content: its file, a PIL image, or a float32 tensor (3, h, w) in [0, 1].
    """

    name: str
    content: Path | Image.Image | torch.Tensor

    def picture(self) -> Image.Image | torch.Tensor:
        """Return it upright at its own size: 8-bit RGB, or the tensor.

        Raises:
            DataError: for a file that cannot be decoded, naming it.
        """
        if isinstance(self.content, torch.Tensor):
            return self.content
        with quiet():
            if isinstance(self.content, Image.Image):
                try:
                    return to_rgb(self.content)
                except DataError as error:
                    raise DataError(f"{self.name}: {error}") from error
            return open_photo(self.content)


def geometry_of(model: Model, mode: FitMode | str = "") -> Geometry:
    """Return how photos take the size of ``model``: by ``mode``, or as models of its task do.

    Detectors are shown the whole photo, squashed to their size; all others its centre.

    Raises:
        UsageError: for an unknown mode.
    """
    for known in MODES:
        if mode == known or (not mode and known == ("squash" if model.task == "detection" else "crop")):
            return Geometry(model.image_size, known, model.resampling)
    raise unknown_name("geometry", mode, MODES)


def as_images(images: Images, model: Model, geometry: FitMode | str = "") -> torch.Tensor:
    """Return any images as a model takes them: (B, 3, H, W), float32 in [0, 1], on the model's device.

    Floats that have the model's size already are taken as they are; everything else is a photo, and resized as the
    model's checkpoint says.

    Args:
        images: a path of a photo or of a folder of photos, a PIL image, a numpy array or tensor: (3, H, W) or
            (B, 3, H, W), floats in [0, 1] or 8 bits; channels may also come last. Or a list of these, or a dict of
            these by name.
        model: whose size they take.
        geometry: ``crop`` covers that size and cuts the rest off, ``squash`` scales each side by itself; by default
            detectors squash, and all others crop.

    Raises:
        UsageError: for a wrong type, shape, dtype or range, naming it.
        MissingPath: for a path that is not there.
        DataError: for a file that cannot be decoded.

    Examples:
        >>> import invsuite
        >>> model = invsuite.load_model("bundled:vit")
        >>> as_images(np.zeros((480, 640, 3), dtype=np.uint8), model).shape
        torch.Size([1, 3, 96, 96])
    """
    way = geometry_of(model, geometry)
    photos, _ = open_photos(images)
    return torch.stack([on_canvas(photo.picture(), way) for photo in photos]).to(model.device)


def open_photos(images: Images, what: str = "image") -> tuple[list[Photo], Mapping[str, str]]:
    """Return images one by one, with ``{path: reason}`` of the files in a folder that cannot be read.

    Raises:
        UsageError: for a wrong type, shape, dtype or range; messages name ``what`` it is.
        MissingPath: for a path that is not there.
        Unavailable: for a folder without a photo.
    """
    if isinstance(images, str | Path):
        return _from_path(images)
    if isinstance(images, Image.Image):
        return [Photo(what, images)], {}
    if isinstance(images, torch.Tensor | np.ndarray):
        contents = _from_array(images, what)
        return [Photo(_numbered(what, n, len(contents)), content) for n, content in enumerate(contents, start=1)], {}
    if not isinstance(images, list | tuple | dict):
        raise UsageError(f"{what} is of type {type(images).__name__}, expected {ACCEPTED}")
    if not images:
        raise UsageError(f"no images in an empty {type(images).__name__}: give {ACCEPTED}")
    photos: list[Photo] = []
    left_out: dict[str, str] = {}
    named = images.items() if isinstance(images, dict) else enumerate(images, start=1)
    for key, image in named:
        name = str(key) if isinstance(images, dict) else _numbered(what, key, len(images))
        if isinstance(image, list | tuple | dict):
            raise UsageError(f"{name} is a {type(image).__name__}: give one flat list, or an array")
        more, reasons = open_photos(image, name)
        photos += more
        left_out |= reasons
    return photos, left_out


def sample_photos() -> list[Photo]:
    """Return the photos that come with scikit-image: an astronaut, a cat, a cup of coffee."""
    from skimage import data

    folder = Path(str(data.__file__)).parent
    return [Photo(name, folder / f"{file}.png") for name, file in SAMPLES.items()]


def on_canvas(picture: Image.Image | torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Return a picture of any size as float32 (3, H, W) in [0, 1], of the geometry's size."""
    if isinstance(picture, Image.Image):
        return geometry.tensor(picture)
    if tuple(picture.shape[-2:]) == geometry.size:
        return picture
    return resized(picture, (geometry.size[1], geometry.size[0]), geometry, geometry.source_box(*size_of(picture)))


def resized(
    picture: torch.Tensor, size: tuple[int, int], geometry: Geometry, box: tuple[float, float, float, float]
) -> torch.Tensor:
    """Return the ``box`` of a picture (3, h, w), channel by channel in float32, at ``size`` (width, height)."""
    how = INTERPOLATIONS[geometry.resampling.interpolation]
    channels = [np.asarray(Image.fromarray(c).resize(size, how, box=box)) for c in picture.cpu().numpy()]
    return torch.from_numpy(np.stack(channels)).clamp(0, 1)  # some interpolations overshoot


def size_of(picture: Image.Image | torch.Tensor) -> tuple[int, int]:
    """Return (width, height) of a picture."""
    return picture.size if isinstance(picture, Image.Image) else (picture.shape[-1], picture.shape[-2])


def to_tensor(picture: Image.Image | torch.Tensor) -> torch.Tensor:
    """Return a picture at its own size as float32 (3, h, w) in [0, 1]."""
    if isinstance(picture, torch.Tensor):
        return picture
    return to_unit_range(torch.tensor(np.asarray(picture)).permute(2, 0, 1).contiguous())


def path_of(path: str | Path) -> Path:
    """Return a path as it is where something lies there, else with ``~`` and ``$NAME`` expanded.

    Raises:
        Unavailable: naming an environment variable that is not set.
    """
    return Path(path) if Path(path).exists() else expand_path(str(path))


def _from_path(path: str | Path) -> tuple[list[Photo], Mapping[str, str]]:
    """Return the photo of a file, or those of a folder."""
    place = path_of(path)
    if place.is_dir():
        folder = PhotoFolder(place, Geometry((1, 1)))  # they are opened later, at the size that is asked then
        return [Photo(folder.key(n), file.path) for n, file in enumerate(folder.files)], folder.unreadable
    if not place.is_file():
        raise MissingPath(f"photo '{shown(place)}' does not exist")
    readable_suffixes()  # plug-ins of Pillow are registered
    return [Photo(shown(place.name), place)], {}


def _from_array(array: torch.Tensor | NDArray[Any], what: str) -> Sequence[Image.Image | torch.Tensor]:
    """Return the images of an array: of 8 bits as PIL images, of floats as float32 (3, h, w) in [0, 1], on the CPU.

    Raises:
        UsageError: for a wrong shape, dtype or range.
    """
    floats = array.is_floating_point() if isinstance(array, torch.Tensor) else array.dtype.kind == "f"
    kind = str(array.dtype).removeprefix("torch.")
    if not floats and kind != "uint8":
        raise UsageError(f"{what}: dtype {kind}, expected floats in [0, 1] or uint8")
    tensor = array.detach().cpu() if isinstance(array, torch.Tensor) else torch.from_numpy(_plain(array))
    shape = tuple(tensor.shape)
    batch = tensor[None] if tensor.ndim == 3 else tensor
    if batch.ndim != 4 or 3 not in (batch.shape[1], batch.shape[3]):
        hints = {1: "repeat a grey image's channel 3 times", 4: "leave the alpha channel out"}
        sides = (batch.shape[1], batch.shape[3]) if batch.ndim == 4 else (1,)
        hint = next((f": {text}" for count, text in hints.items() if count in sides), "")
        raise UsageError(f"{what}: shape {shape}, expected (3, H, W) or (B, 3, H, W) RGB, or channels last{hint}")
    if 0 in shape:
        raise UsageError(f"{what}: shape {shape} has no pixels")
    last = batch.shape[3] == 3 and (batch.shape[1] != 3 or not floats)
    if not floats:
        return [Image.fromarray(pixels) for pixels in (batch if last else batch.permute(0, 2, 3, 1)).numpy()]
    batch = (batch.permute(0, 3, 1, 2) if last else batch).float().contiguous()
    try:
        return list(check_images(batch, what))
    except DataError as error:
        raise UsageError(str(error)) from error


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array in the layout and byte order that torch takes; floats of any width become float32."""
    return np.ascontiguousarray(array, dtype=np.float32 if array.dtype.kind == "f" else np.uint8)


def _numbered(what: str, number: int, count: int) -> str:
    return what if count == 1 else f"{what} {number}"
