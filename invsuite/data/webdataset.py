"""Photos of a WebDataset: shards that are read where they lie."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from invsuite._system.files import expand
from invsuite._system.identity import NOT_IDENTITY
from invsuite._system.needs import Need, path_need
from invsuite._system.validation import Natural
from invsuite.data.folder import PathSource, PhotoFolder
from invsuite.data.geometry import FitMode, Geometry, Resampling
from invsuite.data.photo import Colour, readable_suffixes
from invsuite.data.photo_files import take
from invsuite.data.shards import photos_in, shard_need, shards_of
from invsuite.errors import DataError, MissingPath, Unavailable
from invsuite.registry import register


class ShardedPhotos(PhotoFolder):
    """The first ``count`` readable photos of some shards, in their order; 0 takes all.

    A shard behind the photos of use is not opened.

    Args:
        shards: the tar files.
        pattern: that named them, for messages.
        geometry: how photos take the size of the model's input.
        count: of photos.
        colour: what becomes of ICC profiles (`invsuite.data.photo.open_photo`).

    Raises:
        Unavailable: if there is no shard or one cannot be fetched, or none of their photos can be read.
    """

    def __init__(
        self, shards: Sequence[Path], pattern: str, geometry: Geometry, count: int = 0, colour: Colour = "sRGB"
    ) -> None:
        if not shards:
            raise MissingPath(f"'{pattern}' names no shard: give a .tar file, a folder of them, or a pattern")
        root = Path(os.path.commonpath([shard.parent for shard in shards]))
        self.name, self.root, self.geometry, self.colour = root.name or "shards", root, geometry, colour
        self.files, unreadable, photos = [], dict[str, str](), 0
        for shard in shards:
            if count and len(self.files) == count:
                break
            try:
                listed = photos_in(shard, readable_suffixes())
            except DataError as error:
                unreadable[str(shard)] = str(error)
                continue
            photos += len(listed)
            files, reasons = take(listed, count and count - len(self.files), colour)
            self.files += files.values()
            unreadable |= reasons
        self.unreadable = unreadable
        if not self.files:
            first = f" (first: {next(iter(unreadable.values()))})" if unreadable else ""
            raise Unavailable(f"shards '{pattern}': none of their {photos} photos can be read{first}")


@register.dataset("webdataset")
@dataclass(frozen=True)
class WebDatasetSource(PathSource):
    """Shards of a WebDataset; ``path`` is one, a folder of them, or a pattern; ``count`` limits the photos (0: all).

    A pattern of addresses (``https://HOST/train-{000..127}.tar``) has its shards fetched, as far as ``count`` goes.
    """

    path: str = field(metadata=NOT_IDENTITY)
    count: Natural = 0
    geometry: FitMode = "crop"
    colour: Colour = "sRGB"

    by_hand = "bring your own shards"

    def open(self, size: tuple[int, int], resampling: Resampling) -> ShardedPhotos:
        """Return the photos, in the order of the shards."""
        geometry = Geometry(size, self.geometry, resampling)
        return ShardedPhotos(shards_of(expand(self.path)), self.path, geometry, self.count, self.colour)

    def needs_of(self, path: str) -> tuple[Need, ...]:
        """Return the first shard, or what the pattern should name."""
        shards = shards_of(path)
        first = shards[0] if shards else Path(path)
        return (shard_need(first) or path_need("shards", first, self.by_hand),)
