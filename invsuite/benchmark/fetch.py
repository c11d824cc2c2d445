"""Bring what a suite needs: weights into the hub caches, COCO into its folder; sizes are said first, digests after."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from invsuite._system.environment import is_offline
from invsuite._system.needs import Log, Need
from invsuite.benchmark.suite import Suite
from invsuite.errors import Unavailable, boundary, unknown_name
from invsuite.metrics import make_metric
from invsuite.metrics.backbones import install
from invsuite.metrics.perceptual import Perceptual
from invsuite.models.load import needs as model_needs
from invsuite.registry import METRICS


def needs(suite: Suite) -> list[Need]:
    """Return what the models, witnesses, measures and data of a suite need, each thing once.

    The hub says how large its files are, unless offline.
    """
    weights = [source for model in suite.models for source in (model.source, model.witness) if source]
    sources = [source for spec in (suite.data, *suite.data.others.values()) for source in spec.sources]
    parts = [
        *(model_needs(source) for source in dict.fromkeys(weights)),
        *(make_metric(name).needs() for name in suite.metrics),
        *(source.needs() for source in dict.fromkeys(sources)),
    ]
    return list({need.what: need for part in parts for need in part}.values())


def fetch(needed: Iterable[Need], log: Log) -> list[tuple[str, str]]:
    """Bring what can be fetched and return (what, digest) of each.

    Raises:
        Unavailable: if the network or a server says no, or the process is offline.
        DataError: if a file's digest is not the published one.
    """
    digests = []
    for need in needed:
        if need.bring is None:
            continue
        if is_offline():
            raise Unavailable(f"{need.what} is not here, and --offline forbids to fetch it")
        log(f"fetching {need.what}")
        with boundary(f"{need.what} cannot be fetched", Unavailable):  # whatever a hub client, a server or a disk says
            digests.append((need.what, need.bring(log)))
    return digests


def fetch_from(measure: str, file: Path) -> tuple[list[Need], list[tuple[str, str]]]:
    """Take the backbone of a measure from a file, for a machine without a hub.

    Returns:
        What is here now, and (what, digest over its tensors).

    Args:
        measure: its name, which stands for its variants too: ``lpips`` for those of all backbones.
        file: any that `invsuite.metrics.backbones.read_backbone` reads.

    Raises:
        UsageError: for a measure that has no backbone.
        MissingPath: if the file does not exist.
        WeightsError: if it does not hold the published features.
        DiskError: if the cache cannot be written.
    """
    known = {name: metric for name, metric in METRICS.items() if issubclass(metric, Perceptual)}
    if measure not in known:
        raise unknown_name("measure with a backbone", measure, known)
    variants = [metric() for metric in known.values() if issubclass(metric, known[measure])]
    backbone = install(file, [variant.backbone for variant in variants])
    need = backbone.need()
    return [need], [(need.what, f"sha256:{backbone.sha256}")]
