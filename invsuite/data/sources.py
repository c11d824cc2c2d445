"""From the sources that a suite names to the three disjoint splits that a model of a given input size sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from invsuite._system.identity import NOT_IDENTITY
from invsuite._system.needs import Log
from invsuite._system.validation import build
from invsuite.data.base import Source
from invsuite.data.folder import FolderSource
from invsuite.data.geometry import BICUBIC, Resampling
from invsuite.data.photo_files import telling
from invsuite.data.split import HeldBackSource, Split, Splits, hold_back
from invsuite.errors import UsageError
from invsuite.registry import SOURCES


@dataclass(frozen=True)
class DataSpec:
    """Where fit, selection and scored images come from; ``others`` by name, for models that are not given these."""

    fit: Source
    select: Source
    score: Source
    others: Mapping[str, DataSpec] = field(default_factory=dict, metadata=NOT_IDENTITY)

    @property
    def sources(self) -> tuple[Source, Source, Source]:
        """Return the three sources."""
        return (self.fit, self.select, self.score)


def open_images(source: Source | str, size: tuple[int, int], resampling: Resampling = BICUBIC, **fields: Any) -> Split:
    """Return the images of a source, after its known pictures have been checked.

    Args:
        source: where they come from: a source, the path of a folder of photos (``$NAME`` is an environment variable),
            or with ``fields`` the name of a kind of data.
        size: (H, W) that a model takes (`Model.image_size`).
        resampling: how its checkpoint wants photos resized (`Model.resampling`).
        fields: the keys of a suite's ``[data.*]`` for that kind.

    Raises:
        DataError: if known pictures do not come out of the same code as they should.
        Unavailable: if a folder, a file or a package is not there.
        UsageError: if there are fewer images than the source's ``count``.

    Examples:
        >>> scenes = open_images("scenes", size=(96, 96), seed=1, count=8)
        >>> scenes.images([0, 1]).shape
        torch.Size([2, 3, 96, 96])
    """
    if isinstance(source, str):
        source = build(SOURCES[source], fields, source) if fields else FolderSource(source)
    source.check(size)
    dataset = source.open(size, resampling)
    count = source.count or len(dataset)
    if count > len(dataset):
        missing = dataset.missing
        hint = f"; its annotations name {len(missing)} that are missing, first {', '.join(missing[:3])}"
        raise UsageError(
            f"'{dataset.name}' has {len(dataset)} readable images, the suite asks for {count}{hint if missing else ''}"
        )
    return Split(dataset, tuple(range(count)))


def open_splits(
    spec: DataSpec, size: tuple[int, int], resampling: Resampling = BICUBIC, log: Log = lambda text: None
) -> Splits:
    """Return fit, selection and scored images for a model, as `open_images` opens each.

    Scored images that are held back of the fit images are taken first, so that they are the same whatever is held back
    for selection.

    Args:
        spec: where they come from.
        size: (H, W) that the model takes.
        resampling: how its checkpoint wants photos resized.
        log: told how far it is where many photos are looked at.

    Raises:
        UsageError: if two splits share an image.
    """
    with telling(log):
        fit = open_images(spec.fit, size, resampling)
        others: dict[str, Split] = {}
        for part, source in (("score", spec.score), ("select", spec.select)):
            if isinstance(source, HeldBackSource):
                fit, others[part] = hold_back(fit, source.count)
            else:
                others[part] = open_images(source, size, resampling)
    return Splits(fit, **others)
