"""Bring what a suite needs: weights into the hub caches, COCO into its folder; sizes are said first, digests after."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from invsuite._system.needs import Log, Need
from invsuite._system.offline import is_offline
from invsuite.benchmark.suite import Suite
from invsuite.data.sources import CocoSource, FolderSource, HubSource, ImageNetSource, Source, expand_path
from invsuite.errors import DataError, InvsuiteError, Unavailable
from invsuite.metrics import make_metric
from invsuite.models.load import needs as model_needs

COCO = "http://images.cocodataset.org/"


@dataclass(frozen=True)
class Archive:
    """A file of the COCO site: bytes and SHA-1 as GluonCV publishes them."""

    path: str
    size: int
    sha1: str


ARCHIVES = {
    "train2017": Archive("zips/train2017.zip", 19_336_861_798, "10ad623668ab00c62c096f0ed636d6aff41faca5"),
    "val2017": Archive("zips/val2017.zip", 815_585_330, "4950dc9d00dbe1c933ee0170f5797584351d2a41"),
    "annotations": Archive(
        "annotations/annotations_trainval2017.zip", 252_907_541, "8551ee4bb5860311e79dace7e79cb91e432e78b3"
    ),
}


def needs(suite: Suite) -> list[Need]:
    """Weights, backbones of measures, and data of a suite. Sizes of hub files come from the hub, unless offline."""
    found = [need for model in suite.models for need in model_needs(model.source)]
    found += [need for name in suite.metrics for need in make_metric(name).needs()]
    specs = [suite.data, *suite.data.others.values()]
    for source in dict.fromkeys(s for spec in specs for s in (spec.fit, spec.select, spec.score)):
        found += _data(source)
    return [item for item in {item.what: item for item in found}.values()]


def fetch(items: Iterable[Need], log: Log) -> list[tuple[str, str]]:
    """Bring what is to fetch; returns (what, digest).

    Raises:
        Unavailable: if the network or a server says no, or the process is offline.
        DataError: if a file's digest is not the published one.
    """
    brought = []
    for item in items:
        if item.bring is None:
            continue
        if is_offline():
            raise Unavailable(f"{item.what} is not here, and --offline forbids to fetch it")
        log(f"fetching {item.what}")
        try:
            brought.append((item.what, item.bring(log)))
        except InvsuiteError:
            raise
        except Exception as error:  # whatever a hub client, a server or a disk says
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise Unavailable(f"{item.what} cannot be fetched: {reason}") from error
    return brought


def _data(source: Source) -> list[Need]:
    if isinstance(source, HubSource):
        return [Need(f"dataset {source.name}", None, None, "datasets fetches it into its cache on first use")]
    if not isinstance(source, CocoSource | FolderSource | ImageNetSource):
        return []
    try:
        root = expand_path(source.path)
    except Unavailable as error:
        return [Need(f"photos {source.path}", None, None, str(error))]
    if not isinstance(source, CocoSource):
        note = str(root) if root.is_dir() else "bring your own photos"
        if isinstance(source, ImageNetSource) and not root.is_dir():
            note = "needs an account: https://www.image-net.org/download.php"
        return [Need(f"photos {root}", 0 if root.is_dir() else None, None, note)]
    found = []
    parts = {source.split: root / source.split, "annotations": root / "annotations" / f"instances_{source.split}.json"}
    for name, path in parts.items():
        what = f"COCO {name} in {root}"
        if path.exists():
            found.append(Need(what, 0, None, str(path)))
        elif name in ARCHIVES:
            found.append(Need(what, ARCHIVES[name].size, _archive(ARCHIVES[name], root), COCO + ARCHIVES[name].path))
        else:
            found.append(Need(what, None, None, "https://cocodataset.org/#download"))
    return found


def _archive(archive: Archive, root: Path) -> Callable[[Log], str]:
    def bring(log: Log) -> str:
        root.mkdir(parents=True, exist_ok=True)
        path = root / archive.path.rsplit("/", 1)[1]
        torch.hub.download_url_to_file(COCO + archive.path, str(path), progress=False)
        found = _digest(path, hashlib.sha1())
        if found != archive.sha1:
            raise DataError(f"{path}: SHA-1 {found} is not the published {archive.sha1}; delete it and fetch again")
        log(f"unpacking {path.name}")
        with zipfile.ZipFile(path) as packed:
            packed.extractall(root)
        path.unlink()
        return f"sha1:{found}"

    return bring


def _digest(path: Path, digest: hashlib._Hash) -> str:
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
